"""Paths on the volume, as people write them (`/data/configs/disagg.yaml`), and what they may be.

Inside this package a place on the volume is its path below `/data`: `configs/disagg.yaml`, '' for all of it. Both sides check every path that the
other one names: absolute ones, `..` and empty parts never get as far as a file system.
"""

from __future__ import annotations

from sla_planner.errors import UsageError

ROOT = "/data"
_LONGEST = 4096


def inside(path: str) -> str:
    """`/data/a/b` as `a/b`. Raises `UsageError` for any place that is not on the volume."""
    parts = path.split("/")
    if path != ROOT and not path.startswith(f"{ROOT}/"):
        raise UsageError(f"{path!r} is not on the volume", hint=f"all paths there start with {ROOT}/")
    if ".." in parts:
        raise UsageError(f"{path!r} has .. in it", hint="write the path without")
    if not path.isprintable() or len(path) > _LONGEST:
        raise UsageError(f"{path[:80]!r} is no path", hint="use printable characters, fewer than 4,096")
    return "/".join(part for part in parts[2:] if part not in ("", "."))


def shown(relative: str) -> str:
    """`a/b` as `/data/a/b`, for people: control characters would break a line, or a terminal."""
    text = f"{ROOT}/{relative}" if relative else ROOT
    return text if text.isprintable() else ascii(text)[1:-1]


def checked(relative: object, folder: str = "") -> str:
    """A path that the other side named. Raises `UsageError` when it is not a plain path below `folder`."""
    plain = isinstance(relative, str) and "\0" not in relative and len(relative) <= _LONGEST and {"", ".", ".."}.isdisjoint(relative.split("/"))
    if not isinstance(relative, str) or not plain or not relative.startswith(f"{folder}/" if folder else ""):
        raise UsageError(f"the other side names a file {str(relative)[:80]!r}", hint="that is no path that it may name; nothing was written there")
    return relative
