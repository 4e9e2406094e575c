"""PromQL, written from a family's rows; the only place where PromQL is written. `tests/metrics/goldens/` pins every text: a wrong name never fails in
Prometheus, it only answers nothing.

    counter     sum(increase(NAME{…}[R]))
    histogram   sum by (le) (increase(NAME_bucket{…}[R]))   and   sum(increase(NAME_sum{…}[R]));  the number of observations is the +Inf bucket
    totals      sum(increase(TOTAL{…}[R]))   and   sum(increase(NUMBER{…}[R]))
    gauge       sum(NAME{…}) + …      mean gauge   avg(NAME{…})

The model is matched without case and literally. Two more queries tell a silent Prometheus from silent traffic, which `increase` cannot:

    newest      time of the newest sample: a dead scrape goes stale and answers nothing
    down        servers that exported the family within `DOWN_LOOKBACK` and cannot be scraped now: their part of the load is not seen
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from sla_planner.model.metric_family import Measure, MetricFamily, MetricKind, Row

DOWN_LOOKBACK = "10m"


class Part(StrEnum):
    """What of a measure a query answers."""

    INCREASE = "increase"
    TOTAL = "total"
    NUMBER = "number"
    BUCKETS = "buckets"
    LEVEL = "level"
    CHANGE = "change"  # of a gauge, over the window


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose series: `model` and `namespace` None = any. `range_s`: length of the window."""

    model: str | None
    namespace: str | None
    range_s: float


def traffic_queries(family: MetricFamily, scope: Scope) -> dict[tuple[Measure, Part], str]:
    """Every query of a window."""
    selector, span = _selector(family, scope), _duration(scope.range_s)
    queries: dict[tuple[Measure, Part], str] = {}
    for measure, row in family.rows.items():
        for part, query in _row_queries(row, selector, span).items():
            queries[measure, part] = query
    if Measure.IN_FLIGHT in family.rows:
        now, before = (_added(family.rows[Measure.IN_FLIGHT].names, selector + offset) for offset in ("", f" offset {span}"))
        queries[Measure.IN_FLIGHT, Part.CHANGE] = f"({now}) - ({before})"
    return queries


def newest_query(family: MetricFamily, scope: Scope) -> str:
    """Epoch seconds of the newest sample; no answer when nothing is scraped now."""
    return f"max(timestamp({_anchor(family)}{_selector(family, scope)}))"


def down_query(family: MetricFamily, scope: Scope) -> str:
    """Number of servers that exported the family lately and cannot be scraped now; no answer when there is none."""
    return f"count((up == 0) and on (job, instance) last_over_time({_anchor(family)}{_selector(family, scope)}[{DOWN_LOOKBACK}]))"


def _anchor(family: MetricFamily) -> str:
    """A series that every server of the family exports."""
    measure = Measure.COMPLETED if Measure.COMPLETED in family.rows else Measure.IN_FLIGHT
    return family.rows[measure].names[0]


def _row_queries(row: Row, selector: str, span: str) -> dict[Part, str]:
    name = row.names[0]
    match row.kind:
        case MetricKind.COUNTER:
            return {Part.INCREASE: f"sum(increase({name}{selector}[{span}]))"}
        case MetricKind.HISTOGRAM:
            return {
                Part.BUCKETS: f"sum by (le) (increase({name}_bucket{selector}[{span}]))",
                Part.TOTAL: f"sum(increase({name}_sum{selector}[{span}]))",
            }
        case MetricKind.TOTALS:
            return {
                Part.TOTAL: f"sum(increase({name}{selector}[{span}]))",
                Part.NUMBER: f"sum(increase({row.names[1]}{selector}[{span}]))",
            }
        case MetricKind.GAUGE:
            return {Part.LEVEL: _added(row.names, selector)}
        case MetricKind.MEAN_GAUGE:
            return {Part.LEVEL: f"avg({name}{selector})"}


def _added(names: tuple[str, ...], selector: str) -> str:
    return " + ".join(f"sum({name}{selector})" for name in names)


def _selector(family: MetricFamily, scope: Scope) -> str:
    matchers = []
    if scope.model and family.model_label:
        matchers.append(f'{family.model_label}=~"(?i:{_quoted(_literal(scope.model))})"')
    if scope.namespace and family.namespace_label:
        matchers.append(f'{family.namespace_label}="{_quoted(scope.namespace)}"')
    return "{" + ",".join(matchers) + "}" if matchers else ""


def _literal(text: str) -> str:
    """A regular expression (RE2) that matches exactly `text`."""
    return re.sub(r"[\\.+*?()|\[\]{}^$]", r"\\\g<0>", text)


def _quoted(text: str) -> str:
    """Inside PromQL double quotes."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _duration(seconds: float) -> str:
    """PromQL duration, to the millisecond."""
    milliseconds = round(seconds * 1000)
    return f"{milliseconds // 1000}s" if milliseconds % 1000 == 0 else f"{milliseconds}ms"
