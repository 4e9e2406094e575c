"""Events of what is scaled: made, continued, kept quiet, never fatal."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.cluster.api_stand_in import ApiStandIn, api_stand_in
from tests.cluster.scaled import deployment

from sla_planner.cluster.conditions import LONGEST_NOTE, Notice
from sla_planner.cluster.events import QUIET_S, EventBook

UP = Notice("Normal", "ScalingDecision", "prefill 1 -> 3 (more load)")
LOST = Notice("Warning", "MetricsUnavailable", "no answer")


class Clock:
    now_s = 1_700_000_000.25

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def cluster() -> Iterator[ApiStandIn]:
    with api_stand_in() as stand_in:
        yield stand_in


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def scaled(cluster: ApiStandIn) -> dict:  # type: ignore[type-arg]
    return cluster.put(deployment("prefill"))


def events(cluster: ApiStandIn) -> list[dict]:  # type: ignore[type-arg]
    return [found for name in cluster.names("events") if (found := cluster.get("events", name))]


def test_an_event_has_all_that_the_api_asks_for(cluster: ApiStandIn, clock: Clock, scaled: dict) -> None:  # type: ignore[type-arg]
    assert EventBook(cluster.api(), clock, "pod-1").post([scaled], [UP]) == ""
    (event,) = events(cluster)
    assert event["regarding"] == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": "prefill",
        "namespace": "here",
        "uid": scaled["metadata"]["uid"],
    }
    told = {key: event[key] for key in ("type", "reason", "action", "note", "eventTime", "reportingController", "reportingInstance")}
    assert told == {
        "type": "Normal",
        "reason": "ScalingDecision",
        "action": "Scale",
        "note": "prefill 1 -> 3 (more load)",
        "eventTime": "2023-11-14T22:13:20.250000Z",
        "reportingController": "slaplanner.io/planner",
        "reportingInstance": "pod-1",
    }
    assert event["metadata"]["name"].startswith("prefill.")


def test_a_warning_that_goes_on_is_one_series_and_is_not_repeated_all_the_time(cluster: ApiStandIn, clock: Clock, scaled: dict) -> None:  # type: ignore[type-arg]
    book = EventBook(cluster.api(), clock)
    for _ in range(10):
        book.post([scaled], [LOST])
        clock.now_s += 15
    assert [call.verb for call in cluster.writes()] == ["create"]
    clock.now_s += QUIET_S
    book.post([scaled], [LOST])
    (event,) = events(cluster)
    assert event["series"]["count"] == 2
    assert event["series"]["lastObservedTime"] == "2023-11-14T22:20:50.250000Z"


def test_a_planner_that_forgets_goes_on_with_the_same_series(cluster: ApiStandIn, clock: Clock, scaled: dict) -> None:  # type: ignore[type-arg]
    for _ in range(3):
        EventBook(cluster.api(), clock).post([scaled], [LOST])
    (event,) = events(cluster)
    assert event["series"]["count"] == 3


def test_every_decision_is_told_and_other_words_are_another_event(cluster: ApiStandIn, clock: Clock, scaled: dict) -> None:  # type: ignore[type-arg]
    book = EventBook(cluster.api(), clock)
    for text in ("1 -> 2", "2 -> 3", "1 -> 2"):
        assert book.post([scaled], [Notice("Normal", "ScalingDecision", text)]) == ""
    assert sorted(event["note"] for event in events(cluster)) == ["1 -> 2", "2 -> 3"]


def test_where_nothing_is_kept_quiet_each_of_several_faults_is_told(cluster: ApiStandIn, clock: Clock, scaled: dict) -> None:  # type: ignore[type-arg]
    book = EventBook(cluster.api(), clock, quiet_s=0.0)
    faults = [Notice("Warning", "ValidationFailed", text) for text in ("spec.model: empty", "spec.backend: unknown")]
    assert book.post([scaled], faults) == ""
    assert sorted(event["note"] for event in events(cluster)) == ["spec.backend: unknown", "spec.model: empty"]


def test_a_note_is_cut_to_what_the_api_takes(cluster: ApiStandIn, clock: Clock, scaled: dict) -> None:  # type: ignore[type-arg]
    EventBook(cluster.api(), clock).post([scaled], [Notice("Warning", "SLAInfeasible", "é" * 600)])
    (event,) = events(cluster)
    assert len(event["note"].encode()) <= LONGEST_NOTE == 1024
    assert event["note"].endswith("é…")


@pytest.mark.parametrize("verb", ["create", "get", "patch"])
def test_what_cannot_be_posted_is_returned_and_never_raised(cluster: ApiStandIn, clock: Clock, scaled: dict, verb: str) -> None:  # type: ignore[type-arg]
    EventBook(cluster.api(), clock).post([scaled], [LOST])
    cluster.deny(verb, "events")
    assert f"may not {verb} events" in EventBook(cluster.api(), clock).post([scaled], [LOST])


def test_one_that_expires_in_between_is_made_anew(cluster: ApiStandIn, clock: Clock, scaled: dict) -> None:  # type: ignore[type-arg]
    EventBook(cluster.api(), clock).post([scaled], [LOST])
    (event,) = events(cluster)
    cluster.failures.append(lambda call: cluster.drop("events", event["metadata"]["name"]) if call.verb == "get" and events(cluster) else None)
    assert EventBook(cluster.api(), clock).post([scaled], [LOST]) == ""
    assert len(events(cluster)) == 1


def test_an_api_server_that_is_gone_is_a_sentence(cluster: ApiStandIn, clock: Clock, scaled: dict) -> None:  # type: ignore[type-arg]
    cluster.fail(503, times=100)
    assert "answers HTTP 503" in EventBook(cluster.api(), clock).post([scaled], [LOST])
