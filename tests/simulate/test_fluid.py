"""The fluid fleet against the event core, and the planner on it under any traffic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.simulate.by_hand import Decode, Prefill, engine, poisson, requests

from sla_planner.model.engine import Engine, engine_of
from sla_planner.model.sla import Sla
from sla_planner.plan.decision import Role
from sla_planner.plan.observation import WorkerCounts
from sla_planner.plan.settings import PlanSettings, RoleLimits
from sla_planner.simulate import events
from sla_planner.simulate.fleet import SimulatedFleet
from sla_planner.simulate.fluid import FluidFleet
from sla_planner.simulate.options import ClusterOptions, Metrics, Startup
from sla_planner.simulate.policies.planner import Planner
from sla_planner.simulate.policies.static import Static
from sla_planner.simulate.policy import Workers
from sla_planner.simulate.run import RunResult, Scenario, run
from sla_planner.simulate.score import Score, most_direction_changes, score
from sla_planner.store.profile_files import read_profile, sample_profile_dir
from sla_planner.traffic.trace import Trace, read_trace, sample_trace_path

SLA = Sla(ttft_ms=500, itl_ms=20, attainment=0.99)
SCRAPED = ClusterOptions(metrics=Metrics(scrape_s=10))


@pytest.fixture(scope="module")
def shipped() -> Engine:
    return engine_of(read_profile(sample_profile_dir()))


@pytest.fixture(scope="module")
def excerpt() -> Trace:
    return read_trace(sample_trace_path())


def fluid(trace: Trace, law: Engine, *, prefill: int = 1, decode: int = 1, options: ClusterOptions = SCRAPED) -> FluidFleet:
    return FluidFleet(trace, law, options, prefill=prefill, decode=decode)


# ---- by hand ------------------------------------------------------------------------------------------------------------------------------


def test_work_is_done_first_come_first_served_as_fast_as_there_are_workers():
    """Long prompts of 1 s each at second 0: one after another, or with two workers two at a time, but never sooner than alone."""
    rows = requests(*[(0.0, 10_000, 1)] * 6)
    for workers, expected in ((1, [1, 2, 3, 4, 5, 6]), (2, [1, 1.5, 2, 2.5, 3, 3.5])):
        fleet = fluid(rows, engine(), prefill=workers)
        fleet.advance(100.0)
        assert fleet.core.first_token_s == pytest.approx(expected)
        assert fleet.prefill_busy_s() == pytest.approx(6)


def test_a_backlog_goes_faster_when_workers_come():
    """40 s of work at second 0, one worker for 20 s and then two: done after 30 s."""
    fleet = fluid(requests(*[(0.0, 10_000, 1)] * 40), engine(), options=ClusterOptions(startup=Startup(mean_s=20)))
    fleet.scale(2, 1)
    fleet.advance(60.0)
    assert fleet.core.first_token_s[-1] == pytest.approx(30, abs=0.6)
    assert fleet.gpu_seconds(Role.PREFILL) == 120


def test_a_constant_stream_settles_where_the_step_says():
    """5 + 0.5 * b ms with b on each of two workers, 10 answers/s of 200 gaps: 2 b = 10 * 0.2 * (5 + 0.5 b), so b = 10, in steps of 10 ms.
    Up to a tenth less here: those of the last ten seconds leave in no order, some too early."""
    rows = poisson(10.0, 20_000, 1, 201, seed=1)
    fleet = fluid(rows, engine(c0=5, c1=0.5, prefill=Prefill(lambda _: 1e-3)), decode=2)
    seen = []
    for step in range(20, 180):
        fleet.advance(10.0 * step)
        seen.append(fleet.decode_batches().mean())
    assert np.mean(seen) == pytest.approx(10, rel=0.1)
    itl_s = (fleet.core.finish_s - fleet.core.first_token_s) / 200
    assert np.nanmedian(itl_s) == pytest.approx(0.010, rel=0.1)


def test_a_full_cache_is_a_bottleneck():
    """Two of 201 tokens fit, 1 s each: two per second, whoever else waits."""
    fleet = fluid(requests(*[(0.0, 100, 101)] * 100), engine(decode=Decode(max_kv_tokens=402)))
    fleet.advance(20.0)
    assert fleet.core.cells[events.HANDOVER_TAIL] > 40
    fleet.advance(200.0)
    assert np.nanmax(fleet.core.finish_s) == pytest.approx(50, rel=0.1)


def test_whatever_comes_in_goes_out():
    rng = np.random.default_rng(1)
    rows = poisson(20.0, 10_000, rng.integers(1, 9000, 10_000), rng.integers(1, 400, 10_000), seed=2)
    fleet = fluid(rows, engine(c0=5, c1=0.1), prefill=12, decode=3)
    fleet.scale(14, 1)
    fleet.advance(5000.0)
    core = fleet.core
    assert core.cells[[events.NEXT_ARRIVAL, events.FIRST_TOKENS, events.FINISHED]].tolist() == [10_000] * 3
    assert (core.first_token_s > core.arrival_s).all()
    assert (core.finish_s >= core.first_token_s).all()
    assert core.tally[[events.TTFT, events.ISL, events.OSL, events.DURATION], :-1].sum(axis=1).tolist() == [10_000] * 4
    assert core.tally[events.OSL, -1] == rows.osl_tokens.sum()
    assert core.tally[events.ITL, :-1].sum() == pytest.approx((rows.osl_tokens - 1).sum(), rel=0.06)
    assert fleet.counts(Role.DECODE) == WorkerCounts(1)


def test_nobody_is_served_by_nobody():
    fleet = fluid(requests((0, 10, 10), (1, 10, 10)), engine(), prefill=0, decode=0)
    fleet.advance(100.0)
    assert np.isnan(fleet.core.first_token_s).all()
    assert fleet.core.cells[events.NEXT_ARRIVAL] - fleet.core.cells[events.HEAD] == 2


def test_an_answer_never_ends_before_it_begins():
    """Short ones after prompts of nearly a second, where a step ends in between."""
    fleet = fluid(poisson(10.0, 3000, 9000, 2, seed=3), engine(), prefill=12)
    fleet.advance(1000.0)
    assert (fleet.core.finish_s - fleet.core.first_token_s).min() >= 0


# ---- against the event core ---------------------------------------------------------------------------------------------------------------


def both(scenario: Scenario, policy) -> tuple[Score, Score]:
    """(event by event, fluid)"""
    estimate, truth = (score(scenario, run(scenario, policy(), cluster=cluster), SLA) for cluster in (FluidFleet, SimulatedFleet))
    return truth, estimate


STATIC = [(4, 1, 1, 0.04), (4, 2, 2, 0.002), (10, 2, 2, 0.04), (10, 3, 3, 0.005), (10, 5, 4, 0.002)]


@pytest.mark.parametrize(("scale", "prefill", "decode", "bound"), STATIC)
def test_a_static_fleet_on_the_excerpt(shipped, excerpt, scale, prefill, decode, bound):
    """From starved to generous. Attainment within half a point near the goal and 4 points far below it, ITL within 5 % at the median and 15 % at p99,
    TTFT within 25 % at the median."""
    workers = Workers(prefill, decode)
    truth, estimate = both(Scenario(excerpt.scaled(scale, seed=1), shipped, workers, SCRAPED), lambda: Static(workers))
    assert estimate.attainment == pytest.approx(truth.attainment, abs=bound)
    assert estimate.gpu_hours == pytest.approx(truth.gpu_hours, rel=1e-9)
    assert estimate.itl_p50_ms == pytest.approx(truth.itl_p50_ms, rel=0.05)
    assert estimate.itl_p99_ms == pytest.approx(truth.itl_p99_ms, rel=0.15)
    assert estimate.ttft_p50_ms == pytest.approx(truth.ttft_p50_ms, rel=0.25)


@pytest.mark.parametrize("scale", [4, 10])
def test_the_planner_on_the_excerpt(shipped, excerpt, scale):
    """The same planner sees the same and does nearly the same: GPU-hours within 10 %, attainment within a point and a half."""
    plan = PlanSettings(sla=SLA, startup_s=120.0)
    truth, estimate = both(Scenario(excerpt.scaled(scale, seed=1), shipped, Workers(2, 2), SCRAPED), lambda: Planner(plan, shipped))
    assert estimate.gpu_hours == pytest.approx(truth.gpu_hours, rel=0.10)
    assert estimate.attainment == pytest.approx(truth.attainment, abs=0.015)


# ---- the planner under any traffic --------------------------------------------------------------------------------------------------------

PLAN = PlanSettings(sla=SLA, interval_s=60.0, startup_s=120.0, prefill=RoleLimits(1, 6), decode=RoleLimits(2, 8))
SPELL_S = 300.0


def rates(most_rps: int) -> st.SearchStrategy[list[int]]:
    """Requests per second in spells of five minutes: an hour of any course."""
    return st.lists(st.integers(0, most_rps), min_size=12, max_size=12)


def day(course: list[int], *, seed: int) -> Trace:
    """Lengths as of a chat service; at least the first second has somebody."""
    rng = np.random.default_rng(seed)
    spells = [rng.uniform(SPELL_S * spell, SPELL_S * (spell + 1), int(rate * SPELL_S)) for spell, rate in enumerate(course)]
    arrival_s = np.sort(np.concatenate([[0.5], *spells]))
    isl, osl = (rng.lognormal(median, spread, len(arrival_s)).clip(1, 8000) for median, spread in ((6.5, 1.0), (5.0, 0.8)))
    return Trace(arrival_s, isl.astype(np.int64), osl.astype(np.int64))


def planned(course: list[int], shipped: Engine, plan: PlanSettings = PLAN, *, hours: float = 1.0) -> RunResult:
    scenario = Scenario(day(course, seed=1), shipped, Workers(2, 2), SCRAPED, horizon_s=3600.0 * hours)
    return run(scenario, Planner(plan, shipped), cluster=FluidFleet)


@settings(max_examples=5, deadline=None)
@given(course=rates(120))
def test_the_planner_stays_within_its_limits(shipped, course):
    asked = planned(course, shipped).course.asked[1:]
    assert (asked >= (1, 2)).all()
    assert (asked <= (6, 8)).all()


@settings(max_examples=4, deadline=None)
@given(course=rates(120), budget=st.integers(3, 12))
def test_the_planner_never_asks_for_more_than_its_budget(shipped, course, budget):
    plan = PlanSettings(sla=SLA, interval_s=60.0, startup_s=120.0, max_gpu_budget=budget)
    assert (planned(course, shipped, plan).course.asked[1:].sum(axis=1) <= max(budget, 4)).all()


@settings(max_examples=4, deadline=None)
@given(course=rates(60))
def test_the_planner_returns_to_the_floor_when_nobody_comes(shipped, course):
    """Half an hour after the last request, but for one worker of each role against the next leap."""
    assert (planned(course, shipped, hours=1.5).course.asked[-1] <= (2, 3)).all()


@settings(max_examples=4, deadline=None)
@given(course=rates(60))
def test_twice_the_traffic_is_not_cheaper(shipped, course):
    """By more than a fortieth: a heavier course is remembered differently."""
    wide = PlanSettings(sla=SLA, interval_s=60.0, startup_s=120.0)
    once, twice = (planned([k * rate for rate in course], shipped, wide).gpu_hours for k in (1, 2))
    assert twice >= 0.975 * once


@settings(max_examples=4, deadline=None)
@given(course=rates(120))
def test_the_planner_turns_no_more_often_than_the_traffic(shipped, course):
    """But for three turns an hour: it begins with a fleet that is not its own, and noise may cost it a worker up and down."""
    result = planned(course, shipped)
    turns = most_direction_changes(np.arange(14.0), np.array([0, *course, 0]))
    assert max(most_direction_changes(result.course.at_s, result.course.asked[:, role]) for role in (0, 1)) <= turns + 3
