"""The control group that all containers of a cluster lie under, so that two clusters do not mix, and so that it can be removed with its cluster."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "cpuset", "hugetlb", "io", "memory", "pids")  # what a kubelet wants
PREFIX = "sla-planner-e2e-"


def make() -> str:
    """A new one, named after this process; returns its name. Leavings of killed clusters are removed on the way."""
    for left in {path.name for path in _all(f"{PREFIX}*")}:
        if not Path("/proc", left.removeprefix(PREFIX)).exists():
            remove(left)
    name = f"{PREFIX}{os.getpid()}"
    for hierarchy in _hierarchies():
        (hierarchy / name).mkdir(exist_ok=True)
    if _is_version_2():
        for controller in CONTROLLERS:
            with contextlib.suppress(OSError):  # not in this kernel, or already given to version 1
                (ROOT / "cgroup.subtree_control").write_text(f"+{controller}")
    return name


def remove(name: str) -> None:
    """Removes the group from every hierarchy; the kernel keeps those that still hold a process."""
    for group in _all(name):
        for folder, _folders, _files in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()


def _all(pattern: str) -> list[Path]:
    return [path for hierarchy in _hierarchies() for path in hierarchy.glob(pattern)]


def _hierarchies() -> list[Path]:
    """Version 2 is mounted at the root, version 1 has one hierarchy per controller; links among those are second names."""
    if _is_version_2():
        return [ROOT]
    return [path for path in ROOT.iterdir() if path.is_dir() and not path.is_symlink()]


def _is_version_2() -> bool:
    return (ROOT / "cgroup.controllers").exists()
