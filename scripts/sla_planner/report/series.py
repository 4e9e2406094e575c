"""Requests and ticks as curves over time, ready to draw.

rate        weights summed per bin of equal width / bin width
rolling     nearest-rank quantile of the requests that arrived within half a window of a moment; a request that was never answered
            counts as infinitely late, so it can push p99 off the scale but can never be left out of it
steps       (t, value) pairs, each value holding until the next t
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sla_planner.plan.decision import Role
from sla_planner.plan.record import Carried, Tick
from sla_planner.report.run import Floats, RunReport, of_role, workers_of

WINDOWS_S = (0.5, 1, 2, 3, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)


@dataclass(frozen=True, slots=True)
class TimeUnit:
    """What a time axis counts in."""

    name: str
    seconds: float


def time_unit(duration_s: float) -> TimeUnit:
    """Seconds up to three minutes, minutes up to three hours, hours beyond."""
    if duration_s <= 180:
        return TimeUnit("s", 1.0)
    if duration_s <= 3 * 3600:
        return TimeUnit("min", 60.0)
    return TimeUnit("h", 3600.0)


def window_s(duration_s: float, parts: int) -> float:
    """The round width nearest to `duration_s / parts`."""
    return min(WINDOWS_S, key=lambda width: abs(width - duration_s / parts))


def rate(arrival_s: Floats, weights: Floats, duration_s: float, bin_s: float) -> tuple[Floats, Floats]:
    """Weights per second in bins of `bin_s`: edges (bins + 1,) and rates (bins,). The last bin may be cut short by the end of the run."""
    edges = np.append(np.arange(0.0, duration_s - 1e-9, bin_s), duration_s)
    summed, _ = np.histogram(arrival_s, bins=edges, weights=weights)
    return edges, summed / np.diff(edges)


def rolling(arrival_s: Floats, value_ms: Floats, at_s: Floats, width_s: float, quantile: float) -> Floats:
    """Shape of `at_s`. NaN where no request arrived in the window. NaN in `value_ms` = infinitely late. `arrival_s` rises."""
    late = np.where(np.isnan(value_ms), np.inf, value_ms)
    first = np.searchsorted(arrival_s, at_s - width_s / 2, side="left")
    last = np.searchsorted(arrival_s, at_s + width_s / 2, side="right")
    pairs = zip(first, last, strict=True)
    return np.array([np.quantile(late[a:b], quantile, method="inverted_cdf") if b > a else np.nan for a, b in pairs])


@dataclass(frozen=True, slots=True, eq=False)
class FleetSteps:
    """Workers of one role over time, as steps. The last value holds to the end of the run."""

    t_s: Floats
    ready: Floats
    starting: Floats


def fleet_steps(report: RunReport, role: Role) -> FleetSteps:
    """The sampled fleet, else what the ticks saw; a tick that saw nothing is left out."""
    if report.workers is not None:
        sampled = report.workers
        ready, starting = (
            (sampled.prefill_ready, sampled.prefill_starting) if role is Role.PREFILL else (sampled.decode_ready, sampled.decode_starting)
        )
        return _held(sampled.t_s, ready, starting, report.duration_s)
    seen = [(tick.observation.traffic.at_s - report.start_s, workers_of(tick.observation, role)) for tick in report.ticks]
    known = [(t_s, workers) for t_s, workers in seen if workers is not None]
    return _held([t_s for t_s, _ in known], [workers.ready for _, workers in known], [workers.starting for _, workers in known], report.duration_s)


def asked_steps(report: RunReport, role: Role) -> tuple[Floats, Floats]:
    """What the planner asked for: times and counts, from the count it found at the first tick to the end of the run."""
    if not report.ticks:
        return np.empty(0), np.empty(0)
    decisions = [tick.decision for tick in report.ticks]
    times = [0.0, *(decision.at_s - report.start_s for decision in decisions), report.duration_s]
    counts = [of_role(decisions[0], role).current, *(_asked(tick, role) for tick in report.ticks)]
    return np.array(times, dtype=float), np.array([*counts, counts[-1]], dtype=float)


def _asked(tick: Tick, role: Role) -> int:
    made = of_role(tick.decision, role)
    return made.desired if tick.carried is Carried.APPLIED else made.current


def _held(t_s: ArrayLike, ready: ArrayLike, starting: ArrayLike, end_s: float) -> FleetSteps:
    times, *counts = (np.asarray(values, dtype=float) for values in (t_s, ready, starting))
    if len(times) == 0:
        return FleetSteps(times, *counts)
    return FleetSteps(np.append(times, max(end_s, times[-1])), *(np.append(values, values[-1]) for values in counts))
