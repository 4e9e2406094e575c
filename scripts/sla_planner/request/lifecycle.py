"""One step of one request: what there is in the cluster -> what to do next and what to say.

    damaged or changed too late   says so; what has begun goes on
    cannot be seen                the state stays, nothing is done
    nothing made yet              phases_beginning     Pending, Failed, or Profiling
    a Job                         phases_profiling     Profiling, or Failed
    a profile                     phases_deploying     SpecGenerated, then Deploying, Ready, DeploymentDeleted, or Failed

The state follows from what there is, so a step may be cut off anywhere and is taken again. The status remembers what nothing else tells: that a Job
was made (its name), what was generated, that the deployment was there (`deployment.created`), and an end (Failed, DeploymentDeleted), which is
left only by a changed spec where the spec was wrong. So a request has at most one Job and one deployment, and nothing starts over by itself.
"""

from __future__ import annotations

from dataclasses import replace

from sla_planner.request.actions import Action, CopyProfile, Deploy, Freeze, Said, StartProfiling, Step, StopProfiling, WriteOutput
from sla_planner.request.phases import Case, spec_change_rejected
from sla_planner.request.phases_beginning import VALIDATION_FAILED, arrival, beginning, wrong
from sla_planner.request.phases_deploying import deploying, generated, profile_kept
from sla_planner.request.phases_profiling import dry_run_done, gone, infeasible, job_failed, nearest, no_profile, profiling
from sla_planner.request.seen import JobSeen, JobState
from sla_planner.request.spec import About, Fault, Request
from sla_planner.request.status import Before, Condition, Kind, Outcome, State, one_line, written

AT_ONCE_S, MOVING_S, MISSING_S, SETTLED_S = 1.0, 5.0, 15.0, 60.0
_AGAIN_S = {State.PROFILING: MOVING_S, State.DEPLOYING: MOVING_S, State.PENDING: MISSING_S}
_FOR_PROFILING = ("job", "profile")
_FOR_BEGINNING = (*_FOR_PROFILING, "base", "graph_api")
_FOR_DEPLOYING = ("graph", "graph_api")


def step(case: Case, now: str) -> Step:
    """What to do about a request that is alive. `now`: RFC 3339. Taken again on the same facts it does and says nothing."""
    return _step(case.about, case.before, _outcome(case, now), now)


def refused(case: Case, action: Action, why: str, now: str) -> Step:
    """Instead of the status of a step whose `action` the cluster refused: the state stays and the refusal is told; the step is taken again.

    A deployment that is there is followed all the same. An end stays as it was told.
    """
    if (state := case.before.state) is not None and _is_end(case, state):
        return Step(again_s=MISSING_S)
    said = f"; what the request says of it is in {field}" if (field := _field_of(case, action)) else ""
    message = f"{_named(action)} was refused: {one_line(why)}{said}; allow it, or {case.anew}"
    follows = case.before.graph is not None and case.seen.graph is not None and case.seen.graph.ours
    outcome = _with(case, _outcome(case, now), message) if follows else _held(case, "Refused", message)
    return replace(_step(case.about, case.before, outcome, now), again_s=MISSING_S)


def _with(case: Case, outcome: Outcome, message: str) -> Outcome:
    """`outcome`, but that what it was to do was refused."""
    told = () if case.before.message == message else (Said("Warning", "Refused", message),)
    return replace(outcome, message=message, actions=(), events=(*outcome.events, *told))


def _step(about: About, before: Before, outcome: Outcome, now: str) -> Step:
    document = written(about, before, outcome, now)
    changed = document != dict(before.document)
    again_s = AT_ONCE_S if outcome.soon else _AGAIN_S.get(outcome.state, SETTLED_S)
    return Step(outcome.actions, document if changed else None, outcome.events if changed else (), again_s)


def _outcome(case: Case, now: str) -> Outcome:
    if (state := case.before.state) is not None and _is_end(case, state):
        return _over(case, state)
    if hidden := _unseen(case, ("frozen",) if case.begun else _FOR_PROFILING):
        return hidden
    if not isinstance(case.request, Request):
        return _unreadable(case, case.request)
    if (graph := case.before.graph) is not None:
        return _unseen(case, _FOR_DEPLOYING) or deploying(case, case.request, graph)
    if case.before.state is State.GENERATED:  # without a deployment: a dry run
        return _over(case, State.GENERATED)
    hidden = _unseen(case, _FOR_PROFILING if case.begun else _FOR_BEGINNING)
    return hidden or (_profiled(case, case.request, now) if case.begun else beginning(case, case.request))


