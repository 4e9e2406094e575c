"""`inject-config`: put the manifest that engines are derived from onto the volume that a sweep reads it from.

What is sent is a DynamoGraphDeployment, checked before the cluster is asked for anything: a sweep would find out an hour later. `--any-file` is for
the other files that a sweep on a cluster reads from its volume: a workload template, a model's config.json, recorded traffic; nothing is checked.
"""

from __future__ import annotations

from typing import Any

import click

from sla_planner.config import load, options_of
from sla_planner.volume_config import InjectConfig


@click.command("inject-config")
@options_of(InjectConfig)
def command(**flags: Any) -> None:
    """Put a DynamoGraphDeployment (or, with --any-file, any file) onto the volume that a sweep in the cluster reads.

    Through a short-lived access pod; where the volume is mounted, as in the Job of this stage, directly. All paths on the volume start with /data/.
    What is there already with the same content stays; another file is replaced with --force only. Killed or cut off, the same command goes on.
    """
    loaded = load(InjectConfig, flags)
    from sla_planner.stages.inject_config_run import run

    run(loaded)
