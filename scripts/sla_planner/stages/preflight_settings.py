"""Which settings the planner of an installation has: named on the command line, or found in the namespace.

--planner-config FILE         that file
else                          the arguments, variables and ConfigMaps of the planner's pods, as Kubernetes hands them over
                              and of every graph with a planner in it, those of that service
--graph-deployment, ...       override either; alone they describe one target
--prometheus-url URL          where metrics are looked at; the planner itself may know its Prometheus by another name
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import click

from sla_planner.cluster.preflight_reader import Reader
from sla_planner.cluster.resources import CONFIG_MAPS
from sla_planner.config import load
from sla_planner.errors import PlannerError, UsageError
from sla_planner.planner_config import PlannerConfig
from sla_planner.preflight.facts import Unread, Workload, Wrong
from sla_planner.preflight_config import PreflightConfig
from sla_planner.stages.planner import command as planner_command

PLANNER = "planner"  # the account, where nothing else is written
PARENT = "DYN_PARENT_DGD_K8S_NAME"  # of Dynamo's operator, in every pod of a graph
_PAIR, _GRAPH = ("prefill_target", "decode_target"), ("graph_deployment",)


@dataclass(frozen=True, slots=True)
class Settings:
    """`config` None: there are none, or `trouble` says why. `volumes`: of the planner's pod, by mount path. `look_at`: instead of its Prometheus.

    `account`: the ServiceAccount that it runs as. `graph`: the one that it is a service of, '' = of none.
    """

    source: str = ""
    config: PlannerConfig | None = None
    trouble: Wrong | Unread | None = None
    volumes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    look_at: str = ""
    account: str = PLANNER
    graph: str = ""


def settings_of(config: PreflightConfig, reader: Reader, workloads: tuple[Workload, ...] | Unread) -> Settings:
    """Raises `UsageError` when what was named on the command line alone is not enough."""
    given, look_at = config.of_a_target, config.prometheus_url or ""
    rest = {name: value for name, value in given.items() if name != "prometheus_url"}
    if config.planner_config is not None:
        source = str(config.planner_config)
        if not config.planner_config.is_file():
            raise UsageError(f"flag --planner-config: there is no file {source}", hint="name the planner's planner.yaml")
        return replace(_loaded(source, {"config": source}, rest), look_at=look_at)
    planners = [] if isinstance(workloads, Unread) else [each for each in workloads if each.stage == "planner"]
    if planners:
        chosen = next((each for each in planners if each.runs), planners[0])
        return replace(_installed(chosen, reader, rest), look_at=look_at, account=chosen.account)
    if _names_a_target(given):
        return Settings("the command line", load(PlannerConfig, _overridden({}, given), {}).config)
    return Settings(trouble=workloads if isinstance(workloads, Unread) else None)


def settings_of_graphs(config: PreflightConfig, reader: Reader, planners: Sequence[Workload]) -> tuple[Settings, ...]:
    """Of planners that are services of graphs; none where it is named what to look at."""
    if config.planner_config is not None or _names_a_target(config.of_a_target):
        return ()
    given = {name: value for name, value in config.of_a_target.items() if name != "prometheus_url"}
    look_at = config.prometheus_url or ""
    return tuple(
        replace(_installed(each, reader, given, {PARENT: each.name}), look_at=look_at, account=each.account, graph=each.name)
        for each in planners
        if each.runs
    )


def _installed(workload: Workload, reader: Reader, given: Mapping[str, str], more: Mapping[str, str] = MappingProxyType({})) -> Settings:
    """As the pods of `workload` would load them. `more`: variables that its pods are given by whoever makes them."""
    spec = workload.pod.get("spec") or {}
    container: Mapping[str, Any] = next(iter(spec.get("containers") or ()), {})
    volumes = _by_path(spec, container)
    source = f"{workload.kind} {workload.name}"
    with tempfile.TemporaryDirectory() as folder:
        arguments = []
        for argument in map(str, container.get("args") or ()):
            file = _mounted(argument, volumes, reader)
            if isinstance(file, Unread | Wrong):
                return Settings(source, trouble=file, volumes=volumes)
            if file is not None:
                text, source = file
                (Path(folder) / "planner.yaml").write_text(text)
            arguments.append(str(Path(folder) / "planner.yaml") if file is not None else argument)
        try:
            flags = dict(planner_command.make_context("planner", arguments[1:]).params)
        except click.ClickException as error:
            return Settings(source, trouble=Wrong(error.format_message().rstrip(".")), volumes=volumes)
        variables = dict(more) | {str(each["name"]): str(each["value"]) for each in container.get("env") or () if "value" in each}
        settings = _loaded(source, flags, given, variables)
    trouble = settings.trouble
    if isinstance(trouble, Wrong):  # the file that it names is gone
        trouble = Wrong(trouble.what.replace(f"file {folder}/planner.yaml: ", "").replace(f"{folder}/", ""), trouble.hint)
    return Settings(source, settings.config, trouble, volumes)


def _loaded(source: str, flags: Mapping[str, Any], given: Mapping[str, str], variables: Mapping[str, str] | None = None) -> Settings:
    try:
        return Settings(source, load(PlannerConfig, _overridden(flags, given), variables or {}).config)
    except PlannerError as error:
        return Settings(source, trouble=Wrong(error.message, error.hint))


def _overridden(flags: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    """A target that is named takes the place of the one in the flags, be it a graph or a pair."""
    named = _names_a_target(given)
    kept = {name: value for name, value in flags.items() if not (named and name in (*_PAIR, *_GRAPH))}
    return {**kept, **given, **({"environment": "kubernetes"} if named else {})}


def _names_a_target(given: Mapping[str, str]) -> bool:
    return any(name in given for name in (*_PAIR, *_GRAPH))


def _by_path(spec: Mapping[str, Any], container: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    volumes = {each.get("name"): each for each in spec.get("volumes") or ()}
    return {str(each["mountPath"]): volumes.get(each.get("name"), {}) for each in container.get("volumeMounts") or ()}


def _mounted(argument: str, volumes: Mapping[str, Mapping[str, Any]], reader: Reader) -> tuple[str, str] | Unread | Wrong | None:
    """Text and name of the file of a ConfigMap that `argument` names; None when it names none."""
    if not (argument.startswith("/") and argument.endswith((".yaml", ".yml"))):
        return None
    path = PurePosixPath(argument)
    volume = volumes.get(str(path.parent), {})
    name = str((volume.get("configMap") or {}).get("name", ""))
    if not name:
        return Unread(f"{argument} is not from a ConfigMap")
    found = reader.named(CONFIG_MAPS, name)
    if isinstance(found, Unread):
        return found
    text = ((found or {}).get("data") or {}).get(path.name)
    if text is None:
        return Wrong(f"the ConfigMap {name} is not there" if found is None else f"the ConfigMap {name} has no key {path.name}")
    return text, f"{path.name} of ConfigMap {name}"


def config_map_at(volumes: Mapping[str, Mapping[str, Any]], path: Path) -> tuple[str, str]:
    """The ConfigMap, and the claim, that is mounted at `path` or above it; '' where it is none."""
    places: Sequence[str] = sorted((place for place in volumes if path.is_relative_to(place)), key=len)
    volume = volumes[places[-1]] if places else {}
    return str((volume.get("configMap") or {}).get("name", "")), str((volume.get("persistentVolumeClaim") or {}).get("claimName", ""))
