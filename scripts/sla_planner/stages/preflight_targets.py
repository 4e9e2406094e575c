"""One target of the planner's settings, as it is found: what is scaled and by whom, its engines, its profile, its traffic, its last decision."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sla_planner.cluster.api import KubernetesApi, NotFound
from sla_planner.cluster.graph import Graph
from sla_planner.cluster.owners import written_by
from sla_planner.cluster.preflight_facts import age_s
from sla_planner.cluster.preflight_reader import Reader
from sla_planner.cluster.resources import CONFIG_MAPS, GRAPHS_ALPHA, GRAPHS_BETA, Object
from sla_planner.cluster.scale_object import ScaleObject
from sla_planner.cluster.scale_reference import scale_reference
from sla_planner.cluster.seat import Seat
from sla_planner.engines.arguments import CommandLine
from sla_planner.engines.dgd_roles import role_services
from sla_planner.engines.dgd_services import read_services, unshared
from sla_planner.engines.metric_names import metric_family
from sla_planner.errors import ForbiddenError, PlannerError, ProfileError, UnreachableError
from sla_planner.metrics.preflight_traffic import traffic_in_prometheus, traffic_on_pages
from sla_planner.metrics.prometheus import PrometheusAccess
from sla_planner.plan.decision import Role
from sla_planner.planner_config import TargetConfig
from sla_planner.preflight.facts import ProfileFacts, RoleFacts, TargetFacts, TrafficFacts, Unread, Wrong
from sla_planner.stages.planner_kubernetes import GRAPH_MANIFEST
from sla_planner.stages.preflight_settings import Settings, config_map_at
from sla_planner.store.profile_files import read_profile

_PROGRAM = re.compile(r"dynamo\.\w+|vllm|sglang\S*|trtllm\S*|sla-planner")
_TP = ("--tensor-parallel-size", "-tp", "--tp-size", "--tp")
_MODEL = ("--model", "--model-path")


@dataclass(frozen=True, slots=True)
class Remembered:
    """Of one target, from the planner's status: how old its last decision is, and the roles that it scaled when it scaled last."""

    age_s: float | None = None
    scaled: frozenset[str] = frozenset()


def target_facts(config: TargetConfig, reader: Reader, settings: Settings, remembered: Remembered) -> TargetFacts:
    """Never raises for what this target alone can cause."""
    own = config.prometheus_url or next(iter(config.scrape_url), "")
    url = settings.look_at or own
    return TargetFacts(
        name=config.name,
        namespace=config.target_namespace or reader.api.namespace,
        url=url,
        planner_url=own,
        direct=bool(config.scrape_url) and not settings.look_at,
        family=config.metrics,
        interval_s=config.adjustment_interval,
        model=config.model_name or "",
        dynamo_namespace=config.namespace or "",
        traffic=_traffic(config, url, pages=() if settings.look_at else config.scrape_url),
        graph=config.graph_deployment or "",
        of=settings.graph,
        roles=_roles(config, reader),
        profile=_profile(config, reader, settings),
        last_decision_age_s=remembered.age_s,
        last_scaled=remembered.scaled,
    )


def remembered(state: Object | None, target: str) -> Remembered:
    """From the ConfigMap of the planner's memory; a damaged status is none."""
    try:
        status = json.loads(((state or {}).get("data") or {})[f"{target}.status.json"])
        last = status.get("lastScaling") or {}
        scaled = frozenset(role.value for role in Role if last.get(role.value, {}).get("from") != last.get(role.value, {}).get("to"))
        return Remembered(age_s(status["lastDecision"]["at"]), scaled)
    except (LookupError, TypeError, ValueError, AttributeError):
        return Remembered()


# ---- what is scaled -------------------------------------------------------------------------------------------------------------------------


def _roles(config: TargetConfig, reader: Reader) -> tuple[RoleFacts, ...] | Unread | Wrong:
    if config.environment != "kubernetes":
        return ()
    api = KubernetesApi(reader.api.configuration, config.target_namespace or reader.api.namespace)
    try:
        found = reader.told(lambda: tuple(_graph_roles(api, config.graph_deployment) if config.graph_deployment else _pair_roles(api, config)))
    except NotFound as error:
        return Wrong(error.message, error.hint)
    except PlannerError as error:
        return Wrong(error.message, error.hint)
    return found


def _graph_roles(api: KubernetesApi, name: str) -> Iterator[RoleFacts]:
    seats = Graph(api, name, GRAPH_MANIFEST).read()
    graph = api.get(GRAPHS_BETA if api.serves(GRAPHS_BETA) else GRAPHS_ALPHA, name)
    services = {service.name: service for service in read_services(unshared(graph))}
    for role, service in zip((Role.PREFILL, Role.DECODE), role_services(graph), strict=True):
        paths = ("spec", "services", service.name, "replicas"), ("spec", "components", {"name": service.name}, "replicas")
        found = _role(role, seats[role], ("spec", "replicas"), *paths, container=services[service.name].container)
        yield replace(found, made=f"{name}-{service.name.lower()}")


