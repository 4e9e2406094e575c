"""A sweep against simulated engines: what is started, measured, saved, found again and left out."""

from __future__ import annotations

import asyncio

import pytest

from sla_planner.engines.simulated.faults import LastWords
from sla_planner.errors import EngineError, UnreachableError, UsageError
from sla_planner.model.profile import ParallelMapping
from sla_planner.sweep.points import DecodeShape, PrefillShape
from sla_planner.sweep.port import Deployment, Phase

TP1, TP2 = Deployment(ParallelMapping()), Deployment(ParallelMapping(tp=2))
FIRST, SECOND = (Deployment(deployment.mapping, Phase.PREFILL) for deployment in (TP1, TP2))  # soon measured
OUT_OF_MEMORY = "CUDA out of memory; take more GPUs"
PORT_TAKEN = "address already in use"


def out_of_memory():
    return EngineError("CUDA out of memory", hint="take more GPUs")


def port_taken():
    return EngineError(PORT_TAKEN, retry=True)


def at_point(number, act):
    """A watcher that acts once, after the `number`th point."""
    done = []

    def watch(progress):
        if progress.point is not None and progress.done == number and not done:
            done.append(act())

    return watch


# resuming


def test_what_was_measured_is_found_again_without_an_engine(engines, swept, checkpoint):
    launcher = engines()
    first = swept(launcher)
    assert launcher.started == ["TP1"]
    assert first.sweep.tally.measured == len(first.points) == len(checkpoint.known_points) > 6
    again = swept(launcher)
    assert launcher.started == ["TP1"]
    assert again.points == first.points
    assert again.runs[0].facts == first.runs[0].facts
    tally = again.sweep.tally
    assert (tally.deployments, tally.measured, tally.reused, tally.gpu_s) == (0, 0, len(first.points), 0)
    assert all(progress.reused for progress in again.told)


def test_a_sweep_that_was_stopped_goes_on_where_it_was(engines, swept, checkpoint):
    launcher = engines()
    sweeps = []
    with pytest.raises(asyncio.CancelledError):
        swept(launcher, watch=at_point(4, lambda: asyncio.current_task().cancel()), seen=sweeps.append)
    assert launcher.running == []
    assert sweeps[0].sweep.tally.measured == len(checkpoint.known_points) == 4
    before = set(checkpoint.known_points)
    whole = swept(launcher)  # the checkpoint refuses a point that it has
    assert launcher.started == ["TP1", "TP1"]
    assert whole.sweep.tally.reused == 4
    assert whole.sweep.tally.measured == len(set(checkpoint.known_points) - before) > 0
    assert {type(point.shape) for point in whole.points.values()} == {PrefillShape, DecodeShape}


def test_another_engine_is_another_sweep(engines, swept):
    swept(engines(), FIRST)
    other = swept(engines(source="with other arguments"), FIRST)
    assert other.sweep.tally.measured == len(other.points) > 0
    assert other.sweep.tally.reused == 0


# engines that do not start


def test_a_mapping_that_does_not_start_is_left_out_and_the_others_go_on(engines, swept, profile_with):
    launcher = engines(profile_with(tp=(1, 2)), failing={"TP1 prefill": [out_of_memory()]})
    done = swept(launcher, FIRST, SECOND)
    assert launcher.started == ["TP1 prefill", "TP2 prefill"]  # no second try: memory does not come back
    assert [run.deployment for run in done.runs] == [SECOND]
    assert done.sweep.left_out == [("TP1 prefill", OUT_OF_MEMORY)]
    assert f"TP1 prefill: left out: {OUT_OF_MEMORY}" in [progress.doing for progress in done.told]
    assert done.told[-1].done == done.told[-1].expected == len(done.points)


def test_a_failure_that_may_pass_is_tried_once_more(engines, swept):
    launcher = engines(failing={"TP1 prefill": [port_taken()]})
    done = swept(launcher, FIRST)
    assert launcher.started == ["TP1 prefill", "TP1 prefill"]
    assert done.sweep.left_out == []
    assert f"TP1 prefill: starting it again: {PORT_TAKEN}" in [progress.doing for progress in done.told]


def test_when_nothing_starts_the_last_error_is_the_sweeps(engines, swept, profile_with):
    launcher = engines(profile_with(tp=(1, 2)), failing={"TP1 prefill": [out_of_memory()], "TP2 prefill": [port_taken(), port_taken(), port_taken()]})
    sweeps = []
    with pytest.raises(EngineError, match=PORT_TAKEN) as caught:
        swept(launcher, FIRST, SECOND, seen=sweeps.append)
    assert caught.value.exit_code == UnreachableError.exit_code
    assert launcher.started == ["TP1 prefill", "TP2 prefill", "TP2 prefill"]
    assert sweeps[0].sweep.left_out == [("TP1 prefill", OUT_OF_MEMORY), ("TP2 prefill", PORT_TAKEN)]


