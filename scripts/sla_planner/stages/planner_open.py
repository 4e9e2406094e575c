"""What the settings of a target name, opened: where its traffic is read, what is scaled, where its memory is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sla_planner.cluster.state_store import StateStore
from sla_planner.cluster.virtual import open_virtual_target
from sla_planner.cluster.virtual_protocol import DEFAULT_NAMESPACE
from sla_planner.engines.metric_names import metric_family
from sla_planner.metrics.scrape import ScrapeSource
from sla_planner.plan.forecast import check_available
from sla_planner.planner_config import CONFIG_MAP, PlannerConfig, TargetConfig
from sla_planner.stages.planner_target import NO_OPERATION, PlannedTarget, Ports, TrafficSource, may_act
from sla_planner.stages.planner_words import Voice
from sla_planner.store.state_file import StateFile, state_path


def open_targets(config: PlannerConfig, standing: Callable[[], str] = may_act) -> list[PlannedTarget]:
    """All of them. Raises `PlannerError` when one can never work. `standing`: why this process must not act now."""
    alone = len(config.targets) == 1
    stand = (lambda: NO_OPERATION) if config.no_operation else standing
    return [open_target(target, store=_open_store(config, target, alone=alone), standing=stand, alone=alone) for target in config.targets]


def open_target(config: TargetConfig, *, store: StateStore | None, standing: Callable[[], str] = may_act, alone: bool = True) -> PlannedTarget:
    """Raises `PlannerError` when it can never work: no profile, bad limits, no cluster to talk to."""
    check_available(config.load_predictor)
    source, voice = _open_source(config), Voice(config.name, alone)
    if config.environment == "kubernetes":
        from sla_planner.stages.planner_kubernetes import open_kubernetes_target  # the client takes most of a second to load

        in_cluster = open_kubernetes_target(config)
        announcer = None if standing() == NO_OPERATION else in_cluster
        return PlannedTarget(config, Ports(source, in_cluster, store, announcer, standing), voice)
    assert config.virtual_target is not None
    virtual = open_virtual_target(config.virtual_target, config.namespace or DEFAULT_NAMESPACE, config.name)
    return PlannedTarget(config, Ports(source, virtual, store, None, standing), voice)


def _open_store(config: PlannerConfig, target: TargetConfig, *, alone: bool) -> StateStore | None:
    if config.state is None:
        return None
    name = config.state.removeprefix(CONFIG_MAP)
    if name != config.state:
        from sla_planner.stages.planner_kubernetes import open_state_config_map

        return open_state_config_map(name, target.name)
    return StateFile(state_path(Path(config.state), target.name, alone=alone))


def _open_source(config: TargetConfig) -> TrafficSource:
    family = metric_family(config.metrics)
    if config.scrape_url:
        return ScrapeSource(config.scrape_url, family, model=config.model_name, namespace=config.namespace)
    from sla_planner.metrics.prometheus import PrometheusAccess, PrometheusSource

    assert config.prometheus_url is not None
    access = PrometheusAccess(
        config.prometheus_url,
        timeout_s=config.prometheus_timeout_s,
        token_file=config.prometheus_bearer_token_file,
        ca_file=config.prometheus_ca_file,
        verify_tls=config.prometheus_tls_verify,
    )
    return PrometheusSource(access, family, model=config.model_name, namespace=config.namespace)
