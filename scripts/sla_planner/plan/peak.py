"""The fleet that one would rent without a planner: constant, and large enough for the busiest moment of known traffic.

    N = max over windows of  load / r*         r* = highest utilisation at which the promised share of requests holds (`misses`), rounded up

Loads are those of the risk sizing: prefill work as it arrives, decode work smoothed over one residence. Windows of `window_s` start every second.
It knows the traffic in advance, so it is the smallest honest fleet of its kind, not a straw man.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from sla_planner.model.engine import Engine
from sla_planner.model.sla import Sla
from sla_planner.plan.misses import decode_miss_curve, highest_load, prefill_miss_curve, within_reach
from sla_planner.plan.work import LengthMix, request_work


def peak_fleet(
    engine: Engine, sla: Sla, arrival_s: npt.ArrayLike, isl_tokens: npt.ArrayLike, osl_tokens: npt.ArrayLike, *, window_s: float
) -> tuple[int, int]:
    """(prefill, decode) workers. Arrays of one entry per request, in order of arrival."""
    arrival = np.asarray(arrival_s, float)
    isl, osl = np.asarray(isl_tokens, float), np.asarray(osl_tokens, float)
    mix = LengthMix((tuple(isl), (1 / len(isl),) * len(isl)), (tuple(osl), (1 / len(osl),) * len(osl)))
    work = within_reach(request_work(engine, sla, mix), sla)
    prefill_s = work.prefill_s / isl.mean() * isl
    decode_s = work.decode_s / osl.mean() * osl
    residence_s = osl.mean() * work.itl_target_ms / 1000
    busiest = (_busiest(arrival, prefill_s, window_s), _busiest(arrival, decode_s, max(window_s, residence_s)))
    curves = (prefill_miss_curve(work), decode_miss_curve(work))
    prefill, decode = (max(math.ceil(load / highest_load(curve, 1 - sla.attainment)), 1) for load, curve in zip(busiest, curves, strict=True))
    return prefill, decode


def _busiest(arrival: np.ndarray, work_s: np.ndarray, window_s: float) -> float:
    """Highest work per second over windows of `window_s`."""
    starts = np.arange(arrival[0], max(arrival[-1] - window_s, arrival[0]) + 1, 1.0)
    total = np.concatenate([[0.0], np.cumsum(work_s)])
    sums = total[np.searchsorted(arrival, starts + window_s)] - total[np.searchsorted(arrival, starts)]
    return float(sums.max()) / window_s
