"""Workers that the cluster has no room for: how long they are waited for, and what is asked for after that.

    waits        some cannot be placed: said every interval, for `limit_s` (a cluster that adds nodes needs minutes)
    given back   then the role asks for what can run, ready or starting, though never for fewer than its minimum
    closed       and for no more than that until `until_s`: first for as long as was waited. Each attempt in vain doubles the time, up to LONGEST_S,
                 so that the count does not flap
    open         when that time is over, or at once when workers of the other role have left the GPUs that one worker of this role needs

An attempt that succeeds forgets all of it. Nothing else waits for any of this: the other role, scaling down and scaling up to what fits go on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sla_planner.plan.decision import Reason, RoleDecision
from sla_planner.plan.observation import WorkerCounts
from sla_planner.plan.settings import RoleLimits

SHORTEST_S = 60.0  # of the first back-off, however short the limit is
LONGEST_S = 3600.0


@dataclass(frozen=True, slots=True)
class Room:
    """What one role knows of the cluster's room. `most`: workers that could run when some were last given back; `other`: of the other role then."""

    waiting_since_s: float | None = None
    most: int | None = None
    other: int = 0
    until_s: float = 0.0
    attempts: int = 0

    def closed(self, at_s: float) -> bool:
        """No more than `most` are asked for."""
        return self.most is not None and at_s < self.until_s <= at_s + LONGEST_S


@dataclass(frozen=True, slots=True)
class Sight:
    """One role in this interval; `other` is the other role. GPUs are of one worker."""

    counts: WorkerCounts
    other: WorkerCounts
    gpus: int
    other_gpus: int
    at_s: float


def room_seen(room: Room, sight: Sight, limit_s: float) -> Room:
    """What is known of the room after this interval's look at the fleet."""
    at_s, coming = sight.at_s, sight.counts.coming
    if room.most is not None and coming > room.most:
        room = Room(waiting_since_s=room.waiting_since_s)
    if room.closed(at_s) and (room.other - sight.other.coming) * sight.other_gpus >= sight.gpus:
        room = replace(room, until_s=at_s)
    if sight.counts.unschedulable == 0:
        return room if room.waiting_since_s is None else replace(room, waiting_since_s=None)
    since_s = at_s if room.waiting_since_s is None else min(room.waiting_since_s, at_s)  # min: the clock may have been set back
    room = replace(room, waiting_since_s=since_s)
    if room.closed(at_s) or at_s - since_s < limit_s:
        return room
    pause_s = min(max(limit_s, SHORTEST_S) * 2.0 ** min(room.attempts, 10), LONGEST_S)
    return Room(since_s, coming, sight.other.coming, at_s + pause_s, room.attempts + 1)


def within_room(limits: RoleLimits, room: Room, at_s: float) -> RoleLimits:
    """The limits, with no more workers than could be placed while that is remembered."""
    if room.most is None or not room.closed(at_s):
        return limits
    most = max(room.most, limits.min_workers)
    return limits if limits.max_workers is not None and limits.max_workers <= most else replace(limits, max_workers=most)


def room_verdict(decided: RoleDecision, counts: WorkerCounts, room: Room, at_s: float, limit_s: float) -> str:
    """What a person must hear of workers of one role that have no place; empty when all have one."""
    if counts.unschedulable and room.waiting_since_s is not None:
        workers = f"{counts.unschedulable} {decided.role} worker{'' if counts.unschedulable == 1 else 's'}"
        waited = f"{workers} cannot be placed for {at_s - room.waiting_since_s:.0f} s now"
        if decided.desired <= counts.coming:
            return f"{waited}; given back"
        return f"{waited}; kept, as the configured minimum" if room.closed(at_s) else f"{waited}; given back after {limit_s:g} s"
    if decided.reason is Reason.NO_ROOM:
        workers = f"{decided.desired} {decided.role} worker{'' if decided.desired == 1 else 's'}"
        return f"the cluster has had room for {workers}; more are asked for in {room.until_s - at_s:.0f} s"
    return ""
