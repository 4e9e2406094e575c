"""Prophet, as it comes, on the values of the history spaced by the interval.

Its daily and weekly seasonality then mean days and weeks (it enables them by itself once the history spans two of them). Only the spacing matters,
not the date, so the series starts at a fixed one. No samples of uncertainty are drawn: the distribution comes from past errors, and two runs agree.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from typing import Any

START = "2024-01-01"
FAILURES: tuple[type[Exception], ...] = (ValueError, RuntimeError)


def path(history: tuple[float, ...], interval_s: float, steps: int) -> list[float]:
    """The next `steps` values. Raises one of `FAILURES` when the fit fails or predicts no finite value."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame = _times(len(history), steps, interval_s)
        values = [float(value) for value in _fitted(history, interval_s).predict(frame)["yhat"]]
    if not all(math.isfinite(value) for value in values):
        raise ValueError("prediction is not finite")
    return values


@lru_cache(maxsize=8)
def _fitted(history: tuple[float, ...], interval_s: float) -> Any:
    """The fitted model. Cached because one tick asks twice: for the next value, and for the path that the caller wants."""
    from prophet import Prophet  # an optional extra of 300 MB

    model = Prophet(uncertainty_samples=0)
    model.fit(_times(0, len(history), interval_s).assign(y=history))
    return model


def _times(first: int, count: int, interval_s: float) -> Any:
    """Timestamps of `count` intervals from interval `first` on, as Prophet takes them."""
    import pandas as pd  # type: ignore[import-untyped]  # comes with prophet

    return pd.DataFrame({"ds": pd.Timestamp(START) + pd.to_timedelta([(first + i) * interval_s for i in range(count)], unit="s")})
