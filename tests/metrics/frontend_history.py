"""What frontends would have shown a Prometheus over hours: made from requests, scrape by scrape, without waiting for any of them."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import numpy as np

from sla_planner.model.frontend_buckets import ISL_TOKENS, OSL_TOKENS
from sla_planner.traffic.trace import Trace

SCRAPE_S, LOOKBACK_S = 15.0, 300.0
HISTOGRAMS = {"input_sequence_tokens": ISL_TOKENS, "output_sequence_tokens": OSL_TOKENS}
_NAMES = re.compile(r'__name__=~"([^"]*)"')

Labels = tuple[tuple[str, str], ...]


@dataclass
class Scraped:
    """One frontend's samples: when they were taken (epoch seconds), and each series' values at these times."""

    at_s: np.ndarray
    series: dict[Labels, np.ndarray]

    def without(self, from_s: float, to_s: float) -> Scraped:
        """With a hole."""
        kept = (self.at_s < from_s) | (self.at_s >= to_s)
        return Scraped(self.at_s[kept], {labels: values[kept] for labels, values in self.series.items()})

    def restarted(self, at_s: float) -> Scraped:
        """Everything counts from zero again from `at_s` on."""
        last = int(np.searchsorted(self.at_s, at_s)) - 1
        return Scraped(self.at_s, {labels: np.where(self.at_s >= at_s, values - values[last], values) for labels, values in self.series.items()})


def scraped(trace: Trace, begin_s: float, *, instance: str = "frontend:8000", model: str = "m", counted_before: int = 0) -> Scraped:
    """A frontend that got `trace` from `begin_s` on, of which every request took no time, and `counted_before` requests earlier."""
    at_s = np.arange(0.0, trace.end_s + SCRAPE_S, SCRAPE_S)
    seen = np.searchsorted(trace.arrival_s, at_s, side="right")
    plain = {"job": "frontends", "instance": instance, "model": model}

    def named(name: str, **more: str) -> Labels:
        return tuple(sorted({"__name__": f"dynamo_frontend_{name}", **plain, **more}.items()))

    series = {named(name): (seen + counted_before).astype(float) for name in ("requests_started_total", "requests_total")}
    series[named("inflight_requests")] = series[named("queued_requests")] = np.zeros(len(at_s))
    for (name, edges), tokens in zip(HISTOGRAMS.items(), (trace.isl_tokens, trace.osl_tokens), strict=True):
        for edge in (*edges, math.inf):
            below = np.append(0, np.cumsum(tokens <= edge))[seen]
            series[named(f"{name}_bucket", le="+Inf" if math.isinf(edge) else str(edge))] = (below + counted_before).astype(float)
        series[named(f"{name}_sum")] = np.append(0, np.cumsum(tokens))[seen] + 7000.0 * counted_before
        series[named(f"{name}_count")] = (seen + counted_before).astype(float)
    return Scraped(begin_s + at_s, series)


def answer_of(frontends: list[Scraped], path: str) -> str:
    """What Prometheus answers to `path`: a range query for readings or for the times of the newest samples."""
    asked = {key: values[0] for key, values in parse_qs(urlsplit(path).query).items()}
    begin_s, end_s, step_s = (float(asked[key]) for key in ("start", "end", "step"))
    times = begin_s + np.arange(round((end_s - begin_s) / step_s) + 1) * step_s
    stamps = asked["query"].startswith("max by")
    names = re.compile(_NAMES.search(asked["query"])[1]) if not stamps else None  # type: ignore[index]
    result = []
    for frontend in frontends:
        index = np.searchsorted(frontend.at_s, times, side="right") - 1
        known = (index >= 0) & (times - frontend.at_s[np.maximum(index, 0)] < LOOKBACK_S)
        for labels, values in frontend.series.items():
            metric = dict(labels)
            if stamps:
                metric = {name: metric[name] for name in ("job", "instance")}
                values = frontend.at_s
            elif not names.fullmatch(metric["__name__"]):  # type: ignore[union-attr]
                continue
            if known.any():
                row = [[at_s, str(value)] for at_s, value in zip(times[known].tolist(), values[index[known]].tolist(), strict=True)]
                result.append({"metric": metric, "values": row})
            if stamps:
                break
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}})


def open_metrics(frontends: list[Scraped]) -> str:
    """The same as text that `promtool tsdb create-blocks-from openmetrics` reads."""
    lines: dict[str, list[str]] = {}
    for frontend in frontends:
        for labels, values in frontend.series.items():
            shown = ",".join(f'{name}="{value}"' for name, value in labels if name != "__name__")
            name = dict(labels)["__name__"]
            of_name = lines.setdefault(name, [])
            of_name += [f"{name}{{{shown}}} {value} {at_s}" for at_s, value in zip(frontend.at_s.tolist(), values.tolist(), strict=True)]
    return "\n".join(line for of_name in lines.values() for line in of_name) + "\n# EOF\n"
