"""Points to curves, surfaces and candidates, by numbers that can be checked by hand."""

from __future__ import annotations

import pytest

from sla_planner.errors import EngineError
from sla_planner.model.profile import (
    DecodeMeasurement,
    DecodePoint,
    Flag,
    ParallelMapping,
    PrefillMeasurement,
    PrefillPoint,
    Profile,
    Provenance,
)
from sla_planner.model.sla import Sla
from sla_planner.sweep.assemble import (
    assembled,
    candidates_of,
    decode_candidates,
    decode_measurement,
    prefill_candidates,
    prefill_measurement,
)
from sla_planner.sweep.points import DecodeSeen, DecodeShape, EngineFacts, Point, PrefillSeen, PrefillShape
from sla_planner.sweep.port import Deployment, Phase
from sla_planner.sweep.result import Goal
from sla_planner.sweep.runner import MappingRun
from sla_planner.traffic.prompt_form import PromptForm

TP1, TP2, DP2 = ParallelMapping(), ParallelMapping(tp=2), ParallelMapping(dp=2)
GOAL = Goal(Sla(ttft_ms=200, itl_ms=20, attainment=0.9), isl_tokens=1000, osl_tokens=200)
KV_TOKENS = 10_000


def run_of(*points, mapping=TP1, phase=Phase.BOTH):
    facts = EngineFacts("m", KV_TOKENS, "its log", None, PromptForm.IDS, 1.0, 1.0)
    return MappingRun(Deployment(mapping, phase), facts, points)


def prefill(isl, *ttft_ms, mapping=TP1, concurrency=1, wall_s=1.0, defects=()):
    return Point(mapping, PrefillShape(isl, concurrency), prefill=PrefillSeen(isl, ttft_ms, wall_s), defects=defects)


def decode(isl, batch, *itl_ms, mapping=TP1, context=None, running=None, defects=()):
    """A window of 2 s in which `running` requests got a token every mean `itl_ms`."""
    running = batch if running is None else running
    mean_ms = sum(itl_ms) / len(itl_ms)
    seen = DecodeSeen(running, context or isl + 100, itl_ms, running * 2000 / mean_ms, 2.0)
    return Point(mapping, DecodeShape(isl, batch), decode=seen, defects=defects)


def usable(mapping=TP1, speed=1.0, phase=Phase.BOTH):
    """TTFT 100 ms at the goal's ISL, ITL 10 ms at batch 1 and 17 ms at 8; `speed` times faster."""
    points = []
    if phase is not Phase.DECODE:
        points += [prefill(isl, isl / 10 / speed, mapping=mapping) for isl in (500, 1000, 2000)]
    if phase is not Phase.PREFILL:
        points += [decode(1000, batch, (9 + batch) / speed, mapping=mapping) for batch in (1, 8)]
    return run_of(*points, mapping=mapping, phase=phase)


# the curve and the surface


@pytest.mark.parametrize(("mapping", "throughput"), [(TP1, 10_000), (TP2, 5_000), (DP2, 10_000)], ids=lambda value: getattr(value, "label", None))
def test_ttft_is_the_median_and_throughput_is_that_of_all_ranks_per_gpu(mapping, throughput):
    (point,) = prefill_measurement(run_of(prefill(1000, 90, 100, 130, mapping=mapping), mapping=mapping)).points
    assert (point.isl_tokens, point.ttft_ms, point.throughput_per_gpu) == (1000, 100, throughput)


def test_several_prompts_at_once_are_measured_not_derived():
    """8 answers of 1000 tokens in 2 s on two GPUs; 4 in flight, so each took 1 s."""
    run = run_of(prefill(1000, *[800] * 4, *[1200] * 4, mapping=TP2, concurrency=4, wall_s=2.0), mapping=TP2)
    measurement = prefill_measurement(run)
    (point,) = measurement.batched
    assert measurement.points == ()
    assert (point.concurrency, point.ttft_ms, point.throughput_per_gpu, point.flags) == (4, 1000, 2000, ())


def test_a_queued_point_that_breaks_littles_law_is_flagged():
    """4 in flight at 1 s each are 4000 tokens/s, not 2500."""
    (point,) = prefill_measurement(run_of(prefill(1000, *[1000] * 8, concurrency=4, wall_s=3.2))).batched
    assert point.flags == (Flag.LITTLE,)


