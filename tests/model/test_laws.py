"""The fits find laws they were not told, in published data and in made-up data that one bad point tries to bend."""

from __future__ import annotations

import numpy as np
import pytest

from sla_planner.model.laws import fit_itl, fit_prefill, robust_sigma
from sla_planner.model.profile import Profile
from sla_planner.store.profile_files import read_profile, sample_profile_dir

# Shape of NVIDIA's pre-swept 70B TP8 curve: one sample of 498.2 ms between 162.3 and 321.0.
ISL_70B = [100, 2135, 4170, 6205, 8240, 10275, 12310, 14345, 16380]
TTFT_70B = [30.0, 85.0, 162.3, 498.2, 321.0, 405.0, 500.0, 590.0, 690.0]


@pytest.fixture(scope="module")
def sample() -> Profile:
    return read_profile(sample_profile_dir())


def test_published_itl_law(sample: Profile) -> None:
    surface = sample.picked_decode
    clean = [point for point in surface.points if not point.flags]
    law, quality = fit_itl([surface.batch(point) for point in clean], [point.kv_usage * 945029 for point in clean], [point.itl_ms for point in clean])
    assert (law.c0_ms, law.c1_ms, law.c2_ms) == pytest.approx((4.392, 0.03872, 2.920e-5), rel=0.01)
    assert quality.points == 36
    assert quality.mean_relative_error == pytest.approx(0.035, abs=0.002)
    assert quality.max_relative_error == pytest.approx(0.17, abs=0.01)


def test_published_prefill_law(sample: Profile) -> None:
    points = sample.picked_prefill.points
    law, quality = fit_prefill([point.isl_tokens for point in points], [point.ttft_ms for point in points])
    assert (law.overhead_ms, law.linear_ms, law.quadratic_ms) == pytest.approx((16.50, 0.015183, 4.210e-7), rel=0.001)
    assert (quality.points, quality.mean_relative_error, quality.max_relative_error) == pytest.approx((17, 0.031, 0.117), abs=0.0006)


def test_one_bad_sample_does_not_bend_the_curve() -> None:
    with_it, _ = fit_prefill(ISL_70B, TTFT_70B)
    without, _ = fit_prefill(ISL_70B[:3] + ISL_70B[4:], TTFT_70B[:3] + TTFT_70B[4:])
    for isl in (100, 3000, 6205, 16380, 30000):
        assert with_it.ttft_ms(isl) == pytest.approx(without.ttft_ms(isl), rel=1e-3)


@pytest.mark.parametrize("factor", [0.3, 1.6, 3.0, 100.0])
@pytest.mark.parametrize("bad", range(9))
def test_a_bad_sample_anywhere_also_at_the_ends(bad: int, factor: float) -> None:
    isl = np.arange(9) * 2000.0 + 500
    ttft_ms = 20 + 0.02 * isl + 5e-7 * isl**2
    ttft_ms[bad] *= factor
    law, _ = fit_prefill(isl, ttft_ms)
    assert (law.overhead_ms, law.linear_ms, law.quadratic_ms) == pytest.approx((20, 0.02, 5e-7), rel=1e-6)


def test_coefficients_are_never_negative() -> None:
    """TTFT = 50*sqrt(isl) bends down: the best quadratic has a negative square term, the best non-negative law has none."""
    isl = np.array([100.0, 400.0, 900.0, 1600.0, 2500.0, 3600.0])
    law, _ = fit_prefill(isl, 50 * np.sqrt(isl))
    assert law.quadratic_ms == 0
    assert law.overhead_ms > 0
    assert law.linear_ms > 0


def test_one_context_shares_the_cost_between_request_and_tokens() -> None:
    """ITL = 5 + 0.2*batch at context 1000: any split of 0.2 between a request and its 1000 tokens fits; both get half."""
    batch = np.array([1.0, 10.0, 20.0, 40.0])
    law, quality = fit_itl(batch, batch * 1000, 5 + 0.2 * batch)
    assert (law.c0_ms, law.c1_ms, law.c2_ms) == pytest.approx((5.0, 0.1, 1e-4))
    assert quality.max_relative_error < 1e-9


def test_robust_sigma_by_hand() -> None:
    """Eight residuals, median 2, three coefficients: 1.4826 * (1 + 5/5) * 2."""
    assert robust_sigma([0.0, 1.0, 1.0, 1.0, 3.0, 3.0, 9.0, 1e9]) == pytest.approx(5.9304)
