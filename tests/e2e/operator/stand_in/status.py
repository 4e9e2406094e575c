"""What a graph and its adapters say of the Deployments that they became.

    state         successful: every service is stable;  pending: some are not;  failed: the graph cannot be deployed, or its pods may not be made
    Ready         True all_resources_are_ready;  False some_resources_are_not_ready, pods_not_ready (none is)
    components    per service: replicas, updatedReplicas, readyReplicas, availableReplicas of its Deployment

A service is stable when its Deployment has been looked at by its controller, and desired = updated = ready.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sla_planner.cluster.resources import Object

from .graph import Component, Graph
from .objects import selector_of

_COUNTS = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")


def graph_status(graph: Graph, deployments: Mapping[str, Object], now: datetime) -> Object:
    """`deployments`: by name. Of a graph whose status it already is, the same again, times included."""
    unready = [component.name for component in graph.components if not _stable(deployments.get(graph.object_name(component)), component)]
    refused = next(filter(None, (_refusal(deployment) for deployment in deployments.values())), "")
    if not unready:
        state, ready, reason, message = "successful", "True", "all_resources_are_ready", "All resources are ready"
    else:
        reason = "pods_not_ready" if len(unready) == len(graph.components) else "some_resources_are_not_ready"
        state, ready, message = "failed" if refused else "pending", "False", refused or f"Resources not ready: {', '.join(unready)}"
    status = _status(graph.found, state, (ready, reason, message), now)
    status["components"] = {
        component.name: {
            "componentKind": "Deployment",
            "componentNames": [graph.object_name(component)],
            **_counts(deployments.get(graph.object_name(component))),
        }
        for component in graph.components
    }
    return status


def failed_status(found: Object, message: str, now: datetime) -> Object:
    """Of a graph that cannot be deployed."""
    return _status(found, "failed", ("False", "failed", message), now)


def adapter_status(graph: Graph, component: Component, deployment: Object | None, scaled: datetime | None) -> Object:
    """`scaled`: when the adapter has changed the graph just now."""
    selector = ",".join(f"{key}={value}" for key, value in selector_of(graph, component).items())
    status: Object = {"replicas": _counts(deployment)["replicas"], "selector": selector}
    return status | ({"lastScaleTime": _text(scaled)} if scaled else {})


def _status(found: Object, state: str, ready: tuple[str, str, str], now: datetime) -> Object:
    condition = dict(zip(("status", "reason", "message"), ready, strict=True)) | {"type": "Ready"}
    before: list[dict[str, Any]] = (found.get("status") or {}).get("conditions") or []
    same = next((each for each in before if each.get("type") == "Ready" and each.get("status") == condition["status"]), None)
    condition["lastTransitionTime"] = same["lastTransitionTime"] if same else _text(now)
    return {"observedGeneration": found["metadata"].get("generation", 0), "state": state, "conditions": [condition]}


def _stable(deployment: Object | None, component: Component) -> bool:
    if deployment is None or deployment["spec"].get("replicas") != component.replicas:
        return False
    status = deployment.get("status") or {}
    if status.get("observedGeneration", 0) < deployment["metadata"].get("generation", 0):
        return False
    return all(status.get(count, 0) == component.replicas for count in ("replicas", "updatedReplicas", "readyReplicas"))


def _counts(deployment: Object | None) -> dict[str, int]:
    status = (deployment or {}).get("status") or {}
    return {count: int(status.get(count, 0)) for count in _COUNTS}


def _refusal(deployment: Object) -> str:
    for condition in (deployment.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return str(condition.get("message") or condition.get("reason"))
    return ""


def _text(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
