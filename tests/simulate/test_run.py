"""A day on the virtual clock: when a policy is asked, what is charged, and what is kept of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from tests.simulate.by_hand import Decode, Prefill, engine, poisson, requests

from sla_planner.model.engine import engine_of
from sla_planner.model.sla import Sla
from sla_planner.plan.settings import PlanSettings
from sla_planner.simulate.options import ClusterOptions, Metrics, Spread, Startup
from sla_planner.simulate.policies.planner import Planner
from sla_planner.simulate.policies.static import Static
from sla_planner.simulate.policy import Seen, Workers
from sla_planner.simulate.run import RunResult, Scenario, run
from sla_planner.store.profile_files import read_profile, sample_profile_dir
from sla_planner.traffic.trace import Trace, read_trace, sample_trace_path

ENGINE = engine(prefill=Prefill(gpus=2), decode=Decode(gpus=4))
SLA = Sla(ttft_ms=500, itl_ms=20, attainment=0.99)


@dataclass
class Script:
    """Asks for what is written for a second, and stays with it."""

    steps: dict[float, Workers]
    interval_s: float = 10.0
    name: str = "script"
    settings: dict = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    newest_s: list[float | None] = field(default_factory=list)

    def decide(self, seen: Seen) -> Workers:
        self.seen.append(seen)
        self.newest_s.append(None if seen.newest is None else seen.newest.at_s)
        return self.steps.get(seen.at_s, seen.asked)


def test_gpu_hours_of_a_day_by_hand():
    """An hour: 2 GPUs of prefill all along and 2 more from 600 s, 4 GPUs of decode and 4 more until 1800 s."""
    script = Script({600.0: Workers(2, 2), 1800.0: Workers(2, 1)})
    result = run(Scenario(requests((1, 1, 1)), ENGINE, Workers(1, 2), horizon_s=3600.0), script)
    assert result.gpu_hours_prefill == pytest.approx(2 + 2 * 3000 / 3600)
    assert result.gpu_hours_decode == pytest.approx(4 + 4 * 0.5)
    assert result.gpu_hours == result.gpu_hours_prefill + result.gpu_hours_decode
    assert result.launches == 4


def test_a_policy_is_asked_at_every_interval_and_sees_the_scrape_of_that_moment():
    script = Script({})
    run(Scenario(requests((1, 1, 1)), ENGINE, Workers(1, 1), ClusterOptions(metrics=Metrics(scrape_s=4.0)), horizon_s=40.0), script)
    assert [seen.at_s for seen in script.seen] == [10, 20, 30, 40]
    assert script.newest_s == [8, 20, 28, 40]


def test_the_course_says_what_was_asked_and_what_was_ready():
    script = Script({20.0: Workers(2, 1)})
    scenario = Scenario(requests((1, 1, 1)), ENGINE, Workers(1, 1), ClusterOptions(startup=Startup(mean_s=15)), horizon_s=50.0)
    course = run(scenario, script).course
    assert course.at_s.tolist() == [0, 10, 20, 30, 40, 50]
    assert course.asked[:, 0].tolist() == [1, 1, 2, 2, 2, 2]
    assert course.ready[:, 0].tolist() == [1, 1, 1, 1, 2, 2]
    assert course.asked[:, 1].tolist() == course.ready[:, 1].tolist() == [1] * 6


def test_every_request_has_its_latencies_or_says_that_it_has_none():
    """One of one token has no gap; one that arrives last is answered after the day's end; the cache lets nobody else in for 200,000 tokens."""
    rows = requests((0, 1000, 11), (1, 1000, 1), (19, 1000, 200_001), (20, 1000, 11))
    result = run(Scenario(rows, engine(decode=Decode(max_kv_tokens=100_000)), Workers(1, 1)), Static(Workers(1, 1)))
    assert result.ttft_s == pytest.approx([0.1] * 4)
    assert result.itl_s == pytest.approx([0.01, np.nan, np.nan, np.nan], nan_ok=True)
    assert result.finished.tolist() == [True, True, False, False]


def test_answers_after_the_end_count_and_cost_nothing():
    rows = requests((0, 1, 1), (20, 1000, 1001))
    result = run(Scenario(rows, ENGINE, Workers(1, 1)), Static(Workers(1, 1)))
    assert result.itl_s[1] == pytest.approx(0.01)
    assert result.gpu_hours == pytest.approx(6 * 20 / 3600)


def test_whoever_never_gets_a_first_token_is_missed():
    result = run(Scenario(requests((0, 1, 1), (5, 1, 1)), ENGINE, Workers(0, 1)), Static(Workers(0, 1)))
    assert np.isnan(result.ttft_s).all()
    assert not result.finished.any()


def test_progress_is_told():
    told: list[float] = []
    run(Scenario(requests((1, 1, 1)), ENGINE, Workers(1, 1), horizon_s=4000.0), Script({}), told.append)
    assert len(told) > 3
    assert told == sorted(told)


# ---- the production planner ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    return engine_of(read_profile(sample_profile_dir()))


@pytest.fixture(scope="module")
def excerpt() -> Trace:
    return read_trace(sample_trace_path()).scaled(4, seed=1)


def outcome(result: RunResult) -> tuple:
    return (
        result.ttft_s.tobytes(),
        result.itl_s.tobytes(),
        result.gpu_hours_prefill,
        result.gpu_hours_decode,
        result.launches,
        result.course.asked.tobytes(),
    )


ROUGH = ClusterOptions(startup=Startup(mean_s=60, spread=Spread.LOGNORMAL, never_share=0.05), metrics=Metrics(delay_s=10, lost_share=0.05), seed=3)


@pytest.mark.parametrize("options", [ClusterOptions(), ROUGH])
def test_the_same_again_and_with_the_planner_restarted(shipped, excerpt, options):
    """Twice the same bits; and a planner that is ended and started from its saved state every five minutes decides the same."""
    plan = PlanSettings(sla=SLA, startup_s=60.0)
    scenario = Scenario(excerpt, shipped, Workers(2, 2), options)
    once = run(scenario, Planner(plan, shipped))
    assert outcome(run(scenario, Planner(plan, shipped))) == outcome(once)
    assert outcome(run(scenario, Planner(plan, shipped, restart_every_s=300.0))) == outcome(once)
    assert len({tuple(row) for row in once.course.asked.tolist()}) > 2  # it did scale


def test_another_seed_is_another_day(shipped, excerpt):
    """Under load it matters when workers start."""
    one, two = (
        run(Scenario(excerpt, shipped, Workers(1, 1), ClusterOptions(startup=ROUGH.startup, seed=seed)), Script({600.0: Workers(2, 2)}))
        for seed in (1, 2)
    )
    assert outcome(one) != outcome(two)


def test_a_cheap_day_is_cheap_and_a_starved_one_is_late(shipped):
    """Sanity of the whole: twice the workers cost twice as much and serve no worse."""
    rng = np.random.default_rng(1)
    rows = poisson(10.0, 6000, rng.integers(100, 3000, 6000), rng.integers(10, 300, 6000), seed=1)
    small, large = (run(Scenario(rows, shipped, Workers(n, n), horizon_s=600.0), Static(Workers(n, n))) for n in (1, 2))
    assert large.gpu_hours == pytest.approx(2 * small.gpu_hours)
    assert np.quantile(large.ttft_s, 0.99) < np.quantile(small.ttft_s, 0.99)
