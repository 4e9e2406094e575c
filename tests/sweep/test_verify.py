"""What a pick is promised to do under even load, by hand; and what is said when the engine does it, or does not.

The profile of the hand-derived cases:  TTFT(1000) = 40 ms,  ITL(n) = 10 + n ms whatever the context.  The goal: ITL 20 ms, OSL 100.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from sla_planner.errors import EngineError
from sla_planner.model.profile import (
    DecodeMeasurement,
    DecodePoint,
    ParallelMapping,
    PrefillMeasurement,
    PrefillPoint,
    Profile,
    slowed,
)
from sla_planner.model.sla import Sla
from sla_planner.sweep.port import Deployment
from sla_planner.sweep.result import Goal
from sla_planner.sweep.verify import BUSY, Pick, even_load, verify

RECORDED = Path(__file__).parents[1] / "data" / "aiperf" / "profile_export_aiperf.json"
TP1, TP2 = ParallelMapping(), ParallelMapping(tp=2)
BY_HAND = Goal(Sla(ttft_ms=100, itl_ms=20), isl_tokens=1000, osl_tokens=100)
ALONE = Goal(Sla(ttft_ms=400, itl_ms=18, attainment=0.9), isl_tokens=128, osl_tokens=8)  # no room for more than one request
SLOW = Goal(Sla(ttft_ms=400, itl_ms=40, attainment=0.9), isl_tokens=128, osl_tokens=8)


def by_hand(ttft_ms=40.0, kv_tokens=1_000_000):
    prefill = tuple(PrefillPoint(isl, ttft_ms * isl / 1000, 1.0) for isl in (500, 1000, 2000))
    decode = tuple(DecodePoint(n * c / kv_tokens, c, 10 + n, n / (10 + n) * 1000) for c in (500, 1000, 2000) for n in (1, 4, 16))
    return Profile((PrefillMeasurement(TP1, prefill),), (DecodeMeasurement(TP1, decode, kv_tokens),), TP1, TP1)


# even load


def test_a_pair_loses_no_time_to_prefill():
    """ITL = 10 + r*0.1*ITL reaches 0.8*20 = 16 ms at r = 3.75 with n = 6."""
    load = even_load(by_hand(), BY_HAND, TP1, pair=True)
    assert (load.rate_rps, load.itl_ms, load.in_flight, load.prefill_share) == pytest.approx((3.75, 16, 6, 0), rel=1e-3)


def test_an_engine_that_does_both_stops_for_every_prompt():
    """ITL = (10 + r*0.1*ITL) / (1 - 0.04*r) reaches 16 ms where 0.14*r = 1 - 10/16: r = 2.679, n = 4.286, 10.7 % of the time goes to prefill."""
    load = even_load(by_hand(), BY_HAND, TP1, pair=False)
    assert (load.rate_rps, load.itl_ms, load.in_flight, load.prefill_share) == pytest.approx((2.6786, 16, 4.2857, 0.10714), rel=1e-3)


def test_prefill_never_takes_more_than_its_share():
    """A prompt of 1 s: not more than one in two seconds, although ITL has room: (10 + n) / (1 - 0.5) = 22.2 of 80 ms."""
    goal = Goal(Sla(2000, 100), 1000, 100)
    load = even_load(by_hand(ttft_ms=1000), goal, TP1, pair=False)
    assert load.rate_rps * 1.0 == pytest.approx(BUSY, rel=1e-3)
    assert load.itl_ms == pytest.approx(10 / (0.5 - 0.05), rel=1e-2)
    assert load.in_flight == pytest.approx(0.5 * 0.1 * load.itl_ms, rel=1e-3)


def test_what_the_kv_cache_does_not_hold_is_not_asked_for():
    """3300 tokens hold three requests of 1100: ITL 13 ms, r = 3 / (0.1*13) = 2.31."""
    load = even_load(by_hand(kv_tokens=3300), BY_HAND, TP1, pair=True)
    assert (load.in_flight, load.itl_ms, load.rate_rps) == pytest.approx((3, 13, 3 / 1.3), rel=1e-3)


def test_there_is_no_load_where_a_single_request_breaks_the_promise():
    assert even_load(by_hand(), Goal(Sla(100, 12), 1000, 100), TP1, pair=True) is None


def test_an_engine_whose_prefill_was_not_measured_is_taken_to_stop_as_long_as_the_picked_one():
    """A decode pick of experts: its own prefill has no curve, but its prompts stop it all the same."""
    known, unknown = even_load(by_hand(), BY_HAND, TP1, pair=False), even_load(by_hand(), BY_HAND, TP2, pair=False)
    assert unknown == known
    assert unknown.prefill_share > 0


# engines


def off(verification):
    """What is not as the profile says. A machine that is busy adds to the time of a short request."""
    slack = {"TTFT": 1.0, "ITL": 0.3}
    return [comparison for comparison in verification.comparisons if not -0.25 < comparison.difference < slack[comparison.what.split()[0]]]


@pytest.fixture
def slow(profile_with):
    """TTFT 30 ms, ITL 17 ms alone: far above what the client and a busy machine add."""
    return slowed(profile_with(tp=(1, 2)), 4)


@pytest.fixture
def verified(in_loop):
    def run(profile, launcher, goal=SLOW, pair=None, aiperf_dir=None):
        told = []
        pick = Pick(launcher, Deployment(profile.selected_prefill), Deployment(profile.selected_decode), pair, aiperf_dir)
        return in_loop(verify(profile, goal, pick, None, told.append)), told

    return run


def test_an_engine_that_follows_its_profile_is_found_to(engines, verified, slow):
    launcher = engines(slow)
    verification, told = verified(slow, launcher)
    assert launcher.started == ["TP1"]
    assert told[0] == "verifying TP1: starting"
    whats = [comparison.what for comparison in verification.comparisons]
    assert whats[:2] == ["TTFT of one request", "ITL of one request"]
    assert whats[2].startswith("TTFT at ")
    assert whats[3].endswith(" in flight")
    assert off(verification) == []
    assert (verification.failed, verification.inside) == (0, verification.requests)
    assert verification.requests >= 12
    assert verification.how.startswith("one TP1 engine for both phases; ISL 128, OSL 8; ")
    assert launcher.running == []


def test_an_engine_slower_than_its_profile_is_warned_about(engines, verified, slow):
    verification, _ = verified(slow, engines(slow, fleet={"model_error_percent": 60.0}), goal=ALONE)
    alone = verification.comparisons[1]
    assert alone.what == "ITL of one request"
    assert alone.difference == pytest.approx(0.6, abs=0.25)
    assert any(
        warning.startswith(f"ITL of one request: {alone.measured_ms:.4g} ms measured, {alone.profile_ms:.4g} ms by the profile, ")
        and warning.endswith(" % slower")
        for warning in verification.warnings
    )


def test_a_broken_promise_and_failed_requests_are_warned_about(engines, verified, slow):
    fault = json.dumps({"kind": "errors", "share": 0.34})
    verification, _ = verified(slow, engines(slow, faults=[fault]), goal=Goal(Sla(ttft_ms=1, itl_ms=18, attainment=0.9), 128, 8))
    assert 0 < verification.failed < verification.requests
    assert f"{verification.failed} of {verification.requests} requests failed" in verification.warnings
    assert f"0 of {verification.requests} requests kept the promise, 90 % are promised" in verification.warnings


def test_aiperf_is_asked_as_well_and_told_beside_ours(engines, verified, slow, tmp_path, monkeypatch):
    """The program is a stand-in that leaves a recorded file: TTFT 83.2 ms, ITL 11.6 ms, where the profile says 30 and 17."""
    program, artifacts = tmp_path / "bin" / "aiperf", tmp_path / "aiperf"
    program.parent.mkdir()
    leave = "import pathlib, shutil, sys; out = pathlib.Path(sys.argv[sys.argv.index('--artifact-dir') + 1]); out.mkdir(parents=True)"
    program.write_text(f"#!{sys.executable}\n{leave}; shutil.copy({str(RECORDED)!r}, out)\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    verification, told = verified(slow, engines(slow), goal=ALONE, aiperf_dir=artifacts)
    ttft, itl = verification.comparisons[-2:]
    assert (ttft.what, ttft.measured_ms) == ("TTFT of one request, by aiperf", 83.2)
    assert (itl.what, itl.measured_ms) == ("ITL of one request, by aiperf", 11.6)
    assert ttft.profile_ms == verification.comparisons[0].profile_ms
    assert any(warning.startswith("ITL of one request, by aiperf: 11.6 ms measured, 1") for warning in verification.warnings)
    assert "verifying TP1: one request at a time, by aiperf" in told
    assert (artifacts / RECORDED.name).is_file()


def test_two_picks_that_nobody_joins_are_looked_at_one_after_the_other(engines, verified, slow):
    profile = Profile(slow.prefill, slow.decode, TP2, TP1)
    launcher = engines(slow)
    verification, _ = verified(profile, launcher, goal=ALONE)
    assert launcher.started == ["TP1", "TP2"]
    whats = [comparison.what for comparison in verification.comparisons]
    assert [what for what in whats if "TTFT" in what] == ["TTFT of one request, TP2"]
    assert [what for what in whats if "ITL" in what] == ["ITL of one request"]
    assert verification.how.startswith("TP2 alone for TTFT, TP1 alone for ITL: the transfer of KV between them is not in it")
    ttft = verification.comparisons[0]
    assert ttft.profile_ms == pytest.approx(4 * (5 + 0.02 * 128) / 2, rel=0.01)


def test_a_pair_behind_one_port_is_verified_as_such(engines, verified, slow):
    both, pair = engines(slow), engines(slow, mode="disagg")
    verification, _ = verified(slow, both, pair=pair)
    assert (both.started, pair.started) == ([], ["TP1"])
    assert verification.how.startswith("the picked pair; ")
    assert off(verification) == []


def test_what_the_launcher_raises_is_raised(engines, verified, slow):
    with pytest.raises(EngineError, match="out of memory"):
        verified(slow, engines(slow, failing={"TP1": [EngineError("out of memory")]}))
