"""The PromQL of every family, pinned in goldens/<family>.promql.

To write them anew: SLA_PLANNER_WRITE_GOLDENS=1 pytest tests/metrics/test_queries.py. Such a run fails, so that nobody takes it for a test.
"""

import os
from pathlib import Path

import pytest

from sla_planner.engines.metric_names import FAMILIES, metric_family
from sla_planner.metrics.queries import down_query, readings_query, stamps_query

GOLDENS = Path(__file__).parent / "goldens"


@pytest.mark.parametrize("name", FAMILIES)
def test_queries_are_the_pinned_ones(name):
    what = (FAMILIES[name], "Qwen/Qwen3-0.6B", "prod")
    text = f"# readings\n{readings_query(*what)}\n# stamps\n{stamps_query(*what)}\n# down\n{down_query(*what)}\n"
    golden = GOLDENS / f"{name}.promql"
    if os.environ.get("SLA_PLANNER_WRITE_GOLDENS"):
        golden.write_text(text)
        pytest.fail(f"{golden.name} written anew: read the diff, then run without SLA_PLANNER_WRITE_GOLDENS")
    assert text == golden.read_text()


def test_no_golden_is_left_over():
    assert {golden.stem for golden in GOLDENS.iterdir()} == set(FAMILIES)


def test_names_are_matched_literally():
    query = readings_query(metric_family("dynamo"), 'a.b(c)\\"d+', 'a"b')
    assert r'model=~"(?i:a\\.b\\(c\\)\\\\\"d\\+)"' in query
    assert 'dynamo_namespace="a\\"b"' in query


def test_without_a_model_every_model_is_meant():
    assert "model" not in readings_query(metric_family("dynamo"), None, None)
