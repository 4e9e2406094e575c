"""From what happened in a window to a `TrafficWindow`. Both sources (Prometheus, direct scraping) end here, so the same traffic reads the same.

    rate      offered load / window: requests started; where nothing counts starts, completions + change of requests in flight; else completions
    mean      sum of _sum / sum of _count over all frontends, so a busy frontend weighs as much as its requests and an idle one nothing
    attained  share of observations within the target, from the buckets around it (below)

Value, idle, unknown: no series at all is unknown; a series that did not move is a rate of 0 (a value) and a latency or length that is idle; a number
that no server can mean (negative, not finite, `LARGEST` or more) is unknown.

Attained. A histogram knows the share within the target only at bucket edges. At an edge (or where both neighbours agree) it is exact; inside a
bucket it is interpolated linearly, and the error is at most the share that the bucket holds. More than `RESOLUTION` in that bucket: unknown, and the
reason names both neighbours, so that the target or the buckets can be moved.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sla_planner.model.metric_family import Measure, MetricFamily
from sla_planner.plan.observation import LengthHistogram, Quantity, TrafficWindow

LARGEST = 2.0**53  # a float counter cannot count beyond
RESOLUTION = 0.05  # share of requests that may lie in the bucket around the target


@dataclass(frozen=True, slots=True)
class Distribution:
    """What a histogram (or a pair of totals: no buckets) gained in the window, in the family's unit.

    `cumulative`: (upper edge, observations at or below it), edges ascending.
    """

    count: float
    total: float
    cumulative: tuple[tuple[float, float], ...] = ()


def added_buckets(buckets: Iterable[tuple[str, float]]) -> tuple[tuple[float, float], ...]:
    """Cumulative buckets of several servers (`le` label, observations), added up per edge. Edges that are not numbers are left out."""
    below: dict[float, float] = {}
    for le, observations in buckets:
        try:
            edge = float(le)
        except ValueError:
            continue
        if not math.isnan(edge):
            below[edge] = below.get(edge, 0.0) + observations
    return tuple(sorted(below.items()))


@dataclass(frozen=True, slots=True)
class Activity:
    """What happened in a window, over all frontends. A measure without any series has no entry.

    `scope` names what was looked for, for the reasons: `model="llama"`.
    """

    counts: Mapping[Measure, float] = field(default_factory=dict)
    distributions: Mapping[Measure, Distribution] = field(default_factory=dict)
    levels: Mapping[Measure, float] = field(default_factory=dict)  # gauges at the window's end
    in_flight_change: float | None = None
    scope: str = ""


@dataclass(frozen=True, slots=True)
class Window:
    """The window that ended at `at_s` (epoch seconds) and really lasted `window_s`, and the targets whose attainment is wanted."""

    at_s: float
    window_s: float
    ttft_ms: float
    itl_ms: float


def traffic_window(activity: Activity, family: MetricFamily, window: Window) -> TrafficWindow:
    """`activity` of `window.window_s` seconds in the planner's terms and units."""
    itl = Measure.ITL if Measure.ITL in activity.distributions else Measure.ITL_PER_REQUEST
    itl_share = Measure.ITL_PER_REQUEST if Measure.ITL_PER_REQUEST in activity.distributions else Measure.ITL
    view = _View(activity, family)
    return TrafficWindow(
        at_s=window.at_s,
        window_s=window.window_s,
        request_rate_rps=view.rate(window.window_s),
        isl_tokens=view.mean(Measure.ISL),
        osl_tokens=view.mean(Measure.OSL),
        ttft_ms=view.mean(Measure.TTFT),
        itl_ms=view.mean(itl, asked=Measure.ITL),
        request_duration_s=view.mean(Measure.DURATION),
        completed_requests=view.count(Measure.COMPLETED),
        in_flight_requests=view.level(Measure.IN_FLIGHT),
        ttft_attained=view.attained(Measure.TTFT, window.ttft_ms, asked=Measure.TTFT),
        itl_attained=view.attained(itl_share, window.itl_ms, asked=Measure.ITL),
        queued_prefill_requests=view.level(Measure.QUEUED_PREFILL),
        running_decode_requests=view.level(Measure.RUNNING_DECODE),
        kv_usage=view.level(Measure.KV_USAGE),
        isl_lengths=view.lengths(Measure.ISL),
        osl_lengths=view.lengths(Measure.OSL),
    )


