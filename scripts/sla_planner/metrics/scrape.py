"""Traffic read straight from the servers' `/metrics`, no Prometheus needed.

Every `observe` reads all servers; the window is the time since the last observation that was known. `poll` may read them more often in between, which
only makes counter resets cheaper (what a server counted before it restarted is kept up to the last poll).

* The first observation is unknown: one reading of a counter says nothing of a window.
* One server of several that does not answer makes the observation unknown: part of the load is not seen. Nothing is lost: counters go on, and the
  next known observation covers the whole time since the last one.
* A window longer than `MAX_STRETCH` times what was asked is not used: an hour's mean would pass for the present. Observation begins anew.

`to_state` / `from_state` carry the readings from one process to the next (`planner --once`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import requests
import urllib3

from sla_planner.errors import UnreachableError, UsageError
from sla_planner.metrics.exposition import parse
from sla_planner.metrics.readings import Reading, Series, activity, counters, gains, levels, select
from sla_planner.metrics.window import Window, traffic_window
from sla_planner.model.metric_family import Measure, MetricFamily
from sla_planner.plan.observation import TrafficWindow, unknown_traffic

MAX_STRETCH = 4.0
TIMEOUT_S = 2.0  # of connecting, and of waiting for bytes; a /metrics that takes longer is not well
PAGE_S = 5.0  # of the whole page: a server that drips bytes must not hold its target
_ACCEPT = {"Accept": "text/plain; version=0.0.4"}


@dataclass(slots=True)
class _Progress:
    """What is kept between observations: the last reading of every server, and what was gained since the last known observation at `since_s`."""

    since_s: float | None = None
    in_flight: float | None = None  # at `since_s`
    last: dict[str, Reading] = field(default_factory=dict)
    gained: dict[Series, float] = field(default_factory=dict)


class ScrapeSource:
    """The traffic of one model, read from the `/metrics` of one or several servers (Dynamo frontends or engines).

    `urls`       complete URLs, path included, one per server (not a load balancer in front of several).
    `model`      served model name, compared without case; None = every model on these servers.
    `namespace`  Dynamo namespace; None = any.
    """

    def __init__(self, urls: Sequence[str], family: MetricFamily, *, model: str | None = None, namespace: str | None = None) -> None:
        if not urls:
            raise UsageError("no URL to scrape", hint="name the /metrics of every frontend")
        for url in urls:
            if not url.startswith(("http://", "https://")):
                raise UsageError(f"{url!r} is not an http(s) URL", hint="for example http://frontend:8000/metrics")
        self._urls = tuple(dict.fromkeys(urls))
        self._family = family
        self._model = model
        self._namespace = namespace
        self._session = requests.Session()
        self._session.headers.update(_ACCEPT)
        self._progress = _Progress()

    def poll(self, at_s: float) -> None:
        """Read all servers at `at_s` (epoch seconds). Raises UnreachableError when one does not answer with metrics text; the others are kept."""
        readings: dict[str, Reading] = {}
        failures = []
        for url in self._urls:
            try:
                readings[url] = self._read(url)
            except UnreachableError as error:
                failures.append(f"{url}: {error.message}")
        self._take(at_s, readings)
        if failures:
            seen = f" ({len(failures)} of {len(self._urls)} servers; their part of the load is not seen)" if len(self._urls) > 1 else ""
            raise UnreachableError("; ".join(failures) + seen, hint="check that the server runs and that the URL is its /metrics")

    def observe(self, at_s: float, window_s: float, ttft_ms: float, itl_ms: float) -> TrafficWindow:
        """The traffic up to `at_s` since the last known observation; `window_s` is the length expected. Never raises for a server that fails."""
        since_s = self._progress.since_s
        try:
            self.poll(at_s)
        except UnreachableError as error:
            return unknown_traffic(at_s, window_s, error.message, answered=False)
        if since_s is None:
            self._begin(at_s)
            return unknown_traffic(at_s, window_s, "first reading: a window needs two")
        elapsed_s = at_s - since_s
        if not 0 < elapsed_s <= MAX_STRETCH * window_s:
            self._begin(at_s)
            return unknown_traffic(at_s, window_s, f"the last known reading is {elapsed_s:g} s old, for a window of {window_s:g} s: begun anew")
        now = self._levels()
        seen = activity(self._progress.gained, now, self._family, in_flight_before=self._progress.in_flight, scope=self._scope())
        self._begin(at_s)
        return traffic_window(seen, self._family, Window(at_s, elapsed_s, ttft_ms, itl_ms))

    def to_state(self) -> dict[str, Any]:
        """Plain JSON types: what the next process needs to go on from here."""
        progress = self._progress
        return {
            **self._identity(),
            "since_s": progress.since_s,
            "in_flight": None if progress.in_flight is None else _number(progress.in_flight),
            "last": {url: _rows(reading) for url, reading in progress.last.items()},
            "gained": _rows(progress.gained),
        }

    def from_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `to_state` returned; readings of another model, family or set of servers are not taken. UsageError when malformed."""
        try:
            if any(state[key] != value for key, value in self._identity().items()):
                return
            self._progress = _Progress(
                since_s=None if state["since_s"] is None else float(state["since_s"]),
                in_flight=None if state["in_flight"] is None else float(state["in_flight"]),
                last={str(url): _reading(rows) for url, rows in state["last"].items()},
                gained=_reading(state["gained"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"the saved readings are malformed ({error!r})", hint="delete the saved state; the next interval begins anew") from None

    def close(self) -> None:
        self._session.close()

    def _identity(self) -> dict[str, Any]:
        return {"family": self._family.name, "model": self._model, "namespace": self._namespace, "urls": list(self._urls)}

    def _read(self, url: str) -> dict[Series, float]:
        deadline_s = time.monotonic() + PAGE_S
        page = b""
        try:
            with self._session.get(url, timeout=TIMEOUT_S, stream=True) as response:
                if response.status_code != requests.codes.ok:
                    raise UnreachableError(f"HTTP {response.status_code}")
                while part := response.raw.read1(2**16, decode_content=True):  # what has arrived; iter_content would wait for all of it
                    page += part
                    if time.monotonic() > deadline_s:
                        raise UnreachableError(f"the page was not complete after {PAGE_S:g} s")
        except (requests.Timeout, urllib3.exceptions.TimeoutError):
            raise UnreachableError(f"no answer within {TIMEOUT_S:g} s") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise UnreachableError(f"no answer ({type(error).__name__})") from None
        text = page.decode("utf-8", errors="replace")
        return select(parse(text, self._family.series_names), self._family, self._model, self._namespace)

    def _take(self, at_s: float, readings: Mapping[str, Reading]) -> None:
        """Book what the readings gained. The first complete set of readings is where the first window begins."""
        progress = self._progress
        for url, reading in readings.items():
            before = progress.last.get(url)
            if before is None:
                progress.last[url] = reading
                continue
            for series, gain in gains(before, reading, self._family).items():
                progress.gained[series] = progress.gained.get(series, 0.0) + gain
            # A counter that a page leaves out is kept: should it come back, its whole past must not pass for the window's.
            progress.last[url] = {**counters(before, self._family), **reading}
        if progress.since_s is None and len(readings) == len(self._urls):
            self._begin(at_s)

    def _begin(self, at_s: float) -> None:
        progress = self._progress
        progress.since_s = at_s
        progress.gained = {}
        progress.in_flight = self._levels().get(Measure.IN_FLIGHT)

    def _levels(self) -> dict[Measure, float]:
        return levels(self._progress.last.values(), self._family)

    def _scope(self) -> str:
        model = f' of model "{self._model}"' if self._model and self._family.model_label else ""
        return f"{model} on {', '.join(self._urls)}"


def _rows(reading: Reading) -> list[list[Any]]:
    return [[name, [list(label) for label in labels], _number(value)] for (name, labels), value in reading.items()]


def _number(value: float) -> float | str:
    """JSON has no NaN and no infinity, pages have."""
    return value if math.isfinite(value) else str(value)


def _reading(rows: Any) -> dict[Series, float]:
    return {(str(name), tuple((str(key), str(value)) for key, value in labels)): float(number) for name, labels, number in rows}
