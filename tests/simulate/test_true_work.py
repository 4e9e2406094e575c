"""Work counted by hand: 1 ms of prefill per 10 tokens; 100 requests fill a decode worker at 20 ms a token, so a token costs 0.2 ms of it."""

from __future__ import annotations

import numpy as np
import pytest
from tests.simulate.by_hand import PLAIN, Decode, Prefill, engine, requests

from sla_planner.model.engine import engine_of
from sla_planner.model.sla import Sla
from sla_planner.plan.work import LengthMix, request_work
from sla_planner.simulate.options import ClusterOptions, PrefixHits
from sla_planner.simulate.policy import Workers
from sla_planner.simulate.run import Scenario
from sla_planner.simulate.true_work import TrueWork, bins_of, true_work
from sla_planner.store.profile_files import read_profile, sample_profile_dir

SLA = Sla(ttft_ms=500, itl_ms=20)
FULL_AT_100 = engine(c0=10.0, c1=0.1, prefill=Prefill(), decode=Decode())


def _work(*rows: tuple[float, int, int], options: ClusterOptions = PLAIN) -> TrueWork:
    return true_work(Scenario(requests(*rows), FULL_AT_100, Workers(1, 1), options), SLA)


def test_a_prompt_costs_its_share_of_a_batch_and_an_answer_its_share_of_a_full_worker() -> None:
    work = _work((0.0, 1000, 101), (1.0, 50, 1), (2.0, 20_000, 2))
    assert work.prefill_s == pytest.approx([0.1, 0.005, 2.0], rel=1e-3)
    # The last one's 20 002 tokens are a fiftieth of the KV cache, which is full before the ITL is reached: 50 requests, steps of 15 ms.
    assert work.decode_s == pytest.approx([0.02, 0.0, 0.0003], rel=1e-3)
    assert work.answer_s == pytest.approx([2.0, 0.0, 0.015], rel=1e-3)


def test_prompts_are_in_their_bin_and_answers_spread_over_their_time() -> None:
    work = _work((9.0, 1000, 101), (25.0, 2000, 1))
    assert work.prefill_load(10.0, 3) == pytest.approx([0.01, 0.0, 0.02], rel=1e-3)
    assert work.decode_load(10.0, 3) == pytest.approx([0.001, 0.001, 0.0])
    assert work.decode_load(1.0, 12)[8:] == pytest.approx([0.0, 0.01, 0.01, 0.0])


def test_answers_beyond_the_last_bin_are_cut_there() -> None:
    work = _work((9.5, 10, 101))
    assert work.decode_load(1.0, 10)[8:] == pytest.approx([0.0, 0.005])
    assert work.prefill_load(1.0, 5).tolist() == [0.0] * 5


def test_a_slow_engine_has_more_work_and_a_prefix_cache_less() -> None:
    rows = (0.0, 1000, 101), (60.0, 1000, 101)
    slow = _work(*rows, options=ClusterOptions(slowness=1.2))
    assert slow.prefill_s == pytest.approx([0.12, 0.12], rel=1e-3)
    assert slow.decode_s == pytest.approx([100 * 0.12 / 8 * 0.020] * 2)  # steps of 12 + 0.12 b: 67 requests fill it
    cached = _work(*rows, options=ClusterOptions(prefix_hits=PrefixHits(0.4, from_s=30.0)))
    assert cached.prefill_s == pytest.approx([0.1, 0.06], rel=1e-3)
    assert cached.decode_s == pytest.approx([0.02, 0.02])


def test_between_the_points_of_the_grid_it_is_what_the_planner_reckons_with() -> None:
    shipped = engine_of(read_profile(sample_profile_dir()))
    random = np.random.default_rng(1)
    isl, osl = (np.exp(random.uniform(np.log(low), np.log(high), 200)).astype(int) for low, high in ((1, 40_000), (2, 8_000)))
    trace = requests(*((float(at), int(i), int(o)) for at, (i, o) in enumerate(zip(isl, osl, strict=True))))
    work = true_work(Scenario(trace, shipped, Workers(1, 1)), SLA)
    alone = [request_work(shipped, SLA, LengthMix(((float(i),), (1.0,)), ((float(o),), (1.0,)))) for i, o in zip(isl, osl, strict=True)]
    assert work.prefill_s == pytest.approx([each.prefill_s for each in alone], rel=0.02)
    assert work.decode_s == pytest.approx([each.decode_s * (o - 1) / o for each, o in zip(alone, osl, strict=True)], rel=0.02)


def test_bins_cover_the_day() -> None:
    scenario = Scenario(requests((0.0, 1, 1), (95.0, 1, 1)), FULL_AT_100, Workers(1, 1))
    assert bins_of(scenario, 10.0) == 10
    assert bins_of(Scenario(scenario.trace, FULL_AT_100, Workers(1, 1), horizon_s=200.0), 10.0) == 20
