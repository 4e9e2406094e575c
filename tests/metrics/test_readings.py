"""Gains between readings, and their sums over servers."""

import math

import pytest

from sla_planner.engines.metric_names import metric_family
from sla_planner.metrics.exposition import parse
from sla_planner.metrics.readings import activity, gains, levels, select
from sla_planner.model.metric_family import Measure

DYNAMO, VLLM = metric_family("dynamo"), metric_family("vllm")


def reading(text, family=DYNAMO, model=None, namespace=None):
    return select(parse(text, family.series_names), family, model, namespace)


def ttft(le_100ms, count, total, model="m"):
    name = "dynamo_frontend_time_to_first_token_seconds"
    return (
        f'{name}_bucket{{model="{model}",le="0.1"}} {le_100ms}\n{name}_bucket{{model="{model}",le="+Inf"}} {count}\n'
        f'{name}_sum{{model="{model}"}} {total}\n{name}_count{{model="{model}"}} {count}\n'
    )


def started(value, **labels):
    inside = ",".join(f'{key}="{label}"' for key, label in {"model": "m", **labels}.items())
    return f"dynamo_frontend_requests_started_total{{{inside}}} {value}\n"


def seen(pairs, family=DYNAMO, in_flight_before=None):
    """Activity of several servers, each a (start, end) pair of readings."""
    total = {}
    for start, end in pairs:
        for series, gain in gains(start, end, family).items():
            total[series] = total.get(series, 0.0) + gain
    return activity(total, levels([end for _, end in pairs], family), family, in_flight_before=in_flight_before, scope="")


def test_servers_are_weighted_by_their_requests_and_an_idle_one_does_no_harm():
    # 90 requests at 0.1 s and 10 at 0.5 s: 14 s of TTFT over 100 requests. The mean of the means would be 0.3 s.
    busy = (reading(ttft(0, 0, 0)), reading(ttft(90, 90, 9.0)))
    slow = (reading(ttft(5, 20, 2.0)), reading(ttft(5, 30, 7.0)))
    idle = (reading(ttft(7, 7, 0.5)), reading(ttft(7, 7, 0.5)))
    found = seen([busy, slow, idle]).distributions[Measure.TTFT]
    assert (found.count, found.total) == (100.0, 14.0)
    assert found.cumulative == ((0.1, 90.0), (math.inf, 100.0))


def test_a_counter_that_fell_counts_from_zero():
    found = seen([(reading(started(100)), reading(started(12))), (reading(started(5)), reading(started(8)))])
    assert found.counts[Measure.STARTED] == 15.0


def test_a_histogram_is_reset_as_a_whole():
    # After the restart 8 requests within 0.1 s: more than the 3 before it, so that bucket alone does not show the reset.
    found = seen([(reading(ttft(3, 50, 20.0)), reading(ttft(8, 10, 1.5)))]).distributions[Measure.TTFT]
    assert (found.count, found.total) == (10.0, 1.5)
    assert found.cumulative == ((0.1, 8.0), (math.inf, 10.0))


def test_a_reset_of_one_series_leaves_the_others_alone():
    start = reading(started(100) + started(1000, endpoint="completions"))
    end = reading(started(4) + started(1006, endpoint="completions"))
    assert seen([(start, end)]).counts[Measure.STARTED] == 10.0


def test_a_series_that_appears_began_at_zero():
    assert seen([(reading(started(3)), reading(started(4) + started(2, endpoint="completions")))]).counts[Measure.STARTED] == 3.0


def test_the_model_is_compared_without_case_and_others_are_left_out():
    text = started(1, model="Qwen/Qwen3-0.6B") + started(10, model="qwen/qwen3-0.6b") + started(100, model="qwen/qwen3-0.6b-draft")
    assert sum(reading(text, model="QWEN/qwen3-0.6B").values()) == 11.0
    assert sum(reading(text).values()) == 111.0


def test_the_namespace_filters_only_series_that_carry_the_label():
    text = started(1, dynamo_namespace="mine") + started(10, dynamo_namespace="theirs") + started(100)
    assert sum(reading(text, namespace="mine").values()) == 101.0


def test_gauges_are_added_up_and_usage_is_averaged():
    text = (
        'vllm:num_requests_running{{engine="{0}",model_name="m"}} {1}\nvllm:num_requests_waiting{{engine="{0}",model_name="m"}} {2}\n'
        'vllm:kv_cache_usage_perc{{engine="{0}",model_name="m"}} {3}\n'
    )
    pages = [reading(text.format(0, 3, 1, 0.2) + text.format(1, 5, 0, 0.4), VLLM), reading(text.format(0, 0, 0, 0.9), VLLM)]
    found = levels(pages, VLLM)
    assert found[Measure.RUNNING_DECODE] == 8.0
    assert found[Measure.IN_FLIGHT] == 9.0
    assert found[Measure.KV_USAGE] == pytest.approx(0.5)
    assert activity({}, found, VLLM, in_flight_before=4.0, scope="").in_flight_change == 5.0


def test_half_a_histogram_is_no_series():
    name = "dynamo_frontend_time_to_first_token_seconds"
    assert Measure.TTFT not in seen([(reading(""), reading(f'{name}_count{{model="m"}} 5\n'))]).distributions


def test_a_bucket_whose_edge_is_no_number_is_left_out():
    name = "dynamo_frontend_time_to_first_token_seconds"
    text = ttft(4, 5, 1.0) + f'{name}_bucket{{model="m",le="many"}} 3\n{name}_bucket{{model="m",le="NaN"}} 3\n'
    assert seen([(reading(""), reading(text))]).distributions[Measure.TTFT].cumulative == ((0.1, 4.0), (math.inf, 5.0))
