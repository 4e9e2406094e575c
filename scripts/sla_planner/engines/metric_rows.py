"""Short names for the rows of a table of metric names."""

from __future__ import annotations

from sla_planner.model.metric_family import MetricKind, Row

MS_PER_S = 1000.0
ENGINE_COUNTS_AT_THE_END = "an engine counts requests when they end; offered load is completions plus the change of requests in flight"


def counter(name: str) -> Row:
    return Row(MetricKind.COUNTER, (name,))


def histogram(name: str, scale: float = 1.0) -> Row:
    return Row(MetricKind.HISTOGRAM, (name,), scale)


def totals(total: str, number: str, scale: float = 1.0) -> Row:
    return Row(MetricKind.TOTALS, (total, number), scale)


def gauge(*names: str) -> Row:
    return Row(MetricKind.GAUGE, names)


def mean_gauge(name: str) -> Row:
    return Row(MetricKind.MEAN_GAUGE, (name,))
