"""What a user lays over a generated object: a merge patch (RFC 7386), but a list of named things is merged by name.

mapping        key by key; null takes a key away
named things   (containers, volumes, env ...: every item is a mapping with `name`) by name, new ones at the end
anything else  replaced
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def patched(given: Any, patch: Any) -> Any:
    """`given` with `patch` over it; neither is changed."""
    if isinstance(patch, Mapping):
        base = given if isinstance(given, Mapping) else {}
        merged = {key: patched(base[key], patch[key]) if key in patch else base[key] for key in base if patch.get(key, "") is not None}
        merged |= {key: patched(None, value) for key, value in patch.items() if key not in base and value is not None}
        return merged
    if _are_named(given) and _are_named(patch):
        over = {item["name"]: item for item in patch}
        kept = [patched(item, over.pop(item["name"])) if item["name"] in over else item for item in given]
        return [*kept, *(patched(None, item) for item in over.values())]
    return patch


def _are_named(items: Any) -> bool:
    return isinstance(items, list) and bool(items) and all(isinstance(item, Mapping) and "name" in item for item in items)
