from __future__ import annotations

from dataclasses import replace

import pytest

from sla_planner.model.profile import Flag, ParallelMapping, PrefillMeasurement, PrefillPoint
from sla_planner.model.selection import Candidate, Choice, choose
from sla_planner.model.sla import Sla
from sla_planner.report.sweep_wording import (
    comparison_table,
    cost_text,
    decode_side,
    difference_text,
    enough,
    flags_in_words,
    headline,
    infeasible,
    prefill_side,
    spelled,
    suggested_lines,
    verification_text,
    why,
)
from sla_planner.sweep.result import Comparison, Cost, Goal, Verification

TP2, TP4, TP8 = (ParallelMapping(tp=n) for n in (2, 4, 8))


def candidate(mapping, latency_ms, throughput, at="", concurrency=1.0, typical_ms=None):
    return Candidate(mapping, latency_ms, latency_ms if typical_ms is None else typical_ms, throughput, at, concurrency)


@pytest.fixture
def small(sweep):
    """Two candidates a side with round numbers: TTFT 50 ms, ITL 10 ms promised."""
    prefill = (candidate(TP2, 60.0, 9000.0, "ISL 3000"), candidate(TP4, 48.371, 15505.2349, "ISL 3000"))
    decode = (candidate(TP4, 4.8312, 51.2187, "batch 4", 4), candidate(TP8, 4.0, 40.0, "batch 4", 4))
    return replace(
        sweep,
        goal=Goal(Sla(50.0, 10.0, 0.99), 3000, 150),
        prefill=choose(prefill, 50.0),
        decode=choose(decode, 10.0),
        prefill_candidates=prefill,
        decode_candidates=decode,
    )


def test_the_last_lines_are_the_suggestion(small):
    assert suggested_lines(small) == [
        "Suggested prefill TP:4 (TTFT 48.37 ms, throughput 15505.23 tokens/s/GPU)",
        "Suggested decode TP:4 (ITL 4.83 ms, throughput 51.22 tokens/s/GPU)",
    ]


@pytest.mark.parametrize(
    ("mapping", "text"),
    [
        (ParallelMapping(tp=8, ep=8), "TEP:8"),
        (ParallelMapping(dp=8, ep=8), "DEP:8"),
        (ParallelMapping(tp=4, pp=2), "TP:4-PP:2"),
        (ParallelMapping(), "TP:1"),
    ],
)
def test_a_mapping_is_spelled_with_a_colon(mapping, text):
    assert spelled(mapping) == text


def test_what_does_not_keep_the_promise_is_not_called_suggested(small):
    missed = replace(small, goal=Goal(Sla(40.0, 10.0, 0.99), 3000, 150), prefill=choose(small.prefill_candidates, 40.0))
    assert suggested_lines(missed)[0] == "Nearest prefill TP:4 (TTFT 48.37 ms, throughput 15505.23 tokens/s/GPU)"
    assert headline(missed) == "TTFT 40 ms cannot be met: the nearest is 48.4 ms on TP4"


def test_infeasible_names_the_nearest_and_every_way_out_that_is_measured(small):
    near = candidate(TP4, 48.371, 15505.0, "ISL 3000", typical_ms=39.0)
    candidates = (candidate(TP2, 60.0, 9000.0), near)
    # 10 ms + 0.01 ms per token: 40 ms at the goal. The tail is 48.371/40 of it, so 40 ms are kept up to where the curve is at 33.08 ms: ISL 2307.
    line = PrefillMeasurement(TP4, tuple(PrefillPoint(isl, 10 + 0.01 * isl, 1.0) for isl in (500.0, 1500.0, 2500.0, 3500.0)))
    missed = replace(
        small,
        goal=Goal(Sla(40.0, 10.0, 0.99), 3000, 150),
        prefill=Choice(None, near),
        prefill_candidates=candidates,
        profile=replace(small.profile, prefill=(line,), selected_prefill=TP4),
    )
    message, hint = infeasible(missed)
    assert message == "no mapping keeps TTFT 40 ms for 99 % of requests of 3,000 tokens in and 150 out: the nearest is 48.4 ms with TP4 (ISL 3000)"
    assert hint == (
        "set --ttft 51, or promise it to fewer requests (--attainment; the median is 39.0 ms), "
        "or allow more than 4 GPUs per engine (--max-num-gpus), or ask for prompts of at most 2300 tokens (--isl)"
    )


def test_infeasible_tells_both_when_both_are_missed(impossible):
    message, hint = infeasible(impossible)
    assert message.startswith("no mapping keeps TTFT 10 ms for 99 % of requests")
    assert "; nor ITL 2 ms: the nearest is 2.1" in message
    assert hint.startswith("set --ttft 22, or allow more than 8 GPUs per engine")
    assert "; set --itl 2.3, or " in hint
    assert "--max-num-gpus" not in infeasible(replace(impossible, may_grow=False))[1]
    assert "\n" not in message + hint


