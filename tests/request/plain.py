"""The plainest requests and objects that the lifecycle can do with: a few fields of a spec, and what is made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sla_planner.model.sla import Sla
from sla_planner.request.makers import CannotBeMadeError
from sla_planner.request.seen import JobState, ProfileSeen, Seen
from sla_planner.request.settings import Settings
from sla_planner.request.spec import BaseManifest, Deploying, EngineLimits, Fault, Method, Object, Profiling, Request
from sla_planner.sweep.result import Goal

NAMESPACE, SHARED_PROFILE = "serving", "planner-profile-data"
BASE_KEY, SPEC_KEY, GRAPH_KEY = "disagg.yaml", "spec.json", "config_with_planner.yaml"
SETTINGS = Settings(profiler_image="profiler:1", planner_image="planner:1", image_limit_s=300.0)
SPEC: dict[str, Any] = {"model": "m", "autoApply": True, "base": "dgd-base", "claim": "artefacts"}
"""A request of these tests: `base`: its ConfigMap, `claim`: a volume, `wrong`: has a fault, `offline`, `dry_run`, `min_gpus`, `graph`: its name,
`there`: the namespace of that, `unusable_overrides`: they leave no deployment."""


def job_name(name: str) -> str:
    return f"profile-{name}"


def output_name(name: str) -> str:
    return f"dgdr-output-{name}"


def profile_name(name: str) -> str:
    return f"planner-profile-data-{name}"


class Making:
    """The plainest objects that will do."""

    def _object(self, request: Request, name: str, data: Mapping[str, str] | None = None) -> dict[str, Any]:
        metadata = {"name": name, "request": request.uid, "owners": [request.uid]}
        return {"metadata": metadata, "data": dict(data or {})}

    def frozen(self, request: Request, seen: Seen) -> Object:
        if seen.base is None or "DynamoGraphDeployment" not in seen.base:
            raise CannotBeMadeError("BaseManifestUnusable", "disagg.yaml is no DynamoGraphDeployment; put one there")
        return self._object(request, output_name(request.name), {SPEC_KEY: json.dumps(request.spec), BASE_KEY: seen.base})

    def profile_config_map(self, request: Request) -> Object:
        return self._object(request, profile_name(request.name))

    def job(self, request: Request, seen: Seen) -> Object:
        return {**self._object(request, job_name(request.name)), "facts": {"state": JobState.WAITING}}

    def graph(self, request: Request, seen: Seen) -> dict[str, Any]:
        if "unusable_overrides" in request.spec:
            raise CannotBeMadeError("OverridesUnusable", f"overrides.dgd: {request.spec['unusable_overrides']}")
        if seen.profile is None or (request.model == "cannot be mapped" and seen.profile.prefill != "TP1"):
            raise CannotBeMadeError("MappingRefused", "the workers of the base manifest take no --tp; use another base manifest")
        annotations = {"uid": request.uid}
        return {
            "kind": "DynamoGraphDeployment",
            "metadata": {"name": request.graph_name, "namespace": request.graph_namespace, "annotations": annotations},
            "spec": {"prefill": seen.profile.prefill, "decode": seen.profile.decode},
            "state": "pending",
        }

    def outputs(self, request: Request, seen: Seen, graph: Object) -> tuple[Object, ...]:
        output = self._object(request, output_name(request.name), {GRAPH_KEY: json.dumps(graph, sort_keys=True)})
        if seen.profile is not None and (seen.alone or SHARED_PROFILE in seen.held):
            return output, self._object(request, SHARED_PROFILE, seen.profile.files)
        return (output,)

    def profile_copy(self, request: Request, profile: ProfileSeen) -> Object:
        metadata = {"name": profile_name(request.name), "namespace": request.graph_namespace, "request": request.uid}
        return {"metadata": metadata, "data": dict(profile.files)}


def read(name: str, uid: str, generation: int, spec: Object) -> Request | tuple[Fault, ...]:
    """As `alpha.py` does it, of the few fields that there are here."""
    if "wrong" in spec:
        hint = "write a positive number of milliseconds"
        return (Fault("spec.profilingConfig.config.sla.ttft", f"must be a number of milliseconds above 0, not {spec['wrong']}", hint),)
    profiling = Profiling(
        method=Method.OFFLINE if spec.get("offline") else Method.ONLINE,
        base=BaseManifest(spec["base"], BASE_KEY) if "base" in spec else None,
        output_claim=spec.get("claim"),
        dry_run=bool(spec.get("dry_run")),
        limits=EngineLimits(min_gpus=spec.get("min_gpus"), gpus_per_node=spec.get("gpus_per_node")),
    )
    return Request(
        name=name,
        namespace=NAMESPACE,
        uid=uid,
        generation=generation,
        shape=spec.get("shape", "v1alpha1"),
        model=spec["model"],
        backend="vllm",
        goal=Goal(Sla(200.0, 20.0), 3000, 150),
        profiling=profiling,
        deploying=Deploying(name=spec.get("graph"), namespace=spec.get("there")),
        auto_apply=spec["autoApply"],
        spec=spec,
        notes=tuple(spec.get("notes", ())),
    )
