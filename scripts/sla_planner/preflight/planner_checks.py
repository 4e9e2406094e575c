"""The planner itself: its settings, whether it runs, its memory, its Lease, what its network policy lets through."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from sla_planner.preflight.cluster_checks import RECONCILER, REQUEST_CLASS
from sla_planner.preflight.facts import Document, Facts, LeaseFacts, PlannerFacts, TargetFacts, Unread, Workload, Wrong
from sla_planner.preflight.finding import Area, Check, Finding

STALE_INTERVALS = 3
OWN_MEMORY = "sla-planner-status"  # is installed; any other is made by whoever names it
_TWO_PLANNERS = "they decide about the same workers, from different moments"
LEAST_STALE_S = 180.0  # a CronJob runs once a minute, and its pod takes a while

SETTINGS = Check("settings", Area.PLANNER)
RUNS = Check("runs", Area.PLANNER)
REQUESTS = Check("requests", Area.PLANNER)
MEMORY = Check("status", Area.PLANNER)
DECISION = Check("last-decision", Area.PLANNER)
LEASE = Check("lease", Area.PLANNER)
NETWORK = Check("network-policy", Area.PLANNER)


def check_settings(facts: Facts) -> Iterator[Finding]:
    """That there are targets, and that they can be read."""
    name = facts.namespace.name
    for planner in facts.planners:
        settings = planner.settings
        if isinstance(settings, Wrong):
            what = f"the planner's settings ({planner.source}): {settings.what}"
            hint = f"    # {settings.hint}" if settings.hint else ""
            fix = f"kubectl apply -k YOUR_OVERLAY    # with planner.yaml corrected{hint}"
            if planner.of:
                fix = f"{facts.kubectl} edit {planner.source.lower().replace(' ', '/')}{hint}"
            yield SETTINGS.problem(what, "the planner ends at once with this error", fix)
        elif isinstance(settings, Unread):
            fix = f"sla-planner preflight --namespace {name} --planner-config planner.yaml"
            yield SETTINGS.unchecked("the planner's settings", settings.because, fix)
    if any(planner.settings for planner in facts.planners):
        return
    if not facts.targets:
        what = "what is scaled, its profile and its metrics"
        fix = f"sla-planner preflight --namespace {name} --graph-deployment NAME --prometheus-url URL --profile-results-dir DIR"
        yield SETTINGS.unchecked(what, "no planner is installed here, and no target was named", fix)
    else:
        sources = " and ".join(planner.source for planner in facts.planners if planner.source)
        yield SETTINGS.ok(f"settings from {sources}: {', '.join(target.name for target in facts.targets)}")


def check_runs(facts: Facts) -> Iterator[Finding]:
    """One planner, not none, and not two."""
    workloads = _planners(facts)
    running = [each for each in workloads if each.runs]
    for target in facts.targets:
        if running and not target.of and target.graph in {planner.of for planner in facts.graph_planners}:
            what = f"two planners run: {running[0].kind} {running[0].name} scales graph {target.graph}, which has a planner of its own"
            yield RUNS.problem(what, _TWO_PLANNERS, f"{_switch(facts, running[0], on=False)}    # or let it scale something else")
    if not running and facts.graph_planners:
        yield RUNS.ok(f"{' and '.join(planner.who for planner in facts.graph_planners)} runs")
    elif not workloads:
        return
    elif not running:
        first = workloads[0]
        state = "suspended" if first.kind == "CronJob" else "scaled to zero"
        yield RUNS.warning(f"the planner is installed, and {state}", "nothing is scaled until it runs", _switch(facts, first, on=True))
    elif len(running) > 1:
        names = " and ".join(f"{each.kind} {each.name}" for each in running)
        second = next((each for each in running if each.kind == "CronJob"), running[-1])
        yield RUNS.problem(f"two planners run: {names}", _TWO_PLANNERS, f"{_switch(facts, second, on=False)}    # or delete one")
    else:
        yield RUNS.ok(f"the planner runs: {running[0].kind} {running[0].name}")


def _switch(facts: Facts, workload: Workload, *, on: bool) -> str:
    """The command that lets it run, or stops it."""
    if workload.kind != "CronJob":
        return f"{facts.kubectl} scale deployment {workload.name} --replicas={int(on)}"
    patch = json.dumps({"spec": {"suspend": not on}}, separators=(",", ":"))
    return f"{facts.kubectl} patch cronjob {workload.name} -p '{patch}'"


def check_requests(facts: Facts) -> Iterator[Finding]:
    """Deployment requests that are ours need somebody who works on them: all of them, or beside an operator those that are annotated."""
    workloads, ours = facts.namespace.workloads, facts.cluster.requests_are_ours
    if not facts.cluster.request_versions or isinstance(workloads, Unread):
        return
    workers = [each for each in workloads if each.stage == RECONCILER]
    kind = "deployment requests" if ours else f"deployment requests with the annotation {REQUEST_CLASS}"
    if any(each.runs for each in workers):
        yield REQUESTS.ok(f"{kind} are worked on in this namespace")
        return
    if not workers and not ours:
        yield REQUESTS.ok(f"nobody of ours works on requests in this namespace, {kind} included: they are the operator's")
        return
    what = f"{kind} can be made in this namespace, and nobody works on them"
    why = "a DynamoGraphDeploymentRequest stays as it was applied, without a status"
    fix = _switch(facts, workers[0], on=True) if workers else f"kubectl apply -k YOUR_OVERLAY    # with {RECONCILER} in it"
    yield REQUESTS.warning(what, why, fix)


def check_memory(facts: Facts) -> Iterator[Finding]:
    """The ConfigMap of its memory, and how old its last decision is."""
    by_state: dict[str, list[PlannerFacts]] = {}
    for planner in facts.planners:
        if planner.state and facts.targets_of(planner):
            by_state.setdefault(planner.state, []).append(planner)
    for state, planners in by_state.items():
        yield _memory(facts, state, planners)
        for planner in planners:
            if planner.state_found is True and (planner.of or any(each.runs for each in _planners(facts))):
                yield from (_decided(facts, target) for target in facts.targets_of(planner))


def _memory(facts: Facts, state: str, planners: Sequence[PlannerFacts]) -> Finding:
    """Planners of a namespace may share one."""
    who, found = " and ".join(planner.who for planner in planners), planners[0].state_found
    if isinstance(found, Unread):
        return MEMORY.unchecked(f"the memory of {who}, ConfigMap {state}", found.because)
    if found:
        return MEMORY.ok(f"the memory of {who} is the ConfigMap {state}")
    why = f"{who} may write it and not make it: without it every start is one without a memory"
    fix = f"{facts.kubectl} " + ("apply -f jobs/planner/status.yaml" if state == OWN_MEMORY else f"create configmap {state}")
    return MEMORY.problem(f"there is no ConfigMap {state}", why, fix)


def _decided(facts: Facts, target: TargetFacts) -> Finding:
    age_s = target.last_decision_age_s
    if age_s is None:
        return DECISION.ok(f"target {target.name}: no decision yet")
    if age_s <= max(STALE_INTERVALS * target.interval_s, LEAST_STALE_S):
        return DECISION.ok(f"target {target.name}: decided {age_s:.0f} s ago")
    what = f"target {target.name}: the last decision is {age_s / 60:.0f} min old, although one is due every {target.interval_s:g} s"
    selector = "app.kubernetes.io/name=sla-planner,app.kubernetes.io/component=planner"
    fix = f"{facts.kubectl} logs --selector {selector} --tail=20\n{facts.kubectl} get cronjobs,jobs,pods"
    return DECISION.problem(what, "the planner does not run, or fails", fix)


def check_lease(facts: Facts) -> Iterator[Finding]:
    """That whoever holds it is alive."""
    for planner in facts.planners:
        lease = planner.lease
        if isinstance(lease, Unread):
            yield LEASE.unchecked(f"who holds the Lease of {planner.who}", lease.because)
        elif lease is not None and not lease.holder:
            yield LEASE.ok(f"the Lease {lease.name} is free")
        elif lease is not None and lease.quiet_s > 2 * lease.duration_s:
            yield _silent(facts, planner, lease)
        elif lease is not None:
            yield LEASE.ok(f"the Lease {lease.name} is held by {lease.holder}, renewed {lease.quiet_s:.0f} s ago")
    shared = [
        lease for lease, count in Counter(each.lease.name for each in facts.planners if isinstance(each.lease, LeaseFacts)).items() if count > 1
    ]
    for name in shared:
        owners = [planner for planner in facts.planners if isinstance(planner.lease, LeaseFacts) and planner.lease.name == name]
        what = f"{' and '.join(planner.who for planner in owners)} have one Lease, {name}"
        why = "one of them waits for it as long as the other lives, and scales nothing"
        fix = f"{facts.kubectl} edit dynamographdeployment {owners[-1].of}    # give its planner another --lease"
        yield LEASE.problem(what, why, fix)


def _silent(facts: Facts, planner: PlannerFacts, lease: LeaseFacts) -> Finding:
    what = f"the Lease {lease.name} of {lease.holder} was renewed {lease.quiet_s:.0f} s ago, and it lasts {lease.duration_s:.0f} s"
    fix = f"{facts.kubectl} get deployment planner\n{facts.kubectl} logs deployment/planner --tail=20"
    if planner.of:
        fix = f"{facts.kubectl} describe dynamographdeployment {planner.of}\n{facts.kubectl} get pods"
    return LEASE.warning(what, f"{planner.who} is not there to take it: nothing is scaled", fix)


def check_network(facts: Facts) -> Iterator[Finding]:
    """Whether a policy lets the planners' pods connect to Prometheus' port. Only ports are looked at, not addresses."""
    told = False
    for planner in facts.planners:
        ports = sorted({port for target in facts.targets_of(planner) if (port := _port(target.planner_url))})
        pods = [_labels(each) for each in (_planners_of(facts, planner.of) if planner.of else _planners(facts))]
        if not ports or not pods:
            continue
        if isinstance(facts.namespace.policies, Unread):
            if not told:
                yield NETWORK.unchecked("network policies", facts.namespace.policies.because)
            told = True
            continue
        yield from _reached(facts, facts.namespace.policies, planner, ports, pods)


def _reached(
    facts: Facts, policies: Sequence[Document], planner: PlannerFacts, ports: Sequence[int], pods: Sequence[Mapping[str, str]]
) -> Iterator[Finding]:
    selecting = [each for each in policies if _cuts_egress(each) and any(_selects(each, labels) for labels in pods)]
    closed = [port for port in ports if selecting and not any(_lets_out(each, port) for each in selecting)]
    for port in closed:
        names = ", ".join(each["metadata"]["name"] for each in selecting)
        what = f"no network policy lets {planner.who} connect to port {port}, where its metrics are ({names} cut off the rest)"
        why = "where the network plugin enforces policies, it cannot read the load (of a Service, the port of its pods counts)"
        rule = f'[{{"op":"add","path":"/spec/egress/-","value":{{"ports":[{{"protocol":"TCP","port":{port}}}]}}}}]'
        own = next((each["metadata"]["name"] for each in selecting if (each["spec"].get("egress"))), selecting[0]["metadata"]["name"])
        fix = f"{facts.kubectl} patch networkpolicy {own} --type=json -p '{rule}'    # for good: prometheus-port={port} in sla-params"
        yield NETWORK.warning(what, why, fix)
    if not closed:
        reach = f"network policies let {planner.who} connect to port {' and '.join(map(str, ports))}"
        yield NETWORK.ok(reach if selecting else f"no network policy holds {planner.who}")


def _planners_of(facts: Facts, graph: str) -> list[Workload]:
    return [each for each in facts.namespace.graph_planners if each.name == graph]


def _planners(facts: Facts) -> list[Workload]:
    workloads = facts.namespace.workloads
    return [] if isinstance(workloads, Unread) else [each for each in workloads if each.stage == "planner"]


def _port(url: str) -> int | None:
    parts = urlsplit(url)
    return parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _labels(workload: Workload) -> Mapping[str, str]:
    return (workload.pod.get("metadata") or {}).get("labels") or {}


def _cuts_egress(policy: Document) -> bool:
    spec = policy["spec"]
    return "Egress" in (spec.get("policyTypes") or (["Egress"] if spec.get("egress") else []))


def _selects(policy: Document, labels: Mapping[str, str]) -> bool:
    """`matchExpressions` are taken to select: better a question too many."""
    selector: Mapping[str, Any] = policy["spec"].get("podSelector") or {}
    return (selector.get("matchLabels") or {}).items() <= labels.items()


def _lets_out(policy: Document, port: int) -> bool:
    for rule in policy["spec"].get("egress") or ():
        if not rule.get("ports"):
            return True
        for each in rule["ports"]:
            low = each.get("port")
            if each.get("protocol", "TCP") == "TCP" and (not isinstance(low, int) or low <= port <= each.get("endPort", low)):
                return True
    return False


CHECKS = (check_settings, check_runs, check_requests, check_memory, check_lease, check_network)
