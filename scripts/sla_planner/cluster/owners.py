"""Who wrote a field: `metadata.managedFields`, which the API server keeps for every object.

    entry       {manager, operation, subresource, time, fieldsV1: {"f:spec": {"f:replicas": {}}}}
    list items  "k:{\\"name\\":\\"decode\\"}" below the list's field; a list that is written whole ends at its field
    Update      moves a field to the last one that changed it;   Apply can share one between several

Names seen in clusters: `kubectl` (scale), `kubectl-edit`, `kubectl-client-side-apply`, `argocd-controller`, `kube-controller-manager` (an HPA).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sla_planner.cluster.api import FIELD_MANAGER
from sla_planner.cluster.resources import Object

Path = Sequence[str | Mapping[str, str]]  # of fields, and of list items by their keys


def written_by(found: Object, *paths: Path) -> str:
    """The manager that a field belongs to, by whichever of `paths` an entry spells it; us where we share it; '' when nobody says."""
    entries = found.get("metadata", {}).get("managedFields") or ()
    owners = [entry for entry in entries if any(_holds(entry.get("fieldsV1") or None, path) for path in paths)]
    names = [str(entry.get("manager", "")) for entry in sorted(owners, key=lambda entry: str(entry.get("time", "")))]
    return FIELD_MANAGER if FIELD_MANAGER in names else names[-1] if names else ""


def _holds(fields: Any, path: Path) -> bool:
    for step in path:
        if not isinstance(fields, Mapping):
            return False
        if not fields:  # written as a whole
            return True
        fields = next((inner for key, inner in fields.items() if _is_step(key, step)), None)
    return isinstance(fields, Mapping)


def _is_step(key: str, step: str | Mapping[str, str]) -> bool:
    if isinstance(step, str):
        return key == f"f:{step}"
    try:
        return key.startswith("k:") and json.loads(key[2:]) == step
    except ValueError:
        return False
