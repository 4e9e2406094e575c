"""The port through which a decision leaves the planner, implemented by every kind of scale target."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from sla_planner.plan.observation import WorkerCounts

Counts = tuple[int, int]  # prefill, decode


class Hold(StrEnum):
    """Why a target must not be touched at this moment."""

    PAUSED = "paused"  # a person asked for it
    CONTENDED = "contended"  # somebody else has just written the counts


@dataclass(frozen=True, slots=True)
class HandsOff:
    """`text` says who or what, in one clause."""

    why: Hold
    text: str


@dataclass(frozen=True, slots=True)
class Fleet:
    """Both roles as the target reports them now.

    `prefill_gpus`, `decode_gpus`: of one worker, as the target's manifest says; 0 where it does not say.
    `unplaced`: why workers cannot be placed; `troubles`: why workers do not start; both in the cluster's own words.
    """

    prefill: WorkerCounts
    decode: WorkerCounts
    prefill_gpus: int = 0
    decode_gpus: int = 0
    hands_off: HandsOff | None = None
    unplaced: tuple[str, ...] = ()
    troubles: tuple[str, ...] = ()

    @property
    def asked(self) -> Counts:
        """What the target asks for now."""
        return self.prefill.total, self.decode.total


class Outcome(StrEnum):
    APPLIED = "applied"
    UNCHANGED = "unchanged"  # the target asks for these counts already
    WAITING = "waiting"  # an earlier decision has not been acknowledged: nothing was written
    CONTENDED = "contended"  # somebody else wrote at the same moment: theirs stands


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a decision. `message` is the log line, e.g. `No scaling needed (prefill=1, decode=2)`."""

    outcome: Outcome
    message: str


class ScaleTarget(Protocol):
    """Errors: `UnreachableError` when the target cannot be read or written, `ForbiddenError` when a right is missing.

    A target remembers nothing that matters: it says what is, so that a planner that was killed goes on from there.
    """

    name: str

    def fleet(self, last: Counts | None = None) -> Fleet | None:
        """Workers of both roles; None when the target has never been set.

        `last`: what it asked for when this planner last wrote or looked; where it asks for something else now that this planner did not write,
        the answer holds (`HandsOff`). None: whatever it asks for is right.
        """
        ...

    def apply(self, prefill: int, decode: int, *, now_s: float) -> Applied:
        """Ask for these counts: in one write where the target can, else the shrinking role first. Calling it again changes nothing."""
        ...
