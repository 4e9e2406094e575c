"""The status document, by hand."""

from __future__ import annotations

import pytest

from sla_planner.request.spec import About
from sla_planner.request.status import LONGEST_MESSAGE, Before, Condition, Kind, Outcome, State, one_line, shortened, written

ABOUT = About("x", "serving", "u1", 7, {})
THEN, NOW = "2026-01-01T00:00:00Z", "2026-01-01T00:05:00Z"


def conditions(document):
    return {each["type"]: each for each in document["conditions"]}


@pytest.mark.parametrize(
    ("state", "alpha", "beta", "succeeded"),
    [
        (State.PENDING, "Pending", "Pending", "Unknown"),
        (State.PROFILING, "Profiling", "Profiling", "Unknown"),
        (State.GENERATED, "Ready", "Ready", "True"),
        (State.DEPLOYING, "Deploying", "Deploying", "Unknown"),
        (State.DEPLOYED, "Ready", "Deployed", "True"),
        (State.DELETED, "DeploymentDeleted", "Failed", "False"),
        (State.FAILED, "Failed", "Failed", "False"),
    ],
)
def test_both_versions_are_told_together(state, alpha, beta, succeeded):
    document = written(ABOUT, Before({}), Outcome(state, "words"), THEN)
    assert document == {
        "state": alpha,
        "phase": beta,
        "observedGeneration": 7,
        "message": "words",
        "conditions": [{"type": "Succeeded", "status": succeeded, "reason": beta, "message": "words", "lastTransitionTime": THEN}],
    }
    assert Before(document).state is state


def test_the_time_of_a_condition_changes_only_with_its_status():
    valid = Condition(Kind.VALIDATION, "False", "ObjectsMissing", "no claim")
    first = written(ABOUT, Before({}), Outcome(State.PENDING, "no claim", conditions=(valid,)), THEN)
    other = Condition(Kind.VALIDATION, "False", "BaseManifestMissing", "no base")
    second = written(ABOUT, Before(first), Outcome(State.PENDING, "no base", conditions=(other,)), NOW)
    assert conditions(second)["Validation"] == {
        "type": "Validation",
        "status": "False",
        "reason": "BaseManifestMissing",
        "message": "no base",
        "lastTransitionTime": THEN,
    }
    good = Condition(Kind.VALIDATION, "True", "Valid", "")
    third = written(ABOUT, Before(second), Outcome(State.PROFILING, "", conditions=(good,)), NOW)
    assert conditions(third)["Validation"]["lastTransitionTime"] == NOW


def test_conditions_that_are_not_said_stay_and_all_have_their_order():
    ready = Condition(Kind.READY, "False", "NotApplied", "up to you")
    first = written(ABOUT, Before({}), Outcome(State.GENERATED, "", conditions=(ready,)), THEN)
    valid = Condition(Kind.VALIDATION, "True", "Valid", "")
    second = written(ABOUT, Before(first), Outcome(State.GENERATED, "", conditions=(valid,)), NOW)
    assert [each["type"] for each in second["conditions"]] == ["Validation", "DeploymentReady", "Succeeded"]
    assert conditions(second)["DeploymentReady"] == conditions(first)["DeploymentReady"]


def test_fields_come_and_go_and_unknown_ones_stay():
    first = written(ABOUT, Before({"theirs": 1}), Outcome(State.PROFILING, "", fields={"progress": {"point": 1}}), THEN)
    assert first["progress"] == {"point": 1}
    second = written(ABOUT, Before(first), Outcome(State.PROFILING, "", fields={"progress": None}), NOW)
    assert "progress" not in second
    assert second["theirs"] == 1


@pytest.mark.parametrize("conditions", [None, "none", [1, None], [{"type": "Validation", "status": "maybe"}], [{"type": "Other", "status": "True"}]])
def test_damaged_conditions_begin_anew(conditions):
    before = Before({"conditions": conditions, "state": 3, "observedGeneration": "one", "generatedDeployment": [], "deployment": "there"})
    assert (before.state, before.generation, before.graph, before.deployed, before.reason) == (None, None, None, False, "")
    document = written(ABOUT, before, Outcome(State.PENDING, "words"), NOW)
    assert [each["type"] for each in document["conditions"]] == ["Succeeded"]


def test_a_reason_that_the_api_would_not_take_is_none():
    odd = Condition(Kind.GENERATED, "False", "no reason, really", "words")
    assert conditions(written(ABOUT, Before({}), Outcome(State.FAILED, "", conditions=(odd,)), NOW))["SpecGenerated"]["reason"] == "Unnamed"


def test_long_words_are_cut():
    document = written(ABOUT, Before({}), Outcome(State.FAILED, "x" * 9000), NOW)
    assert len(document["message"]) == LONGEST_MESSAGE
    assert document["message"].endswith("x…")
    assert shortened("abc", 3) == "abc"
    assert shortened("abcd", 3) == "ab…"


def test_somebodys_words_become_part_of_a_sentence():
    assert one_line("first\n\n  second.\n") == "first; second"


def test_since_when_an_image_is_not_pulled_is_remembered_by_its_condition():
    def then(before, reason, now):
        return written(ABOUT, Before(before), Outcome(State.PROFILING, "", conditions=(Condition(Kind.PROFILING, "False", reason, ""),)), now)

    waits = then({}, "Unschedulable", "2026-01-01T10:00:00Z")
    assert Before(waits).not_pulled_s("2026-01-01T12:00:00Z") == 0.0
    fails = then(waits, "ImagePullBackOff", "2026-01-01T11:00:00Z")
    still = then(fails, "ImagePullBackOff", "2026-01-01T11:03:00Z")
    assert Before(still).not_pulled_s("2026-01-01T11:05:00Z") == 300.0
    again = then(then(still, "Initializing", "2026-01-01T11:06:00Z"), "ImagePullBackOff", "2026-01-01T11:07:00Z")
    assert Before(again).not_pulled_s("2026-01-01T11:08:00Z") == 60.0


def test_a_time_that_somebody_damaged_counts_from_now():
    found = {"conditions": [{"type": "Profiling", "status": "False", "reason": "ImagePullBackOff", "message": "", "lastTransitionTime": "yesterday"}]}
    assert Before(found).not_pulled_s(NOW) == 0.0
    same = Condition(Kind.PROFILING, "False", "ImagePullBackOff", "")
    assert conditions(written(ABOUT, Before(found), Outcome(State.PROFILING, "", conditions=(same,)), NOW))["Profiling"]["lastTransitionTime"] == NOW
