"""SLA Planner: keeps a promised TTFT and ITL with the fewest GPU-hours."""

__version__ = "0.1.0"