def _pair_roles(api: KubernetesApi, config: TargetConfig) -> Iterator[RoleFacts]:
    for role, text in ((Role.PREFILL, config.prefill_target), (Role.DECODE, config.decode_target)):
        seat = ScaleObject(api, scale_reference(str(text))).read()
        template = seat.holder.get("spec", {}).get("template") or {}
        containers = (template.get("spec") or {}).get("containers") or [{}]
        yield _role(role, seat, ("spec", "replicas"), container=containers[0])


def _role(role: Role, seat: Seat, *paths: Any, container: Mapping[str, Any]) -> RoleFacts:
    holder = seat.holder
    engine = _engine(container)
    tp = engine.value(*_TP) or ""
    return RoleFacts(
        role=role.value,
        holder=f"{holder['kind'].lower()}/{holder['metadata']['name']}",
        kind=holder["kind"],
        name=holder["metadata"]["name"],
        replicas=seat.replicas,
        owners=_owners(holder, *paths),
        paused_by=seat.paused_by,
        pods=seat.shape.pods,
        gpus=seat.shape.gpus,
        tp=int(tp) if tp.isdecimal() else None,
        model=engine.value(*_MODEL),
    )


def _engine(container: Mapping[str, Any]) -> CommandLine:
    words: list[str] = []
    for given in (container.get("command"), container.get("args")):
        words += [given] if isinstance(given, str) else [str(each) for each in given or ()]
    return CommandLine(words, _PROGRAM)


def _owners(holder: Object, *paths: Any) -> tuple[str, ...]:
    """Every field manager that holds the count; `written_by` names the one that counts."""
    entries = holder["metadata"].get("managedFields") or ()
    managers = dict.fromkeys(str(entry.get("manager", "")) for entry in sorted(entries, key=lambda entry: str(entry.get("time", ""))))
    of_one = ({"metadata": {"managedFields": [entry for entry in entries if entry.get("manager") == each]}} for each in managers)
    return tuple(owner for found in of_one if (owner := written_by(found, *paths)))


# ---- profile and traffic --------------------------------------------------------------------------------------------------------------------


def _profile(config: TargetConfig, reader: Reader, settings: Settings) -> ProfileFacts | Unread | Wrong:
    place = config.profile_results_dir
    config_map, claim = config_map_at(settings.volumes, place)
    if claim:
        return Unread(f"it is on the volume {claim}, which is not mounted here; sla-planner download-results, then --profile-results-dir results")
    if not config_map:
        if place.is_absolute() and not place.exists():
            return Unread(f"{place} is a folder of the planner's pod; give the profile's own place with --profile-results-dir")
        return _read(place, str(place))
    found = reader.named(CONFIG_MAPS, config_map)
    if isinstance(found, Unread):
        return found
    if found is None:
        return Wrong(f"is to be in the ConfigMap {config_map}, which is not there")
    with tempfile.TemporaryDirectory() as folder:
        for key, text in (found.get("data") or {}).items():
            (Path(folder) / Path(key).name).write_text(text)
        return _read(Path(folder), f"ConfigMap {config_map}")


def _read(folder: Path, place: str) -> ProfileFacts | Wrong:
    try:
        profile = read_profile(folder)
    except ProfileError as error:
        return Wrong(f"in {place} cannot be used: {error.message}", error.hint)
    prefill, decode = profile.selected_prefill, profile.selected_decode
    return ProfileFacts(place, profile.provenance.model, prefill.tp, prefill.gpus, decode.tp, decode.gpus)


def _traffic(config: TargetConfig, url: str, *, pages: tuple[str, ...]) -> TrafficFacts | Unread | Wrong:
    try:
        family = metric_family(config.metrics)
        if pages:
            return traffic_on_pages(pages, family)
        access = PrometheusAccess(
            url,
            timeout_s=config.prometheus_timeout_s,
            token_file=config.prometheus_bearer_token_file,
            ca_file=config.prometheus_ca_file,
            verify_tls=config.prometheus_tls_verify,
        )
        return traffic_in_prometheus(access, family)
    except UnreachableError as error:
        if _inside_only(url) and not runs_in_a_pod():
            return Unread(f"{url} is a name inside the cluster ({error.message}), and this runs outside")
        return Unread(error.message, unreachable=True)
    except (ForbiddenError, PlannerError) as error:
        return Wrong(error.message, error.hint)


def runs_in_a_pod() -> bool:
    return "KUBERNETES_SERVICE_HOST" in os.environ


def _inside_only(url: str) -> bool:
    """Whether the host is called as a Service is: `prometheus`, `prometheus.monitoring`, `...svc.cluster.local`."""
    host = urlsplit(url).hostname or ""
    return host != "localhost" and not host.replace(".", "").isdecimal() and (host.count(".") <= 1 or host.endswith((".svc", ".cluster.local")))
