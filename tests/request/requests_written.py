"""Requests as somebody writes them, and what reading them gives."""

from __future__ import annotations

import copy
from typing import Any

from sla_planner.request.read import Allowed, InvalidRequestError, read
from sla_planner.request.spec import Fault, Request

Object = dict[str, Any]

PLANNER = frozenset({"min_endpoint", "adjustment_interval", "load_predictor", "max_gpu_budget", "no_operation", "attainment", "ttft", "environment"})
ALLOWED = Allowed(PLANNER, planner_fixed={"ttft": "the request's SLA", "environment": "the deployment"})
GONE = object()

CONFIG = "spec.profilingConfig.config"
ALPHA: Object = {
    "apiVersion": "nvidia.com/v1alpha1",
    "kind": "DynamoGraphDeploymentRequest",
    "metadata": {"name": "sla-aic", "namespace": "llm", "uid": "u-1", "generation": 3},
    "spec": {
        "model": "Qwen/Qwen3-32B",
        "backend": "trtllm",
        "profilingConfig": {
            "profilerImage": "sla-planner/profile-sweep:0.1.0",
            "config": {"sla": {"isl": 3000, "osl": 150, "ttft": 200.0, "itl": 20}},
        },
    },
}
BETA: Object = {
    "apiVersion": "nvidia.com/v1beta1",
    "kind": "DynamoGraphDeploymentRequest",
    "metadata": {"name": "qwen", "namespace": "llm", "uid": "u-2", "generation": 1},
    "spec": {"model": "Qwen/Qwen3-32B"},
}


def changed(request: Object, **changes: Any) -> Object:
    """A copy with values at paths: `spec__profilingConfig__outputPVC`; `config__` stands for the profiler's config. GONE removes."""
    found = copy.deepcopy(request)
    for path, value in changes.items():
        *way, last = path.replace("config__", "spec__profilingConfig__config__", 1).split("__") if path.startswith("config__") else path.split("__")
        place = found
        for step in way:
            place = place.setdefault(step, {})
        if value is GONE:
            del place[last]
        else:
            place[last] = value
    return found


def alpha(**changes: Any) -> Request:
    return read(changed(ALPHA, **changes), ALLOWED)


def beta(**changes: Any) -> Request:
    return read(changed(BETA, **changes), ALLOWED)


def faults(request: Object, allowed: Allowed = ALLOWED) -> dict[str, Fault]:
    """By path."""
    try:
        read(request, allowed)
    except InvalidRequestError as error:
        return {fault.path: fault for fault in error.faults}
    return {}


def fault(request: Object, path: str, allowed: Allowed = ALLOWED) -> str:
    """The words of the only fault, which is at `path`."""
    found = faults(request, allowed)
    assert list(found) == [path]
    return f"{found[path].message}; {found[path].hint}"
