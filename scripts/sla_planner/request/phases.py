"""What all phases of a request know (`Case`) and say alike: its end by failure, and what has begun."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sla_planner.request.actions import Said
from sla_planner.request.makers import Makers
from sla_planner.request.phases_gpus import gpu_notes
from sla_planner.request.seen import JobSeen, Seen, Status
from sla_planner.request.settings import Settings
from sla_planner.request.spec import About, Fault, Object, Request
from sla_planner.request.status import Before, Condition, Kind, Outcome, State

_VALID = "Valid"


@dataclass(frozen=True, slots=True)
class Case:
    """One look at one request. `request`: read from `spec_in_force`, or the faults in it. `status`: as it is in the resource."""

    about: About
    request: Request | tuple[Fault, ...]
    seen: Seen
    status: Status
    makers: Makers
    settings: Settings

    @property
    def before(self) -> Before:
        return Before(self.status)

    @property
    def job(self) -> JobSeen | None:
        """The Job of this very request."""
        return self.seen.job if self.seen.job is not None and self.seen.job.ours else None

    @property
    def begun(self) -> bool:
        """Whether profiling has begun: from then on the spec is frozen."""
        return has_begun(self.status, self.job, published=self.seen.profile is not None)

    @property
    def changed(self) -> bool:
        """Whether the spec is another one than profiling began with."""
        return self.begun and self.seen.frozen is not None and self.about.spec != self.seen.frozen

    @property
    def place(self) -> str:
        """For commands: `x -n y`."""
        return f"{self.about.name} -n {self.about.namespace}"

    @property
    def anew(self) -> str:
        """The way out of an end."""
        return f"delete the request (kubectl delete dgdr {self.place}) and create it anew"


def has_begun(status: Status, job: JobSeen | None, *, published: bool) -> bool:
    """Whether a Job has been made. `job`: this request's own; `published`: whether its profile is there."""
    before = Before(status)
    return job is not None or bool(before.job_name) or before.graph is not None or published


def spec_in_force(about: About, status: Status, frozen: Object | None, *, job: JobSeen | None, published: bool) -> Object:
    """The spec that counts: as it is written, and once profiling has begun, the one that it began with. `job`, `published`: as for `has_begun`."""
    own = job if job is not None and job.ours else None
    return frozen if frozen is not None and has_begun(status, own, published=published) else about.spec


def validated(case: Case, request: Request) -> tuple[Condition, tuple[Said, ...]]:
    """The condition of a request that can be followed, and an Event where its spec was changed too late. What was said of the cluster when
    profiling began stays.
    """
    if case.changed:
        return spec_change_rejected(case)
    last = case.before.condition(Kind.VALIDATION)
    if case.begun and last is not None and (last.status, last.reason) == ("True", _VALID):
        return last, ()
    notes = "".join(f"; {note}" for note in (*request.notes, *gpu_notes(request, case.seen)))
    return Condition(Kind.VALIDATION, "True", _VALID, f"the spec is right and what it needs is there{notes}"), ()


def spec_change_rejected(case: Case) -> tuple[Condition, tuple[Said, ...]]:
    """The change has no effect, and is told once."""
    message = f"spec was changed after profiling had begun, which has no effect: what it began with counts; to have the change, {case.anew}"
    last = case.before.condition(Kind.VALIDATION)
    known = last is not None and last.reason == "SpecChangeRejected" and case.before.generation == case.about.generation
    condition = Condition(Kind.VALIDATION, "True", "SpecChangeRejected", message)
    return condition, () if known else (Said("Warning", "SpecChangeRejected", message),)


def failed(kind: Kind, reason: str, message: str, *, event: str = "", conditions: tuple[Condition, ...] = (), **fields: Any) -> Outcome:
    """The end: the condition `kind` says why. `event`: its reason where it is another one; `conditions`: of the parts before."""
    return Outcome(
        State.FAILED,
        message,
        reason=reason,
        conditions=(*conditions, Condition(kind, "False", reason, message)),
        fields={"progress": None, **fields},
        events=(Said("Warning", event or reason, message),),
    )
