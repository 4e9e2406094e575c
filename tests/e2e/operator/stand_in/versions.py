"""The two versions of a DynamoGraphDeployment, each from the other.

    v1alpha1  spec.services: {NAME: {componentType, subComponentType, replicas, resources, envs, extraPodSpec ...}}
    v1beta1   spec.components: [{name, type, replicas, podTemplate ...}], the container `main` in the pod template

A conversion must lose nothing: what a graph was written as is kept whole in an annotation while it is in the other version, and comes back from there
with the counts as they are now, which is all that anybody changes in a version that is not the graph's own.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from typing import Any

from sla_planner.cluster.resources import GRAPHS_ALPHA, GRAPHS_BETA, Object

ALPHA, BETA = GRAPHS_ALPHA.api_version, GRAPHS_BETA.api_version
WRITTEN_AS = {ALPHA: "nvidia.com/written-as-v1alpha1", BETA: "nvidia.com/written-as-v1beta1"}
GPU = "nvidia.com/gpu"
ROLES = ("prefill", "decode")

_SAME = ("multinode", "modelRef")  # of a service


def converted(graph: Object, version: str) -> Object:
    """`graph` as `version` spells it. Raises `ValueError` for versions other than the two."""
    written = str(graph.get("apiVersion"))
    if {written, version} - {ALPHA, BETA}:
        raise ValueError(f"a graph of {written} cannot be had as {version}; known: {ALPHA}, {BETA}")
    graph = copy.deepcopy(graph)
    if written == version:
        return graph
    annotations = dict(graph["metadata"].get("annotations") or {})
    own = annotations.pop(WRITTEN_AS[version], None)
    if own is None:
        annotations[WRITTEN_AS[written]] = json.dumps(graph.get("spec") or {}, separators=(",", ":"))
        spec = (_beta_spec if version == BETA else _alpha_spec)(graph.get("spec") or {})
    else:
        spec = with_counts(json.loads(own), counts(graph.get("spec") or {}))
    graph["spec"], graph["apiVersion"] = spec, version
    graph["metadata"]["annotations"] = annotations
    if not annotations:
        del graph["metadata"]["annotations"]
    if isinstance(status := graph.get("status"), dict):
        names = ("services", "components") if version == BETA else ("components", "services")
        graph["status"] = {names[1] if key == names[0] else key: value for key, value in status.items()}
    return graph


def counts(spec: Object) -> dict[str, int | None]:
    """Of every service, in either version; None where none is written."""
    return {name: body.get("replicas") for name, body in _bodies(spec)}


def with_counts(spec: Object, now: dict[str, int | None]) -> Object:
    """`spec`, changed in place."""
    for name, body in _bodies(spec):
        if (replicas := now.get(name)) is not None:
            body["replicas"] = replicas
        elif name in now:
            body.pop("replicas", None)
    return spec


def _bodies(spec: Object) -> Iterable[tuple[str, dict[str, Any]]]:
    if "components" in spec:
        return [(component["name"], component) for component in spec["components"]]
    return list((spec.get("services") or {}).items())


def _beta_spec(alpha: Object) -> Object:
    claims = {claim["name"] for claim in alpha.get("pvcs") or ()}
    spec: Object = {"components": [_component(name, body, claims) for name, body in (alpha.get("services") or {}).items()]}
    if alpha.get("envs"):
        spec["env"] = alpha["envs"]
    if alpha.get("backendFramework"):
        spec["backendFramework"] = alpha["backendFramework"]
    return spec


def _component(name: str, body: dict[str, Any], claims: set[str]) -> dict[str, Any]:
    pod = copy.deepcopy(body.get("extraPodSpec") or {})
    main = {"name": "main", **pod.pop("mainContainer", {})}
    if env := [*(body.get("envs") or ()), *(main.get("env") or ())]:
        main["env"] = env
    if body.get("envFromSecret"):
        main["envFrom"] = [*(main.get("envFrom") or ()), {"secretRef": {"name": body["envFromSecret"]}}]
    if resources := _resources(body.get("resources") or {}, main.get("resources") or {}):
        main["resources"] = resources
    for probe in ("livenessProbe", "readinessProbe"):
        if body.get(probe):
            main[probe] = body[probe]
    for mount in body.get("volumeMounts") or ():
        main["volumeMounts"] = [*(main.get("volumeMounts") or ()), {"name": mount["name"], "mountPath": mount["mountPoint"]}]
        if mount["name"] in claims:
            pod["volumes"] = [*(pod.get("volumes") or ()), {"name": mount["name"], "persistentVolumeClaim": {"claimName": mount["name"]}}]
    pod["containers"] = [main, *(pod.get("containers") or ())]
    template: dict[str, Any] = {"spec": pod}
    if metadata := {key: body[key] for key in ("labels", "annotations") if body.get(key)}:
        template["metadata"] = metadata
    component: dict[str, Any] = {"name": name, "type": _beta_type(body), "podTemplate": template}
    if "replicas" in body:
        component["replicas"] = body["replicas"]
    if (body.get("scalingAdapter") or {}).get("enabled"):
        component["scalingAdapter"] = {}
    return component | {key: body[key] for key in _SAME if key in body}


def _beta_type(body: dict[str, Any]) -> str:
    role = str(body.get("subComponentType") or "").lower()
    return role if role in ROLES else str(body.get("componentType") or "").lower()


def _resources(service: dict[str, Any], container: dict[str, Any]) -> dict[str, Any]:
    """The service's word counts."""
    merged: dict[str, Any] = copy.deepcopy(container)
    for kind in ("requests", "limits"):
        if amounts := {GPU if key == "gpu" else key: amount for key, amount in (service.get(kind) or {}).items()}:
            merged[kind] = {**(merged.get(kind) or {}), **amounts}
    return merged


def _alpha_spec(beta: Object) -> Object:
    spec: Object = {"services": {component["name"]: _service(component) for component in beta.get("components") or ()}}
    if beta.get("env"):
        spec["envs"] = beta["env"]
    if beta.get("backendFramework"):
        spec["backendFramework"] = beta["backendFramework"]
    return spec


def _service(component: dict[str, Any]) -> dict[str, Any]:
    template = copy.deepcopy(component.get("podTemplate") or {})
    pod = template.get("spec") or {}
    containers = pod.pop("containers", [])
    main: dict[str, Any] = next((container for container in containers if container.get("name") == "main"), {})
    if others := [container for container in containers if container is not main]:
        pod["containers"] = others
    main.pop("name", None)
    kind = str(component.get("type") or "")
    service: dict[str, Any] = {"componentType": "worker", "subComponentType": kind} if kind in ROLES else {"componentType": kind}
    if env := main.pop("env", None):
        service["envs"] = env
    if resources := main.pop("resources", None):
        service["resources"] = {
            kind: {"gpu" if key == GPU else key: str(amount) if key == GPU else amount for key, amount in amounts.items()}
            for kind, amounts in resources.items()
            if isinstance(amounts, dict)
        }
    if pod or main:
        service["extraPodSpec"] = {**pod, "mainContainer": main}
    service |= template.get("metadata") or {}
    if "replicas" in component:
        service["replicas"] = component["replicas"]
    if component.get("scalingAdapter") is not None:
        service["scalingAdapter"] = {"enabled": True}
    return service | {key: component[key] for key in _SAME if key in component}
