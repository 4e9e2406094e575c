"""Scraping over real sockets."""

import json
import socket
import threading

import pytest

from sla_planner.engines.metric_names import metric_family
from sla_planner.errors import UnreachableError, UsageError
from sla_planner.metrics import scrape
from sla_planner.metrics.scrape import ScrapeSource
from sla_planner.plan.observation import Kind

DYNAMO, VLLM = metric_family("dynamo"), metric_family("vllm")


def frontend(started, ended=None, ttft_s=0.1, in_flight=0):
    ended = started if ended is None else ended
    name = "dynamo_frontend_time_to_first_token_seconds"
    return (
        f'dynamo_frontend_requests_started_total{{model="m"}} {started}\ndynamo_frontend_requests_total{{model="m"}} {ended}\n'
        f'dynamo_frontend_inflight_requests{{model="m"}} {in_flight}\n'
        f'{name}_bucket{{model="m",le="0.5"}} {ended}\n{name}_bucket{{model="m",le="+Inf"}} {ended}\n'
        f'{name}_sum{{model="m"}} {ended * ttft_s}\n{name}_count{{model="m"}} {ended}\n'
    )


def observe(source, at_s, window_s=10.0):
    return source.observe(at_s, window_s, 500.0, 50.0)


def test_the_first_reading_is_unknown_and_the_second_covers_the_time_that_really_passed(start_server):
    server = start_server()
    source = ScrapeSource([server.url], DYNAMO, model="M")
    server.text = frontend(1000)
    first = observe(source, 100.0)
    assert first.request_rate_rps.kind is Kind.UNKNOWN
    assert first.request_rate_rps.why == "first reading: a window needs two"
    server.text = frontend(1030, in_flight=4)
    second = observe(source, 112.0)
    assert second.window_s == 12.0
    assert second.request_rate_rps.value == 2.5
    assert second.ttft_ms.value == pytest.approx(100.0)
    assert second.ttft_attained.value == 1.0
    assert second.in_flight_requests.value == 4.0
    third = observe(source, 122.0)
    assert (third.request_rate_rps.kind, third.request_rate_rps.value) == (Kind.VALUE, 0.0)
    assert third.ttft_ms.kind is Kind.IDLE
    source.close()


def test_frontends_are_summed(start_server):
    servers = [start_server() for _ in range(3)]
    source = ScrapeSource([server.url for server in servers], DYNAMO)
    for server in servers:
        server.text = frontend(0)
    observe(source, 0.0)
    servers[0].text = frontend(90, ttft_s=0.1)
    servers[1].text = frontend(10, ttft_s=0.5)
    seen = observe(source, 10.0)
    assert seen.request_rate_rps.value == 10.0
    assert seen.ttft_ms.value == pytest.approx(140.0)
    source.close()


def test_a_frontend_that_does_not_answer_makes_the_load_unknown_and_nothing_is_lost(start_server):
    healthy, flaky = start_server(), start_server()
    source = ScrapeSource([healthy.url, flaky.url], DYNAMO)
    healthy.text = flaky.text = frontend(0)
    observe(source, 0.0)
    healthy.text, flaky.status = frontend(10), 503
    blind = observe(source, 10.0)
    assert blind.request_rate_rps.kind is Kind.UNKNOWN
    assert blind.request_rate_rps.why == f"{flaky.url}: HTTP 503 (1 of 2 servers; their part of the load is not seen)"
    healthy.text, flaky.text, flaky.status = frontend(25), frontend(15), 200
    seen = observe(source, 20.0)
    assert seen.window_s == 20.0
    assert seen.request_rate_rps.value == 2.0
    source.close()


def test_a_gap_much_longer_than_the_window_begins_anew(start_server):
    server = start_server()
    source = ScrapeSource([server.url], DYNAMO)
    server.text = frontend(0)
    observe(source, 0.0)
    server.text = frontend(100)
    assert observe(source, 41.0).request_rate_rps.why == "the last known reading is 41 s old, for a window of 10 s: begun anew"
    server.text = frontend(120)
    assert observe(source, 51.0).request_rate_rps.value == 2.0
    source.close()


def test_polls_between_observations_keep_what_a_restart_would_lose(start_server):
    server = start_server()
    source = ScrapeSource([server.url], DYNAMO)
    for at_s, count in ((0.0, 100), (5.0, 130), (8.0, 4)):
        server.text = frontend(count)
        source.poll(at_s)
    server.text = frontend(10)
    # 30 before the restart, 10 after it.
    assert observe(source, 10.0).request_rate_rps.value == 4.0
    source.close()


def test_a_counter_that_was_left_out_once_does_not_come_back_as_load(start_server):
    server = start_server()
    source = ScrapeSource([server.url], DYNAMO)
    for at_s, text in ((0.0, frontend(1000)), (5.0, "up 1\n"), (10.0, frontend(1020))):
        server.text = text
        seen = observe(source, at_s)
    assert seen.request_rate_rps.value == 4.0
    source.close()


def test_completions_and_in_flight_give_offered_load_of_an_engine(start_server):
    server = start_server()
    source = ScrapeSource([server.url], VLLM, model="m")

    def engine(ended, running, waiting):
        return (
            f'vllm:request_success_total{{model_name="m",finished_reason="stop"}} {ended}\n'
            f'vllm:num_requests_running{{model_name="m"}} {running}\nvllm:num_requests_waiting{{model_name="m"}} {waiting}\n'
        )

    server.text = engine(0, 0, 0)
    observe(source, 0.0)
    server.text = engine(5, 8, 7)
    assert observe(source, 10.0).request_rate_rps.value == 2.0
    source.close()


