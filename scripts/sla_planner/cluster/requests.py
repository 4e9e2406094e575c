"""Deployment requests in a namespace: which there are, whose they are, and what is written back.

version    the newer of the two that the cluster serves; both have the same fields (one schema, conversion by name)
whose      the annotation slaplanner.io/request-class says it; without it they are ours where the resource definition is (its label
           app.kubernetes.io/part-of: sla-planner). Where that may not be read, only those that are annotated are ours
status     as a merge patch of what changes, on the version that was read: whoever was faster wins, and `Conflict` sends us back to look
kept       a definition that is not ours may drop fields of the status without a word; what gets lost is asked for by a patch that is a dry run
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

from sla_planner.cluster.api import KubernetesApi, NotFound
from sla_planner.cluster.resources import DEFINITIONS, REQUESTS_ALPHA, REQUESTS_BETA, Object, Resource, annotations_of, labels_of
from sla_planner.errors import ForbiddenError, UnreachableError, UsageError
from sla_planner.request.spec import CLASS_ANNOTATION, OUR_CLASS

_PART_OF, _US = "app.kubernetes.io/part-of", "sla-planner"

_SPECIMEN: Mapping[str, Any] = {
    "observedGeneration": 1,
    "state": "Profiling",
    "phase": "Profiling",
    "message": "is this kept?",
    "backend": "vllm",
    "profilingJobName": "profile-x",
    "profilingPhase": "Initializing",
    "progress": {"mapping": "prefill TP:1", "point": 1, "points": 2, "etaSeconds": 1},
    "profilingResults": "configmap/x",
    "generatedDeployment": {"apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeployment", "metadata": {"name": "x"}, "spec": {"services": {}}},
    "dgdName": "x",
    "deployment": {"name": "x", "namespace": "x", "state": "pending", "created": True},
    "deploymentInfo": {"replicas": 1, "availableReplicas": 1},
}
"""A status with every field that is ever written."""


class Requests:
    """Of the namespace of `api`. Safe for several threads."""

    def __init__(self, api: KubernetesApi) -> None:
        self.api = api
        self._served: Resource | None = None
        self._guard = threading.Lock()
        self.unowned = "whose the resource definition is has not been looked at yet"
        """Why requests without annotation are left alone; '' where they are ours. `look_whose` finds out."""

    @property
    def resource(self) -> Resource:
        """Raises `UsageError` where the cluster does not know requests."""
        with self._guard:
            if self._served is None:
                self._served = next((each for each in (REQUESTS_BETA, REQUESTS_ALPHA) if self.api.serves(each)), None)
            if self._served is None:
                hint = "install it: kubectl apply -k manifests/crds"
                raise UsageError("this cluster has no DynamoGraphDeploymentRequest", hint=hint)
            return self._served

    def all(self) -> list[Object]:
        """Raises `NotFound` where the resource has gone since."""
        try:
            return self.api.all_of(self.resource)
        except NotFound:
            self._served = None
            raise

    def watch(self, timeout_s: float) -> Iterator[tuple[str, Object]]:
        return self.api.watch(self.resource, timeout_s=timeout_s)

    def look_whose(self) -> None:
        """Whether requests that name nobody are ours; asked again now and then, since an operator can be installed."""
        name = f"{self.resource.plural}.{self.resource.group}"
        try:
            ours = labels_of(self.api.get(DEFINITIONS, name)).get(_PART_OF) == _US
        except (ForbiddenError, NotFound) as error:
            self.unowned = f"whose the resource definition is cannot be read ({error.message})"
        else:
            self.unowned = "" if ours else f"the resource definition {name} is another operator's"

    def is_ours(self, found: Object) -> bool:
        named = annotations_of(found).get(CLASS_ANNOTATION, "")
        return named == OUR_CLASS or (not named and not self.unowned)

    def unkept(self, found: Object) -> str:
        """Why what has become of the request `found` cannot be kept in its status, as a sentence; '' where it can. Nothing is written."""
        name = found["metadata"]["name"]
        try:
            kept = self.api.merge_patch(self.resource, name, {"status": _SPECIMEN}, subresource="status", dry_run=True)
        except (ForbiddenError, UnreachableError):
            raise
        except UsageError as error:
            return f"the definition of {self.resource.kind} in this cluster refuses the status that is written here ({error.message})"
        lost = _lost(_SPECIMEN, kept.get("status"), "status")
        return f"the definition of {self.resource.kind} in this cluster drops {', '.join(lost)}" if lost else ""

    def write_status(self, found: Object, status: Mapping[str, Any]) -> None:
        """Raises `Conflict` when the request is not what was read, `NotFound` when it is gone."""
        metadata = found["metadata"]
        patch = {"metadata": {"resourceVersion": metadata["resourceVersion"]}, "status": difference(found.get("status") or {}, status)}
        self.api.merge_patch(self.resource, metadata["name"], patch, subresource="status")


def is_alive(found: Object) -> bool:
    return not found["metadata"].get("deletionTimestamp")


def _lost(wanted: Mapping[str, Any], kept: Any, path: str) -> list[str]:
    lost: list[str] = []
    for key, value in wanted.items():
        there = kept.get(key) if isinstance(kept, Mapping) else None
        if isinstance(value, Mapping) and value and isinstance(there, Mapping):
            lost += _lost(value, there, f"{path}.{key}")
        elif there != value:
            lost.append(f"{path}.{key}")
    return lost


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> Object:
    """The merge patch (RFC 7386) that makes `before` `after`: what is gone is null."""
    patch: Object = {key: None for key in before if key not in after}
    for key, value in after.items():
        if key in before and before[key] == value:
            continue
        nested = isinstance(value, Mapping) and isinstance(before.get(key), Mapping)
        patch[key] = difference(before[key], value) if nested else value
    return patch
