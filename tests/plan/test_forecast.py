"""Predictors: what they answer, what they remember, and that nothing they do escapes."""

import json
import math
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sla_planner.errors import UsageError
from sla_planner.plan import predictors_arima, predictors_prophet
from sla_planner.plan.forecast import SeriesState, check_available, forecast, observe, warm_up
from sla_planner.plan.level import AdaptiveLevel
from sla_planner.plan.predictors_arima import ArimaFit, search_due
from sla_planner.plan.settings import Predictor

CHEAP = (Predictor.CONSTANT, Predictor.EWMA)


def after(predictor: Predictor, *values: float | None, window: int = 50) -> SeriesState:
    state = SeriesState(predictor, interval_s=60.0, history_window=window)
    for value in values:
        state = observe(state, value)
    return state


def autoregressive(count: int) -> list[float]:
    """Around 20, each value on the other side of the mean than the last: AR(1) with coefficient -0.9."""
    noise = np.random.default_rng(7).normal(size=count)
    values, deviation = [], 0.0
    for shock in noise:
        deviation = -0.9 * deviation + float(shock)
        values.append(20.0 + deviation)
    return values


def test_constant_is_the_last_value() -> None:
    assert forecast(after(Predictor.CONSTANT, 3.0, 8.0, 5.0), 4).mean == 5.0


def test_ewma_is_the_adaptive_level() -> None:
    state = after(Predictor.EWMA, 10.0, 10.6)
    assert forecast(state).mean == pytest.approx(10.3)


def test_before_any_traffic() -> None:
    nothing = forecast(after(Predictor.EWMA), 3)
    assert (nothing.mean, nothing.note) == (0.0, "no traffic seen yet")
    assert nothing.quantile(0.99) == 0.0


def test_zeros_before_the_first_traffic_are_dropped_and_later_ones_kept() -> None:
    assert after(Predictor.CONSTANT, 0.0, None, 0.0, 4.0, 0.0, 2.0).history == (4.0, 0.0, 2.0)


def test_unknown_intervals_carry_the_last_value() -> None:
    state = after(Predictor.EWMA, 512.0, None, None)
    assert state.history == (512.0, 512.0, 512.0)
    assert state.level.count == 1
    assert forecast(state).mean == 512.0


def test_history_is_bounded() -> None:
    state = after(Predictor.CONSTANT, *map(float, range(1, 200)), window=8)
    assert state.history == tuple(map(float, range(192, 200)))
    assert state.predicted == state.history
    assert after(Predictor.EWMA, 1.0, 2.0, window=1).history == (2.0,)


def test_quantile_is_that_of_past_errors() -> None:
    # 10, 14, 10, 14 ... ending on 10; the last value is expected to stay. After 10 it rises by 4, after 14 it falls by 4: 20 times each.
    state = after(Predictor.CONSTANT, *([10.0, 14.0] * 20), 10.0)
    one = forecast(state, 1)
    assert [one.quantile(p) for p in (0.1, 0.5, 0.51, 0.99)] == [6.0, 6.0, 14.0, 14.0]
    # The maximum of the next two less the value before: 4 after 10, 0 after 14.
    two = forecast(state, 2)
    assert [two.quantile(p) for p in (0.1, 0.9)] == [10.0, 14.0]


def test_quantile_before_enough_is_known() -> None:
    # Scatter sqrt(0.5 * (1.8 + 0.2)) = 1. The median of the maximum of two normal values is 0.545 above their mean.
    state = SeriesState(history=(1.8,), predicted=(1.8,), level=AdaptiveLevel(1.8, 0.5, 1000))
    assert forecast(state, 1).quantile(0.975) == pytest.approx(1.8 + 1.960, abs=1e-3)
    assert forecast(state, 2).quantile(0.5) == pytest.approx(1.8 + 0.545, abs=1e-3)
    assert forecast(state, 1).quantile(1e-6) == 0.0


@pytest.mark.parametrize("predictor", CHEAP)
@pytest.mark.parametrize("steps", [1, 4])
def test_quantiles_cover_what_follows(predictor: Predictor, steps: int) -> None:
    counts = np.random.default_rng(3).poisson(6, size=600).astype(float)
    state, covered, asked = SeriesState(predictor, 60.0, 120), 0, 0
    for i, value in enumerate(counts[:-steps]):
        state = observe(state, float(value))
        if i >= 30:
            asked += 1
            covered += max(counts[i + 1 : i + 1 + steps]) <= forecast(state, steps).quantile(0.9)
    assert 0.85 <= covered / asked <= 0.97


