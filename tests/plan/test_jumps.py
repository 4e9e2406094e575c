from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sla_planner.plan.jumps import JumpMemory

STEP = {"interval_s": 15.0, "horizon": 3}
DAY = 86_400 // 15


def remembered(loads, levels=None, rates=None, **step):
    memory = JumpMemory.empty()
    for index, load in enumerate(loads):
        level = load if levels is None else levels[index]
        rate = 1.0 if rates is None else rates[index]
        memory = memory.remember(load, level, rate, **{**STEP, **step})
    return memory


def weight_above(rises, load):
    return float(rises.weight[rises.load > load].sum())


def test_before_anything_was_seen_one_interval_in_five_is_taken_for_a_jump():
    rises = JumpMemory.empty().keep(2.0, 10.0, horizon=3)
    assert rises.load.tolist() == [2.0, pytest.approx(2.8)]
    assert rises.rate_rps.tolist() == [10.0, 10.0]
    assert rises.weight.tolist() == [0.8, 0.2]


def test_a_rise_is_added_to_the_level_of_today():
    # After the first interval (level 1) load rose to 4 within three intervals: +3. At a level of 5 that is 8.
    memory = remembered([1.0, 1.0, 4.0, 2.0])
    assert memory.keep(5.0, 10.0, horizon=3).load[-1] == pytest.approx(8.0)


def test_what_lasts_weighs_more_than_a_blip():
    # Both rise to 4: one for an interval of three (their mean is 2), the other for good.
    blip, lasting = remembered([1.0, 1.0, 4.0, 1.0]).keep(1.0, 10.0, horizon=3), remembered([1.0, 4.0, 4.0, 4.0]).keep(1.0, 10.0, horizon=3)
    assert (blip.load[-1], lasting.load[-1]) == (pytest.approx(4.0), pytest.approx(4.0))
    assert blip.weight[-1] == pytest.approx(1.8 / 3 * lasting.weight[-1])
    assert pytest.approx(2.0) in blip.load.tolist()


@pytest.mark.parametrize(("horizon", "share"), [(1, 1.0), (3, 0.6), (9, 0.2), (21, 1.8 / 21)])
def test_a_blip_weighs_less_the_longer_a_start_up_lasts(horizon, share):
    blip, lasting = (
        remembered([1.0, *rest, 10.0], horizon=horizon).keep(1.0, 10.0, horizon=horizon) for rest in ([1.0] * (horizon - 1), [10.0] * (horizon - 1))
    )
    assert (blip.load[-1], lasting.load[-1]) == (pytest.approx(10.0), pytest.approx(10.0))
    assert blip.weight[-1] == pytest.approx(share * lasting.weight[-1])


def test_rises_in_one_cell_keep_their_mean():
    memory = remembered([2.0, 0.0, 0.0, 3.50, 0.0, 0.0, 3.54], levels=[2.0] * 7)
    assert memory.keep(2.0, 1.0, horizon=3).load[-1] == pytest.approx(np.mean([3.50, 3.50, 3.50, 3.54]), rel=1e-6)


def test_a_launch_meets_only_loads_that_come_after_its_start_up():
    # A spike that is over before a worker launched now is ready is no reason to launch it, but one to keep what runs.
    loads = [1.0, 9.0, 1.0, 1.0, 1.0, 1.0]
    memory = remembered(loads)
    assert memory.keep(1.0, 1.0, horizon=3).load[-1] == pytest.approx(9.0)
    assert memory.launch(1.0, 1.0).load[:-1] == pytest.approx(1.0)


def test_a_launch_waits_for_the_whole_start_up_after_this_one():
    # Three intervals pass until a worker is ready; loads 3, 4 and 5 intervals on are those it meets.
    memory = remembered([1.0, 1.0, 1.0, 4.0, 5.0, 6.0])
    assert sorted(set(memory.launch(1.0, 1.0).load.round(6)))[-3:] == pytest.approx([4.0, 5.0, 6.0])


def test_intervals_at_a_similar_level_weigh_most():
    # At level 1 nothing ever happens, at level 8 load rises by 3 every time.
    quiet, busy = [1.0] * 50, [11.0] * 50
    memory = remembered([*quiet, *busy], levels=[*quiet, *[8.0] * 50])
    assert weight_above(memory.keep(8.0, 1.0, horizon=3), 10.5) > 10 * weight_above(memory.keep(1.0, 1.0, horizon=3), 3.5)


def test_requests_at_stake_grow_with_the_rate_that_came_with_the_rise():
    memory = remembered([1.0, 1.0, 1.0, 3.0], rates=[10.0, 40.0, 40.0, 40.0])
    assert memory.keep(1.0, 100.0, horizon=3).rate_rps[-1] == pytest.approx(130.0)
    fallen = remembered([1.0, 1.0, 1.0, 3.0], rates=[400.0, 0.0, 0.0, 0.0])
    assert fallen.keep(1.0, 100.0, horizon=3).rate_rps[-1] == pytest.approx(20.0)


def test_a_quiet_day_wears_the_prior_off():
    rises = remembered([2.0] * 2000).keep(2.0, 1.0, horizon=3)
    assert weight_above(rises, 2.0 + 1e-6) < 0.01
    assert rises.quantile(0.99) == pytest.approx(2.0)


def test_the_day_before_yesterday_is_remembered_with_less_weight():
    jump = [1.0] * 100 + [7.0] * 10
    fresh, old = (remembered([*jump, *[1.0] * (days * DAY)]) for days in (1, 2))
    assert old.keep(1.0, 1.0, horizon=3).load[-1] == pytest.approx(7.0)
    assert weight_above(old.keep(1.0, 1.0, horizon=3), 6.5) < weight_above(fresh.keep(1.0, 1.0, horizon=3), 6.5)


def test_a_month_takes_as_much_room_as_a_day():
    random = np.random.default_rng(7)
    traffic = np.abs(random.normal(3.0, 1.0, 3 * DAY)).round(3)
    day, three = remembered(traffic[:DAY].tolist()), remembered(traffic.tolist())
    sizes = [len(json.dumps(memory.to_json())) for memory in (day, three)]
    assert sizes[1] < 1.5 * sizes[0] < 150_000


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1e6, width=32), max_size=60))
def test_round_trip_and_weights_sum_to_one(loads):
    memory = remembered(loads)
    again = JumpMemory.from_json(memory.to_json())
    for one, other in ((memory.keep(3.0, 1.0, horizon=3), again.keep(3.0, 1.0, horizon=3)), (memory.launch(3.0, 1.0), again.launch(3.0, 1.0))):
        assert np.array_equal(one.load, other.load)
        assert np.array_equal(one.rate_rps, other.rate_rps)
        assert one.weight.sum() == pytest.approx(1.0)
        assert (np.diff(one.load) >= 0).all()
    assert again.remember(1.0, 1.0, 1.0, **STEP).to_json() == memory.remember(1.0, 1.0, 1.0, **STEP).to_json()


@pytest.mark.parametrize(
    ("field", "numbers"),
    [("blips", [1, 200, 1, 0, 0]), ("lasting", [-1, 2, 1, 0, 0]), ("launched", [1, 2, -1, 0, 0]), ("recent", [1, 2, float("nan")])],
)
def test_numbers_that_no_memory_holds_are_refused(field, numbers):
    document = remembered([1.0, 2.0]).to_json()
    document[field] = base64.b64encode(np.array(numbers, "<f8" if field == "recent" else "<f4").tobytes()).decode()
    with pytest.raises(ValueError, match=r"expected|finite"):
        JumpMemory.from_json(document)
