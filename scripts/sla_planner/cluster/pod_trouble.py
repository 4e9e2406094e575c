"""What keeps pods from running, and what has ended them, in the words of the scheduler, the kubelet and the container.

                        in whose words                   how long it may last
    not placed          the scheduler's                  GPUs in use: `gpu_wait_s`; an autoscaler brings a node, or a gate is closed: as it takes;
                                                         a volume is being made: VOLUME_S; else SCHEDULE_S, in which an autoscaler speaks up
    image               the kubelet's                    no time when the registry says no, else PULL_S
    no container        the kubelet's: a secret, a path  CONFIG_S (its cache may be older than the object); volumes, sandboxes: VOLUME_S
    container ended     exit code, OOMKilled, its log    no time when out of memory or again; a first end may be one that waited for others
    pod refused         quota's, Pod Security's          REFUSED_S
    no pod              nobody's                         NOBODY_S

Pure functions of objects as the API gives them; `Clues` asks for events and logs when a pod gives reason to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sla_planner.cluster.resources import Object
from sla_planner.sweep.host import Trouble

SCHEDULE_S = 20.0
PULL_S = 60.0
CONFIG_S = 5.0
VOLUME_S = 120.0
REFUSED_S = 10.0
NOBODY_S = 60.0
FIRST_END_S = 15.0
AS_LONG_AS_IT_TAKES_S = float("inf")

NO_IMAGE = "image"  # kind of a trouble

_IMAGE = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable"})
_NO_CONTAINER = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError", "PreCreateHookError"})
_REGISTRY_SAYS_NO = re.compile(r"not found|no such|denied|unauthori[sz]ed|forbidden|authenticat|manifest unknown|invalid|not present", re.IGNORECASE)
_SCALE_UP = frozenset({"TriggeredScaleUp", "Nominated", "NominatedNode"})  # cluster-autoscaler, Karpenter
_CANNOT_BEGIN = frozenset({"FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox", "FailedMapVolume"})
_IN_USE = re.compile(r"Insufficient \S+", re.IGNORECASE)
_NODES = re.compile(r"0/(\d+) nodes are available")
_HELPLESS = re.compile(r"(\d+) Preemption is not helpful for scheduling")
_SHOWN = 400  # characters of somebody's message


class Clues(Protocol):
    """What is asked for when a pod gives reason to."""

    def events(self, pod: str) -> list[Object]: ...

    def container_log(self, pod: str, container: str, *, previous: bool) -> str: ...


@dataclass(frozen=True, slots=True)
class Restarts:
    """How often each running container of a pod had been restarted when its engine answered first."""

    pod: str
    counts: Mapping[str, int]


def keeps_from_running(pods: Sequence[Object], clues: Clues, *, gpu_wait_s: float) -> Trouble | None:
    """The trouble with the least patience among all pods; None when there is nothing but waiting."""
    found = [trouble for pod in _current(pods) if (trouble := _of_pod(pod, clues, gpu_wait_s))]
    return min(found, key=lambda trouble: trouble.patience_s, default=None)


def refused(events: Sequence[Object], pods: Sequence[Object]) -> Trouble | None:
    """Of `FailedCreate` events: a pod that quota or Pod Security does not let in. One that was let in later is no trouble."""
    made = [pod["metadata"]["name"] for pod in pods]
    for event in sorted(events, key=when, reverse=True):
        maker = event.get("regarding") or {}
        if not any(name.startswith(f"{maker.get('name', '?')}-") for name in made):
            what = f"no pod is let in: {_shortened(event.get('note', ''))}"
            return Trouble("refused", what, "raise the quota, or make the manifest what the namespace asks for", REFUSED_S)
    return None


def silent(makers: Sequence[Object]) -> Trouble:
    """No pod, and nobody says why. `makers`: the objects that should lead to one, as they are now."""
    for maker in makers:
        status = maker.get("status") or {}
        told = [one for one in status.get("conditions") or () if one.get("message") and one.get("status") != "True"]
        if told:
            return Trouble("silent", f"no pod yet: {maker['kind']}: {_shortened(told[-1]['message'])}", "", NOBODY_S)
    kinds = ", ".join(f"{maker['kind']} {maker['metadata']['name']}" for maker in makers) or "it"
    return Trouble("silent", f"nothing has made a pod of {kinds}", "check that its controller (the operator) runs", NOBODY_S)


def failed(makers: Sequence[Object]) -> Trouble | None:
    """An operator that has given up says so in `status.state`."""
    for maker in makers:
        status = maker.get("status") or {}
        if str(status.get("state", "")).lower() == "failed":
            said = "; ".join(one["message"] for one in status.get("conditions") or () if one.get("message") and one.get("status") != "True")
            return Trouble("failed", f"the operator says failed: {_shortened(said or 'no reason')}", "", REFUSED_S)
    return None


def restarts(pods: Sequence[Object]) -> dict[str, Restarts]:
    """By uid of the pod. What has done its work by then (init containers, pods of a Job) may end."""
    found = {}
    for pod in _current(pods):
        if _phase(pod) == "Running":
            running = [one for one in _containers(pod) if "terminated" not in (one.get("state") or {})]
            found[pod["metadata"]["uid"]] = Restarts(pod["metadata"]["name"], {one["name"]: int(one.get("restartCount", 0)) for one in running})
    return found


def has_ended(before: Mapping[str, Restarts], pods: Sequence[Object], clues: Clues) -> Trouble | None:
    """What has happened to the pods of `before`."""
    by_uid = {pod["metadata"]["uid"]: pod for pod in pods}
    for uid, known in before.items():
        pod = by_uid.get(uid)
        if pod is None:
            return Trouble("ended", f"its pod {known.pod} was deleted", retry=True)
        if trouble := _end_of(pod, known, clues):
            return trouble
    return None


def when(event: Object) -> str:
    """Of its last occurrence; comparable as text."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("deprecatedLastTimestamp"), event.get("eventTime"), event["metadata"].get("creationTimestamp"))
    return str(next((time for time in times if time), ""))


