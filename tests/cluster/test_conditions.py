"""A tick as conditions, a status document and Events."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from sla_planner.cluster.conditions import Account, Condition, Kind, conditions_in, conditions_of, notices_of, status_document
from sla_planner.cluster.target import Fleet, HandsOff, Hold
from sla_planner.errors import ForbiddenError, PlannerError, UnreachableError
from sla_planner.plan.decision import Decision, Reason, Role, RoleDecision
from sla_planner.plan.observation import Observation, Quantity, TrafficWindow, WorkerCounts, unknown_traffic
from sla_planner.plan.record import Carried, Terms, Tick
from sla_planner.plan.settings import PlanSettings

AT_S = 1_700_000_000.0
FLEET = Fleet(WorkerCounts(2, 1), WorkerCounts(4))


def traffic(*, known: bool = True, at_s: float = AT_S) -> TrafficWindow:
    window = unknown_traffic(at_s, 15.0, "no answer")
    return replace(window, request_rate_rps=Quantity.of(2.5)) if known else window


def account(
    *,
    known: bool = True,
    fleet: Fleet | None = FLEET,
    failure: PlannerError | None = None,
    contention: str = "",
    reason: Reason = Reason.LOAD_UP,
    verdicts: tuple[str, ...] = (),
    carried: Carried = Carried.APPLIED,
    at_s: float = AT_S,
) -> Account:
    decision = Decision(
        at_s=at_s,
        prefill=RoleDecision(Role.PREFILL, 3, 5, 5, reason, "more load"),
        decode=RoleDecision(Role.DECODE, 4, 4, 4, Reason.STEADY, "enough"),
        prediction=None,
        verdicts=verdicts,
    )
    observation = Observation(traffic(known=known, at_s=at_s), fleet and fleet.prefill, fleet and fleet.decode)
    return Account(Tick("chat", observation, decision, 1.5, carried, terms=Terms.of(PlanSettings())), fleet, failure, contention)


def statuses(told: Account) -> dict[str, tuple[str, str]]:
    return {each.kind.value: (each.status, each.reason) for each in conditions_of(told, ())}


def message(told: Account, kind: Kind) -> str:
    return next(each.message for each in conditions_of(told, ()) if each.kind is kind)


def test_all_is_well() -> None:
    assert statuses(account()) == {
        "Ready": ("True", "Planning"),
        "MetricsAvailable": ("True", "TrafficKnown"),
        "Contended": ("False", "OnlyWriter"),
        "Paused": ("False", "NotPaused"),
        "Schedulable": ("True", "AllPlaced"),
        "SLAFeasible": ("True", "Feasible"),
    }


@pytest.mark.parametrize(
    ("told", "kind", "status", "reason", "words"),
    [
        (account(known=False, reason=Reason.UNKNOWN), Kind.METRICS, "False", "MetricsUnavailable", "no answer"),
        (account(known=False, reason=Reason.UNKNOWN), Kind.FEASIBLE, "Unknown", "MetricsUnavailable", ""),
        (account(fleet=None, failure=ForbiddenError("x may not get y")), Kind.READY, "False", "Forbidden", "x may not get y"),
        (account(fleet=None, failure=UnreachableError("gone")), Kind.READY, "False", "Unreachable", "gone"),
        (account(fleet=None, failure=UnreachableError("gone")), Kind.SCHEDULABLE, "Unknown", "FleetUnknown", ""),
        (account(failure=PlannerError("refused")), Kind.READY, "False", "TargetUnusable", "refused"),
        (account(fleet=replace(FLEET, troubles=("decode: pod x: OOM",))), Kind.READY, "False", "WorkersNotStarting", "decode: pod x: OOM"),
        (account(contention="kubectl set 3"), Kind.CONTENDED, "True", "ActuationConflict", "kubectl set 3"),
        (
            account(fleet=replace(FLEET, hands_off=HandsOff(Hold.CONTENDED, "an HPA set 3"))),
            Kind.CONTENDED,
            "True",
            "ActuationConflict",
            "an HPA set 3",
        ),
        (account(fleet=replace(FLEET, hands_off=HandsOff(Hold.PAUSED, "annotated"))), Kind.PAUSED, "True", "Annotated", "annotated"),
        (
            account(fleet=replace(FLEET, prefill=WorkerCounts(1, 0, 2), unplaced=("prefill: Insufficient nvidia.com/gpu",))),
            Kind.SCHEDULABLE,
            "False",
            "Unschedulable",
            "cannot be placed: 2 prefill; prefill: Insufficient nvidia.com/gpu",
        ),
        (
            account(reason=Reason.NO_ROOM),
            Kind.SCHEDULABLE,
            "False",
            "GivenBack",
            "the cluster has had room for fewer workers than are needed",
        ),
        (account(reason=Reason.INFEASIBLE, verdicts=("ITL 3 ms cannot be met",)), Kind.FEASIBLE, "False", "SLAInfeasible", "ITL 3 ms cannot be met"),
    ],
)
def test_each_condition_says_what_is_wrong(told: Account, kind: Kind, status: str, reason: str, words: str) -> None:
    assert statuses(told)[kind.value] == (status, reason)
    assert message(told, kind) == words


def test_the_time_changes_only_with_the_status() -> None:
    first = conditions_of(account(), ())
    assert {each.since for each in first} == {"2023-11-14T22:13:20Z"}
    lost = conditions_of(account(known=False, at_s=AT_S + 60), first)
    assert {each.kind: each.since for each in lost if each.since != "2023-11-14T22:13:20Z"} == {Kind.METRICS: "2023-11-14T22:14:20Z"}
    still = conditions_of(account(known=False, at_s=AT_S + 120), lost)
    assert [each.since for each in still] == [each.since for each in lost]


def test_conditions_have_the_shape_of_the_api_conventions_and_come_back() -> None:
    found = conditions_of(account(), ())
    document = {"conditions": [each.to_json() for each in found]}
    assert set(document["conditions"][0]) == {"type", "status", "reason", "message", "lastTransitionTime"}
    assert conditions_in(json.loads(json.dumps(document))) == found


@pytest.mark.parametrize("damaged", [{}, {"conditions": 3}, {"conditions": [{}]}, {"conditions": [{"type": "Ready", "status": "maybe"}]}])
def test_a_damaged_document_begins_anew(damaged: dict[str, Any]) -> None:
    assert conditions_in(damaged) == ()


class TestEvents:
    def told(self, *accounts: Account) -> list[tuple[str, str]]:
        """Severity and reason of the last one's, the others having gone before."""
        before: tuple[Condition, ...] = ()
        for each in accounts:
            after = conditions_of(each, before)
            notices = notices_of(each, before, after)
            before = after
        return [(notice.severity, notice.reason) for notice in notices]

    def test_a_decision_that_was_carried_out_is_told_with_its_reasons(self) -> None:
        told = account()
        (notice,) = notices_of(told, (), conditions_of(told, ()))
        assert (notice.severity, notice.reason) == ("Normal", "ScalingDecision")
        assert notice.note == "prefill 3 -> 5 (more load); decode stays 4"

    def test_one_that_was_not_is_not(self) -> None:
        assert self.told(account(carried=Carried.NOTHING)) == []
        assert self.told(account(carried=Carried.FAILED, failure=UnreachableError("gone"))) == [("Warning", "ActuationFailed")]

    def test_metrics_must_be_missing_twice(self) -> None:
        lost = account(known=False, reason=Reason.UNKNOWN, carried=Carried.NOTHING)
        assert self.told(lost) == []
        assert self.told(lost, lost) == [("Warning", "MetricsUnavailable")]
        assert self.told(account(), lost) == []

    def test_what_a_person_must_hear(self) -> None:
        quiet = {"carried": Carried.NOTHING}
        assert self.told(account(contention="kubectl", **quiet)) == [("Warning", "ActuationConflict")]  # type: ignore[arg-type]
        crowded = replace(FLEET, prefill=WorkerCounts(1, 0, 2), troubles=("decode: pod x",))
        assert self.told(account(fleet=crowded, **quiet)) == [("Warning", "Unschedulable"), ("Warning", "WorkersNotStarting")]  # type: ignore[arg-type]
        assert self.told(account(reason=Reason.INFEASIBLE, **quiet)) == [("Warning", "SLAInfeasible")]  # type: ignore[arg-type]

    def test_a_pause_is_told_when_it_begins_and_when_it_ends(self) -> None:
        going, paused = account(carried=Carried.NOTHING), account(fleet=replace(FLEET, hands_off=HandsOff(Hold.PAUSED, "x")), carried=Carried.PAUSED)
        assert self.told(going, paused) == [("Normal", "Paused")]
        assert self.told(going, paused, paused) == []
        assert self.told(going, paused, going) == [("Normal", "Resumed")]


def test_the_status_document_keeps_the_last_change() -> None:
    scaled = account()
    first = status_document(scaled, conditions_of(scaled, ()), "Decision written", {})
    quiet = account(carried=Carried.NOTHING, at_s=AT_S + 60)
    second = status_document(quiet, conditions_of(quiet, ()), "No scaling needed", json.loads(json.dumps(first)))
    assert first["lastScaling"] == first["lastDecision"] == second["lastScaling"]
    assert second["lastDecision"]["message"] == "No scaling needed"
    assert second["workers"] == {
        "prefill": {"ready": 2, "starting": 1, "unschedulable": 0},
        "decode": {"ready": 4, "starting": 0, "unschedulable": 0},
    }
    assert second["lastDecision"]["prefill"] == {"from": 3, "to": 5, "needed": 5, "reason": "load-up", "explanation": "more load"}
