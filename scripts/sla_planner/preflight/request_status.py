"""Whether a definition of DynamoGraphDeploymentRequest keeps what we write into a request's status.

An API server drops every field that the schema of the version does not name, without a word. A schema keeps unknown fields where it says
`x-kubernetes-preserve-unknown-fields`. Written is at the newest version that is served; what a definition does not show is not judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FIELDS = ("phase", "state", "message", "profilingJobName", "generatedDeployment")
_KEEPS = "x-kubernetes-preserve-unknown-fields"


def dropped_fields(definition: Mapping[str, Any], served: Sequence[str]) -> tuple[str, ...]:
    """Those of `FIELDS` that are lost. `served`: the versions, the newest last."""
    versions = {each.get("name"): each for each in (definition.get("spec") or {}).get("versions") or ()}
    schema = ((versions.get(served[-1]) or {}).get("schema") or {}).get("openAPIV3Schema") if served else None
    if not schema or schema.get(_KEEPS):
        return ()
    status = (schema.get("properties") or {}).get("status") or {}
    return () if status.get(_KEEPS) else tuple(field for field in FIELDS if field not in (status.get("properties") or {}))
