"""The rules of the event core, one by one, on a few requests."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.simulate.by_hand import Decode, Prefill, engine, fleet, requests, served

from sla_planner.simulate import events
from sla_planner.simulate.options import ClusterOptions, PrefixHits

AT_ONCE = Prefill(lambda _: 1e-6)


# ---- prefill ------------------------------------------------------------------------------------------------------------------------------


def test_an_idle_worker_takes_the_first_prompt_and_the_next_batch_takes_what_fits():
    """1 ms per 10 tokens. The first is alone for 0.1 s; then 3000 + 5000 fit in 8192 tokens, 200 more do not, although a later 192 would."""
    ended = served(requests((0, 1000, 1), (0.01, 3000, 1), (0.02, 5000, 1), (0.03, 200, 1), (0.04, 192, 1)), engine())
    assert ended.core.first_token_s == pytest.approx([0.1, 0.9, 0.9, 0.9392, 0.9392])


def test_a_prompt_longer_than_a_batch_is_served_alone():
    ended = served(requests((0, 10, 1), (0, 8193, 1), (0, 10, 1)), engine())
    assert ended.core.first_token_s == pytest.approx([0.001, 0.8203, 0.8213])


def test_two_workers_share_one_queue_first_come_first_served():
    ended = served(requests((0, 8000, 1), (0, 4000, 1), (0.1, 4000, 1), (0.1, 8000, 1)), engine(), prefill=2)
    assert ended.core.first_token_s == pytest.approx([0.8, 0.4, 0.8, 1.6])


def test_an_answer_of_one_token_is_finished_by_prefill():
    ended = served(requests((1, 1000, 1)), engine(), decode=0)
    assert (ended.core.first_token_s[0], ended.core.finish_s[0]) == (1.1, 1.1)


def test_nobody_waits_for_a_decode_worker_to_get_its_first_token():
    ended = served(requests((0, 1000, 2), (0, 1000, 2)), engine(), decode=0)
    assert ended.core.first_token_s == pytest.approx([0.1, 0.2])
    assert np.isnan(ended.core.finish_s).all()


def test_a_prefix_that_is_cached_is_not_computed_and_held_all_the_same():
    """Three quarters of each prompt from second 1 on; at least one token is computed."""
    cached = ClusterOptions(prefix_hits=PrefixHits(share=0.75, from_s=1.0))
    rows = requests((0, 1000, 2), (1, 1000, 2), (2, 1, 2))
    law = engine(c0=0, c2=0.01)  # 10 us per token held: 10.01 ms with 1001 of them
    ended = served(rows, law, options=cached)
    assert ended.core.first_token_s - rows.arrival_s == pytest.approx([0.1, 0.025, 0.0001])
    assert ended.core.finish_s - ended.core.first_token_s == pytest.approx([0.010015, 0.010015, 0.000025])


# ---- decode -------------------------------------------------------------------------------------------------------------------------------


def test_a_prefilled_request_goes_to_the_worker_with_the_fewest():
    """10 ms * batch: three on one worker would take 30 ms a token."""
    ended = served(requests(*[(0, 1, 101)] * 4), engine(c0=0, c1=10, prefill=AT_ONCE), decode=2)
    assert ended.core.finish_s == pytest.approx([2.0] * 4, abs=1e-6)


def test_a_worker_that_has_no_room_is_passed_over():
    """Worker 0 holds one of 900 tokens, worker 1 three of 150 of the 1000 that fit. The next of 200 goes to the fuller one."""
    rows = requests((0, 800, 101), *[(0, 50, 101)] * 3, (0.5, 100, 101))
    ended = fleet(rows, engine(decode=Decode(max_kv_tokens=1000), prefill=AT_ONCE), decode=2)
    ended.advance(0.6)
    assert ended.decode_batches().tolist() == [1, 4]
    assert ended.decode_kv_usage() == pytest.approx([0.8, 0.35], abs=0.15)


def test_the_head_that_fits_nowhere_holds_back_those_behind_it():
    """A cache of 300: 101 + 101 run; the third needs 251 and waits for both, and so does a small one behind it, which would fit."""
    rows = requests((0, 1, 101), (0, 1, 101), (0.1, 150, 101), (0.1, 1, 2))
    ended = served(rows, engine(decode=Decode(max_kv_tokens=300), prefill=AT_ONCE))
    assert ended.core.finish_s == pytest.approx([1.0, 1.0, 2.0, 1.01], abs=1e-5)


def test_a_request_larger_than_the_cache_runs_alone():
    rows = requests((0, 1, 101), (0, 500, 101), (0, 1, 101))
    ended = served(rows, engine(decode=Decode(max_kv_tokens=300), prefill=AT_ONCE))
    assert ended.core.finish_s == pytest.approx([1.0, 2.0, 3.0], abs=1e-5)


def test_a_batch_holds_at_most_max_sequences():
    flood = fleet(requests(*[(0, 1, 101)] * 1030), engine(prefill=AT_ONCE))
    flood.advance(0.5)
    assert flood.decode_batches().tolist() == [1024]
    assert flood.core.cells[events.HANDOVER_TAIL] - flood.core.cells[events.HANDOVER_HEAD] == 6
    flood.advance(math.inf)
    assert np.sort(flood.core.finish_s)[[1023, 1024]] == pytest.approx([1.0, 2.0], abs=1e-3)


def test_kv_is_sent_before_decode_begins():
    """5 ms and 1 us per token. Each on its own way: the second is shorter and arrives first."""
    options = ClusterOptions(kv_transfer_s=0.005, kv_transfer_s_per_token=1e-6)
    ended = served(requests((0, 8000, 2), (0, 1000, 2)), engine(prefill=AT_ONCE), prefill=2, options=options)
    assert ended.core.finish_s == pytest.approx([0.023, 0.016], abs=1e-6)


def test_a_slow_engine_is_slow_at_everything():
    rows = requests((0, 1000, 101))
    ended = served(rows, engine(), options=ClusterOptions(slowness=1.5))
    assert ended.core.first_token_s[0] == pytest.approx(0.15)
    assert ended.core.finish_s[0] == pytest.approx(0.15 + 1.5)


def test_requests_that_end_together_end_in_order():
    ended = served(requests(*[(0, 1, 11)] * 5), engine(prefill=AT_ONCE), decode=5)
    assert (np.diff(ended.core.finish_s) >= 0).all()


# ---- what is counted ----------------------------------------------------------------------------------------------------------------------


def test_histograms_hold_each_observation_in_its_bucket():
    """TTFT 0.1 s is within the edge 0.1, which is the seventh; 101 tokens are beyond 100 and within 210; 100 gaps of 10 ms within 0.011."""
    ended = served(requests((0, 1000, 101)), engine())
    tally, edges = ended.core.tally, ended.core.edges
    for histogram, value, weight in (
        (events.TTFT, 0.1, 1),
        (events.ITL, 0.01, 100),
        (events.ISL, 1000, 1),
        (events.OSL, 101, 1),
        (events.DURATION, 1.1, 1),
    ):
        bucket = int(np.flatnonzero(tally[histogram, :-1])[0])
        assert edges[histogram][bucket - 1] < value <= edges[histogram][bucket]
        assert tally[histogram, :-1].sum() == pytest.approx(weight)
        assert tally[histogram, -1] == pytest.approx(value * weight)


def test_the_gap_that_contains_a_wait_is_counted_with_it():
    """Room for one at a time. The second waits 1 s between its first two tokens: its gaps sum to 2 s."""
    ended = served(requests((0, 1, 101), (0, 1, 101)), engine(decode=Decode(max_kv_tokens=150), prefill=AT_ONCE))
    assert ended.core.tally[events.ITL, :-1].sum() == pytest.approx(200)
    assert ended.core.tally[events.ITL, -1] == pytest.approx(3.0, abs=1e-5)


def test_time_in_steps_or_at_once_is_the_same():
    """Nothing depends on how often somebody looks, beyond rounding."""
    rng = np.random.default_rng(1)
    rows = requests(*zip(np.sort(rng.uniform(0, 60, 400)), rng.integers(1, 9000, 400), rng.integers(1, 400, 400), strict=True))
    law = engine(c0=5, c1=0.5, c2=0.0005)
    stepped, whole = fleet(rows, law, prefill=3, decode=2), served(rows, law, prefill=3, decode=2)
    for tenth in range(10_000):
        stepped.advance(tenth / 10)
    assert stepped.core.finish_s == pytest.approx(whole.core.finish_s, abs=1e-9)
    assert stepped.core.tally == pytest.approx(whole.core.tally, abs=1e-6)
