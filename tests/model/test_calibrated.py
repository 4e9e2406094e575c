"""Offline profiles corrected by a few measured points: made-up distortions are undone, measured points stay, what was not measured follows."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sla_planner.model.calibrated import CORRECTED, CORRECTED_BY_OTHERS, Correction, Pair, calibrated, fit_correction
from sla_planner.model.engine import engine_of
from sla_planner.model.gates import apply_gates, little_ratio
from sla_planner.model.profile import (
    BatchedPrefillPoint,
    DecodeMeasurement,
    DecodePoint,
    Flag,
    ParallelMapping,
    PrefillMeasurement,
    PrefillPoint,
    Profile,
    Provenance,
)
from sla_planner.model.validation import checked
from sla_planner.store.profile_files import read_profile, sample_profile_dir

TP1, TP2, TP4 = (ParallelMapping(tp=tp) for tp in (1, 2, 4))
SOURCE = "offline: a table"


def prefill(mapping: ParallelMapping, ttft_ms: dict[int, float], flags: tuple[Flag, ...] = ()) -> PrefillMeasurement:
    return PrefillMeasurement(mapping, tuple(PrefillPoint(isl, ttft, isl / ttft * 1000 / mapping.gpus, flags) for isl, ttft in ttft_ms.items()))


def decode(mapping: ParallelMapping, itl_ms: dict[tuple[int, int], float], max_kv_tokens: int = 100_000) -> DecodeMeasurement:
    """`itl_ms`: (context, batch) -> ITL."""
    points = (
        DecodePoint(batch * context / max_kv_tokens, context, itl, batch / itl * 1000 / mapping.gpus) for (context, batch), itl in itl_ms.items()
    )
    return DecodeMeasurement(mapping, tuple(points), max_kv_tokens)


def profile(prefills: Sequence[PrefillMeasurement], decodes: Sequence[DecodeMeasurement], source: str = SOURCE) -> Profile:
    return Profile(tuple(prefills), tuple(decodes), prefills[0].mapping, decodes[0].mapping, Provenance(source=source, image="engine:1"))


def ttft(slower: float = 1.0) -> dict[int, float]:
    return {isl: slower * (10 + isl / 50) for isl in (100, 200, 400, 800, 1600, 3200)}


def itl(slower: float = 1.0) -> dict[tuple[int, int], float]:
    return {(context, batch): slower * (4 + batch / 10 + context * batch / 20_000) for context in (500, 1000, 4000) for batch in (1, 5, 20)}


OFFLINE = profile([prefill(TP1, ttft()), prefill(TP2, ttft(0.5))], [decode(TP1, itl()), decode(TP2, itl(0.5), 210_000)])


def fit(pairs: Sequence[tuple[float, ...]]) -> Correction:
    return fit_correction([Pair(*pair) for pair in pairs])


class TestCorrection:
    def test_a_line_through_clean_points(self) -> None:
        found = fit([(x, 1.2 * x + 3) for x in (5.0, 10.0, 20.0, 40.0)])
        assert (found.factor, found.extra_ms) == pytest.approx((1.2, 3))

    @pytest.mark.parametrize("bad", range(6))
    @pytest.mark.parametrize("wrong", [0.3, 3.0, 30.0])
    def test_one_bad_point_anywhere_changes_nothing(self, bad: int, wrong: float) -> None:
        pairs = [(x, 1.2 * x + 3) for x in (4.0, 8.0, 12.0, 18.0, 26.0, 40.0)]
        pairs[bad] = (pairs[bad][0], pairs[bad][1] * wrong)
        found = fit(pairs)
        assert (found.factor, found.extra_ms) == pytest.approx((1.2, 3))

    @pytest.mark.parametrize("bad", [None, 0, 3, 6])
    def test_a_cost_per_request_is_found_from_six_points_on(self, bad: int | None) -> None:
        """Offline times that do not follow the batch: 1.1 x + 2 + 0.05 batch."""
        shapes = [(5.0, 1.0), (12.0, 200.0), (30.0, 100.0), (21.0, 400.0), (9.0, 20.0), (40.0, 50.0), (6.0, 3.0)]
        pairs = [(x, 1.1 * x + 2 + 0.05 * batch, batch) for x, batch in shapes]
        if bad is not None:
            pairs[bad] = (pairs[bad][0], pairs[bad][1] * 3, pairs[bad][2])
        found = fit(pairs)
        assert (found.factor, found.extra_ms, found.per_request_ms) == pytest.approx((1.1, 2, 0.05), rel=1e-4)
        assert found(10.0, 100.0) == pytest.approx(18)
        assert fit(pairs[:5]).per_request_ms == 0

    def test_a_negative_addition_is_none(self) -> None:
        """measured = 2x - 4: the best line through the origin with relative errors has factor sum(s)/sum(s^2), s = x/measured."""
        pairs = [(4.0, 4.0), (12.0, 20.0)]
        found = fit(pairs)
        assert found.extra_ms == 0
        assert found.factor == pytest.approx((1 + 0.6) / (1 + 0.36))

    def test_points_alike_give_a_factor_only(self) -> None:
        assert fit([(10.0, 13.0), (11.0, 22.0), (12.0, 18.0)]) == Correction(1.5)
        assert fit([(10.0, 13.0)]) == Correction(1.3)
        assert fit([]) == Correction(1.0, 0.0)

    @given(st.lists(st.tuples(st.floats(0.1, 1e4), st.floats(0.1, 1e4)), min_size=1, max_size=12))
    def test_whatever_is_measured_latencies_stay_positive_and_in_order(self, pairs: list[tuple[float, float]]) -> None:
        line = fit(pairs)
        assert line.factor > 0
        assert line.extra_ms >= 0
        assert 0 < line(0.1) < line(1e4)


class TestCalibrated:
    def test_corrected_between_and_beyond_the_measured_points(self) -> None:
        """Measured = 1.25 * offline + 5 (TTFT), 1.1 * offline + 2 (ITL), at shapes that are not in the offline grid."""
        measured = profile(
            [prefill(TP1, {isl: 1.25 * (10 + isl / 50) + 5 for isl in (150, 1000, 2500)})],
            [decode(TP1, {(c, b): 1.1 * (4 + b / 10 + c * b / 20_000) + 2 for c, b in ((600, 2), (3000, 30), (900, 18))})],
        )
        result = calibrated(OFFLINE, measured)
        assert checked(result) == result
        for point in result.prefill[0].points:
            assert point.ttft_ms == pytest.approx(1.25 * (10 + point.isl_tokens / 50) + 5)
            assert point.throughput_per_gpu == pytest.approx(point.isl_tokens / point.ttft_ms * 1000)
        for decoded in result.decode[0].points:
            batch = result.decode[0].batch(decoded)
            assert decoded.itl_ms == pytest.approx(1.1 * (4 + batch / 10 + decoded.context_tokens * batch / 20_000) + 2)
            assert little_ratio(result.decode[0], decoded) == pytest.approx(1)
        assert result.provenance.source == "offline: a table, calibrated with 6 measured points"
        assert result.provenance.image == "engine:1"

    def test_measured_points_stay_and_take_the_place_of_their_neighbours(self) -> None:
        flagged = prefill(TP1, {1700: 999.0}, (Flag.REPORTED,)).points
        seen = prefill(TP1, {210: 20.0, 3000: 100.0})
        batched = (BatchedPrefillPoint(210, 2, 35.0, 12_000.0),)
        measured = profile([replace(seen, points=seen.points + flagged, batched=batched)], [decode(TP1, {(1000, 5): 6.0, (4000, 20): 14.0})])
        result = calibrated(OFFLINE, measured)
        curve = {point.isl_tokens: point for point in result.prefill[0].points}
        assert list(curve) == [100, 210, 400, 800, 1700, 3000]  # 200, 1600 and 3200 are within a quarter
        assert (curve[210], curve[3000], curve[1700]) == (*seen.points, *flagged)
        assert curve[100].note == CORRECTED
        assert result.prefill[0].batched == batched
        surface = {(p.context_tokens, round(result.decode[0].batch(p))): p for p in result.decode[0].points}
        assert len(surface) == 9
        assert (surface[1000, 5].itl_ms, surface[4000, 20].itl_ms) == (6.0, 14.0)
        assert (surface[1000, 5].note, surface[1000, 20].note) == ("", CORRECTED)
        assert result.provenance.source.endswith("calibrated with 4 measured points")  # the flagged one does not count

    def test_mappings_without_measurements_follow_the_measured_ones(self) -> None:
        measured = profile([prefill(TP1, {isl: 2 * (10 + isl / 50) for isl in (100, 800, 3200)})], [decode(TP1, itl(1.5), 110_000)])
        result = calibrated(OFFLINE, measured)
        assert [point.ttft_ms for point in result.prefill[1].points] == pytest.approx([10 + isl / 50 for isl in ttft()])
        assert {point.note for point in result.prefill[1].points} == {CORRECTED_BY_OTHERS}
        assert [point.itl_ms for point in result.decode[1].points] == pytest.approx([1.5 * 0.5 * value for value in itl().values()])
        assert [m.max_kv_tokens for m in result.decode] == [110_000, 231_000]
        assert [round(result.decode[1].batch(point), 9) for point in result.decode[1].points] == [batch for _, batch in itl()]

    def test_few_points_of_its_own_move_the_line_of_all(self) -> None:
        """TP1 gives 1.2 x + 4; TP2's one point lies a quarter above that: 1.5 x + 5 there."""
        one_of_tp2 = {800: 1.25 * (1.2 * 0.5 * (10 + 800 / 50) + 4)}
        tp1 = prefill(TP1, {isl: 1.2 * (10 + isl / 50) + 4 for isl in ttft()})
        result = calibrated(OFFLINE, profile([tp1, prefill(TP2, one_of_tp2)], [decode(TP1, itl())]))
        assert [point.ttft_ms for point in result.prefill[1].points] == pytest.approx([1.5 * 0.5 * (10 + isl / 50) + 5 for isl in ttft()], rel=0.03)

    def test_what_no_longer_fits_is_dropped(self) -> None:
        result = calibrated(OFFLINE, profile([prefill(TP1, ttft())], [decode(TP1, {(500, 1): 4.125}, 50_000)]))
        assert (4000, 20) not in {(p.context_tokens, round(result.decode[0].batch(p))) for p in result.decode[0].points}
        assert max(point.kv_usage for m in result.decode for point in m.points) <= 1
        assert [m.max_kv_tokens for m in result.decode] == [50_000, 105_000]

    def test_a_mapping_of_which_nothing_fits_is_dropped(self) -> None:
        """TP2 holds a hundredth of what was predicted for TP1: not one request of its smallest context."""
        offline = profile([prefill(TP2, ttft())], [decode(TP2, {(4000, 1): 5.0}, 5000), decode(TP1, itl())])
        result = calibrated(offline, profile([prefill(TP2, ttft())], [decode(TP1, {(500, 1): 4.125}, 1000)]))
        assert [m.mapping for m in result.decode] == [TP1]
        assert result.selected_decode == TP1

    def test_a_mapping_that_only_was_measured_is_taken_as_it_is(self) -> None:
        tp4 = prefill(TP4, ttft(0.3))
        result = calibrated(OFFLINE, profile([prefill(TP1, ttft()), tp4], [decode(TP1, itl())]))
        assert result.prefill[2] == tp4
        assert (result.selected_prefill, result.selected_decode) == (TP1, TP1)

    def test_nothing_in_common_changes_nothing(self) -> None:
        result = calibrated(OFFLINE, profile([prefill(TP4, ttft())], [decode(TP4, itl())]))
        assert result.prefill[:2] == OFFLINE.prefill
        assert result.decode[:2] == OFFLINE.decode
        assert result.provenance.source.endswith("calibrated with 0 measured points")

    def test_one_offline_point_is_enough(self) -> None:
        offline = profile([prefill(TP1, {1000: 40.0})], [decode(TP1, {(1000, 8): 6.0})])
        result = calibrated(offline, profile([prefill(TP1, {2000: 90.0})], [decode(TP1, {(2000, 8): 9.0})]))
        assert len(result.prefill[0].points) == len(result.decode[0].points) == 2


