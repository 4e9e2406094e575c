"""What a graph becomes: a Deployment per service, Services, and the profile of its engines in a ConfigMap; all of them owned by the graph.

    GRAPH-SERVICE        Deployment; name of the service in small letters
    GRAPH-frontend       Service, port 8000 (http): the frontends, or, where one engine does both phases, that engine
    GRAPH-WORKER         headless Service, port 9090 (system): the ready workers of a role
    GRAPH-SERVICE        Service of any other service that declares ports
    GRAPH-engine         ConfigMap with profile.json, mounted by the engines

Frontends and workers run the simulated engine; of what the manifest says of them it keeps counts, labels and GPUs. Every other service runs as its
manifest says, with what the operator adds to a pod: its labels, and the environment that tells it where it is.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sla_planner.cluster.resources import CONFIG_MAPS, DEPLOYMENTS, SERVICES, Object, Resource

from .engine import HTTP_PORT, PROFILE_MOUNT, WORKER_PORT, frontend_arguments, worker_arguments
from .graph import COMPONENT_LABEL, GRAPH_LABEL, Component, Graph
from .versions import GPU, ROLES

DIGEST = "nvidia.com/stand-in-digest"
MADE: tuple[Resource, ...] = (CONFIG_MAPS, SERVICES, DEPLOYMENTS)

_CONFINED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
_AS_NOBODY = {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}}


@dataclass(frozen=True)
class SimulatedEngine:
    """`profile`: text of profile.json; `arguments`: of every worker, beside those that the graph gives."""

    image: str
    profile: str
    arguments: tuple[str, ...] = ()


def objects_of(graph: Graph, engine: SimulatedEngine) -> list[tuple[Resource, Object]]:
    """In the order in which they are made. Raises `GraphError`."""
    made: list[tuple[Resource, Object]] = []
    if graph.decode is not None:
        made.append((CONFIG_MAPS, {"data": {"profile.json": engine.profile}, "metadata": {"name": f"{graph.name}-engine"}}))
    for component in graph.components:
        if service := _service(graph, component):
            made.append((SERVICES, service))
        made.append((DEPLOYMENTS, _deployment(graph, component, engine)))
    return [(resource, _finished(graph, resource, body)) for resource, body in made]


def digest_of(body: Object) -> str:
    """Of an object as it was made; '' for what the stand-in did not make."""
    return str((body["metadata"].get("annotations") or {}).get(DIGEST, ""))


def pod_labels(graph: Graph, component: Component) -> dict[str, str]:
    """Those of the manifest, and those of the operator."""
    role = component.type if component.type in ROLES else ""
    kind = "worker" if role else component.type
    own = {
        **selector_of(graph, component),
        "nvidia.com/dynamo-component-type": kind,
        "nvidia.com/dynamo-namespace": f"{graph.namespace}-{graph.name}",
        "nvidia.com/metrics-enabled": "true",
    }
    if role:
        own["nvidia.com/dynamo-sub-component-type"] = role
    return {**((component.template.get("metadata") or {}).get("labels") or {}), **own}


def selector_of(graph: Graph, component: Component) -> dict[str, str]:
    return {GRAPH_LABEL: graph.name, COMPONENT_LABEL: component.name}


def _finished(graph: Graph, resource: Resource, body: Object) -> Object:
    metadata = body["metadata"]
    metadata["namespace"] = graph.namespace
    metadata["labels"] = {GRAPH_LABEL: graph.name, **metadata.get("labels", {})}
    metadata["ownerReferences"] = [graph.owner]
    body |= {"apiVersion": resource.api_version, "kind": resource.kind}
    text = json.dumps(body, sort_keys=True)
    metadata["annotations"] = {DIGEST: hashlib.sha256(text.encode()).hexdigest()[:16]}
    return body


def _deployment(graph: Graph, component: Component, engine: SimulatedEngine) -> Object:
    simulated = component.is_frontend or component.is_engine
    annotations = (component.template.get("metadata") or {}).get("annotations")
    pod_metadata: Object = {"labels": pod_labels(graph, component)} | ({"annotations": annotations} if annotations else {})
    pod = _engine_pod(graph, component, engine) if simulated else _given_pod(graph, component)
    return {
        "metadata": {"name": graph.object_name(component), "labels": selector_of(graph, component)},
        "spec": {
            "replicas": component.replicas,
            "selector": {"matchLabels": selector_of(graph, component)},
            "template": {"metadata": pod_metadata, "spec": pod},
        },
    }


def _engine_pod(graph: Graph, component: Component, engine: SimulatedEngine) -> Object:
    worker = component.is_engine
    arguments = [*worker_arguments(graph, component), *engine.arguments] if worker else frontend_arguments(graph)
    of_a_pair = worker and graph.prefill is not None
    port = {"name": "system", "containerPort": WORKER_PORT} if of_a_pair else {"name": "http", "containerPort": HTTP_PORT}
    resources: Object = {"requests": {"cpu": "10m", "memory": "80Mi"}, "limits": {"memory": "512Mi"}}
    if worker and component.gpus:
        for amounts in resources.values():
            amounts[GPU] = str(component.gpus)
    container: Object = {
        "name": "main",
        "image": engine.image,
        "imagePullPolicy": "IfNotPresent",
        "args": arguments,
        "env": [{"name": "OPENBLAS_NUM_THREADS", "value": "1"}],
        "ports": [port],
        "readinessProbe": {"httpGet": {"path": "/health", "port": port["name"]}, "periodSeconds": 1, "timeoutSeconds": 5},
        "resources": resources,
        "securityContext": _CONFINED,
    }
    pod: Object = {"containers": [container], "securityContext": _AS_NOBODY, "automountServiceAccountToken": False, "enableServiceLinks": False}
    if worker:
        container["volumeMounts"] = [{"name": "profile", "mountPath": PROFILE_MOUNT, "readOnly": True}]
        pod["volumes"] = [{"name": "profile", "configMap": {"name": f"{graph.name}-engine"}}]
    return pod


def _given_pod(graph: Graph, component: Component) -> Object:
    pod: Object = copy.deepcopy(component.template.get("spec") or {})
    main = next(container for container in pod["containers"] if container == component.container)
    given = {entry.get("name") for entry in main.get("env") or ()}
    everywhere = (graph.found.get("spec") or {}).get("env") or ()
    main["env"] = [*(main.get("env") or ()), *(entry for entry in (*everywhere, *_where_it_is(graph)) if entry["name"] not in given)]
    return pod


def _where_it_is(graph: Graph) -> Iterable[Object]:
    for name, value in (
        ("DYN_NAMESPACE", f"{graph.namespace}-{graph.name}"),
        ("DYN_PARENT_DGD_K8S_NAME", graph.name),
        ("DYN_PARENT_DGD_K8S_NAMESPACE", graph.namespace),
    ):
        yield {"name": name, "value": value}
    for name, path in (("POD_NAME", "metadata.name"), ("POD_NAMESPACE", "metadata.namespace"), ("POD_UID", "metadata.uid")):
        yield {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def _service(graph: Graph, component: Component) -> Object | None:
    spec: dict[str, Any]
    if component.is_frontend:
        answering = component if graph.prefill is not None or graph.decode is None else graph.decode
        spec = {"selector": selector_of(graph, answering), "ports": [_port("http", HTTP_PORT)]}
    elif component.is_engine:
        if graph.prefill is None:
            return None  # it is reached at the frontend's Service
        spec = {"clusterIP": "None", "selector": selector_of(graph, component), "ports": [_port("system", WORKER_PORT)]}
    else:
        declared = component.container.get("ports") or ()
        if not declared:
            return None
        ports = [_port(port.get("name") or f"port-{port['containerPort']}", port["containerPort"]) for port in declared]
        spec = {"selector": selector_of(graph, component), "ports": ports}
    return {"metadata": {"name": graph.object_name(component), "labels": selector_of(graph, component)}, "spec": spec}


def _port(name: str, number: int) -> Object:
    return {"name": name, "port": number, "targetPort": number, "protocol": "TCP"}
