"""How one family of metrics (a frontend's or an engine's) spells the measures that the planner needs. The table is `engines/metric_names.py`.

Five kinds of rows:

    counter      one name, cumulative; the window's number is its increase
    histogram    one base name; `_bucket`, `_sum` and `_count` are cumulative; mean = increase(_sum) / increase(_count) * scale
    totals       two counters (total, number); mean = increase(total) / increase(number) * scale; no distribution
    gauge        one or more names, added up over all series
    mean gauge   one name, averaged over all series
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Measure(StrEnum):
    STARTED = "started"  # requests accepted
    COMPLETED = "completed"  # requests finished, whatever their end
    IN_FLIGHT = "in_flight"  # requests accepted and not finished
    TTFT = "ttft"  # ms
    ITL = "itl"  # ms, one observation per gap between two tokens
    ITL_PER_REQUEST = "itl_per_request"  # ms, one observation per request: the mean of its gaps
    DURATION = "duration"  # s
    ISL = "isl"  # tokens
    OSL = "osl"  # tokens
    QUEUED_PREFILL = "queued_prefill"  # requests waiting for prefill
    RUNNING_DECODE = "running_decode"  # requests in decode batches
    KV_USAGE = "kv_usage"  # 0..1


class MetricKind(StrEnum):
    COUNTER = "counter"
    HISTOGRAM = "histogram"
    TOTALS = "totals"
    GAUGE = "gauge"
    MEAN_GAUGE = "mean gauge"


@dataclass(frozen=True, slots=True)
class Row:
    """Where one measure is read. `scale` turns the family's unit into ours."""

    kind: MetricKind
    names: tuple[str, ...]
    scale: float = 1.0

    @property
    def series_names(self) -> tuple[str, ...]:
        """Sample names in the exposition text."""
        if self.kind is MetricKind.HISTOGRAM:
            return tuple(self.names[0] + suffix for suffix in ("_bucket", "_sum", "_count"))
        return self.names

    @property
    def cumulative(self) -> bool:
        return self.kind in (MetricKind.COUNTER, MetricKind.HISTOGRAM, MetricKind.TOTALS)


@dataclass(frozen=True, slots=True)
class MetricFamily:
    """One entry of the table. Every measure has a row or a reason in `lacks`.

    model_label      label that carries the served model's name; None = the family has no such label.
    namespace_label  label that carries the Dynamo namespace; None = no such label.
    """

    name: str
    rows: Mapping[Measure, Row]
    lacks: Mapping[Measure, str] = field(default_factory=dict)
    model_label: str | None = "model"
    namespace_label: str | None = None

    @property
    def series_names(self) -> frozenset[str]:
        return frozenset(name for row in self.rows.values() for name in row.series_names)