def test_the_surface_in_terms_of_kv():
    """Batch 4 at 1100 tokens fill 4400 of 10,000; a token every 10 ms for each is 400 tokens/s, over two GPUs."""
    (point,) = decode_measurement(run_of(decode(1000, 4, 9, 10, 11, 10, mapping=TP2), mapping=TP2)).points
    assert (point.kv_usage, point.context_tokens, point.itl_ms, point.throughput_per_gpu) == pytest.approx((0.44, 1100, 10, 200))
    assert point.flags == ()


def test_kv_usage_is_never_more_than_all():
    """40 requests of 1100 tokens are 44,000; they did not all run."""
    (point,) = decode_measurement(run_of(decode(1000, 40, 20, running=9, defects=("only 9 of 40 requests ran",)))).points
    assert point.kv_usage == 1
    assert set(point.flags) == {Flag.REPORTED}
    (point,) = decode_measurement(run_of(decode(1000, 9, 20, running=5))).points
    assert point.kv_usage == pytest.approx(0.99)
    assert point.flags == (Flag.LITTLE,)


def test_points_are_sorted_and_carry_what_was_said_of_them():
    doubted = prefill(500, 60, defects=("1 of 3 requests failed", "late"))
    measurement = prefill_measurement(run_of(prefill(2000, 200), doubted, prefill(1000, 100)))
    assert [point.isl_tokens for point in measurement.points] == [500, 1000, 2000]
    assert [point.note for point in measurement.points] == ["1 of 3 requests failed; late", "", ""]
    assert [point.flags for point in measurement.points] == [(Flag.REPORTED,), (), ()]
    surface = decode_measurement(run_of(decode(2000, 1, 12), decode(1000, 8, 17), decode(1000, 1, 10)))
    assert [point.context_tokens for point in surface.points] == [1100, 1100, 2100]
    assert [surface.batch(point) for point in surface.points] == pytest.approx([1, 8, 1])


def test_a_point_without_an_answer_is_in_no_curve():
    empty = [Point(TP1, PrefillShape(1000), defects=("failed",)), Point(TP1, DecodeShape(1000, 4), defects=("failed",))]
    run = run_of(*empty)
    assert prefill_measurement(run).points == decode_measurement(run).points == ()
    assert prefill_candidates([run], GOAL) == decode_candidates([run], GOAL) == []


# candidates


@pytest.mark.parametrize(("attainment", "latency_ms"), [(0.5, 14), (0.9, 18), (0.91, 19), (0.99, 19)])
def test_a_candidates_latency_is_that_of_the_promised_share_of_requests(attainment, latency_ms):
    """Ten streams of 10, 11 ... 19 ms: 90 % of them are within 18 ms, no interpolation."""
    goal = Goal(Sla(200, 20, attainment), 1000, 200)
    (candidate,) = decode_candidates([run_of(decode(1000, 10, *range(19, 9, -1), context=1000))], goal)
    assert candidate.latency_ms == latency_ms
    assert candidate.typical_ms == 14.5
    assert candidate.throughput_per_gpu == pytest.approx(10 * 1000 / 14.5)
    assert (candidate.at, candidate.concurrency) == ("batch 10, context 1000", 10)


def test_prefill_candidates_are_alone_and_several_at_once():
    runs = [run_of(prefill(1000, 90, 100, 130), prefill(1000, *[390, 400, 410, 400] * 2, concurrency=4, wall_s=0.8))]
    alone, queued = prefill_candidates(runs, GOAL)
    assert (alone.at, alone.latency_ms, alone.typical_ms, alone.throughput_per_gpu) == ("ISL 1000", 130, 100, 10_000)
    assert (queued.at, queued.latency_ms, queued.throughput_per_gpu) == ("ISL 1000, 4 at once", 410, 10_000)


def test_only_points_of_the_goals_prompt_that_nothing_is_held_against_are_candidates():
    run = run_of(
        prefill(500, 50),
        prefill(1000, 100),
        prefill(1000, *[400] * 8, concurrency=4, wall_s=0.8, defects=("1 of 16 requests failed",)),
        decode(1000, 1, 10),
        decode(1000, 4, 13, defects=("late",)),
        decode(1000, 8, 17, running=6),
        decode(2000, 2, 12),
    )
    assert [candidate.at for candidate in prefill_candidates([run], GOAL)] == ["ISL 1000"]
    assert [candidate.at for candidate in decode_candidates([run], GOAL)] == ["batch 1, context 1100"]


# the profile


