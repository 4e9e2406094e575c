"""Workers that start and never become ready: after `PATIENCE` start-ups they are no longer counted on, and as many more are asked for.

A count of starting workers does not say which ones they are. The lowest count of the last PATIENCE * start-up seconds does say how many of them at
least have been starting for all that time, or others in their place:

    stuck = min of starting over the last PATIENCE * S seconds        0 before they have been seen for so long

A stuck worker holds its GPU and may still come up: it stays until fewer are asked for; whoever removes workers takes those that are not ready first.
"""

from __future__ import annotations

from dataclasses import dataclass

from sla_planner.plan.decision import Role
from sla_planner.plan.observation import WorkerCounts

PATIENCE = 3.0


@dataclass(frozen=True, slots=True)
class Starting:
    """Since when some workers of a role have been starting without a pause, and how many at each look since: `(at_s, starting)`, oldest first, no
    older than is needed. Empty: none starts."""

    since_s: float = 0.0
    looks: tuple[tuple[float, int], ...] = ()

    def after(self, counts: WorkerCounts, at_s: float, startup_s: float) -> Starting:
        """With one more look at the fleet."""
        if not counts.starting:
            return Starting()
        known = tuple(look for look in self.looks if look[0] < at_s)
        since_s = min(self.since_s, at_s) if known else at_s
        return Starting(since_s, (*(look for look in known if look[0] >= at_s - PATIENCE * startup_s), (at_s, counts.starting)))

    def stuck(self, at_s: float, startup_s: float) -> int:
        """Workers that must not be counted on."""
        if not self.looks or at_s - self.since_s < PATIENCE * startup_s:
            return 0
        return min(starting for _, starting in self.looks)


def without(counts: WorkerCounts, stuck: int) -> WorkerCounts:
    """What can be counted on."""
    return WorkerCounts(counts.ready, counts.starting - stuck, counts.unschedulable)


def stuck_verdict(role: Role, stuck: int, startup_s: float) -> str:
    """What a person must hear; empty when none is stuck."""
    if not stuck:
        return ""
    workers = f"{stuck} {role} worker{' has' if stuck == 1 else 's have'}"
    return f"{workers} not become ready within {PATIENCE * startup_s:.0f} s: not counted on, see the events of the pods"
