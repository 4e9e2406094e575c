"""Kubernetes' autoscaler by cases worked out on paper; the plain ones are those of its documentation and of its controller's own tests."""

from __future__ import annotations

import numpy as np
import pytest
from tests.simulate.by_hand import engine, poisson

from sla_planner.plan.observation import WorkerCounts
from sla_planner.simulate.options import ClusterOptions, Startup
from sla_planner.simulate.policies.hpa import (
    Hpa,
    Metric,
    Pods,
    Stabiliser,
    Target,
    recommended,
    replicas_for_pods,
    replicas_for_total,
)
from sla_planner.simulate.policy import Workers
from sla_planner.simulate.run import Scenario, run
from sla_planner.simulate.scrape import EngineGauges, Scrape


@pytest.mark.parametrize(
    ("mean", "pods", "target", "replicas"),
    [
        (200, Pods(1), 100, 2),  # twice the target: twice the pods
        (50, Pods(2), 100, 1),  # half the target: half the pods
        (20_000, Pods(3), 15_000, 4),
        (12_000, Pods(5), 20_000, 3),
        (20_667, Pods(3), 20_000, 3),  # 3 % above: tolerated
        (110, Pods(10), 100, 10),  # exactly 10 %: still tolerated
        (111, Pods(10), 100, 12),
        (90, Pods(10), 100, 10),
        (89, Pods(10), 100, 9),
        (0, Pods(4), 100, 0),  # the minimum is the behaviour's
    ],
)
def test_the_ratio_of_the_mean_to_the_target_scales_the_pods_that_report(mean: float, pods: Pods, target: float, replicas: int) -> None:
    assert replicas_for_pods(mean, pods, target) == replicas


@pytest.mark.parametrize(
    ("mean", "pods", "replicas", "why"),
    [
        (300, Pods(2, silent=1), 6, "600 over 3 pods is twice the target: 6, not the 9 of the ratio alone"),
        (200, Pods(2, silent=2), 4, "idle newcomers bring the mean to the target: wait for them"),
        (150, Pods(2, silent=2), 4, "newcomers turn the ratio below 1: wait for them"),
        (200, Pods(2, pending=1), 4, "400 over 3 pods"),
        (400, Pods(1, silent=1, pending=2), 4, "400 over 4 pods is on target"),
        (10, Pods(2, silent=2), 3, "20 and twice 100 over 4 pods is 0.55"),
        (95, Pods(2, silent=2), 4, "tolerated"),
        (10, Pods(2, pending=2), 1, "pods that wait for a place say nothing about too little load: 2 pods at 0.1"),
        (50, Pods(0, silent=3), 3, "nobody reports"),
    ],
)
def test_pods_that_do_not_report_yet_dampen_both_directions(mean: float, pods: Pods, replicas: int, why: str) -> None:
    assert replicas_for_pods(mean, pods, 100) == replicas, why


@pytest.mark.parametrize(
    ("total", "current", "target", "replicas"),
    [(8600, 3, 2150, 4), (8600, 5, 2867, 3), (0, 3, 5, 0), (33, 3, 10, 3), (34, 3, 10, 4), (7, 0, 5, 2)],
)
def test_an_external_metric_is_shared_by_the_replicas(total: float, current: int, target: float, replicas: int) -> None:
    assert replicas_for_total(total, current, target) == replicas


def test_scaling_up_is_at_once_and_by_four_pods_or_double() -> None:
    behaviour = Stabiliser(max_workers=100)
    assert behaviour.replicas(15, current=1, recommendation=50) == 5
    assert behaviour.replicas(30, current=5, recommendation=50) == 10
    assert behaviour.replicas(45, current=10, recommendation=50) == 20
    assert behaviour.replicas(60, current=20, recommendation=21) == 21


