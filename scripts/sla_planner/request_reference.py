"""Writes the reference of a deployment request's fields from its definition:

python -m sla_planner.request_reference manifests/crds/dynamographdeploymentrequest.yaml manifests/requests/fields.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sla_planner.atomic import write_text
from sla_planner.config_file import read_mapping

_VERSIONS = ("v1alpha1", "v1beta1")
_HEAD = """# Fields of a DynamoGraphDeploymentRequest

<!-- Written by `make docs` from the definition; edit its template, templates/crds/_schema.yaml.j2. -->

The same is in the cluster: `kubectl explain dgdr.spec --recursive`, and with a path, `kubectl explain dgdr.spec.profilingConfig.config.sla`.

A request with `profilingConfig` has the shape of v1alpha1, every other one that of v1beta1; a field with a version belongs to requests of that shape.
Keys below `profilingConfig.config` can be written in camelCase as well. \\* = required.
"""
_TABLE = """
## {title}

| field | type | version | meaning |
|---|---|---|---|
"""


def reference(definition: dict[str, Any]) -> str:
    """The reference as Markdown."""
    stored = next(version for version in definition["spec"]["versions"] if version["storage"])
    parts = stored["schema"]["openAPIV3Schema"]["properties"]
    return _HEAD + "".join(_TABLE.format(title=title) + "".join(_rows(parts[title], "", "")) for title in ("spec", "status"))


def _rows(schema: dict[str, Any], path: str, version: str) -> Iterator[str]:
    properties = schema.get("properties", {})
    for name, inner in properties.items():
        meaning = " ".join(inner.get("description", "").split())
        if meaning.startswith("The same as ") and _snake(name) != name and _snake(name) in properties:
            continue  # the other spelling of a key
        own, colon, rest = meaning.partition(": ")
        if not (colon and own in _VERSIONS):
            own, rest = version, meaning
        words = rest[:1].upper() + rest[1:].replace("|", "&#124;")
        star = "\\*" if name in schema.get("required", ()) else ""
        yield f"| `{path}{name}`{star} | {_type(inner)} | {own} | {words} |\n"
        yield from _rows(inner, f"{path}{name}.", own)
        yield from _rows(inner.get("items", {}), f"{path}{name}[].", own)


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    limit = ""
    if "minimum" in schema:
        limit = f" above {schema['minimum']}" if schema.get("exclusiveMinimum") else f" from {schema['minimum']}"
    if schema.get("type") == "object" and "properties" not in schema:
        return "mapping"
    kind: str = schema.get("type", "")
    return {"object": "", "array": "list"}.get(kind, kind) + limit


if __name__ == "__main__":
    write_text(Path(sys.argv[2]), reference(dict(read_mapping(Path(sys.argv[1])))))
