"""From activity to a traffic window. Expected numbers are worked out by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sla_planner.engines.metric_names import metric_family
from sla_planner.metrics.window import Activity, Distribution, Window, share_within, traffic_window
from sla_planner.model.metric_family import Measure
from sla_planner.plan.observation import Kind, LengthHistogram

DYNAMO, VLLM, LLAMACPP = metric_family("dynamo"), metric_family("vllm"), metric_family("llamacpp")
MINUTE = Window(at_s=1000.0, window_s=60.0, ttft_ms=500.0, itl_ms=50.0)


def window_of(activity, family=DYNAMO, window=MINUTE):
    return traffic_window(activity, family, window)


def test_rate_is_requests_started_where_they_are_counted():
    seen = window_of(Activity(counts={Measure.STARTED: 150.0, Measure.COMPLETED: 73.0}, in_flight_change=77.0))
    assert seen.request_rate_rps.value == 2.5
    assert seen.completed_requests.value == 73.0


def test_rate_is_completions_plus_the_change_in_flight_where_starts_are_not_counted():
    # 90 ended while the number in flight rose by 30: 120 arrived in 60 s.
    assert window_of(Activity(counts={Measure.COMPLETED: 90.0}, in_flight_change=30.0), VLLM).request_rate_rps.value == 2.0


def test_an_older_frontend_of_the_family_that_lacks_the_started_counter():
    assert window_of(Activity(counts={Measure.COMPLETED: 90.0}, in_flight_change=30.0)).request_rate_rps.value == 2.0


def test_rate_is_completions_when_in_flight_is_not_known_and_never_negative():
    assert window_of(Activity(counts={Measure.COMPLETED: 90.0}), VLLM).request_rate_rps.value == 1.5
    assert window_of(Activity(counts={Measure.COMPLETED: 3.0}, in_flight_change=-5.0), VLLM).request_rate_rps.value == 0.0


def test_no_series_is_unknown_and_names_what_was_looked_for():
    seen = window_of(Activity(scope=' of model "llama"'))
    assert seen.request_rate_rps.kind is Kind.UNKNOWN
    assert seen.request_rate_rps.why == 'no series dynamo_frontend_requests_started_total of model "llama"'
    assert seen.ttft_ms.why == 'no series dynamo_frontend_time_to_first_token_seconds of model "llama"'
    assert seen.itl_ms.why == 'no series dynamo_frontend_inter_token_latency_seconds of model "llama"'
    assert seen.isl_lengths is None


def test_series_that_did_not_move_are_a_rate_of_zero_and_idle_means():
    still = Distribution(count=0.0, total=0.0, cumulative=((0.5, 0.0), (math.inf, 0.0)))
    seen = window_of(
        Activity(counts={Measure.STARTED: 0.0}, distributions=dict.fromkeys((Measure.TTFT, Measure.ITL, Measure.ISL, Measure.OSL), still))
    )
    assert seen.request_rate_rps.kind is Kind.VALUE
    assert seen.request_rate_rps.value == 0.0
    for quantity in (seen.ttft_ms, seen.itl_ms, seen.isl_tokens, seen.osl_tokens, seen.ttft_attained, seen.itl_attained):
        assert quantity.kind is Kind.IDLE
    assert seen.isl_lengths is None


def test_what_a_family_lacks_says_so():
    seen = window_of(Activity(distributions={Measure.ITL: Distribution(count=200.0, total=5.0)}), LLAMACPP)
    assert seen.itl_ms.value == 25.0
    assert seen.itl_attained.why == "llamacpp:tokens_predicted_seconds_total has no buckets"
    assert seen.request_rate_rps.why == "llama.cpp exports no request counter, only tokens and seconds"


def test_itl_attained_prefers_requests_to_gaps_and_the_mean_prefers_gaps():
    gaps = Distribution(count=1000.0, total=20.0, cumulative=((0.05, 900.0), (math.inf, 1000.0)))
    requests = Distribution(count=10.0, total=0.4, cumulative=((0.05, 7.0), (math.inf, 10.0)))
    both = window_of(Activity(distributions={Measure.ITL: gaps, Measure.ITL_PER_REQUEST: requests}), VLLM)
    assert (both.itl_ms.value, both.itl_attained.value) == (20.0, 0.7)
    gaps_only = window_of(Activity(distributions={Measure.ITL: gaps}), VLLM)
    assert (gaps_only.itl_ms.value, gaps_only.itl_attained.value) == (20.0, 0.9)
    requests_only = window_of(Activity(distributions={Measure.ITL_PER_REQUEST: requests}), VLLM)
    assert (requests_only.itl_ms.value, requests_only.itl_attained.value) == (40.0, 0.7)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_never_become_a_value(broken):
    ill = Distribution(count=2.0, total=broken, cumulative=((0.5, broken), (math.inf, 2.0)))
    seen = window_of(
        Activity(
            counts={Measure.STARTED: broken, Measure.COMPLETED: broken},
            distributions={Measure.TTFT: ill, Measure.ISL: ill},
            levels={Measure.IN_FLIGHT: broken},
        )
    )
    for quantity in (seen.request_rate_rps, seen.completed_requests, seen.ttft_ms, seen.ttft_attained, seen.isl_tokens, seen.in_flight_requests):
        assert quantity.kind is Kind.UNKNOWN
    assert seen.isl_lengths is None


def test_a_window_without_length_has_no_rate():
    seen = window_of(Activity(counts={Measure.STARTED: 5.0}), window=Window(1000.0, 0.0, 500.0, 50.0))
    assert seen.request_rate_rps.why == "the window lasted 0 s"


def test_length_histogram_counts_per_bucket_and_keeps_the_exact_total():
    lengths = Distribution(count=10.0, total=4321.0, cumulative=((100.0, 2.0), (1000.0, 9.0), (math.inf, 10.0)))
    seen = window_of(Activity(distributions={Measure.ISL: lengths}))
    assert seen.isl_lengths == LengthHistogram((100.0, 1000.0, math.inf), (2.0, 7.0, 1.0), 4321.0)
    assert seen.isl_tokens.value == 432.1


def test_a_histogram_without_its_infinite_bucket_is_closed_by_its_count():
    lengths = Distribution(count=10.0, total=4321.0, cumulative=((100.0, 2.0), (1000.0, 9.0)))
    assert window_of(Activity(distributions={Measure.ISL: lengths})).isl_lengths == LengthHistogram(
        (100.0, 1000.0, math.inf), (2.0, 7.0, 1.0), 4321.0
    )


TTFT = Distribution(count=100.0, total=30.0, cumulative=((0.1, 50.0), (0.5, 94.0), (1.0, 98.0), (math.inf, 100.0)))


@pytest.mark.parametrize(
    ("target_ms", "share"),
    [
        (500.0, 0.94),  # at an edge: exact
        (100.0, 0.50),
        (750.0, 0.96),  # half way through a bucket of 4 %
        (5000.0, 0.98),  # beyond the last finite edge: only what is sure
        (math.inf, 1.0),
    ],
)
def test_share_within_a_target(target_ms, share):
    assert share_within(TTFT, target_ms, scale=1000.0).value == pytest.approx(share)


def test_a_bucket_that_holds_too_much_does_not_resolve_the_target_and_names_its_neighbours():
    seen = share_within(TTFT, 200.0, scale=1000.0)
    assert seen.kind is Kind.UNKNOWN
    assert seen.why == "the buckets do not resolve 200 ms: 50.0% are within 100 ms, 94.0% within 500 ms"
    assert "within inf ms" in share_within(Distribution(10.0, 1.0, ((0.1, 2.0),)), 200.0, scale=1000.0).why


@given(
    st.lists(st.floats(0.0, 100.0), min_size=1, max_size=40),
    st.lists(st.floats(0.01, 99.0), min_size=1, max_size=8, unique=True),
    st.floats(0.001, 120.0),
)
def test_the_share_is_right_to_the_resolution_or_unknown(values, edges, target):
    edges = sorted(edges)
    cumulative = tuple((edge, float(sum(value <= edge for value in values))) for edge in edges)
    seen = share_within(Distribution(float(len(values)), sum(values), cumulative), target, scale=1.0)
    if seen.known:
        assert seen.value == pytest.approx(sum(value <= target for value in values) / len(values), abs=0.0501)
