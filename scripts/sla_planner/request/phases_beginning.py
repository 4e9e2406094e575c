"""From the first look to the Job: what is wrong with the request, what it misses in the cluster, and what profiling begins with.

wrong in the spec        Failed, until the spec is changed       ValidationFailed, an Event for every fault; so is a patch that leaves no deployment
missing in the cluster   Pending, looked at again                a reason for every kind of thing, an Event when what is missing changes
nothing                  Profiling: spec put by, Job made        Initialized, ProfilingJobCreated
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sla_planner.request.actions import Freeze, Said, StartProfiling
from sla_planner.request.made_names import granting, profile_name
from sla_planner.request.makers import GPU_TYPE_UNKNOWN, OVERRIDES_UNUSABLE, CannotBeMadeError
from sla_planner.request.phases import Case, validated
from sla_planner.request.phases_gpus import gpus_missing, nodes_unread
from sla_planner.request.seen import ProfileSeen
from sla_planner.request.spec import Fault, Method, Request
from sla_planner.request.status import Condition, Kind, Outcome, State

VALIDATION_FAILED = "ValidationFailed"
_SMALLEST = ("TP1", "TP1")
_MOST_EVENTS = 8  # of faults; the condition has them all
_Problem = tuple[str, str]
"""Reason and message with the remedy."""


def wrong(faults: tuple[Fault, ...]) -> Outcome:
    """The spec cannot be read."""
    told = [str(fault) for fault in faults]
    message = told[0] if len(told) == 1 else f"{len(told)} faults: {' | '.join(told)}"
    return Outcome(
        State.FAILED,
        message,
        reason=VALIDATION_FAILED,
        conditions=(Condition(Kind.VALIDATION, "False", VALIDATION_FAILED, message),),
        fields={"profilingPhase": None, "progress": None},
        events=tuple(Said("Warning", VALIDATION_FAILED, each) for each in told[:_MOST_EVENTS]),
    )


def beginning(case: Case, request: Request) -> Outcome:
    """Nothing has been made yet, as far as the cluster shows."""
    if problems := list(_problems(case, request)):
        return _missing(case, request, problems)
    try:
        begin = _begin(case, request)
        _rehearse(case, request)
    except CannotBeMadeError as error:
        if error.reason == OVERRIDES_UNUSABLE:
            return wrong((Fault("spec.overrides.dgd", str(error), "correct it, or remove it"),))
        unread = f"; {why}" if error.reason == GPU_TYPE_UNKNOWN and (why := nodes_unread(case.seen)) else ""
        return _missing(case, request, [(error.reason, f"{error}{unread}")])
    return begin


def _rehearse(case: Case, request: Request) -> None:
    """What comes after hours of profiling is tried before, with the smallest of picks, and thrown away. Raises `CannotBeMadeError`."""
    case.makers.graph(request, replace(case.seen, profile=ProfileSeen("", True, *_SMALLEST, "", {})))


def arrival(case: Case, request: Request) -> tuple[Said, ...]:
    """The Event of the first time that a request can be followed."""
    if case.before.state not in (None, State.FAILED):
        return ()
    how = "computed by AI Configurator" if request.profiling.method is Method.OFFLINE else "measured on engines"
    goal = request.goal
    what = f"{request.model} on {request.backend}, TTFT {goal.promise.ttft_ms:g} ms and ITL {goal.promise.itl_ms:g} ms"
    return (Said("Normal", "Initialized", f"{what} for {goal.isl_tokens} tokens in and {goal.osl_tokens} out; the profile is {how}"),)


def job_made(case: Case, request: Request, job: str) -> tuple[Said, ...]:
    """The Events of a Job that the status does not name yet."""
    if case.before.job_name == job:
        return ()
    log = f"its log: kubectl logs -f job/{job} -n {request.namespace}"
    return (*arrival(case, request), Said("Normal", "ProfilingJobCreated", f"Job {job} makes the profile; {log}"))


def _begin(case: Case, request: Request) -> Outcome:
    freeze = Freeze(case.makers.frozen(request, case.seen))
    start = StartProfiling(case.makers.profile_config_map(request), case.makers.job(request, case.seen))
    job = str(start.job["metadata"]["name"])
    valid, events = validated(case, request)
    message = f"Job {job} is made and starts"
    return Outcome(
        State.PROFILING,
        message,
        conditions=(valid, Condition(Kind.PROFILING, "False", "Initializing", message)),
        fields={"backend": request.backend, "profilingJobName": job, "profilingPhase": "Initializing"},
        actions=(freeze, start),
        events=(*events, *job_made(case, request, job)),
    )


def _missing(case: Case, request: Request, problems: list[_Problem]) -> Outcome:
    reason, message = problems[0][0], " | ".join(text for _, text in problems)
    condition = Condition(Kind.VALIDATION, "False", reason, message)
    known = case.before.state is State.PENDING and case.before.condition(Kind.VALIDATION) == condition
    told = () if known else tuple(Said("Warning", each, text) for each, text in problems)
    return Outcome(
        State.PENDING,
        message,
        reason=reason,
        conditions=(condition,),
        fields={"backend": request.backend},
        events=(*arrival(case, request), *told),
    )


def _problems(case: Case, request: Request) -> Iterator[_Problem]:
    seen = case.seen
    if not seen.graph_api and (request.auto_apply or request.profiling.method is Method.ONLINE):
        yield "DeploymentAPIMissing", "the cluster has no DynamoGraphDeployment (nvidia.com), which engines run as; install the Dynamo operator"
    if seen.base is None:
        yield "BaseManifestMissing", seen.base_trouble or "there is no base manifest"
    if seen.missing:
        yield "ObjectsMissing", "; ".join(seen.missing)
    if seen.rights_missing:
        there = request.graph_namespace
        yield "RightsMissing", f"{seen.rights_missing}; who administers {there} grants it: {granting(there, request.namespace)}"
    if gpus := gpus_missing(request, case.seen):
        yield "GPUsMissing", gpus
    taken, copy_taken = _taken(case), seen.copy is not None and not seen.copy.ours
    if seen.graph is not None and not seen.graph.ours and (request.auto_apply or taken or copy_taken):  # with it goes the profile that it keeps
        renamed = request.shape == "v1alpha1" and not taken and not copy_taken
        other = "set another spec.deploymentOverrides.name" if renamed else "give the request another name"
        yield "DeploymentConflict", f"{in_the_way(request)}; if it is no longer needed, {deletion(request)}; else {other}"
    elif taken:
        yield "NameTaken", _name_taken(case, request, taken)
    elif copy_taken:
        what = f"ConfigMap {profile_name(request)} in namespace {request.graph_namespace}: of another request of this name, or somebody else's"
        yield "NameTaken", f"{what}; {_left_to_its_deployment(request, request.graph_namespace)}; or give the request another name"


def _name_taken(case: Case, request: Request, taken: list[str]) -> str:
    """A profile is never to be deleted: a planner may be reading it."""
    what = f"{', '.join(taken)} in namespace {request.namespace}: of an earlier request, or somebody else's"
    profile = profile_name(request)
    if not any(profile in each for each in case.seen.in_the_way):
        return f"{what}; what a deleted request leaves goes by itself soon; else delete it, or give the request another name"
    return f"{what}; {_left_to_its_deployment(request, request.namespace)}; or give the request another name"


def _left_to_its_deployment(request: Request, namespace: str) -> str:
    profile = profile_name(request)
    keeper = f"leave {profile} to the deployment that serves with it, it goes when that is deleted"
    return f"{keeper} (kubectl get configmap {profile} -n {namespace} -o yaml names it as owner)"


def in_the_way(request: Request) -> str:
    """About a deployment of the name that is wanted and that is not this request's."""
    where = f"in namespace {request.graph_namespace}"
    return f"the DynamoGraphDeployment {request.graph_name} {where} is there already and was not made for this request"


def deletion(request: Request) -> str:
    """Of that deployment."""
    return f"delete it (kubectl delete dynamographdeployment {request.graph_name} -n {request.graph_namespace})"


def _taken(case: Case) -> list[str]:
    job = case.seen.job
    return [*case.seen.in_the_way, *([f"Job {job.name}"] if job is not None and not job.ours else [])]
