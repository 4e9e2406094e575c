"""The port to wherever the virtual protocol's integers are kept, implemented by a file and by etcd.

Both ends of the protocol change it in one way only, compare-and-swap: read a snapshot, derive the next state, write it if nobody wrote in between.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from sla_planner.cluster.virtual_protocol import UNSET, VirtualState
from sla_planner.errors import UsageError


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A state as it was read. `revision` is the store's mark of that moment; a file has none and compares states."""

    state: VirtualState
    revision: int = 0


class VirtualStore(Protocol):
    """Errors: `UnreachableError` when the store does not answer, `UsageError` when it holds something else; nothing is half-written."""

    place: str  # for messages, without credentials

    def read(self) -> Snapshot: ...

    def swap(self, seen: Snapshot, state: VirtualState) -> bool:
        """Store `state` in one write; False, and nothing written, when a key has changed since `seen`."""
        ...

    def wait_for_change(self, seen: Snapshot, timeout_s: float) -> None:
        """Return when the decision may have changed since `seen`, at the latest after `timeout_s` (may be infinite)."""
        ...


def as_integer(value: object, where: str) -> int:
    """A stored value (JSON integer or ASCII digits) as an integer >= -1; `where` names place and key in the error."""
    number = int(value) if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value) else value
    if isinstance(number, bool) or not isinstance(number, int) or number < UNSET:
        raise UsageError(f"{where} is {value!r:.60}, not an integer >= -1", hint="correct or delete it; -1 means not set")
    return number
