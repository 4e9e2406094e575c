"""The profiling Job of a request as the cluster has it: the Job's word on how it ended, its pod's on how it is.

state       Failed and Complete are the Job's; else running as soon as a container of its newest pod has started
verdict     what the pod left (termination message), else why the Job says that it failed
trouble     of the newest pod (`pod_trouble.py`), or why none is let in; with the kubelet's or the scheduler's reason
progress    of the log's end
"""

from __future__ import annotations

import json
from datetime import UTC, datetime

from sla_planner.cluster.api import KubernetesApi, Selector
from sla_planner.cluster.pod_trouble import AS_LONG_AS_IT_TAKES_S, NO_IMAGE, keeps_from_running, refused
from sla_planner.cluster.resources import EVENTS, PODS, Object, labels_of
from sla_planner.errors import ForbiddenError, PlannerError
from sla_planner.request.progress import read_progress
from sla_planner.request.seen import JobSeen, JobState, Progress
from sla_planner.request.spec import UID_LABEL

LOG_LINES = 60  # a sweep says how far it is every few of them
_FEW_LINES = 4


class Clues:
    """What `pod_trouble` asks for; what may not be read is not known. `namespace`: of the pods."""

    def __init__(self, api: KubernetesApi, namespace: str) -> None:
        self._api, self._namespace = api, namespace

    def events(self, pod: str) -> list[Object]:
        return self.events_where(f"regarding.name={pod}")

    def events_where(self, fields: str) -> list[Object]:
        try:
            return self._api.all_of(EVENTS, Selector(fields=fields), namespace=self._namespace)
        except ForbiddenError:
            return []

    def container_log(self, pod: str, container: str, *, previous: bool) -> str:
        try:
            return self._api.pod_log(pod, container, tail_lines=LOG_LINES, previous=previous, namespace=self._namespace)
        except PlannerError:
            return ""


def job_seen(api: KubernetesApi, job: Object, uid: str, pods: list[Object] | None, now_s: float) -> JobSeen:
    """`uid`: of the request. `pods`: of the Job, None where they may not be listed."""
    name, ended = job["metadata"]["name"], _ended(job)
    newest = max(pods or (), key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), default=None)
    ours = labels_of(job).get(UID_LABEL) == uid
    if ended is not None:
        return _after(name, ended, newest, ours=ours)
    if newest is None:
        events = Clues(api, api.namespace).events_where("reason=FailedCreate")
        found = refused([one for one in events if (one.get("regarding") or {}).get("name") == name], []) if pods is not None else None
        state = JobState.RUNNING if pods is None and (job.get("status") or {}).get("ready") else JobState.WAITING
        return JobSeen(name, ours, state, trouble=found.what if found else "", trouble_reason="FailedCreate" if found else "")
    state = JobState.RUNNING if _has_started(newest) else JobState.WAITING
    trouble = keeps_from_running([newest], Clues(api, api.namespace), gpu_wait_s=AS_LONG_AS_IT_TAKES_S)
    waiting_s = now_s - _since_s(newest, now_s) if trouble else 0.0
    words, reason = (trouble.what, _reason(newest) or trouble.kind) if trouble else ("", "")
    progress = _progress(api, newest) if state is JobState.RUNNING else None
    no_image = trouble is not None and trouble.kind == NO_IMAGE
    return JobSeen(name, ours, state, "", None, words, reason, no_image, waiting_s, progress)


def pods_of_job(api: KubernetesApi, name: str) -> list[Object]:
    return api.all_of(PODS, Selector(labels=f"batch.kubernetes.io/job-name={name}"))


def short_trouble(pods: list[Object], clues: Clues) -> str:
    """What keeps pods of a deployment from running, in words; '' for none."""
    trouble = keeps_from_running(pods, clues, gpu_wait_s=AS_LONG_AS_IT_TAKES_S) if pods else None
    return trouble.what if trouble else ""


def _after(name: str, ended: Object, pod: Object | None, *, ours: bool) -> JobSeen:
    state = JobState.SUCCEEDED if ended["type"] in ("Complete", "SuccessCriteriaMet") else JobState.FAILED
    end = _end(pod) if pod else {}
    code = end.get("exitCode")
    verdict = _verdict(str(end.get("message", "")))
    if state is JobState.FAILED and (not verdict or ended.get("reason") == "DeadlineExceeded"):
        said = ": ".join(filter(None, (str(ended.get("reason", "")), str(ended.get("message", "")))))
        cause = "out of memory (OOMKilled)" if end.get("reason") == "OOMKilled" else ""
        verdict = "; ".join(filter(None, (cause, said, verdict)))
    return JobSeen(name, ours, state, verdict, None if code is None else int(code))


def _ended(job: Object) -> Object | None:
    """The condition that says so. While pods are still ending, it is the one that announces it."""
    held = [one for one in (job.get("status") or {}).get("conditions") or () if one.get("status") == "True"]
    kinds = ("Failed", "Complete", "FailureTarget", "SuccessCriteriaMet")
    return next((one for kind in kinds for one in held if one.get("type") == kind), None)


def _end(pod: Object) -> Object:
    """How its container ended."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    ends = [end for one in statuses if (end := (one.get("state") or {}).get("terminated"))]
    found: Object = next((end for end in ends if end.get("exitCode")), ends[0] if ends else {})
    return found


def _verdict(message: str) -> str:
    """A stage leaves a few lines; where it could not, the kubelet takes the end of the log, whose last line counts."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if not lines:
        return ""
    if len(lines) <= _FEW_LINES and not lines[-1].startswith("{"):
        return "; ".join(lines)
    try:
        said = json.loads(lines[-1])["message"]
    except (ValueError, LookupError, TypeError):
        said = lines[-1]
    return str(said).removeprefix("error: ")


def _has_started(pod: Object) -> bool:
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return any({"running", "terminated"} & set(one.get("state") or {}) for one in statuses)


def _reason(pod: Object) -> str:
    status = pod.get("status") or {}
    placed: Object = next((one for one in status.get("conditions") or () if one.get("type") == "PodScheduled"), {})
    if placed.get("status") == "False":
        return str(placed.get("reason", "Unschedulable"))
    statuses = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    waiting = [str(((one.get("state") or {}).get("waiting") or {}).get("reason", "")) for one in statuses]
    return next((reason for reason in waiting if reason not in ("", "ContainerCreating", "PodInitializing")), "")


def _since_s(pod: Object, now_s: float) -> float:
    """When it got a node, or was made: what it waits for, it has waited for since then."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    placed: Object = next((one for one in conditions if one.get("type") == "PodScheduled" and one.get("status") == "True"), {})
    for text in (placed.get("lastTransitionTime"), pod["metadata"].get("creationTimestamp")):
        try:
            return datetime.fromisoformat(str(text).replace("Z", "+00:00")).astimezone(UTC).timestamp()
        except ValueError:
            continue
    return now_s


def _progress(api: KubernetesApi, pod: Object) -> Progress | None:
    """None as well where logs may not be read: how far it is helps nobody decide."""
    try:
        return read_progress(api.pod_log(pod["metadata"]["name"], tail_lines=LOG_LINES))
    except PlannerError:
        return None