series = st.lists(st.none() | st.floats(0, 1e7), max_size=70)


@given(predictor=st.sampled_from(CHEAP), values=series, steps=st.integers(1, 12))
@settings(max_examples=50)
def test_forecasts_are_finite_and_ordered(predictor: Predictor, values: list[float | None], steps: int) -> None:
    expected = forecast(after(predictor, *values, window=30), steps)
    quantiles = [expected.quantile(p) for p in (0.001, 0.5, 0.9, 0.999)]
    assert math.isfinite(expected.mean)
    assert expected.mean >= 0
    assert quantiles == sorted(quantiles)
    assert all(math.isfinite(value) and value >= 0 for value in quantiles)


@given(predictor=st.sampled_from(CHEAP), values=series, more=series)
@settings(max_examples=50)
def test_state_survives_json(predictor: Predictor, values: list[float | None], more: list[float | None]) -> None:
    state = after(predictor, *values, window=30)
    restored = SeriesState.from_json(json.loads(json.dumps(state.to_json(), allow_nan=False)))
    assert restored == state
    assert warm_up(restored, more) == warm_up(state, more)


@pytest.mark.parametrize(
    "damage", [{"history": [1.0, math.nan]}, {"history": [1.0]}, {"predictor": "oracle"}, {"level": [1.0, 0.1]}, {"interval_s": -1}, {"level": None}]
)
def test_damaged_state_is_refused(damage: dict[str, object]) -> None:
    document = after(Predictor.EWMA, 1.0, 2.0).to_json() | damage
    with pytest.raises((ValueError, TypeError, KeyError)):
        SeriesState.from_json(document)


@pytest.mark.parametrize("predictor", CHEAP)
def test_warm_up_is_observing(predictor: Predictor) -> None:
    values = [0.0, 3.0, None, 4.0, 9.0]
    assert warm_up(SeriesState(predictor, 60.0, 50), values) == after(predictor, *values)
    assert warm_up(after(predictor, 1.0), []) == after(predictor, 1.0)


# -- arima ----------------------------------------------------------------------------------------------------------------------------------------


def test_arima_follows_a_trend_and_beats_the_last_value() -> None:
    state = warm_up(SeriesState(Predictor.ARIMA, 60.0, 50), [5.0, 6.5, 7.5, 9.0, 10.0, 11.5, 12.5, 14.0, 15.0, 16.5, 17.5, 19.0])
    expected = forecast(state, 3)
    assert expected.note == ""
    assert 19.5 < expected.next < 21.5
    assert expected.mean > expected.next


@pytest.fixture(scope="module")
def alternating() -> SeriesState:
    return warm_up(SeriesState(Predictor.ARIMA, 60.0, 50), autoregressive(60)[:40])


def test_arima_finds_what_alternates(alternating: SeriesState) -> None:
    state, errors, last_errors = alternating, [], []
    for value in autoregressive(60)[40:]:
        errors.append(abs(forecast(state).next - value))
        last_errors.append(abs(state.history[-1] - value))
        state = observe(state, value)
    assert sum(errors) < 0.6 * sum(last_errors)


def test_arima_result_does_not_depend_on_the_cache(alternating: SeriesState) -> None:
    before = forecast(alternating, 4)
    predictors_arima._filtered.cache_clear()
    assert forecast(SeriesState.from_json(json.loads(json.dumps(alternating.to_json()))), 4) == before


def test_arima_falling_series_never_goes_below_zero() -> None:
    state = warm_up(SeriesState(Predictor.ARIMA, 60.0, 50), [40.0, 35.5, 32.0, 26.0, 22.5, 17.0, 12.0, 8.5, 4.0, 0.0])
    expected = forecast(state, 6)
    assert expected.mean >= 0
    assert expected.next >= 0


def test_arima_needs_five_values_that_differ() -> None:
    few = forecast(after(Predictor.ARIMA, 1.0, 2.0, 3.0, 4.0))
    assert (few.mean, few.note) == (4.0, "arima needs 5 values, has 4: last value used")
    same = forecast(after(Predictor.ARIMA, *[6.0] * 9))
    assert (same.mean, same.note) == (6.0, "")


