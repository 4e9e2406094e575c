import json

import pytest

from sla_planner.model.sla import Sla
from sla_planner.traffic.client import RequestRecord
from sla_planner.traffic.replay import Run
from sla_planner.traffic.summary import Percentiles, summarize

PROMISE = Sla(ttft_ms=500.0, itl_ms=50.0, attainment=0.9)


def record(at_s=0.0, ttft_ms=100.0, itl_ms=10.0, error="", prompt_tokens=10, completion_tokens=20, late_s=0.0):
    return RequestRecord(at_s, at_s + late_s, 10, 20, prompt_tokens, completion_tokens, ttft_ms, itl_ms, 2.0, error)


def summary_of(*records, requests=None, wall_s=10.0, lag_ms=1.0, stopped=False):
    return summarize(Run(tuple(records), requests or len(records), wall_s, lag_ms, stopped), PROMISE)


def test_inside_needs_both_latencies_and_a_whole_answer():
    summary = summary_of(
        record(),
        record(ttft_ms=500.0, itl_ms=50.0),  # at the limit is inside
        record(itl_ms=None),  # a single token
        record(ttft_ms=501.0),
        record(itl_ms=50.1),
        record(ttft_ms=501.0, itl_ms=51.0),
        record(error="timeout: no whole answer within 1 s", itl_ms=None),
        record(error="unfinished: the run was stopped", ttft_ms=None, itl_ms=None),
    )
    assert (summary.sent, summary.completed, summary.unfinished) == (8, 6, 1)
    assert (summary.inside, summary.ttft_inside, summary.itl_inside) == (3, 4, 4)
    assert summary.share(summary.inside) == 0.375
    assert summary.errors == {"timeout": 1}


def test_percentiles_are_values_that_were_seen():
    summary = summary_of(*(record(ttft_ms=float(value)) for value in range(1, 201)))
    assert summary.ttft_ms == Percentiles(p50=100.0, p90=180.0, p95=190.0, p99=198.0, max=200.0)
    assert summary.e2e_ms == Percentiles(2000.0, 2000.0, 2000.0, 2000.0, 2000.0)


def test_a_broken_answer_still_had_its_first_token():
    summary = summary_of(record(ttft_ms=100.0), record(ttft_ms=900.0, error="broken stream: reset"))
    assert summary.ttft_ms.max == 900.0


def test_rates():
    summary = summary_of(record(0.0), record(2.0), record(4.0, error="HTTP 503: busy", prompt_tokens=None, completion_tokens=None), wall_s=5.0)
    assert summary.offered_rps == 0.5  # two gaps of 2 s
    assert summary.completed_rps == 0.4
    assert (summary.prompt_tokens_per_s, summary.completion_tokens_per_s) == (4.0, 8.0)
    assert summary_of(record(), record()).offered_rps is None


@pytest.mark.parametrize(("wall_s", "slice_s", "slices", "inside"), [(299.0, 10.0, 3, 1), (300.0, 60.0, 2, 0)])
def test_time_is_judged_by_slices_of_arrival(wall_s, slice_s, slices, inside):
    good = [record(at_s) for at_s in (0.0, 1.0, 2.0)]
    bad = [record(at_s, ttft_ms=900.0) for at_s in (12.0, 70.0)]
    summary = summary_of(*good, bad[0], *(record(70.0) for _ in range(8)), bad[1], wall_s=wall_s)
    assert (summary.slice_s, summary.slices, summary.slices_inside) == (slice_s, slices, inside)


def test_a_slice_is_inside_at_exactly_the_promised_share():
    assert summary_of(*(record(5.0) for _ in range(9)), record(5.0, ttft_ms=900.0)).slices_inside == 1
    assert summary_of(*(record(5.0) for _ in range(8)), record(5.0, ttft_ms=900.0)).slices_inside == 0


@pytest.mark.parametrize(("lag_ms", "ttft_ms", "warned"), [(4.9, 1.0, False), (5.1, 1.0, True), (9.9, 100.0, False), (10.1, 100.0, True)])
def test_a_client_that_measures_itself_is_told(lag_ms, ttft_ms, warned):
    warnings = summary_of(record(ttft_ms=ttft_ms), lag_ms=lag_ms).warnings
    assert bool(warnings) is warned
    assert all("give it a free core" in warning for warning in warnings)


def test_other_lengths_than_asked_are_told():
    assert summary_of(record(prompt_tokens=45, completion_tokens=21)).warnings == ()  # a chat template
    assert summary_of(record(prompt_tokens=80)).warnings == ("the server counted 80 prompt tokens per request where 10 were asked for",)
    assert summary_of(record(completion_tokens=9)).warnings == ("the server counted 9 answer tokens per request where 20 were asked for",)
    assert summary_of(record(prompt_tokens=None)).warnings == ()


def test_late_sending_is_reported():
    assert summary_of(record(late_s=0.25), record()).send_delay_ms == 250.0


def test_nothing_sent_is_no_division_by_zero():
    summary = summary_of(requests=5, stopped=True)
    assert (summary.sent, summary.requests, summary.share(0), summary.slices, summary.ttft_ms) == (0, 5, 0.0, 0, None)
    json.dumps(summary.to_json(), allow_nan=False)


def test_the_json_form_is_plain():
    document = json.loads(json.dumps(summary_of(record(), record(ttft_ms=900.0)).to_json(), allow_nan=False))
    assert (document["inside"], document["inside_share"], document["ttft_ms"]["p99"]) == (1, 0.5, 900.0)
    assert document["promise"] == {"ttft_ms": 500.0, "itl_ms": 50.0, "attainment": 0.9}
