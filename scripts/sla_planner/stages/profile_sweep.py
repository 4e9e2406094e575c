"""`profile-sweep`: measure an engine at every mapping, pick the best that keeps the promise, and leave the profile that the planner lives on."""

from __future__ import annotations

from typing import Any

import click

from sla_planner.config import load, options_of
from sla_planner.sweep_config import SweepConfig


@click.command("profile-sweep")
@options_of(SweepConfig)
def command(**flags: Any) -> None:
    """Find the parallel mapping that keeps TTFT and ITL at the most throughput per GPU, for prefill and for decode, and leave its profile.

    Every mapping is deployed once. Killed or interrupted, the same command goes on where it was. Exit code 3: nothing keeps the promise, and the
    nearest is printed; 75: interrupted, progress saved.
    """
    loaded = load(SweepConfig, flags)
    from sla_planner.stages.profile_sweep_run import run

    run(loaded)
