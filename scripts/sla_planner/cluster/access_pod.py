"""A pod that lends its volume: made for one command, gone after it.

    claim    ->   Job with one pod, on the node where the volume is   ->   programs are started in it by exec   ->   Job removed, pod gone

However the command ends (an error, Ctrl-C, SIGTERM) the Job is removed with its pod. After kill -9, or when the cluster cannot be reached any more,
the pod ends by itself and the cluster removes the Job (`access_pod_manifest.py`). What earlier runs may have left is removed at the start.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta

from sla_planner.cluster.access_pod_manifest import ACCESS_ROLE, CONTAINER, ROLE_LABEL, RUN_LABEL, AccessOptions, access_job
from sla_planner.cluster.access_pod_place import place_of
from sla_planner.cluster.access_pod_trouble import AccessEnded, Doctor
from sla_planner.cluster.api import Conflict, KubernetesApi, NotFound, Selector
from sla_planner.cluster.exec_stream import ExecStream, exec_in
from sla_planner.cluster.resources import JOBS, PODS, Object
from sla_planner.errors import ForbiddenError, PlannerError, UnreachableError, UsageError

_LOOK_S = 3.0  # without news of the pod, how long until the events are asked
_REST_S = 0.2  # an API server that has only just started ends watches at once
_GONE_LIMIT_S = 15.0
_NEVER_STARTED = timedelta(hours=1)  # longer than anybody waits for a pod to start

log = logging.getLogger(__name__)


class AccessPod:
    """A pod that runs and has the volume."""

    def __init__(self, api: KubernetesApi, name: str, doctor: Doctor) -> None:
        self._api, self._doctor = api, doctor
        self.name = name

    def start(self, command: Sequence[str]) -> ExecStream:
        """Raises `AccessEnded` when the pod is over, `UnreachableError` when a later try may work, `ForbiddenError`."""
        try:
            return exec_in(self._api, self.name, CONTAINER, command)
        except (NotFound, UnreachableError):
            try:
                pod = self._api.get(PODS, self.name)
            except NotFound:
                raise AccessEnded(f"the access pod {self.name} is gone", hint="the same command goes on from here") from None
            if trouble := self._doctor.ended(pod):
                raise trouble from None
            raise


@contextmanager
def access_pod(api: KubernetesApi, options: AccessOptions) -> Iterator[AccessPod]:
    """Raises `UsageError` (no such claim, an image that cannot be pulled, refused), `UnreachableError` (not started in time), `ForbiddenError`."""
    place = place_of(api, options.claim, writes=options.writes)
    if place.node:
        log.info("Pod %s has the volume on node %s; the access pod goes there", place.beside, place.node)
    run_id = secrets.token_hex(4)
    job = access_job(options, place, run_id)
    name, pods = job["metadata"]["name"], Selector(labels=f"{RUN_LABEL}={run_id}")
    try:
        try:
            made = api.create(JOBS, job)
        except (ForbiddenError, UsageError, Conflict):
            name = ""  # refused, so nothing was made
            raise
        _remove_leftovers(api, made)
        doctor = Doctor(api, name, options.claim, options.start_limit_s)
        yield AccessPod(api, _wait_until_running(api, pods, doctor, options.start_limit_s), doctor)
    finally:
        if name:
            _remove(api, name, pods)


def _wait_until_running(api: KubernetesApi, selector: Selector, doctor: Doctor, limit_s: float) -> str:
    """The pod's name. Every new trouble is told at once; some end it, all end with the limit."""
    give_up_s = time.monotonic() + limit_s
    pods: list[Object] = []
    while True:
        for kind, pod in api.watch(PODS, selector, timeout_s=_LOOK_S):
            pods = [] if kind == "DELETED" else [pod]
            if any("running" in (status.get("state") or {}) for status in (pod.get("status") or {}).get("containerStatuses") or ()):
                return str(pod["metadata"]["name"])
            doctor.look(pods)
        trouble = doctor.look(pods)
        if time.monotonic() > give_up_s:
            raise doctor.out_of_time(trouble, pods)
        time.sleep(_REST_S)


def _remove(api: KubernetesApi, job: str, pods: Selector) -> None:
    """And wait until it is gone: whoever comes next may want the volume."""
    try:
        if not api.delete(JOBS, job):
            return
    except PlannerError as error:
        log.warning("Job %s could not be removed (%s); it ends by itself, and the cluster removes it", job, error.message)
        return
    give_up_s = time.monotonic() + _GONE_LIMIT_S
    with suppress(PlannerError):
        while api.all_of(PODS, pods) and time.monotonic() < give_up_s:
            for kind, _ in api.watch(PODS, pods, timeout_s=_LOOK_S):
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
