from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sla_planner.plan.decision import Role
from sla_planner.report.run import WorkerSamples
from sla_planner.report.series import asked_steps, fleet_steps, rate, rolling, time_unit, window_s


@pytest.mark.parametrize(("duration_s", "name"), [(45, "s"), (180, "s"), (181, "min"), (3 * 3600, "min"), (86_400, "h")])
def test_a_time_axis_counts_in_what_people_would(duration_s, name):
    assert time_unit(duration_s).name == name


def test_window_is_a_round_width():
    assert window_s(45, 20) == 2
    assert window_s(86_400, 90) == 900


def test_rate_divides_by_the_true_width_of_each_bin():
    edges, per_s = rate(np.array([0.5, 1.5, 3.0, 4.5]), np.array([1.0, 1.0, 1.0, 10.0]), duration_s=5.0, bin_s=2.0)
    assert edges.tolist() == [0, 2, 4, 5]
    assert per_s.tolist() == [1.0, 0.5, 10.0]  # the last bin is one second long


def test_rolling_takes_the_nearest_rank_of_the_window_and_counts_unanswered_as_infinite():
    arrival = np.array([0.0, 1.0, 2.0, 10.0])
    value = np.array([30.0, 10.0, np.nan, 7.0])
    at = np.array([1.0, 6.0, 10.0])
    assert rolling(arrival, value, at, 2.0, 0.5)[0] == 30.0
    assert np.isinf(rolling(arrival, value, at, 2.0, 0.99)[0])
    assert np.isnan(rolling(arrival, value, at, 2.0, 0.5)[1])
    assert rolling(arrival, value, at, 2.0, 0.99)[2] == 7.0


def test_asked_starts_at_the_count_found_and_holds_to_the_end(tiny):
    times, counts = asked_steps(tiny, Role.PREFILL)
    assert times.tolist() == [0, 2, 4, 8, 10]
    assert counts.tolist() == [1, 1, 2, 1, 1]


def test_fleet_without_samples_is_what_the_ticks_saw(tiny):
    steps = fleet_steps(tiny, Role.DECODE)
    assert steps.t_s.tolist() == [2, 4, 8, 10]
    assert steps.ready.tolist() == [2, 2, 3, 3]


def test_a_tick_that_saw_no_fleet_is_left_out(tiny):
    blind = replace(tiny.ticks[1], observation=replace(tiny.ticks[1].observation, decode=None))
    assert fleet_steps(replace(tiny, ticks=(tiny.ticks[0], blind, tiny.ticks[2])), Role.DECODE).t_s.tolist() == [2, 8, 10]


def test_sampled_fleet_keeps_the_roles_apart(tiny):
    samples = WorkerSamples(np.array([0.0, 5.0]), np.array([1, 2]), np.array([1, 0]), np.array([3, 4]), np.array([0, 5]))
    sampled = replace(tiny, workers=samples)
    assert fleet_steps(sampled, Role.PREFILL).ready.tolist() == [1, 2, 2]
    assert fleet_steps(sampled, Role.PREFILL).starting.tolist() == [1, 0, 0]
    assert fleet_steps(sampled, Role.DECODE).starting.tolist() == [0, 5, 5]


def test_a_run_without_ticks_has_no_steps(tiny):
    empty = replace(tiny, ticks=())
    assert len(asked_steps(empty, Role.PREFILL)[0]) == 0
    assert len(fleet_steps(empty, Role.PREFILL).t_s) == 0
