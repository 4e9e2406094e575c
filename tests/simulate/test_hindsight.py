"""The search finds what trying everything finds, in fewer runs; and says so when there is nothing to find."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from tests.simulate.by_hand import engine

from sla_planner.model.sla import Sla
from sla_planner.plan.settings import PlanSettings
from sla_planner.simulate.contest import Contest, Knows
from sla_planner.simulate.hindsight import Ladder, Space, cheapest
from sla_planner.simulate.options import ClusterOptions, Startup
from sla_planner.simulate.policies.hpa import Hpa, Metric, Target
from sla_planner.simulate.policies.static import Static
from sla_planner.simulate.policy import Policy, Workers
from sla_planner.simulate.run import Scenario, run
from sla_planner.simulate.score import Score, score
from sla_planner.traffic.trace import Trace

SLA = Sla(ttft_ms=400, itl_ms=20, attainment=0.99)


def _wave(seed: int) -> Trace:
    """Once up and down within nine minutes."""
    random = np.random.default_rng(seed)
    seconds = np.arange(540)
    rate = 25.0 * (0.55 - 0.45 * np.cos(seconds / 540 * 2 * np.pi))
    arrival_s = np.repeat(seconds, random.poisson(rate)).astype(float)
    arrival_s = np.sort(arrival_s + random.random(len(arrival_s)))
    return Trace(arrival_s, random.integers(100, 2000, len(arrival_s)), random.integers(2, 300, len(arrival_s)))


def _contest(seed: int = 1, **changes: float) -> Contest:
    scenario = Scenario(_wave(seed), engine(c0=8.0, c1=0.2), Workers(3, 3), ClusterOptions(startup=Startup(20.0)))
    return replace(Contest(scenario, PlanSettings(sla=SLA), SLA.attainment), **changes)


def _space(most: int, guess: tuple[int, int]) -> Space[int]:
    def policy(prefill: int, decode: int) -> Policy:
        return Static(Workers(prefill, decode))

    ladders = [Ladder(range(1, most + 1), at) for at in guess]
    return Space("static", prefill=ladders[:1], decode=ladders[1:], policy=policy, start=Workers)


def _fixed(contest: Contest, fleet: Workers) -> Score:
    scenario = replace(contest.scenario, start=fleet)
    return score(scenario, run(scenario, Static(fleet)), contest.plan.sla)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_cheapest_fixed_fleet_is_the_one_that_trying_all_finds(seed: int) -> None:
    contest = _contest(seed)
    everything = {(p, d): _fixed(contest, Workers(p, d)) for p, d in product(range(1, 7), repeat=2)}
    least = min(each.gpu_hours for each in everything.values() if each.attainment >= contest.goal)
    for guess in ((0, 0), (5, 5), (1, 4)):
        entry = cheapest(contest, _space(6, guess))
        assert entry.reached
        assert entry.score.gpu_hours == least
        assert entry.score == everything[entry.settings["prefill"], entry.settings["decode"]]
        assert entry.tried < 18  # of 36


def test_the_best_of_two_grids_costs_no_more_than_one_percent_over_the_best_of_all_pairs() -> None:
    contest = _contest(goal=0.95)
    prefill = [Target(Metric.UTILISATION, value) for value in (0.8, 0.6, 0.45, 0.3)]
    decode = [Target(Metric.RUNNING, value) for value in (64.0, 48.0, 32.0, 16.0, 8.0)]

    def policy(p: Target, d: Target) -> Hpa:
        return Hpa(p, d, Workers(12, 12))

    scores = [score(contest.scenario, run(contest.scenario, policy(p, d)), SLA) for p, d in product(prefill, decode)]
    least = min(each.gpu_hours for each in scores if each.attainment >= contest.goal)
    entry = cheapest(contest, Space("hpa", [Ladder(prefill, 2)], [Ladder(decode, 2)], policy))
    assert entry.reached
    assert entry.score.gpu_hours <= least * 1.01
    assert entry.tried < len(scores)
    assert entry.knows is Knows.HINDSIGHT


def test_without_a_pair_that_reaches_the_goal_the_nearest_is_the_entry() -> None:
    contest = _contest()
    entry = cheapest(contest, _space(2, (0, 0)))
    assert not entry.reached
    assert entry.settings["prefill"] == 2
    assert entry.score.attainment == max(_fixed(contest, Workers(p, d)).attainment for p, d in product((1, 2), repeat=2))


def test_the_result_is_that_of_the_entry_and_a_second_search_finds_the_same() -> None:
    contest = _contest()
    first, second = (cheapest(contest, _space(6, (3, 3))) for _ in range(2))
    assert first.result is not None
    assert score(replace(contest.scenario, start=Workers(**first.settings)), first.result, SLA) == first.score
    assert (first.settings, first.tried, first.score) == (second.settings, second.tried, second.score)


def test_progress_grows_and_ends_at_one() -> None:
    heard: list[tuple[str, float]] = []
    cheapest(replace(_contest(), progress=lambda name, share: heard.append((name, share))), _space(6, (3, 3)))
    shares = [share for _, share in heard]
    assert {name for name, _ in heard} == {"static"}
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
