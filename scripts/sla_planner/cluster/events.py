"""Events of the objects that a stage looks after (events.k8s.io/v1), where `kubectl describe` shows them.

    one Event        per object, reason and text; saying it again makes it a series with a count
    a warning        is said again at most every `quiet_s`, however often it holds and whatever the words
    the name         follows from object, reason and text, so that a stage that forgets everything between two runs goes on with the same series

Posting never fails a run: what went wrong is returned as a sentence.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sla_planner.cluster.api import Conflict, KubernetesApi, NotFound
from sla_planner.cluster.conditions import Notice
from sla_planner.cluster.resources import EVENTS, Object
from sla_planner.errors import PlannerError

QUIET_S = 300.0
_KEPT = 256  # reasons and objects that are remembered


@dataclass(slots=True)
class EventBook:
    """Posts Events in the namespace of `api`. `clock`: epoch seconds; `instance`: who reports (the pod); `stage`, `action`: as what, and of what.

    `quiet_s`: 0 where whoever posts says each thing once by itself.
    """

    api: KubernetesApi
    clock: Callable[[], float] = time.time
    instance: str = field(default_factory=lambda: os.uname().nodename[:128])
    stage: str = "planner"
    action: str = "Scale"
    quiet_s: float = QUIET_S
    _posted_at: dict[tuple[str, str], float] = field(default_factory=dict)

    def post(self, objects: Iterable[Object], notices: Iterable[Notice]) -> str:
        """Why some could not be posted; '' when all went well."""
        about, told = list(objects), list(notices)
        try:
            for found in about:
                for notice in told:
                    self._post(found, notice)
        except PlannerError as error:
            return str(error)
        return ""

    def _post(self, found: Object, notice: Notice) -> None:
        metadata, now_s = found["metadata"], self.clock()
        key = (str(metadata.get("uid")), notice.reason)
        if notice.severity == "Warning" and 0 <= now_s - self._posted_at.get(key, -self.quiet_s) < self.quiet_s:
            return
        event = self._event(found, notice, now_s)
        try:
            self.api.create(EVENTS, event)
        except Conflict:
            self._go_on(event)
        self._posted_at[key] = now_s
        if len(self._posted_at) > _KEPT:
            del self._posted_at[next(iter(self._posted_at))]

    def _go_on(self, event: Object) -> None:
        name = event["metadata"]["name"]
        try:
            count = (self.api.get(EVENTS, name).get("series") or {}).get("count", 1)
            self.api.merge_patch(EVENTS, name, {"series": {"count": count + 1, "lastObservedTime": event["eventTime"]}})
        except NotFound:  # it has just expired
            self.api.create(EVENTS, event)

    def _event(self, found: Object, notice: Notice, now_s: float) -> Object:
        metadata = found["metadata"]
        told = hashlib.sha256("\0".join([str(metadata.get("uid")), notice.reason, notice.note]).encode()).hexdigest()[:16]
        return {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {
                "name": f"{metadata['name'][:200]}.{told}",
                "labels": {
                    "app.kubernetes.io/name": "sla-planner",
                    "app.kubernetes.io/component": self.stage,
                    "app.kubernetes.io/part-of": "sla-planner",
                    "app.kubernetes.io/managed-by": "sla-planner",
                },
            },
            "eventTime": datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "type": notice.severity,
            "reason": notice.reason,
            "action": self.action,
            "note": notice.note,
            "regarding": {
                "apiVersion": found["apiVersion"],
                "kind": found["kind"],
                "name": metadata["name"],
                "namespace": metadata.get("namespace"),
                "uid": metadata.get("uid"),
            },
            "reportingController": f"slaplanner.io/{self.stage}",
            "reportingInstance": self.instance,
        }
