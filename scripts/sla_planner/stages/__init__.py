"""Front doors: one module per stage, one click command each. They wire rooms together and decide nothing."""
