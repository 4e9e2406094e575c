"""Exactly the bad points are flagged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sla_planner.model.gates import apply_gates, batched_little_ratio, judged_decode, judged_prefill, little_ratio
from sla_planner.model.profile import (
    BatchedPrefillPoint,
    DecodeMeasurement,
    DecodePoint,
    Flag,
    ParallelMapping,
    PrefillMeasurement,
    PrefillPoint,
    Profile,
)
from sla_planner.store.profile_files import read_profile, sample_profile_dir

# Measured, Qwen3-32B TP1 on H200 with vLLM (NVIDIA's profiler comparison): the short prompt is all overhead, nothing is wrong with it.
QWEN_ISL = [100, 2621, 5142, 7663, 10184, 12705, 15226, 17747, 20268, 22789, 25310, 27831, 30352, 32873]
QWEN_TTFT = [46.81, 274.17, 545.80, 836.53, 1160.04, 1512.92, 1874.52, 2256.26, 2689.09, 3100.66, 3572.08, 3993.55, 4494.88, 5122.12]


def prefill(isl: list[int], ttft_ms: list[float]) -> PrefillMeasurement:
    return PrefillMeasurement(
        ParallelMapping(), tuple(PrefillPoint(length, ttft, length / ttft * 1000) for length, ttft in zip(isl, ttft_ms, strict=True))
    )


def decode(rows: list[tuple[float, float, float]], gpus: int = 1) -> DecodeMeasurement:
    """Rows of batch, context, ITL, with the throughput of an engine that does not queue."""
    points = (DecodePoint(batch * context / 1e6, context, itl, batch / itl * 1000 / gpus) for batch, context, itl in rows)
    return DecodeMeasurement(ParallelMapping(tp=gpus), tuple(points), 1_000_000)


def flagged(measurement: PrefillMeasurement | DecodeMeasurement) -> dict[int, tuple[Flag, ...]]:
    return {index: point.flags for index, point in enumerate(measurement.points) if point.flags}


def test_the_five_bad_points_of_the_shipped_profile() -> None:
    profile = read_profile(sample_profile_dir())
    surface = profile.picked_decode
    bad = {(point.context_tokens, round(surface.batch(point))): point.flags for point in surface.points if point.flags}
    assert bad == dict.fromkeys([(350, 1049), (350, 1311), (350, 1573), (5644, 105), (13585, 67)], (Flag.LITTLE,))
    assert len(surface.points) == 41
    assert flagged(profile.picked_prefill) == {}


def test_a_short_prompt_that_is_all_overhead_is_clean() -> None:
    assert flagged(judged_prefill(prefill(QWEN_ISL, QWEN_TTFT))) == {}


def test_the_outlier_of_the_70b_curve() -> None:
    isl = [100, 2135, 4170, 6205, 8240, 10275, 12310, 14345, 16380]
    ttft_ms = [30.0, 85.0, 162.3, 498.2, 321.0, 405.0, 500.0, 590.0, 690.0]
    assert flagged(judged_prefill(prefill(isl, ttft_ms))) == {3: (Flag.OUTLIER,)}


def test_the_spread_of_a_real_curve_is_no_reason_to_flag() -> None:
    """TTFT 4 % lower at the longer prompt, and 8 % off the law: noise."""
    assert flagged(judged_prefill(prefill([1000, 2000, 3000, 4000, 5000, 6000], [30.0, 49.0, 47.0, 68.0, 80.0, 91.0]))) == {}


def test_falling_ttft_costs_the_point_that_is_off_the_line() -> None:
    """52 after 60 is a fall of 13 %. Leaving out either would do; 60 is far from the line through the others, 52 is on it."""
    measurement = prefill([1000, 1900, 2000, 3000, 4000, 5000, 6000], [32.0, 60.0, 52.0, 72.0, 92.0, 112.0, 132.0])
    assert flagged(judged_prefill(measurement)) == {1: (Flag.NOT_MONOTONE,)}


def test_falling_itl_is_judged_within_one_context() -> None:
    """20 after 24 at context 1000 is a fall; 10 at context 2000 after 25 at context 1000 is another series."""
    rows = [(1.0, 1000.0, 5.0), (40.0, 1000.0, 24.0), (50.0, 1000.0, 20.0), (60.0, 1000.0, 25.0), (1.0, 2000.0, 5.5), (10.0, 2000.0, 10.0)]
    assert set(flagged(judged_decode(decode(rows))).values()) == {(Flag.NOT_MONOTONE,)}
    assert set(flagged(judged_decode(decode(rows)))) == {1}


def test_itl_outlier() -> None:
    rows = [(batch, context, 5 + 0.04 * batch + 3e-5 * batch * context) for context in (500.0, 4000.0) for batch in (1.0, 50.0, 100.0, 200.0)]
    rows[-1] = (200.0, 4000.0, 1.4 * rows[-1][2])
    assert flagged(judged_decode(decode(rows))) == {7: (Flag.OUTLIER,)}


@pytest.mark.parametrize(("share", "bad"), [(0.94, True), (0.951, False), (1.0, False), (1.049, False), (1.06, True)])
def test_little_ratio_bounds(share: float, bad: bool) -> None:
    clean = decode([(1.0, 1000.0, 5.0), (10.0, 1000.0, 8.0)], gpus=4)
    last = replace(clean.points[1], throughput_per_gpu=clean.points[1].throughput_per_gpu * share)
    measurement = replace(clean, points=(clean.points[0], last))
    assert little_ratio(measurement, last) == pytest.approx(share)
    assert flagged(judged_decode(measurement)) == ({1: (Flag.LITTLE,)} if bad else {})


@pytest.mark.parametrize(("share", "bad"), [(0.89, True), (0.91, False), (1.0, False), (1.09, False), (1.11, True)])
def test_batched_prefill_obeys_littles_law(share: float, bad: bool) -> None:
    """4 prompts of 1000 tokens in flight on 2 GPUs, 80 ms each: 50,000 tokens/s, 25,000 per GPU."""
    point = BatchedPrefillPoint(1000.0, 4, 80.0, 25000.0 * share)
    alone = PrefillMeasurement(ParallelMapping(tp=2), prefill([1000, 2000], [20.0, 30.0]).points)
    measurement = replace(alone, batched=(point, replace(point, throughput_per_gpu=25000.0)))
    assert batched_little_ratio(measurement, point) == pytest.approx(share)
    judged = judged_prefill(measurement)
    assert [point.flags for point in judged.batched] == [(Flag.LITTLE,) if bad else (), ()]
    assert judged.points == alone.points
    assert judged_prefill(judged) == judged


def test_reported_points_keep_their_flag_and_have_no_say() -> None:
    isl, ttft_ms = [1000, 2000, 3000, 4000, 5000, 6000], [30.0, 45.0, 900.0, 75.0, 90.0, 105.0]
    measurement = prefill(isl, ttft_ms)
    reported = replace(measurement, points=tuple(replace(p, flags=(Flag.REPORTED,)) if p.ttft_ms == 900 else p for p in measurement.points))
    assert flagged(judged_prefill(reported)) == {2: (Flag.REPORTED,)}
    batched = BatchedPrefillPoint(1000.0, 4, 80.0, 10000.0, (Flag.REPORTED,), "one answer was cut off")
    assert judged_prefill(replace(measurement, batched=(batched,))).batched == (replace(batched, flags=(Flag.LITTLE, Flag.REPORTED)),)


def test_twice_is_once() -> None:
    mapping = ParallelMapping()
    bad_curve = prefill([1000, 1900, 2000, 3000, 4000, 5000, 6000], [32.0, 60.0, 52.0, 72.0, 92.0, 500.0, 132.0])
    once = apply_gates(Profile((bad_curve,), read_profile(sample_profile_dir()).decode, mapping, mapping))
    assert flagged(once.prefill[0])
    assert apply_gates(once) == once


def test_a_context_that_drifts_while_it_is_measured_is_one_context():
    """Held requests grow: 3,040 and 3,180 tokens are the same staircase. The larger batch of the longer context must not be faster."""
    capacity = 1_000_000
    rows = [(8, 3040, 6.0), (64, 3100, 14.0), (128, 3180, 12.0), (160, 3190, 30.0), (8, 8000, 7.0)]
    points = tuple(DecodePoint(batch * context / capacity, context, itl_ms, batch / itl_ms * 1000) for batch, context, itl_ms in rows)
    judged = judged_decode(DecodeMeasurement(ParallelMapping(), points, capacity))
    flagged = [(round(judged.batch(point)), point.flags) for point in judged.points if point.flags]
    assert len(flagged) == 1
    assert flagged[0][0] in (64, 128)
    assert flagged[0][1] == (Flag.NOT_MONOTONE,)