def test_scaling_down_waits_until_five_minutes_have_asked_for_no_more() -> None:
    behaviour = Stabiliser(max_workers=100)
    assert behaviour.replicas(0, current=10, recommendation=10) == 10
    asked = {at_s: behaviour.replicas(at_s, current=10, recommendation=8 if at_s == 150 else 3) for at_s in range(15, 450, 15)}
    assert {at_s for at_s, replicas in asked.items() if replicas == 10} == set(range(15, 300, 15))
    assert asked[300] == 8  # the 10 of second 0 is just outside the window; the 8 of second 150 is not
    assert asked[435] == 8
    assert behaviour.replicas(450, current=8, recommendation=3) == 3  # in one step


def test_a_recommendation_between_is_not_undone() -> None:
    """The largest of the window bounds a way down; it never lifts the scale."""
    behaviour = Stabiliser(max_workers=100)
    behaviour.replicas(0, current=2, recommendation=30)
    assert behaviour.replicas(15, current=6, recommendation=4) == 6


def test_limits_hold() -> None:
    behaviour = Stabiliser(max_workers=3)
    assert behaviour.replicas(0, current=2, recommendation=9) == 3
    assert Stabiliser(max_workers=3).replicas(0, current=1, recommendation=0) == 1


def _scrape(
    *, busy: float = 0.0, waiting: int = 0, started: int = 0, first_tokens: int = 0, running: tuple[int, ...] = (), kv: tuple[float, ...] = ()
) -> Scrape:
    gauges = EngineGauges(busy, waiting, 0, np.array(running, np.int64), np.array(kv))
    return Scrape(100.0, started, 0, first_tokens, np.zeros((5, 8)), gauges)


@pytest.mark.parametrize(
    ("target", "scrape", "counts", "replicas"),
    [
        (Target(Metric.UTILISATION, 0.6), _scrape(busy=2.4), WorkerCounts(3), 4),  # 0.8 / 0.6 * 3
        (Target(Metric.UTILISATION, 0.5), _scrape(busy=3.0), WorkerCounts(3, starting=1), 6),  # 3 over 4 is 0.75
        (Target(Metric.WAITING, 4), _scrape(waiting=17), WorkerCounts(2), 5),
        (Target(Metric.WAITING, 4), _scrape(waiting=17), WorkerCounts(2, starting=2), 4),  # 17 / 16: tolerated
        (Target(Metric.UNANSWERED, 10), _scrape(started=100, first_tokens=65), WorkerCounts(1), 4),
        (Target(Metric.KV_USAGE, 0.2), _scrape(running=(5, 5), kv=(0.4, 0.2)), WorkerCounts(2), 3),
        (Target(Metric.RUNNING, 10), _scrape(running=(40, 20), kv=(0, 0)), WorkerCounts(2), 6),
        (Target(Metric.RUNNING, 10), _scrape(running=(40, 20), kv=(0, 0)), WorkerCounts(3), 6),  # the third has not been scraped yet: silent, 60 / 3
        (Target(Metric.RUNNING, 10), _scrape(running=(), kv=()), WorkerCounts(0, starting=2), 2),
    ],
)
def test_what_each_metric_of_a_role_reads(target: Target, scrape: Scrape, counts: WorkerCounts, replicas: int) -> None:
    assert recommended(target, scrape, counts) == replicas


def test_on_a_fleet_it_follows_the_load_and_stays_within_its_maximum() -> None:
    """30 prompts/s of 0.1 s each are 3 busy workers, at a target of 0.5 six; 4 may be had."""
    trace = poisson(30.0, 27_000, isl=1000, osl=1, seed=1)
    scenario = Scenario(trace, engine(), Workers(1, 1), ClusterOptions(startup=Startup(60.0)), horizon_s=900.0)
    result = run(scenario, Hpa(Target(Metric.UTILISATION, 0.5), Target(Metric.KV_USAGE, 0.5), Workers(4, 4)))
    assert result.course.asked[0].tolist() == [1, 1]
    assert result.course.asked[1:, 0].max() == 4
    assert result.course.asked[-1].tolist() == [4, 1]
