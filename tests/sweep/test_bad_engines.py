"""Engines that lie, fail or fall short: what comes of it is a flag, a limit that was learnt, or one line that names what is wrong."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from sla_planner.engines.backends import backend
from sla_planner.engines.process import ProcessLauncher
from sla_planner.errors import EngineError
from sla_planner.model.gates import LITTLE_RANGE
from sla_planner.model.profile import ParallelMapping, Provenance
from sla_planner.model.sla import Sla
from sla_planner.sweep.assemble import assembled, decode_candidates, decode_measurement
from sla_planner.sweep.points import DecodeShape, PrefillShape
from sla_planner.sweep.port import Deployment, Phase
from sla_planner.traffic.prompt_form import PromptForm

DECODE = Deployment(ParallelMapping(), Phase.DECODE)
PREFILL = Deployment(ParallelMapping(), Phase.PREFILL)
SMALL_ENGINE = Path(__file__).parents[1] / "engines" / "small_engine.py"


@pytest.fixture
def loose(goal):
    """A promise that a full KV cache does not break."""
    return replace(goal, promise=Sla(ttft_ms=40, itl_ms=30, attainment=0.9))


def fault(kind, **more):
    return json.dumps({"kind": kind, **more})


def decode_points(done):
    return {point.shape: point for point in done.points.values() if isinstance(point.shape, DecodeShape)}


# KV capacity


def test_a_capacity_below_one_context_is_refused(engines, swept, checkpoint):
    """Blocks of 16 tokens."""
    with pytest.raises(EngineError) as caught:
        swept(engines(fleet={"reported_kv_tokens": 512}), DECODE)
    assert "a KV capacity of 512 tokens (/metrics: vllm:cache_config_info) holds not even one request of the longest context, 1,024" in str(
        caught.value
    )
    assert "--max-kv-tokens" in caught.value.hint
    assert checkpoint.saved == []


def test_a_capacity_of_a_quarter_is_found_out(engines, swept, loose):
    """16,000 tokens hold 25 of 128 + 512; an engine that says 4000 is asked for a third more than 4000 hold, and they all run."""
    launcher = engines(fleet={"reported_kv_tokens": 4000})
    for _ in range(2):  # also when every point is known already
        with pytest.raises(EngineError) as caught:
            swept(launcher, DECODE, goal=loose)
        assert "the KV capacity was read as 4,000 tokens (/metrics: vllm:cache_config_info), but the engine held " in caught.value.message
        assert "--max-kv-tokens" in caught.value.hint
    done = swept(launcher, DECODE, goal=loose, max_kv_tokens=16_000)  # as the hint says
    assert done.sweep.tally.reused >= 1
    assert done.runs[0].facts.max_kv_tokens == 16_000
    assert DecodeShape(128, 24) in decode_points(done)


def test_a_true_capacity_is_held_for_true(engines, swept, loose):
    """The cache is the limit here: 24 requests that may grow to 640 tokens."""
    launcher = engines()
    done = swept(launcher, DECODE, goal=loose)
    assert (done.runs[0].warnings, done.sweep.left_out) == ((), [])
    assert decode_points(done)[DecodeShape(128, 24)].defects == ()
    again = swept(launcher, DECODE, goal=loose)
    assert (launcher.started, again.sweep.tally.measured) == (["TP1 decode"], 0)


def test_a_capacity_four_times_too_large_shows_as_a_batch_that_does_not_all_run(engines, swept, loose):
    done = swept(engines(fleet={"reported_kv_tokens": 64_000}), DECODE, goal=loose)
    points = decode_points(done)
    queued = [point for point in points.values() if point.defects]
    assert queued
    for point in queued:
        assert point.defects == (
            f"only {point.decode.running} of {point.shape.batch} requests ran, {point.shape.batch - point.decode.running} waited: "
            "the engine's sequence limit or its KV cache was reached",
        )
        assert point.decode.running <= 25
    below = [point for point in points.values() if not point.defects and point.shape.isl_tokens == loose.isl_tokens]
    assert 8 < max(point.shape.batch for point in below) <= 25
    (warning,) = done.runs[0].warnings
    assert warning.startswith("TP1 decode: no more than ")
    assert warning.endswith("or less KV than the 64,000 tokens that were read (/metrics: vllm:cache_config_info); --max-kv-tokens corrects it")
    trusted = [point for point in decode_measurement(done.runs[0]).points if not point.flags]
    assert len(trusted) == len(points) - len(queued)


# sequence limits


def test_a_limit_that_the_engine_does_not_tell_is_learnt(engines, swept, loose):
    """Below the first steps of the staircase, so that without it no batch of several were known."""
    limit = 6
    done = swept(engines(max_sequences=limit), DECODE, goal=loose)
    points = decode_points(done)
    over = [shape for shape in points if shape.batch > limit]
    assert len(over) == 1  # once is enough
    assert points[over[0]].decode.running == limit
    assert f"only {limit} of {over[0].batch} requests ran" in points[over[0]].defects[0]
    at = points[DecodeShape(loose.isl_tokens, limit)]
    assert at.defects == ()
    assert LITTLE_RANGE[0] <= at.decode.little_ratio(limit) <= LITTLE_RANGE[1]
    batches = {candidate.concurrency for candidate in decode_candidates(done.runs, loose)}
    assert batches <= set(range(1, limit + 1))
    assert done.runs[0].warnings[0].startswith(f"TP1 decode: no more than {limit} requests ran at once, ")


# answers


def test_answers_that_end_early_are_told(engines, swept):
    done = swept(engines(faults=[fault("short", factor=0.01)]))
    assert done.runs[0].warnings == ("TP1: answers end before the tokens that were asked for, in spite of ignore_eos and min_tokens",)
    prefill = [point for point in done.points.values() if isinstance(point.shape, PrefillShape)]
    assert [point.defects for point in prefill] == [()] * len(prefill)  # one token is all they ask for
    for point in decode_points(done).values():
        assert any(
            "ended while they were measured" in defect or "no token" in defect or "no request made progress" in defect for defect in point.defects
        )
    with pytest.raises(EngineError, match="no mapping has enough trusted decode points to be profiled: ") as caught:
        assembled(done.runs, done.sweep.goal, Provenance())
    assert caught.value.exit_code == 2


def test_failed_requests_are_held_against_their_points(engines, swept, goal):
    done = swept(engines(faults=[fault("errors", share=0.1)]))
    failed = [point for point in done.points.values() if point.defects]
    assert failed  # 16 prompts, four at once, do not get past a tenth
    for point in failed:
        assert " requests failed: HTTP 500: " in point.defects[0]
        assert not any(defect.startswith("only ") for defect in point.defects)  # a failure is no limit of the engine
    assert done.runs[0].warnings == ()
    clean = {point.shape.batch for point in decode_points(done).values() if not point.defects}
    assert {candidate.concurrency for candidate in decode_candidates(done.runs, goal)} <= clean


def test_an_engine_that_answers_only_errors_is_given_up(engines, swept):
    with pytest.raises(EngineError, match=r"http://127\.0\.0\.1:\d+ answers no request: HTTP 500: .*no answer, as a fault asked") as caught:
        swept(engines(faults=[fault("errors", share=1.0)]), PREFILL)
    assert caught.value.exit_code == 2


def test_an_engine_that_begins_to_answer_only_errors_is_given_up_after_three_points(engines, swept, checkpoint):
    launcher, struck = engines(), []

    async def strike():
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{launcher.running[0].url}/sim/faults", data=fault("errors", share=1.0)) as answer,
        ):
            assert answer.ok

    def watch(progress):
        if progress.done == 2 and not struck:
            struck.append(asyncio.get_running_loop().create_task(strike()))

    with pytest.raises(EngineError, match=r"TP1: 3 points in a row without an answer: .*HTTP 500") as caught:
        swept(launcher, watch=watch)
    assert caught.value.hint == "see the engine's log"
    assert [point.prefill or point.decode for point in checkpoint.known_points.values()][-2:] == [None, None]  # kept, and flagged


def test_prompts_of_words_have_the_length_that_was_asked_for(engines, swept):
    """Where token ids are refused; a word is more than one token there."""
    done = swept(engines(prompts="text"))
    assert done.runs[0].facts.prompt_form is PromptForm.TEXT
    for point in done.points.values():
        assert not any("prompts had" in defect for defect in point.defects)
        if point.prefill is not None:  # as the server counted them
            assert point.prefill.isl_tokens == pytest.approx(point.shape.isl_tokens, abs=5)


def test_an_engine_that_ends_at_its_first_request_is_told_with_its_last_words(engines, swept, tmp_path):
    command = f"{sys.executable} -I -S {SMALL_ENGINE} {{port}} --crash-on /v1/completions"
    launcher = ProcessLauncher(command, backend("simulated"), log_dir=tmp_path)
    with pytest.raises(EngineError) as caught:
        swept(launcher, PREFILL)
    assert caught.value.message == (
        "TP1 prefill: the engine ended during its first requests: exit code 7: RuntimeError: the last words of the engine"
    )
    assert len(list(tmp_path.iterdir())) == 2  # it was started once more
