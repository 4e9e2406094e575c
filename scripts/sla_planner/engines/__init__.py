"""What we know of each engine (one module per engine in `backends`), engines as processes and endpoints, and the one that is simulated."""
