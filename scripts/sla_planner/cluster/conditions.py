"""A tick as Kubernetes tells it: conditions, the status document, and Events.

    Ready              the planner sees the target and can act on it
    MetricsAvailable   traffic was known in this interval
    Contended          somebody else writes the counts
    Paused             a person asked for hands off
    Schedulable        every worker that is asked for has a place
    SLAFeasible        the promise can be kept at some size; Unknown while no traffic tells

Shape and polarity as in the API conventions: type, status True | False | Unknown, reason in CamelCase, message, lastTransitionTime. The time changes
only with the status.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal, get_args

from sla_planner.cluster.target import Fleet, Hold
from sla_planner.errors import ForbiddenError, PlannerError, UnreachableError
from sla_planner.plan.decision import Reason, Role, RoleDecision
from sla_planner.plan.record import Carried, Tick

Status = Literal["True", "False", "Unknown"]
LONGEST_NOTE = 1024  # of an Event


class Kind(StrEnum):
    READY = "Ready"
    METRICS = "MetricsAvailable"
    CONTENDED = "Contended"
    PAUSED = "Paused"
    SCHEDULABLE = "Schedulable"
    FEASIBLE = "SLAFeasible"


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition; `since` is its lastTransitionTime, RFC 3339."""

    kind: Kind
    status: Status
    reason: str
    message: str
    since: str

    def to_json(self) -> dict[str, str]:
        return {
            "type": self.kind.value,
            "status": self.status,
            "reason": self.reason,
            "message": self.message,
            "lastTransitionTime": self.since,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Condition:
        """Raises LookupError, TypeError or ValueError for what is none."""
        status = document["status"]
        if status not in get_args(Status):
            raise ValueError(f"{status!r} is no status")
        return cls(Kind(document["type"]), status, *(str(document[key]) for key in ("reason", "message", "lastTransitionTime")))


Conditions = Sequence[Condition]


@dataclass(frozen=True, slots=True)
class Notice:
    """What becomes an Event of the target."""

    severity: Literal["Normal", "Warning"]
    reason: str
    text: str

    @property
    def note(self) -> str:
        return self.text if len(self.text.encode()) <= LONGEST_NOTE else self.text.encode()[: LONGEST_NOTE - 3].decode(errors="ignore") + "…"


@dataclass(frozen=True, slots=True)
class Account:
    """A tick and what it was made from. `failure`: why the target could not be read or written; `contention`: who wrote at the same moment."""

    tick: Tick
    fleet: Fleet | None
    failure: PlannerError | None = None
    contention: str = ""


def timestamp(at_s: float) -> str:
    """RFC 3339, to the second."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def conditions_of(account: Account, before: Conditions) -> tuple[Condition, ...]:
    """All of them after this tick. `before`: those of the last one; a status that has not changed keeps its time."""
    at = timestamp(account.tick.decision.at_s)
    known = {condition.kind: condition for condition in before}
    found = []
    for kind, (status, reason, message) in _statuses(account).items():
        last = known.get(kind)
        found.append(Condition(kind, status, reason, message, last.since if last and last.status == status else at))
    return tuple(found)


def _statuses(account: Account) -> dict[Kind, tuple[Status, str, str]]:
    tick, hands_off = account.tick, account.fleet.hands_off if account.fleet else None
    rate = tick.observation.traffic.request_rate_rps
    paused = hands_off.text if hands_off and hands_off.why is Hold.PAUSED else ""
    contended = hands_off.text if hands_off and hands_off.why is Hold.CONTENDED else account.contention
    return {
        Kind.READY: _ready(account),
        Kind.METRICS: ("True", "TrafficKnown", "") if rate.known else ("False", "MetricsUnavailable", rate.why),
        Kind.CONTENDED: ("True", "ActuationConflict", contended) if contended else ("False", "OnlyWriter", ""),
        Kind.PAUSED: ("True", "Annotated", paused) if paused else ("False", "NotPaused", ""),
        Kind.SCHEDULABLE: _schedulable(account),
        Kind.FEASIBLE: _feasible(tick),
    }


def _ready(account: Account) -> tuple[Status, str, str]:
    if account.failure is not None:
        reasons = {ForbiddenError: "Forbidden", UnreachableError: "Unreachable"}
        return "False", reasons.get(type(account.failure), "TargetUnusable"), str(account.failure)
    if account.fleet is None:
        return "False", "TargetUnset", "the target has never been set"
    if account.fleet.troubles:
        return "False", "WorkersNotStarting", "; ".join(account.fleet.troubles)
    return "True", "Planning", ""


def _schedulable(account: Account) -> tuple[Status, str, str]:
    decision = account.tick.decision
    if account.fleet is None:
        return "Unknown", "FleetUnknown", ""
    fleet = ((Role.PREFILL, account.fleet.prefill), (Role.DECODE, account.fleet.decode))
    if unplaced := [f"{counts.unschedulable} {role}" for role, counts in fleet if counts.unschedulable]:
        return "False", "Unschedulable", "; ".join([f"cannot be placed: {' and '.join(unplaced)}", *account.fleet.unplaced])
    if Reason.NO_ROOM in (decision.prefill.reason, decision.decode.reason):
        return "False", "GivenBack", "the cluster has had room for fewer workers than are needed"
    return "True", "AllPlaced", ""


def _feasible(tick: Tick) -> tuple[Status, str, str]:
    decision = tick.decision
    reasons = (decision.prefill.reason, decision.decode.reason)
    if Reason.INFEASIBLE in reasons:
        return "False", "SLAInfeasible", "; ".join(decision.verdicts)
    if Reason.UNKNOWN in reasons:
        return "Unknown", "MetricsUnavailable", ""
    return "True", "Feasible", ""


def notices_of(account: Account, before: Conditions, after: Conditions) -> tuple[Notice, ...]:
    """What the target's Events say of this tick. Metrics must have been missing twice: the first reading of a page is never a window."""
    was, now = ({condition.kind: condition for condition in each} for each in (before, after))
    found = []
    if account.tick.carried is Carried.APPLIED:
        found.append(
            Notice("Normal", "ScalingDecision", "; ".join(_change(role) for role in (account.tick.decision.prefill, account.tick.decision.decode)))
        )
    if account.failure is not None and account.fleet is not None:
        found.append(Notice("Warning", "ActuationFailed", str(account.failure)))
    for kind, bad, reason in _WARNINGS:
        if now[kind].status == bad and (kind is not Kind.METRICS or (kind in was and was[kind].status == bad)):
            found.append(Notice("Warning", reason, now[kind].message or now[kind].reason))
    if now[Kind.READY].reason == "WorkersNotStarting":
        found.append(Notice("Warning", "WorkersNotStarting", now[Kind.READY].message))
    if Kind.PAUSED in was and was[Kind.PAUSED].status != now[Kind.PAUSED].status:
        paused = now[Kind.PAUSED].status == "True"
        found.append(Notice("Normal", "Paused" if paused else "Resumed", now[Kind.PAUSED].message or "the annotation is gone"))
    return tuple(found)


_WARNINGS: tuple[tuple[Kind, Status, str], ...] = (
    (Kind.METRICS, "False", "MetricsUnavailable"),
    (Kind.CONTENDED, "True", "ActuationConflict"),
    (Kind.SCHEDULABLE, "False", "Unschedulable"),
    (Kind.FEASIBLE, "False", "SLAInfeasible"),
)


def _change(role: RoleDecision) -> str:
    return f"{role.role} {role.current} -> {role.desired} ({role.explanation})" if role.changed else f"{role.role} stays {role.current}"


def status_document(account: Account, conditions: Conditions, words: str, before: Mapping[str, Any]) -> dict[str, Any]:
    """What `kubectl get configmap` shows of one target. `words`: the tick's last line; `before`: the last document."""
    tick, decision = account.tick, account.tick.decision
    roles = {role.role.value: _role(role) for role in (decision.prefill, decision.decode)}
    told = {"at": timestamp(decision.at_s), "outcome": tick.carried.value, "message": words, **roles, "verdicts": list(decision.verdicts)}
    seen = ((Role.PREFILL, tick.observation.prefill), (Role.DECODE, tick.observation.decode))
    return {
        "target": tick.target,
        "conditions": [condition.to_json() for condition in conditions],
        "workers": {role.value: None if counts is None else asdict(counts) for role, counts in seen},
        "lastDecision": told,
        "lastScaling": told if tick.carried is Carried.APPLIED else _undamaged(before.get("lastScaling")),
    }


def _undamaged(value: Any) -> Any:
    """What was read from somewhere, if it can be written again."""
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return None
    return value


def _role(role: RoleDecision) -> dict[str, Any]:
    return {"from": role.current, "to": role.desired, "needed": role.need, "reason": role.reason.value, "explanation": role.explanation}


def conditions_in(document: Mapping[str, Any]) -> tuple[Condition, ...]:
    """Those of a status document; none of one that is damaged: they begin anew."""
    try:
        return tuple(Condition.from_json(each) for each in document["conditions"])
    except (LookupError, TypeError, ValueError):
        return ()
