"""Who changed which field last, told as `metadata.managedFields`: what the API server does for writes that are no server-side apply."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

Path = tuple[str, ...]  # f:spec, f:replicas, k:{"name":"decode"}, ...


class FieldOwners:
    """Of one object."""

    def __init__(self) -> None:
        self._owners: dict[Path, str] = {}

    def changed(self, before: Any, after: Any, manager: str) -> list[dict[str, Any]]:
        """What `managedFields` says after `manager` made `after` of `before`; of the spec, which is what anybody asks for."""
        old, new = (dict(_leaves((each or {}).get("spec") or {}, ("f:spec",))) for each in (before, after))
        self._owners = {path: self._owners[path] if path in self._owners and old.get(path) == value else manager for path, value in new.items()}
        return [
            {
                "manager": name,
                "operation": "Update",
                "fieldsType": "FieldsV1",
                "fieldsV1": _nested(path for path, who in self._owners.items() if who == name),
            }
            for name in sorted(set(self._owners.values()))
        ]


def _leaves(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, f"f:{key}"))
    elif isinstance(value, list) and value and all(isinstance(each, dict) and "name" in each for each in value):
        for each in value:
            yield from _leaves(each, (*path, f"k:{json.dumps({'name': each['name']}, separators=(',', ':'))}"))
    else:
        yield path, value


def _nested(paths: Iterator[Path]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for path in paths:
        at = fields
        for step in path:
            at = at.setdefault(step, {})
    return fields
