"""v1beta1: a request without `spec.profilingConfig`. Only `model` is required; what is left out has the reference's defaults:

    backend auto -> vllm       searchStrategy rapid = AI Configurator, thorough = engines are measured
    isl 4000, osl 1000         ttft 2000 ms, itl 30 ms         autoApply true

The planner is part of every deployment unless `features.planner.enabled` is false; other keys of `features.planner` are its settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

from sla_planner.request import read_common as common
from sla_planner.request.read_common import Allowed
from sla_planner.request.reading import Section
from sla_planner.request.spec import Deploying, EngineLimits, Method, Object, Profiling, Request

ISL_TOKENS, OSL_TOKENS, TTFT_MS, ITL_MS = 4000, 1000, 2000.0, 30.0

_RAPID, _THOROUGH = "rapid", "thorough"
_PROFILE_SAYS = "the profile finds the load that a worker carries within ttft and itl"


def read_beta(object: Object, spec: Section, allowed: Allowed) -> Request | None:
    """The request, None where something of it is missing; faults are in the findings of `spec`."""
    metadata = object["metadata"]
    spec.required("model", why="what is to be served")
    model, backend = spec.text("model"), _backend(spec)
    workload, sla, features = spec.section("workload"), spec.section("sla"), spec.section("features")
    for name in ("concurrency", "requestRate"):
        workload.refused(name, "workers are not sized for one load; the planner follows the load that there is", f"remove it: {_PROFILE_SAYS}")
    sla.refused("e2eLatency", "the promise is made of ttft and itl", "write ttft and itl: e2eLatency is about ttft + (osl - 1) * itl")
    sla.refused("optimizationType", "the cheapest mapping that keeps the promise is picked", "write the ttft and itl that you need")
    features.section("kvRouter").refused("enabled", "a router is set in the frontend of the manifest", "set it by overrides.dgd")
    features.section("mocker").refused("enabled", "there is no mocked engine here", "remove it")
    with_planner, planner = _planner(features, spec, allowed)
    lengths = common.lengths(workload, ISL_TOKENS, OSL_TOKENS)
    goal = common.goal(lengths, sla.milliseconds("ttft") or TTFT_MS, sla.milliseconds("itl") or ITL_MS, planner)
    overrides = spec.section("overrides")
    common.check_graph_name("metadata.name", metadata["name"], metadata["namespace"], spec.findings)
    spec.refused("runtimeVersionOverride", "images are not derived from a version", "set the image of the workers by overrides.dgd")
    profiling = _profiling(spec, overrides, allowed)
    deploying = Deploying(
        model_cache=_model_cache(spec),
        planner=planner,
        with_planner=with_planner,
        trust_remote_code=overrides.flag("trustRemoteCode") or False,
        graph_patch=_graph_patch(overrides, metadata),
    )
    auto_apply = spec.flag("autoApply")
    if model is None or goal is None:
        return None
    return Request(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata.get("uid", ""),
        generation=metadata.get("generation", 0),
        shape="v1beta1",
        model=model,
        backend=backend,
        goal=goal,
        profiling=profiling,
        deploying=deploying,
        auto_apply=True if auto_apply is None else auto_apply,
        spec=spec.values,
        annotations=metadata.get("annotations") or {},
        notes=tuple(spec.findings.notes),
    )


def _graph_patch(overrides: Section, metadata: Object) -> Object | None:
    patch = overrides.mapping("dgd")
    own = (patch or {}).get("metadata")
    for key in ("name", "namespace"):
        if isinstance(own, Mapping) and own.get(key, metadata[key]) != metadata[key]:
            words = f"without effect: the deployment has the request's {key}; with profilingConfig it is set by deploymentOverrides.{key}"
            overrides.findings.note(f"{overrides.path_of('dgd')}.metadata.{key}", words)
    return patch


def _backend(spec: Section) -> Literal["vllm", "sglang", "trtllm"]:
    chosen = spec.one_of("backend", ("auto", *common.BACKENDS))
    if chosen is None or chosen == "auto":
        spec.findings.note(spec.path_of("backend"), "auto stands for vllm: engines are not compared with each other")
        return "vllm"
    return cast(Literal["vllm", "sglang", "trtllm"], chosen)


def _planner(features: Section, spec: Section, allowed: Allowed) -> tuple[bool, dict[str, Any]]:
    opened = features.section("planner")
    enabled = opened.flag("enabled")
    if "planner" not in features:
        words = "a planner is part of the deployment, also where it is not asked for; features.planner.enabled: false leaves it out"
        spec.findings.note(features.path_of("planner"), words)
    others = Section({key: value for key, value in opened.values.items() if key != "enabled"}, opened.path, opened.findings)
    for key in others.values:
        opened.value(key)
    settings = common.planner_settings(others, allowed)
    return enabled is not False, settings


def _profiling(spec: Section, overrides: Section, allowed: Allowed) -> Profiling:
    hardware = spec.section("hardware")
    strategy = spec.one_of("searchStrategy", (_RAPID, _THOROUGH)) or _RAPID
    sku = hardware.text("gpuSku")
    if strategy == _RAPID and sku and allowed.aic_systems and sku not in allowed.aic_systems:
        known = ", ".join(sorted(allowed.aic_systems))
        hardware.fault("gpuSku", f"AI Configurator has no data of {sku!r}", f"use one of {known}, or searchStrategy: {_THOROUGH}")
    for name in ("interconnect", "rdma"):
        hardware.no_effect(name, "engines are measured with the network that there is")
    per_node, total = hardware.count("numGpusPerNode"), hardware.count("totalGpus")
    return Profiling(
        method=Method.OFFLINE if strategy == _RAPID else Method.ONLINE,
        image=common.image(spec, "image"),
        limits=EngineLimits(gpus_per_node=per_node, total_gpus=total, gpu_type=sku, vram_mib=hardware.positive("vramMb")),
        discover_gpus=True,  # what is written down wins
        job_patch=overrides.mapping("profilingJob"),
    )


def _model_cache(spec: Section) -> Any:
    cache = spec.section("modelCache")
    names = common.object_name(cache, "pvcName"), cache.text("pvcModelPath"), cache.text("pvcMountPath")
    return common.model_cache(*names, cache.path, spec.findings)
