"""The protocol as a pure function: what each state of the keys leads to."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sla_planner.cluster.target import Fleet, Outcome
from sla_planner.cluster.virtual_protocol import VirtualState, acknowledge, decide, fleet
from sla_planner.plan.observation import WorkerCounts


def counts(prefill_ready: int, prefill_starting: int, decode_ready: int, decode_starting: int) -> Fleet:
    return Fleet(WorkerCounts(prefill_ready, prefill_starting), WorkerCounts(decode_ready, decode_starting))


def test_before_any_decision_there_is_no_fleet() -> None:
    assert fleet(VirtualState()) is None
    assert fleet(VirtualState(num_prefill_workers=2, decision_id=0)) is None  # half a decision is none


def test_the_fleet_follows_decisions_and_acknowledgements() -> None:
    state = decide(VirtualState(), 1, 2, 0.0).state
    assert fleet(state) == counts(0, 1, 0, 2)  # nothing is known to serve
    state = acknowledge(state, 0)
    assert fleet(state) == counts(1, 0, 2, 0)
    state = decide(state, 3, 1, 60.0).state
    assert fleet(state) == counts(1, 2, 1, 0)  # prefill rises by two, decode shrinks to one
    state = decide(state, 4, 4, 2000.0).state  # waits: the first tick that had to
    state = decide(state, 5, 5, 3800.0).state  # gives up on decision 1
    assert fleet(state) == counts(1, 4, 2, 3)  # decision 0 was the last that was carried out
    assert fleet(acknowledge(state, 2)) == counts(5, 0, 5, 0)


def test_another_planners_decision_is_not_read_with_our_notes() -> None:
    ours = decide(acknowledge(decide(VirtualState(), 1, 1, 0.0).state, 0), 2, 2, 0.0).state
    waiting = decide(ours, 3, 3, 100.0).state
    theirs = replace(waiting, num_prefill_workers=6, num_decode_workers=6, decision_id=9, scaled_decision_id=8)
    assert fleet(theirs) == counts(0, 6, 0, 6)
    assert decide(theirs, 3, 3, 10_000.0).applied.outcome is Outcome.WAITING  # not since 100 s


def test_a_left_over_acknowledgement_does_not_acknowledge_a_new_decision() -> None:
    state = decide(VirtualState(scaled_decision_id=4), 1, 1, 0.0).state
    assert (state.decision_id, state.acknowledged) == (5, False)


def test_half_a_decision_is_not_waited_for() -> None:
    step = decide(VirtualState(num_prefill_workers=1, decision_id=3, scaled_decision_id=2), 1, 1, 0.0)
    assert (step.applied.outcome, step.state.decision_id) == (Outcome.APPLIED, 4)


def test_a_clock_set_back_starts_the_wait_anew() -> None:
    state = decide(decide(VirtualState(), 1, 1, 0.0).state, 2, 2, 1_000_000.0).state
    state = decide(state, 2, 2, 100.0).state
    assert decide(state, 2, 2, 1899.0).applied.outcome is Outcome.WAITING
    assert decide(state, 2, 2, 1900.0).applied.outcome is Outcome.APPLIED


@pytest.mark.parametrize("acknowledged", [-1, 0])
def test_asking_again_changes_nothing(acknowledged: int) -> None:
    state = acknowledge(decide(VirtualState(), 2, 3, 0.0).state, acknowledged)
    step = decide(state, 2, 3, 5000.0)
    assert step.state == state
    assert (step.applied.outcome, step.applied.message) == (Outcome.UNCHANGED, "No scaling needed (prefill=2, decode=3)")


MOVES = st.one_of(
    st.tuples(st.just("apply"), st.integers(0, 3), st.integers(0, 3), st.floats(0.0, 900.0)),
    st.tuples(st.just("complete"), st.integers(-1, 6)),
)


@given(st.lists(MOVES, max_size=30))
def test_over_any_history(moves: list[tuple]) -> None:
    state, now_s, unacknowledged_since = VirtualState(), 0.0, None
    for move in moves:
        before = state
        if move[0] == "complete":
            state = acknowledge(state, min(move[1], state.decision_id))
            assert state.scaled_decision_id >= before.scaled_decision_id
            continue
        now_s += move[3]
        step = decide(state, move[1], move[2], now_s)
        state = step.state
        if step.applied.outcome is Outcome.APPLIED:
            assert state.decision_id == before.decision_id + 1
            assert before.acknowledged or now_s - unacknowledged_since >= 1799.0
            unacknowledged_since = None
        else:
            assert (state.decision_id, state.scaled_decision_id) == (before.decision_id, before.scaled_decision_id)
            if step.applied.outcome is Outcome.WAITING and unacknowledged_since is None:
                unacknowledged_since = now_s
        seen = fleet(state)
        assert (seen.prefill.total, seen.decode.total) == (state.num_prefill_workers, state.num_decode_workers)
        if step.applied.outcome is not Outcome.WAITING:
            assert (state.num_prefill_workers, state.num_decode_workers) == (move[1], move[2])
