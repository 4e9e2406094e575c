"""Why an access pod does not run yet, in its own words, from its status and from the events about it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from sla_planner.cluster.api import KubernetesApi, Selector
from sla_planner.cluster.resources import EVENTS, Object
from sla_planner.errors import ForbiddenError, PlannerError

# What the kubelet says when it has given up, or will with every further try, and what to do then.
_NO_IMAGE = "give --access-image, and --image-pull-secret where its registry wants one"
_HOPELESS = {
    **dict.fromkeys(("ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"), _NO_IMAGE),
    **dict.fromkeys(("CreateContainerConfigError", "CreateContainerError", "RunContainerError"), "that is between the cluster and --access-image"),
}
_KILLED = (137, 143)  # exit codes
_NOT_YET = frozenset({"ContainerCreating", "PodInitializing"})


@dataclass(frozen=True, slots=True)
class Trouble:
    """`hint`: what to do about it; '' while waiting may help."""

    words: str
    hint: str = ""


def is_running(pod: Object) -> bool:
    return any("running" in (status.get("state") or {}) for status in _statuses(pod))


def trouble_of(api: KubernetesApi, pod: Object) -> Trouble | None:
    """None: nothing that it knows of."""
    status = pod.get("status") or {}
    if status.get("phase") in ("Succeeded", "Failed"):
        return Trouble(f"{ended_words(pod)}{_last_words(api, pod)}", "is --access-image the volume-tools image of this version?")
    for each in _statuses(pod):
        waiting = (each.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason and reason not in _NOT_YET:
            return Trouble(_words(reason, waiting.get("message", "")), _HOPELESS.get(reason, ""))
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return Trouble(_words(condition.get("reason", ""), condition.get("message", "")))
    return None


def failed_itself(pod: Object) -> bool:
    """Whether its program ended with an error, rather than being ended by somebody."""
    codes = [((each.get("state") or {}).get("terminated") or {}).get("exitCode") for each in _statuses(pod)]
    return any(code not in (None, 0, *_KILLED) for code in codes)


def ended_words(pod: Object) -> str:
    """How a pod that is over has ended."""
    status = pod.get("status") or {}
    for each in _statuses(pod):
        if ended := (each.get("state") or {}).get("terminated"):
            return _words(str(ended.get("reason") or "ended"), ended.get("message") or f"exit code {ended.get('exitCode')}")
    return _words(str(status.get("reason") or status.get("phase") or "ended"), status.get("message", ""))


def event_trouble(api: KubernetesApi, job: str, pod: str) -> Trouble | None:
    """The latest warning about the Job (it can make no pod) or the pod (it cannot mount, or attach); None where nobody may look."""
    for name in filter(None, (pod, job)):
        try:
            events = api.all_of(EVENTS, Selector(fields=f"regarding.name={name}"))
        except ForbiddenError:
            return None
        warnings = [event for event in events if event.get("type") == "Warning" and event.get("reason") != "FailedScheduling"]
        if warnings:
            latest = max(warnings, key=_when)
            return Trouble(
                _words(latest.get("reason", ""), latest.get("note", "")),
                "the namespace's policy or quota has to let it in" if latest.get("reason") == "FailedCreate" else "",
            )
    return None


def _last_words(api: KubernetesApi, pod: Object) -> str:
    """The end of its log, where one may look."""
    with suppress(PlannerError):
        if lines := api.pod_log(pod["metadata"]["name"], tail_lines=1).strip():
            return f" ({lines[-300:]})"
    return ""


def _when(event: Object) -> str:
    series = event.get("series") or {}
    return str(series.get("lastObservedTime") or event.get("eventTime") or event.get("deprecatedLastTimestamp") or "")


def _statuses(pod: Object) -> list[Object]:
    return list((pod.get("status") or {}).get("containerStatuses") or ())


def _words(reason: str, message: str) -> str:
    return f"{reason}: {' '.join(message.split())[:400]}" if message else reason
