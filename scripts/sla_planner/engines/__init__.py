"""What we know of each engine: the metric names it exports, and the simulated engine that needs no GPU."""
