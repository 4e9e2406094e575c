"""One point at a time on a simulated engine:  TTFT = 5 + 0.02*isl ms,  ITL = 4 + 0.25*batch + 0.00005*kv_tokens ms."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import replace

import pytest

from sla_planner.engines.backends import backend
from sla_planner.engines.process import ProcessLauncher
from sla_planner.model.profile import ParallelMapping, slowed
from sla_planner.sweep import measure
from sla_planner.sweep.measure import LEAST_REPEATS, MOST_REPEATS, WAVES, Clients, Measurer, cached_prompts, capped, measured_again, spread
from sla_planner.sweep.points import DecodeSeen, DecodeShape, Point, PrefillShape
from sla_planner.sweep.port import Deployment
from sla_planner.traffic.client import RequestRecord, Server
from sla_planner.traffic.probe import probe

TP1 = ParallelMapping()


@pytest.fixture
def measuring(in_loop):
    """`measuring(launcher, use)`: what `use(measurer)` returns, on an engine of its own."""

    def run(launcher, use):
        async def main():
            async with launcher.engine(Deployment(TP1)) as engine, contextlib.AsyncExitStack() as stack:
                probed = await probe(Server(engine.url, engine.model), isl_tokens=128)
                return await use(Measurer(Clients(probed.server, seed=None, stack=stack), TP1, probed.tokens_per_event))

        return in_loop(main())

    return run


def test_ttft_of_one_prompt_at_a_time(engines, measuring, profile_with):
    """Five times slower than the law: 5 * (5 + 0.02*512) = 76.2 ms."""
    point = measuring(engines(slowed(profile_with(), 5)), lambda measurer: measurer.prefill(PrefillShape(512)))
    assert point.defects == ()
    assert point.prefill.isl_tokens == 512
    assert len(point.prefill.ttft_ms) == LEAST_REPEATS
    assert point.prefill.ttft_ms == pytest.approx([76.2] * LEAST_REPEATS, rel=1e-3)
    assert point.prefill.wall_s * 1000 >= sum(point.prefill.ttft_ms)
    assert point.took_s > point.prefill.wall_s  # and the prompt that was thrown away


def test_what_does_not_repeat_is_repeated_and_in_the_end_doubted(engines, measuring):
    point = measuring(engines(fleet={"noise": 1.0}), lambda measurer: measurer.prefill(PrefillShape(256)))
    assert len(point.prefill.ttft_ms) == MOST_REPEATS
    (defect,) = point.defects
    assert defect.startswith("TTFT of 12 requests lies between ")


def test_prompts_that_take_long_are_not_repeated_for_the_last_percent(engines, measuring, monkeypatch):
    monkeypatch.setattr(measure, "LONG_S", 0.0)
    point = measuring(engines(fleet={"noise": 1.0}), lambda measurer: measurer.prefill(PrefillShape(256)))
    assert len(point.prefill.ttft_ms) == 2


def test_several_prompts_at_once(engines, measuring, profile_with):
    """One batch serves them all: 4 * 512 tokens in 5 * (5 + 0.02*2048) = 230 ms at most, and two waves of four count."""
    point = measuring(engines(slowed(profile_with(), 5)), lambda measurer: measurer.prefill(PrefillShape(512, 4)))
    assert point.defects == ()
    assert len(point.prefill.ttft_ms) == (WAVES - 2) * 4
    assert point.prefill.mean_ms == pytest.approx(230, rel=0.25)
    throughput = len(point.prefill.ttft_ms) * 512 / point.prefill.wall_s
    assert throughput * point.prefill.mean_ms / 1000 == pytest.approx(4 * 512, rel=0.15)  # Little's law


def test_a_staircase_goes_up_on_one_context(engines, measuring, profile_with):
    """Three times slower: 3 * (4 + 0.25*batch + 0.00005*kv) is 13 ms for one request and 18 ms for eight."""

    async def climb(measurer):
        async with measurer.staircase(128, 512) as staircase:
            return [await staircase.at(batch) for batch in (1, 4, 8)], staircase.spent

    points, spent = measuring(engines(slowed(profile_with(), 3)), climb)
    assert not spent
    for batch, point in zip((1, 4, 8), points, strict=True):
        seen = point.decode
        assert (point.shape, point.defects) == (DecodeShape(128, batch), ())
        assert seen.running == len(seen.itl_ms) == batch
        assert seen.mean_ms == pytest.approx(3 * (4 + 0.25 * batch + 5e-5 * batch * seen.context_tokens), rel=0.1)
        assert seen.little_ratio(batch) == pytest.approx(1, abs=0.02)
        assert 128 < seen.context_tokens < 640


def test_a_batch_that_does_not_fit_says_so(engines, measuring):
    async def over(measurer):
        async with measurer.staircase(128, 512) as staircase:
            return await staircase.at(5)

    point = measuring(engines(max_sequences=3), over)
    assert capped(point)
    assert point.defects == ("only 3 of 5 requests ran, 2 waited: the engine's sequence limit or its KV cache was reached",)
    assert point.decode.running == 3
    assert point.decode.little_ratio(5) == pytest.approx(0.6, abs=0.05)


@pytest.mark.e2e
def test_a_limit_of_a_thousand_is_seen_by_one_client(measuring, tmp_path):
    """The engine of the shipped profile runs 1024 at once and has KV for more: the client has to carry all that are sent."""

    async def over(measurer):
        async with measurer.staircase(64, 512) as staircase:
            return await staircase.at(1100)

    launcher = ProcessLauncher(f"{sys.executable} -m sla_planner engine-sim --mode agg --port {{port}}", backend("simulated"), log_dir=tmp_path)
    point = measuring(launcher, over)
    assert point.decode.running == 1024
    assert "only 1024 of 1100 requests ran, 76 waited: the engine's sequence limit or its KV cache was reached" in point.defects


def test_requests_that_begin_late_are_no_queue(engines, measuring, monkeypatch):
    """Three more are given up at once; they run while the window is measured."""

    async def impatient(measurer):
        async with measurer.staircase(128, 512) as staircase:
            await staircase.at(1)
            monkeypatch.setattr(measure, "GROW_LIMIT_S", 0.0)
            return await staircase.at(4)

    point = measuring(engines(), impatient)
    assert (point.decode.running, point.defects) == (4, ())


def test_failed_requests_are_no_limit_of_the_engine(engines, measuring):
    """The probe is the first request, so every third is one of the six."""

    async def failing(measurer):
        async with measurer.staircase(128, 512) as staircase:
            return await staircase.at(6)

    point = measuring(engines(faults=[json.dumps({"kind": "errors", "share": 0.34})]), failing)
    assert not capped(point)
    assert " of 6 requests failed: HTTP 500" in point.defects[0]


def test_the_better_of_two_tries_is_kept_with_the_time_of_both():
    seen = DecodeSeen(1, 100.0, (10.0,), 100.0, 1.0)
    first = Point(TP1, DecodeShape(100, 1), decode=seen, defects=("late",), took_s=2.0)
    second = replace(first, decode=replace(seen, itl_ms=(11.0,)), took_s=3.0)
    assert measured_again(first, second) == replace(second, took_s=5.0)  # as bad: the later one
    assert measured_again(first, replace(second, defects=())) == replace(second, defects=(), took_s=5.0)
    assert measured_again(first, replace(second, defects=("late", "failed"))) == replace(first, took_s=5.0)


def test_few_answers_are_judged_by_their_range():
    # Three normal values span 1.693 sigmas in the mean; the median distance from the median would be 0.
    assert spread([100.0, 100.0, 110.0]) == pytest.approx(10 / 1.693 / 100 / 3**0.5)


def test_one_late_answer_of_five_says_nothing():
    assert spread([100.0, 101.0, 99.0, 100.0, 400.0]) == pytest.approx(1.4826 * 1.0 / 100 / 5**0.5)


def test_two_answers_that_agree_are_certain():
    assert spread([7.0, 7.0]) == 0.0


def test_a_prompt_that_the_prefix_cache_answered_was_not_prefilled():
    def record(cached):
        return RequestRecord(0.0, 0.0, 1000, 1, prompt_tokens=1000, completion_tokens=1, ttft_ms=5.0, cached_tokens=cached)

    assert cached_prompts([record(16), record(0)]) == []  # a template before each prompt
    assert cached_prompts([record(None)]) == []  # a server that does not say
    assert cached_prompts([record(992), record(0)]) == [
        "992 of 2000 prompt tokens came from the engine's prefix cache: their prefill was not measured"
    ]
