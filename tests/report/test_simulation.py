"""A comparison as a table, as JSON and as a page: what is true of every one of them, and rounding that never flatters."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from sla_planner.model.sla import Sla
from sla_planner.report import simulation_page, simulation_plots
from sla_planner.report.simulation import Comparison, FleetCourse, Load, Minutes, Outcome, Shown, compared, document, headline, percent, text

OURS = Outcome(
    policy="slaplanner",
    attainment=0.99129,
    gpu_hours=70.0,
    gpu_hours_prefill=40.0,
    gpu_hours_decode=30.0,
    minutes_inside=0.93759,
    actions=210,
    reached=True,
    ratio=1.0,
    requests=3_395_808,
    ttft_attainment=0.994,
    itl_attainment=0.997,
    ttft_p50_ms=38.24,
    ttft_p99_ms=498.7,
    itl_p50_ms=8.44,
    itl_p99_ms=19.91,
    launches=120,
    most_direction_changes_per_hour=4,
    knows="the past",
    possible=True,
    tried=1,
    settings={"interval_s": 15.0},
)
STATIC = replace(OURS, policy="static", gpu_hours=100.0, ratio=100 / 70, tried=9, settings={"prefill": 7, "decode": 5})
MISSES = replace(OURS, policy="dynamo06", gpu_hours=50.0, ratio=50 / 70, reached=False, attainment=0.9899999, settings={})
BOUND = replace(OURS, policy="fluid-bound", gpu_hours=35.0, ratio=0.5, possible=False, itl_p50_ms=math.nan, settings={})


def a_course() -> FleetCourse:
    at_s = np.array([0.0, 600.0, 1200.0])
    counts = np.array([[2, 1], [3, 1], [2, 2]])
    return FleetCourse(at_s, counts, counts + 1, np.arange(30) * 60.0 + 30, np.full((30, 2), 0.7))


def minutes(**changes: np.ndarray) -> Minutes:
    slices = np.arange(30)
    flat = Minutes(slices * 60.0, np.full(30, 40.0), np.full(30, 300.0), np.full(30, 8.0), np.full(30, 15.0), np.zeros(30))
    return replace(flat, **changes)


@pytest.fixture
def comparison() -> Comparison:
    slices = np.arange(30.0)
    return Comparison(
        traffic="3,395,808 requests over 0.5 h (day.csv.gz)",
        promise=Sla(500, 20, 0.99),
        goal=0.99,
        duration_s=1800.0,
        judged_from_s=600.0,
        policies=(Shown(OURS, a_course(), minutes()), Shown(STATIC, a_course(), minutes()), Shown(MISSES, a_course(), minutes()), Shown(BOUND)),
        load=Load(slices * 60, slices, slices * 1000, slices * 200),
        facts=(("Version", "sla-planner 0.1.0"),),
        warnings=("a <gap> of two hours",),
    )


def test_the_headline_compares_with_who_reached_the_goal_and_knew_no_future(comparison: Comparison) -> None:
    told = headline(comparison)
    assert told == "slaplanner: 99.12 % of 3,395,808 requests inside TTFT 500 ms and ITL 20 ms, for 70.0 GPU-hours; 30 % fewer than static"
    dearer = replace(comparison, policies=(Shown(replace(OURS, gpu_hours=110.0)), Shown(STATIC)))
    assert headline(dearer).endswith("; 10 % more than static")
    short = replace(comparison, policies=(Shown(replace(OURS, reached=False)), Shown(STATIC)))
    assert headline(short).endswith("for 70.0 GPU-hours: short of 99 %")
    alone = replace(comparison, policies=(Shown(STATIC), Shown(BOUND)))
    assert headline(alone).endswith("for 100.0 GPU-hours")


@pytest.mark.parametrize(
    ("share", "digits", "told"), [(0.98999, 2, "98.99"), (1.0, 2, "100.00"), (0.29, 2, "29.00"), (0.9, 1, "90.0"), (math.nan, 1, "")]
)
def test_a_share_is_rounded_down(share: float, digits: int, told: str) -> None:
    assert percent(share, digits) == told


def test_the_table_has_a_line_for_each_and_says_who_misses_and_what_they_knew(comparison: Comparison) -> None:
    told = text(comparison)
    assert max(map(len, told.splitlines())) <= 100
    rows = {line.split()[0]: line.split()[1:] for line in told.splitlines() if line.startswith(("slaplanner ", "static ", "dynamo06*"))}
    assert rows["slaplanner"] == ["70.0", "40.0", "30.0", "99.12", "93.7", "38.2", "499", "8.4", "19.9", "210", "1.00"]
    assert rows["static"][-1] == "1.43"
    assert rows["dynamo06*"][3] == "98.99"
    assert "static: knows the past (9 runs): prefill=7, decode=5" in told
    assert "dynamo06: * misses the goal; knows the past" in told
    assert "warning: a <gap> of two hours" in told


def test_why_requests_were_missed_is_told_everywhere(comparison: Comparison) -> None:
    why = "0.90% missed TTFT <because>"
    caused = replace(comparison, policies=(replace(comparison.policies[0], outcome=replace(OURS, causes=(why,))), *comparison.policies[1:]))
    assert f"slaplanner: {why}" in text(caused)
    assert document(caused)["policies"][0]["causes"] == [why]
    page = simulation_page.html(caused, {})
    assert "<h2>Why requests were missed</h2>" in page
    assert "slaplanner: 0.90% missed TTFT &lt;because&gt;" in page
    assert "Why requests were missed" not in simulation_page.html(comparison, {})


def test_what_is_not_a_number_is_null(comparison: Comparison) -> None:
    told = json.loads(json.dumps(document(comparison), allow_nan=False))
    assert told["policies"][3]["itl_p50_ms"] is None
    assert told["policies"][1]["settings"] == {"prefill": 7, "decode": 5}
    assert told["policies"][1]["ratio"] == 1.42857143
    assert told["warnings"] == ["a <gap> of two hours"]


def test_a_ratio_needs_the_planner() -> None:
    alone, ours = Shown(replace(STATIC, ratio=None)), Shown(replace(OURS, ratio=None))
    assert [shown.outcome.ratio for shown in compared([alone, ours])] == [pytest.approx(100 / 70), 1.0]
    assert [shown.outcome.ratio for shown in compared([alone])] == [None]


def test_the_page_stands_alone_and_escapes(comparison: Comparison) -> None:
    page = simulation_page.html(comparison, simulation_plots.pictures(comparison))
    assert page.count("data:image/png;base64,") == 5
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "a &lt;gap&gt; of two hours" in page
    assert page.count("<details open>") == 1
    assert "slaplanner: goal of 99 % kept" in page


def test_pictures_are_of_who_ran(comparison: Comparison) -> None:
    assert list(simulation_plots.pictures(comparison)) == ["cost.png", "load.png", "slaplanner.png", "static.png", "dynamo06.png"]


def test_bars_of_those_who_miss_are_hatched(comparison: Comparison) -> None:
    (ax,) = simulation_plots.cost_figure(comparison).axes
    hatched = {bar.get_y() + bar.get_height() / 2 for bar in ax.patches if bar.get_hatch() and bar.get_width()}
    assert hatched == {2.0}
    assert any("misses the goal" in each.get_text() for each in ax.texts)


def test_latencies_far_off_are_on_a_logarithmic_scale_and_the_unanswered_are_marked(comparison: Comparison) -> None:
    late = np.full(30, 300.0)
    late[3:5] = math.inf
    shown = Shown(OURS, a_course(), minutes(ttft_p99_ms=late, itl_p99_ms=np.full(30, 900.0), missed=np.full(30, math.nan)))
    prefill, _, ttft, itl, misses = simulation_plots.policy_figure(shown, comparison).axes
    assert (ttft.get_yscale(), itl.get_yscale()) == ("linear", "log")
    assert "more than 1 % never answered" in [each.get_text() for each in ttft.get_legend().get_texts()]
    assert [each.get_text() for each in prefill.get_legend().get_texts()] == ["ready", "asked for", "kept busy by the work"]
    assert [each.get_text() for each in misses.get_legend().get_texts()] == ["not judged", "outside the promise"]