def _is_end(case: Case, state: State) -> bool:
    """Whether it stays so. A spec that was wrong may be put right; a Job that is there then was made for the one that is right."""
    if state is State.FAILED and case.before.reason == VALIDATION_FAILED:
        return case.before.generation == case.about.generation
    return state in (State.FAILED, State.DELETED)


def _profiled(case: Case, request: Request, now: str) -> Outcome:
    job, profile = case.job, case.seen.profile
    if job is not None and _runs(job):
        return profiling(case, request, job, now)
    if job is not None and job.state is JobState.FAILED:
        return job_failed(case, request, job)
    if profile is not None:
        return generated(case, request, profile) if profile.feasible else infeasible(case, request, nearest(profile))
    if job is None:
        return gone(case, request)
    return dry_run_done(case, request, job) if request.profiling.dry_run else no_profile(case, request, job)


def _over(case: Case, state: State) -> Outcome:
    """An end stays as it was told. What still runs for it is stopped, and a deployment that a person applies now still keeps its profile; a spec that
    is changed now is told to have no effect.
    """
    stopped = (StopProfiling(case.job.name),) if state is State.FAILED and case.job and _runs(case.job) else ()
    condition, events = spec_change_rejected(case) if case.changed else (case.before.condition(Kind.VALIDATION), ())
    return Outcome(
        state,
        case.before.message,
        reason=case.before.reason,
        conditions=(condition,) if condition else (),
        actions=(*stopped, *profile_kept(case)),
        events=events,
    )


def _runs(job: JobSeen) -> bool:
    return job.state in (JobState.WAITING, JobState.RUNNING)


def _unreadable(case: Case, faults: tuple[Fault, ...]) -> Outcome:
    """Before anything was made: an end. Later: what was made goes on, as far as it does so by itself."""
    if not case.begun:
        return wrong(faults)
    message = f"the spec cannot be read any more, so nothing more is done: {one_line(' | '.join(map(str, faults)))}; {case.anew}"
    return _held(case, VALIDATION_FAILED, message)


def _unseen(case: Case, needed: tuple[str, ...]) -> Outcome | None:
    """Where a fact that the next thing depends on cannot be had."""
    hidden = [f"{name}: {one_line(case.seen.unknown[name])}" for name in needed if name in case.seen.unknown]
    return _held(case, "CannotBeSeen", f"waiting, since this cannot be looked at: {' | '.join(hidden)}") if hidden else None


def _held(case: Case, reason: str, message: str) -> Outcome:
    """The state stays, in words why. Before validation is through, its condition says so too."""
    valid = case.before.condition(Kind.VALIDATION)
    unknown = Condition(Kind.VALIDATION, "Unknown", reason, message)
    come = arrival(case, case.request) if isinstance(case.request, Request) else ()
    told = () if case.before.message == message else (Said("Warning", reason, message),)
    before = case.before.state
    return Outcome(
        State.PENDING if before in (None, State.FAILED) else before,  # an end is held by nothing: this was a wrong spec, put right
        message,
        conditions=() if valid is not None and valid.status == "True" else (unknown,),
        events=(*come, *told),
    )


def _field_of(case: Case, action: Action) -> str:
    """Where the request has a say in how the object looks that `action` makes; '' where it says nothing."""
    if not isinstance(case.request, Request):
        return ""
    profiling = case.request.profiling
    if isinstance(action, StartProfiling) and profiling.job_patch:
        return "spec.overrides.profilingJob"
    if isinstance(action, StartProfiling) and (profiling.resources or profiling.tolerations):
        return "spec.profilingConfig.resources and .tolerations"
    return "spec.overrides.dgd" if isinstance(action, Deploy) and case.request.deploying.graph_patch else ""


def _named(action: Action) -> str:
    match action:
        case Freeze():
            return f"ConfigMap {action.config_map['metadata']['name']}"
        case StartProfiling():
            return f"Job {action.job['metadata']['name']} or its ConfigMap"
        case StopProfiling():
            return f"deleting Job {action.job}"
        case WriteOutput():
            return f"ConfigMap {', '.join(str(each['metadata']['name']) for each in action.config_maps)}"
        case Deploy():
            return f"DynamoGraphDeployment {action.graph['metadata']['name']}"
        case CopyProfile():
            return f"ConfigMap {action.config_map['metadata']['name']} in namespace {action.config_map['metadata']['namespace']}"
    return f"making the deployment an owner of ConfigMap {action.config_map}"
