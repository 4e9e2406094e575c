"""ARIMA(p, d, q) by maximum likelihood (statsmodels). Orders are searched rarely: that costs up to a second, a prediction milliseconds.

d       0 or 1, whichever leaves the smaller variance (differencing a series that reverts to its mean raises it)
p, q    the pair with p + q <= 2 and the lowest AIC; a constant where d = 0
search  at the first chance, again whenever the series has doubled since, and at the latest every `SEARCH_EVERY` values
tick    the Kalman filter runs over the history with the parameters found, nothing is fitted
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

SEARCH_EVERY = 60
ITERATIONS = 20  # a series without noise has no optimum, and would be polished for seconds
ORDERS = ((0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (0, 2))
FAILURES: tuple[type[Exception], ...] = (np.linalg.LinAlgError, ValueError, ArithmeticError, IndexError)


@dataclass(frozen=True, slots=True)
class ArimaFit:
    """The outcome of an order search after `at_count` values; `error` says why there is none."""

    at_count: int
    order: tuple[int, int, int] = (0, 0, 0)
    params: tuple[float, ...] = ()
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ArimaFit:
        p, d, q = (int(part) for part in document["order"])
        return cls(int(document["at_count"]), (p, d, q), tuple(float(value) for value in document["params"]), str(document["error"]))


def search_due(fit: ArimaFit | None, count: int) -> bool:
    """Whether the series, `count` values old, needs a new search."""
    return fit is None or count - fit.at_count >= min(fit.at_count, SEARCH_EVERY)


def search(history: tuple[float, ...], count: int) -> ArimaFit:
    """Order and parameters for `history`, which holds at least two different values."""
    import statsmodels.tsa.arima.model  # noqa: F401  # its import would put its own warning filter before ours

    differenced = np.var(np.diff(history)) < np.var(history)
    best: tuple[float, ArimaFit] | None = None
    error = "no order fits"
    for p, q in ORDERS:
        order = (p, int(differenced), q)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # start values, convergence: a poor fit has a poor AIC
                fitted = _model(history, order).fit(cov_type="none", method_kwargs={"maxiter": ITERATIONS})
        except FAILURES as failure:
            error = f"{type(failure).__name__}: {failure}"
            continue
        params = tuple(float(value) for value in fitted.params)
        if all(math.isfinite(value) for value in (fitted.aic, *params)) and (best is None or fitted.aic < best[0]):
            best = (float(fitted.aic), ArimaFit(count, order, params))
    return ArimaFit(count, error=error) if best is None else best[1]


def path(history: tuple[float, ...], fit: ArimaFit | None, steps: int) -> list[float]:
    """The next `steps` values. Raises one of `FAILURES` when there is no fit or no finite prediction."""
    if fit is None or fit.error:
        raise ValueError("no order searched yet" if fit is None else fit.error)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = [float(value) for value in _filtered(history, fit.order, fit.params).forecast(steps)]
    if not all(math.isfinite(value) for value in values):
        raise ValueError("prediction is not finite")
    return values


@lru_cache(maxsize=8)
def _filtered(history: tuple[float, ...], order: tuple[int, int, int], params: tuple[float, ...]) -> Any:
    """The filtered model. Cached because one tick asks twice: for the next value, and for the path that the caller wants."""
    return _model(history, order).filter(np.array(params))


def _model(history: tuple[float, ...], order: tuple[int, int, int]) -> Any:
    from statsmodels.tsa.arima.model import ARIMA  # 4 s and 70 MB: only whoever asks for it pays

    return ARIMA(np.array(history), order=order, trend="n" if order[1] else "c")
