"""Same traffic, same observation: a real Prometheus (Debian package `prometheus`) and direct scraping read the same two frontends."""

import dataclasses
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from tests.e2e.prometheus_server import prometheus_server, wait_for

from sla_planner.engines.metric_names import metric_family
from sla_planner.metrics.prometheus import PrometheusAccess, PrometheusSource
from sla_planner.metrics.queries import down_query, readings_query, stamps_query
from sla_planner.metrics.scrape import ScrapeSource
from sla_planner.plan.observation import Kind

pytestmark = pytest.mark.e2e

FAMILY = metric_family("dynamo")
MODEL = "Qwen/Qwen3-0.6B"


class Frontend:
    """A /metrics with a Dynamo frontend's names, fed by `serve`."""

    def __init__(self, model):
        registry = CollectorRegistry()

        def one(kind, name, **more):
            return kind(f"dynamo_frontend_{name}", name, ["model"], registry=registry, **more).labels(model)

        self.started = one(Counter, "requests_started_total")
        self.ended = one(Counter, "requests_total")
        self.in_flight = one(Gauge, "inflight_requests")
        self.queued = one(Gauge, "queued_requests")
        self.ttft = one(Histogram, "time_to_first_token_seconds", buckets=(0.1, 0.5, 1.0))
        self.itl = one(Histogram, "inter_token_latency_seconds", buckets=(0.01, 0.05, 0.1))
        self.duration = one(Histogram, "request_duration_seconds", buckets=(1.0, 10.0))
        self.isl = one(Histogram, "input_sequence_tokens", buckets=(100, 1000, 10000))
        self.osl = one(Histogram, "output_sequence_tokens", buckets=(100, 1000, 10000))
        frontend = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                body = generate_latest(registry)
                self.send_response(200 if frontend.up else 503)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args):
                pass

        self.up = True
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def serve(self, ttft_s, itl_s, isl, osl):
        self.started.inc()
        self.ended.inc()
        self.ttft.observe(ttft_s)
        for _ in range(3):
            self.itl.observe(itl_s)
        self.duration.observe(ttft_s + itl_s * osl)
        self.isl.observe(isl)
        self.osl.observe(osl)

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def frontends():
    both = [Frontend("qwen/qwen3-0.6b"), Frontend("QWEN/Qwen3-0.6B")]
    yield both
    for one in both:
        one.stop()


@pytest.fixture
def prometheus(frontends, tmp_path):
    """Root URL of a Prometheus that scrapes both frontends every second."""
    scraped = {"targets": [one.address for one in frontends], "labels": {"dynamo_namespace": "prod"}}
    with prometheus_server(tmp_path, [{"job_name": "frontends", "static_configs": [scraped]}]) as url:
        yield url


def sample(url, query):
    """The value of a query of one row now, or None."""
    rows = requests.get(f"{url}/api/v1/query", params={"query": query}, timeout=5).json()["data"]["result"]
    return float(rows[0]["value"][1]) if rows else None


def started_query(frontend):
    return f'dynamo_frontend_requests_started_total{{instance="{frontend.address}"}}'


def source_for(url):
    return PrometheusSource(PrometheusAccess(url), FAMILY, model=MODEL, namespace="prod")


def observe(source, at_s, window_s):
    return source.observe(at_s, window_s, 500.0, 50.0)


def test_prometheus_and_direct_scraping_see_the_same_traffic(frontends, prometheus):
    scraped = ScrapeSource([f"http://{one.address}/metrics" for one in frontends], FAMILY, model=MODEL, namespace="prod")
    queried = source_for(prometheus)
    busy, slow = frontends
    for one in frontends:
        wait_for(lambda one=one: sample(prometheus, f"count_over_time({started_query(one)}[1m])"), "the first scrape")
    begin_s = time.time()
    assert observe(scraped, begin_s, 10.0).request_rate_rps.kind is Kind.UNKNOWN
    for _ in range(90):
        busy.serve(ttft_s=0.2, itl_s=0.02, isl=800, osl=50)
    for _ in range(10):
        slow.serve(ttft_s=0.9, itl_s=0.08, isl=4000, osl=500)
    busy.in_flight.set(3)
    slow.queued.set(2)
    expected = {busy: 90.0, slow: 10.0}
    wait_for(lambda: all(sample(prometheus, started_query(one)) == count for one, count in expected.items()), "the traffic to be scraped")
    wait_for(lambda: sample(prometheus, "sum(dynamo_frontend_inflight_requests)") == 3, "the gauges to be scraped")
    end_s = time.time()
    direct, through = observe(scraped, end_s, end_s - begin_s), observe(queried, end_s, end_s - begin_s)
    assert direct.completed_requests.value == 100.0
    assert direct.request_rate_rps.value == pytest.approx(100.0 / (end_s - begin_s))
    assert direct.ttft_ms.value == pytest.approx(270.0)  # (90 * 200 + 10 * 900) / 100
    assert direct.itl_ms.value == pytest.approx(26.0)
    assert (direct.isl_tokens.value, direct.osl_tokens.value) == (1120.0, 95.0)
    assert (direct.ttft_attained.value, direct.itl_attained.value) == (0.9, 0.9)
    # Prometheus' window begins and ends at its last scrapes before begin_s and end_s, a second apart.
    assert through.window_s == pytest.approx(direct.window_s, abs=1.5)
    assert through.request_rate_rps.value * through.window_s == pytest.approx(100.0)
    same = {field.name for field in dataclasses.fields(direct)} - {"window_s", "request_rate_rps"}
    assert {name: getattr(through, name) for name in same} == {name: pytest.approx(getattr(direct, name)) for name in same}
    scraped.close()
    queried.close()


def test_silence_is_zero_and_a_lost_server_is_unknown(frontends, prometheus):
    source = source_for(prometheus)
    one, other = frontends
    for each in frontends:
        wait_for(lambda each=each: (sample(prometheus, f"count_over_time({started_query(each)}[1m])") or 0) >= 4, "four scrapes")
    quiet = observe(source, time.time(), 2.0)
    assert (quiet.request_rate_rps.kind, quiet.request_rate_rps.value) == (Kind.VALUE, 0.0)
    assert quiet.ttft_ms.kind is Kind.IDLE
    one.up = False
    wait_for(lambda: sample(prometheus, f'up{{instance="{one.address}"}}') == 0, "the lost server to be noticed")
    assert "1 of the servers cannot be scraped" in observe(source, time.time(), 2.0).request_rate_rps.why
    other.up = False
    wait_for(lambda: sample(prometheus, f'up{{instance="{other.address}"}}') == 0, "the other to be noticed")
    assert "2 of the servers cannot be scraped" in observe(source, time.time(), 2.0).request_rate_rps.why
    assert "no such model" in PrometheusSource(PrometheusAccess(prometheus), FAMILY, model="other").observe(time.time(), 4.0, 1.0, 1.0).ttft_ms.why
    source.close()


@pytest.mark.parametrize("name", ["dynamo", "dynamo-legacy", "vllm", "sglang", "trtllm", "llamacpp"])
def test_prometheus_accepts_every_query_of_every_family(name, prometheus):
    for query in (readings_query, stamps_query, down_query):
        answer = requests.get(f"{prometheus}/api/v1/query", params={"query": query(metric_family(name), 'a.b(c)\\"d+', 'n"s')}, timeout=5).json()
        assert answer["status"] == "success", (query, answer)
