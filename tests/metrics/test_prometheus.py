"""The Prometheus adapter against a server that speaks the query API; a real Prometheus is in tests/e2e."""

import json
import socket
from urllib.parse import parse_qs, urlsplit

import pytest

from sla_planner.engines.metric_names import metric_family
from sla_planner.errors import UsageError
from sla_planner.metrics.prometheus import PrometheusAccess, PrometheusSource
from sla_planner.plan.observation import Kind

VLLM = metric_family("vllm")
NOW = 1_700_000_000.0


def answer(*rows, **more):
    result = [{"metric": metric, "value": [NOW, value]} for metric, value in rows]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}, **more})


class Fake:
    """Answers queries by the first key that they contain; anything else gets no rows."""

    def __init__(self, server, answers):
        self.answers = {"timestamp(": answer(({}, str(NOW - 1))), "up == 0": answer(), **answers}
        self.queries = []
        server.text = self.respond

    def respond(self, path):
        asked = parse_qs(urlsplit(path).query)
        self.queries.append(asked)
        return next((text for key, text in self.answers.items() if key in asked["query"][0]), answer())


BUSY = {
    "request_success_total": answer(({}, "90")),
    "offset": answer(({}, "30")),
    "vllm:time_to_first_token_seconds_bucket": answer(({"le": "0.5"}, "45"), ({"le": "0.50"}, "27"), ({"le": "+Inf"}, "90")),
    "vllm:time_to_first_token_seconds_sum": answer(({}, "27")),
    "vllm:kv_cache_usage_perc": answer(({}, "0.25")),
    "vllm:num_requests_waiting": answer(({}, "NaN")),
}


def source_of(server, **access):
    return PrometheusSource(PrometheusAccess(server.root + "/", timeout_s=2.0, **access), VLLM, model="m")


def observe(source, window_s=60.0):
    seen = source.observe(NOW, window_s, 500.0, 50.0)
    source.close()
    return seen


def test_rows_become_a_window(start_server):
    server = start_server()
    fake = Fake(server, BUSY)
    seen = observe(source_of(server))
    assert seen.window_s == 60.0
    assert seen.request_rate_rps.value == 2.0  # (90 + 30) / 60
    assert seen.completed_requests.value == 90.0
    assert seen.ttft_ms.value == 300.0
    assert seen.ttft_attained.value == 0.8  # both spellings of the edge: (45 + 27) / 90
    assert seen.kv_usage.value == 0.25
    assert seen.queued_prefill_requests.kind is Kind.UNKNOWN  # NaN
    assert seen.itl_ms.why == 'no series vllm:inter_token_latency_seconds of model "m" with two samples in the last 60 s'
    assert {asked["time"][0] for asked in fake.queries} == {"1700000000.000"}
    assert all(path.startswith("/api/v1/query?") for path, _ in server.requests)


def test_a_short_window_is_widened_to_what_the_scrapes_can_resolve_and_says_so(start_server):
    server = start_server()
    fake = Fake(server, BUSY)
    assert observe(source_of(server, scrape_interval_s=15.0), window_s=15.0).window_s == 60.0
    assert any("[60s]" in asked["query"][0] for asked in fake.queries)


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ({"timestamp(": answer()}, 'Prometheus has no fresh sample of the vllm metrics of model "m": nothing is scraped, or there is no such model'),
        ({"timestamp(": answer(({}, str(NOW - 45)))}, 'Prometheus\' newest sample of the vllm metrics of model "m" is 45 s old'),
        ({"up == 0": answer(({}, "1"))}, "1 of the servers cannot be scraped (up == 0): their part of the load is not seen"),
        ({"request_success_total": answer(({}, "90"), warnings=["store is down"])}, "Prometheus warns: store is down"),
        ({"request_success_total": answer(({}, "many"))}, "did not answer as Prometheus does"),
        ({"request_success_total": "<html>"}, "did not answer as Prometheus does"),
        ({"request_success_total": "[]"}, "did not answer as Prometheus does"),
        ({"request_success_total": '{"data": {"result": "x"}}'}, "did not answer as Prometheus does"),
        ({"request_success_total": '{"data": {"result": ["x"]}}'}, "did not answer as Prometheus does"),
        ({"vllm:time_to_first_token_seconds_bucket": '{"data": {"result": [{"value": [1, "2"]}]}}'}, "did not answer as Prometheus does"),
    ],
)
def test_what_is_not_a_whole_answer_is_unknown_and_says_why(start_server, answers, why):
    server = start_server()
    Fake(server, {**BUSY, **answers})
    seen = observe(source_of(server))
    for quantity in (seen.request_rate_rps, seen.ttft_ms, seen.in_flight_requests, seen.kv_usage):
        assert quantity.kind is Kind.UNKNOWN
        assert why in quantity.why
        assert "\n" not in quantity.why


def test_an_http_error_is_unknown_and_says_what_the_server_said(start_server):
    server = start_server()
    server.status, server.text = 401, "no token"
    why = observe(source_of(server)).request_rate_rps.why
    assert "HTTP Status Code 401" in why
    assert "no token" in why


def test_a_server_that_hangs_is_given_up(start_server):
    server = start_server()
    server.hang = True
    source = PrometheusSource(PrometheusAccess(server.root, timeout_s=0.05), VLLM)
    assert observe(source).request_rate_rps.kind is Kind.UNKNOWN
    assert len(server.requests) == 2  # one retry


def test_nobody_there_is_unknown():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    seen = observe(PrometheusSource(PrometheusAccess(f"http://127.0.0.1:{port}"), VLLM))
    assert seen.request_rate_rps.why == f"http://127.0.0.1:{port}: no answer (ConnectionError)"


def test_the_token_is_read_for_every_query(start_server, tmp_path):
    server = start_server()
    Fake(server, BUSY)
    token = tmp_path / "token"
    token.write_text("first\n")
    source = source_of(server, token_file=token)
    source.observe(NOW, 60.0, 500.0, 50.0)
    assert {headers["Authorization"] for _, headers in server.requests} == {"Bearer first"}
    server.requests.clear()
    token.write_text("second\n")
    source.observe(NOW, 60.0, 500.0, 50.0)
    assert {headers["Authorization"] for _, headers in server.requests} == {"Bearer second"}
    token.unlink()
    assert observe(source).request_rate_rps.why == f"the token file {token} cannot be read (FileNotFoundError)"


def test_unusable_access_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is not an http"):
        PrometheusSource(PrometheusAccess("prometheus:9090"), VLLM)
    with pytest.raises(UsageError, match="there is no CA bundle"):
        PrometheusSource(PrometheusAccess("https://prometheus", ca_file=tmp_path / "absent.pem"), VLLM)
