"""Where the count of one role is kept in a cluster: what is read of it, and the port through which it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from sla_planner.cluster.api import FIELD_MANAGER
from sla_planner.cluster.resources import Object, annotations_of, name_of
from sla_planner.cluster.workers import WorkerShape
from sla_planner.errors import PlannerError
from sla_planner.plan.decision import Role

PAUSED = "slaplanner.io/paused"
ATTEMPTS = 8  # of a write whose object changes in other places while we write


class Overtaken(PlannerError):
    """Somebody else wrote the count between our reading and our writing. Theirs stands."""


@dataclass(frozen=True, slots=True)
class Seat:
    """The count of one role as the API holds it at this moment.

    holder      the object that holds it; `version`: its resourceVersion
    written_by  the field manager that set the count; '' when nobody says
    selector    labels of the workers' pods; '' where the object does not say: then only `observed` (its status.replicas) is known of them
    unmade      why its controller cannot make pods
    paused_by   the object that carries the annotation, '' = nobody asked
    """

    door: Door
    holder: Object
    replicas: int
    version: str
    written_by: str = ""
    selector: str = ""
    observed: int = 0
    shape: WorkerShape = field(default_factory=WorkerShape)
    unmade: str = ""
    paused_by: str = ""


Seats = Mapping[Role, Seat]


class Door(Protocol):
    """One object of the API that holds the count of one role or of both."""

    def write(self, counts: Mapping[Role, int], seats: Seats) -> None:
        """Set the counts of these roles in one request, if they still are what `seats` says. Raises `Overtaken` when they are not."""
        ...


class SeatReader(Protocol):
    """Finds both seats. Raises `NotFound`, `ForbiddenError`, `UnreachableError`, and `UsageError` when the objects do not hold two roles."""

    def read(self) -> dict[Role, Seat]: ...


def paused_by(*objects: Object) -> str:
    """The first of `objects` that carries the annotation with anything but `false`."""
    return next((name_of(found) for found in objects if annotations_of(found).get(PAUSED, "false").lower() != "false"), "")


def overtaken(role: Role, before: Seat, now: Seat) -> Overtaken:
    who = now.written_by if now.written_by not in ("", FIELD_MANAGER) else "somebody else"
    return Overtaken(f"{who} set {role} from {before.replicas} to {now.replicas} in {name_of(now.holder)} at the same moment")
