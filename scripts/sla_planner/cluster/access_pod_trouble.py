"""How an access pod is doing: what keeps it from running, how long that may last, and how it has ended."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import replace

from sla_planner.cluster.api import KubernetesApi, Selector
from sla_planner.cluster.pod_trouble import keeps_from_running, refused, when
from sla_planner.cluster.resources import EVENTS, Object
from sla_planner.errors import PlannerError, UnreachableError, UsageError
from sla_planner.sweep.host import Trouble

_OUR_IMAGE = "is --access-image the volume-tools image of this version?"
_HINTS = {
    "image": "give --access-image, and --image-pull-secret where its registry wants one",
    "no container": _OUR_IMAGE,
    "crash": _OUR_IMAGE,
    "refused": "the namespace's quota or policy has to let it in",
    "not placed": "make room, or give --toleration for the taint of a node",
    "in use": "wait until something has ended, or make room",
    "volume": "look at the claim: kubectl describe pvc",
}
_MEND = "mend that, or raise --start-limit-s"
_NO_FAULT = (0, 137, 143)  # exit codes: it has had enough, or was killed

log = logging.getLogger(__name__)


class AccessEnded(PlannerError):
    """The pod has ended under us: evicted, its node gone, its time over. The same command again makes a new one."""

    exit_code = UnreachableError.exit_code


class Doctor:
    """Of the access pod of a Job, which wants a claim and has `limit_s` to start."""

    def __init__(self, api: KubernetesApi, job: str, claim: str, limit_s: float) -> None:
        self._api, self._job, self._claim, self._limit_s = api, job, claim, limit_s
        self._since: dict[str, float] = {}

    def look(self, pods: list[Object]) -> Trouble | None:
        """What keeps it from running now; said once of each kind. Raises `UsageError` or `UnreachableError` when that has lasted too long."""
        if (trouble := self._trouble(pods)) is None:
            return None
        now_s = time.monotonic()
        if trouble.kind not in self._since and trouble.patience_s > 0:
            log.warning("The access pod waits: %s", trouble.what)
        if now_s - self._since.setdefault(trouble.kind, now_s) >= trouble.patience_s:
            raise _given_up(f"the access pod cannot run: {_said(trouble)}", trouble)
        return trouble

    def _trouble(self, pods: list[Object]) -> Trouble | None:
        if not pods:
            return refused([event for event in self.events(self._job) if event.get("reason") == "FailedCreate"], pods)
        trouble = keeps_from_running(pods, self, gpu_wait_s=self._limit_s)
        if trouble and trouble.kind == "volume":
            warnings = [event for event in self.events(self._claim) if event.get("type") == "Warning"]
            said = "".join(f" ({self._claim}: {event.get('note', '')})" for event in sorted(warnings, key=when)[-1:])
            return replace(trouble, what=trouble.what + said)
        return trouble

    def out_of_time(self, trouble: Trouble | None, pods: list[Object]) -> PlannerError:
        """There was a limit, and it is over."""
        nothing = f"pod {pods[0]['metadata']['name']} says nothing" if pods else f"Job {self._job} has made no pod"
        words = f"the access pod did not start in {self._limit_s:g} s: {_said(trouble) if trouble else nothing}"
        return UnreachableError(words, hint=_HINTS.get(trouble.kind, _MEND) if trouble else _MEND)

    def ended(self, pod: Object) -> PlannerError | None:
        """None while it is not over."""
        status = pod.get("status") or {}
        name = pod["metadata"]["name"]
        if status.get("phase") not in ("Succeeded", "Failed"):
            return None
        trouble = keeps_from_running([pod], self, gpu_wait_s=0)
        codes = [((each.get("state") or {}).get("terminated") or {}).get("exitCode") for each in status.get("containerStatuses") or ()]
        if trouble and trouble.crashed and not any(code in _NO_FAULT for code in codes):
            return _given_up(f"the access pod has failed: {_said(trouble)}", trouble)
        why = trouble.what if trouble else f"exit code {next(iter(codes), '?')}"
        return AccessEnded(f"the access pod {name} has ended: {why}", hint="the same command goes on from here")

    def events(self, pod: str) -> list[Object]:
        """About any object of that name; none where they may not be listed."""
        with suppress(PlannerError):
            return self._api.all_of(EVENTS, Selector(fields=f"regarding.name={pod}"))
        return []

    def container_log(self, pod: str, container: str, *, previous: bool) -> str:
        with suppress(PlannerError):
            return self._api.pod_log(pod, container, previous=previous, tail_lines=1)
        return ""


def _said(trouble: Trouble) -> str:
    last_words = " ".join(trouble.log.split())[-300:]
    return f"{trouble.what} ({last_words})" if last_words else trouble.what


def _given_up(words: str, trouble: Trouble) -> PlannerError:
    kind = UnreachableError if trouble.retry else UsageError
    return kind(words, hint=_HINTS.get(trouble.kind, _MEND))
