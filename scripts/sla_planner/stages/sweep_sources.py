"""From the settings of a sweep to what it measures: the mappings, the engines' launchers, what is known of the model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sla_planner.engines.backend import Backend
from sla_planner.engines.backends import backend
from sla_planner.engines.endpoint import EndpointLauncher
from sla_planner.engines.hosted import HostedLauncher, Recipe
from sla_planner.engines.hosted_graph import GraphRecipe, PairRecipe
from sla_planner.engines.hosted_workload import WorkloadRecipe
from sla_planner.engines.process import ProcessLauncher
from sla_planner.errors import UnreachableError, UsageError
from sla_planner.model.profile import ParallelMapping
from sla_planner.sweep.capacity import estimated_kv_tokens
from sla_planner.sweep.model_shape import ModelShape
from sla_planner.sweep.port import Deployment, Launcher
from sla_planner.sweep.space import MOST_MOE_GPUS, SearchSpace, search_space
from sla_planner.sweep_config import SweepConfig

if TYPE_CHECKING:
    from sla_planner.stages.profile_sweep_cluster import Cluster
    from sla_planner.sweep.runner import Options

Manifests = Callable[[Sequence[Deployment]], dict[str, str]]  # file names and texts

CONTEXT_OF_GOAL = 2  # times the goal's lengths, where nobody says how long a context may be


@dataclass(frozen=True, slots=True)
class Source:
    """What a sweep measures. `launcher` is None where nothing is started (a dry run of manifests, an offline profile); `cluster` where none is
    needed."""

    backend: Backend
    shape: ModelShape
    space: SearchSpace
    max_context_tokens: int
    launcher: Launcher | None
    may_grow: bool  # a larger engine than the largest here was not allowed, and could be
    manifests: Manifests
    cluster: Cluster | None = None

    def prepare(self, deployments: Sequence[Deployment]) -> None:
        """Before anything is started: what can be known to go wrong later goes wrong now."""
        if self.cluster is not None:
            self.cluster.prepare(self.launcher if isinstance(self.launcher, HostedLauncher) else None, deployments)

    def options(self, config: SweepConfig) -> Options:
        """How far the sweep goes."""
        from sla_planner.sweep.runner import Options

        return Options(
            max_context_tokens=self.max_context_tokens,
            most_prefill_points=config.prefill_interpolation_granularity,
            most_decode_points=config.decode_interpolation_granularity,
            prompt_form=config.prompt_form,
            max_kv_tokens=config.max_kv_tokens,
            gpus_at_once=config.gpus_at_once,
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
    cluster = _cluster(config)
    launcher, manifests = _launcher(config, engine, space, cluster)
    largest = max(mapping.gpus for mapping in (*space.prefill, *space.decode))
    limit = config.num_gpus_per_node if config.engine_command or not moe else MOST_MOE_GPUS
    may_grow = config.endpoint is None and engine.parallel and config.max_num_gpus is not None and largest == config.max_num_gpus < limit
    return Source(engine, shape, space, longest, launcher, may_grow, manifests, cluster)


def pair_launcher(config: SweepConfig, source: Source, prefill: ParallelMapping, decode: ParallelMapping) -> Launcher | None:
    """What starts both picks behind one port: as the user said, else the graph that engines were derived from."""
    if config.verify_command is None:
        return _hosted_pair(config, source.launcher, prefill, decode) if isinstance(source.launcher, HostedLauncher) else None
    template = config.verify_command
    for phase, mapping in (("prefill", prefill), ("decode", decode)):
        for size in ("tp", "dp", "ep", "gpus"):
            template = template.replace(f"{{{phase}_{size}}}", str(getattr(mapping, size)))
    return ProcessLauncher(template, source.backend, model=config.model or "", ready_limit_s=config.ready_limit_s, log_dir=config.output_dir / "logs")


def _hosted_pair(config: SweepConfig, launcher: HostedLauncher, prefill: ParallelMapping, decode: ParallelMapping) -> HostedLauncher | None:
    """None where both picks are one, are more than may be used, or the manifest does not tell the phases apart."""
    if not isinstance(launcher.recipe, GraphRecipe) or prefill == decode:
        return None
    if config.max_gpus is not None and prefill.gpus + decode.gpus > config.max_gpus:
        return None
    try:
        return replace(launcher, recipe=PairRecipe(launcher.recipe, prefill, decode))
    except UsageError:
        return None


def _cluster(config: SweepConfig) -> Cluster | None:
    if config.dry_run or not (config.in_cluster or config.publish_configmap):
        return None
    from sla_planner.stages.profile_sweep_cluster import Cluster

    return Cluster(config)


def _recipe(config: SweepConfig, engine: Backend, file: Path) -> Recipe:
    if config.dgd is not None:
        return GraphRecipe(_text(file), engine, worker_image=config.image, port=config.engine_port, node_gpus=config.num_gpus_per_node)
    return WorkloadRecipe(_text(file), model=config.model or "", image=config.image or "", port=config.engine_port)


def _launcher(config: SweepConfig, engine: Backend, space: SearchSpace, cluster: Cluster | None) -> tuple[Launcher | None, Manifests]:
    if config.engine_command is not None:
        launcher: Launcher = ProcessLauncher(
            config.engine_command,
            engine,
            model=config.model or "",
            ready_limit_s=config.ready_limit_s,
            log_dir=config.output_dir / "logs",
            gpus_per_node=config.num_gpus_per_node,
        )
        _check_template("--engine-command", lambda mapping: launcher.identity(Deployment(mapping)).source, space)
    elif config.endpoint is not None:
        mapping = space.prefill[0]
        launcher = EndpointLauncher(config.endpoint, mapping=mapping, backend=engine, model=config.model or "", max_kv_tokens=config.max_kv_tokens)
    elif (file := config.dgd or config.workload) is not None:
        recipe = _recipe(config, engine, file)
        _check_template("--workload", lambda mapping: str(recipe.manifests(Deployment(mapping), "any").documents), space)
        return cluster.launcher(recipe, engine) if cluster else None, lambda deployments: dict(map(recipe.text, deployments))
    else:
        return None, lambda _: {}
    return launcher, lambda deployments: dict(map(launcher.manifest, deployments))


def _check_template(flag: str, what: Callable[[ParallelMapping], str], space: SearchSpace) -> None:
    by_what: dict[str, str] = {}
    for deployment in space.deployments():
        mapping = deployment.mapping
        if by_what.setdefault(started := what(mapping), mapping.label) != mapping.label:
            labels = f"{by_what[started]} and {mapping.label}"
            raise UsageError(f"{flag} starts the same engine for {labels}", hint="put {tp} where its GPU count goes, or give --max-num-gpus 1")


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
