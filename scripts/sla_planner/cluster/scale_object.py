"""An object with a `scale` subresource: Deployment, StatefulSet, LeaderWorkerSet, DynamoGraphDeploymentScalingAdapter, any kind that has one.

    read    GET the scale (count, selector) and the object (pause, owner of the count, GPUs of a worker)
    write   PATCH the scale: {"metadata": {"resourceVersion": ...}, "spec": {"replicas": N}}

The version makes the write conditional. It also changes when anything else of the object does, its status above all: then the count is read again,
and written if it still is what the decision was made from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sla_planner.cluster.api import Conflict, KubernetesApi
from sla_planner.cluster.owners import written_by
from sla_planner.cluster.resources import Object
from sla_planner.cluster.scale_reference import ScaleReference
from sla_planner.cluster.seat import ATTEMPTS, Seat, Seats, overtaken, paused_by
from sla_planner.cluster.workers import WorkerShape
from sla_planner.errors import UnreachableError
from sla_planner.plan.decision import Role

_GPU = re.compile(r"[\w.-]+/gpu|[\w.]+/(?:i915|xe)")

ShapeOf = Callable[[Object], WorkerShape]


class ScaleObject:
    """Holds the count of one role. `shape_of`: reads the worker's shape off the object; by default its pod template is looked at."""

    def __init__(self, api: KubernetesApi, reference: ScaleReference, shape_of: ShapeOf | None = None) -> None:
        self._api = api
        self._reference = reference
        self._shape_of = shape_of or _shape_of_workload

    def read(self) -> Seat:
        resource, name = self._reference.resource, self._reference.name
        for _ in range(ATTEMPTS):
            scale = self._api.get(resource, name, subresource="scale")
            found = self._api.get(resource, name)
            if scale["metadata"].get("resourceVersion") == found["metadata"].get("resourceVersion"):
                break
        status = scale.get("status") or {}
        return Seat(
            door=self,
            holder=found,
            replicas=int((scale.get("spec") or {}).get("replicas") or 0),
            version=str(scale["metadata"].get("resourceVersion", "")),
            written_by=written_by(found, ("spec", "replicas")),
            selector=_selector(found, status),
            observed=int(status.get("replicas") or 0),
            shape=self._shape_of(found),
            unmade=_unmade(found),
            paused_by=paused_by(found),
        )

    def write(self, counts: Mapping[Role, int], seats: Seats) -> None:
        """See `Door.write`. It holds one role."""
        ((role, replicas),) = counts.items()
        seat = seats[role]
        for _ in range(ATTEMPTS):
            patch = {"metadata": {"resourceVersion": seat.version}, "spec": {"replicas": replicas}}
            try:
                self._api.merge_patch(self._reference.resource, self._reference.name, patch, subresource="scale")
            except Conflict:
                now = self.read()
                if now.replicas not in (seat.replicas, replicas):
                    raise overtaken(role, seats[role], now) from None
                seat = now
            else:
                return
        raise UnreachableError(f"{self._reference} changes faster than it can be written", hint="see who writes it: kubectl get --watch")


def service_pods(graph: str, service: str) -> str:
    """Labels of the pods that Dynamo's operator makes for one service."""
    return f"nvidia.com/dynamo-graph-deployment-name={graph},nvidia.com/dynamo-component={service}"


def _selector(found: Object, status: Mapping[str, Any]) -> str:
    """Labels of all pods of a role's workers. The scale of a LeaderWorkerSet names its leaders only."""
    spec = found.get("spec") or {}
    if "leaderWorkerTemplate" in spec:
        return f"leaderworkerset.sigs.k8s.io/name={found['metadata']['name']}"
    if "dgdRef" in spec:
        return service_pods(*graph_service(found))
    return str(status.get("selector") or "")


def graph_service(adapter: Object) -> tuple[str, str]:
    """The graph and the service that a scaling adapter scales."""
    reference = (adapter.get("spec") or {}).get("dgdRef") or {}
    return str(reference.get("name", "")), str(reference.get("serviceName") or reference.get("service") or "")


def _shape_of_workload(found: Object) -> WorkerShape:
    spec = found.get("spec") or {}
    if "leaderWorkerTemplate" in spec:
        group = spec["leaderWorkerTemplate"]
        size = int(group.get("size") or 1)
        worker = _pod_gpus(group.get("workerTemplate"))
        leader = _pod_gpus(group["leaderTemplate"]) if group.get("leaderTemplate") else worker
        return WorkerShape(size, leader + (size - 1) * worker)
    return WorkerShape(1, _pod_gpus(spec.get("template")))


def _pod_gpus(template: Any) -> int:
    """Of one pod of a template; 0 when it says nothing that we understand."""
    containers = (template.get("spec") or {}).get("containers") if isinstance(template, Mapping) else ()
    return sum(_container_gpus(each.get("resources") or {}) for each in containers or () if isinstance(each, Mapping))


def _container_gpus(resources: Mapping[str, Any]) -> int:
    for amounts in (resources.get("limits"), resources.get("requests")):
        found = [str(amount) for key, amount in (amounts or {}).items() if _GPU.fullmatch(key)]
        if found:
            return sum(int(amount) for amount in found if amount.isdecimal())
    return 0


def _unmade(found: Object) -> str:
    conditions: Iterable[Object] = (found.get("status") or {}).get("conditions") or ()
    failed = next((each for each in conditions if each.get("type") == "ReplicaFailure" and each.get("status") == "True"), {})
    return " ".join(str(failed.get("message") or failed.get("reason") or "").split())[:200]
