"""The table of metric names against what real servers export."""

from pathlib import Path

import pytest

from sla_planner.engines.metric_names import FAMILIES, metric_family
from sla_planner.errors import UsageError
from sla_planner.model.metric_family import Measure, MetricKind

REAL_TEXTS = Path(__file__).parents[1] / "data" / "metrics"


@pytest.mark.parametrize(
    ("family", "file"), [("dynamo", "dynamo-frontend-1.6.1.txt"), ("vllm", "vllm-0.32.txt"), ("llamacpp", "llamacpp-2026.10.txt")]
)
def test_every_name_exists_in_the_real_text_with_its_type(family, file):
    types = {}
    labels = {}
    for line in (REAL_TEXTS / file).read_text().splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            types[name] = kind
        elif not line.startswith("#"):
            name, _, rest = line.partition("{")
            labels[name.split(" ")[0]] = rest
    entry = metric_family(family)
    for row in entry.rows.values():
        for name in row.names:
            expected = {
                MetricKind.HISTOGRAM: "histogram",
                MetricKind.COUNTER: "counter",
                MetricKind.TOTALS: "counter",
                MetricKind.GAUGE: "gauge",
                MetricKind.MEAN_GAUGE: "gauge",
            }[row.kind]
            assert types.get(name) == expected, name
        for name in row.series_names:
            assert name in labels, name
            if entry.model_label:
                assert f'{entry.model_label}="' in labels[name], name


@pytest.mark.parametrize("entry", FAMILIES.values(), ids=FAMILIES.keys())
def test_every_measure_has_a_row_or_a_reason(entry):
    for measure in Measure:
        assert (measure in entry.rows) != (measure in entry.lacks), measure
    assert all(entry.lacks.values())


@pytest.mark.parametrize("entry", FAMILIES.values(), ids=FAMILIES.keys())
def test_latencies_in_seconds_become_milliseconds(entry):
    for measure in (Measure.TTFT, Measure.ITL, Measure.ITL_PER_REQUEST):
        if measure in entry.rows:
            assert "_seconds" in entry.rows[measure].names[0]
            assert entry.rows[measure].scale == 1000.0


def test_an_unknown_family_is_one_line_with_the_known_ones():
    with pytest.raises(UsageError, match=r"unknown metric family 'vlm'; known: dynamo, dynamo-legacy, llamacpp, sglang, trtllm, vllm"):
        metric_family("vlm")
