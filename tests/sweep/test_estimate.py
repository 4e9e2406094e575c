"""What a sweep is said to cost, by hand: prefill points 6 * 0.5 s, decode points 6 s + 64 * 0.05 s, starts 240 s."""

import pytest

from sla_planner.model.profile import ParallelMapping
from sla_planner.model.sla import Sla
from sla_planner.sweep.estimate import EstimateOptions, estimate
from sla_planner.sweep.result import Goal
from sla_planner.sweep.space import SearchSpace

GOAL = Goal(Sla(ttft_ms=500, itl_ms=50), 3000, 500)
TP1, TP2, TP4 = (ParallelMapping(tp=n) for n in (1, 2, 4))
DENSE = SearchSpace((TP1, TP2, TP4), (TP1, TP2, TP4))
MOE = SearchSpace((ParallelMapping(tp=8, ep=8),), (ParallelMapping(dp=8, ep=8),))
MEASURED = EstimateOptions(verify=False)


def test_one_deployment_per_mapping():
    found = estimate(DENSE, GOAL, MEASURED)
    assert (found.deployments, found.points) == (3, 63)
    assert [part.wall_s for part in found.parts] == pytest.approx([377.4] * 3)  # 240 + 9 * 3 + 12 * 9.2
    assert found.wall_s == pytest.approx(1132.2)
    assert found.gpu_hours == pytest.approx(377.4 * 7 / 3600)


def test_separate_phases_start_twice_as_many_and_measure_the_same():
    found = estimate(DENSE, GOAL, EstimateOptions(verify=False, separate_phases=True))
    assert (found.deployments, found.points) == (6, 63)
    assert found.wall_s == pytest.approx(1132.2 + 3 * 240)


def test_moe_phases_are_deployments_of_their_own():
    found = estimate(MOE, GOAL, MEASURED)
    assert [(part.label, part.points) for part in found.parts] == [("TEP8 prefill", 9), ("DEP8 decode", 12)]
    assert [part.wall_s for part in found.parts] == pytest.approx([267, 350.4])
    assert found.gpu_hours == pytest.approx(8 * 617.4 / 3600)


def test_an_earlier_start_is_believed():
    found = estimate(DENSE, GOAL, EstimateOptions(verify=False, known_start_s={TP4: 600}))
    assert [part.wall_s for part in found.parts] == pytest.approx([377.4, 377.4, 737.4])


def test_verification_takes_at_most_the_largest_pair_once_more():
    found = estimate(DENSE, GOAL, EstimateOptions())
    assert (found.verification.gpus, found.verification.wall_s) == (8, 330)
    assert found.wall_s == pytest.approx(1132.2 + 330)
    assert (found.deployments, found.points) == (3, 63)


def test_one_mapping_is_verified_on_one_engine():
    assert estimate(SearchSpace((TP2,), (TP2,)), GOAL, EstimateOptions()).verification.gpus == 2


@pytest.mark.parametrize(("gpus", "after_each_other"), [(2, 3), (3, 2), (7, 1)], ids=["no two fit", "1 beside 2", "all at once"])
def test_side_by_side_takes_less_time_and_the_same_gpu_hours(gpus, after_each_other):
    found = estimate(DENSE, GOAL, EstimateOptions(verify=False, gpus_at_once=gpus))
    assert found.wall_s == pytest.approx(after_each_other * 377.4)
    assert found.gpu_hours == pytest.approx(377.4 * 7 / 3600)


def test_it_says_that_it_is_an_estimate_and_of_what():
    assert estimate(DENSE, GOAL, EstimateOptions()).lines() == (
        "Estimate: 3 deployments, at most 63 points, about 24 min and 1.5 GPU-hours, taking 240 s for an engine to start (--expected-start-s)",
        "  TP1: 21 points, about 6 min, 0.1 GPU-hours",
        "  TP2: 21 points, about 6 min, 0.2 GPU-hours",
        "  TP4: 21 points, about 6 min, 0.4 GPU-hours",
        "  verification of the pick, at most TP4 + TP4: about 6 min, 0.7 GPU-hours",
    )


def test_an_endpoint_has_nothing_to_start():
    (first, _) = estimate(SearchSpace((TP1,), (TP1,)), GOAL, EstimateOptions(start_s=0, verify=False)).lines()
    assert first == "Estimate: 1 deployment, at most 21 points, about 2 min and 0.0 GPU-hours"


def test_the_slower_the_promise_the_longer_the_points():
    slow = Goal(Sla(ttft_ms=5000, itl_ms=200), 3000, 500)
    assert estimate(DENSE, slow, MEASURED).wall_s > estimate(DENSE, GOAL, MEASURED).wall_s
