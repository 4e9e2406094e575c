from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sla_planner.plan.jumps import JumpMemory

STEP = {"interval_s": 15.0, "horizon": 3}


def remembered(loads, levels=None, rates=None, **step):
    memory = JumpMemory.empty()
    for index, load in enumerate(loads):
        level = load if levels is None else levels[index]
        rate = 1.0 if rates is None else rates[index]
        memory = memory.remember(load, level, rate, **{**STEP, **step})
    return memory


def test_before_anything_was_seen_one_interval_in_five_is_taken_for_a_jump():
    rises = JumpMemory.empty().keep(2.0, 10.0, 3)
    assert rises.load.tolist() == [[2.0], [pytest.approx(2.8)]]
    assert rises.rate_rps.tolist() == [10.0, 10.0]
    assert rises.weight.tolist() == [0.8, 0.2]


def test_a_rise_is_added_to_the_level_of_today():
    # After the first interval (level 1) load rose to 4 within three intervals: +3. At a level of 5 that is 8.
    memory = remembered([1.0, 1.0, 4.0, 2.0])
    rises = memory.keep(5.0, 10.0, 3)
    assert rises.load[0, 0] == pytest.approx(8.0)


def test_a_launch_meets_only_loads_that_come_after_its_start_up():
    # A spike that is over before a worker launched now is ready is no reason to launch it, but one to keep what runs.
    loads = [1.0, 9.0] + [1.0] * 20
    memory = remembered(loads)
    first_kept, first_launched = memory.keep(1.0, 1.0, 3).load[0], memory.launch(1.0, 1.0, 3).load[0]
    assert first_kept.tolist() == [9.0]
    assert first_launched.tolist() == [1.0, 1.0, 1.0]


def test_intervals_at_a_similar_level_weigh_most():
    memory = remembered([1.0] * 10 + [8.0] * 10)
    rises = memory.keep(8.0, 1.0, 3)
    low, high = rises.weight[:7], rises.weight[10:17]
    assert high.min() > 10 * low.max()


def test_requests_at_stake_grow_with_the_rate_that_came_with_the_rise():
    memory = remembered([1.0] * 4, rates=[10.0, 40.0, 40.0, 40.0])
    assert memory.keep(1.0, 100.0, 3).rate_rps[0] == pytest.approx(130.0)
    fallen = remembered([1.0] * 4, rates=[400.0, 0.0, 0.0, 0.0])
    assert fallen.keep(1.0, 100.0, 3).rate_rps[0] == pytest.approx(20.0)


def test_a_quiet_day_wears_the_prior_off():
    memory = remembered([2.0] * 2000)
    assert memory.keep(2.0, 1.0, 3).weight[-2:].sum() < 0.01
    assert memory.keep(2.0, 1.0, 3).quantile(0.99) == pytest.approx(2.0)


def test_the_day_before_yesterday_is_still_remembered_by_its_worst_jump():
    day = int(86_400 / 15)
    loads = [1.0] * 100 + [7.0] * 10 + [1.0] * (2 * day)
    memory = remembered(loads)
    rises = memory.keep(1.0, 1.0, 3)
    assert rises.load.max() == pytest.approx(7.0)
    assert len(memory.load) < 1.1 * day


def test_thirty_days_stay_small_and_serialise():
    day = int(86_400 / 15)
    memory = JumpMemory(*(np.ones(day + 30, np.float32) for _ in range(3)), np.zeros((0, 4), np.float32))
    for _ in range(30 * 144):
        memory = memory._fold(40, 9, keep=2016)
        memory = JumpMemory(*(np.ones(day + 30, np.float32) for _ in range(3)), memory.folded)
    assert len(memory.folded) == 2016
    assert sum(len(text) for text in memory.to_json().values()) < 200_000


@settings(max_examples=30)
@given(st.lists(st.floats(0, 100, width=32), max_size=60))
def test_round_trip_and_weights_sum_to_one(loads):
    memory = remembered(loads)
    again = JumpMemory.from_json(memory.to_json())
    assert all(np.array_equal(getattr(memory, name), getattr(again, name)) for name in ("load", "level", "rate", "folded"))
    for rises in (memory.keep(3.0, 1.0, 3), memory.launch(3.0, 1.0, 3)):
        assert rises.weight.sum() == pytest.approx(1.0)


def test_a_memory_with_arrays_of_different_lengths_is_refused():
    document = remembered([1.0, 2.0]).to_json()
    document["rate"] = remembered([1.0]).to_json()["rate"]
    with pytest.raises(ValueError, match="2 loads, 2 levels and 1 rates"):
        JumpMemory.from_json(document)
