"""The peak-sized fleet on the toy engine: 1,000-token prompts cost 21.22 ms of prefill; 200 tokens at 20 ms are 4 s at 1/258 of a decode worker."""

from __future__ import annotations

import numpy as np
import pytest

from sla_planner.model.sla import Sla
from sla_planner.plan.peak import peak_fleet


def steady(rate_rps: float, duration_s: float, start_s: float = 0.0) -> np.ndarray:
    return start_s + np.arange(0.0, duration_s, 1 / rate_rps)


def fleet(engine, arrival_s, isl=1000, osl=200):
    return peak_fleet(engine, Sla(500, 20), arrival_s, np.full(len(arrival_s), isl), np.full(len(arrival_s), osl), window_s=5)


def test_a_steady_load_needs_its_work_and_some_headroom(toy_engine):
    # 100 requests/s: 2.12 busy prefill workers and 1.55 busy decode workers.
    assert fleet(toy_engine, steady(100, 60)) == (3, 2)


def test_the_busiest_window_decides(toy_engine):
    quiet_then_busy = np.concatenate([steady(10, 60), steady(100, 10, 60.0), steady(10, 60, 70.0)])
    assert fleet(toy_engine, quiet_then_busy) == (3, 2)
    assert fleet(toy_engine, steady(10, 120)) == (1, 1)


def test_a_burst_shorter_than_the_window_is_averaged_over_it(toy_engine):
    burst = np.sort(np.concatenate([steady(10, 60), np.full(100, 30.0)]))
    assert fleet(toy_engine, burst)[0] == 1


@pytest.mark.parametrize("count", [1, 2])
def test_one_request_needs_one_worker_of_each_role(toy_engine, count):
    assert fleet(toy_engine, np.arange(float(count))) == (1, 1)
