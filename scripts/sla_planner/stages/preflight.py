"""`preflight`: what is wrong with an installation, why it matters, and the command that puts it right. It reads, and changes nothing."""

from __future__ import annotations

from typing import Any

import click

from sla_planner.config import load, options_of
from sla_planner.preflight_config import PreflightConfig


@click.command("preflight")
@options_of(PreflightConfig)
def command(**flags: Any) -> None:
    """Look at an installation before, or after, it goes wrong: the cluster, the namespace, rights, metrics, what is scaled, the planner.

    What is scaled and where its metrics are is read from the planner that is installed in the namespace; without one, name it. What may not be
    looked at is said, with the right that is missing. Nothing is changed.

    Exit codes: 0 no problem (warnings are allowed), 2 a person must change something, 4 no more than a server that did not answer.
    """
    loaded = load(PreflightConfig, flags)
    from sla_planner.stages.preflight_run import run

    run(loaded)
