"""The two latency laws of an engine and their robust fit.

    decode    ITL_ms(batch, kv)  = c0 + c1*batch + c2*kv_tokens      a step reads the weights once, then every request and every KV token
    prefill   TTFT_ms(isl)       = a + b*isl + c*isl^2               fixed overhead, matrix products, attention

All coefficients are non-negative. The fit minimises Huber's loss of the residuals by iteratively reweighted least squares: weight 1 up to 3 sigma,
3*sigma/|residual| beyond, sigma = 1.4826 * median(|residual|). So clean data give plain least squares, and one bad point pulls no harder than
a point 3 sigma off. ITL residuals are relative (ITL spans a factor of ten over batch); TTFT residuals are absolute (its spread grows slower than
TTFT, and the long prompts carry the work).

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

HUBER_SIGMAS = 3.0
MAD_TO_SIGMA = 1.4826  # median absolute deviation to standard deviation, for normal errors
_MAX_ITERATIONS = 50

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


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)


def _quality(fitted: Floats, measured: Floats) -> FitQuality:
    error = np.abs(fitted - measured) / measured
    return FitQuality(len(measured), float(error.mean()), float(error.max()))


def _robust_fit(columns: Floats, target: Floats, weights: Floats) -> Floats:
    """Non-negative coefficients that minimise Huber's loss of weights * (columns @ coefficients - target)."""
    trust = np.ones_like(target)
    coefficients = _non_negative(columns * weights[:, None], target * weights)
    for _ in range(_MAX_ITERATIONS):
        residual = np.abs(columns @ coefficients - target) * weights
        limit = HUBER_SIGMAS * MAD_TO_SIGMA * float(np.median(residual))
        previous, trust = trust, np.where(residual > limit, limit / np.maximum(residual, limit), 1.0) if limit > 0 else trust
        if np.allclose(trust, previous, rtol=0, atol=1e-6):
            break
        scale = weights * np.sqrt(trust)
        coefficients = _non_negative(columns * scale[:, None], target * scale)
    return coefficients


def _non_negative(columns: Floats, target: Floats) -> Floats:
    """Least squares with coefficients >= 0, by trying every subset of the columns."""
    norms = np.linalg.norm(columns, axis=0)
    scaled = columns / norms
    best: Floats = np.zeros(columns.shape[1])
    least = float(target @ target)
    for size in range(1, columns.shape[1] + 1):
        for chosen in map(list, combinations(range(columns.shape[1]), size)):
            part = np.linalg.lstsq(scaled[:, chosen], target, rcond=None)[0]
            loss = float(np.sum((scaled[:, chosen] @ part - target) ** 2))
            if part.min() >= 0 and loss <= least:
                least = loss
                best = np.zeros(columns.shape[1])
                best[chosen] = part
    rescaled: Floats = best / norms
    return rescaled
