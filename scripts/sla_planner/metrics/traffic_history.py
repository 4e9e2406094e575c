"""The traffic that a Prometheus remembers, step by step, and requests drawn so that they would have left the same memory.

    read    every server's counters and length histograms as Prometheus held them at each step; what each gained since the step before, with the
            arithmetic of `readings` (differences between two moments lose nothing, and know a restart). A server's first reading counts nothing
    hole    a server without a newer sample: what it gained meanwhile, known when it is seen again, is spread evenly over the steps between
    drawn   so many arrivals as were counted, evenly distributed within their step; prompt and answer lengths of that step's histograms,
            independent of each other

A length falls into a bucket as often as it was counted there. Within its bucket, from `low` to `high`, it is low + (high - low) u^g with u even in
0..1; g is chosen so that the mean of the step is what was measured, which the mean of u^g, 1 / (1 + g), says at once. The bucket without an upper
edge is taken to be as wide as everything below it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import requests

from sla_planner.errors import TraceError, UnreachableError, UsageError
from sla_planner.metrics.prometheus import PrometheusAccess, Server, session_for
from sla_planner.metrics.queries import SERVER_LABELS, readings_query, stamps_query
from sla_planner.metrics.readings import Series, activity, gains, levels
from sla_planner.metrics.window import Window, traffic_window
from sla_planner.model.metric_family import Measure, MetricFamily
from sla_planner.plan.observation import LengthHistogram, TrafficWindow, unknown_traffic
from sla_planner.traffic.trace import MAX_LENGTH_TOKENS, Trace

READ = (Measure.STARTED, Measure.COMPLETED, Measure.IN_FLIGHT, Measure.ISL, Measure.OSL)
POINTS_A_QUERY = 240  # some megabytes of answer where there are many servers
GAP_S = 300.0  # shorter ones are scrapes that were late or lost
LEAST_MEAN, MOST_MEAN = 0.05, 0.95  # of u^g: a mean at an edge of every bucket is rounding, or another bucket's doing

_Reading = dict[Series, float]
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Gap:
    """From `start_s` to `end_s` (epoch seconds) there was no sample of `server` ('' = of any). `spread`: what was counted over all of it is known."""

    start_s: float
    end_s: float
    server: str
    spread: bool


@dataclass(frozen=True, slots=True)
class TrafficHistory:
    """`windows`: one per step, oldest first, without a beginning of which nothing is known; the first step begins at `start_s` (epoch seconds)."""

    start_s: float
    step_s: float
    windows: tuple[TrafficWindow, ...]
    gaps: tuple[Gap, ...]
    servers: int

    @property
    def duration_s(self) -> float:
        return self.step_s * len(self.windows)


@dataclass(frozen=True, slots=True)
class Period:
    """`steps` of `step_s` seconds that end at `end_s` (epoch seconds)."""

    end_s: float
    step_s: float
    steps: int

    def at_s(self, step: int) -> float:
        """The end of that step; of step 0: the beginning of all."""
        return self.end_s - (self.steps - step) * self.step_s


def read_history(
    access: PrometheusAccess,
    family: MetricFamily,
    period: Period,
    *,
    model: str | None = None,
    namespace: str | None = None,
    progress: Callable[[float], None] = lambda _share: None,
) -> TrafficHistory:
    """Of `model` (compared without case) in `namespace`; None = any. `progress` hears the share done, 0..1.

    Raises `UnreachableError` for a Prometheus that does not answer as such, `UsageError` for an unusable `access` and when it knows nothing of
    `family` in this period.
    """
    if not access.url.startswith(("http://", "https://")):
        raise UsageError(f"{access.url!r} is not an http(s) URL", hint="for example http://prometheus.monitoring:9090")
    family = _only(family)
    memory = _Memory(family, period)
    with session_for(access) as session:
        for first in range(0, period.steps + 1, POINTS_A_QUERY):
            last = min(first + POINTS_A_QUERY - 1, period.steps)
            chunk = _Chunk(session, access, period, first, last)
            stamps, readings = chunk.stamps(stamps_query(family, model, namespace)), chunk.readings(readings_query(family, model, namespace))
            for step in range(first, last + 1):
                memory.see(step, readings.get(step, {}), stamps.get(step, {}))
            progress((last + 1) / (period.steps + 1))
    return memory.history(f' of model "{model}"' if model and family.model_label else "")


def drawn_trace(history: TrafficHistory, *, seed: int) -> Trace:
    """Requests that arrive as counted, from the beginning of the history. Raises `TraceError` where none did, `UsageError` without lengths."""
    random = np.random.default_rng(seed)
    expected = np.cumsum([window.request_rate_rps.or_else(0.0) * history.step_s for window in history.windows])
    counts = np.diff(np.floor(expected + 0.5), prepend=0.0).astype(np.int64)
    if not counts.sum():
        raise TraceError("no request arrived in that time", hint="look further back with --last, or at another model or namespace")
    arrival_s, isl, osl = [], [], []
    lengths = zip(_filled(history, "isl", "prompt"), _filled(history, "osl", "answer"), strict=True)
    for index, (count, (prompts, answers)) in enumerate(zip(counts, lengths, strict=True)):
        if count:
            arrival_s.append((index + np.sort(random.random(count))) * history.step_s)
            isl.append(_drawn(random, count, prompts))
            osl.append(_drawn(random, count, answers))
    return Trace(np.concatenate(arrival_s), np.concatenate(isl), np.concatenate(osl))


# ---- reading ------------------------------------------------------------------------------------------------------------------------------


def _only(family: MetricFamily) -> MetricFamily:
    """The family with no more than a history needs."""
    rows = {measure: row for measure, row in family.rows.items() if measure in READ}
    others = {measure: "not read for a history" for measure in family.rows if measure not in READ}
    return replace(family, rows=rows, lacks={**family.lacks, **others})


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Some steps of the period, asked for at once."""

    session: requests.Session
    access: PrometheusAccess
    period: Period
    first: int
    last: int

    def stamps(self, query: str) -> dict[int, dict[Server, float]]:
        """By step and server: when its newest sample was taken (epoch seconds)."""
        found: dict[int, dict[Server, float]] = {}
        for labels, step, value in self._rows(query):
            found.setdefault(step, {})[_server(labels)] = value
        return found

    def readings(self, query: str) -> dict[int, dict[Server, _Reading]]:
        found: dict[int, dict[Server, _Reading]] = {}
        for labels, step, value in self._rows(query):
            rest = tuple(sorted(item for item in labels.items() if item[0] != "__name__"))
            found.setdefault(step, {}).setdefault(_server(labels), {})[labels.get("__name__", ""), rest] = value
        return found

    def _rows(self, query: str) -> Iterator[tuple[dict[str, str], int, float]]:
        begin_s = self.period.at_s(self.first)
        for labels, values in self._ask(query):
            for at_s, text in values:
                value = float(text)
                if math.isfinite(value):
                    yield labels, self.first + round((at_s - begin_s) / self.period.step_s), value

    def _ask(self, query: str) -> list[tuple[dict[str, str], list[tuple[float, str]]]]:
        url = self.access.url.rstrip("/")
        asked = {
            "query": query,
            "start": f"{self.period.at_s(self.first):.3f}",
            "end": f"{self.period.at_s(self.last):.3f}",
            "step": f"{self.period.step_s:.3f}",
        }
        try:
            response = self.session.get(f"{url}/api/v1/query_range", params=asked, timeout=self.access.timeout_s)
            if response.status_code != requests.codes.ok:
                raise UnreachableError(f"{url}: HTTP {response.status_code}: {response.text[:150]}")
            return [(dict(row["metric"]), [(float(at), str(value)) for at, value in row["values"]]) for row in response.json()["data"]["result"]]
        except requests.Timeout:
            hint = "give it longer with --prometheus-timeout-s, or ask for less with --last or a longer --step-s"
            raise UnreachableError(f"{url}: no answer within {self.access.timeout_s:g} s", hint=hint) from None
        except (requests.JSONDecodeError, KeyError, IndexError, TypeError, ValueError):
            raise UnreachableError(f"{url} did not answer as Prometheus does") from None
        except requests.RequestException as error:
            raise UnreachableError(f"{url}: no answer ({type(error).__name__})") from None


