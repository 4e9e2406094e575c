"""The planner's ends in a Kubernetes cluster, wired: scale targets with what their manifests say, the memory in a ConfigMap, the Lease."""

from __future__ import annotations

from functools import lru_cache

from sla_planner.cluster.api import KubernetesApi, connect
from sla_planner.cluster.events import EventBook
from sla_planner.cluster.graph import Graph, GraphManifest, GraphWorkers, adapter_shape
from sla_planner.cluster.kubernetes_target import KubernetesTarget, ScalePair
from sla_planner.cluster.lease import Leadership
from sla_planner.cluster.resources import SCALING_ADAPTERS, Object
from sla_planner.cluster.scale_object import ScaleObject
from sla_planner.cluster.scale_reference import scale_reference
from sla_planner.cluster.state_config_map import StateConfigMap
from sla_planner.cluster.workers import WorkerShape
from sla_planner.engines.dgd_roles import RoleService, role_services, service_called
from sla_planner.plan.decision import Role
from sla_planner.planner_config import CONFIG_MAP, TargetConfig


def open_kubernetes_target(config: TargetConfig) -> KubernetesTarget:
    """Nothing is sent yet. Raises `UsageError` when there is no cluster to talk to."""
    api = _connected(config.target_namespace)
    book = EventBook(api)
    if config.graph_deployment:
        return KubernetesTarget(api, Graph(api, config.graph_deployment, GRAPH_MANIFEST), config.name, book)
    assert config.prefill_target is not None
    assert config.decode_target is not None
    return KubernetesTarget(api, ScalePair(_scale_object(api, config.prefill_target), _scale_object(api, config.decode_target)), config.name, book)


def open_state_config_map(name: str, target: str) -> StateConfigMap:
    """In the planner's own namespace."""
    return StateConfigMap(_connected(None), name, target)


def open_lease(name: str, state: str) -> Leadership:
    """In the planner's own namespace; it goes with the ConfigMap that `state` names, if it names one. Nothing is sent yet."""
    return Leadership(_connected(None), name, config_map=state.removeprefix(CONFIG_MAP) if state.startswith(CONFIG_MAP) else "")


@lru_cache(maxsize=16)
def _connected(namespace: str | None) -> KubernetesApi:
    return connect(namespace=namespace)


def _scale_object(api: KubernetesApi, text: str) -> ScaleObject:
    reference = scale_reference(text)
    return ScaleObject(api, reference, adapter_shape(api, GRAPH_MANIFEST) if reference.resource == SCALING_ADAPTERS else None)


def _roles(graph: Object) -> dict[Role, GraphWorkers]:
    prefill, decode = role_services(graph)
    return {Role.PREFILL: _workers(prefill), Role.DECODE: _workers(decode)}


def _workers(service: RoleService) -> GraphWorkers:
    return GraphWorkers(service.name, WorkerShape(service.nodes, service.gpus))


GRAPH_MANIFEST = GraphManifest(_roles, lambda graph, name: _workers(service_called(graph, name)))
