"""v1alpha1: a request with `spec.profilingConfig`, whose `config` is what the profiler of Dynamo 0.6 to 0.9 takes, in snake_case or camelCase.

The guides of that profiler write the same thing in several places; all are read, and a fault where two of them differ:

    AI Configurator   sweep.aic_system, aic_hf_id (aic_model_name), aic_backend_version   aic.system, model_name (hf_id), backend_version
    GPUs of an engine hardware.min_num_gpus_per_engine, max_num_gpus_per_engine           sweep.min_num_gpus, max_num_gpus
    GPU discovery     spec.enableGpuDiscovery                                             hardware.enable_gpu_discovery
    image of workers  spec.deploymentOverrides.workersImage                               deployment.dgd_image
    model, backend    spec.model, spec.backend                                            deployment.model, engine.backend
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

from sla_planner.request import read_common as common
from sla_planner.request.read_common import Allowed, Lengths
from sla_planner.request.reading import Section
from sla_planner.request.spec import BaseManifest, Deploying, EngineLimits, Method, ModelCache, Object, Profiling, Request

_WHERE_THE_MANIFEST_LIES = "/config/"
_OLDER_MODELS = {
    "DEEPSEEK_V3": "deepseek-ai/DeepSeek-V3",
    "KIMI_K2": "moonshotai/Kimi-K2-Instruct",
    "LLAMA3.1_8B": "meta-llama/Meta-Llama-3.1-8B",
    "LLAMA3.1_70B": "meta-llama/Meta-Llama-3.1-70B",
    "LLAMA3.1_405B": "meta-llama/Meta-Llama-3.1-405B",
    "MOE_Mixtral8x7B": "mistralai/Mixtral-8x7B-v0.1",
    "MOE_Mixtral8x22B": "mistralai/Mixtral-8x22B-v0.1",
    "QWEN3_0.6B": "Qwen/Qwen3-0.6B",
    "QWEN3_1.7B": "Qwen/Qwen3-1.7B",
    "QWEN3_8B": "Qwen/Qwen3-8B",
    "QWEN3_32B": "Qwen/Qwen3-32B",
    "QWEN3_235B": "Qwen/Qwen3-235B-A22B",
    "QWEN3_480B": "Qwen/Qwen3-Coder-480B-A35B-Instruct",
}
_PROMISE = ("isl", "osl", "ttft", "itl")


@dataclass(frozen=True, slots=True)
class _Config:
    """Sections of `profilingConfig.config`."""

    whole: Section
    sla: Section
    deployment: Section
    engine: Section
    hardware: Section
    sweep: Section
    aic: Section
    planner: Section


def read_alpha(object: Object, spec: Section, allowed: Allowed) -> Request | None:
    """The request, None where something of it is missing; faults are in the findings of `spec`."""
    metadata = object["metadata"]
    profiling = spec.section("profilingConfig")
    profiling.required("profilerImage", "config", why="a v1alpha1 request has it")
    whole = Section(profiling.value("config"), profiling.path_of("config"), spec.findings, both=True)
    config = _Config(whole, *(whole.section(name) for name in ("sla", "deployment", "engine", "hardware", "sweep", "aic", "planner")))
    whole.no_effect("output_dir", "results lie where the Job puts them; outputPVC keeps them")
    spec.refused("useMocker", "there is no mocked engine here", "remove it; sweep.dry_run: true starts no engine either")

    spec.required("model", "backend", why="what is to be served, and by which engine")
    model, backend = spec.text("model"), spec.one_of("backend", common.BACKENDS)
    _same(config.deployment, "model", spec, model)
    _same(config.engine, "backend", spec, backend)
    lengths = common.lengths(config.sla)
    if profiling.value("config") is not None:
        config.sla.required(*_PROMISE, why="the deployment is sized for it")
    planner = common.planner_settings(config.planner, allowed)
    goal = common.goal(lengths, config.sla.milliseconds("ttft"), config.sla.milliseconds("itl"), planner)
    profiled = _profiling(spec, profiling, config, lengths, allowed)
    deployed = _deploying(spec, config, metadata, planner)
    auto_apply = spec.flag("autoApply")
    whole.finish()
    if model is None or backend is None or goal is None:
        return None
    return Request(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata.get("uid", ""),
        generation=metadata.get("generation", 0),
        shape="v1alpha1",
        model=model,
        backend=cast(Literal["vllm", "sglang", "trtllm"], backend),
        goal=goal,
        profiling=profiled,
        deploying=deployed,
        auto_apply=auto_apply or False,
        spec=spec.values,
        annotations=metadata.get("annotations") or {},
        notes=tuple(spec.findings.notes),
    )


def _profiling(spec: Section, profiling: Section, config: _Config, lengths: Lengths, allowed: Allowed) -> Profiling:
    sweep = config.sweep
    offline = sweep.flag("use_ai_configurator") or False
    reference = profiling.section("configMapRef")
    if profiling.value("configMapRef") is not None:
        reference.required("name", why="the ConfigMap that holds the manifest")
    name, key = common.object_name(reference, "name"), reference.text("key")
    base = BaseManifest(name, key or "disagg.yaml") if name else None
    _check_manifest_path(config.engine, base)
    wished = spec.flag("enableGpuDiscovery"), config.hardware.flag("enable_gpu_discovery")
    discover = any(wished)  # no contradiction: an operator's definition writes false where nothing was said
    system, aic_model, aic_version = _ai_configurator(config, spec, offline)
    limits = _limits(config, system, offline)
    if offline and limits.gpu_type is None and not discover:
        message = "AI Configurator needs to know the GPU, and neither aic_system nor hardware.gpu_type names it"
        sweep.fault("use_ai_configurator", message, f"add aic_system, for example {_example(allowed)}, or set enableGpuDiscovery: true")
    if offline and limits.gpu_type and allowed.aic_systems and limits.gpu_type not in allowed.aic_systems:
        path = sweep.path_of("aic_system") if system else config.hardware.path_of("gpu_type")
        known = ", ".join(sorted(allowed.aic_systems))
        spec.findings.fault(path, f"AI Configurator has no data of {limits.gpu_type!r}", f"use one of {known}, or use_ai_configurator: false")
    for name in ("skip_existing_results", "force_rerun"):
        sweep.no_effect(name, "each request is profiled once, and an interrupted sweep goes on where it was")
    sweep.no_effect("pick_with_webui", "the report page shows all mappings; the pick is the cheapest that keeps the promise")
    return Profiling(
        method=Method.OFFLINE if offline else Method.ONLINE,
        image=common.image(profiling, "profilerImage"),
        base=base,
        output_claim=common.object_name(profiling, "outputPVC"),
        limits=limits,
        discover_gpus=discover,
        prefill_points=sweep.count("prefill_interpolation_granularity", least=common.FEWEST_PREFILL_POINTS),
        decode_points=sweep.count("decode_interpolation_granularity", least=common.FEWEST_DECODE_POINTS),
        max_context_tokens=common.check_context(lengths, config.engine, "max_context_length", spec.findings),
        is_moe=config.engine.flag("is_moe_model"),
        start_limit_s=config.deployment.positive("timeout", "deployment_timeout"),
        dry_run=sweep.flag("dry_run") or False,
        aic_model=aic_model,
        aic_version=aic_version,
        resources=common.resources(profiling),
        tolerations=common.tolerations(profiling),
    )


def _limits(config: _Config, system: str | None, offline: bool) -> EngineLimits:
    hardware, sweep, agreed = config.hardware, config.sweep, config.whole.findings.agreed
    least, most = (
        agreed(
            (hardware.path_of(f"{bound}_num_gpus_per_engine"), hardware.count(f"{bound}_num_gpus_per_engine")),
            (sweep.path_of(f"{bound}_num_gpus"), sweep.count(f"{bound}_num_gpus")),
        )
        for bound in ("min", "max")
    )
    if least is not None and most is not None and least > most:
        hint = "raise max_num_gpus_per_engine or lower min_num_gpus_per_engine"
        hardware.fault("min_num_gpus_per_engine", f"at least {least} and at most {most} GPUs of one engine", hint)
    gpu_type = hardware.text("gpu_type")
    if offline:  # else the type is only a word; offline it says whose numbers are used
        gpu_type = agreed((config.sweep.path_of("aic_system"), system), (hardware.path_of("gpu_type"), gpu_type))
    return EngineLimits(least, most, hardware.count("num_gpus_per_node"), gpu_type=gpu_type)


def _ai_configurator(config: _Config, spec: Section, offline: bool) -> tuple[str | None, str | None, str | None]:
    """System, model and version. They are checked also where they are not used."""
    sweep, aic, agreed = config.sweep, config.aic, config.whole.findings.agreed
    served, backend = spec.value("model"), spec.value("backend")
    given = [
        (aic.path_of("system"), aic.text("system"), sweep.path_of("aic_system"), sweep.text("aic_system")),
        (
            aic.path_of("model_name"),
            aic.text("model_name", "hf_id"),
            sweep.path_of("aic_hf_id"),
            sweep.text("aic_hf_id", "aic_model_name"),
        ),
        (aic.path_of("backend_version"), aic.text("backend_version"), sweep.path_of("aic_backend_version"), sweep.text("aic_backend_version")),
    ]
    system, model, version = (agreed((path, value), (older, other)) for older, other, path, value in given)
    for section, name in ((sweep, "aic_backend"), (aic, "backend")):
        if (engine := section.text(name)) is not None and engine != backend and offline:
            message = f"{engine!r} cannot be followed: the profile would be of another engine than {backend!r}, which is served"
            section.fault(name, message, "remove it")
    if model is not None and "/" not in model:
        model = _huggingface_id(config, model)
    if not offline and (system or model or version):
        config.whole.findings.note(sweep.path, "the settings of AI Configurator have no effect: use_ai_configurator is not true")
        return None, None, None
    if model is not None and model != served:  # meant for a model that AI Configurator does not know, by one of the same shape
        config.whole.findings.note(sweep.path, f"the profile is that of {model!r}, computed for {served!r}: leave the name out if that is not meant")
    return system, model, version


def _huggingface_id(config: _Config, model: str) -> str | None:
    """Of a name as AI Configurator had them before it took ids. A path of the container has a slash as well."""
    if (found := _OLDER_MODELS.get(model)) is None:
        path = config.sweep.path_of("aic_hf_id") if "aic_hf_id" in config.sweep else config.aic.path_of("model_name")
        config.whole.findings.fault(path, f"{model!r} is no id of Hugging Face", "write for example Qwen/Qwen3-32B, or leave it out for spec.model")
    return found


def _deploying(spec: Section, config: _Config, metadata: Object, planner: dict[str, Any]) -> Deploying:
    overrides, deployment = spec.section("deploymentOverrides"), config.deployment
    name = overrides.text("name")
    source = overrides.path_of("name") if name else "metadata.name"
    namespace = common.namespace_of(overrides, "namespace")
    common.check_graph_name(source, name or metadata["name"], namespace or metadata["namespace"], spec.findings)
    common.check_own_namespace(deployment, "namespace", metadata["namespace"])
    deployment.no_effect("service_name", "the frontend is found by the labels of its pods")
    return Deploying(
        name=name,
        namespace=namespace,
        labels=common.labels_of(overrides, "labels"),
        annotations=common.annotations_of(overrides, "annotations"),
        workers_image=spec.findings.agreed(
            (overrides.path_of("workersImage"), common.image(overrides, "workersImage")),
            (deployment.path_of("dgd_image"), common.image(deployment, "dgd_image")),
        ),
        model_cache=_model_cache(deployment),
        planner=planner,
    )


def _model_cache(deployment: Section) -> ModelCache | None:
    """Flat keys, or from 0.8 on a section of its own."""
    inner, agreed = deployment.section("model_cache"), deployment.findings.agreed
    claim, path, mount = (
        agreed((inner.path_of(name), value), (deployment.path_of(flat), other))
        for name, flat, value, other in (
            ("pvc_name", "model_cache_pvc_name", common.object_name(inner, "pvc_name"), common.object_name(deployment, "model_cache_pvc_name")),
            ("pvc_path", "model_cache_pvc_path", inner.text("pvc_path"), deployment.text("model_cache_pvc_path")),
            ("mount_path", "model_cache_pvc_mount_path", inner.text("mount_path"), deployment.text("model_cache_pvc_mount_path")),
        )
    )
    return common.model_cache(claim, path, mount, deployment.path, deployment.findings)


def _check_manifest_path(engine: Section, base: BaseManifest | None) -> None:
    """`engine.config` is a path in the profiler's container, and the only manifest there is the one of configMapRef."""
    path = engine.text("config")
    if path is not None and not (base and path.startswith(_WHERE_THE_MANIFEST_LIES)):
        hint = "put the manifest into a ConfigMap and name that in profilingConfig.configMapRef, or remove it"
        engine.fault("config", f"{path!r} cannot be followed: nothing lies there in the profiler's container", hint)


def _same(section: Section, name: str, spec: Section, wanted: str | None) -> None:
    """A value that the reference's operator copies from the spec."""
    value = section.text(name)
    if value is not None and wanted is not None and value != wanted:
        section.fault(name, f"{value!r}, but {spec.path_of(name)} is {wanted!r}", "remove it: it is taken from there")


def _example(allowed: Allowed) -> str:
    return "h200_sxm" if not allowed.aic_systems or "h200_sxm" in allowed.aic_systems else min(allowed.aic_systems)
