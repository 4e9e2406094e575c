"""Watches graphs, adapters and Deployments, and makes everything what the graphs say; what it made and a graph no longer says is removed.

A change of anything names a graph; graphs that were named are looked at one after the other, as a whole. A look that fails is repeated. What a graph
leaves behind when it is deleted is Kubernetes' to collect.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from sla_planner.cluster.api import Conflict, KubernetesApi, NotFound, Selector
from sla_planner.cluster.resources import DEPLOYMENTS, GRAPHS_BETA, SCALING_ADAPTERS, Object, Resource
from sla_planner.errors import PlannerError

from .graph import GRAPH_LABEL, Component, Graph, GraphError, read_graph
from .objects import MADE, SimulatedEngine, digest_of, objects_of
from .status import adapter_status, failed_status, graph_status

WATCH_S = 60.0
PAUSE_S = 0.5  # before what has failed is tried again

log = logging.getLogger("operator-stand-in")

Key = tuple[str, str]  # namespace and name of a graph


class Controller:
    """`run` blocks until `stop` is set. `namespace`: where graphs are looked for; '' for everywhere."""

    def __init__(self, api: KubernetesApi, engine: SimulatedEngine, namespace: str = "") -> None:
        self._api = api
        self._engine = engine
        self._namespace = namespace
        self._named: queue.Queue[Key] = queue.Queue()

    def run(self, stop: threading.Event) -> None:
        watched: tuple[tuple[Resource, Selector, Callable[[Object], str]], ...] = (
            (GRAPHS_BETA, Selector(), lambda found: found["metadata"]["name"]),
            (SCALING_ADAPTERS, Selector(), lambda found: found["spec"]["dgdRef"]["name"]),
            (DEPLOYMENTS, Selector(labels=GRAPH_LABEL), lambda found: found["metadata"]["labels"][GRAPH_LABEL]),
        )
        for each in watched:
            threading.Thread(target=self._watch, args=(*each, stop), daemon=True).start()
        while not stop.is_set():
            for key in self._next():
                try:
                    self.look_at(*key)
                except PlannerError as error:
                    log.warning("%s/%s: %s", *key, error)
                    threading.Timer(PAUSE_S, self._named.put, [key]).start()

    def look_at(self, namespace: str, name: str) -> None:
        """Make everything of this graph what it says. Errors: those of the API."""
        try:
            found = self._api.get(GRAPHS_BETA, name, namespace=namespace)
        except NotFound:
            return
        if found["metadata"].get("deletionTimestamp"):
            return
        try:
            graph = read_graph(found)
            wanted = objects_of(graph, self._engine)
        except (GraphError, ValueError, KeyError, TypeError) as error:
            self._tell(GRAPHS_BETA, found, failed_status(found, str(error), datetime.now(UTC)))
            return
        self._make(graph, wanted)
        deployments = {each["metadata"]["name"]: each for each in self._owned(DEPLOYMENTS, graph)}
        self._adapt(graph, deployments)
        self._tell(GRAPHS_BETA, found, graph_status(graph, deployments, datetime.now(UTC)))

    def _make(self, graph: Graph, wanted: list[tuple[Resource, Object]]) -> None:
        for resource in MADE:
            there = {each["metadata"]["name"]: each for each in self._owned(resource, graph)}
            for body in (body for kind, body in wanted if kind is resource):
                before = there.pop(body["metadata"]["name"], None)
                if before is None or digest_of(before) != digest_of(body):
                    log.info("%s/%s: %s %s", graph.namespace, graph.name, resource.kind, body["metadata"]["name"])
                    self._api.apply(resource, body, namespace=graph.namespace)
            for name in there:
                self._api.delete(resource, name, namespace=graph.namespace)

    def _adapt(self, graph: Graph, deployments: dict[str, Object]) -> None:
        there = {each["metadata"]["name"]: each for each in self._owned(SCALING_ADAPTERS, graph)}
        for component in graph.components:
            if not component.has_adapter:
                continue
            name = graph.object_name(component)
            adapter = there.pop(name, None) or self._api.create(SCALING_ADAPTERS, _adapter(graph, component), namespace=graph.namespace)
            scaled = self._scale(graph, component, int(adapter["spec"]["replicas"]))
            self._tell(SCALING_ADAPTERS, adapter, adapter_status(graph, component, deployments.get(name), scaled))
        for name in there:
            self._api.delete(SCALING_ADAPTERS, name, namespace=graph.namespace)

    def _scale(self, graph: Graph, component: Component, replicas: int) -> datetime | None:
        """An adapter's count, written through to the graph."""
        if replicas == component.replicas:
            return None
        path = f"/spec/components/{graph.components.index(component)}"
        operations: list[Object] = [
            {"op": "test", "path": f"{path}/name", "value": component.name},
            {"op": "add", "path": f"{path}/replicas", "value": replicas},
        ]
        try:
            self._api.json_patch(GRAPHS_BETA, graph.name, operations, namespace=graph.namespace)
        except Conflict:
            return None  # it has changed meanwhile, which brings us here again
        return datetime.now(UTC)

    def _owned(self, resource: Resource, graph: Graph) -> list[Object]:
        found = self._api.all_of(resource, Selector(labels=f"{GRAPH_LABEL}={graph.name}"), namespace=graph.namespace)
        return [each for each in found if any(owner["uid"] == graph.uid for owner in each["metadata"].get("ownerReferences") or ())]

    def _tell(self, resource: Resource, found: Object, status: Object) -> None:
        before = found.get("status") or {}
        if {key: before.get(key) for key in status} != status:
            metadata = found["metadata"]
            self._api.merge_patch(resource, metadata["name"], {"status": status}, subresource="status", namespace=metadata["namespace"])

    # who is named

    def _watch(self, resource: Resource, selector: Selector, graph_of: Callable[[Object], str], stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                for _, found in self._api.watch(resource, selector, timeout_s=WATCH_S, namespace=self._namespace):
                    self._named.put((found["metadata"]["namespace"], graph_of(found)))
            except PlannerError as error:
                log.warning("watching %s: %s", resource.name, error)
                time.sleep(PAUSE_S)

    def _next(self) -> set[Key]:
        """All that are named now, at least one; nobody for a while is nobody."""
        try:
            keys = {self._named.get(timeout=PAUSE_S)}
        except queue.Empty:
            return set()
        while not self._named.empty():
            keys.add(self._named.get())
        return keys


def _adapter(graph: Graph, component: Component) -> Object:
    return {
        "apiVersion": SCALING_ADAPTERS.api_version,
        "kind": SCALING_ADAPTERS.kind,
        "metadata": {"name": graph.object_name(component), "labels": {GRAPH_LABEL: graph.name}, "ownerReferences": [graph.owner]},
        "spec": {"replicas": component.replicas, "dgdRef": {"name": graph.name, "service": component.name}},
    }
