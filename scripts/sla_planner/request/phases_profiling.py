"""While the Job is there, and how it ends.

waiting, running          Profiling: sub-phase, point k of n, or why the pod does not start
image not pulled too long Failed ImagePullFailed; the Job is deleted by the next step
exit code 3               Failed SLAInfeasible: the verdict names the nearest
failed otherwise          Failed ProfilingJobFailed, of AI Configurator AIConfiguratorFailed
gone, or no profile       Failed ProfilingJobGone, ProfileMissing
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sla_planner.errors import InfeasibleError
from sla_planner.request.actions import Said
from sla_planner.request.phases import Case, failed, validated
from sla_planner.request.phases_beginning import job_made
from sla_planner.request.seen import JobSeen, JobState, ProfileSeen, Progress
from sla_planner.request.spec import Method, Request
from sla_planner.request.status import IMAGE_NOT_PULLED, SUB_PHASES, Condition, Kind, Outcome, State, one_line, reason_of


def profiling(case: Case, request: Request, job: JobSeen, now: str) -> Outcome:
    """The Job has not ended. An image has the limit from when it was first not pulled: a pod may have waited for other things, or be a new one."""
    not_pulled = job.state is JobState.WAITING and job.no_image
    if not_pulled and min(job.waiting_s, case.before.not_pulled_s(now)) > case.settings.image_limit_s:
        return _image_failed(case, request, job)
    valid, events = validated(case, request)
    fields = _fields(case, request, job)
    reason, message = _where(case, request, job, fields["profilingPhase"])
    last = case.before.condition(Kind.PROFILING)
    new_trouble = job.trouble and (last is None or last.reason != reason)
    return Outcome(
        State.PROFILING,
        message,
        conditions=(valid, Condition(Kind.PROFILING, "False", reason, message)),
        fields=fields,
        events=(*job_made(case, request, job.name), *events, *((Said("Warning", reason, message),) if new_trouble else ())),
    )


def job_failed(case: Case, request: Request, job: JobSeen) -> Outcome:
    """The Job has failed for good."""
    verdict = one_line(job.verdict).removeprefix("error: ")
    if job.exit_code == InfeasibleError.exit_code:
        return infeasible(case, request, verdict)
    offline = request.profiling.method is Method.OFFLINE
    reason = "AIConfiguratorFailed" if offline else "ProfilingJobFailed"
    code = f" (exit code {job.exit_code})" if job.exit_code is not None else ""
    what = f"{'AI Configurator' if offline else 'profiling'} failed in Job {job.name}{code}"
    said = verdict or one_line(job.trouble) or f"it left no word, see kubectl describe job/{job.name} -n {request.namespace}"
    return _end(case, request, reason, f"{what}: {said}; put that right, then {case.anew}")


def infeasible(case: Case, request: Request, said: str) -> Outcome:
    """Nothing keeps the promise. `said`: the nearest, and what to change."""
    promise = request.goal.promise
    nothing = f"no engine keeps TTFT {promise.ttft_ms:g} ms and ITL {promise.itl_ms:g} ms"
    return _end(case, request, "SLAInfeasible", f"{said or nothing}; nothing was relaxed or deployed: to ask for something else, {case.anew}")


def nearest(profile: ProfileSeen) -> str:
    """Of a profile that does not keep the promise, where the sweep's own words are gone."""
    near = f"; the nearest are prefill on {profile.prefill} and decode on {profile.decode}" if profile.prefill and profile.decode else ""
    return f"no engine keeps the promise{near}"


def gone(case: Case, request: Request) -> Outcome:
    """The Job was made, is gone, and left nothing."""
    job = case.before.job_name
    message = f"Job {job} is gone and left no profile; it is not started again by itself: {case.anew}"
    return _end(case, request, "ProfilingJobGone", message, event=_job_event(request))


def no_profile(case: Case, request: Request, job: JobSeen) -> Outcome:
    """The Job is done, and what it should have published is not there."""
    log = f"kubectl logs job/{job.name} -n {request.namespace}"
    message = f"Job {job.name} is done and its ConfigMap holds no profile: somebody emptied or deleted it; what was measured is in {log}; {case.anew}"
    return _end(case, request, "ProfileMissing", message, event=_job_event(request))


