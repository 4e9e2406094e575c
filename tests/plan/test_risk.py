"""The price rule. The curves of most tests are steps, so that costs can be added up by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sla_planner.plan.decision import Reason, Role
from sla_planner.plan.jumps import JumpMemory, Rises
from sla_planner.plan.misses import UTILISATION
from sla_planner.plan.risk import Horizon, RoleCase, RoleLoad, budget_used, cheapest, price_gpu_s, risk_need

STEP_CURVE = np.where(UTILISATION > 0.9, 1.0, 0.0)  # nothing is lost up to 90 %, everything above
HORIZON = Horizon(startup_s=30, interval_s=15)


def rises(*rows: tuple[float, float, float]) -> Rises:
    """(load, requests/s, weight) per row."""
    load, rate, weight = (np.array(column) for column in zip(*rows, strict=True))
    return Rises(load, rate, weight)


def quiet_memory(load: float = 1.0, intervals: int = 3000) -> JumpMemory:
    memory = JumpMemory.empty()
    for _ in range(intervals):
        memory = memory.remember(load, load, 10.0, interval_s=15, horizon=3)
    return memory


def role(**changes) -> RoleLoad:
    return RoleLoad(**{"role": Role.PREFILL, "level": 1.0, "rate_rps": 10.0, "ready": 2, "coming": 2, "gpus_per_worker": 1, **changes})


def need_of(load, memory, price, past_needs=()):
    return risk_need(RoleCase(load, memory, STEP_CURVE, price, past_needs), HORIZON, allowed_misses=0.01)


def test_a_rare_jump_is_insured_only_when_its_misses_cost_more_than_the_worker():
    # Load 1.7 for sure (2 workers). A jump to 2.6 (3 workers) once in 100, 10 requests/s at stake: 0.1 misses/s. Worker: 1 GPU-s/s.
    possible = rises((1.7, 10.0, 0.99), (2.6, 10.0, 0.01))
    assert cheapest(possible, STEP_CURVE, 1.0, price=9.0) == 2
    assert cheapest(possible, STEP_CURVE, 1.0, price=11.0) == 3


def test_dearer_workers_are_bought_later():
    possible = rises((1.7, 10.0, 0.99), (2.6, 10.0, 0.01))
    assert cheapest(possible, STEP_CURVE, 8.0, price=11.0) == 2


def test_no_load_needs_nobody():
    assert cheapest(rises((0.0, 0.0, 1.0)), STEP_CURVE, 1.0, 100.0) == 0


def test_a_fleet_of_hundreds_is_sized_exactly():
    assert cheapest(rises((450.0, 1000.0, 1.0)), STEP_CURVE, 1.0, 100.0) == 500


def test_a_queue_is_drained_with_more_workers_than_the_load_needs():
    calm = need_of(role(), quiet_memory(), 10.0, ())
    backed_up = need_of(role(backlog_s=30.0), quiet_memory(), 10.0, ())
    assert calm.workers == 2
    assert backed_up.reason is Reason.BACKLOG
    # sqrt(10 * 10 * 30 / 90) = 5.8 more than 1 / 0.9; at most 3 * 1 + 1.
    assert backed_up.workers == 4
    assert "30.0 worker-seconds will be waiting" in backed_up.explanation


def test_a_running_batch_keeps_its_workers_and_launches_none():
    need = need_of(role(role=Role.DECODE, batch_workers=3.4, coming=5), quiet_memory(), 10.0, ())
    assert need.workers == 4
    assert need_of(role(role=Role.DECODE, batch_workers=30.0, coming=3), quiet_memory(), 10.0, ()).workers == 3


def test_a_dip_does_not_release_what_was_needed_most_of_the_time():
    held = need_of(role(coming=3), quiet_memory(), 1.0, (3,) * 30 + (2,) * 5)
    released = need_of(role(coming=3), quiet_memory(), 1.0, (3,) * 20 + (2,) * 20)
    assert held.workers == 3
    assert held.undipped == 2
    assert released.workers == 2


def test_the_dip_floor_never_launches():
    need = need_of(role(coming=2), quiet_memory(), 1.0, (9,) * 40)
    assert need.workers == 2


def test_a_worker_is_harder_to_get_than_to_hold():
    """Jumps that last shorter than a start-up justify keeping a worker, not launching one."""
    memory = JumpMemory.empty()
    for interval in range(3000):
        load = 2.5 if interval % 50 == 0 else 1.0
        memory = memory.remember(load, 1.0, 10.0, interval_s=15, horizon=3)
    assert need_of(role(coming=3), memory, 10.0, ()).workers == 3
    assert need_of(role(coming=2), memory, 10.0, ()).workers == 2


def test_the_explanation_says_what_one_worker_fewer_would_lose():
    need = need_of(role(), quiet_memory(), 10.0, ())
    assert need.explanation == "2 would miss 0.00% of requests, 1 100.00%: 1.00 workers' load, seen to reach 1.00 within 45 s"


def test_price_follows_strictness_and_the_error_budget():
    base = price_gpu_s(Role.PREFILL, 0.1, 0.99, 0.0)
    assert base == pytest.approx(3.4)
    assert price_gpu_s(Role.PREFILL, 0.1, 0.999, 0.0) == pytest.approx(34.0)
    assert price_gpu_s(Role.PREFILL, 0.1, 0.99, 10.0) == pytest.approx(13.6)
    assert price_gpu_s(Role.PREFILL, 0.1, 0.99, -10.0) == pytest.approx(1.7)


def test_a_miss_is_dearer_where_start_ups_are_short_because_what_waited_is_late_too():
    usual = price_gpu_s(Role.PREFILL, 0.1, 0.99, 0.0)
    assert price_gpu_s(Role.PREFILL, 0.1, 0.99, 0.0, horizon_s=135) == usual
    assert price_gpu_s(Role.PREFILL, 0.1, 0.99, 0.0, horizon_s=45) == pytest.approx(1.2581 * usual, rel=1e-4)  # 65 s against 45, 155 against 135
    assert price_gpu_s(Role.PREFILL, 0.1, 0.99, 0.0, horizon_s=2.5) == pytest.approx(1.3065 * usual, rel=1e-4)
    assert price_gpu_s(Role.PREFILL, 0.1, 0.99, 0.0, horizon_s=315) == pytest.approx(0.9263 * usual, rel=1e-4)


def test_the_budget_is_used_up_at_seven_tenths_of_what_the_promise_allows():
    assert budget_used(misses=70, requests=10_000, requests_per_day=100_000, attainment=0.99) == pytest.approx(0.0)
    # 140 misses are 70 too many; 100,000 a day allow 700.
    assert budget_used(misses=140, requests=10_000, requests_per_day=100_000, attainment=0.99) == pytest.approx(0.1)


@given(st.floats(0, 50), st.floats(0, 50))
def test_more_load_never_needs_fewer_workers(low, more):
    memory = JumpMemory.empty()
    one, other = (cheapest(memory.keep(level, 10.0, horizon=3), STEP_CURVE, 1.0, price=1000.0) for level in (low, low + more))
    assert other >= one


def test_an_absurd_load_is_sized_as_fast_as_any_other():
    assert cheapest(rises((9e8, 1e6, 1.0)), STEP_CURVE, 1.0, 100_000.0) == pytest.approx(1e9, rel=1e-6)


def test_what_is_there_now_is_carried_however_cheap_a_miss_is():
    assert need_of(role(level=4.0, coming=1), JumpMemory.empty(), price=1e-6).workers == 5  # 4 / 0.9