@pytest.mark.parametrize(("value", "set_to"), [(48.37, 49.0), (4.83, 4.9), (1599.0, 1600.0), (20.0, 20.0), (0.513, 0.52), (99.01, 100.0)])
def test_the_value_to_set_is_rounded_up(value, set_to):
    assert enough(value) == set_to >= value


def test_following_the_hint_makes_it_feasible(impossible):
    ttft, itl = enough(impossible.prefill.nearest.latency_ms), enough(impossible.decode.nearest.latency_ms)
    assert choose(impossible.prefill_candidates, ttft).picked is not None
    assert choose(impossible.decode_candidates, itl).picked is not None


def test_why_each_was_not_picked():
    pick = candidate(TP4, 40.0, 1000.0, "batch 8")
    others = {
        candidate(TP2, 60.0, 2000.0): "TTFT 20 % above the promised 50 ms",
        candidate(TP2, 150.0, 2000.0): "TTFT 3.0 times the promised 50 ms",
        candidate(TP8, 30.0, 880.0): "12 % less throughput per GPU than TP4",
        candidate(TP8, 30.0, 995.0): "as much throughput per GPU as TP4, more GPUs",
        candidate(TP4, 20.0, 500.0, "batch 2"): "50 % less throughput per GPU than TP4 batch 8",
        pick: "picked",
    }
    for other, told in others.items():
        assert why(_side(Choice(pick, pick), (*others,)), other) == told
    assert why(_side(Choice(None, pick), (pick,), promised_ms=32.0), pick) == "nearest: TTFT 25 % above the promised 32 ms"


def _side(choice, candidates, promised_ms=50.0):
    from sla_planner.plan.decision import Role
    from sla_planner.report.sweep_wording import Side

    return Side(Role.PREFILL, "TTFT", promised_ms, "--ttft", choice, candidates)


def test_each_mapping_is_shown_at_what_it_would_be_picked_for(sweep):
    side = decode_side(sweep)
    shown = {one.mapping.label: one for one in side.best}
    assert list(shown) == ["TP1", "TP2", "TP4", "TP8"]
    for one in side.best:
        own = [other for other in side.candidates if other.mapping == one.mapping and side.keeps(other)]
        assert one.throughput_per_gpu == max(other.throughput_per_gpu for other in own)
    assert shown["TP4"] == sweep.decode.picked


def test_the_table_has_a_row_per_mapping_and_one_pick_per_role(sweep):
    prefill, decode = comparison_table(sweep).split("\n\n")
    assert len(prefill.splitlines()) == len(decode.splitlines()) == 2 + 4
    assert [line.endswith("picked") for line in prefill.splitlines()[2:]] == [False, True, False, False]
    assert prefill.splitlines()[0].split() == ["prefill", "GPUs", "at", "TTFT", "p99", "(ms)", "tokens/s/GPU", "verdict"]
    assert len(prefill_side(sweep).best) == 4


def test_cost_counts_one_and_many():
    assert cost_text(Cost(2292.0, 4.371, 4, 77, 12)) == (
        "38:12 and 4.37 GPU-hours: 77 points measured with 4 engine starts; 12 more found again from an earlier run"
    )
    assert cost_text(Cost(61.0, 0.02, 1, 1, 0)) == "01:01 and 0.02 GPU-hours: 1 point measured with 1 engine start"


def test_differences_are_told_and_judged():
    assert difference_text(Comparison("TTFT", 100.0, 112.4)) == "TTFT: 12 % slower than the profile says"
    assert difference_text(Comparison("TTFT", 100.0, 80.0)) == "TTFT: 20 % faster than the profile says"
    assert difference_text(Comparison("TTFT", 100.0, 100.3)) == "TTFT: as the profile says"
    assert [Comparison("x", 100.0, measured).off for measured in (84.0, 86.0, 114.0, 116.0)] == [True, False, False, True]


def test_verification_is_rounded_down_and_tells_the_worst():
    seen = Verification("how", 3000, 2999, 1, (Comparison("TTFT", 100.0, 101.0), Comparison("ITL", 10.0, 7.0)))
    assert verification_text(seen) == "99.9 % of 3,000 requests inside, 1 failed; ITL: 30 % faster than the profile says"
    assert verification_text(Verification("how", 0, 0, 0, ())) == "no requests"


def test_flags_are_told_in_words_and_the_measurers_own_first():
    assert flags_in_words(()) == ""
    assert flags_in_words((Flag.REPORTED,), "the client was late") == "the client was late"
    assert flags_in_words((Flag.LITTLE, Flag.REPORTED), "late") == "late; some requests were queueing: fewer ran at once than it claims"
    assert flags_in_words((Flag.REPORTED,)) == "not trusted by whoever measured it"
