"""The two latency laws of an engine and their robust fit.

    decode    ITL_ms(batch, kv)  = c0 + c1*batch + c2*kv_tokens      a step reads the weights once, then every request and every KV token
    prefill   TTFT_ms(isl)       = a + b*isl + c*isl^2               fixed overhead, matrix products, attention

All coefficients are non-negative. The fit is iteratively reweighted least squares with Hampel's weights of the n residuals r:

    1 where |r| <= 3 sigma,   3 sigma/|r| up to 6 sigma,   0 beyond,       sigma = 1.4826 * (1 + 5/(n - 3)) * median |r|

so clean data give plain least squares and a wild point has no say. (The factor for small n is Rousseeuw and Leroy's, Robust Regression and Outlier
Detection, 1987.) Because one wild point at the end of the range can bend the first fit until it looks tame, iteration starts from the leave-one-out
fit with the smallest median |r|. ITL residuals are relative (ITL spans a factor of ten over batch); TTFT residuals are absolute (their spread grows
slower than TTFT, and the long prompts carry the work).

Non-negative least squares with three columns: the best non-negative solution is the unconstrained one of some subset of columns, so all seven
subsets are tried. Where the points cannot tell two columns apart (a single context: kv = context*batch), the smallest solution of the scaled
columns is taken, which shares the cost between both.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sla_planner.model.engine import ItlLaw

_MAD_TO_SIGMA = 1.4826  # median absolute deviation to standard deviation, for normal errors
_FULL_WEIGHT_SIGMAS, _NO_WEIGHT_SIGMAS = 3.0, 6.0
_MAX_ITERATIONS = 50
_COEFFICIENTS = 3
_ROUNDING = 1e-9  # of a typical value
_TIE = 1e-12  # of the sum of squares
_LEAVE_ONE_OUT = range(5, 101)  # points: with fewer none is redundant, with more none alone bends the fit

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FitQuality:
    """How well a law describes the points it was fitted to. Errors are |law - measured| / measured."""

    points: int
    mean_relative_error: float
    max_relative_error: float


@dataclass(frozen=True, slots=True)
class PrefillLaw:
    """TTFT_ms = overhead_ms + linear_ms * isl + quadratic_ms * isl^2."""

    overhead_ms: float
    linear_ms: float
    quadratic_ms: float

    def ttft_ms(self, isl_tokens: float) -> float:
        return self.overhead_ms + isl_tokens * (self.linear_ms + isl_tokens * self.quadratic_ms)


def fit_itl(batch: ArrayLike, kv_tokens: ArrayLike, itl_ms: ArrayLike) -> tuple[ItlLaw, FitQuality]:
    """Robust fit of the decode law. Three arrays of one length n >= 1, all values positive."""
    running, held, measured = _floats(batch), _floats(kv_tokens), _floats(itl_ms)
    columns = np.column_stack([np.ones_like(running), running, held])
    coefficients = _robust_fit(columns, measured, weights=1 / measured)
    return ItlLaw(*coefficients.tolist()), _quality(columns @ coefficients, measured)


def fit_prefill(isl_tokens: ArrayLike, ttft_ms: ArrayLike) -> tuple[PrefillLaw, FitQuality]:
    """Robust fit of the prefill law. Two arrays of one length n >= 1, all values positive."""
    isl, measured = _floats(isl_tokens), _floats(ttft_ms)
    columns = np.column_stack([np.ones_like(isl), isl, isl**2])
    coefficients = _robust_fit(columns, measured, weights=np.ones_like(measured))
    return PrefillLaw(*coefficients.tolist()), _quality(columns @ coefficients, measured)


def robust_sigma(residual: ArrayLike) -> float:
    """Standard deviation of the clean part of absolute residuals around a fit of three coefficients, array of n >= 1."""
    absolute = _floats(residual)
    free = max(len(absolute) - _COEFFICIENTS, 1)
    return _MAD_TO_SIGMA * (1 + 5 / free) * float(np.median(absolute))


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)


def _quality(fitted: Floats, measured: Floats) -> FitQuality:
    error = np.abs(fitted - measured) / measured
    return FitQuality(len(measured), float(error.mean()), float(error.max()))


def _robust_fit(columns: Floats, target: Floats, weights: Floats) -> Floats:
    """Non-negative coefficients from the weighted residuals weights * (columns @ coefficients - target)."""
    columns, target = columns * weights[:, None], target * weights
    coefficients = _start(columns, target)
    trust = np.zeros_like(target)
    floor = _ROUNDING * float(np.median(target))
    for _ in range(_MAX_ITERATIONS):
        previous, trust = trust, _trust(np.abs(columns @ coefficients - target), floor)
        if np.allclose(trust, previous, rtol=0, atol=1e-6):
            break
        scale = np.sqrt(trust)
        coefficients = _non_negative(columns * scale[:, None], target * scale)
    return coefficients


def _start(columns: Floats, target: Floats) -> Floats:
    if len(target) not in _LEAVE_ONE_OUT:
        return _non_negative(columns, target)
    fits = [_non_negative(np.delete(columns, left_out, axis=0), np.delete(target, left_out)) for left_out in range(len(target))]
    return min(fits, key=lambda coefficients: float(np.median(np.abs(columns @ coefficients - target))))


def _trust(residual: Floats, floor: float) -> Floats:
    """Hampel's weights. `floor`: residuals up to here are rounding."""
    reach = residual / max(robust_sigma(residual), floor)
    weight: Floats = np.where(reach <= _NO_WEIGHT_SIGMAS, _FULL_WEIGHT_SIGMAS / np.maximum(reach, _FULL_WEIGHT_SIGMAS), 0.0)
    return weight


def _non_negative(columns: Floats, target: Floats) -> Floats:
    """Least squares with coefficients >= 0, by trying every subset of the columns."""
    norms = np.linalg.norm(columns, axis=0)
    scaled = columns / norms
    energy = float(target @ target)
    best: Floats = np.zeros_like(norms)
    least = energy
    for size in range(1, len(norms) + 1):
        for chosen in map(list, combinations(range(len(norms)), size)):
            part = np.linalg.lstsq(scaled[:, chosen], target, rcond=None)[0]
            loss = float(np.sum((scaled[:, chosen] @ part - target) ** 2))
            if part.min() >= 0 and loss <= least + _TIE * energy:  # of two equal fits the one with more columns
                least = loss
                best = np.zeros_like(norms)
                best[chosen] = part
    rescaled: Floats = best / norms
    return rescaled
