"""Arithmetic on raw readings of `/metrics`, as an `Activity`.

A reading is one server's samples at one moment. Between two readings of the same server every cumulative series gains

    v_end - v_start                    as a rule; a series that was not there at the start, started at 0
    v_end                              when the series' histogram or counter was reset (any of its series fell): it counts from zero again

Gains of all servers are added up per measure, histograms per bucket edge. One URL is one server: a load balancer that picks another frontend each
time cannot be read this way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sla_planner.metrics.exposition import Labels, Sample
from sla_planner.metrics.window import Activity, Distribution, added_buckets
from sla_planner.model.metric_family import Measure, MetricFamily, MetricKind, Row

Series = tuple[str, Labels]
Reading = Mapping[Series, float]


def select(samples: Iterable[Sample], family: MetricFamily, model: str | None, namespace: str | None) -> dict[Series, float]:
    """The samples of `model` (compared without case) in `namespace`.

    A sample without the namespace label passes: servers do not write it, Prometheus adds it.
    """
    wanted_model = model.casefold() if model and family.model_label else None
    chosen: dict[Series, float] = {}
    for name, labels, value in samples:
        values = dict(labels)
        if wanted_model is not None and values.get(family.model_label or "", "").casefold() != wanted_model:
            continue
        if namespace and family.namespace_label and values.get(family.namespace_label, namespace) != namespace:
            continue
        chosen[name, labels] = value
    return chosen


def gains(start: Reading, end: Reading, family: MetricFamily) -> dict[Series, float]:
    """What every cumulative series of `end` gained since `start`, both of one server."""
    owners = {name: row.names[0] for row in family.rows.values() if row.kind is MetricKind.HISTOGRAM for name in row.series_names}

    def owner(series: Series) -> Series:
        name, labels = series
        return owners.get(name, name), tuple(label for label in labels if label[0] != "le")

    moving = counters(end, family)
    reset = {owner(series) for series, value in moving.items() if value < start.get(series, 0.0)}
    return {series: value if owner(series) in reset else value - start.get(series, 0.0) for series, value in moving.items()}


def counters(reading: Reading, family: MetricFamily) -> dict[Series, float]:
    """The cumulative series of a reading, without its gauges."""
    cumulative = {name for row in family.rows.values() if row.cumulative for name in row.series_names}
    return {series: value for series, value in reading.items() if series[0] in cumulative}


def levels(readings: Iterable[Reading], family: MetricFamily) -> dict[Measure, float]:
    """Gauges over all servers, as the family's rows say: sums, or the mean over series."""
    by_name = _by_name(item for reading in readings for item in reading.items())
    found = {}
    for measure, row in family.rows.items():
        values = [[value for _, value in by_name.get(name, ())] for name in row.names]
        if row.kind is MetricKind.GAUGE and all(values):
            found[measure] = sum(sum(one) for one in values)
        elif row.kind is MetricKind.MEAN_GAUGE and all(values):
            found[measure] = sum(values[0]) / len(values[0])
    return found


def activity(gained: Reading, now: Mapping[Measure, float], family: MetricFamily, *, in_flight_before: float | None, scope: str) -> Activity:
    """What `gained` (summed over servers) and the gauges `now` say of the window. `in_flight_before`: at the window's start; None = not known."""
    by_name = _by_name(gained.items())
    counts: dict[Measure, float] = {}
    distributions: dict[Measure, Distribution] = {}
    for measure, row in family.rows.items():
        if not all(name in by_name for name in row.series_names):
            continue
        if row.kind is MetricKind.COUNTER:
            counts[measure] = _total(by_name[row.names[0]])
        elif row.cumulative:
            distributions[measure] = _distribution(row, by_name)
    in_flight = now.get(Measure.IN_FLIGHT)
    change = None if in_flight is None or in_flight_before is None else in_flight - in_flight_before
    return Activity(counts=counts, distributions=distributions, levels=now, in_flight_change=change, scope=scope)


def _distribution(row: Row, by_name: Mapping[str, list[tuple[Labels, float]]]) -> Distribution:
    if row.kind is MetricKind.TOTALS:
        total, number = row.names
        return Distribution(count=_total(by_name[number]), total=_total(by_name[total]))
    buckets, total, count = row.series_names
    cumulative = added_buckets((dict(labels).get("le", ""), value) for labels, value in by_name[buckets])
    return Distribution(count=_total(by_name[count]), total=_total(by_name[total]), cumulative=cumulative)


def _by_name(series: Iterable[tuple[Series, float]]) -> dict[str, list[tuple[Labels, float]]]:
    found: dict[str, list[tuple[Labels, float]]] = {}
    for (name, labels), value in series:
        found.setdefault(name, []).append((labels, value))
    return found


def _total(series: Iterable[tuple[Labels, float]]) -> float:
    return sum(value for _, value in series)
