"""Was the promise kept, and what did it cost.

A request is inside when it had its first token within the promised TTFT and the mean of its gaps was within the promised ITL; one that never ended
is not. The first `WARM_UP_S` seconds are not scored: the fleet starts as it is given, not as a policy made it. GPU-hours are those of the whole day.

    attainment       requests inside / requests
    minutes inside   minutes with at least the goal's share of their requests inside / minutes with requests
    changes          decisions that changed what is asked for;  direction changes: per role, growth after shrinkage or the reverse, most in any hour
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sla_planner.model.sla import Sla
from sla_planner.simulate.run import RunResult, Scenario

WARM_UP_S = 600.0


@dataclass(frozen=True, slots=True)
class Score:
    """Shares are 0..1, latencies ms over scored requests: infinite where so many were never answered, NaN without any request."""

    requests: int
    attainment: float
    ttft_attainment: float
    itl_attainment: float
    minutes_inside: float
    gpu_hours: float
    gpu_hours_prefill: float
    gpu_hours_decode: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    itl_p50_ms: float
    itl_p99_ms: float
    actions: int
    launches: int
    most_direction_changes_per_hour: int


def scored(scenario: Scenario, warm_up_s: float = WARM_UP_S) -> npt.NDArray[np.bool_]:
    """(n,) whether each request counts: all of them, if the trace ends within the warm-up."""
    late_enough: npt.NDArray[np.bool_] = scenario.trace.arrival_s >= warm_up_s
    return late_enough if late_enough.any() else np.ones(len(late_enough), bool)


def inside(result: RunResult, sla: Sla) -> npt.NDArray[np.bool_]:
    """(n,) whether each request of the trace was served as promised."""
    return within_ttft(result, sla) & _within_itl(result, sla)


def score(scenario: Scenario, result: RunResult, sla: Sla, *, warm_up_s: float = WARM_UP_S) -> Score:
    """`result` judged. A trace that ends within the warm-up is scored whole."""
    judged = scored(scenario, warm_up_s)
    kept = inside(result, sla)[judged]
    asked = result.course.asked
    with_gaps = judged & ~(result.finished & np.isnan(result.itl_s))
    return Score(
        requests=int(judged.sum()),
        attainment=float(kept.mean()),
        ttft_attainment=float(within_ttft(result, sla)[judged].mean()),
        itl_attainment=float(_within_itl(result, sla)[judged].mean()),
        minutes_inside=_minutes_inside(scenario.trace.arrival_s[judged], kept, sla.attainment),
        gpu_hours=result.gpu_hours,
        gpu_hours_prefill=result.gpu_hours_prefill,
        gpu_hours_decode=result.gpu_hours_decode,
        ttft_p50_ms=_quantile_ms(result.ttft_s[judged], 0.5),
        ttft_p99_ms=_quantile_ms(result.ttft_s[judged], 0.99),
        itl_p50_ms=_quantile_ms(result.itl_s[with_gaps], 0.5),
        itl_p99_ms=_quantile_ms(result.itl_s[with_gaps], 0.99),
        actions=int((np.diff(asked, axis=0) != 0).any(axis=1).sum()),
        launches=result.launches,
        most_direction_changes_per_hour=max(most_direction_changes(result.course.at_s, asked[:, role]) for role in (0, 1)),
    )


def most_direction_changes(at_s: npt.NDArray[np.float64], asked: npt.NDArray[np.int64]) -> int:
    """Most changes of direction of one role in any 3600 s."""
    steps = np.diff(asked)
    moved = np.flatnonzero(steps)
    turned = at_s[1:][moved[1:][np.diff(np.sign(steps[moved])) != 0]]
    return int(max((np.searchsorted(turned, turned + 3600.0) - np.arange(len(turned))), default=0))


def within_ttft(result: RunResult, sla: Sla) -> npt.NDArray[np.bool_]:
    """(n,) whether each request had its first token in time."""
    return result.ttft_s <= sla.ttft_ms / 1000  # NaN: never


def _within_itl(result: RunResult, sla: Sla) -> npt.NDArray[np.bool_]:
    return result.finished & ~(result.itl_s > sla.itl_ms / 1000)  # NaN: an answer of one token has no gap


def _minutes_inside(arrival_s: npt.NDArray[np.float64], kept: npt.NDArray[np.bool_], goal: float) -> float:
    minute = (arrival_s // 60).astype(np.int64)
    minute -= minute.min()
    requests = np.bincount(minute)
    inside_count = np.bincount(minute, weights=kept)
    with_requests = requests > 0
    return float((inside_count[with_requests] >= goal * requests[with_requests]).mean())


def _quantile_ms(seconds: npt.NDArray[np.float64], share: float) -> float:
    """The latency that so many requests did not exceed; infinite where they had none. NaN without any request."""
    if not len(seconds):
        return math.nan
    place = min(int(share * len(seconds)), len(seconds) - 1)
    return float(np.partition(np.where(np.isnan(seconds), math.inf, seconds), place)[place]) * 1000
