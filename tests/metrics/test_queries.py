"""The PromQL of every family, pinned in goldens/<family>.promql.

To write them anew: SLA_PLANNER_WRITE_GOLDENS=1 pytest tests/metrics/test_queries.py. Such a run fails, so that nobody takes it for a test.
"""

import os
from pathlib import Path

import pytest

from sla_planner.engines.metric_names import FAMILIES, metric_family
from sla_planner.metrics.queries import Part, Scope, down_query, newest_query, traffic_queries
from sla_planner.model.metric_family import Measure

GOLDENS = Path(__file__).parent / "goldens"


@pytest.mark.parametrize("name", FAMILIES)
def test_queries_are_the_pinned_ones(name):
    family, scope = FAMILIES[name], Scope("Qwen/Qwen3-0.6B", "prod", 15.0)
    named = {
        "newest": newest_query(family, scope),
        "down": down_query(family, scope),
        **{f"{measure}.{part}": query for (measure, part), query in traffic_queries(family, scope).items()},
    }
    text = "".join(f"# {key}\n{query}\n" for key, query in named.items())
    golden = GOLDENS / f"{name}.promql"
    if os.environ.get("SLA_PLANNER_WRITE_GOLDENS"):
        golden.write_text(text)
        pytest.fail(f"{golden.name} written anew: read the diff, then run without SLA_PLANNER_WRITE_GOLDENS")
    assert text == golden.read_text()


def test_no_golden_is_left_over():
    assert {golden.stem for golden in GOLDENS.iterdir()} == set(FAMILIES)


def query_for(model=None, namespace=None, range_s=15.0):
    return traffic_queries(metric_family("dynamo"), Scope(model, namespace, range_s))[Measure.STARTED, Part.INCREASE]


def test_the_range_is_written_to_the_millisecond():
    assert query_for(range_s=180.0) == "sum(increase(dynamo_frontend_requests_started_total[180s]))"
    assert query_for(range_s=15.2304) == "sum(increase(dynamo_frontend_requests_started_total[15230ms]))"


def test_names_are_matched_literally():
    assert r'model=~"(?i:a\\.b\\(c\\)\\\\\"d\\+)"' in query_for(model='a.b(c)\\"d+')
    assert 'dynamo_namespace="a\\"b"' in query_for(namespace='a"b')
