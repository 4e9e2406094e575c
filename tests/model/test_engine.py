"""Both answers to the planner's questions: the fitted one by properties and hand-made laws, the as-measured one by Dynamo's own numbers."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sla_planner.errors import ProfileError
from sla_planner.model.engine import Engine, engine_of
from sla_planner.model.profile import DecodeMeasurement, DecodePoint, Flag, ParallelMapping, PrefillMeasurement, PrefillPoint, Profile
from sla_planner.store.profile_files import read_profile, sample_profile_dir

SAMPLE = read_profile(sample_profile_dir())
FITTED = engine_of(SAMPLE)


def made_up(tp: int = 1, dp: int = 1) -> Profile:
    """TTFT = 10 + isl/100 ms; ITL = 5 + 0.1*batch + batch*context/10000 ms; 100000 KV tokens; contexts 1000 and 2000."""
    mapping = ParallelMapping(tp=tp, dp=dp)
    prefill = tuple(PrefillPoint(isl, 10 + isl / 100, isl / (10 + isl / 100) * 1000 / tp) for isl in (500, 1000, 2000, 4000, 8000))
    steps = [(n, context, 5 + 0.1 * n + n * context / 10000) for context in (1000, 2000) for n in (1, 10, 20, 40)]
    decode = tuple(DecodePoint(n * context / 100000, context, itl, n / itl * 1000 / mapping.gpus) for n, context, itl in steps)
    return Profile((PrefillMeasurement(mapping, prefill),), (DecodeMeasurement(mapping, decode, 100000),), mapping, mapping)


class TestFittedPrefill:
    def test_through_the_measured_points(self) -> None:
        for point in SAMPLE.picked_prefill.points:
            assert FITTED.prefill.ttft_ms(point.isl_tokens) == pytest.approx(point.ttft_ms)
            assert FITTED.prefill.throughput_per_gpu(point.isl_tokens) == pytest.approx(point.throughput_per_gpu)

    def test_near_the_cubic_of_dynamo_between_them(self) -> None:
        for isl, ttft_ms in ((1000, 36.823), (3000, 60.459), (4000, 83.503), (8000, 165.062)):
            assert FITTED.prefill.ttft_ms(isl) == pytest.approx(ttft_ms, rel=0.01)

    @pytest.mark.parametrize(("isl", "ttft_ms"), [(100, 11), (0, 10.01), (500, 15), (3000, 40), (8000, 90), (20000, 210)])
    def test_inside_and_outside_of_a_known_law(self, isl: float, ttft_ms: float) -> None:
        assert engine_of(made_up()).prefill.ttft_ms(isl) == pytest.approx(ttft_ms)

    def test_continuous_at_both_ends(self) -> None:
        for edge in FITTED.prefill.isl_range:
            beside = [FITTED.prefill.ttft_ms(math.nextafter(edge, away)) for away in (0, math.inf)]
            assert beside == pytest.approx([FITTED.prefill.ttft_ms(edge)] * 2)

    def test_never_falls_and_never_reaches_zero(self) -> None:
        grid = [FITTED.prefill.ttft_ms(isl) for isl in np.linspace(0, 60000, 3000).tolist()]
        assert grid[0] > 10  # the fixed overhead is 16.5 ms
        assert all(left <= right for left, right in pairwise(grid))

    def test_range(self) -> None:
        assert FITTED.prefill.isl_range == (100, 16372)
        assert [FITTED.prefill.in_range(isl) for isl in (99, 100, 16372, 16373)] == [False, True, True, False]

    def test_gpus_divide_and_data_parallel_ranks_multiply_throughput(self) -> None:
        """ISL 1000 takes 20 ms: 50000 tokens/s from one engine."""
        assert engine_of(made_up(tp=4)).prefill.throughput_per_gpu(1000) == pytest.approx(12500)
        assert engine_of(made_up(), prefill_gpus=2).prefill.throughput_per_gpu(1000) == pytest.approx(25000)
        assert engine_of(made_up(tp=2, dp=4)).prefill.throughput_per_gpu(1000) == pytest.approx(25000)

    def test_flagged_points_have_no_say(self) -> None:
        profile = made_up()
        points = (*profile.prefill[0].points, PrefillPoint(6000, 900.0, 6667, (Flag.OUTLIER,)))
        bent = replace(profile, prefill=(replace(profile.prefill[0], points=points),))
        assert engine_of(bent).prefill.ttft_ms(6000) == pytest.approx(70)


class TestFittedDecode:
    @pytest.mark.parametrize(
        ("itl_ms", "context", "batch", "step_ms"),
        [
            (15, 1000, 50, 15),  # 5 + n*(0.1 + 0.1) = 15
            (15, 400, 10 / 0.14, 15),  # 5 + n*(0.1 + 0.04) = 15
            (100, 1000, 100, 25),  # KV capacity: 100 requests of 1000 tokens, in 5 + 20 ms
        ],
    )
    def test_largest_batch_within_itl_and_capacity(self, itl_ms: float, context: float, batch: float, step_ms: float) -> None:
        best = engine_of(made_up()).decode.best_throughput_per_gpu(itl_ms, context)
        assert best.itl_ms == pytest.approx(step_ms)
        assert best.throughput_per_gpu == pytest.approx(batch / step_ms * 1000)
        assert best.kv_usage == pytest.approx(batch * context / 100000)
        assert best.reachable

    def test_unreachable_itl_gives_one_request_and_says_so(self) -> None:
        best = engine_of(made_up()).decode.best_throughput_per_gpu(5.1, 1000)
        assert not best.reachable
        assert (best.itl_ms, best.throughput_per_gpu) == pytest.approx((5.2, 1000 / 5.2))

    def test_a_context_larger_than_the_kv_cache_is_not_reachable(self) -> None:
        best = engine_of(made_up()).decode.best_throughput_per_gpu(1000, 150_000)
        assert not best.reachable
        assert best.kv_usage == 1

    def test_gpus(self) -> None:
        assert engine_of(made_up(tp=2, dp=2)).decode.best_throughput_per_gpu(15, 1000).throughput_per_gpu == pytest.approx(50 / 15 * 1000 / 4)
        assert engine_of(made_up(), decode_gpus=8).decode.gpus == 8

    def test_near_dynamo_where_dynamo_interpolates(self) -> None:
        """Dynamo answers with a grid cell below the ITL asked for, so its own ITL is the one to ask for here."""
        for itl_ms, context, throughput in ((9.7344, 3150, 4555.68), (14.895, 3150, 5664.26), (19.6705, 3075, 6180.58), (9.8194, 4075, 3669.64)):
            best = FITTED.decode.best_throughput_per_gpu(itl_ms, context)
            assert best.throughput_per_gpu == pytest.approx(throughput, rel=0.1)

    @given(st.floats(0.1, 200), st.floats(0.1, 200), st.floats(1, 2e6), st.floats(1, 2e6))
    @settings(deadline=None)
    def test_more_itl_or_less_context_never_cost_throughput(self, itl: float, other_itl: float, context: float, other_context: float) -> None:
        itl, other_itl = sorted((itl, other_itl))
        context, other_context = sorted((context, other_context))
        best = FITTED.decode.best_throughput_per_gpu(other_itl, context)
        assert best.throughput_per_gpu >= FITTED.decode.best_throughput_per_gpu(itl, context).throughput_per_gpu * (1 - 1e-12)
        assert best.throughput_per_gpu >= FITTED.decode.best_throughput_per_gpu(other_itl, other_context).throughput_per_gpu * (1 - 1e-12) > 0
        assert not best.reachable or best.itl_ms <= other_itl * (1 + 1e-12)
        assert 0 < best.kv_usage <= 1

    @pytest.mark.parametrize(
        ("batch", "context", "inside"),
        [
            (40, 1000, True),
            (40.5, 1000, False),
            (40, 2000, True),
            (40, 1500, True),  # half way, KV usage up to half way between 0.4 and 0.8
            (40.5, 1500, False),
            (0.2, 1500, True),  # less than one request on average is one request at times
            (10, 999, False),
            (10, 2001, False),
        ],
    )
    def test_range(self, batch: float, context: float, inside: bool) -> None:
        assert engine_of(made_up()).decode.in_range(batch, context) is inside

    def test_no_claim_where_only_flagged_points_were_measured(self) -> None:
        assert FITTED.decode.in_range(787, 350)
        assert not FITTED.decode.in_range(1049, 350)


@pytest.mark.parametrize("interpolation", ["fitted", "as_measured"])
def test_the_law_is_fitted_whatever_answers(interpolation: str) -> None:
    law = engine_of(SAMPLE, interpolation).itl_law  # type: ignore[arg-type]
    assert (law.c0_ms, law.c1_ms, law.c2_ms) == pytest.approx((4.392, 0.03872, 2.920e-5), rel=0.01)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return engine_of(SAMPLE, "as_measured")


class TestAsMeasured:
    """The numbers are what Dynamo 0.6.1's own classes answer on this profile."""

    @pytest.mark.parametrize(
        ("isl", "ttft_ms", "throughput"),
        [
            (1000, 36.823, 26917.83),
            (3000, 60.459, 49481.09),
            (4000, 83.503, 48040.55),
            (8000, 165.062, 48548.64),
            (50, 19.525, 5121.58),
            (20000, 375.483, 43602.55),
        ],
    )
    def test_prefill(self, engine: Engine, isl: float, ttft_ms: float, throughput: float) -> None:
        assert engine.prefill.ttft_ms(isl) == pytest.approx(ttft_ms, abs=0.001)
        assert engine.prefill.throughput_per_gpu(isl) == pytest.approx(throughput, abs=0.01)

    @pytest.mark.parametrize(
        ("batch", "context", "itl_ms"),
        [(1, 3075, 4.4274), (10, 3075, 5.4001), (32, 3075, 7.9613), (64, 3075, 11.8107), (100, 3150, 15.8037), (20, 8000, 11.9994)],
    )
    def test_itl(self, engine: Engine, batch: float, context: float, itl_ms: float) -> None:
        assert engine.decode.itl_ms(batch, context) == pytest.approx(itl_ms, abs=0.0001)

    @pytest.mark.parametrize(
        ("itl_ms", "context", "throughput", "at_itl_ms", "kv_usage"),
        [
            (10, 3150, 4555.6804, 9.7344, 0.1616),
            (10, 3075, 4679.6389, 9.7404, 0.1515),
            (15, 3150, 5664.2594, 14.895, 0.3131),
            (20, 3075, 6180.5799, 19.6705, 0.4040),
            (10, 4075, 3669.6444, 9.8194, 0.2020),
            (5, 500, 226.9198, 4.3799, 0),
            (50, 500, 18968.9459, 42.579, 1.0),
        ],
    )
    def test_best(self, engine: Engine, itl_ms: float, context: float, throughput: float, at_itl_ms: float, kv_usage: float) -> None:
        best = engine.decode.best_throughput_per_gpu(itl_ms, context)
        assert (best.throughput_per_gpu, best.itl_ms, best.kv_usage) == pytest.approx((throughput, at_itl_ms, kv_usage), abs=0.0001)
        assert best.reachable

    def test_unreachable_is_the_emptiest_cell(self, engine: Engine) -> None:
        best = engine.decode.best_throughput_per_gpu(3, 3000)
        assert not best.reachable
        assert best.kv_usage == 0
        assert best.throughput_per_gpu < 230

    def test_its_faults_are_kept(self, engine: Engine) -> None:
        """Lowest throughput on the grid: -19.31, while the lowest measured is 203.5."""
        everywhere = (
            engine.decode.best_throughput_per_gpu(itl, context).throughput_per_gpu
            for context in np.linspace(0, 13585, 100).tolist()
            for itl in np.linspace(4, 50, 200).tolist()
        )
        assert min(everywhere) < 0

    def test_range(self, engine: Engine) -> None:
        assert engine.decode.in_range(1573, 350)
        assert not engine.decode.in_range(10, 14000)
        assert not engine.prefill.in_range(17000)

    def test_points_that_span_no_surface(self) -> None:
        profile = made_up()
        line = replace(profile.decode[0], points=profile.decode[0].points[:4])
        with pytest.raises(ProfileError, match=r'decode TP1: 4 points do not span a surface.*use interpolation "fitted"'):
            engine_of(replace(profile, decode=(line,)), "as_measured")
        few = replace(profile.prefill[0], points=profile.prefill[0].points[:3])
        with pytest.raises(ProfileError, match="prefill TP1: 3 points, a cubic spline needs 4"):
            engine_of(replace(profile, prefill=(few,)), "as_measured")


