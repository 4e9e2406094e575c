"""Every contestant on the rush of the shipped excerpt: bounds in their order, goals reached, nobody beyond what he may have."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import pytest

from sla_planner.model.engine import engine_of
from sla_planner.model.sla import Sla
from sla_planner.plan.settings import PlanSettings
from sla_planner.simulate.contest import Contest, Entry, Knows
from sla_planner.simulate.contestants import CONTESTANTS
from sla_planner.simulate.options import ClusterOptions, Startup
from sla_planner.simulate.policy import Workers
from sla_planner.simulate.run import Scenario
from sla_planner.simulate.score import score
from sla_planner.store.profile_files import read_profile, sample_profile_dir
from sla_planner.traffic.trace import read_trace, sample_trace_path

SLA = Sla(ttft_ms=500, itl_ms=20, attainment=0.99)
HEARD: dict[str, list[float]] = {}
CONTEST = Contest(
    Scenario(
        read_trace(sample_trace_path()).window(600, 2100).scaled(12, seed=1),
        engine_of(read_profile(sample_profile_dir())),
        Workers(3, 3),
        ClusterOptions(startup=Startup(60.0)),
    ),
    PlanSettings(sla=SLA, startup_s=60.0),
    SLA.attainment,
    progress=lambda name, share: HEARD.setdefault(name, []).append(share),
)
SEARCHED = ("static", "hpa", "dynamo06-headroom", "threshold")


@cache
def _entry(name: str) -> Entry:
    return CONTESTANTS[name](CONTEST)


def test_the_contestants_by_name() -> None:
    assert {"slaplanner", "static", "hpa", "hpa-customary", "dynamo06", "dynamo06-headroom", "threshold", "clairvoyant", "fluid-bound"} < set(
        CONTESTANTS
    )


@pytest.mark.parametrize("name", CONTESTANTS)
def test_an_entry_is_complete(name: str) -> None:
    entry = _entry(name)
    assert entry.policy == name
    assert json.loads(json.dumps(entry.settings)) is not None
    assert entry.reached == (entry.score.attainment >= CONTEST.goal)
    assert HEARD[name][-1] == 1.0
    if name != "fluid-bound":
        assert entry.result is not None
        assert entry.result.policy == name
        assert score(CONTEST.scenario, entry.result, SLA) == entry.score


def test_who_knows_what() -> None:
    assert {name for name in CONTESTANTS if _entry(name).knows is Knows.FUTURE} == {"clairvoyant", "fluid-bound"}
    assert {name for name in CONTESTANTS if _entry(name).knows is Knows.HINDSIGHT} == set(SEARCHED)
    assert {name for name in CONTESTANTS if _entry(name).tried > 1} == {*SEARCHED, "clairvoyant"}


def test_bound_below_clairvoyant_below_every_searched_one() -> None:
    hours = {name: _entry(name).score.gpu_hours for name in CONTESTANTS}
    assert hours["fluid-bound"] < hours["clairvoyant"] < min(hours[name] for name in SEARCHED)
    assert all(_entry(name).reached for name in ("static", "hpa", "dynamo06-headroom", "clairvoyant"))


def test_searched_settings_beat_the_customary_ones() -> None:
    """Either they reach what those do not, or they cost no more."""
    for best, as_usual in (("hpa", "hpa-customary"), ("dynamo06-headroom", "dynamo06"), ("threshold", "threshold-customary")):
        searched, usual = _entry(best), _entry(as_usual)
        assert (searched.reached, -searched.score.gpu_hours) >= (usual.reached, -usual.score.gpu_hours)


@pytest.mark.parametrize("name", ["hpa", "hpa-customary", "threshold", "threshold-customary"])
def test_no_autoscaler_grows_beyond_one_and_a_half_times_the_fixed_fleet(name: str) -> None:
    fixed = _entry("static").settings
    result = _entry(name).result
    assert result is not None
    most = result.course.asked[1:].max(axis=0)  # after the start, which is nobody's choice
    assert most[0] <= -(-3 * fixed["prefill"] // 2)
    assert most[1] <= -(-3 * fixed["decode"] // 2)


def test_a_fixed_fleet_stays_within_the_clusters_gpus() -> None:
    """One GPU less than it would need: it gets no more, and does not reach the goal."""
    needed = int(sum(_entry("static").settings.values()))
    options = replace(CONTEST.scenario.options, max_gpus=needed - 1)
    contest = replace(CONTEST, scenario=replace(CONTEST.scenario, options=options, start=Workers(1, 1)))
    entry = CONTESTANTS["static"](contest)
    assert not entry.reached
    assert entry.score.gpu_hours <= (needed - 1) * CONTEST.scenario.end_s / 3600 + 1e-9
