"""A pod that lends its volume: made for one command, gone after it.

    claim    ->   Job with one pod, on the node where the volume is   ->   programs are started in it by exec   ->   Job removed, pod gone

However the command ends (an error, Ctrl-C, SIGTERM) the Job is removed with its pod. After kill -9, or when the cluster cannot be reached any more,
the pod ends by itself and the cluster removes the Job (`access_pod_manifest.py`). What earlier runs may have left is removed at the start.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta

from sla_planner.cluster.access_pod_manifest import ACCESS_ROLE, CONTAINER, ROLE_LABEL, RUN_LABEL, AccessOptions, access_job
from sla_planner.cluster.access_pod_place import place_of
from sla_planner.cluster.access_pod_trouble import Trouble, ended_words, event_trouble, failed_itself, is_running, trouble_of
from sla_planner.cluster.api import KubernetesApi, NotFound, Selector
from sla_planner.cluster.exec_stream import ExecStream, exec_in
from sla_planner.cluster.resources import JOBS, PODS, Object
from sla_planner.errors import PlannerError, UnreachableError, UsageError

Tell = Callable[[str], None]

_LOOK_S = 3.0  # without news of the pod, how long until the events are asked
_GONE_LIMIT_S = 15.0
_NEVER_STARTED = timedelta(hours=1)  # longer than anybody waits for a pod to start


class AccessEnded(PlannerError):
    """The pod has ended under us: evicted, its node gone, its time over. The same command again makes a new one."""

    exit_code = UnreachableError.exit_code


class AccessPod:
    """A pod that runs and has the volume."""

    def __init__(self, api: KubernetesApi, name: str) -> None:
        self._api = api
        self.name = name

    def start(self, command: Sequence[str]) -> ExecStream:
        """Raises `AccessEnded` when the pod is over, `UnreachableError` when a later try may work, `ForbiddenError`."""
        try:
            return exec_in(self._api, self.name, CONTAINER, command)
        except (NotFound, UnreachableError):
            self._check_not_over()
            raise

    def _check_not_over(self) -> None:
        try:
            pod = self._api.get(PODS, self.name)
        except NotFound:
            raise AccessEnded(f"the access pod {self.name} is gone", hint="the same command goes on from here") from None
        if failed_itself(pod) and (trouble := trouble_of(self._api, pod)):
            raise UsageError(f"the access pod has failed: {trouble.words}", hint=trouble.hint)
        if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            raise AccessEnded(f"the access pod {self.name} has ended ({ended_words(pod)})", hint="the same command goes on from here")


@contextmanager
def access_pod(api: KubernetesApi, options: AccessOptions, tell: Tell) -> Iterator[AccessPod]:
    """Raises `UsageError` (no such claim, an image that cannot be pulled, refused), `UnreachableError` (not started in time), `ForbiddenError`."""
    place = place_of(api, options.claim, writes=options.writes)
    if place.node:
        tell(f"pod {place.beside} has the volume on node {place.node}; the access pod goes there")
    run_id = secrets.token_hex(4)
    job = access_job(options, place, run_id)
    name = job["metadata"]["name"]
    try:
        made = api.create(JOBS, job)
        _remove_leftovers(api, made)
        yield AccessPod(api, _wait_until_running(api, name, run_id, options, tell))
    finally:
        _remove(api, name, run_id, tell)


def _wait_until_running(api: KubernetesApi, job: str, run_id: str, options: AccessOptions, tell: Tell) -> str:
    """The pod's name."""
    give_up_s = time.monotonic() + options.start_limit_s
    pod = ""
    trouble: Trouble | None = None
    told: list[str] = []
    while True:
        for kind, seen in api.watch(PODS, Selector(labels=f"{RUN_LABEL}={run_id}"), timeout_s=_LOOK_S):
            pod = str(seen["metadata"]["name"])
            if kind == "DELETED":
                raise AccessEnded(f"the access pod {pod} was deleted before it ran", hint="try again")
            if is_running(seen):
                return pod
            trouble = trouble_of(api, seen)
            _judge(trouble, told, tell)
            if time.monotonic() > give_up_s:
                break
        if trouble is None:
            _judge(event_trouble(api, job, pod), told, tell)
        if time.monotonic() > give_up_s:
            reason = told[-1] if told else f"pod {pod} says nothing" if pod else f"Job {job} has made no pod"
            raise UnreachableError(
                f"the access pod did not start in {options.start_limit_s:g} s ({reason})", hint="mend that, or raise --start-limit-s"
            )


def _judge(trouble: Trouble | None, told: list[str], tell: Tell) -> None:
    """Tell what is new. Raises `UsageError` when waiting does not help."""
    if trouble is None or trouble.words in told:
        return
    if trouble.hint:
        raise UsageError(f"the access pod cannot run: {trouble.words}", hint=trouble.hint)
    told.append(trouble.words)
    tell(f"the access pod waits: {trouble.words}")


def _remove(api: KubernetesApi, job: str, run_id: str, tell: Tell) -> None:
    """And wait until it is gone: whoever comes next may want the volume."""
    try:
        if not api.delete(JOBS, job):
            return
    except PlannerError as error:
        tell(f"Job {job} could not be removed ({error.message}); it ends by itself, and the cluster removes it")
        return
    selector = Selector(labels=f"{RUN_LABEL}={run_id}")
    give_up_s = time.monotonic() + _GONE_LIMIT_S
    with suppress(PlannerError):
        while api.all_of(PODS, selector) and time.monotonic() < give_up_s:
            for kind, _ in api.watch(PODS, selector, timeout_s=_LOOK_S):
                if kind == "DELETED":
                    break


def _remove_leftovers(api: KubernetesApi, ours: Object) -> None:
    """Access Jobs that are over, and such as have never started. Both times are the cluster's."""
    with suppress(PlannerError):  # whoever may not list or delete them has none to answer for
        for job in api.all_of(JOBS, Selector(labels=f"{ROLE_LABEL}={ACCESS_ROLE}")):
            if job["metadata"]["name"] != ours["metadata"]["name"] and _is_leftover(job, ours):
                api.delete(JOBS, job["metadata"]["name"], uid=job["metadata"]["uid"])


def _is_leftover(job: Object, ours: Object) -> bool:
    status = job.get("status") or {}
    if any(each.get("type") in ("Complete", "Failed") and each.get("status") == "True" for each in status.get("conditions") or ()):
        return True
    return not status.get("ready") and _made(ours) - _made(job) > _NEVER_STARTED


def _made(found: Object) -> datetime:
    return datetime.fromisoformat(found["metadata"]["creationTimestamp"])