@pytest.fixture(scope="module")
def sample() -> Profile:
    return apply_gates(read_profile(sample_profile_dir()))


CORNERS = ((350, 1), (350, 525), (2997, 145), (8291, 1), (8291, 109), (13585, 34))  # context, batch: as a sweep would choose


def decode_error(sample: Profile, chosen: Sequence[DecodePoint]) -> float:
    """Mean relative error of ITL at the clean points of the sample that were not `chosen`.

    Offline is the engine itself, a fifth too fast and bent by up to 6 % along batch and context, on a coarse grid of its own.
    """
    engine = engine_of(sample)
    grid = [(context, batch) for context in (300, 1500, 6000, 14_000) for batch in (1, 8, 32, 64, 256, 1024) if context * batch < 900_000]
    bent = {(c, b): 0.8 * engine.decode.itl_ms(b, c) * (1 + 0.03 * math.sin(b / 40) + 0.03 * math.sin(c / 2000)) for c, b in grid}
    offline = profile([prefill(TP1, ttft())], [decode(TP1, bent, 900_000)])
    surface = sample.picked_decode
    measured = replace(sample, decode=(replace(surface, points=tuple(chosen)),))
    found = engine_of(calibrated(offline, measured))
    assert found.decode.max_kv_tokens == surface.max_kv_tokens
    rest = [point for point in surface.points if not point.flags and point not in chosen]
    return sum(abs(found.decode.itl_ms(surface.batch(point), point.context_tokens) / point.itl_ms - 1) for point in rest) / len(rest)