def _current(pods: Sequence[Object]) -> list[Object]:
    """Without those that are on their way out, or failed and replaced."""
    staying = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    replaced = {_maker(pod) for pod in staying if _phase(pod) not in ("Failed", "Succeeded")} - {""}
    return [pod for pod in staying if _phase(pod) != "Failed" or _maker(pod) not in replaced]


def _of_pod(pod: Object, clues: Clues, gpu_wait_s: float) -> Trouble | None:
    if _phase(pod) == "Failed" and (pod["status"].get("reason") or not list(_containers(pod))):
        return Trouble("failed pod", _failed_pod(pod), "", FIRST_END_S, retry=True)
    placed = _condition(pod, "PodScheduled")
    if placed.get("status") == "False":
        return _not_placed(pod, placed, clues, gpu_wait_s)
    return _not_begun(pod, clues) or _volumes(pod, clues)


def _not_placed(pod: Object, placed: Object, clues: Clues, gpu_wait_s: float) -> Trouble:
    message = _shortened(placed.get("message", "")) or "no reason is given"
    if placed.get("reason") == "SchedulingGated":
        return Trouble("gated", f"waiting to be let in: {message}", "", AS_LONG_AS_IT_TAKES_S)
    if scale_up := [event for event in clues.events(pod["metadata"]["name"]) if event.get("reason") in _SCALE_UP]:
        return Trouble("new node", f"waiting for a new node: {_shortened(max(scale_up, key=when).get('note', ''))}", "", AS_LONG_AS_IT_TAKES_S)
    what = f"no node takes its pod: {message}"
    if "unbound immediate PersistentVolumeClaims" in message:
        return Trouble("volume", what, "look at the claim: kubectl describe pvc", VOLUME_S)
    if _IN_USE.search(message) and not _fits_nowhere(message):
        hint = "wait until they are free, raise --gpu-wait-s, or lower --max-num-gpus"
        return Trouble("in use", f"waiting for what others use: {message}", hint, gpu_wait_s, retry=True)
    return Trouble("not placed", what, "lower --max-num-gpus, or correct what its manifest asks for", SCHEDULE_S)


def _fits_nowhere(message: str) -> bool:
    """Not even after everything else had gone: the scheduler says of every node that preemption would not help."""
    nodes, helpless = _NODES.search(message), _HELPLESS.search(message)
    return nodes is not None and helpless is not None and nodes[1] == helpless[1]


def _not_begun(pod: Object, clues: Clues) -> Trouble | None:
    inits = {one["name"] for one in (pod["status"].get("initContainerStatuses") or ())}
    for container in _containers(pod):
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason, name = waiting.get("reason", ""), container["name"]
        said = f"{reason}: {_shortened(waiting.get('message', ''))}".removesuffix(": ")
        if reason in _IMAGE:
            final = reason in ("InvalidImageName", "ErrImageNeverPull") or _REGISTRY_SAYS_NO.search(waiting.get("message", ""))
            what = f"the image of {name}, {container.get('image', '?')}, cannot be pulled: {said}"
            return Trouble(NO_IMAGE, what, "check its name, and the pull secret of the manifest", 0.0 if final else PULL_S)
        if reason in _NO_CONTAINER:
            return Trouble("no container", f"the container {name} cannot be made: {said}", "correct the manifest", CONFIG_S)
        if trouble := _crash(pod, container, clues, is_init=name in inits):
            return trouble
    return None