def _server(labels: Mapping[str, str]) -> Server:
    return tuple(labels.get(name, "") for name in SERVER_LABELS)


@dataclass(frozen=True, slots=True)
class _Last:
    """The newest reading of one server: the step that saw it first, when it was taken, what it said."""

    step: int
    stamp_s: float
    reading: _Reading


@dataclass(slots=True)
class _Step:
    """What all servers gained in one step, and their requests in flight before and after."""

    gained: _Reading = field(default_factory=dict)
    levels: dict[Measure, float] = field(default_factory=dict)
    in_flight_before: float | None = None

    def add(self, gained: Mapping[Series, float], share: float) -> None:
        for series, gain in gained.items():
            self.gained[series] = self.gained.get(series, 0.0) + gain * share


class _Memory:
    """Readings in order of time, as what happened between them."""

    def __init__(self, family: MetricFamily, period: Period) -> None:
        self._family = family
        self._period = period
        self._last: dict[Server, _Last] = {}
        self._steps: dict[int, _Step] = {}
        self._gaps: list[Gap] = []

    def see(self, step: int, readings: Mapping[Server, _Reading], stamps: Mapping[Server, float]) -> None:
        """Steps come in rising order."""
        followed = []
        for server, reading in readings.items():
            stamp_s, last = stamps.get(server), self._last.get(server)
            if stamp_s is None or (last is not None and stamp_s <= last.stamp_s):
                continue
            if last is not None:
                self._gained(server, last, step, stamp_s, reading)
                if last.step == step - 1:
                    followed.append((last.reading, reading))
            self._last[server] = _Last(step, stamp_s, reading)
        if followed:
            befores, afters = zip(*followed, strict=True)
            self._steps[step].levels = levels(afters, self._family)
            self._steps[step].in_flight_before = levels(befores, self._family).get(Measure.IN_FLIGHT)

    def _gained(self, server: Server, last: _Last, step: int, stamp_s: float, reading: _Reading) -> None:
        gained = gains(last.reading, reading, self._family)
        for between in range(last.step + 1, step + 1):
            self._steps.setdefault(between, _Step()).add(gained, 1 / (step - last.step))
        if step - last.step > 1 and stamp_s - last.stamp_s > max(GAP_S, 2 * self._period.step_s):
            self._gaps.append(Gap(last.stamp_s, stamp_s, server[SERVER_LABELS.index("instance")], spread=True))

    def history(self, scope: str) -> TrafficHistory:
        if not self._steps:
            names = sorted(name for row in self._family.rows.values() for name in row.names)
            seen = "has samples of only one moment" if self._last else "knows nothing"
            hint = f"does it scrape the frontends ({names[0]} and others)? See --metrics, --model-name, --namespace and --last"
            raise UsageError(f"Prometheus {seen} of {self._family.name} metrics{scope} in that time", hint=hint)
        first = min(self._steps)
        windows = tuple(self._window(step, scope) for step in range(first, self._period.steps + 1))
        gaps = sorted((*self._gaps, *self._silences(first)), key=lambda gap: (gap.start_s, gap.server))
        return TrafficHistory(self._period.at_s(first - 1), self._period.step_s, windows, tuple(gaps), len(self._last))

    def _window(self, step: int, scope: str) -> TrafficWindow:
        at_s, found = self._period.at_s(step), self._steps.get(step)
        if found is None:
            return unknown_traffic(at_s, self._period.step_s, "no sample", answered=False)
        seen = activity(found.gained, found.levels, self._family, in_flight_before=found.in_flight_before, scope=scope)
        return traffic_window(seen, self._family, Window(at_s, self._period.step_s, 1.0, 1.0))

    def _silences(self, first: int) -> Iterator[Gap]:
        """Where no server was seen, before or after."""
        known = [*sorted(self._steps), self._period.steps + 1]
        for before, after in zip([first - 1, *known], known, strict=False):
            start_s, end_s = self._period.at_s(before), self._period.at_s(after - 1)
            if end_s - start_s > max(GAP_S, 2 * self._period.step_s):
                yield Gap(start_s, end_s, "", spread=False)