def test_too_few_usable_points() -> None:
    profile = made_up()
    one = replace(profile.prefill[0], points=profile.prefill[0].points[:1])
    with pytest.raises(ProfileError, match="prefill TP1: the 1 usable of 1 points have 1 different prompt lengths, a fit needs 2"):
        engine_of(replace(profile, prefill=(one,)))
    flagged = tuple(replace(point, flags=(Flag.LITTLE,)) for point in profile.decode[0].points)
    with pytest.raises(ProfileError, match="decode TP1: the 0 usable of 8 points"):
        engine_of(replace(profile, decode=(replace(profile.decode[0], points=flagged),)))
    singles = tuple(point for point in profile.decode[0].points if point.kv_usage < 0.03)
    with pytest.raises(ProfileError, match="the 2 usable of 2 points have 1 different batch sizes"):
        engine_of(replace(profile, decode=(replace(profile.decode[0], points=singles),)))


def test_the_default_needs_no_scipy_and_no_pydantic() -> None:
    code = (
        "import sys\n"
        "from sla_planner.model.engine import engine_of\n"
        "from sla_planner.store.profile_files import read_profile, sample_profile_dir\n"
        "engine_of(read_profile(sample_profile_dir())).decode.best_throughput_per_gpu(20, 3000)\n"
        "print([name for name in ('scipy', 'pydantic', 'requests') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
