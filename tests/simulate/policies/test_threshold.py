"""Thresholds by cases worked out on paper."""

from __future__ import annotations

import pytest

from sla_planner.plan.observation import WorkerCounts
from sla_planner.simulate.policies.threshold import CUSTOMARY_KV, OneByOne, Thresholds, Use

DECODE = Thresholds(kv=CUSTOMARY_KV)  # queue 5 with trigger 3, KV 0.8 with trigger 0.1, every 60 s


def _loop(thresholds: Thresholds = DECODE, most: int = 10) -> OneByOne:
    return OneByOne(thresholds, most)


@pytest.mark.parametrize(
    ("use", "wanted", "why"),
    [
        (Use(waiting=0, kv=0.71), 5, "0.09 of the cache is spare"),
        (Use(waiting=0, kv=0.69), 4, "0.11 is; without one worker it would be 0.92 of the cache"),
        (Use(waiting=0, kv=0.52), 3, "three would hold 0.693"),
        (Use(waiting=0, kv=0.53), 4, "three would hold 0.707"),
        (Use(waiting=8, kv=0.1), 4, "two wait for each worker, three may; for each of three it would be 2.67"),
        (Use(waiting=9, kv=0.1), 5, "2.25 wait for each: 2.75 is spare"),
        (Use(waiting=6, kv=0.1), 3, "two for each of three"),
    ],
)
def test_one_worker_more_or_less_by_what_is_spare(use: Use, wanted: int, why: str) -> None:
    assert _loop().workers(600, WorkerCounts(4), use) == wanted, why


def test_nothing_changes_while_a_worker_starts() -> None:
    assert _loop().workers(600, WorkerCounts(3, starting=1), Use(0, 0.9)) == 4
    assert _loop().workers(600, WorkerCounts(3, unschedulable=1), Use(0, 0.0)) == 4


def test_it_looks_once_a_loop_and_goes_down_five_minutes_after_a_change() -> None:
    loop = _loop()
    assert loop.workers(0, WorkerCounts(4), Use(0, 0.9)) == 5
    assert loop.workers(45, WorkerCounts(5), Use(0, 0.9)) == 5  # the loop's minute is not over
    assert loop.workers(60, WorkerCounts(5), Use(0, 0.1)) == 5
    assert loop.workers(240, WorkerCounts(5), Use(0, 0.1)) == 5
    assert loop.workers(300, WorkerCounts(5), Use(0, 0.1)) == 4
    assert loop.workers(360, WorkerCounts(4), Use(0, 0.9)) == 5  # up at any time


def test_limits_hold() -> None:
    assert _loop(most=4).workers(0, WorkerCounts(4), Use(0, 0.9)) == 4
    assert _loop().workers(0, WorkerCounts(1), Use(0, 0.0)) == 1


def test_prefill_is_judged_by_its_queue_alone() -> None:
    assert _loop(Thresholds()).workers(0, WorkerCounts(2), Use(0, 1.0)) == 1
