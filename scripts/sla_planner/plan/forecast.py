"""What a series will be: one value per interval in, the next intervals out. Nothing here is fitted to one kind of series; all values are >= 0.

    constant   the last value
    ewma       the adaptive level (level.py); no trend, as trends lose at these horizons
    arima      ARIMA with orders and parameters searched rarely and reused in between (predictors_arima.py)
    prophet    Prophet on the last `history_window` values (predictors_prophet.py)

The future is given as a path of predictions p_1 .. p_s. The distribution of its *maximum*, which is what workers have to serve until the next
ones are ready, comes from how the same predictor did before (conformal, additive):

    quantile(q) = p_1 + the q-quantile over past intervals j of  max(x_{j+1} .. x_{j+s}) - p_1(j)

and while fewer than `LEAST_RESIDUALS` are known from a stated prior: s independent normal values around p_1 with the series' usual scatter,
p_1 + sqrt(v (l + 0.2)) Phi^-1(q^(1/s)), v and l those of the adaptive level.

Zeros before the first traffic are not recorded. An interval of which nothing is known (no requests, so no length; no answer, so no rate) carries
the last value. A predictor that fails answers with the last value and says so in `note`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from statistics import NormalDist
from typing import Any

from sla_planner.errors import UsageError
from sla_planner.plan import predictors_arima, predictors_prophet
from sla_planner.plan.level import VARIANCE_FLOOR, AdaptiveLevel
from sla_planner.plan.predictors_arima import ArimaFit
from sla_planner.plan.settings import Predictor

LARGEST = 2.0**53  # no amount is larger; whatever says so is damaged
LEAST_RESIDUALS = 20
LEAST_VALUES = 5  # below, arima and prophet answer with the last value
NEEDS = {Predictor.ARIMA: ("statsmodels", "sla-planner"), Predictor.PROPHET: ("prophet", "sla-planner[prophet]")}


@dataclass(frozen=True, slots=True)
class SeriesState:
    """One series as remembered: plain data, `history_window` values of it.

    `history`: the last values, oldest first. `predicted[i]`: what was expected right after `history[i]` for the interval that followed it (None:
    nothing was predicted then). `level`: over all values ever seen. `arima`: the last order search, of that predictor only.
    """

    predictor: Predictor = Predictor.EWMA
    interval_s: float = 15.0
    history_window: int = 50
    history: tuple[float, ...] = ()
    predicted: tuple[float | None, ...] = ()
    level: AdaptiveLevel = field(default_factory=AdaptiveLevel)
    arima: ArimaFit | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types only."""
        return {
            "predictor": self.predictor.value,
            "interval_s": self.interval_s,
            "history_window": self.history_window,
            "history": list(self.history),
            "predicted": list(self.predicted),
            "level": [self.level.level, self.level.variance, self.level.count],
            "arima": None if self.arima is None else self.arima.to_json(),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> SeriesState:
        """The inverse of `to_json`. Raises KeyError, TypeError or ValueError when `document` is not a series."""
        level, variance, count = document["level"]
        predicted = tuple(None if value is None else _amount(value) for value in document["predicted"])
        if len(predicted) != len(document["history"]):
            raise ValueError(f"{len(predicted)} predictions for {len(document['history'])} values")
        return cls(
            predictor=Predictor(document["predictor"]),
            interval_s=_amount(document["interval_s"]),
            history_window=int(document["history_window"]),
            history=tuple(_amount(value) for value in document["history"]),
            predicted=predicted,
            level=AdaptiveLevel(_amount(level), max(_amount(variance), VARIANCE_FLOOR), int(_amount(count))),
            arima=None if document["arima"] is None else ArimaFit.from_json(document["arima"]),
        )


def _amount(value: Any) -> float:
    number = float(value)
    if not 0 <= number < LARGEST:
        raise ValueError(f"{number:g} is not a number >= 0 and < {LARGEST:g}")
    return number


@dataclass(frozen=True, slots=True)
class Forecast:
    """The next `steps` intervals. `mean` of the path and `next` (its first value) are finite and >= 0.

    `series`: what it was made of. `note`: "" or what went wrong.
    """

    mean: float
    next: float
    steps: int
    predictor: Predictor
    note: str = ""
    series: SeriesState = field(default_factory=SeriesState)

    def quantile(self, p: float) -> float:
        """The value that the maximum of the next `steps` values does not exceed with probability `p`, 0 < p < 1. Never below 0."""
        residuals = _residuals(self.series, self.steps)
        if len(residuals) < LEAST_RESIDUALS:
            scatter = self.series.level.scatter if self.series.history else 0.0
            return max(self.next + scatter * NormalDist().inv_cdf(p ** (1.0 / self.steps)), 0.0)
        rank = math.ceil(p * len(residuals))
        return max(self.next + residuals[max(rank, 1) - 1], 0.0)


def check_available(predictor: Predictor) -> None:
    """Raises UsageError when the library that `predictor` needs is not installed."""
    if predictor in NEEDS and find_spec(NEEDS[predictor][0]) is None:
        library, package = NEEDS[predictor]
        raise UsageError(f"load predictor {predictor.value} needs {library}, which is not installed", hint=f"pip install '{package}'")


def observe(state: SeriesState, value: float | None) -> SeriesState:
    """The series after one more interval. None: nothing is known of it, the last value is carried. Raises UsageError like `check_available`."""
    state = _appended(state, value)
    if not state.history or len(state.predicted) == len(state.history):
        return state
    if state.predictor is Predictor.ARIMA and predictors_arima.search_due(state.arima, state.level.count) and _varied(state):
        check_available(state.predictor)
        state = replace(state, arima=predictors_arima.search(state.history, state.level.count))
    path, _ = _path(state, 1)
    return replace(state, predicted=(*state.predicted, path[0]))


def warm_up(state: SeriesState, values: Iterable[float | None]) -> SeriesState:
    """The series after `values`, oldest first, as by `observe`; arima and prophet predict after the last only (a fit for each takes minutes)."""
    values = tuple(values)
    for value in values[:-1]:
        if state.predictor in NEEDS:
            state = _appended(state, value)
            state = replace(state, predicted=(*state.predicted, None)[: len(state.history)])
        else:
            state = observe(state, value)
    return observe(state, values[-1]) if values else state


def forecast(state: SeriesState, steps: int = 1) -> Forecast:
    """What to expect of the next `steps` >= 1 intervals. Before the first value: 0, and the note says so."""
    if not state.history:
        return Forecast(0.0, 0.0, steps, state.predictor, "no traffic seen yet")
    path, note = _path(state, steps)
    return Forecast(
        mean=sum(path) / steps,
        next=path[0],
        steps=steps,
        predictor=state.predictor,
        note=note,
        series=state,
    )


def _appended(state: SeriesState, value: float | None) -> SeriesState:
    """`state` with one more value in its history, for which `predicted` is still to be added; `state` itself before the first traffic."""
    if not state.history and not value:
        return state
    window = state.history_window
    predicted = state.predicted[-(window - 1) :] if window > 1 else ()
    if value is None:
        return replace(state, history=(*state.history, state.history[-1])[-window:], predicted=predicted)
    return replace(state, history=(*state.history, value)[-window:], predicted=predicted, level=state.level.observe(value))


def _varied(state: SeriesState) -> bool:
    return len(state.history) >= LEAST_VALUES and min(state.history) < max(state.history)


def _path(state: SeriesState, steps: int) -> tuple[list[float], str]:
    """`steps` predictions, finite and >= 0, and a note ("" = as asked)."""
    last = state.history[-1]
    if state.predictor is Predictor.EWMA:
        return [state.level.level] * steps, ""
    if state.predictor is Predictor.CONSTANT:
        return [last] * steps, ""
    if not _varied(state):
        few = len(state.history) < LEAST_VALUES
        return [last] * steps, f"{state.predictor.value} needs {LEAST_VALUES} values, has {len(state.history)}: last value used" if few else ""
    check_available(state.predictor)
    try:
        path = (
            predictors_arima.path(state.history, state.arima, steps)
            if state.predictor is Predictor.ARIMA
            else predictors_prophet.path(state.history, state.interval_s, steps)
        )
    except predictors_arima.FAILURES + predictors_prophet.FAILURES as failure:
        return [last] * steps, f"{state.predictor.value} failed ({type(failure).__name__}: {failure}): last value used"
    return [max(value, 0.0) for value in path], ""


def _residuals(state: SeriesState, steps: int) -> tuple[float, ...]:
    """For every past prediction that `steps` values have followed: their maximum less it. Ascending."""
    values = state.history
    return tuple(
        sorted(
            max(values[after : after + steps]) - expected
            for after, expected in enumerate(state.predicted[: max(len(values) - steps, 0)], start=1)
            if expected is not None
        )
    )
