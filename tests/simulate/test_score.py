"""Kept or missed, minute by minute, and what a policy did, on results made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.simulate.by_hand import engine, requests

from sla_planner.model.sla import Sla
from sla_planner.simulate.policy import Workers
from sla_planner.simulate.run import Course, RunResult, Scenario
from sla_planner.simulate.score import Score, inside, most_direction_changes, score

SLA = Sla(ttft_ms=500, itl_ms=20, attainment=0.9)
NEVER = math.nan


def judged(rows: list[tuple[float, float, float, bool]], asked: list[tuple[int, int]] | None = None, **flags: float) -> tuple[Score, RunResult]:
    """(arrival_s, ttft_s, itl_s, finished) each; `asked` at every 60 s."""
    arrival_s, ttft_s, itl_s, finished = zip(*rows, strict=True)
    scenario = Scenario(requests(*[(at_s, 1, 2) for at_s in arrival_s]), engine(), Workers(1, 1))
    course = np.array(asked or [(1, 1)])
    result = RunResult(
        policy="by hand",
        ttft_s=np.array(ttft_s),
        itl_s=np.array(itl_s),
        finished=np.array(finished),
        gpu_hours_prefill=1.5,
        gpu_hours_decode=2.5,
        launches=7,
        course=Course(60.0 * np.arange(len(course)), course, course),
    )
    return score(scenario, result, SLA, **flags), result


def test_a_request_is_inside_when_both_promises_were_kept():
    rows = [
        (0, 0.5, 0.02, True),  # just
        (1, 0.501, 0.02, True),
        (2, 0.1, 0.021, True),
        (3, 0.1, NEVER, True),  # an answer of one token
        (4, 0.1, NEVER, False),  # it never ended
        (5, NEVER, NEVER, False),  # it never began
    ]
    seen, result = judged(rows, warm_up_s=0.0)
    assert inside(result, SLA).tolist() == [True, False, False, True, False, False]
    assert (seen.requests, seen.attainment) == (6, pytest.approx(2 / 6))
    assert (seen.ttft_attainment, seen.itl_attainment) == (pytest.approx(4 / 6), pytest.approx(3 / 6))
    assert (seen.gpu_hours, seen.gpu_hours_prefill, seen.gpu_hours_decode, seen.launches) == (4.0, 1.5, 2.5, 7)
    assert seen.ttft_p50_ms == 500
    assert seen.ttft_p99_ms == math.inf  # one in six never began
    assert (seen.itl_p50_ms, seen.itl_p99_ms) == (21, math.inf)  # of five: three with gaps, two that never ended


def test_the_first_ten_minutes_are_not_scored():
    seen, _ = judged([(599, 9, 9, True), (600, 0.1, 0.01, True)])
    assert (seen.requests, seen.attainment, seen.minutes_inside) == (1, 1.0, 1.0)


def test_a_trace_within_the_warm_up_is_scored_whole():
    assert judged([(0, 9, 9, True), (60, 0.1, 0.01, True)])[0].attainment == 0.5


def test_minutes_inside_are_those_that_reach_the_goal_of_their_own():
    """Nine of ten is the goal: ten requests with one late, ten with two late, an empty minute, one alone."""
    fine, late = (0.1, 0.01, True), (0.9, 0.01, True)
    minutes = {0: [fine] * 9 + [late], 1: [fine] * 8 + [late] * 2, 3: [fine]}
    rows = [(60 * minute + second, *row) for minute, requests_of in minutes.items() for second, row in enumerate(requests_of)]
    assert judged(rows, warm_up_s=0.0)[0].minutes_inside == pytest.approx(2 / 3)


def test_actions_and_direction_changes():
    """Decode goes up, up, down, up: two changes of direction, four actions with the one of prefill, of which one is at the same time."""
    asked = [(1, 1), (1, 2), (2, 3), (2, 2), (2, 2), (2, 4)]
    seen, _ = judged([(0, 0.1, 0.01, True)], asked)
    assert (seen.actions, seen.most_direction_changes_per_hour) == (4, 2)


def test_direction_changes_are_counted_in_the_worst_hour():
    """One every 1000 s for a while: four lie within 3600 s, at 0, 1000, 2000 and 3000. Two exactly an hour apart are of different hours."""
    at_s = np.arange(0, 20_000, 1000.0)
    assert most_direction_changes(at_s, np.arange(20) % 2) == 4
    assert most_direction_changes(np.arange(0, 20_000, 1800.0), np.arange(12) % 2) == 2
    assert most_direction_changes(at_s, np.arange(20)) == 0
    assert most_direction_changes(at_s[:1], np.array([3])) == 0


def test_what_was_never_answered_took_for_ever():
    seen, _ = judged([(0, NEVER, NEVER, False)])
    assert (seen.attainment, seen.minutes_inside) == (0, 0)
    assert (seen.ttft_p50_ms, seen.itl_p99_ms) == (math.inf, math.inf)


def test_quantiles_without_a_gap_are_not_a_number():
    seen, _ = judged([(0, 0.1, NEVER, True)])
    assert math.isnan(seen.itl_p99_ms)
