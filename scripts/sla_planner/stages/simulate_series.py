"""What a run left behind, request by request, as curves that can be drawn."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sla_planner.model.sla import Sla
from sla_planner.report.run import Floats
from sla_planner.report.series import window_s
from sla_planner.report.simulation import FleetCourse, Load, Minutes
from sla_planner.simulate.run import RunResult, Scenario
from sla_planner.simulate.score import inside
from sla_planner.simulate.true_work import TrueWork, bins_of

MINUTE_S = 60.0
MOST_SLICES = 2880  # two days of minutes: more than a picture has pixels for


def slice_s(duration_s: float) -> float:
    """A minute, but less in the first hour and more after two days."""
    if duration_s < 60 * MINUTE_S:
        return min(window_s(duration_s, 60), MINUTE_S)
    return max(window_s(duration_s, MOST_SLICES), MINUTE_S)


def load_of(scenario: Scenario) -> Load:
    trace, width_s = scenario.trace, slice_s(scenario.end_s)
    bins = bins_of(scenario, width_s)
    index = np.minimum((trace.arrival_s // width_s).astype(np.int64), bins - 1)

    starts = _starts(scenario, width_s)
    lasted_s = np.maximum(np.diff(np.append(starts, scenario.end_s)), width_s / 2)  # the last one is cut short; a sliver would be a spike

    def per_second(weights: npt.NDArray[np.int64] | None) -> Floats:
        rates: Floats = np.bincount(index, weights, bins) / lasted_s
        return rates

    return Load(starts, per_second(None), per_second(trace.isl_tokens), per_second(trace.osl_tokens))


def course_of(scenario: Scenario, result: RunResult, work: TrueWork) -> FleetCourse:
    """`work`: of the scenario's trace."""
    width_s = slice_s(scenario.end_s)
    whole = max(int(scenario.end_s // width_s), 1)  # what is left at the end is no slice to take a mean over
    need = np.column_stack([work.prefill_load(width_s, whole), work.decode_load(width_s, whole)])
    course = result.course
    return FleetCourse(course.at_s, course.ready, course.asked, _starts(scenario, width_s)[:whole] + width_s / 2, need)


def minutes_of(scenario: Scenario, result: RunResult, sla: Sla) -> Minutes:
    """Whoever never had a first token is infinitely late; an answer of one token has no ITL."""
    arrival_s, width_s = scenario.trace.arrival_s, slice_s(scenario.end_s)
    starts = _starts(scenario, width_s)
    cuts = np.append(np.searchsorted(arrival_s, starts), len(arrival_s))
    missed = np.append(0, np.cumsum(~inside(result, sla)))
    count = np.diff(cuts)
    with np.errstate(invalid="ignore"):
        share = np.where(count > 0, (missed[cuts[1:]] - missed[cuts[:-1]]) / count, np.nan)
    ttft_ms = np.where(np.isnan(result.ttft_s), np.inf, result.ttft_s) * 1000
    itl_ms = np.where(result.finished, result.itl_s, np.inf) * 1000
    ttft, itl = _quantiles(ttft_ms, cuts), _quantiles(itl_ms, cuts)
    return Minutes(starts, ttft[0], ttft[1], itl[0], itl[1], share)


def _starts(scenario: Scenario, width_s: float) -> Floats:
    return np.arange(bins_of(scenario, width_s), dtype=np.float64) * np.float64(width_s)


def _quantiles(value_ms: Floats, cuts: npt.NDArray[np.int64]) -> Floats:
    """(2, slices) nearest-rank p50 and p99 of value_ms[cuts[i]:cuts[i + 1]] that are numbers; NaN of none."""
    found = np.full((2, len(cuts) - 1), np.nan)
    for index in range(len(cuts) - 1):
        values = np.sort(value_ms[cuts[index] : cuts[index + 1]])  # NaN last
        known = int(np.searchsorted(values, np.nan)) if len(values) and np.isnan(values[-1]) else len(values)
        if known:
            found[:, index] = values[[-(-known * 50 // 100) - 1, -(-known * 99 // 100) - 1]]
    return found