def dry_run_done(case: Case, request: Request, job: JobSeen) -> Outcome:
    """Nothing was to be measured, so nothing is generated."""
    valid, events = validated(case, request)
    message = f"dry run: {one_line(job.verdict) or f'what would be measured is in kubectl logs job/{job.name} -n {request.namespace}'}"
    profiled = Condition(Kind.PROFILING, "True", "DryRun", message)
    return Outcome(
        State.GENERATED,
        message,
        reason="DryRun",
        conditions=(valid, profiled, Condition(Kind.GENERATED, "False", "DryRun", "a dry run has no result")),
        fields={"backend": request.backend, "profilingJobName": job.name, "profilingPhase": "Done", "progress": None},
        events=(*job_made(case, request, job.name), *events),
    )


def _image_failed(case: Case, request: Request, job: JobSeen) -> Outcome:
    what = f"the image of Job {job.name} cannot be pulled: {one_line(job.trouble) or job.trouble_reason}"
    message = f"{what}; correct {_image_field(request)}, or the pull secret that is installed with the reconciler; then {case.anew}"
    return replace(_end(case, request, "ImagePullFailed", message), soon=True)  # the next step deletes the Job


def _end(case: Case, request: Request, reason: str, message: str, *, event: str = "") -> Outcome:
    valid, events = validated(case, request)
    fields: dict[str, Any] = {"backend": request.backend}
    made: tuple[Said, ...] = ()
    if case.job is not None:
        made = job_made(case, request, case.job.name)
        fields["profilingJobName"] = case.job.name
    end = failed(Kind.PROFILING, reason, message, event=event, conditions=(valid,), **fields)
    return replace(end, events=(*made, *events, *end.events))


def _job_event(request: Request) -> str:
    return "AIConfiguratorFailed" if request.profiling.method is Method.OFFLINE else "ProfilingJobFailed"


def _fields(case: Case, request: Request, job: JobSeen) -> dict[str, Any]:
    """What was heard last counts while nothing newer is: the end of a log may hold no progress."""
    fields: dict[str, Any] = {"backend": request.backend, "profilingJobName": job.name}
    if job.state is JobState.WAITING:
        return fields | {"profilingPhase": "Initializing", "progress": None}
    if job.progress is None:
        last = case.before.document.get("profilingPhase")
        return fields | {"profilingPhase": last if last in SUB_PHASES else "Initializing"}
    phase = job.progress.phase if job.progress.phase in SUB_PHASES else "Initializing"
    return fields | {"profilingPhase": phase, "progress": _progress(job.progress)}


def _progress(progress: Progress) -> dict[str, Any]:
    told = {"mapping": progress.mapping, "point": progress.point, "points": progress.points}
    return told if progress.eta_s is None else told | {"etaSeconds": round(progress.eta_s)}


def _where(case: Case, request: Request, job: JobSeen, phase: str) -> tuple[str, str]:
    """(reason, message) of the condition while it goes on."""
    if job.trouble:
        reason = IMAGE_NOT_PULLED if job.no_image else reason_of(job.trouble_reason or "PodNotRunning")
        return reason, f"the pod of Job {job.name} does not run: {one_line(job.trouble)}; {_remedy(case, request, job, reason)}"
    if job.state is JobState.WAITING:
        return "Initializing", f"Job {job.name} is made and starts"
    if job.progress is None:
        last = case.before.condition(Kind.PROFILING)
        kept = last is not None and last.reason == phase and phase != "Initializing"
        return phase, last.message if kept and last else f"Job {job.name} runs"
    left = "" if job.progress.eta_s is None else f", {_duration(job.progress.eta_s)} left"
    return phase, f"{job.progress.mapping or phase}: point {job.progress.point} of {job.progress.points}{left}"


def _remedy(case: Case, request: Request, job: JobSeen, reason: str) -> str:
    if reason == "Unschedulable":
        return "it starts as soon as a node has room and takes it"
    if reason == IMAGE_NOT_PULLED:
        return f"check {_image_field(request)} and the pull secret; the request fails after {_duration(case.settings.image_limit_s)}"
    return f"see kubectl describe job/{job.name} -n {request.namespace}"


def _image_field(request: Request) -> str:
    return "spec.profilingConfig.profilerImage" if request.shape == "v1alpha1" else "spec.image"


def _duration(seconds: float) -> str:
    """`about 40 s`, `about 12 min`, `about 2.5 h`."""
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
