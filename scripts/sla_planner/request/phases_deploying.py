"""From the profile to the deployment that serves, and what becomes of it.

profile there        SpecGenerated: ConfigMaps written, then the whole deployment in the status; what is deployed is that, to the letter
autoApply false      Ready; a deployment of this request that a person applies is followed like our own
autoApply true       Deploying, created once; one of that name that is somebody else's: Failed DeploymentConflict
not ready / ready    Deploying / Deployed; was ready and is not: DeploymentDegraded, but for replicas that are added to those that serve
gone                 DeploymentDeleted, never made again
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sla_planner.request.actions import Action, CopyProfile, Deploy, KeepProfile, Said, WriteOutput
from sla_planner.request.made_names import SHARED_PROFILE
from sla_planner.request.makers import CannotBeMadeError
from sla_planner.request.phases import Case, failed, validated
from sla_planner.request.phases_beginning import deletion, in_the_way, job_made
from sla_planner.request.seen import GraphSeen, ProfileSeen
from sla_planner.request.spec import Object, Request
from sla_planner.request.status import Condition, Kind, Outcome, State, one_line


def generated(case: Case, request: Request, profile: ProfileSeen) -> Outcome:
    """The profile keeps the promise, and nothing has been made of it yet."""
    valid, events = validated(case, request)
    picks = f": prefill on {profile.prefill}, decode on {profile.decode}" if profile.prefill and profile.decode else ""
    profiled = Condition(Kind.PROFILING, "True", "ProfilingCompleted", f"the profile is in ConfigMap {profile.config_map}{picks}")
    made = job_made(case, request, case.job.name) if case.job else ()
    fields: dict[str, Any] = {"backend": request.backend, "profilingPhase": "Done", "progress": None}
    if case.job:
        fields["profilingJobName"] = case.job.name
    try:
        graph = case.makers.graph(request, case.seen)
        outputs = case.makers.outputs(request, case.seen, graph)
    except CannotBeMadeError as error:
        message = f"no deployment can be made of the profile: {error}; {case.anew}"
        fields["profilingPhase"] = "GeneratingDGD"
        end = failed(Kind.GENERATED, error.reason, message, conditions=(valid, profiled), **fields)
        return replace(end, events=(*made, *events, *end.events))
    message = f"DynamoGraphDeployment {request.graph_name} is generated{picks}"
    waits = _not_applied(case) if not request.auto_apply else Condition(Kind.READY, "False", "DeploymentPending", "it is created next")
    return Outcome(
        State.DEPLOYING if request.auto_apply else State.GENERATED,
        message if request.auto_apply else f"{message}; {waits.message}",
        conditions=(valid, profiled, Condition(Kind.GENERATED, "True", "SpecGenerated", message), waits),
        fields=fields
        | {"profilingResults": f"configmap/{profile.config_map}", "generatedDeployment": dict(graph), "dgdName": graph["metadata"]["name"]},
        actions=_outdated(case, outputs),
        events=(*made, *events, Said("Normal", "SpecGenerated", f"{message}; it is in .status.generatedDeployment")),
        soon=True,
    )


def deploying(case: Case, request: Request, graph: Object) -> Outcome:
    """`graph` is generated. It is not there, there, or gone."""
    found = case.seen.graph if case.seen.graph is not None and case.seen.graph.ours else None
    if found is not None:
        return _followed(case, request, found, graph)
    if not case.seen.graph_api and (request.auto_apply or case.before.deployed):
        return _api_missing(case, request, graph)
    if case.before.deployed:
        return _deleted(case, request)
    if not request.auto_apply:
        return _waiting(case, request, graph)
    if case.seen.graph is not None:
        valid, events = validated(case, request)
        what = f"{in_the_way(request)}, so what was generated is not applied"
        message = f"{what}; if it is no longer needed, {deletion(request)} and apply the generated one: {_application(case)}"
        end = failed(Kind.READY, "DeploymentConflict", message, conditions=(valid,))
        return replace(end, events=(*events, *end.events))
    return _deploy(case, request, graph)


def _deploy(case: Case, request: Request, graph: Object) -> Outcome:
    valid, events = validated(case, request)
    message = _created(request)
    return Outcome(
        State.DEPLOYING,
        message,
        conditions=(valid, Condition(Kind.READY, "False", "DeploymentCreated", message)),
        fields={"deployment": _deployment(request.graph_name, request.graph_namespace, "pending")},
        actions=(*_upkeep(case, request, graph), Deploy(graph)),
        events=(*events, Said("Normal", "DeploymentCreated", message)),
    )


def _created(request: Request) -> str:
    """The same words also where the status was not written in time: an Event that is said again is the same one."""
    return f"DynamoGraphDeployment {request.graph_name} is created in namespace {request.graph_namespace}; its pods start"


def _followed(case: Case, request: Request, found: GraphSeen, graph: Object) -> Outcome:
    valid, events = validated(case, request)
    fields = {
        "deployment": _deployment(found.name, found.namespace, found.state),
        "deploymentInfo": {"replicas": found.replicas, "availableReplicas": found.available_replicas},
    }
    if not case.before.deployed:
        applied = f"DynamoGraphDeployment {found.name} is there in namespace {found.namespace}: somebody applied it"
        events = (*events, Said("Normal", "DeploymentCreated", _created(request) if request.auto_apply else applied))
    state, reason, message = _readiness(case, found)
    last = case.before.condition(Kind.READY)
    if reason != "DeploymentPending" and (last is None or last.reason != reason):
        events = (*events, Said("Normal" if state is State.DEPLOYED else "Warning", reason, message))
    ready = Condition(Kind.READY, "True" if state is State.DEPLOYED else "False", reason, message)
    return Outcome(state, message, conditions=(valid, ready), fields=fields, actions=_upkeep(case, request, graph), events=events)


def _readiness(case: Case, found: GraphSeen) -> tuple[State, str, str]:
    count = f"{found.available_replicas} of {found.replicas} replicas"
    trouble = f": {one_line(found.trouble)}" if found.trouble else ""
    if found.ready:
        return State.DEPLOYED, "DeploymentReady", f"DynamoGraphDeployment {found.name} serves"
    if case.before.state is State.DEPLOYED and _still_serves(found):
        return State.DEPLOYED, "DeploymentReady", f"DynamoGraphDeployment {found.name} serves, {count} are available and the others start"
    last = case.before.condition(Kind.READY)
    if case.before.state is State.DEPLOYED or (last is not None and last.reason == "DeploymentDegraded"):
        look = f"kubectl describe dynamographdeployment {found.name} -n {found.namespace}"
        what = f"DynamoGraphDeployment {found.name} was ready and is not, {count} are available{trouble}"
        return State.DEPLOYING, "DeploymentDegraded", f"{what}; {look}"
    reason = "DeploymentNotStarting" if trouble else "DeploymentPending"
    return State.DEPLOYING, reason, f"DynamoGraphDeployment {found.name} is not ready yet, {count} are available{trouble}"


def _still_serves(found: GraphSeen) -> bool:
    """One that was ready is not so while replicas are added, by the planner among others; that is no trouble."""
    return found.state != "failed" and not found.trouble and found.available_replicas > 0


def _deleted(case: Case, request: Request) -> Outcome:
    valid, events = validated(case, request)
    what = f"DynamoGraphDeployment {request.graph_name} was deleted from namespace {request.graph_namespace} and is not made again"
    message = f"{what}; to have it back: {_application(case)} (it is not followed any more), or {case.anew}"
    return Outcome(
        State.DELETED,
        message,
        reason="DeploymentDeleted",
        conditions=(valid, Condition(Kind.READY, "False", "DeploymentDeleted", message)),
        fields={"deployment": None, "deploymentInfo": None},
        events=(*events, Said("Warning", "DeploymentDeleted", message)),
    )


def _waiting(case: Case, request: Request, graph: Object) -> Outcome:
    """Generated, and nobody has applied it."""
    valid, events = validated(case, request)
    waits = _not_applied(case)
    message = f"DynamoGraphDeployment {request.graph_name} is generated; {waits.message}"
    return Outcome(State.GENERATED, message, conditions=(valid, waits), actions=_upkeep(case, request, graph), events=events)


def _not_applied(case: Case) -> Condition:
    return Condition(Kind.READY, "False", "NotApplied", f"autoApply is false, so applying it is up to you: {_application(case)}")


def _application(case: Case) -> str:
    return f"kubectl get dgdr {case.place} -o jsonpath='{{.status.generatedDeployment}}' | kubectl apply -f -"


def _api_missing(case: Case, request: Request, graph: Object) -> Outcome:
    valid, events = validated(case, request)
    message = "the cluster has no DynamoGraphDeployment (nvidia.com) any more; install the Dynamo operator"
    last = case.before.condition(Kind.READY)
    told = () if last is not None and last.reason == "DeploymentAPIMissing" else (Said("Warning", "DeploymentAPIMissing", message),)
    return Outcome(
        State.DEPLOYING,
        message,
        conditions=(valid, Condition(Kind.READY, "False", "DeploymentAPIMissing", message)),
        actions=_upkeep(case, request, graph),
        events=(*events, *told),
    )


def _deployment(name: str, namespace: str, state: str) -> dict[str, Any]:
    return {"name": name, "namespace": namespace, "state": state, "created": True}


def _upkeep(case: Case, request: Request, graph: Object) -> tuple[Action, ...]:
    """The ConfigMaps hold what they shall, and the deployment owns the profile that its planner reads."""
    profile = case.seen.profile
    if profile is None or "held" in case.seen.unknown:
        return ()
    try:
        actions = _outdated(case, case.makers.outputs(request, case.seen, graph))
    except CannotBeMadeError:  # they were written when they could be
        actions = ()
    return (*actions, *profile_kept(case))


def profile_kept(case: Case) -> tuple[Action, ...]:
    """What makes this request's deployment an owner of the profile that its planner reads, or of a copy where it is; nothing where it is one."""
    profile, graph = case.seen.profile, case.seen.graph
    if profile is None or graph is None or not graph.ours:
        return ()
    if graph.namespace != case.about.namespace:
        return _copied(case, profile, graph)
    return () if graph.uid in profile.owners else (KeepProfile(profile.config_map, graph.name, graph.uid),)


def _copied(case: Case, profile: ProfileSeen, graph: GraphSeen) -> tuple[Action, ...]:
    """Only once the deployment is there to own it: a request that is deleted before leaves nothing in a namespace that is not its own."""
    if not isinstance(case.request, Request) or not case.request.deploying.with_planner:
        return ()
    wanted, copy = case.makers.profile_copy(case.request, profile), case.seen.copy
    done = copy is not None and graph.uid in copy.owners and _holds(copy.files, wanted)
    return () if done else (CopyProfile(wanted, graph.name, graph.uid),)


def _outdated(case: Case, wanted: tuple[Object, ...]) -> tuple[Action, ...]:
    left = {SHARED_PROFILE} if case.seen.shared_taken else set()
    own = [each for each in wanted if each["metadata"]["name"] not in left]
    outdated = tuple(each for each in own if not _holds(case.seen.held.get(str(each["metadata"]["name"])), each))
    return (WriteOutput(outdated),) if outdated else ()


def _holds(held: Mapping[str, str] | None, wanted: Object) -> bool:
    return held is not None and all(held.get(key) == text for key, text in (wanted.get("data") or {}).items())
