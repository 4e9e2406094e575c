"""A v1beta1 graph as the stand-in sees it.

    pair       a prefill and a decode worker, each scaled for itself, behind a frontend that finds them by name
    one engine a worker that does both phases, as a sweep deploys it: a decode worker without a prefill worker, or a worker without a role

Roles are those that components declare; where none does, those that their names tell.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sla_planner.cluster.resources import GRAPHS_BETA, Object

from .versions import GPU, ROLES

GRAPH_LABEL = "nvidia.com/dynamo-graph-deployment-name"
COMPONENT_LABEL = "nvidia.com/dynamo-component"

_ENGINES = ("worker", *ROLES)


class GraphError(Exception):
    """A graph that cannot be deployed. The message is for its status."""


@dataclass(frozen=True)
class Component:
    """One service. `body` is the manifest's own mapping."""

    name: str
    body: dict[str, Any]

    @property
    def type(self) -> str:
        return str(self.body.get("type") or "").lower()

    @property
    def replicas(self) -> int:
        return int(self.body.get("replicas", 1))

    @property
    def is_frontend(self) -> bool:
        return "frontend" in (self.type, self.name.lower())

    @property
    def is_engine(self) -> bool:
        return self.type in _ENGINES

    @property
    def has_adapter(self) -> bool:
        return self.body.get("scalingAdapter") is not None

    @property
    def template(self) -> dict[str, Any]:
        return self.body.get("podTemplate") or {}

    @property
    def container(self) -> dict[str, Any]:
        containers: list[dict[str, Any]] = (self.template.get("spec") or {}).get("containers") or []
        for container in containers:
            if container.get("name") == "main":
                return container
        raise GraphError(f"{self.name}: no container named main in podTemplate.spec.containers")

    @property
    def gpus(self) -> int:
        """Of all nodes of one replica."""
        resources = self.container.get("resources") or {}
        amounts = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}
        nodes = int((self.body.get("multinode") or {}).get("nodeCount", 1))
        return nodes * int(amounts.get(GPU, 0))


@dataclass(frozen=True)
class Graph:
    """`prefill` is None where one engine does both phases."""

    found: Object
    components: tuple[Component, ...]
    prefill: Component | None
    decode: Component | None

    @property
    def name(self) -> str:
        return str(self.found["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.found["metadata"]["namespace"])

    @property
    def uid(self) -> str:
        return str(self.found["metadata"]["uid"])

    @property
    def owner(self) -> Object:
        """For what is made of it: gone when the graph is."""
        return {
            "apiVersion": GRAPHS_BETA.api_version,
            "kind": GRAPHS_BETA.kind,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }

    def object_name(self, component: Component) -> str:
        """Of the Deployment, the Service and the adapter of a service."""
        return f"{self.name}-{component.name.lower()}"


def read_graph(found: Object) -> Graph:
    """Raises `GraphError`."""
    components = tuple(Component(str(body["name"]), body) for body in (found.get("spec") or {}).get("components") or ())
    if not components:
        raise GraphError("spec.components is empty")
    engines = [component for component in components if component.is_engine]
    prefill = _one(engines, "prefill")
    decode = _one([engine for engine in engines if engine is not prefill], "decode")
    if decode is None and prefill is None and len(engines) == 1:
        decode = engines[0]
    if decode is None and prefill is not None:  # one engine, whatever it is called
        prefill, decode = None, prefill
    others = [engine.name for engine in engines if engine not in (prefill, decode)]
    if others:
        raise GraphError(f"what kind of worker are {', '.join(others)}? Types are prefill and decode")
    return Graph(found, components, prefill, decode)


def _one(engines: Iterable[Component], role: str) -> Component | None:
    engines = list(engines)
    found = [engine for engine in engines if engine.type == role] or [
        engine for engine in engines if engine.type not in ROLES and role in engine.name.lower()
    ]
    if len(found) > 1:
        raise GraphError(f"{len(found)} {role} services: {', '.join(engine.name for engine in found)}")
    return found[0] if found else None
