"""The planner's memory on disk: one JSON document per target, replaced atomically after every tick.

A document that cannot be read is set aside as `<name>.bad` and the planner starts afresh: a planner that refuses to run because of its own notes
would be worse than one that has forgotten them, and nothing is lost for whoever wants to look.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sla_planner.atomic import write_text
from sla_planner.errors import UsageError


class StateFile:
    """One target's state at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[dict[str, Any] | None, str]:
        """The document, or None and why there is none (empty when the file just does not exist yet).

        Raises `UsageError` when the file exists but this user may not read it.
        """
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return None, ""
        except OSError as error:
            raise UsageError(f"state {self.path} cannot be read: {error.strerror}", hint="name a file or folder that this user may read") from None
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            if self.path.suffix != ".json":
                raise UsageError(f"state {self.path} is some other file, not JSON", hint="name a .json file or a folder") from None
            return None, self.set_aside(f"is not JSON ({str(error)[:80]})")
        if not isinstance(document, dict):
            return None, self.set_aside("is not a JSON object")
        return document, ""

    def set_aside(self, why: str) -> str:
        """Rename the file to `<name>.bad`; returns the sentence that says so."""
        bad = self.path.with_name(self.path.name + ".bad")
        try:
            self.path.replace(bad)
        except OSError as error:
            raise UsageError(f"state {self.path} {why}, and cannot be set aside: {error.strerror}", hint="remove it by hand") from None
        return f"state {self.path} {why}; kept as {bad.name}, starting afresh"

    def write(self, document: dict[str, Any]) -> None:
        """Replace the document. Raises `UsageError` naming the path and the remedy; the old document is then untouched."""
        write_text(self.path, json.dumps(document, separators=(",", ":"), allow_nan=False))


def state_path(path: Path, target: str, *, alone: bool) -> Path:
    """Where `--state PATH` keeps one target: in the folder PATH as `<target>.json`, or in PATH itself when it names a file and `target` is alone.

    The folder is made when there is none.
    """
    in_folder = path.is_dir() or (path.suffix == "" and not path.is_file())
    if not (in_folder or alone):
        raise UsageError(f"state {path} is one file for several targets", hint="name a folder; each target gets a file of its own in it")
    folder = path if in_folder else path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"state folder {folder} cannot be made: {error.strerror}", hint="name a folder that this user may write") from None
    return path / f"{target}.json" if in_folder else path
