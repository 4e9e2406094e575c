"""When a need becomes a change: up at once, down late and gently.

    up      need > current: the whole step now. Workers that are starting are counted in `current`, so nothing cascades.
    down    only after the need has stayed below `current` for the whole grace period, then at most max(1, current / 4) workers a tick, and to no
            fewer than the highest need of that period; each step only if the survivors hold the promise at the load that is there now.

    turns   growth after shrinkage is a turn, and so is shrinkage after growth. A role that has turned `MOST_TURNS` times within the last hour gives
            no more workers away until one of those turns is an hour old; it may still grow. So it turns at most once more than that in any hour.

A step down restarts nothing: the period goes on, so the next step may follow at the next tick. Any need at or above `current` ends it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sla_planner.plan.decision import Reason

LARGEST_STEP_SHARE = 4  # at most one in so many workers leaves per tick
MOST_TURNS = 5
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Below:
    """Needs since the need fell below what runs: `(at_s, need)`, oldest first, no older than the grace period needs. Empty: not below."""

    since_s: float = 0.0
    needs: tuple[tuple[float, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Turns:
    """`direction` of the last change (1 up, -1 down, 0 none yet), and when the direction changed within the last hour, oldest first."""

    direction: int = 0
    at_s: tuple[float, ...] = ()

    def after(self, change: int, now_s: float) -> Turns:
        """With a change by so many workers in it, which may be 0."""
        recent = tuple(at_s for at_s in self.at_s if now_s - HOUR_S < at_s <= now_s)
        direction = (change > 0) - (change < 0)
        if not direction:
            return Turns(self.direction, recent)
        return Turns(direction, (*recent, now_s) if direction == -self.direction else recent)

    def too_many(self, now_s: float) -> bool:
        """Whether the role must not shrink now."""
        return self.direction > 0 and sum(now_s - HOUR_S < at_s <= now_s for at_s in self.at_s) >= MOST_TURNS


@dataclass(frozen=True, slots=True)
class Steadied:
    """`desired` workers, the state to keep, and why it differs from the need (`reason` None = it does not)."""

    desired: int
    below: Below
    reason: Reason | None = None
    explanation: str = ""


def steady(need: int, current: int, below: Below, *, at_s: float, grace_s: float, survivors_hold: Callable[[int], bool]) -> Steadied:
    """The count to ask for. `survivors_hold(n)`: whether n workers keep the promise at the present load."""
    if need >= current:
        return Steadied(need, Below())
    if below.needs and at_s < below.since_s:  # the clock was set back
        below = Below()
    needs = (*below.needs, (at_s, need)) if below.needs else ((at_s, need),)
    since_s = below.since_s if below.needs else at_s
    recent = tuple(entry for entry in needs if entry[0] >= at_s - grace_s)
    below = Below(since_s, recent)
    if at_s - since_s < grace_s:
        remaining_s = grace_s - (at_s - since_s)
        return Steadied(current, below, Reason.GRACE, f"{need} would do; waiting {remaining_s:.0f} s more before any leaves")
    desired = max(max(entry[1] for entry in recent), current - max(1, current // LARGEST_STEP_SHARE))
    while desired < current and not survivors_hold(desired):
        desired += 1
    if desired == current:
        return Steadied(current, below, Reason.CONSOLIDATION, f"{current - 1} would not hold the promise at the present load")
    return Steadied(desired, below)