def _crash(pod: Object, container: Object, clues: Clues, *, is_init: bool) -> Trouble | None:
    state, count = container.get("state") or {}, int(container.get("restartCount", 0))
    backing_off = (state.get("waiting") or {}).get("reason") == "CrashLoopBackOff"
    now = state.get("terminated")
    last = now or (container.get("lastState") or {}).get("terminated")
    if last is None or (is_init and last.get("exitCode") == 0):
        return None
    if not now and not backing_off and count < 2:  # it was started again, and may run now
        return None
    again = backing_off or count >= 2 or last.get("reason") == "OOMKilled" or not _restarted(pod)
    log = clues.container_log(pod["metadata"]["name"], container["name"], previous=now is None)
    what = f"the container {container['name']} ended: {_end_in_words(last, pod, container['name'], log)}"
    return Trouble("crash", what, _remedy(last), 0.0 if again else FIRST_END_S, crashed=True, log=log)


def _volumes(pod: Object, clues: Clues) -> Trouble | None:
    waiting = [((one.get("state") or {}).get("waiting") or {}).get("reason") for one in _containers(pod)]
    if "ContainerCreating" not in waiting and "PodInitializing" not in waiting:
        return None
    told = [event for event in clues.events(pod["metadata"]["name"]) if event.get("reason") in _CANNOT_BEGIN and event.get("type") == "Warning"]
    if not told:
        return None
    last = max(told, key=when)
    return Trouble("cannot begin", f"its pod cannot begin: {last['reason']}: {_shortened(last.get('note', ''))}", "", VOLUME_S, retry=True)


def _end_of(pod: Object, known: Restarts, clues: Clues) -> Trouble | None:
    name = known.pod
    if pod["metadata"].get("deletionTimestamp"):
        why = _condition(pod, "DisruptionTarget").get("message")
        return Trouble("ended", f"its pod {name} is being deleted" + (f": {_shortened(why)}" if why else ""), retry=True)
    for container in _containers(pod):
        state = container.get("state") or {}
        count = known.counts.get(container["name"])
        if count is None or (int(container.get("restartCount", 0)) <= count and not state.get("terminated")):
            continue
        now = state.get("terminated")
        last = now or (container.get("lastState") or {}).get("terminated") or {}
        log = clues.container_log(name, container["name"], previous=now is None)
        what = f"the container {container['name']} of its pod {name} ended: {_end_in_words(last, pod, container['name'], log)}"
        return Trouble("ended", what, _remedy(last), retry=True, crashed=True, log=log)
    if _phase(pod) == "Failed":
        return Trouble("ended", _failed_pod(pod), retry=True)
    lost = _condition(pod, "Ready").get("status") != "True" and all(one.get("ready") for one in _containers(pod)) and any(_containers(pod))
    if lost and not pod["spec"].get("readinessGates"):
        return Trouble("ended", f"its node {pod['spec'].get('nodeName', '?')} does not answer any more", retry=True)
    return None


def _end_in_words(last: Object, pod: Object, container: str, log: str) -> str:
    """With its termination message where there is no log, of which that mostly is a part."""
    code = last.get("exitCode", "?")
    if last.get("reason") == "OOMKilled":
        return f"killed, out of memory (OOMKilled, {_memory_limit(pod, container)})"
    message = "" if log else _shortened(last.get("message", ""))
    return f"exit code {code}" + (" (SIGKILL)" if code == 137 else "") + (f", {message}" if message else "")


def _memory_limit(pod: Object, container: str) -> str:
    for one in (*(pod["spec"].get("initContainers") or ()), *(pod["spec"].get("containers") or ())):
        limit: Any = ((one.get("resources") or {}).get("limits") or {}).get("memory")
        if one.get("name") == container and limit:
            return f"its limit is {limit}"
    return "the node had none left"


def _remedy(last: Object) -> str:
    return "raise its memory limit in the manifest" if last.get("reason") == "OOMKilled" else ""


def _failed_pod(pod: Object) -> str:
    status = pod["status"]
    said = ": ".join(filter(None, (status.get("reason"), _shortened(status.get("message", "")))))
    return f"its pod {pod['metadata']['name']} failed: {said or 'no reason is given'}"


def _restarted(pod: Object) -> bool:
    return str((pod.get("spec") or {}).get("restartPolicy", "Always")) == "Always"


def _containers(pod: Object) -> Iterator[Object]:
    """Their statuses."""
    status = pod.get("status") or {}
    yield from status.get("initContainerStatuses") or ()
    yield from status.get("containerStatuses") or ()


def _condition(pod: Object, kind: str) -> Object:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one.get("type") == kind), {})


def _phase(pod: Object) -> str:
    return str((pod.get("status") or {}).get("phase", ""))


def _maker(pod: Object) -> str:
    owners = pod["metadata"].get("ownerReferences") or ()
    return next((str(owner.get("uid", "")) for owner in owners if owner.get("controller")), "")


def _shortened(words: str) -> str:
    words = " ".join(words.split())
    return words if len(words) <= _SHOWN else words[: _SHOWN - 1].rstrip() + "…"