def test_a_wrong_command_is_not_tried_with_every_mapping(engines, swept, profile_with):
    launcher = engines(profile_with(tp=(1, 2)), failing={"TP1 prefill": [UsageError("there is no vlmm")]})
    with pytest.raises(UsageError, match="vlmm"):
        swept(launcher, FIRST, SECOND)
    assert launcher.started == ["TP1 prefill"]


# engines that end


def dies(launcher):
    launcher.running[0].engine.ended.set_result(LastWords(1, "fatal: xid 79"))


def test_an_engine_that_ends_is_started_again_and_goes_on(engines, swept, checkpoint):
    launcher = engines()
    done = swept(launcher, watch=at_point(3, lambda: dies(launcher)))
    assert launcher.started == ["TP1", "TP1"]
    assert (done.sweep.tally.measured, done.sweep.tally.reused) == (len(done.points), 0)
    assert len(done.points) == len(checkpoint.known_points)
    assert [progress.done for progress in done.told if progress.point] == list(range(1, len(done.points) + 1))
    assert not any("ended" in defect for point in done.points.values() for defect in point.defects)


@pytest.mark.parametrize("after", [3, 6], ids=["during prefill", "during decode"])
def test_an_engine_that_ends_again_is_left_out_with_its_last_words(engines, swept, checkpoint, after):
    launcher = engines()

    def watch(progress):
        if progress.point is not None and progress.done >= after:
            dies(launcher)

    with pytest.raises(EngineError) as caught:
        swept(launcher, watch=watch)
    phase = "prefill" if after == 3 else "decode"
    assert caught.value.message.startswith(f"TP1: the engine ended during {phase} ISL ")
    assert caught.value.message.endswith(": exit code 1: fatal: xid 79")
    assert caught.value.exit_code == UnreachableError.exit_code
    assert launcher.started == ["TP1", "TP1"]
    assert len(checkpoint.known_points) == after + 1  # one more by the second engine, which then ended too
    assert launcher.running == []


# what is measured


def test_an_engine_of_one_phase_is_measured_for_it(engines, swept):
    launcher = engines()
    done = swept(launcher, Deployment(TP1.mapping, Phase.PREFILL), Deployment(TP1.mapping, Phase.DECODE))
    assert launcher.started == ["TP1 prefill", "TP1 decode"]
    kinds = [{type(point.shape) for point in run.points} for run in done.runs]
    assert kinds == [{PrefillShape}, {DecodeShape}]


def test_the_goals_shape_is_among_the_points_and_the_budget_is_kept(engines, swept, goal):
    done = swept(engines())
    alone = [point.shape.isl_tokens for point in done.points.values() if isinstance(point.shape, PrefillShape) and point.shape.concurrency == 1]
    batches = [(point.shape.isl_tokens, point.shape.batch) for point in done.points.values() if isinstance(point.shape, DecodeShape)]
    assert goal.isl_tokens in alone
    assert (goal.isl_tokens, 1) in batches
    assert len(alone) <= 4
    assert len(batches) <= 6
    assert len({isl for isl, _ in batches}) == 3  # the goal's context, a shorter and a longer one


def test_progress_never_goes_back_and_gpu_time_counts_every_gpu(engines, swept, profile_with):
    done = swept(engines(profile_with(tp=(2,))), SECOND)
    assert done.told[0].doing == "TP2 prefill: starting"
    assert done.told[0].remaining_s is None
    counts = [progress.done for progress in done.told]
    assert counts == sorted(counts)
    assert all(progress.done <= progress.expected for progress in done.told)
    assert done.sweep.tally.wall_s < done.sweep.tally.gpu_s <= 2 * done.sweep.tally.wall_s  # the engine ran nearly all the time


# KV capacity


def test_a_capacity_that_is_given_counts_whatever_was_read(engines, swept):
    launcher = engines()
    assert swept(launcher, FIRST).runs[0].facts.max_kv_tokens == 16_000
    given = swept(launcher, FIRST, max_kv_tokens=12_000)
    assert (given.runs[0].facts.max_kv_tokens, given.runs[0].facts.kv_source) == (12_000, "given")
    assert given.sweep.tally.measured == 0
    assert swept(launcher, FIRST).runs[0].facts.max_kv_tokens == 16_000


def test_a_capacity_that_was_given_once_is_read_when_it_no_longer_is(engines, swept):
    launcher = engines()
    assert swept(launcher, FIRST, max_kv_tokens=12_000).runs[0].facts.max_kv_tokens == 12_000
    facts = swept(launcher, FIRST).runs[0].facts
    assert (facts.max_kv_tokens, facts.kv_source) == (16_000, "/metrics: vllm:cache_config_info")


def test_a_capacity_is_looked_at_again_when_more_is_asked_of_it(engines, swept):
    launcher = engines()
    swept(launcher, FIRST)
    with pytest.raises(EngineError, match="holds not even one request of the longest context, 20,000 tokens"):
        swept(launcher, FIRST, max_context_tokens=20_000)
    with pytest.raises(EngineError, match=r"0\.5 times the 32,000 that the memory leaves room for"):
        swept(launcher, FIRST, kv_estimate=lambda _: 32_000)
