"""The one control group that all containers of a cluster lie under, so that they can be removed when it is gone."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PREFIX = "sla-planner-e2e-"


def own() -> str:
    """The name for a cluster started by this process. Leavings of killed ones are removed on the way."""
    for left in {path.name for path in _all(f"{PREFIX}*")}:
        if not Path("/proc", left.removeprefix(PREFIX)).exists():
            remove(left)
    return f"{PREFIX}{os.getpid()}"


def remove(name: str) -> None:
    """Removes the group from every hierarchy; the kernel keeps those that still hold a process."""
    for group in _all(name):
        for folder, _folders, _files in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()


def _all(pattern: str) -> list[Path]:
    """In cgroup v2 groups lie right under the root, in v1 under each controller's hierarchy."""
    return [*ROOT.glob(pattern), *ROOT.glob(f"*/{pattern}")]
