"""What Prometheus would show of a simulated fleet, and nothing more: no request by itself, no future, no length before it is known.

Every `scrape_s` seconds the counters, histograms and gauges are copied, unless that scrape is lost. A policy that looks at time t sees the newest
copy that is at least `delay_s` old, and as its window's beginning the newest one that is a window older. From there on the code that reads a real
Prometheus is at work (`metrics.window`), with the names and the buckets of a Dynamo frontend:

    frontend    requests started and finished, in flight, queued (without a first token); histograms of TTFT, ITL (one observation per gap), ISL (at
                arrival), OSL and duration (at the end)
    engines     prompts that wait for a prefill batch, busy prefill workers, requests and KV use of each decode worker
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sla_planner.engines.metric_names import metric_family
from sla_planner.metrics.window import Activity, Distribution, Window, traffic_window
from sla_planner.model.metric_family import Measure
from sla_planner.model.sla import Sla
from sla_planner.plan.observation import TrafficWindow, unknown_traffic
from sla_planner.simulate import events
from sla_planner.simulate.fleet import Fleet
from sla_planner.simulate.options import ClusterOptions

STALE_S = 300.0  # Prometheus answers with a sample up to so old
KEPT_S = 900.0  # of scrapes

_HISTOGRAMS = {
    Measure.TTFT: events.TTFT,
    Measure.ITL: events.ITL,
    Measure.ISL: events.ISL,
    Measure.OSL: events.OSL,
    Measure.DURATION: events.DURATION,
}


@dataclass(frozen=True, slots=True)
class EngineGauges:
    """What the engines' own gauges said at a scrape. `prefill_busy`: mean number of busy prefill workers over the last scrape interval;
    `waiting`: prompts in no prefill batch yet, and prefilled ones that no decode worker has admitted; per ready decode worker, in the same order:
    `running` requests and `kv_usage` (0..1)."""

    prefill_busy: float
    waiting_prefill: int
    waiting_decode: int
    running: npt.NDArray[np.int64]
    kv_usage: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scrape:
    """One look at everything, at `at_s`. Counters are totals since second 0; `tally` as in `events`."""

    at_s: float
    started: int
    finished: int
    first_tokens: int
    tally: npt.NDArray[np.float64]
    engines: EngineGauges

    @property
    def in_flight(self) -> int:
        return self.started - self.finished


class Scrapes:
    """The recent past as Prometheus has it."""

    def __init__(self, options: ClusterOptions, edges: npt.NDArray[np.float64]) -> None:
        self._metrics = options.metrics
        self._random = np.random.default_rng((options.seed, 2))
        self._edges = [tuple(float(edge) for edge in row if np.isfinite(edge)) for row in edges]
        self._kept: deque[Scrape] = deque()
        self._busy_s = 0.0
        self._family = metric_family("dynamo")

    def take(self, fleet: Fleet) -> None:
        """Scrape everything now, or lose it."""
        busy_s, before_s = fleet.prefill_busy_s(), self._busy_s
        self._busy_s = busy_s
        if self._metrics.lost_share and self._random.random() < self._metrics.lost_share:
            return
        index = fleet.core.cells
        waiting = int(index[events.NEXT_ARRIVAL] - index[events.HEAD]), int(index[events.HANDOVER_TAIL] - index[events.HANDOVER_HEAD])
        engines = EngineGauges((busy_s - before_s) / self._metrics.scrape_s, *waiting, fleet.decode_batches(), fleet.decode_kv_usage())
        started, finished, first_tokens = (int(index[cell]) for cell in (events.NEXT_ARRIVAL, events.FINISHED, events.FIRST_TOKENS))
        self._kept.append(Scrape(fleet.now_s, started, finished, first_tokens, fleet.core.tally.copy(), engines))
        while self._kept[0].at_s < fleet.now_s - KEPT_S:
            self._kept.popleft()

    def newest(self, now_s: float) -> Scrape | None:
        """The newest scrape that can be seen at `now_s`; None when it is too old to be answered with."""
        return self._at(now_s - self._metrics.delay_s, now_s - self._metrics.delay_s - STALE_S)

    def traffic(self, now_s: float, window_s: float, sla: Sla) -> TrafficWindow:
        """The window that ends at the newest scrape and lasts `window_s`, or what there is of it."""
        last = self.newest(now_s)
        if last is None:
            return unknown_traffic(now_s, window_s, f"no scrape in the last {STALE_S:.0f} s", answered=False)
        first = self._at(last.at_s - window_s + 1e-6) or self._kept[0]
        if first is last:
            return unknown_traffic(now_s, window_s, "one scrape so far; a window needs two", answered=False)
        activity = Activity(
            counts={Measure.STARTED: last.started - first.started, Measure.COMPLETED: last.finished - first.finished},
            distributions={measure: self._gained(first, last, histogram) for measure, histogram in _HISTOGRAMS.items()},
            levels={Measure.IN_FLIGHT: last.in_flight, Measure.QUEUED_PREFILL: last.started - last.first_tokens},
            in_flight_change=last.in_flight - first.in_flight,
        )
        return traffic_window(activity, self._family, Window(now_s, last.at_s - first.at_s, sla.ttft_ms, sla.itl_ms))

    def _at(self, at_s: float, not_before_s: float = 0.0) -> Scrape | None:
        for scrape in reversed(self._kept):
            if scrape.at_s <= at_s:
                return scrape if scrape.at_s >= not_before_s else None
        return None

    def _gained(self, first: Scrape, last: Scrape, histogram: int) -> Distribution:
        gained = last.tally[histogram] - first.tally[histogram]
        edges = self._edges[histogram]
        below = np.cumsum(gained[:-1])
        return Distribution(float(below[-1]), float(gained[-1]), tuple(zip(edges, below[: len(edges)].tolist(), strict=True)))
