"""`simulate`: what a scaling policy would have made of recorded traffic: the promise kept, the GPU-hours, and why."""

from __future__ import annotations

from typing import Any

import click

from sla_planner.config import load, options_of
from sla_planner.simulate_config import SimulateConfig


@click.command("simulate")
@options_of(SimulateConfig)
def command(**flags: Any) -> None:
    """Run the production planner, and other ways to scale, on recorded traffic in a simulated cluster, and compare what they keep and what they cost.

    The traffic is a file, or what a Prometheus remembers of your own frontends. Nothing is deployed, and no GPU is needed. Same command, same
    numbers: everything that is drawn is drawn by --seed.

    Exit code 0 also where a policy misses the goal: this stage compares.
    """
    loaded = load(SimulateConfig, flags)
    from sla_planner.stages.simulate_run import run

    run(loaded)
