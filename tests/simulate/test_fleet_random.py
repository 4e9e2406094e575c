"""Any traffic under any scaling: what must hold however the requests and the workers fall."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.simulate.by_hand import Decode, Prefill, engine, fleet, requests

from sla_planner.plan.decision import Role
from sla_planner.simulate import events
from sla_planner.simulate.fleet import SimulatedFleet
from sla_planner.simulate.options import ClusterOptions, PrefixHits, Spread, Startup

MAX_KV = 5000
ENGINE = engine(prefill=Prefill(lambda isl: 5 + isl / 50, gpus=2), decode=Decode(gpus=4, max_kv_tokens=MAX_KV), c0=5, c1=0.5, c2=0.002)

REQUEST = st.tuples(st.integers(0, 400).map(lambda tenth: tenth / 10), st.integers(1, 9000), st.integers(1, 600))
STEP = st.tuples(st.integers(1, 80).map(lambda tenth: tenth / 10), st.integers(0, 20), st.integers(0, 20))
OPTIONS = st.builds(
    ClusterOptions,
    startup=st.builds(
        Startup,
        mean_s=st.sampled_from([0.0, 1.0, 7.5]),
        spread=st.sampled_from(Spread),
        never_share=st.sampled_from([0.0, 0.3]),
        cold_s=st.sampled_from([0.0, 4.0]),
        cold_factor=st.sampled_from([1.0, 2.5]),
    ),
    prefix_hits=st.builds(PrefixHits, share=st.sampled_from([0.0, 0.4]), from_s=st.sampled_from([0.0, 20.0])),
    slowness=st.sampled_from([1.0, 1.1]),
    kv_transfer_s=st.sampled_from([0.0, 0.02]),
    kv_transfer_s_per_token=st.sampled_from([0.0, 1e-5]),
    max_gpus=st.sampled_from([None, 0, 6, 30]),
    seed=st.integers(0, 3),
)
SCRIPTS = st.tuples(st.lists(REQUEST, min_size=1, max_size=120).map(sorted), st.lists(STEP, max_size=12), OPTIONS)


def check(cluster: SimulatedFleet) -> None:
    """What the counters say is what happened to the requests so far."""
    core, now_s = cluster.core, cluster.now_s
    arrived, prefilled, finished = core.arrival_s <= now_s, np.isfinite(core.first_token_s), np.isfinite(core.finish_s)
    index = core.cells
    assert index[events.NEXT_ARRIVAL] == arrived.sum()
    assert index[events.FIRST_TOKENS] == prefilled.sum()
    assert index[events.FINISHED] == finished.sum()
    assert not (prefilled & ~arrived).any()
    assert not (finished & ~prefilled).any()
    in_prefill = (core.p_to - core.p_from)[core.p_until_s < math.inf].sum()
    handed_over = index[events.HANDOVER_TAIL] - index[events.HANDOVER_HEAD]
    assert arrived.sum() - prefilled.sum() == index[events.NEXT_ARRIVAL] - index[events.HEAD] + in_prefill
    assert prefilled.sum() - finished.sum() == index[events.TRANSFERS] + handed_over + core.d_batch.sum()
    running = [int(request) for slot, batch in enumerate(core.d_batch) for request in core.heap_request[slot, :batch]]
    assert len(set(running)) == len(running)
    for slot, batch in enumerate(core.d_batch):
        held = core.heap_request[slot, :batch]
        assert core.d_reserved[slot] == (core.isl[held] + core.osl[held]).sum()
        assert batch <= 1 or core.d_reserved[slot] <= MAX_KV
        assert core.d_kv[slot] <= core.d_reserved[slot] + 1e-6
        assert (core.heap_count[slot, :batch] >= core.d_count[slot] - 1e-6).all()
    for histogram, values in (
        (events.TTFT, (core.first_token_s - core.arrival_s)[prefilled]),
        (events.ISL, core.isl[arrived]),
        (events.OSL, core.osl[finished]),
        (events.DURATION, (core.finish_s - core.arrival_s)[finished]),
    ):
        assert core.tally[histogram, :-1].sum() == len(values)
        assert core.tally[histogram, -1] == pytest.approx(values.sum())
    if cluster.options.max_gpus is not None and cluster.launches > 2:
        assert cluster.gpus_held() <= max(cluster.options.max_gpus, 6)


@given(SCRIPTS)
def test_no_request_is_lost_or_served_twice(script):
    rows, steps, options = script
    cluster = fleet(requests(*rows), ENGINE, options=options)
    now_s, charged_s, bound_s = 0.0, 0.0, 0.0
    for seconds, prefill, decode in steps:
        cluster.scale(prefill, decode)
        assert (cluster.counts(Role.PREFILL).total, cluster.counts(Role.DECODE).total) == (prefill, decode)
        held = cluster.gpus_held()
        now_s += seconds
        cluster.advance(now_s)
        check(cluster)
        before_s, charged_s = charged_s, cluster.gpu_seconds(Role.PREFILL) + cluster.gpu_seconds(Role.DECODE)
        bound_s += held * seconds  # within a step workers only leave, and others take their GPUs
        assert before_s - 1e-6 <= charged_s <= bound_s + 1e-6
    core = cluster.core
    cluster.scale(3, 3)
    cluster.advance(now_s + 500.0)
    check(cluster)
    if options.max_gpus in (None, 30) and not options.startup.never_share:
        assert np.isfinite(core.finish_s).all()
    done = np.isfinite(core.finish_s)
    first_token_s, finish_s = core.first_token_s[done], core.finish_s[done]
    fastest = 0.005 * options.slowness
    assert (first_token_s - core.arrival_s[done] >= fastest - 1e-9).all()
    assert (finish_s - first_token_s >= (core.osl[done] - 1) * fastest - 1e-9).all()
    if done.all():
        assert core.tally[events.ITL, :-1].sum() == pytest.approx((core.osl - 1).sum())
        assert core.tally[events.ITL, -1] == pytest.approx((core.finish_s - core.first_token_s).sum())


@given(SCRIPTS)
def test_prompts_are_served_in_order_of_arrival(script):
    """With one prefill worker nobody has a first token before somebody who came earlier."""
    rows, _, options = script
    cluster = fleet(requests(*rows), ENGINE, options=ClusterOptions(prefix_hits=options.prefix_hits, slowness=options.slowness))
    cluster.advance(math.inf)
    assert (np.diff(cluster.core.first_token_s) >= 0).all()


@given(SCRIPTS)
def test_what_comes_later_changes_nothing_before(script):
    """The first 20 s are the same whether or not there is a second half."""
    rows, steps, options = script
    early = [row for row in rows if row[0] < 20.0] or rows[:1]

    def until_20(some) -> np.ndarray:
        cluster = fleet(requests(*some), ENGINE, options=options)
        now_s = 0.0
        for seconds, prefill, decode in steps:
            if now_s + seconds >= 20.0:
                break
            now_s += seconds
            cluster.scale(prefill, decode)
            cluster.advance(now_s)
        cluster.advance(19.999)
        return np.concatenate([cluster.core.first_token_s[: len(early)], cluster.core.finish_s[: len(early)]])

    assert until_20(rows) == pytest.approx(until_20(early), abs=0, nan_ok=True)
