"""Acting without a cluster: both ends of the virtual scaling protocol (see `virtual_protocol`), over a file or etcd.

target = open_virtual_target("file:fleet.json")        the planner's end: writes decisions
client = open_virtual_client("file:fleet.json")        the other end: carries them out

while client.wait():
    decision = client.get()
    ...                                                # make it so
    client.complete(decision)
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass

from sla_planner.cluster.etcd_gateway import parse_endpoint
from sla_planner.cluster.target import Applied, Counts, Fleet, Outcome, ScaleTarget
from sla_planner.cluster.virtual_etcd import EtcdStore
from sla_planner.cluster.virtual_file import FileStore
from sla_planner.cluster.virtual_protocol import DEFAULT_NAMESPACE, UNSET, acknowledge, decide, fleet
from sla_planner.cluster.virtual_store import VirtualStore
from sla_planner.errors import UsageError

_EXAMPLES = "examples: file:fleet.json, file:/data/fleet.json, etcd://127.0.0.1:2379, etcd://USER:PASSWORD@HOST:2379"


class VirtualTarget:
    """`ScaleTarget` that writes decisions into a `VirtualStore`."""

    def __init__(self, store: VirtualStore, name: str) -> None:
        self.name = name
        self._store = store

    def fleet(self, last: Counts | None = None) -> Fleet | None:  # noqa: ARG002 - who else decides is seen in `apply`
        return fleet(self._store.read().state)

    def apply(self, prefill: int, decode: int, *, now_s: float) -> Applied:
        """See `virtual_protocol.decide`. Another planner's decision made in the meantime stands, and the answer says so."""
        seen = self._store.read()
        while True:
            step = decide(seen.state, prefill, decode, now_s)
            if step.state == seen.state or self._store.swap(seen, step.state):
                return step.applied
            now = self._store.read()
            if now.state == step.state:  # written, only the answer was lost on its way
                return step.applied
            if now.state.decision_id != seen.state.decision_id:
                return Applied(Outcome.WAITING, self._overtaken(now.state.decision_id, prefill, decode))
            seen = now  # an acknowledgement came in between: decide again

    def _overtaken(self, decision_id: int, prefill: int, decode: int) -> str:
        return (
            f"Not asking for prefill={prefill}, decode={decode}: another program set decision_id to {decision_id} in {self._store.place} "
            "at the same moment; let only one planner act on a target"
        )


@dataclass(frozen=True, slots=True)
class VirtualDecision:
    """What the planner asks for; -1 = not set yet."""

    num_prefill_workers: int
    num_decode_workers: int
    decision_id: int


class VirtualTargetClient:
    """The end that carries decisions out, with the calls of Dynamo's `VirtualConnectorClient` (blocking, not async)."""

    def __init__(self, store: VirtualStore) -> None:
        self._store = store
        self._last_id = UNSET

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block until there is a decision that `get` has not returned yet; False when `timeout_s` passes before.

        A decision made before the call is not missed: a new client returns at once when there is any.
        """
        deadline_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while True:
            seen = self._store.read()
            if seen.state.decision_id != self._last_id:
                return True
            remaining_s = deadline_s - time.monotonic()
            if remaining_s <= 0:
                return False
            self._store.wait_for_change(seen, remaining_s)

    def get(self) -> VirtualDecision:
        state = self._store.read().state
        self._last_id = state.decision_id
        return VirtualDecision(state.num_prefill_workers, state.num_decode_workers, state.decision_id)

    def complete(self, decision: VirtualDecision) -> None:
        """Acknowledge `decision`. An acknowledgement of a later one stands."""
        while True:
            seen = self._store.read()
            state = acknowledge(seen.state, decision.decision_id)
            if state == seen.state or self._store.swap(seen, state):
                return


def open_virtual_target(url: str, namespace: str = DEFAULT_NAMESPACE, name: str = "") -> ScaleTarget:
    """The planner's end of `url`, called `name` (default: the place). Opens nothing yet. `UsageError` for a bad URL.

    `namespace` tells targets apart in etcd; a file holds one target.
    """
    store = _open_store(url, namespace)
    return VirtualTarget(store, name or store.place)


def open_virtual_client(url: str, namespace: str = DEFAULT_NAMESPACE) -> VirtualTargetClient:
    """The other end of `url`. Opens nothing yet. `UsageError` for a bad URL."""
    return VirtualTargetClient(_open_store(url, namespace))


def _open_store(url: str, namespace: str) -> VirtualStore:
    path = url.removeprefix("file:")
    if path != url and path and not path.endswith("/") and not re.match("//[^/]", path):
        return FileStore(path)
    try:
        endpoint = parse_endpoint(url)
    except ValueError:
        shown = re.sub(":.*@", ":***@", url)  # a mistyped URL may hold a password
        raise UsageError(f"virtual target {shown!r} is neither file:PATH nor etcd://HOST:PORT", hint=_EXAMPLES) from None
    return EtcdStore(endpoint, namespace)
