"""What preflight asks a Prometheus, asked of a real one (Debian package `prometheus`): it takes every query, and the answers mean what we think."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from tests.e2e.prometheus_server import prometheus_server, wait_for

from sla_planner.engines.metric_names import FAMILIES, metric_family
from sla_planner.metrics.preflight_traffic import LOOKBACK, counts_query, samples_query, traffic_in_prometheus, up_query
from sla_planner.metrics.prometheus import PrometheusAccess

pytestmark = pytest.mark.e2e

FAMILY = metric_family("dynamo")


class Frontend:
    """A /metrics page with requests, first tokens and a gauge of one model."""

    def __init__(self, model: str) -> None:
        registry = CollectorRegistry()
        self.started = Counter("dynamo_frontend_requests_started_total", "-", ["model"], registry=registry).labels(model)
        Gauge("dynamo_frontend_inflight_requests", "-", ["model"], registry=registry).labels(model)
        self.ttft = Histogram("dynamo_frontend_time_to_first_token_seconds", "-", ["model"], registry=registry).labels(model)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = generate_latest(registry)
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def frontend() -> Iterator[Frontend]:
    found = Frontend("llama")
    yield found
    found.stop()


def looked(url: str):
    return traffic_in_prometheus(PrometheusAccess(url), FAMILY)


def test_servers_counts_and_the_clock_are_read(frontend, tmp_path):
    frontend.started.inc(5)
    for _ in range(3):
        frontend.ttft.observe(0.1)
    jobs = [
        {"job_name": "one", "static_configs": [{"targets": [frontend.address], "labels": {"dynamo_namespace": "prod"}}]},
        {"job_name": "two", "static_configs": [{"targets": [frontend.address]}]},
        {"job_name": "gone", "static_configs": [{"targets": ["127.0.0.1:1"]}]},
    ]
    with prometheus_server(tmp_path, jobs) as url:
        wait_for(lambda: len(looked(url).served) == 2, "the first scrapes")
        found = looked(url)
        assert abs(found.clock_ahead_s) < 2
        assert {(each.job, each.instance, each.up, each.every_s) for each in found.servers} == {
            ("one", frontend.address, True, None),
            ("two", frontend.address, True, None),
        }
        assert {(each.job, each.model, each.dynamo_namespace, each.requests, each.streamed) for each in found.served} == {
            ("one", "llama", "prod", 5.0, 3.0),
            ("two", "llama", "", 5.0, 3.0),
        }
        frontend.stop()
        wait_for(lambda: not any(each.up for each in looked(url).servers), "the page to be missed")
        assert len(looked(url).servers) == 2  # still known, for some minutes


def test_where_nothing_is_exported_it_is_said_what_is_scraped(tmp_path):
    with prometheus_server(tmp_path, [{"job_name": "gone", "static_configs": [{"targets": ["127.0.0.1:1"]}]}]) as url:
        wait_for(lambda: looked(url).scraped, "the first scrape")
        found = looked(url)
    assert (found.servers, found.served, found.scraped, found.down) == ((), (), 1, ("127.0.0.1:1 (job gone)",))


def test_prometheus_takes_the_queries_of_every_family(tmp_path):
    with prometheus_server(tmp_path, []) as url:
        for family in FAMILIES.values():
            counts = [counts_query(family)] if family.name != "llamacpp" else []  # which counts none
            for query in (*counts, up_query(family), samples_query(family)):
                answer = requests.get(f"{url}/api/v1/query", params={"query": query, "time": f"{time.time():.3f}"}, timeout=5)
                assert answer.status_code == 200, (family.name, query, answer.text)
    assert LOOKBACK in samples_query(FAMILY)
