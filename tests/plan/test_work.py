"""Work per request, by hand on the toy engine: prefill 10 ms + isl/50, ITL 4 + 0.04 b + 0.00002 kv."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from sla_planner.model.engine import engine_of
from sla_planner.model.profile import slowed
from sla_planner.model.sla import Sla
from sla_planner.plan.observation import LengthHistogram, unknown_traffic
from sla_planner.plan.work import LengthMix, Slowness, decode_load_of_batch, mixed, request_work
from sla_planner.store.profile_files import read_profile, sample_profile_dir


def lengths(isl: float, osl: float) -> LengthMix:
    return LengthMix(isl=((isl,), (1.0,)), osl=((osl,), (1.0,)))


def test_a_short_prompt_costs_its_share_of_a_full_batch(toy_engine):
    # 8192 tokens take 10 + 163.84 = 173.84 ms, so 1000 tokens of a full batch cost 21.22 ms; alone they would take 30 ms.
    work = request_work(toy_engine, Sla(500, 20), lengths(1000, 100))
    assert work.prefill_s == pytest.approx(0.02122, abs=1e-5)
    assert work.full_batch_s == pytest.approx(0.17384)


def test_a_prompt_longer_than_a_batch_is_served_alone(toy_engine):
    work = request_work(toy_engine, Sla(2000, 20), lengths(20_000, 100))
    assert work.prefill_s == pytest.approx(0.410)


def test_decode_work_is_the_share_of_a_worker_at_the_promised_itl(toy_engine):
    # Mean context 1000 + 200/2 = 1100: a request adds 0.04 + 0.022 = 0.062 ms per step. At 20 ms there is room for 16 ms: 258 requests.
    # 200 tokens x 20 ms = 4 s at 1/258 of a worker = 15.5 ms.
    work = request_work(toy_engine, Sla(500, 20), lengths(1000, 200))
    assert work.decode_s == pytest.approx(0.0155)
    assert 1 / work.batch_share == pytest.approx(258.06, abs=0.01)


def test_two_lengths_cost_the_mean_of_their_costs_not_the_cost_of_their_mean(toy_engine):
    # Half 100 tokens (2.122 ms), half 16,000 (alone: 330 ms): 166.06 ms. At the mean of 8,050 tokens it would be 170.8.
    mix = LengthMix(isl=((100.0, 16_000.0), (0.5, 0.5)), osl=((100.0,), (1.0,)))
    assert request_work(toy_engine, Sla(2000, 20), mix).prefill_s == pytest.approx(0.16606, abs=1e-5)


def test_an_itl_below_one_request_alone_is_infeasible_and_named(toy_engine):
    work = request_work(toy_engine, Sla(500, 3), lengths(1000, 200))
    assert work.decode_infeasible
    assert not work.prefill_infeasible
    assert work.verdicts == ("ITL 3 ms cannot be met: one request alone with 1100 tokens takes 4.06 ms a token",)
    assert work.itl_target_ms == pytest.approx(6.093)


def test_a_ttft_below_one_prompt_alone_is_infeasible_and_named(toy_engine):
    work = request_work(toy_engine, Sla(25, 20), lengths(1000, 200))
    assert work.prefill_infeasible
    assert work.verdicts == ("TTFT 25 ms cannot be met: 100% of prompts take longer alone; 30.0 ms is the lowest that 99% of them can have",)
    assert work.ttft_target_ms == pytest.approx(30)


def test_a_tail_of_prompts_that_cannot_be_in_time_is_said(toy_engine):
    # A tenth of the prompts take 330 ms alone; the mean prompt takes 60.
    mix = LengthMix(isl=((1000.0, 16_000.0), (0.9, 0.1)), osl=((100.0,), (1.0,)))
    work = request_work(toy_engine, Sla(200, 20), mix)
    assert work.hopeless_share == pytest.approx(0.1)
    assert work.verdicts == ("TTFT 200 ms cannot be met: 10% of prompts take longer alone; 330.0 ms is the lowest that 99% of them can have",)
    assert request_work(toy_engine, Sla(200, 20, attainment=0.85), mix).verdicts == ()


@pytest.mark.parametrize("factor", [0.5, 1.5, 2.0])
def test_a_slower_engine_is_one_whose_every_latency_is_longer(factor):
    profile, mix = read_profile(sample_profile_dir()), LengthMix(isl=((500.0, 4000.0), (0.6, 0.4)), osl=((50.0, 400.0), (0.5, 0.5)))
    told = request_work(engine_of(profile), Sla(500, 20), mix, Slowness(factor, factor))
    slow = request_work(engine_of(slowed(profile, factor)), Sla(500, 20), mix)
    for field in ("prefill_s", "prefill_s2", "alone_s", "full_batch_s", "decode_s", "batch_share", "itl_target_ms", "fixed_step_ms"):
        assert getattr(told, field) == pytest.approx(getattr(slow, field), rel=1e-3), field


def test_a_small_kv_cache_fills_a_worker_before_its_itl_does(toy_engine):
    # 1,100 tokens a request in 11,000: ten at a time, stepping in 4 + 10 * 0.062 = 4.62 ms. 200 tokens * 4.62 ms / 10 = 92.4 ms.
    small = replace(toy_engine, decode=replace(toy_engine.decode, max_kv_tokens=11_000))
    work = request_work(small, Sla(500, 20), lengths(1000, 200))
    assert 1 / work.batch_share == pytest.approx(10)
    assert work.itl_target_ms == pytest.approx(4.62)
    assert work.decode_s == pytest.approx(0.0924)


def test_a_context_larger_than_the_cache_is_said(toy_engine):
    tiny = replace(toy_engine, decode=replace(toy_engine.decode, max_kv_tokens=1000))
    verdicts = request_work(tiny, Sla(500, 20), lengths(1000, 200)).verdicts
    assert verdicts == ("a context of 1100 tokens does not fit the KV cache of a decode worker, 1000 tokens",)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_batch_at_the_promise_is_exactly_its_workers_busy(toy_engine, workers):
    work = request_work(toy_engine, Sla(500, 20), lengths(1000, 200))
    assert decode_load_of_batch(work, workers / work.batch_share, workers) == pytest.approx(workers)


def test_a_half_full_batch_stands_for_more_than_half_the_work(toy_engine):
    # z = 0.5: steps take 4 + 8 = 12 ms instead of 20, so 0.5 * 20/12 of the promised work gets done.
    work = request_work(toy_engine, Sla(500, 20), lengths(1000, 200))
    assert decode_load_of_batch(work, 0.5 / work.batch_share, 1) == pytest.approx(0.8333, abs=1e-4)


def test_the_mix_keeps_the_measured_mean_of_a_histogram(window):
    histogram = LengthHistogram(upper_tokens=(100.0, 1000.0, math.inf), requests=(10.0, 30.0, 0.0), total_tokens=20_000.0)
    mix = mixed(None, window(isl_tokens=500, osl_tokens=50, completed_requests=40, isl_lengths=histogram))
    assert mix is not None
    assert mix.isl_tokens == pytest.approx(500)
    assert mix.osl_tokens == pytest.approx(50)
    assert len(mix.isl[0]) == 2


def test_few_completions_move_the_mix_little_and_many_move_it_much(window):
    before = lengths(1000, 100)
    few, many = (
        mixed(before, window(isl_tokens=2000, osl_tokens=100, completed_requests=3)),
        mixed(before, window(isl_tokens=2000, osl_tokens=100, completed_requests=270)),
    )
    assert few is not None
    assert many is not None
    assert few.isl_tokens == pytest.approx(1000 + 1000 * 3 / 33)
    assert many.isl_tokens == pytest.approx(1900)


def test_idle_and_unknown_lengths_leave_the_mix_alone():
    before = lengths(1000, 100)
    assert mixed(before, unknown_traffic(0, 15, "down")) is before
    assert mixed(None, unknown_traffic(0, 15, "down")) is None


def test_the_mix_stays_small_over_a_day_of_drifting_lengths(window):
    mix = None
    for tick in range(2000):
        mix = mixed(mix, window(isl_tokens=500 + tick, osl_tokens=100 + tick % 50, completed_requests=20))
    assert mix is not None
    assert len(mix.isl[0]) < 40
    assert sum(mix.isl[1]) == pytest.approx(1)
