"""Why requests were missed: where most of them lie, what the traffic did, and what the planner said then."""

from __future__ import annotations

import numpy as np
from tests.simulate.by_hand import engine

from sla_planner.model.sla import Sla
from sla_planner.plan.decision import Decision, Reason, Role, RoleDecision
from sla_planner.simulate.causes import causes
from sla_planner.simulate.policy import Workers
from sla_planner.simulate.run import Course, RunResult, Scenario
from sla_planner.traffic.trace import Trace

SLA = Sla(ttft_ms=500, itl_ms=20, attainment=0.99)
RUSH_S = 3600.0


def rush() -> Trace:
    """One request a second for two hours, and nine more a second in the minute from one hour on; 100 tokens in, 50 out."""
    arrival_s = np.sort(np.concatenate([np.arange(7200.0), RUSH_S + np.arange(540) / 9]))
    return Trace(arrival_s, np.full(7740, 100), np.full(7740, 50))


def decided(at_s: float, prefill: Reason, decode: Reason = Reason.STEADY) -> Decision:
    return Decision(at_s, RoleDecision(Role.PREFILL, 1, 1, 1, prefill, ""), RoleDecision(Role.DECODE, 1, 1, 1, decode, ""), None)


def told(trace: Trace, late: np.ndarray, slow: np.ndarray, decisions: list[Decision]) -> tuple[str, ...]:
    course = np.array([(1, 1)])
    result = RunResult(
        policy="by hand",
        ttft_s=np.where(late, 0.6, 0.1),
        itl_s=np.where(slow, 0.021, 0.01),
        finished=np.ones(len(trace), bool),
        gpu_hours_prefill=1.0,
        gpu_hours_decode=1.0,
        launches=0,
        course=Course(np.array([0.0]), course, course),
    )
    return causes(Scenario(trace, engine(), Workers(1, 1)), result, SLA, decisions)


def test_the_worst_ten_minutes_the_traffic_and_the_reasons_are_named():
    trace = rush()
    late = (trace.arrival_s >= RUSH_S) & (trace.arrival_s < RUSH_S + 60) | (trace.arrival_s >= 5000) & (trace.arrival_s < 5100)
    decisions = [decided(0.0, Reason.STEADY), decided(RUSH_S, Reason.BACKLOG), decided(RUSH_S + 30, Reason.WARMING), decided(4000.0, Reason.STEADY)]
    (line,) = told(trace, late, np.zeros(len(trace), bool), decisions)
    assert line == (  # 700 of the 7140 that count
        "9.80% missed TTFT, 86% of them in the ten minutes from 1 h 00 min, when arrivals went from 1 to 10 requests/s and prompts from 0.1 to 1 "
        "thousand tokens/s; prefill said: backlog 43%, starting-workers 43%, steady 14%"
    )


def test_slow_answers_are_told_of_decode_and_only_those_whose_first_token_was_in_time():
    trace = rush()
    everyone = np.ones(len(trace), bool)
    early = trace.arrival_s < 4000
    late, slow = told(trace, early, everyone, [decided(0.0, Reason.STEADY, Reason.LOAD_UP)])
    assert late.startswith("55.")
    assert "44." in slow.split("%")[0]
    assert "missed ITL" in slow
    assert slow.endswith("decode said: load-up 100%")
    assert "from 1 h 10 min, when arrivals went from 1.9 to 1 requests/s and answers from 0.095 to 0.05 thousand tokens/s" in slow


def test_what_few_requests_missed_is_not_worth_a_line():
    trace = rush()
    few = np.zeros(len(trace), bool)
    few[:605] = True  # they arrive in the ten minutes that are not judged, but for five of 7140
    assert told(trace, few, few, [decided(0.0, Reason.STEADY)]) == ()


def test_before_the_first_decision_nothing_was_said():
    trace = rush()
    (line,) = told(trace, trace.arrival_s < 1000, np.zeros(len(trace), bool), [decided(900.0, Reason.STEADY)])
    assert line.endswith("prefill said: nothing yet 75%, steady 25%")
