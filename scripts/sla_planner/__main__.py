"""`python -m sla_planner` is the console script `sla-planner`."""

from sla_planner.cli import main

if __name__ == "__main__":
    main()