@pytest.mark.parametrize("through_json", [False, True])
def test_the_next_process_goes_on_from_the_saved_readings(start_server, through_json):
    server = start_server()
    server.text = frontend(100, in_flight=3)
    before = ScrapeSource([server.url], DYNAMO, model="m")
    observe(before, 0.0)
    state = before.to_state()
    if through_json:
        state = json.loads(json.dumps(state))
    after = ScrapeSource([server.url], DYNAMO, model="m")
    after.from_state(state)
    server.text = frontend(150)
    seen = observe(after, 10.0)
    assert seen.request_rate_rps.value == 5.0
    assert seen.ttft_ms.value == pytest.approx(100.0)
    before.close()
    after.close()


def test_readings_of_another_model_are_not_gone_on_from(start_server):
    server = start_server()
    server.text = frontend(100)
    before = ScrapeSource([server.url], DYNAMO, model="other")
    observe(before, 0.0)
    after = ScrapeSource([server.url], DYNAMO, model="m")
    after.from_state(before.to_state())
    assert observe(after, 10.0).request_rate_rps.why == "first reading: a window needs two"
    before.close()
    after.close()


@pytest.mark.parametrize("change", [{"since_s": "soon"}, {"last": 7}, {"gained": [["a"]]}, {"last": {"u": [["a", [["b"]], 1]]}}])
def test_a_malformed_state_is_one_clear_line(change):
    source = ScrapeSource(["http://127.0.0.1:9/metrics"], DYNAMO)
    with pytest.raises(UsageError, match="the saved readings are malformed"):
        source.from_state({**source.to_state(), **change})
    source.close()


def test_a_server_without_the_model_is_unknown_and_names_it(start_server):
    server = start_server()
    server.text = frontend(5)
    source = ScrapeSource([server.url], DYNAMO, model="absent")
    observe(source, 0.0)
    why = observe(source, 10.0).request_rate_rps.why
    assert why == f'no series dynamo_frontend_requests_started_total of model "absent" on {server.url}'
    source.close()


@pytest.mark.parametrize(
    ("status", "text", "why"),
    [
        (404, "up 1\n", "HTTP 404"),
        (200, "<html>login</html>", "the answer is not metrics text: line 1 is '<html>login</html>'"),
        (200, "dynamo_frontend_requests_started_total one\n", "the answer is not metrics text: line 1"),
    ],
)
def test_a_bad_answer_is_unknown_and_says_why(start_server, status, text, why):
    server = start_server()
    server.status, server.text = status, text
    source = ScrapeSource([server.url], DYNAMO)
    assert observe(source, 0.0).request_rate_rps.why.startswith(f"{server.url}: {why}")
    with pytest.raises(UnreachableError):
        source.poll(1.0)
    source.close()


def test_a_server_that_hangs_is_given_up(start_server, monkeypatch):
    monkeypatch.setattr(scrape, "TIMEOUT_S", 0.05)
    server = start_server()
    server.hang = True
    source = ScrapeSource([server.url], DYNAMO)
    assert observe(source, 0.0).request_rate_rps.why == f"{server.url}: no answer within 0.05 s"
    source.close()


def test_a_closed_port_is_unknown():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    source = ScrapeSource([f"http://127.0.0.1:{port}/metrics"], DYNAMO)
    assert observe(source, 0.0).request_rate_rps.why == f"http://127.0.0.1:{port}/metrics: no answer (ConnectionError)"
    source.close()


@pytest.mark.parametrize("urls", [[], ["frontend:8000/metrics"]])
def test_unusable_urls_are_refused(urls):
    with pytest.raises(UsageError):
        ScrapeSource(urls, DYNAMO)


def test_a_real_frontend_page_reads_as_its_client_counted(start_server, real_text):
    server = start_server()
    server.text = "up 1\n"
    source = ScrapeSource([server.url], DYNAMO, model="Tiny-Qwen3")
    observe(source, 0.0)
    server.text = real_text("dynamo-frontend-1.6.1.txt")
    seen = source.observe(10.0, 10.0, 470.0, 20.0)
    assert seen.request_rate_rps.value == pytest.approx(208.1)
    assert (seen.isl_tokens.value, seen.osl_tokens.value) == (3000.0, 150.0)
    assert seen.ttft_ms.value == pytest.approx(123.834, abs=1e-3)  # 257.6995 s / 2081
    assert seen.itl_ms.value == pytest.approx(4.862, abs=1e-3)  # 1507.556 s / 310069
    assert seen.ttft_attained.value == pytest.approx(0.99808, abs=1e-5)  # 2077 / 2081
    assert seen.itl_attained.value == pytest.approx(0.99533, abs=1e-5)  # 308620 / 310069
    assert seen.isl_lengths is not None
    assert seen.isl_lengths.total_tokens == 6243000.0
    assert sum(seen.isl_lengths.requests) == 2081.0
    source.close()


def test_a_page_that_breaks_off_is_unknown():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def half_a_page() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(2**16)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")

        answering = threading.Thread(target=half_a_page)
        answering.start()
        source = ScrapeSource([f"http://127.0.0.1:{server.getsockname()[1]}/metrics"], metric_family("dynamo"))
        rate = source.observe(100.0, 15.0, 500.0, 50.0).request_rate_rps
        answering.join()
    assert rate.kind is Kind.UNKNOWN
    assert "no answer (ProtocolError)" in rate.why or "IncompleteRead" in rate.why
