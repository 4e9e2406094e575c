"""`ScaleTarget` of a Kubernetes cluster: two counts behind one or two objects, and the pods of their workers.

who else writes    the count is not what it was when we last wrote or looked, and its field belongs to another manager
                   -> hands off for one interval, saying who; the next decision starts from the new count
hands off          the annotation `slaplanner.io/paused: "true"` on any of the objects
order of writes    one object: one request. Two objects: the role that shrinks first, so that no budget is exceeded in between; a planner that dies
                   in between finds the new count of one and the old one of the other, and its next decision goes on from there
"""

from __future__ import annotations

from collections.abc import Mapping

from sla_planner.cluster.api import FIELD_MANAGER, KubernetesApi, NotFound, Selector
from sla_planner.cluster.conditions import Notice
from sla_planner.cluster.events import EventBook
from sla_planner.cluster.resources import AUTOSCALERS, PODS, Object, name_of
from sla_planner.cluster.scale_object import ScaleObject
from sla_planner.cluster.seat import PAUSED, Door, Overtaken, Seat, SeatReader, Seats
from sla_planner.cluster.target import Applied, Counts, Fleet, HandsOff, Hold, Outcome
from sla_planner.cluster.workers import Workers, counted
from sla_planner.errors import ForbiddenError, PlannerError
from sla_planner.plan.decision import Role
from sla_planner.plan.observation import WorkerCounts


class ScalePair:
    """A `SeatReader`: an object with a `scale` subresource for each role."""

    def __init__(self, prefill: ScaleObject, decode: ScaleObject) -> None:
        self._objects = {Role.PREFILL: prefill, Role.DECODE: decode}

    def read(self) -> dict[Role, Seat]:
        return {role: found.read() for role, found in self._objects.items()}


class KubernetesTarget:
    """`api` looks in the target's namespace; `events` is where its Events are posted."""

    def __init__(self, api: KubernetesApi, seats: SeatReader, name: str, events: EventBook) -> None:
        self.name = name
        self._api = api
        self._reader = seats
        self._seats: Seats = {}
        self._events = events

    @property
    def holders(self) -> tuple[Object, ...]:
        """The objects that hold the counts, as last read."""
        found = {seat.holder["metadata"].get("uid", name_of(seat.holder)): seat.holder for seat in self._seats.values()}
        return tuple(found.values())

    def fleet(self, last: Counts | None = None) -> Fleet:
        self._seats = seats = self._reader.read()
        workers = {role: self._workers(seat) for role, seat in seats.items()}
        prefill, decode = (workers[role] for role in Role)
        return Fleet(
            prefill=prefill.counts,
            decode=decode.counts,
            prefill_gpus=seats[Role.PREFILL].shape.gpus,
            decode_gpus=seats[Role.DECODE].shape.gpus,
            hands_off=self._hands_off(seats, last),
            unplaced=tuple(f"{role}: {found.unplaced}" for role, found in workers.items() if found.unplaced),
            troubles=tuple(f"{role}: {found.trouble}" for role, found in workers.items() if found.trouble),
        )

    def apply(self, prefill: int, decode: int, *, now_s: float) -> Applied:  # noqa: ARG002 - nobody acknowledges here
        """As decided from the last `fleet`."""
        wanted = {Role.PREFILL: prefill, Role.DECODE: decode}
        shown = f"prefill={prefill}, decode={decode}"
        seats = self._seats or self._reader.read()
        changes = {role: count for role, count in wanted.items() if seats[role].replicas != count}
        if not changes:
            return Applied(Outcome.UNCHANGED, f"No scaling needed ({shown})")
        done: list[str] = []
        for door, counts in _in_order(changes, seats):
            try:
                door.write(counts, seats)
            except Overtaken as error:
                half = f"; {', '.join(done)} stands" if done else ""
                return Applied(Outcome.CONTENDED, f"Not asking for {shown}: {error}{half}")
            except PlannerError as error:
                if done:
                    error.message = f"{', '.join(done)} stands, but {error.message}"
                raise
            done += [f"{role}={count}" for role, count in counts.items()]
        places = " and ".join(dict.fromkeys(name_of(seat.holder) for role, seat in seats.items() if role in changes))
        return Applied(Outcome.APPLIED, f"Decision written to {places} ({shown})")

    def announce(self, notices: tuple[Notice, ...]) -> str:
        """Events of the objects that hold the counts, once these have been read. Never raises; returns what went wrong."""
        return self._events.post(self.holders, notices)

    def _workers(self, seat: Seat) -> Workers:
        if not seat.selector:
            ready = min(seat.observed, seat.replicas)
            return Workers(WorkerCounts(ready, seat.replicas - ready))
        return counted(self._api.all_of(PODS, Selector(labels=seat.selector)), seat.replicas, seat.shape, seat.unmade)

    def _hands_off(self, seats: Seats, last: Counts | None) -> HandsOff | None:
        if pauser := next((seat.paused_by for seat in seats.values() if seat.paused_by), ""):
            return HandsOff(Hold.PAUSED, f"{pauser} is annotated {PAUSED}")
        if last is None:
            return None
        before = dict(zip(Role, last, strict=True))
        said = [
            f"{seat.written_by or 'somebody'} set {role} from {before[role]} to {seat.replicas} in {name_of(seat.holder)}"
            for role, seat in seats.items()
            if seat.replicas != before[role] and seat.written_by != FIELD_MANAGER
        ]
        return HandsOff(Hold.CONTENDED, "; ".join([*said, *self._autoscalers()])) if said else None

    def _autoscalers(self) -> list[str]:
        """Those that scale the same objects; none where we may not look."""
        try:
            found = self._api.all_of(AUTOSCALERS)
        except (ForbiddenError, NotFound):
            return []
        scaled = {(holder["kind"], holder["metadata"]["name"]) for holder in self.holders}
        targets = [(each, (each.get("spec") or {}).get("scaleTargetRef") or {}) for each in found]
        return [f"{name_of(each)} scales it, too" for each, target in targets if (target.get("kind"), target.get("name")) in scaled]


def _in_order(changes: Mapping[Role, int], seats: Seats) -> list[tuple[Door, dict[Role, int]]]:
    """One write per object: all of a graph's at once, of two objects the one that shrinks first."""
    writes: dict[int, tuple[Door, dict[Role, int]]] = {}
    for role, count in sorted(changes.items(), key=lambda change: change[1] - seats[change[0]].replicas):
        door = seats[role].door
        writes.setdefault(id(door), (door, {}))[1][role] = count
    return list(writes.values())
