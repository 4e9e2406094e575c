"""What can be wrong with an installation, as pure functions: facts in, findings out. `stages/preflight_gather.py` reads the facts."""
