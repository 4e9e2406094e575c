"""Of several processes of a stage one acts: the one that holds the Lease, as client-go's LeaseLock does it.

    take       when nobody holds it, or its record has not changed for its own `leaseDurationSeconds` on our clock (clocks are never compared)
    renew      every RETRY_S; who could not renew for RENEW_LIMIT_S stops acting, well before anybody else may start
    release    at the end: the holder is emptied, so that the next one need not wait

Every write replaces the version that was read: of two that try at once, one gets a conflict. A pod is called as POD_NAME says, so that its next
container goes on where the last one died.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sla_planner.cluster.api import Conflict, KubernetesApi, NotFound
from sla_planner.cluster.resources import CONFIG_MAPS, LEASES, Object
from sla_planner.errors import PlannerError

DURATION_S = 15
RENEW_LIMIT_S = 10.0
RETRY_S = 2.0


class Leadership:
    """Of the Lease `name`, which goes with the ConfigMap `config_map` that is installed. `clock`: monotonic seconds.

    `start` keeps it in a thread of its own until `release`; `attempt` is one step of it.
    """

    def __init__(
        self,
        api: KubernetesApi,
        name: str,
        *,
        stage: str = "planner",
        identity: str = "",
        config_map: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._stage = stage
        self._config_map = config_map
        self.identity = identity or os.environ.get("POD_NAME") or f"{os.uname().nodename}_{secrets.token_hex(4)}"
        self._api = api
        self._clock = clock
        self._renewed_at_s: float | None = None  # None: not ours
        self._record: tuple[Any, ...] = ()  # as last seen, to notice that it changes
        self._changed_at_s = clock()
        self._holder = ""
        self._trouble = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def held(self) -> bool:
        """Whether we may act now."""
        return self._renewed_at_s is not None and self._clock() - self._renewed_at_s < RENEW_LIMIT_S

    @property
    def words(self) -> str:
        """Why we stand by."""
        if self._trouble:
            return f"lease {self.name} cannot be had: {self._trouble}"
        return f"lease {self.name} is held by {self._holder}" if self._holder else f"lease {self.name} is not ours yet"

    @property
    def trouble(self) -> str:
        """Why the last try did not come through; '' where it did, also when somebody else holds it."""
        return self._trouble

    def start(self) -> None:
        """Try once, then go on in the background."""
        self.attempt()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def attempt(self) -> None:
        """Take or renew it if that can be done. Never raises."""
        try:
            self._trouble = ""
            self._take_or_renew()
        except Conflict:
            pass  # somebody was faster; we look again
        except PlannerError as error:
            self._trouble = str(error)

    def release(self) -> None:
        """Give it back, if it is ours. Never raises."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(RENEW_LIMIT_S)
        if self._renewed_at_s is None:
            return
        self._renewed_at_s = None
        try:
            found = self._api.get(LEASES, self.name)
            if found["spec"].get("holderIdentity") == self.identity:
                self._api.replace(LEASES, {**found, "spec": {**found["spec"], "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}})
        except PlannerError as error:
            self._trouble = str(error)

    def _keep(self) -> None:
        while not self._stop.wait(RETRY_S):
            self.attempt()

    def _take_or_renew(self) -> None:
        asked_at_s = self._clock()
        try:
            found = self._api.get(LEASES, self.name)
        except NotFound:
            self._api.create(LEASES, self._lease())
            self._renewed_at_s, self._holder = asked_at_s, self.identity
            return
        spec = found.get("spec") or {}
        holder = str(spec.get("holderIdentity") or "")
        record = (holder, spec.get("renewTime"), spec.get("acquireTime"), spec.get("leaseTransitions"))
        if record != self._record:
            self._record, self._changed_at_s = record, asked_at_s
        expired = asked_at_s - self._changed_at_s >= float(spec.get("leaseDurationSeconds") or DURATION_S)
        self._holder = holder
        if holder not in ("", self.identity) and not expired:
            self._renewed_at_s = None
            return
        self._api.replace(LEASES, {**found, "spec": self._renewed(spec, taken=holder != self.identity)})
        self._renewed_at_s, self._holder = asked_at_s, self.identity

    def _renewed(self, spec: Object, *, taken: bool) -> Object:
        now = _now()
        return {
            **spec,
            "holderIdentity": self.identity,
            "leaseDurationSeconds": DURATION_S,
            "acquireTime": now if taken else spec.get("acquireTime", now),
            "renewTime": now,
            "leaseTransitions": int(spec.get("leaseTransitions") or 0) + taken,
        }

    def _lease(self) -> Object:
        labels = {"app.kubernetes.io/name": "sla-planner", "app.kubernetes.io/component": self._stage, "app.kubernetes.io/part-of": "sla-planner"}
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {
                "name": self.name,
                "labels": {**labels, "app.kubernetes.io/managed-by": "sla-planner"},
                "ownerReferences": self._owners(),
            },
            "spec": self._renewed({}, taken=False),
        }

    def _owners(self) -> list[Object]:
        """What is made at run time must not outlast what is installed."""
        if not self._config_map:
            return []
        try:
            uid = self._api.get(CONFIG_MAPS, self._config_map)["metadata"]["uid"]
        except NotFound:
            return []
        return [{"apiVersion": CONFIG_MAPS.api_version, "kind": CONFIG_MAPS.kind, "name": self._config_map, "uid": uid}]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
