"""A DynamoGraphDeployment: both roles of one object, written together.

                v1alpha1                                v1beta1
    count       spec.services.NAME.replicas             spec.components[i].replicas; 1 where absent
    adapter     scalingAdapter.enabled                  scalingAdapter, a marker
    pods        labels nvidia.com/dynamo-graph-deployment-name and nvidia.com/dynamo-component

    write       one JSON patch for both roles: `test` that each count (and each component's name) is what was read, then set them
    adapter     the operator's webhook lets nobody else set the count of a service that has one: its adapter is scaled instead

The version is the newest that the cluster serves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sla_planner.cluster.api import Conflict, KubernetesApi, NotFound
from sla_planner.cluster.owners import Path, written_by
from sla_planner.cluster.resources import GRAPHS_ALPHA, GRAPHS_BETA, SCALING_ADAPTERS, Object, Resource
from sla_planner.cluster.scale_object import ScaleObject, graph_service, service_pods
from sla_planner.cluster.scale_reference import ScaleReference
from sla_planner.cluster.seat import ATTEMPTS, Seat, Seats, overtaken, paused_by
from sla_planner.cluster.workers import WorkerShape
from sla_planner.errors import UnreachableError, UsageError
from sla_planner.plan.decision import Role


@dataclass(frozen=True, slots=True)
class GraphWorkers:
    """One service of workers. GPUs over all nodes of one worker; 0 = the manifest does not say."""

    service: str
    shape: WorkerShape


@dataclass(frozen=True, slots=True)
class GraphManifest:
    """What the manifest of a graph says of its workers, by whoever knows that format. Both raise `UsageError`.

    `roles`: the service of each role, an error when one is missing or ambiguous. `service`: one service by name.
    """

    roles: Callable[[Object], Mapping[Role, GraphWorkers]]
    service: Callable[[Object, str], GraphWorkers]


class Graph:
    """The seats of both roles in one graph. `SeatReader` and, for services without an adapter, `Door`."""

    def __init__(self, api: KubernetesApi, name: str, manifest: GraphManifest) -> None:
        self._api = api
        self._name = name
        self._manifest = manifest
        self._served: Resource | None = None

    def read(self) -> dict[Role, Seat]:
        try:
            found = self._api.get(self._resource(), self._name)
        except NotFound:
            self._served = None  # it may be served at another version now
            raise
        return {role: self._seat(found, workers) for role, workers in self._manifest.roles(found).items()}

    def write(self, counts: Mapping[Role, int], seats: Seats) -> None:
        """See `Door.write`."""
        own = {role: seat for role, seat in seats.items() if seat.door is self}
        for _ in range(ATTEMPTS):
            try:
                self._api.json_patch(self._resource(), self._name, self._patch(counts, own))
            except Conflict:
                now = self.read()
                for role, seat in own.items():
                    if now[role].replicas not in (seat.replicas, counts.get(role, seat.replicas)):
                        raise overtaken(role, seat, now[role]) from None
                own = {role: now[role] for role in own}
            else:
                return
        raise UnreachableError(f"{self._resource().name}/{self._name} changes faster than it can be written", hint="see who writes it")

    def _resource(self) -> Resource:
        if self._served is None:
            served = next((each for each in (GRAPHS_BETA, GRAPHS_ALPHA) if self._api.serves(each)), None)
            if served is None:
                raise UsageError(
                    "this cluster has no DynamoGraphDeployment", hint="install Dynamo's operator, or scale with --prefill-target and --decode-target"
                )
            self._served = served
        return self._served

    def _seat(self, graph: Object, workers: GraphWorkers) -> Seat:
        _, body = _service(graph, workers.service)
        if _has_adapter(graph, body):
            adapter = ScaleReference(SCALING_ADAPTERS, f"{self._name}-{workers.service.lower()}")
            seat = ScaleObject(self._api, adapter, lambda _: workers.shape).read()
            return replace(seat, paused_by=seat.paused_by or paused_by(graph))
        return Seat(
            door=self,
            holder=graph,
            replicas=int(body.get("replicas", 1)),
            version=str(graph["metadata"].get("resourceVersion", "")),
            written_by=written_by(graph, *_owner_paths(workers.service)),
            selector=service_pods(self._name, workers.service),
            shape=workers.shape,
            paused_by=paused_by(graph),
        )

    def _patch(self, counts: Mapping[Role, int], own: Seats) -> list[Object]:
        tests: list[Object] = []
        changes: list[Object] = []
        for role, seat in own.items():
            graph = seat.holder
            pointer, body = _service(graph, self._manifest.roles(graph)[role].service)
            if graph["apiVersion"] != GRAPHS_ALPHA.api_version:
                tests.append({"op": "test", "path": f"{pointer}/name", "value": body["name"]})
            if "replicas" in body:
                tests.append({"op": "test", "path": f"{pointer}/replicas", "value": body["replicas"]})
            else:
                tests.append({"op": "test", "path": "/metadata/resourceVersion", "value": seat.version})
            if role in counts:
                changes.append({"op": "add", "path": f"{pointer}/replicas", "value": counts[role]})  # replaces, too
        return [*tests, *changes]


def adapter_shape(api: KubernetesApi, manifest: GraphManifest) -> Callable[[Object], WorkerShape]:
    """Of the worker behind a scaling adapter: its graph says it."""

    def shape(adapter: Object) -> WorkerShape:
        graph_name, service = graph_service(adapter)
        for resource in (GRAPHS_BETA, GRAPHS_ALPHA):
            try:
                graph = api.get(resource, graph_name)
            except NotFound:
                continue
            return manifest.service(graph, service).shape
        return WorkerShape()

    return shape


def _service(graph: Object, name: str) -> tuple[str, dict[str, Any]]:
    """JSON pointer and body of a service."""
    spec = graph["spec"]
    if graph["apiVersion"] == GRAPHS_ALPHA.api_version:
        return f"/spec/services/{name.replace('~', '~0').replace('/', '~1')}", spec["services"][name]
    index = next(index for index, each in enumerate(spec["components"]) if each["name"] == name)
    return f"/spec/components/{index}", spec["components"][index]


def _has_adapter(graph: Object, body: Mapping[str, Any]) -> bool:
    adapter = body.get("scalingAdapter")
    if graph["apiVersion"] == GRAPHS_ALPHA.api_version:
        return isinstance(adapter, Mapping) and adapter.get("enabled") is True
    return adapter is not None


def _owner_paths(service: str) -> tuple[Path, ...]:
    """An entry of `managedFields` spells the field as the version that its manager wrote."""
    return ("spec", "services", service, "replicas"), ("spec", "components", {"name": service}, "replicas")