def test_the_most_throughput_per_gpu_within_the_promise_is_selected():
    """Twice the GPUs at 1.8 times the speed do less per GPU; with ITL 8 ms promised only they keep it."""
    runs = [usable(TP1), usable(TP2, speed=1.8)]
    profile = assembled(runs, GOAL, Provenance("measured")).profile
    assert (profile.selected_prefill, profile.selected_decode) == (TP1, TP1)
    tight = Goal(Sla(ttft_ms=60, itl_ms=8), 1000, 200)
    profile = assembled(runs, tight, Provenance("measured")).profile
    assert (profile.selected_prefill, profile.selected_decode) == (TP2, TP2)
    assert [curve.mapping for curve in profile.prefill] == [TP1, TP2]


def test_a_promise_that_nobody_keeps_selects_the_nearest():
    profile = assembled([usable(TP1), usable(TP2, speed=1.8)], Goal(Sla(1, 1), 1000, 200), Provenance()).profile
    assert (profile.selected_prefill, profile.selected_decode) == (TP2, TP2)


def test_engines_of_one_phase_are_profiled_for_that_phase():
    profile = assembled([usable(TP2, phase=Phase.PREFILL), usable(TP1, phase=Phase.DECODE)], GOAL, Provenance()).profile
    assert [curve.mapping for curve in profile.prefill] == [TP2]
    assert [surface.mapping for surface in profile.decode] == [TP1]


def test_what_cannot_be_fitted_is_no_candidate_however_fast():
    """TP2 has one batch that is trusted, and it is the best of all: without a law of its own it cannot be planned with, so it is not picked."""
    fast = run_of(*usable(TP2).points[:3], decode(1000, 8, 1.2, mapping=TP2), mapping=TP2)
    found = assembled([usable(TP1), fast], GOAL, Provenance())
    assert {candidate.mapping for candidate in found.decode} == {TP1}
    assert found.profile.selected_decode == TP1
    assert {candidate.mapping for candidate in found.prefill} == {TP1, TP2}


def test_a_mapping_that_cannot_be_fitted_is_left_out_of_the_phase():
    """One trusted batch size says nothing about what a request costs."""
    half = run_of(*[prefill(isl, isl / 10, mapping=TP2) for isl in (500, 1000)], decode(1000, 1, 2, mapping=TP2), mapping=TP2)
    profile = assembled([usable(TP1), half], GOAL, Provenance()).profile
    assert [curve.mapping for curve in profile.prefill] == [TP1, TP2]
    assert [surface.mapping for surface in profile.decode] == [TP1]


def test_without_a_usable_mapping_the_points_own_words_are_told():
    failing = [decode(1000, batch, 10, defects=(f"1 of {batch} requests failed: HTTP 500",)) for batch in (1, 8)]
    run = run_of(*[prefill(isl, isl / 10) for isl in (500, 1000)], *failing)
    with pytest.raises(EngineError) as caught:
        assembled([run], GOAL, Provenance())
    assert caught.value.message == "no mapping has enough trusted decode points to be profiled: 1 of 8 requests failed: HTTP 500"
    assert caught.value.exit_code == 2


def test_without_a_trusted_point_at_the_goal_nothing_is_selected():
    points = [prefill(500, 50), prefill(1000, 100, defects=("the client itself ran 80 ms late",)), prefill(2000, 200)]
    with pytest.raises(EngineError, match="no mapping has a trusted prefill point at ISL 1000: the client itself ran 80 ms late"):
        assembled([run_of(*points, decode(1000, 1, 10), decode(1000, 8, 17))], GOAL, Provenance())


def test_candidates_of_a_computed_profile_come_from_its_laws():
    """ITL = 10 + batch: 20 ms carry 10 requests at 1100 tokens, but the cache of 8800 tokens holds 8: 18 ms, 444 tokens/s."""
    points = [DecodePoint(batch * 1100 / 8800, 1100, 10 + batch, batch / (10 + batch) * 1000) for batch in (1, 2, 4, 8)]
    profile = Profile(
        prefill=(PrefillMeasurement(TP1, tuple(PrefillPoint(isl, isl / 10, 10_000) for isl in (500, 1000, 2000))),),
        decode=(DecodeMeasurement(TP1, tuple(points), 8800),),
        selected_prefill=TP1,
        selected_decode=TP1,
    )
    (first,), (second,) = candidates_of(profile, GOAL)
    assert (first.latency_ms, first.throughput_per_gpu) == pytest.approx((100, 10_000))
    assert second.concurrency == 8
    assert (second.latency_ms, second.throughput_per_gpu) == pytest.approx((18, 8 / 18 * 1000), rel=1e-3)
