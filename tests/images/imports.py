"""Imports modules the way an image would: only what its lock names is there, less what is left out of the image. A program, for a fresh interpreter.

argv: JSON with `modules` to import, `distributions` that are there, and `left_out`, globs relative to site-packages. Fails as the image would.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType


class Gate:
    """A finder that stands before all others and hides what an image has not."""

    def __init__(self, distributions: Sequence[str], left_out: Sequence[str]) -> None:
        owners = packages_distributions()
        self._there = {top for top, names in owners.items() if any(canonical(name) in distributions for name in names)}
        self._known = set(owners) - {"sla_planner"}
        sites = {Path(entry) for entry in sys.path if Path(entry).name == "site-packages"}
        self._left_out = {path for site in sites for pattern in left_out for path in site.glob(pattern)}

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        top = name.partition(".")[0]
        if top in self._known and top not in self._there:
            raise ModuleNotFoundError(f"No module named {name!r} in the image", name=name)
        spec = PathFinder.find_spec(name, path, target) if top in self._there else None
        if spec is not None and spec.origin is not None and self._left_out.intersection([Path(spec.origin), *Path(spec.origin).parents]):
            raise ModuleNotFoundError(f"{name!r} is left out of the image", name=name)
        return None


def canonical(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


if __name__ == "__main__":
    wish = json.loads(sys.argv[1])
    sys.meta_path.insert(0, Gate(wish["distributions"], wish["left_out"]))  # type: ignore[arg-type]
    for module in wish["modules"]:
        importlib.import_module(module)
