"""What is read of the traffic for preflight: the text of the queries, what answers mean, servers that do not answer. A real Prometheus: tests/e2e."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

import pytest

from sla_planner.engines.metric_names import metric_family
from sla_planner.errors import UnreachableError
from sla_planner.metrics.preflight_traffic import counts_query, samples_query, traffic_in_prometheus, traffic_on_pages, up_query
from sla_planner.metrics.prometheus import PrometheusAccess

DYNAMO = metric_family("dynamo")
SEEN = (
    "last_over_time(dynamo_frontend_inflight_requests[10m]) or last_over_time(dynamo_frontend_queued_requests[10m])"
    " or last_over_time(dynamo_frontend_requests_started_total[10m]) or last_over_time(dynamo_frontend_requests_total[10m])"
)


def test_the_queries():
    names = "dynamo_frontend_requests_started_total|dynamo_frontend_time_to_first_token_seconds_count"
    assert counts_query(DYNAMO) == f'last_over_time({{__name__=~"{names}"}}[10m])'
    assert up_query(DYNAMO) == f"up and on (job, instance) ({SEEN})"
    assert samples_query(DYNAMO) == f"count_over_time(up[10m]) and on (job, instance) (up offset 10m) and on (job, instance) ({SEEN})"


def answering(server, rows_of):
    def text(path):
        (query,) = parse_qs(urlsplit(path).query)["query"]
        rows = [{"metric": labels, "value": [0, str(value)]} for labels, value in rows_of(query)]
        return json.dumps({"status": "success", "data": {"resultType": "vector", "result": rows}})

    server.text = text
    return PrometheusAccess(server.root)


def test_scrapes_are_counted_over_the_time_that_is_looked_at(start_server):
    server = {"job": "f", "instance": "a:8000"}

    def rows_of(query):
        if query.startswith("count_over_time"):
            return [(server, 20)]
        return [(server, 1)] if query.startswith("up and") else []

    found = traffic_in_prometheus(answering(start_server(), rows_of), DYNAMO)
    assert [(each.instance, each.up, each.every_s) for each in found.servers] == [("a:8000", True, 30.0)]


def test_a_server_that_has_just_begun_says_nothing_of_the_interval(start_server):
    found = traffic_in_prometheus(answering(start_server(), lambda query: [({"job": "f"}, 0)] if query.startswith("up and") else []), DYNAMO)
    assert [(each.up, each.every_s) for each in found.servers] == [(False, None)]


@pytest.mark.parametrize(
    ("status", "text", "said"),
    [(503, "", "HTTP 503"), (200, "<html>", "does not answer as Prometheus does"), (200, '{"data": []}', "does not answer as Prometheus does")],
)
def test_what_is_no_prometheus_does_not_answer(start_server, status, text, said):
    server = start_server()
    server.status, server.text = status, text
    with pytest.raises(UnreachableError, match=said):
        traffic_in_prometheus(PrometheusAccess(server.root), DYNAMO)


def test_nobody_there():
    with pytest.raises(UnreachableError, match="no answer, ConnectionError"):
        traffic_in_prometheus(PrometheusAccess("http://127.0.0.1:1"), DYNAMO)


def test_a_page_of_a_real_frontend(start_server, real_text):
    server = start_server()
    server.text = real_text("dynamo-frontend-1.6.1.txt")
    found = traffic_on_pages([server.url], DYNAMO)
    assert [(each.instance, each.every_s) for each in found.servers] == [(server.url, None)]
    (served,) = found.served
    assert served.model
    assert served.requests >= served.streamed > 0
    assert found.clock_ahead_s is None


def test_a_page_of_something_else_has_none_of_the_metrics(start_server, real_text):
    server = start_server()
    server.text = real_text("vllm-0.32.txt")
    assert traffic_on_pages([server.url], DYNAMO).servers == ()


def test_a_page_that_does_not_answer(start_server):
    server = start_server()
    server.status = 404
    with pytest.raises(UnreachableError, match="HTTP 404"):
        traffic_on_pages([server.url], DYNAMO)
