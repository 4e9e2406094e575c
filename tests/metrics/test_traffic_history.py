"""A Prometheus' memory as requests: what was counted is there, holes and restarts lose nothing that is known, lengths keep their buckets and means.

The server is a stand-in that answers range queries; a real Prometheus is in tests/e2e.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.metrics.frontend_history import answer_of, scraped

from sla_planner.engines.metric_names import metric_family
from sla_planner.errors import TraceError, UnreachableError, UsageError
from sla_planner.metrics.prometheus import PrometheusAccess
from sla_planner.metrics.traffic_history import Gap, Period, TrafficHistory, drawn_trace, read_history, total_gap_s
from sla_planner.plan.observation import LengthHistogram, Quantity, unknown_traffic
from sla_planner.traffic.trace import Trace

DYNAMO = metric_family("dynamo")
END_S = 1_800_000_000.0
BEGIN_S = END_S - 5 * 3600
PERIOD = Period(END_S, 60.0, 300)


def traffic(requests: int, seed: int) -> Trace:
    """Five hours, busier towards the end."""
    random = np.random.default_rng(seed)
    arrival_s = np.sort(np.sqrt(random.random(requests))) * 5 * 3600
    isl, osl = (np.maximum(random.lognormal(mean, 0.9, requests), 1).astype(np.int64) for mean in (6.5, 5.0))
    return Trace(arrival_s, isl, osl)


@pytest.fixture
def prometheus(start_server):
    """Remembers the frontends that it is called with."""

    def remembering(*frontends):
        server = start_server()
        server.text = lambda path: answer_of(list(frontends), path)
        return PrometheusAccess(server.root)

    return remembering


def test_requests_and_tokens_of_all_frontends_are_there_at_their_time(prometheus):
    busy, quiet = traffic(20_000, 1), traffic(5_000, 2)
    access = prometheus(scraped(busy, BEGIN_S, instance="a:8000"), scraped(quiet, BEGIN_S, instance="b:8000", counted_before=777))
    history = read_history(access, DYNAMO, PERIOD)
    assert (history.servers, history.gaps, history.start_s) == (2, (), BEGIN_S)
    drawn = drawn_trace(history, seed=3)
    recorded_s = np.sort(np.concatenate([busy.arrival_s, quiet.arrival_s]))
    assert len(drawn) == pytest.approx(25_000, abs=20)  # what came after the last scrape is not known
    by_step = (np.histogram(arrivals, bins=np.arange(0, 18_001, 60))[0] for arrivals in (drawn.arrival_s, recorded_s))
    assert np.abs(np.subtract(*by_step))[1:-1].max() <= 15  # scrapes are up to a quarter of a step older than its end
    for name in ("isl_tokens", "osl_tokens"):
        sent = np.concatenate([getattr(busy, name), getattr(quiet, name)])
        assert getattr(drawn, name).sum() == pytest.approx(sent.sum(), rel=0.01)
        for share in (0.5, 0.9, 0.99):
            assert np.quantile(getattr(drawn, name), share) == pytest.approx(np.quantile(sent, share), rel=0.15)


def test_the_seed_draws(prometheus):
    history = read_history(prometheus(scraped(traffic(2_000, 1), BEGIN_S)), DYNAMO, PERIOD)
    one, same, other = (drawn_trace(history, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.arrival_s, same.arrival_s)
    assert np.array_equal(one.isl_tokens, same.isl_tokens)
    assert len(one) == len(other)
    assert not np.array_equal(one.arrival_s, other.arrival_s)


def test_a_hole_is_named_and_what_was_counted_meanwhile_is_spread(prometheus):
    sent = traffic(20_000, 1)
    hole = BEGIN_S + 7205, BEGIN_S + 10_805
    history = read_history(prometheus(scraped(sent, BEGIN_S).without(*hole), scraped(traffic(500, 2), BEGIN_S, instance="b:8000")), DYNAMO, PERIOD)
    (gap,) = history.gaps
    assert (gap.server, gap.spread, gap.start_s, gap.end_s) == ("frontend:8000", True, BEGIN_S + 7200, BEGIN_S + 10_860)
    drawn = drawn_trace(history, seed=1)
    assert len(drawn) == pytest.approx(20_500, abs=20)
    counts, _ = np.histogram(drawn.arrival_s, bins=np.arange(7260, 10_800, 60))
    assert counts.max() - counts.min() <= 12


def test_nobody_seen_for_long_is_silence_with_a_name_at_the_end_too(prometheus):
    history = read_history(prometheus(scraped(traffic(3_000, 1), BEGIN_S).without(BEGIN_S + 14_400, END_S + 60)), DYNAMO, PERIOD)
    assert history.gaps == (Gap(BEGIN_S + 14_400, END_S, "", spread=False),)
    assert history.duration_s == 18_000
    assert drawn_trace(history, seed=1).end_s <= 14_400


def test_a_restarted_frontend_counts_from_zero(prometheus):
    sent = traffic(20_000, 1)
    history = read_history(prometheus(scraped(sent, BEGIN_S).restarted(BEGIN_S + 9000)), DYNAMO, PERIOD)
    assert len(drawn_trace(history, seed=1)) == pytest.approx(20_000, abs=100)  # of one step: what came before it went down


def test_a_memory_that_begins_later_begins_later(prometheus):
    history = read_history(prometheus(scraped(traffic(2_000, 1), BEGIN_S)), DYNAMO, Period(END_S, 60.0, 3000))
    assert (history.start_s, len(history.windows)) == (BEGIN_S, 300)


def test_a_model_and_a_namespace_are_asked_for(start_server):
    server = start_server()
    server.text = lambda path: answer_of([scraped(traffic(100, 1), BEGIN_S)], path)
    read_history(PrometheusAccess(server.root), DYNAMO, Period(END_S, 60.0, 5), model="M.1", namespace="chat")
    assert len(server.requests) == 2
    assert all("%28%3Fi%3AM%5C%5C.1%29" in path and "dynamo_namespace%3D%22chat%22" in path for path, _ in server.requests)


@pytest.mark.parametrize(
    ("status", "text", "said"),
    [
        (503, "starting", "HTTP 503: starting"),
        (200, "<html>", "did not answer as Prometheus does"),
        (200, '{"data": {}}', "did not answer as Prometheus does"),
        (200, '{"data": {"result": []}, "warnings": ["partial"]}', "Prometheus warns"),
    ],
)
def test_what_is_no_prometheus_is_unreachable(start_server, status, text, said):
    server = start_server()
    server.status, server.text = status, text
    with pytest.raises(UnreachableError, match=said):
        read_history(PrometheusAccess(server.root), DYNAMO, PERIOD)


def test_nobody_there():
    with pytest.raises(UnreachableError, match=r"127.0.0.1:1: no answer \(ConnectionError\)"):
        read_history(PrometheusAccess("http://127.0.0.1:1"), DYNAMO, PERIOD)


def test_a_prometheus_without_the_metrics_says_what_to_look_at(prometheus):
    with pytest.raises(UsageError, match=r"knows nothing of dynamo metrics in that time.*--metrics"):
        read_history(prometheus(), DYNAMO, PERIOD)


def window(rate: float, lengths: LengthHistogram | None):
    blank = unknown_traffic(0.0, 60.0, "made up")
    changes = {"request_rate_rps": Quantity.of(rate), "isl_lengths": lengths, "osl_lengths": lengths}
    return blank.__class__(**{name: changes.get(name, getattr(blank, name)) for name in blank.__slots__})


def history_of(*windows) -> TrafficHistory:
    return TrafficHistory(0.0, 60.0, windows, (), 1)


@pytest.mark.parametrize("mean", [120.0, 150.0, 190.0])
def test_lengths_stay_in_their_bucket_and_keep_the_mean(mean):
    lengths = LengthHistogram((100.0, 200.0, math.inf), (0.0, 10.0, 0.0), 10 * mean)
    tokens = drawn_trace(history_of(window(100.0, lengths)), seed=1).isl_tokens
    assert tokens.min() >= 100
    assert tokens.max() <= 200
    assert tokens.mean() == pytest.approx(mean, rel=0.02)


def test_beyond_the_last_edge_lengths_have_an_end():
    lengths = LengthHistogram((100.0, math.inf), (0.0, 5.0), 5 * 130.0)
    tokens = drawn_trace(history_of(window(100.0, lengths)), seed=1).isl_tokens
    assert (tokens.min() >= 100, tokens.max() <= 200) == (True, True)


def test_a_step_without_lengths_has_those_of_its_neighbour():
    lengths = LengthHistogram((50.0, 60.0), (0.0, 5.0), 5 * 55.0)
    drawn = drawn_trace(history_of(window(1.0, None), window(1.0, lengths), window(1.0, None)), seed=1)
    assert len(drawn) == 180
    assert set(drawn.osl_tokens.tolist()) <= set(range(50, 61))


def test_halves_of_requests_add_up():
    lengths = LengthHistogram((50.0, 60.0), (0.0, 5.0), 5 * 55.0)
    assert len(drawn_trace(history_of(*[window(0.5 / 60, lengths)] * 101), seed=1)) == 51


def test_nothing_to_draw():
    with pytest.raises(TraceError, match="no request arrived"):
        drawn_trace(history_of(window(0.0, None)), seed=1)
    with pytest.raises(UsageError, match="no prompt lengths"):
        drawn_trace(history_of(window(1.0, None)), seed=1)


def test_gaps_of_several_frontends_are_not_counted_twice():
    gaps = [Gap(0, 100, "a", spread=True), Gap(50, 120, "b", spread=True), Gap(60, 70, "c", spread=True), Gap(200, 300, "", spread=False)]
    assert total_gap_s(gaps) == 220
