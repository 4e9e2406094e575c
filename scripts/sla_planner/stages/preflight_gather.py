"""All facts of an installation, gathered once. Everything that cannot be read is an `Unread` in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sla_planner.cluster.preflight_facts import cluster_facts, lease_facts, namespace_facts
from sla_planner.cluster.preflight_reader import Reader
from sla_planner.cluster.preflight_rights import account_may, own_rights
from sla_planner.cluster.resources import CONFIG_MAPS, SCALING_ADAPTERS
from sla_planner.cluster.scale_reference import scale_reference
from sla_planner.planner_config import CONFIG_MAP, PlannerConfig
from sla_planner.preflight.cluster_checks import RECONCILER
from sla_planner.preflight.facts import Facts, NamespaceFacts, PlannerFacts, RightsElsewhere, RightsFacts, TargetFacts, Unread
from sla_planner.preflight.rights import (
    ADAPTERS,
    DYNAMO,
    Right,
    ScaledObject,
    planner_rights,
    reconciler_rights,
    reconciler_view,
    sweep_rights,
    target_rights,
    volume_rights,
)
from sla_planner.preflight_config import PreflightConfig
from sla_planner.request.made_names import granting
from sla_planner.stages.preflight_settings import PLANNER, Settings, settings_of, settings_of_graphs
from sla_planner.stages.preflight_targets import remembered, runs_in_a_pod, target_facts

STATUS = "sla-planner-status"  # the memory of generated planners


def gather(config: PreflightConfig, reader: Reader) -> Facts:
    """Raises `UnreachableError` when the API server does not answer, `ForbiddenError` when it does not know us, `UsageError` for wrong flags."""
    cluster = cluster_facts(reader)
    namespace = namespace_facts(reader, claim=config.pvc)
    settings = settings_of(config, reader, namespace.workloads)
    of_graphs = settings_of_graphs(config, reader, namespace.graph_planners)
    if of_graphs and not _stands(namespace):  # what is installed and does not run is no planner here
        settings = Settings()
    planners = [(each, _targets(reader, each)) for each in (settings, *of_graphs)]
    return Facts(
        cluster=cluster,
        namespace=namespace,
        rights=_rights(reader, namespace, planners),
        planner=_planner_facts(reader, settings),
        graph_planners=tuple(_planner_facts(reader, each) for each in of_graphs),
        targets=tuple(target for _, targets in planners for target in targets),
    )


def _stands(namespace: NamespaceFacts) -> bool:
    """Whether a planner runs that is not part of a graph; also where that cannot be seen."""
    workloads = namespace.workloads
    return isinstance(workloads, Unread) or any(each.stage == "planner" and each.runs for each in workloads)


def _planner_facts(reader: Reader, settings: Settings) -> PlannerFacts:
    planner = settings.config
    name = config_map_of(planner)
    state = reader.named(CONFIG_MAPS, name) if name else None
    return PlannerFacts(
        source=settings.source,
        settings=settings.trouble,
        state=name,
        state_found=state if isinstance(state, Unread) else state is not None,
        lease=lease_facts(reader, planner.lease) if planner and planner.lease else None,
        of=settings.graph,
    )


def _targets(reader: Reader, settings: Settings) -> tuple[TargetFacts, ...]:
    planner = settings.config
    if planner is None:
        return ()
    name = config_map_of(planner)
    state = reader.named(CONFIG_MAPS, name) if name else None
    known = None if isinstance(state, Unread) else state
    return tuple(target_facts(each, reader, settings, remembered(known, each.name)) for each in planner.targets)


def _rights(reader: Reader, namespace: NamespaceFacts, planners: Sequence[tuple[Settings, Sequence[TargetFacts]]]) -> RightsFacts:
    """Of the accounts of what is installed; of an account without an installation nothing needs to be known."""
    workloads = () if isinstance(namespace.workloads, Unread) else namespace.workloads
    stages = {each.stage for each in workloads}
    accounts: dict[str, Mapping[Right, bool] | Unread] = {}
    ways: tuple[Mapping[Right, bool], ...] = ()
    view: Mapping[Right, bool] | Unread | None = None
    into: tuple[RightsElsewhere, ...] = ()
    needed: dict[str, list[Right]] = {}
    for settings, targets in planners:
        if settings.config and ("planner" in stages or namespace.graph_planners):
            own_targets = [each for each in targets if each.namespace == reader.api.namespace]
            needed.setdefault(settings.account, []).extend(_planner_rights(settings.config, own_targets))
    if RECONCILER in stages:  # the planners that it makes are of graphs that nobody can name yet
        needed.setdefault(PLANNER, []).extend(planner_rights([""], [], state=STATUS, lease=""))
    accounts |= {account: account_may(reader, account, dict.fromkeys(rights)) for account, rights in needed.items()}
    if "profile-sweep" in stages:
        always, either = sweep_rights(for_requests=RECONCILER in stages)
        accounts["profile-sweep"] = account_may(reader, "profile-sweep", always)
        answers = [account_may(reader, "profile-sweep", way) for way in either]
        ways = tuple(each for each in answers if not isinstance(each, Unread))
    if RECONCILER in stages:
        continuous = any(each.stage == RECONCILER and each.kind == "Deployment" for each in workloads)
        accounts[RECONCILER] = account_may(reader, RECONCILER, reconciler_rights(continuous=continuous))
        view = account_may(reader, RECONCILER, reconciler_view())
        places = () if isinstance(namespace.deployed_into, Unread) else namespace.deployed_into
        into = tuple(
            RightsElsewhere(there, account_may(reader, RECONCILER, target_rights(), there=there), granting(there, reader.api.namespace))
            for there in places
        )
    own = None if runs_in_a_pod() else own_rights(reader, volume_rights())
    return RightsFacts(accounts, ways, view, into, own)


def _planner_rights(planner: PlannerConfig, targets: Sequence[TargetFacts]) -> Sequence[Right]:
    """Of targets in the planner's own namespace: those elsewhere need a Role there."""
    named = {each.name: (each.prefill_target, each.decode_target) for each in planner.targets if each.environment == "kubernetes"}
    objects = [_scaled(text) for each in targets for text in named.get(each.name, ()) if text]
    for each in targets:
        roles = each.roles if isinstance(each.roles, tuple) else ()
        objects += (ScaledObject(DYNAMO, ADAPTERS, role.name) for role in roles if role.kind == SCALING_ADAPTERS.kind)
    return planner_rights([each.graph for each in targets if each.graph], objects, state=config_map_of(planner), lease=planner.lease or "")


def config_map_of(planner: PlannerConfig | None) -> str:
    """Of its memory; '' where that is elsewhere, or nowhere."""
    state = planner.state if planner else None
    return state.removeprefix(CONFIG_MAP) if state and state.startswith(CONFIG_MAP) else ""


def _scaled(text: str) -> ScaledObject:
    reference = scale_reference(text)
    return ScaledObject(reference.resource.group, reference.resource.plural, reference.name)