@dataclass(frozen=True, slots=True)
class _View:
    """One activity, asked measure by measure."""

    activity: Activity
    family: MetricFamily

    def absent(self, measure: Measure) -> Quantity:
        if measure in self.family.lacks:
            return Quantity.unknown(self.family.lacks[measure])
        names = " and ".join(self.family.rows[measure].names)
        return Quantity.unknown(f"no series {names}{self.activity.scope}")

    def rate(self, window_s: float) -> Quantity:
        counts, change = self.activity.counts, self.activity.in_flight_change
        if window_s <= 0:
            return Quantity.unknown(f"the window lasted {window_s:g} s")
        if Measure.STARTED in counts:
            return _amount(counts[Measure.STARTED] / window_s)
        if Measure.COMPLETED in counts:
            # Two samples of a busy server are not of one instant: completions may be seen before the gauge falls.
            return _amount(max(counts[Measure.COMPLETED] + (change or 0.0), 0.0) / window_s)
        return self.absent(Measure.COMPLETED if Measure.STARTED in self.family.lacks else Measure.STARTED)

    def count(self, measure: Measure) -> Quantity:
        counts = self.activity.counts
        return _amount(counts[measure]) if measure in counts else self.absent(measure)

    def level(self, measure: Measure) -> Quantity:
        levels = self.activity.levels
        return _amount(levels[measure] * self.family.rows[measure].scale) if measure in levels else self.absent(measure)

    def mean(self, measure: Measure, *, asked: Measure | None = None) -> Quantity:
        seen = self.activity.distributions.get(measure)
        if seen is None:
            return self.absent(asked or measure)
        if seen.count <= 0:
            return Quantity.idle()
        return _amount(seen.total / seen.count * self.family.rows[measure].scale)

    def attained(self, measure: Measure, target: float, *, asked: Measure) -> Quantity:
        seen = self.activity.distributions.get(measure)
        if seen is None:
            return self.absent(asked)
        if seen.count <= 0:
            return Quantity.idle()
        if not seen.cumulative:
            return Quantity.unknown(f"{self.family.rows[measure].names[0]} has no buckets")
        return share_within(seen, target, scale=self.family.rows[measure].scale)

    def lengths(self, measure: Measure) -> LengthHistogram | None:
        seen = self.activity.distributions.get(measure)
        if seen is None or not seen.cumulative or not 0 <= seen.total < LARGEST or not seen.count > 0:
            return None
        edges, below = zip(*_with_infinity(seen), strict=True)
        requests = tuple(max(upper - lower, 0.0) for lower, upper in zip((0.0, *below), below, strict=False))
        return LengthHistogram(edges, requests, seen.total) if sum(requests) < LARGEST else None


def share_within(seen: Distribution, target: float, *, scale: float) -> Quantity:
    """Share (0..1) of observations at most `target`, both in our unit (edge * `scale`). Unknown when the buckets cannot resolve the target."""
    lower_edge, lower_share = 0.0, 0.0
    for raw_edge, observations in _with_infinity(seen):
        edge, share = raw_edge * scale, observations / seen.count
        if not 0 <= share < math.inf:
            return Quantity.unknown(f"the histogram reports a share of {share:g}")
        if math.isclose(edge, target, rel_tol=1e-9):
            return Quantity.of(min(share, 1.0))
        if edge > target:
            return _between((lower_edge, lower_share), (edge, share), target)
        lower_edge, lower_share = edge, share
    return Quantity.of(1.0)  # an infinite target


def _between(lower: tuple[float, float], upper: tuple[float, float], target: float) -> Quantity:
    held = upper[1] - lower[1]
    if held > RESOLUTION:
        return Quantity.unknown(
            f"the buckets do not resolve {target:g} ms: {lower[1]:.1%} are within {lower[0]:g} ms, {upper[1]:.1%} within {upper[0]:g} ms"
        )
    into = 0.0 if math.isinf(upper[0]) else (target - lower[0]) / (upper[0] - lower[0])
    return Quantity.of(min(max(lower[1] + max(held, 0.0) * into, 0.0), 1.0))


def _with_infinity(seen: Distribution) -> tuple[tuple[float, float], ...]:
    """The buckets, closed by the one that holds everything."""
    if math.isinf(seen.cumulative[-1][0]):
        return seen.cumulative
    return (*seen.cumulative, (math.inf, seen.count))


def _amount(value: float) -> Quantity:
    """Nothing observed here is ever negative; what a server's fault makes so must not be planned with."""
    return Quantity.of(value) if 0 <= value < LARGEST else Quantity.unknown(f"the server reported {value:g}")
