"""`download-results`: a folder of the volume, copied to this machine, every file whole and checked.

`--no-config` leaves out what says how engines were run, not how fast they are: `*.yaml` and `*.yml`, wherever they lie. Profiles, points, plots and
reports stay. (Dynamo's tool of that flag skips the deployed engines' `config.yaml`.)

As a Job, with the volume mounted, it has two uses: `--checksums` reads every file and prints its SHA-256 as `sha256sum` does, so that
`kubectl logs job/download-results` can be held against a copy that was made in any other way; and `--output-dir` may be another mounted volume,
an archive for example, which gets the folder under the same rules as a laptop does.
"""

from __future__ import annotations

from typing import Any

import click

from sla_planner.config import load, options_of
from sla_planner.volume_config import DownloadConfig


@click.command("download-results")
@options_of(DownloadConfig)
def command(**flags: Any) -> None:
    """Copy a folder of the volume, by default the results of a sweep, to this machine.

    Through a short-lived access pod; where the volume is mounted, as in the Job of this stage, directly. Files that are here already with the same
    checksum are not sent again; others of that name are replaced with --force only. Killed or cut off, the same command goes on where it stopped.
    """
    loaded = load(DownloadConfig, flags)
    from sla_planner.stages.download_results_run import run

    run(loaded)