def test_six_points_of_a_real_engine_tell_the_rest(sample: Profile) -> None:
    surface = sample.picked_decode
    chosen = [point for point in surface.points if (round(point.context_tokens), round(surface.batch(point))) in CORNERS]
    assert len(chosen) == 6
    assert decode_error(sample, chosen) < 0.05


def test_random_points_do_nearly_as_well(sample: Profile) -> None:
    clean = [point for point in sample.picked_decode.points if not point.flags]
    errors = sorted(decode_error(sample, random.Random(seed).sample(clean, 6)) for seed in range(20))
    assert errors[10] < 0.06
    assert errors[16] < 0.12  # uncalibrated: 0.20; the rest drew no small batch at all, and what is beyond the points is a guess


def test_five_prompt_lengths_of_a_real_engine_tell_the_rest(sample: Profile) -> None:
    engine, prompts = engine_of(sample), sample.picked_prefill
    curve = {isl: (engine.prefill.ttft_ms(isl) - 5) / 1.3 for isl in (128, 512, 2048, 8192, 16_000)}
    chosen = prompts.points[::4]
    offline = profile([prefill(TP1, curve)], [decode(TP1, itl())])
    found = engine_of(calibrated(offline, replace(sample, prefill=(replace(prompts, points=chosen),))))
    left = [point for point in prompts.points if point not in chosen and not point.flags]
    assert sum(abs(found.prefill.ttft_ms(point.isl_tokens) / point.ttft_ms - 1) for point in left) / len(left) < 0.06
