"""The schedule that knows the future: never late, nothing given away that is needed again within a start-up."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tests.simulate.by_hand import engine, requests

from sla_planner.simulate.options import ClusterOptions, Startup
from sla_planner.simulate.policies.clairvoyant import BIN_S, Clairvoyant, Margin, schedule
from sla_planner.simulate.policy import Workers
from sla_planner.simulate.run import Scenario, run


def test_need_is_the_load_and_its_root_rounded_up_and_at_least_one() -> None:
    load = np.array([0.0, 0.25, 1.0, 4.0, 9.0])
    assert schedule(load, Margin(1.0, 0.0), 0.0).tolist() == [1, 1, 1, 4, 9]
    assert schedule(load, Margin(1.0, 0.5), 0.0).tolist() == [1, 1, 2, 5, 11]
    assert schedule(load, Margin(2.0, 0.0), 0.0).tolist() == [1, 1, 2, 8, 18]


def test_workers_are_ordered_one_start_up_ahead_and_kept_over_a_short_gap() -> None:
    load = np.array([1, 1, 1, 1, 5, 5, 1, 1, 5, 1, 1, 1, 1, 1, 5], float)
    asked = schedule(load, Margin(1.0, 0.0), 3 * BIN_S)
    assert asked.tolist() == [1, 5, 5, 5, 5, 5, 5, 5, 5, 1, 1, 5, 5, 5, 5]


@given(
    load=st.lists(st.floats(0, 20), min_size=1, max_size=60),
    startup_s=st.floats(0, 400),
    margin=st.builds(Margin, st.floats(0.5, 2), st.floats(0, 1)),
)
def test_whatever_a_bin_needs_was_asked_for_a_start_up_before_it_began(load: list[float], startup_s: float, margin: Margin) -> None:
    need = schedule(np.array(load), margin, 0.0)
    asked = schedule(np.array(load), margin, startup_s)
    for bin_number, workers in enumerate(need):
        latest = int((bin_number * BIN_S - startup_s + 1e-6) // BIN_S)  # the last tick whose launches are ready in time
        for tick in range(max(latest, 0), bin_number + 1):
            assert asked[tick] >= workers
    assert asked.max() == need.max()


def test_on_a_fleet_workers_are_ready_when_their_bin_begins() -> None:
    load = np.array([1.0] * 20 + [4.0] * 10 + [1.0] * 10)
    startup_s = 70.0
    asked = schedule(load, Margin(1.0, 0.0), startup_s)
    scenario = Scenario(requests((0.0, 10, 2), (390.0, 10, 2)), engine(), Workers(1, 1), ClusterOptions(startup=Startup(startup_s)), horizon_s=400.0)
    course = run(scenario, Clairvoyant(asked, asked, (Margin(1, 0), Margin(1, 0)))).course
    ready = dict(zip(course.at_s.tolist(), course.ready[:, 0].tolist(), strict=True))
    assert all(ready[at_s] >= 4 for at_s in np.arange(200.0, 300.0, 10.0))
    assert ready[190.0] == 1
    assert ready[310.0] == 1  # and they leave when they are not needed any more


def test_settings_name_both_margins() -> None:
    one = np.ones(1, np.int64)
    assert Clairvoyant(one, one, (Margin(1.0, 0.25), Margin(0.9, 0.0))).settings == {
        "prefill": {"a": 1.0, "b": 0.25},
        "decode": {"a": 0.9, "b": 0.0},
    }
