from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sla_planner.plan.decision import Reason
from sla_planner.plan.stability import Below, Turns, steady


def run(needs, current=4, grace_s=60.0, interval_s=15.0, survivors_hold=lambda n: True):
    """Desired counts, tick by tick, when every decision is carried out."""
    below, asked, reasons = Below(), [], []
    for tick, need in enumerate(needs):
        step = steady(need, current, below, at_s=tick * interval_s, grace_s=grace_s, survivors_hold=survivors_hold)
        current, below = step.desired, step.below
        asked.append(current)
        reasons.append(step.reason)
    return asked, reasons


def test_up_is_the_whole_step_at_once():
    assert run([40])[0] == [40]


def test_down_waits_for_the_whole_grace_period_then_goes_one_by_one():
    asked, reasons = run([1] * 8)
    assert asked == [4, 4, 4, 4, 3, 2, 1, 1]
    assert reasons[:4] == [Reason.GRACE] * 4
    assert reasons[4] is None


def test_a_large_fleet_leaves_by_quarters():
    assert run([10] * 8, current=100)[0] == [100, 100, 100, 100, 75, 57, 43, 33]


def test_a_need_that_comes_back_restarts_the_grace_period():
    assert run([1, 1, 1, 4, 1, 1, 1, 1, 1])[0] == [4, 4, 4, 4, 4, 4, 4, 4, 3]


def test_never_below_the_highest_need_of_the_grace_period():
    assert run([3, 1, 1, 3, 1, 1, 1, 1, 1])[0] == [4, 4, 4, 4, 3, 3, 3, 3, 2]


def test_survivors_must_hold_the_promise():
    asked, reasons = run([1] * 6, current=3, survivors_hold=lambda n: n >= 3)
    assert asked == [3] * 6
    assert reasons[-1] is Reason.CONSOLIDATION


def test_the_explanation_says_how_long_is_left():
    step = steady(1, 2, Below(), at_s=0, grace_s=60, survivors_hold=lambda n: True)
    assert step.explanation == "1 would do; waiting 60 s more before any leaves"


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.integers(0, 50))
def test_never_below_the_need_and_never_up_without_one(needs, current):
    below = Below()
    for tick, need in enumerate(needs):
        step = steady(need, current, below, at_s=tick * 15.0, grace_s=60, survivors_hold=lambda n: n % 2 == 0)
        assert step.desired >= need
        assert step.desired <= max(need, current)
        current, below = step.desired, step.below


def test_a_role_that_keeps_turning_stops_giving_workers_away_for_an_hour():
    turns, now_s = Turns(), 0.0
    for change in (1, -1, 1, -1, 1, -1):
        assert not turns.too_many(now_s)
        now_s += 300.0
        turns = turns.after(change, now_s)
    turns = turns.after(+2, now_s)  # growing is allowed, and it is the sixth turn
    assert len(turns.at_s) == 6
    assert turns.too_many(now_s)
    assert not turns.too_many(3600.0 + 300.0 * 3)  # two of them are an hour old: four are left


def test_going_on_in_one_direction_is_no_turn():
    turns = Turns()
    for tick in range(20):
        turns = turns.after(-1, 15.0 * tick).after(0, 15.0 * tick)
    assert turns == Turns(-1, ())
    assert not turns.too_many(400.0)
