"""The port through which a decision leaves the planner, implemented by every kind of scale target."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from sla_planner.plan.observation import WorkerCounts


@dataclass(frozen=True, slots=True)
class Fleet:
    """Both roles as the target reports them now."""

    prefill: WorkerCounts
    decode: WorkerCounts


class Outcome(StrEnum):
    APPLIED = "applied"
    UNCHANGED = "unchanged"  # the target asks for these counts already
    WAITING = "waiting"  # an earlier decision has not been acknowledged: nothing was written


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a decision. `message` is the log line, e.g. `No scaling needed (prefill=1, decode=2)`."""

    outcome: Outcome
    message: str


class ScaleTarget(Protocol):
    """Errors: `UnreachableError` when the target cannot be read or written; nothing is half-written."""

    name: str

    def fleet(self) -> Fleet | None:
        """Workers of both roles; None when the target has never been set."""
        ...

    def apply(self, prefill: int, decode: int, *, now_s: float) -> Applied:
        """Ask for these counts, both roles in one write."""
        ...
