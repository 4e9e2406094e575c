"""The fluid bound by hand, with the round numbers of `test_true_work`."""

from __future__ import annotations

import math

import pytest
from tests.simulate.by_hand import Decode, Prefill, engine, requests

from sla_planner.model.sla import Sla
from sla_planner.plan.settings import PlanSettings
from sla_planner.simulate.bound import fluid_bound
from sla_planner.simulate.contest import Contest, Knows
from sla_planner.simulate.policy import Workers
from sla_planner.simulate.run import Scenario

ENGINE = engine(c0=10.0, c1=0.1, prefill=Prefill(gpus=2), decode=Decode(gpus=4))


def _contest(goal: float) -> Contest:
    rows = [(float(second), 1000, 101) for second in range(9)]
    trace = requests(*rows, (9.0, 1000, 1001))  # the last one's answer is ten times as long
    return Contest(Scenario(trace, ENGINE, Workers(1, 1)), PlanSettings(sla=Sla(500, 20)), goal)


def test_it_is_the_gpu_time_of_the_work() -> None:
    entry = fluid_bound(_contest(1.0))
    assert entry.score.gpu_hours_prefill == pytest.approx(10 * 0.1 * 2 / 3600, rel=1e-3)
    assert entry.score.gpu_hours_decode == pytest.approx((9 * 0.02 + 0.2) * 4 / 3600)
    assert entry.score.gpu_hours == entry.score.gpu_hours_prefill + entry.score.gpu_hours_decode
    assert entry.score.attainment == 1.0


def test_the_dearest_requests_may_be_missed() -> None:
    score = fluid_bound(_contest(0.9)).score
    assert score.gpu_hours_prefill == pytest.approx(9 * 0.1 * 2 / 3600, rel=1e-3)
    assert score.gpu_hours_decode == pytest.approx(9 * 0.02 * 4 / 3600)
    assert score.attainment == 0.9
    assert fluid_bound(_contest(0.85)).score.attainment == 0.9  # 8.5 of ten requests are nine


def test_it_knows_the_future_and_never_ran() -> None:
    entry = fluid_bound(_contest(0.9))
    assert (entry.policy, entry.knows, entry.tried, entry.result) == ("fluid-bound", Knows.FUTURE, 0, None)
    assert entry.reached
    assert math.isnan(entry.score.ttft_p99_ms)
    assert math.isnan(entry.score.minutes_inside)