@pytest.mark.parametrize(
    ("fit", "why"),
    [
        (ArimaFit(6, error="LinAlgError: singular matrix"), "ValueError: LinAlgError: singular matrix"),
        (ArimaFit(6, (1, 1, 1), (0.5,)), "(Index|Value)Error: .+"),
        (ArimaFit(6, (0, 1, 1), (math.inf, 1.0)), "(Value|LinAlg)Error: .+"),
    ],
)
def test_arima_failure_falls_back_to_the_last_value(fit: ArimaFit, why: str) -> None:
    state = replace(after(Predictor.CONSTANT, 3.0, 5.0, 4.0, 6.0, 5.0, 7.0), predictor=Predictor.ARIMA, arima=fit)
    expected = forecast(state, 2)
    assert (expected.mean, expected.predictor) == (7.0, Predictor.ARIMA)
    assert re.fullmatch(rf"arima failed \({why}\): last value used", expected.note)


def test_arima_orders_are_searched_rarely() -> None:
    assert search_due(None, 5)
    searches = [5]
    for count in range(6, 400):
        if search_due(ArimaFit(searches[-1]), count):
            searches.append(count)
    assert searches == [5, 10, 20, 40, 80, 140, 200, 260, 320, 380]


def test_arima_keeps_its_parameters_between_searches(alternating: SeriesState) -> None:
    later = observe(alternating, 21.5)
    assert later.arima == alternating.arima
    assert later.history[-1] == 21.5


# -- prophet: 300 MB that tests do not install; a stand-in takes its place --------------------------------------------------------------------------


class LineThroughTheEnds:
    """Prophet's interface: continues the line through the first and the last point."""

    def __init__(self, uncertainty_samples: int) -> None:
        self.uncertainty_samples = uncertainty_samples

    def fit(self, frame) -> None:  # type: ignore[no-untyped-def]
        if frame["y"].max() > 1000:
            raise RuntimeError("optimisation failed")
        self.frame = frame

    def predict(self, frame):  # type: ignore[no-untyped-def]
        times, values = self.frame["ds"], self.frame["y"]
        per_s = (values.iloc[-1] - values.iloc[0]) / (times.iloc[-1] - times.iloc[0]).total_seconds()
        return {"yhat": [values.iloc[-1] + per_s * (at - times.iloc[-1]).total_seconds() for at in frame["ds"]]}


@pytest.fixture
def prophet(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SimpleNamespace(name="prophet")
    monkeypatch.setitem(sys.modules, "prophet", SimpleNamespace(Prophet=LineThroughTheEnds, __spec__=spec))
    predictors_prophet._fitted.cache_clear()


@pytest.mark.usefixtures("prophet")
def test_prophet_sees_the_interval_spacing_and_the_path_it_is_asked_for() -> None:
    expected = forecast(warm_up(SeriesState(Predictor.PROPHET, 180.0, 50), [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]), 3)
    assert expected.note == ""
    assert (expected.next, expected.mean) == (pytest.approx(14.0), pytest.approx(16.0))


@pytest.mark.usefixtures("prophet")
def test_prophet_is_clamped_and_needs_five_values() -> None:
    assert forecast(warm_up(SeriesState(Predictor.PROPHET, 60.0, 50), [12.0, 9.0, 6.0, 3.0, 0.0]), 4).mean == 0.0
    assert forecast(after(Predictor.PROPHET, 12.0, 9.0)).note == "prophet needs 5 values, has 2: last value used"


@pytest.mark.usefixtures("prophet")
def test_prophet_failure_falls_back_to_the_last_value() -> None:
    expected = forecast(after(Predictor.PROPHET, 1.0, 2.0, 5000.0, 3.0, 4.0, 5.0), 2)
    assert (expected.mean, expected.note) == (5.0, "prophet failed (RuntimeError: optimisation failed): last value used")


def test_absent_prophet_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prophet", None)
    with pytest.raises(UsageError, match=r"needs prophet, which is not installed; pip install 'sla-planner\[prophet\]'"):
        check_available(Predictor.PROPHET)
    for predictor in (Predictor.CONSTANT, Predictor.EWMA, Predictor.ARIMA):
        check_available(predictor)
