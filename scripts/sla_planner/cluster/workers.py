"""The workers of one role, counted from its pods.

    worker           one pod; of an engine over several nodes all pods of its group, which LeaderWorkerSets and Grove label
    ready            every pod of it is Ready
    unschedulable    a pod of it has no node and the scheduler says why, or waits behind a scheduling gate; or cannot be made at all (a quota)
    starting         everything else that is asked for, also what has no pod yet
    not counted      pods that are going, that have ended, and what there is above the count that is asked for

The three add up to the count that is asked for, so that the next decision starts from it, whatever a rolling update does in between.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sla_planner.cluster.resources import Object, labels_of
from sla_planner.plan.observation import WorkerCounts

_GROUPS = (
    ("leaderworkerset.sigs.k8s.io/name", "leaderworkerset.sigs.k8s.io/group-index"),
    ("grove.io/podcliquescalinggroup", "grove.io/podcliquescalinggroup-replica-index"),
)
_STUCK = frozenset(
    {
        "ImagePullBackOff",
        "ErrImagePull",
        "InvalidImageName",
        "CrashLoopBackOff",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)
_LONGEST_WORDS = 200


@dataclass(frozen=True, slots=True)
class WorkerShape:
    """What one worker is made of. `gpus` over all its pods, 0 = not known."""

    pods: int = 1
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class Workers:
    """`unplaced`: why some have no node; `trouble`: why some do not start. Empty when there is nothing to say."""

    counts: WorkerCounts
    unplaced: str = ""
    trouble: str = ""


def counted(pods: Iterable[Object], asked: int, shape: WorkerShape, unmade: str = "") -> Workers:
    """`asked`: the count in the target. `unmade`: why its controller cannot make pods that are missing."""
    groups: dict[Hashable, list[Object]] = {}
    for pod in pods:
        if _is_live(pod):
            groups.setdefault(_group(pod), []).append(pod)
    whole = [group for group in groups.values() if len(group) >= shape.pods and all(_is_ready(pod) for pod in group)]
    homeless = [words for group in groups.values() if (words := _first(_no_place(pod) for pod in group))]
    ready = min(len(whole), asked)
    missing = max(asked - len(groups), 0) if unmade else 0
    unschedulable = min(len(homeless) + missing, asked - ready)
    unplaced = (homeless[0] if homeless else unmade) if unschedulable else ""
    trouble = _first(_stuck(pod) for group in groups.values() for pod in group) if ready < asked else ""
    return Workers(WorkerCounts(ready, asked - ready - unschedulable, unschedulable), unplaced, trouble)


def _is_live(pod: Object) -> bool:
    return not pod["metadata"].get("deletionTimestamp") and _status(pod).get("phase") not in ("Succeeded", "Failed")


def _group(pod: Object) -> Hashable:
    labels = labels_of(pod)
    return next(((labels.get(name), labels[index]) for name, index in _GROUPS if index in labels), pod["metadata"]["name"])


def _is_ready(pod: Object) -> bool:
    return _condition(pod, "Ready").get("status") == "True"


def _no_place(pod: Object) -> str:
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") != "False" or scheduled.get("reason") not in ("Unschedulable", "SchedulingGated"):
        return ""
    return _short(scheduled.get("message") or scheduled["reason"])


def _stuck(pod: Object) -> str:
    """`pod x: CrashLoopBackOff, last ended with OOMKilled (exit code 137)`."""
    statuses: Sequence[Any] = [*(_status(pod).get("initContainerStatuses") or ()), *(_status(pod).get("containerStatuses") or ())]
    for status in statuses:
        waiting = (status.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in _STUCK:
            ended = (status.get("lastState") or {}).get("terminated") or {}
            last = f", last ended with {ended.get('reason', 'an error')} (exit code {ended.get('exitCode', '?')})" if ended else ""
            words = last or (f": {waiting['message']}" if waiting.get("message") else "")
            return _short(f"pod {pod['metadata']['name']}: {waiting['reason']}{words}")
    return ""


def _condition(pod: Object, kind: str) -> Object:
    return next((each for each in _status(pod).get("conditions") or () if each.get("type") == kind), {})


def _status(pod: Object) -> Object:
    found: Object = pod.get("status") or {}
    return found


def _first(words: Iterable[str]) -> str:
    return next((each for each in words if each), "")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_WORDS else f"{line[: _LONGEST_WORDS - 1]}…"
