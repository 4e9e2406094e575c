"""`reconcile-requests`: bring every deployment request one step further, from what it asks for to a model that is served and planned."""

from __future__ import annotations

from typing import Any

import click

from sla_planner.config import load, options_of
from sla_planner.requests_config import RequestsConfig


@click.command("reconcile-requests")
@options_of(RequestsConfig)
def command(**flags: Any) -> None:
    """Profile, generate and deploy what DynamoGraphDeploymentRequests of one namespace ask for, and say in their status how far it is.

    Runs until SIGTERM, or with --once does what can be done now and exits: 0 when every request was brought as far as it goes, also when that is
    Failed; 2 when something could not be done (a right is missing, an object is in the way); 4 when the cluster does not answer.
    """
    loaded = load(RequestsConfig, flags)
    from sla_planner.stages.reconcile_requests_run import run

    run(loaded)
