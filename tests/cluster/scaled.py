"""Workloads and pods for tests, as the API sends them, and the targets that scale them."""

from __future__ import annotations

from typing import Any

from tests.cluster.api_stand_in import ApiStandIn

from sla_planner.cluster.events import EventBook
from sla_planner.cluster.graph import Graph, GraphManifest
from sla_planner.cluster.kubernetes_target import KubernetesTarget, ScalePair
from sla_planner.cluster.scale_object import ScaleObject
from sla_planner.cluster.scale_reference import scale_reference


def deployment(name: str, replicas: int = 1, *, gpus: int | None = None, kind: str = "Deployment") -> dict[str, Any]:
    resources = {"limits": {"nvidia.com/gpu": gpus}} if gpus is not None else {}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "main", "resources": resources}]}},
        },
    }


def pod(name: str, labels: dict[str, str], *, ready: bool = True, unplaced: str = "") -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": "True" if ready and not unplaced else "False"}]
    if unplaced:
        conditions.append({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": unplaced})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "status": {"phase": "Running" if not unplaced else "Pending", "conditions": conditions},
    }


def pods_of(cluster: ApiStandIn, labels: dict[str, str], ready: int, *, starting: int = 0, unplaced: int = 0) -> None:
    """Make the pods of one role exactly these."""
    prefix = "-".join(labels.values()).lower()
    for name in cluster.names("pods"):
        if name.startswith(f"{prefix}."):
            cluster.drop("pods", name)
    for index in range(ready + starting + unplaced):
        words = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu." if index >= ready + starting else ""
        cluster.put(pod(f"{prefix}.{index}", labels, ready=index < ready, unplaced=words))


def pair(cluster: ApiStandIn, prefill: str = "deployment/prefill", decode: str = "deployment/decode") -> KubernetesTarget:
    api = cluster.api()
    return KubernetesTarget(
        api, ScalePair(ScaleObject(api, scale_reference(prefill)), ScaleObject(api, scale_reference(decode))), "chat", EventBook(api)
    )


def graph_target(cluster: ApiStandIn, manifest: GraphManifest, name: str = "chat") -> KubernetesTarget:
    api = cluster.api()
    return KubernetesTarget(api, Graph(api, name, manifest), "chat", EventBook(api))


def graph(
    version: str = "v1beta1", *, prefill: Any = 1, decode: Any = 1, adapters: tuple[str, ...] = (), gpus: int = 1, nodes: int = 1
) -> dict[str, Any]:
    """A graph with a frontend and both workers; a count of None is absent."""
    counts = {"prefill": prefill, "decode": decode}
    body: dict[str, Any]
    if version == "v1alpha1":
        services: dict[str, Any] = {"Frontend": {"componentType": "frontend", "replicas": 1}}
        for role, count in counts.items():
            body = {"componentType": "worker", "subComponentType": role, "resources": {"limits": {"gpu": str(gpus)}}}
            body |= {"replicas": count} if count is not None else {}
            body |= {"scalingAdapter": {"enabled": role in adapters}} if adapters else {}
            body |= {"multinode": {"nodeCount": nodes}} if nodes > 1 else {}
            services[f"{role.capitalize()}Worker"] = body
        spec: dict[str, Any] = {"services": services}
    else:
        components: list[dict[str, Any]] = [{"name": "frontend", "type": "frontend", "replicas": 1}]
        for role, count in counts.items():
            container = {"name": "main", "resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}
            body = {"name": f"{role}-worker", "type": role, "podTemplate": {"spec": {"containers": [container]}}}
            body |= {"replicas": count} if count is not None else {}
            body |= {"scalingAdapter": {}} if role in adapters else {}
            body |= {"multinode": {"nodeCount": nodes}} if nodes > 1 else {}
            components.append(body)
        spec = {"components": components}
    return {"apiVersion": f"nvidia.com/{version}", "kind": "DynamoGraphDeployment", "metadata": {"name": "chat"}, "spec": spec}


def adapter(role_service: str, replicas: int) -> dict[str, Any]:
    return {
        "apiVersion": "nvidia.com/v1alpha1",
        "kind": "DynamoGraphDeploymentScalingAdapter",
        "metadata": {"name": f"chat-{role_service.lower()}"},
        "spec": {"replicas": replicas, "dgdRef": {"name": "chat", "serviceName": role_service}},
    }


def of_service(service: str) -> dict[str, str]:
    """Labels that Dynamo's operator gives to the pods of a service."""
    return {"nvidia.com/dynamo-graph-deployment-name": "chat", "nvidia.com/dynamo-component": service}
