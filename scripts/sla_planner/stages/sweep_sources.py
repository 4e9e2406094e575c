"""From the settings of a sweep to what it measures: the mappings, the engines' launchers, what is known of the model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sla_planner.engines.backend import Backend
from sla_planner.engines.backends import backend
from sla_planner.engines.endpoint import EndpointLauncher
from sla_planner.engines.process import ProcessLauncher
from sla_planner.errors import UnreachableError, UsageError
from sla_planner.model.profile import ParallelMapping
from sla_planner.sweep.capacity import estimated_kv_tokens
from sla_planner.sweep.model_shape import ModelShape
from sla_planner.sweep.port import Deployment, Launcher, Phase
from sla_planner.sweep.space import MOST_MOE_GPUS, SearchSpace, search_space
from sla_planner.sweep_config import SweepConfig

if TYPE_CHECKING:
    from sla_planner.sweep.runner import Options

CONTEXT_OF_GOAL = 2  # times the goal's lengths, where nobody says how long a context may be


@dataclass(frozen=True, slots=True)
class Source:
    """What a sweep measures. `launcher` is None where nothing can be started (a manifest to derive from, an offline profile)."""

    backend: Backend
    shape: ModelShape
    space: SearchSpace
    max_context_tokens: int
    launcher: Launcher | None
    may_grow: bool  # a larger engine than the largest here was not allowed, and could be
    manifests: Callable[[Sequence[Deployment]], dict[str, str]]

    def options(self, config: SweepConfig) -> Options:
        """How far the sweep goes."""
        from sla_planner.sweep.runner import Options

        return Options(
            max_context_tokens=self.max_context_tokens,
            most_prefill_points=config.prefill_interpolation_granularity,
            most_decode_points=config.decode_interpolation_granularity,
            prompt_form=config.prompt_form,
            max_kv_tokens=config.max_kv_tokens,
            kv_estimate=lambda deployment: estimated_kv_tokens(self.shape, config.hardware(), deployment.mapping),
        )


def source_of(config: SweepConfig) -> Source:
    """What `config` asks for. Raises `UsageError` for a file, backend or template that cannot be used, or when no mapping is left."""
    engine = backend(config.backend)
    if config.endpoint is not None and config.model is None:
        config = config.model_copy(update={"model": _served(config.endpoint)})  # another model behind the same address is another engine
    shape = _shape(config)
    goal = config.goal()
    moe = _has_experts(config, shape)
    space = search_space(shape, config.hardware(), moe=moe, parallel=engine.parallel)
    if config.endpoint is not None:  # one engine that does both, whatever it is
        space = SearchSpace(space.prefill[:1], space.prefill[:1], space.left_out)
    longest = config.max_context_length or shape.max_context_tokens or CONTEXT_OF_GOAL * (goal.isl_tokens + goal.osl_tokens)
    launcher, manifests = _launcher(config, engine, space)
    _check_template(launcher, space)
    largest = max(mapping.gpus for mapping in (*space.prefill, *space.decode))
    limit = config.num_gpus_per_node if config.engine_command or not moe else MOST_MOE_GPUS
    may_grow = config.endpoint is None and engine.parallel and config.max_num_gpus is not None and largest == config.max_num_gpus < limit
    return Source(engine, shape, space, longest, launcher, may_grow, manifests)


def pair_launcher(config: SweepConfig, engine: Backend, prefill: ParallelMapping, decode: ParallelMapping) -> ProcessLauncher | None:
    """What starts both picks behind one port, when the user said how."""
    if config.verify_command is None:
        return None
    template = config.verify_command
    for phase, mapping in (("prefill", prefill), ("decode", decode)):
        for size in ("tp", "dp", "ep", "gpus"):
            template = template.replace(f"{{{phase}_{size}}}", str(getattr(mapping, size)))
    return ProcessLauncher(template, engine, model=config.model or "", ready_limit_s=config.ready_limit_s, log_dir=config.output_dir / "logs")


def _launcher(config: SweepConfig, engine: Backend, space: SearchSpace) -> tuple[Launcher | None, Callable[[Sequence[Deployment]], dict[str, str]]]:
    launcher: Launcher
    if config.engine_command is not None:
        launcher = ProcessLauncher(
            config.engine_command,
            engine,
            model=config.model or "",
            ready_limit_s=config.ready_limit_s,
            log_dir=config.output_dir / "logs",
            gpus_per_node=config.num_gpus_per_node,
        )
    elif config.endpoint is not None:
        mapping = space.prefill[0]
        launcher = EndpointLauncher(config.endpoint, mapping=mapping, backend=engine, model=config.model or "", max_kv_tokens=config.max_kv_tokens)
    else:
        return None, lambda deployments: _derived(config, engine, deployments)
    return launcher, lambda deployments: dict(launcher.manifest(deployment) for deployment in deployments)


def _check_template(launcher: Launcher | None, space: SearchSpace) -> None:
    if launcher is None:
        return
    by_source: dict[str, str] = {}
    for deployment in space.deployments():
        source = launcher.identity(Deployment(deployment.mapping)).source
        if by_source.setdefault(source, deployment.mapping.label) != deployment.mapping.label:
            labels = f"{by_source[source]} and {deployment.mapping.label}"
            raise UsageError(
                f"--engine-command starts the same engine for {labels}", hint="put {tp} where its GPU count goes, or give --max-num-gpus 1"
            )


def _derived(config: SweepConfig, engine: Backend, deployments: Sequence[Deployment]) -> dict[str, str]:
    """The manifests of all engines: one that serves both phases, or prefill-only and decode-only where each has an engine of its own."""
    from sla_planner.engines.dgd import derive, read_dgd, to_yaml

    if config.dgd is None:
        return {}
    document = read_dgd(_text(config.dgd))
    found = {}
    for deployment in deployments:
        mapping, role = deployment.mapping, "engine" if deployment.phase is Phase.BOTH else deployment.phase
        manifest = derive(document, engine, deployment, name=f"{role}-{mapping.gpus}gpus-{mapping.label.lower()}", image=config.image)
        found[f"{role}_{mapping.gpus}gpus_{mapping.label}/config.yaml"] = to_yaml(manifest)
    return found


def _shape(config: SweepConfig) -> ModelShape:
    path = config.model_config_path
    shape = ModelShape()
    if path is not None:
        file = path / "config.json" if path.is_dir() else path
        try:
            document = json.loads(_text(file))
        except ValueError as error:
            raise UsageError(f"{file} is not JSON ({str(error)[:80]})", hint="give the model's config.json or its folder") from None
        if not isinstance(document, dict):
            raise UsageError(f"{file} is no model config", hint="give the model's config.json or its folder")
        shape = ModelShape.from_hf_config(document)
    return shape if config.model_size_gib is None else shape.weighing(config.model_size_gib)


def _served(url: str) -> str | None:
    from sla_planner.traffic.client import served_models

    try:
        return next(iter(asyncio.run(served_models(url))), None)
    except UnreachableError as error:
        raise UnreachableError(error.message, hint="check --endpoint and that the engine is up") from None


def _has_experts(config: SweepConfig, shape: ModelShape) -> bool:
    if config.is_moe_model is not None:
        return config.is_moe_model
    if config.use_ai_configurator and config.model_config_path is None:
        from sla_planner.engines.ai_configurator import has_experts

        return has_experts(config.aic_hf_id or config.model or "")
    return shape.moe


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'not text'}", hint="check the path") from None
