"""Workers from launch to exit, worked out on paper. Prefill workers have 2 GPUs and decode workers 4."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from tests.simulate.by_hand import Decode, Prefill, engine, fleet, poisson, requests

from sla_planner.plan.decision import Role
from sla_planner.plan.observation import WorkerCounts
from sla_planner.simulate.options import ClusterOptions, Spread, Startup

ENGINE = engine(prefill=Prefill(gpus=2), decode=Decode(gpus=4))
IDLE = requests((1e6, 1, 1))  # nobody comes
SOON = ClusterOptions(startup=Startup(mean_s=10))


def charged(cluster) -> tuple[float, float]:
    return cluster.gpu_seconds(Role.PREFILL), cluster.gpu_seconds(Role.DECODE)


def counted(cluster) -> tuple[WorkerCounts, WorkerCounts]:
    return cluster.counts(Role.PREFILL), cluster.counts(Role.DECODE)


# ---- GPU-seconds --------------------------------------------------------------------------------------------------------------------------


def test_gpu_seconds_are_charged_from_launch_to_exit():
    """Two decode workers from 100 s on, of which the one that still starts is taken back at 105 s, and the ready one at 130 s."""
    cluster = fleet(IDLE, ENGINE, options=SOON)
    for at_s, prefill, decode in ((100, 1, 3), (105, 1, 2), (130, 0, 1), (150, 0, 1)):
        cluster.advance(float(at_s))
        cluster.scale(prefill, decode)
    assert charged(cluster) == pytest.approx((2 * 130, 4 * (150 + 30 + 5)))
    assert cluster.launches == 4


def test_a_draining_worker_finishes_what_it_has_and_takes_nothing_new():
    """Two workers with one request of 1 s each, asked at 0.5 s to be one. What comes then goes to the other; the GPUs are held until 1 s."""
    rows = requests((0, 1, 101), (0, 1, 101), (0.6, 1, 101), (0.7, 1, 101))
    cluster = fleet(rows, engine(prefill=Prefill(lambda _: 1e-6, gpus=2), decode=Decode(gpus=4)), decode=2)
    cluster.advance(0.5)
    cluster.scale(1, 1)
    assert cluster.counts(Role.DECODE) == WorkerCounts(1)
    assert cluster.gpus_held() == 2 + 8
    cluster.advance(0.9)
    assert cluster.decode_batches().tolist() == [3]
    cluster.advance(5.0)
    assert cluster.core.finish_s == pytest.approx([1.0, 1.0, 1.6, 1.7], abs=1e-6)
    assert charged(cluster) == pytest.approx((10.0, 4 * (5 + 1)), abs=1e-5)


def test_a_draining_prefill_worker_leaves_after_its_batch():
    cluster = fleet(requests((0, 8000, 1), (0.1, 1000, 1)), ENGINE)
    cluster.advance(0.5)
    cluster.scale(0, 1)
    cluster.advance(10.0)
    assert cluster.core.first_token_s[0] == pytest.approx(0.8)
    assert np.isnan(cluster.core.first_token_s[1])
    assert cluster.gpu_seconds(Role.PREFILL) == pytest.approx(2 * 0.8)


def test_one_that_drains_never_comes_back():
    cluster = fleet(requests((0, 1, 1001)), ENGINE, options=SOON)
    cluster.advance(1.0)
    cluster.scale(1, 0)
    cluster.scale(1, 1)
    assert cluster.counts(Role.DECODE) == WorkerCounts(0, 1)
    assert cluster.gpus_held() == 2 + 8


# ---- scaling ------------------------------------------------------------------------------------------------------------------------------


def test_workers_are_ready_a_start_up_after_launch_and_then_take_what_waits():
    cluster = fleet(requests((0, 1000, 101)), ENGINE, prefill=0, decode=0, options=SOON)
    cluster.advance(3.0)
    cluster.scale(1, 1)
    cluster.advance(12.0)
    assert counted(cluster) == (WorkerCounts(0, 1), WorkerCounts(0, 1))
    cluster.advance(13.0)
    assert counted(cluster) == (WorkerCounts(1), WorkerCounts(1))
    cluster.advance(20.0)
    assert (cluster.core.first_token_s[0], cluster.core.finish_s[0]) == pytest.approx((13.1, 14.1))


def test_scaling_down_takes_the_unscheduled_then_those_that_start_then_the_emptiest():
    """Three workers with 2, 1 and 1 requests, one that starts and one without GPUs."""
    rows = requests(*[(0, 1, 1001)] * 4)
    cluster = fleet(rows, engine(decode=Decode(gpus=4)), decode=3, options=replace(SOON, max_gpus=1 + 4 * 4))
    cluster.advance(1.0)
    cluster.scale(1, 5)
    seen = []
    for decode in (4, 3, 2, 1):
        cluster.scale(1, decode)
        seen.append((cluster.counts(Role.DECODE), cluster.gpus_held() - 1, cluster.decode_batches().tolist()))
    assert seen == [
        (WorkerCounts(3, 1), 16, [2, 1, 1]),
        (WorkerCounts(3), 12, [2, 1, 1]),
        (WorkerCounts(2), 12, [2, 1]),  # the newest of the two with one; it holds its GPUs until that one ends
        (WorkerCounts(1), 12, [2]),
    ]


def test_of_equals_the_newest_goes():
    """One request each, of 10 s on the older worker and 2 s on the newer: its GPUs are free after 2 s."""
    cluster = fleet(requests((0, 1, 1001), (0, 1, 201)), engine(decode=Decode(gpus=4)), decode=2)
    cluster.advance(1.0)
    cluster.scale(1, 1)
    cluster.advance(5.0)
    assert cluster.gpus_held() == 1 + 4


def test_of_those_that_start_the_newest_goes_first():
    """Launched at 0 and 5; one is taken back at 6, so somebody is ready at 10."""
    cluster = fleet(IDLE, ENGINE, decode=0, options=SOON)
    cluster.scale(1, 1)
    cluster.advance(5.0)
    cluster.scale(1, 2)
    cluster.advance(6.0)
    cluster.scale(1, 1)
    cluster.advance(10.0)
    assert cluster.counts(Role.DECODE) == WorkerCounts(1)


def test_beyond_the_quota_workers_wait_without_gpus_until_some_are_free():
    cluster = fleet(IDLE, ENGINE, options=replace(SOON, max_gpus=10))  # 2 + 4 + 4
    cluster.scale(2, 3)
    assert counted(cluster) == (WorkerCounts(1, 1), WorkerCounts(1, 0, 2))  # prefill is placed first; 2 GPUs are left, a decode worker has 4
    cluster.advance(20.0)
    cluster.scale(1, 3)
    assert counted(cluster) == (WorkerCounts(1), WorkerCounts(1, 1, 1))
    cluster.advance(30.0)
    assert charged(cluster) == pytest.approx((2 * (30 + 20), 4 * (30 + 10)))


def test_gpus_of_a_drained_worker_are_free_for_one_that_waits():
    cluster = fleet(requests((0, 1, 301)), engine(prefill=Prefill(gpus=2)), options=replace(SOON, max_gpus=3))
    cluster.advance(1.0)
    cluster.scale(1, 0)
    cluster.scale(1, 1)
    assert cluster.counts(Role.DECODE) == WorkerCounts(0, 0, 1)
    cluster.advance(5.0)
    assert cluster.counts(Role.DECODE) == WorkerCounts(0, 1)


def test_workers_that_never_start_are_charged_and_look_like_any_that_starts():
    cluster = fleet(IDLE, ENGINE, options=ClusterOptions(startup=Startup(mean_s=10, never_share=0.5)))
    cluster.scale(401, 1)
    cluster.advance(100.0)
    ready = cluster.counts(Role.PREFILL).ready - 1
    assert cluster.counts(Role.PREFILL) == WorkerCounts(1 + ready, 400 - ready)
    assert 160 < ready < 240  # 200, and four times the spread of 10
    assert cluster.gpu_seconds(Role.PREFILL) == pytest.approx(2 * 100 * 401)
    cluster.scale(1 + ready, 1)
    assert cluster.counts(Role.PREFILL) == WorkerCounts(1 + ready)


@pytest.mark.parametrize(("spread", "early"), [(Spread.FIXED, 1.0), (Spread.UNIFORM, 0.5), (Spread.LOGNORMAL, 0.579)])
def test_start_up_times_scatter_around_their_mean(spread, early):
    """Half of a uniform start-up is over at its mean, more of a log-normal one of sigma 0.4: F(0.2) = 57.9 %."""
    cluster = fleet(IDLE, ENGINE, options=ClusterOptions(startup=Startup(mean_s=60, spread=spread)))
    cluster.scale(2001, 1)
    ready_s = []
    for second in range(1, 400):
        cluster.advance(float(second))
        ready_s += [second] * (cluster.counts(Role.PREFILL).ready - 1 - len(ready_s))
    assert len(ready_s) == 2000
    assert np.mean(ready_s) == pytest.approx(60.5 if spread is not Spread.FIXED else 60, rel=0.03)
    assert np.mean(np.array(ready_s) <= 60) == pytest.approx(early, abs=0.04)
    if spread is Spread.UNIFORM:
        assert (min(ready_s), max(ready_s)) == (pytest.approx(30, abs=1), pytest.approx(90, abs=1))


def test_the_seed_decides_who_starts_when():
    def ready_at_60(seed: int) -> int:
        cluster = fleet(IDLE, ENGINE, options=ClusterOptions(startup=Startup(mean_s=60, spread=Spread.LOGNORMAL), seed=seed))
        cluster.scale(200, 1)
        cluster.advance(60.0)
        return cluster.counts(Role.PREFILL).ready

    assert ready_at_60(1) == ready_at_60(1)
    assert len({ready_at_60(seed) for seed in range(8)}) > 1


# ---- what a worker does -------------------------------------------------------------------------------------------------------------------


def test_a_cold_worker_is_slow_at_first():
    """Ready at 10 s, three times as slow until 12 s. Prefill of 0.1 s takes 0.3 s, later 0.1 s. Tokens of 10 ms take 30 ms between 10.3 and 12 s."""
    cold = ClusterOptions(startup=Startup(mean_s=10, cold_s=2, cold_factor=3))
    cluster = fleet(requests((0, 1000, 301), (12.5, 1000, 1)), ENGINE, prefill=0, decode=0, options=cold)
    cluster.scale(1, 1)
    cluster.advance(20.0)
    assert cluster.core.first_token_s == pytest.approx([10.3, 12.6])
    slow_tokens = (12 - 10.3) / 0.03
    assert cluster.core.finish_s[0] == pytest.approx(12 + (300 - slow_tokens) * 0.01)


def test_a_worker_that_was_ready_at_the_beginning_is_warm():
    cluster = fleet(requests((0, 1000, 1)), ENGINE, options=ClusterOptions(startup=Startup(cold_s=100, cold_factor=3)))
    cluster.advance(1.0)
    assert cluster.core.first_token_s[0] == pytest.approx(0.1)


def test_a_cold_worker_that_left_leaves_its_place_to_a_warm_one():
    """Slot of a worker cold until 110 s goes at 20 s to another one: it is slow until 130 s, not until 110 s."""
    cold = ClusterOptions(startup=Startup(mean_s=10, cold_s=100, cold_factor=3))
    cluster = fleet(requests((120, 1000, 1)), ENGINE, prefill=0, options=cold)
    cluster.scale(1, 1)
    cluster.advance(20.0)
    cluster.scale(0, 1)
    cluster.scale(1, 1)
    cluster.advance(200.0)
    assert cluster.core.first_token_s[0] == pytest.approx(120.3)


def test_a_fleet_of_many_workers_is_that_many_times_one():
    """More than there is room for at first. 40 workers of each role serve 40 times a load as one serves it once."""
    rows = requests(*[(0.0, 8192, 101)] * 40)
    cluster = fleet(rows, engine(c0=0, c1=10), prefill=40, decode=40)
    cluster.advance(math.inf)
    assert cluster.core.first_token_s == pytest.approx([0.8192] * 40)
    assert cluster.core.finish_s == pytest.approx([1.8192] * 40)


def test_growing_under_load_loses_nobody():
    rng = np.random.default_rng(1)
    rows = poisson(40.0, 8000, rng.integers(1, 4000, 8000), rng.integers(1, 400, 8000), seed=1)
    cluster = fleet(rows, engine(c0=5, c1=0.5, c2=0.0002), options=SOON)
    for step, workers in enumerate((5, 20, 50, 18, 70)):
        cluster.advance(20.0 * step)
        cluster.scale(workers, workers)
    cluster.advance(1000.0)
    assert np.isfinite(cluster.core.finish_s).all()
    assert counted(cluster) == (WorkerCounts(70), WorkerCounts(70))


def test_busy_time_is_told_up_to_now():
    cluster = fleet(requests((0, 8000, 1), (2, 1000, 1)), ENGINE)
    seen = []
    for at_s in (0.5, 1.0, 2.05, 3.0):
        cluster.advance(at_s)
        seen.append(cluster.prefill_busy_s())
    assert seen == pytest.approx([0.5, 0.8, 0.85, 0.9])