# ---- drawing ------------------------------------------------------------------------------------------------------------------------------


def _filled(history: TrafficHistory, name: str, what: str) -> list[LengthHistogram]:
    """Lengths of every window: its own, else those of the window before, else of the next that has any."""
    own = [_lengths(window, name) for window in history.windows]
    known = next((lengths for lengths in own if lengths is not None), None)
    if known is None:
        raise UsageError(f"Prometheus has no {what} lengths of that time", hint="see --metrics and --model-name")
    filled = []
    for lengths in own:
        known = lengths or known
        filled.append(known)
    return filled


def _lengths(window: TrafficWindow, name: str) -> LengthHistogram | None:
    """A histogram, or a bucket as wide as nothing where only the mean is known."""
    seen: LengthHistogram | None = getattr(window, f"{name}_lengths")
    if seen is not None and sum(seen.requests) > 0:
        return seen
    mean = getattr(window, f"{name}_tokens")
    return LengthHistogram((mean.value, mean.value), (0.0, 1.0), mean.value) if mean.known and mean.value > 0 else None


def _drawn(random: np.random.Generator, count: int, lengths: LengthHistogram) -> npt.NDArray[np.int64]:
    """(count,) tokens, at least one each."""
    high = np.array(lengths.upper_tokens, float)
    low = np.append(0.0, high[:-1])
    open_ended = np.isinf(high)
    high[open_ended] = 2 * np.maximum(low[open_ended], 1.0)
    requests_in = np.array(lengths.requests, float)
    wide = float((requests_in * (high - low)).sum())
    mean = (lengths.total_tokens - float((requests_in * low).sum())) / wide if wide > 0 else 0.5
    power = 1 / min(max(mean, LEAST_MEAN), MOST_MEAN) - 1
    ranks = random.permutation((np.arange(count) + random.random()) / count)  # evenly over the histogram, so that few requests have its mean too
    below = np.cumsum(requests_in) / requests_in.sum()
    bucket = np.minimum(np.searchsorted(below, ranks, side="right"), len(high) - 1)
    tokens: _Floats = low[bucket] + (high[bucket] - low[bucket]) * random.random(count) ** power
    drawn: npt.NDArray[np.int64] = np.clip(np.rint(tokens), 1, MAX_LENGTH_TOKENS).astype(np.int64)
    return drawn


def total_gap_s(gaps: Iterable[Gap]) -> float:
    """Seconds in which at least one of them was."""
    total, until_s = 0.0, -math.inf
    for gap in sorted(gaps, key=lambda each: each.start_s):
        total += max(gap.end_s - max(gap.start_s, until_s), 0.0)
        until_s = max(until_s, gap.end_s)
    return total
