"""The Prometheus adapter against a server that speaks the query API; a real Prometheus is in tests/e2e."""

import json
import socket
from urllib.parse import parse_qs, urlsplit

import pytest

from sla_planner.engines.metric_names import metric_family
from sla_planner.errors import UsageError
from sla_planner.metrics.prometheus import PrometheusAccess, PrometheusSource, session_for
from sla_planner.plan.observation import Kind

VLLM = metric_family("vllm")
NOW = 1_700_000_000.0


def answer(*rows, **more):
    result = [{"metric": metric, "value": [NOW, value]} for metric, value in rows]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}, **more})


def page(ended, within, ttft_s, *, waiting=0, instance="a"):
    """One engine's rows."""

    def row(name, value, **labels):
        return {"__name__": f"vllm:{name}", "job": "engines", "instance": instance, "model_name": "m", **labels}, str(value)

    return [
        row("request_success_total", ended, finished_reason="stop"),
        row("num_requests_running", 3),
        row("num_requests_waiting", waiting),
        row("time_to_first_token_seconds_bucket", within, le="0.5"),
        row("time_to_first_token_seconds_bucket", ended, le="+Inf"),
        row("time_to_first_token_seconds_sum", ttft_s),
        row("time_to_first_token_seconds_count", ended),
    ]


def stamps(at_s, *instances):
    return answer(*(({"job": "engines", "instance": instance}, str(at_s)) for instance in instances))


class Fake:
    """Answers each kind of query, at the window's start (a minute ago) and at its end."""

    def __init__(self, server, **answers):
        self.down = answer()
        self.start_stamps, self.end_stamps = stamps(NOW - 64, "a"), stamps(NOW - 4, "a")
        self.start_page, self.end_page = answer(*page(1000, 900, 500.0)), answer(*page(1090, 972, 527.0, waiting=30))
        vars(self).update(answers)
        self.asked = []
        server.text = self.respond

    def respond(self, path):
        asked = {key: values[0] for key, values in parse_qs(urlsplit(path).query).items()}
        self.asked.append(asked)
        if asked["query"].startswith("(up == 0)"):
            return self.down
        moment = "end" if float(asked["time"]) == NOW else "start"
        return getattr(self, f"{moment}_{'stamps' if 'timestamp' in asked['query'] else 'page'}")


def source_of(server, **access):
    return PrometheusSource(PrometheusAccess(server.root + "/", timeout_s=2.0, **access), VLLM, model="m")


def observe(source, window_s=60.0):
    seen = source.observe(NOW, window_s, 500.0, 50.0)
    source.close()
    return seen


def test_two_readings_become_a_window(start_server):
    server = start_server()
    fake = Fake(server)
    seen = observe(source_of(server))
    assert seen.window_s == 60.0
    assert seen.request_rate_rps.value == 2.0  # (90 completed + 30 more in flight) / 60 s
    assert seen.completed_requests.value == 90.0
    assert seen.ttft_ms.value == 300.0  # 27 s / 90
    assert seen.ttft_attained.value == 0.8  # 72 / 90
    assert seen.queued_prefill_requests.value == 30.0
    assert seen.itl_ms.why == 'no series vllm:inter_token_latency_seconds of model "m"'
    assert {asked["time"] for asked in fake.asked} == {"1700000000.000", "1699999940.000"}
    assert all(path.startswith("/api/v1/query?") for path, _ in server.requests)


def test_a_rate_is_over_the_time_between_the_samples(start_server):
    server = start_server()
    Fake(server, start_stamps=stamps(NOW - 79, "a"))
    seen = observe(source_of(server))
    assert seen.window_s == 75.0
    assert seen.request_rate_rps.value == 1.6


def test_a_server_that_was_not_known_before_contributes_from_the_next_window_on(start_server):
    server = start_server()
    both = answer(*page(1090, 972, 527.0, waiting=30), *page(5000, 5000, 100.0, instance="b"))
    Fake(server, end_page=both, end_stamps=stamps(NOW - 4, "a", "b"))
    seen = observe(source_of(server))
    assert seen.completed_requests.value == 90.0
    assert seen.ttft_ms.value == 300.0
    assert seen.running_decode_requests.value == 6.0


def test_a_window_shorter_than_the_scrape_interval_is_stretched_and_says_so(start_server):
    server = start_server()
    fake = Fake(server)

    def respond(path):
        asked = {key: values[0] for key, values in parse_qs(urlsplit(path).query).items()}
        if "timestamp" in asked["query"]:  # scraped every 30 s, at :56 and :26
            age_s = NOW - float(asked["time"])
            return stamps(NOW - 4 if age_s < 4 else NOW - 34 if age_s < 34 else NOW - 64, "a")
        return fake.respond(path)

    server.text = respond
    seen = observe(source_of(server), window_s=2.0)
    assert seen.window_s == 30.0
    assert seen.completed_requests.value == 90.0
    assert fake.asked[-2]["time"] == f"{NOW - 4:.3f}"


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ({"end_stamps": answer()}, 'Prometheus has no vllm metrics of model "m" now: nothing is scraped, or there is no such model'),
        ({"start_stamps": answer()}, 'Prometheus has had the vllm metrics of model "m" for less than the window'),
        ({"start_stamps": stamps(NOW - 4, "a")}, "Prometheus has no sample of the last 4 s, for a window of 60 s"),
        ({"down": answer(({"job": "engines", "instance": "b"}, "0"))}, "1 of the servers cannot be scraped (up == 0): their part of the load is not"),
        ({"end_page": answer(warnings=["store is down"])}, "Prometheus warns: ['store is down']"),
        ({"end_page": answer(({"instance": "a"}, "many"))}, "did not answer as Prometheus does"),
        ({"end_page": "<html>"}, "did not answer as Prometheus does"),
        ({"end_page": "[]"}, "did not answer as Prometheus does"),
        ({"end_page": '{"data": {"result": "x"}}'}, "did not answer as Prometheus does"),
        ({"end_page": '{"data": {"result": ["x"]}}'}, "did not answer as Prometheus does"),
        ({"end_page": '{"data": {"result": [{"metric": 7, "value": [1, "2"]}]}}'}, "did not answer as Prometheus does"),
        ({"end_page": '{"data": {"result": [{"value": [1, "2"]}]}}'}, "did not answer as Prometheus does"),
        ({"end_page": '{"data": {"result": [{"metric": {}, "value": []}]}}'}, "did not answer as Prometheus does"),
    ],
)
def test_what_is_not_a_whole_answer_is_unknown_and_says_why(start_server, answers, why):
    server = start_server()
    Fake(server, **answers)
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
    Fake(server)
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


def test_certificates_are_verified_unless_told_otherwise(tmp_path):
    bundle = tmp_path / "ca.pem"
    bundle.touch()
    assert session_for(PrometheusAccess("https://prometheus")).verify is True
    assert session_for(PrometheusAccess("https://prometheus", ca_file=bundle)).verify == str(bundle)
    assert session_for(PrometheusAccess("https://prometheus", ca_file=bundle, verify_tls=False)).verify is False
