"""What marks the objects of a request as its own: labels, owner reference; and the form of its ConfigMaps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sla_planner.request.makers import CannotBeMadeError
from sla_planner.request.settings import Settings
from sla_planner.request.spec import NAME_LABEL, NAMESPACE_LABEL, UID_LABEL, Object, Request

KIND = "DynamoGraphDeploymentRequest"
MOST_BYTES = 1_000_000  # of keys and values; the API takes 1 MiB with everything


def labels(request: Request, settings: Settings, component: str) -> dict[str, str]:
    """Of every object of `request`."""
    return {
        "app.kubernetes.io/name": "sla-planner",
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": "sla-planner",
        **({"app.kubernetes.io/version": settings.version} if settings.version else {}),
        "app.kubernetes.io/managed-by": "sla-planner",
        NAME_LABEL: request.name,
        NAMESPACE_LABEL: request.namespace,
        UID_LABEL: request.uid,
    }


def owners(request: Request) -> list[Object]:
    """The request, so that its objects go with it."""
    return [{"apiVersion": f"nvidia.com/{request.shape}", "kind": KIND, "name": request.name, "uid": request.uid, "controller": True}]


def config_map(request: Request, settings: Settings, name: str, data: Mapping[str, str]) -> dict[str, Any]:
    """Raises `CannotBeMadeError` for more data than a ConfigMap holds."""
    size = sum(len(key) + len(text.encode()) for key, text in data.items())
    if size > MOST_BYTES:
        largest = max(data, key=lambda key: len(data[key]))
        what = f"the ConfigMap {name} would have {size:,} bytes, it holds {MOST_BYTES:,}; the most is {largest}"
        base = request.profiling.base
        smaller = f"the manifest in the ConfigMap {base.config_map} (spec.profilingConfig.configMapRef)" if base else "what the spec lays over it"
        raise CannotBeMadeError("TooLarge", f"{what}: make {smaller} smaller")
    metadata = {"name": name, "namespace": request.namespace, "labels": labels(request, settings, "request"), "ownerReferences": owners(request)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": dict(data)}


def config_map_elsewhere(request: Request, settings: Settings, name: str, data: Mapping[str, str]) -> dict[str, Any]:
    """In the deployment's namespace, with `data` that a ConfigMap has held before. The request cannot own it: an owner is in the same namespace."""
    metadata = {"name": name, "namespace": request.graph_namespace, "labels": labels(request, settings, "request")}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": dict(data)}
