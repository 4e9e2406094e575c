"""`planner`: set the number of prefill and decode workers, every interval.

Every target has its own clock, thread, state and reasons. SIGTERM and SIGINT let running ticks end, which saves their states, and exit 0.
"""

from __future__ import annotations

from typing import Any

import click

from sla_planner.config import load, options_of
from sla_planner.planner_config import PlannerConfig


@click.command()
@options_of(PlannerConfig)
def command(**flags: Any) -> None:
    """Keep the promise with the fewest GPU-hours: observe, forecast, size, scale, explain; every interval, or once.

    On the command line the flags describe one target; a file given with --config may list many.
    """
    loaded = load(PlannerConfig, flags)
    from sla_planner.stages.planner_loop import run

    run(loaded)
