"""The pure planner as a whole, on the shipped H200 profile: the situations in which the reference fails, and what is wanted instead."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sla_planner.model.engine import engine_of
from sla_planner.model.profile import slowed
from sla_planner.model.sla import Sla
from sla_planner.plan.calibration import Calibration
from sla_planner.plan.decision import Reason
from sla_planner.plan.observation import Observation, WorkerCounts
from sla_planner.plan.planner import decide, warm_up
from sla_planner.plan.settings import PlanSettings, RoleLimits, Sizing
from sla_planner.plan.state import new_state, state_from_json, state_to_json
from sla_planner.store.profile_files import read_profile, sample_profile_dir

MEAN = PlanSettings(sla=Sla(500, 10), sizing=Sizing.MEAN, interval_s=60, startup_s=60)
RISK = PlanSettings(sla=Sla(500, 10), interval_s=60, startup_s=60)


@pytest.fixture(scope="module")
def h200():
    return engine_of(read_profile(sample_profile_dir()), interpolation="as_measured")


@pytest.fixture(scope="module")
def h200_fitted():
    return engine_of(read_profile(sample_profile_dir()))


class Run:
    """Ticks of one target whose scale target obeys at once."""

    def __init__(self, engine, settings, window, prefill=1, decode=1):
        self.engine, self.settings, self.window = engine, settings, window
        self.fleet = (prefill, decode)
        self.starting = (0, 0)  # of them
        self.state = new_state(settings)
        self.at_s = 0.0

    def tick(self, **quantities):
        self.at_s += self.settings.interval_s
        traffic = self.window(self.at_s, self.settings.interval_s, **quantities)
        seen = Observation(traffic, *(WorkerCounts(count - late, late) for count, late in zip(self.fleet, self.starting, strict=True)))
        decision, self.state = decide(self.settings, self.engine, self.state, seen)
        self.fleet = (decision.prefill.desired, decision.decode.desired)
        return decision

    def chat(self, rate_rps, ttft_ms=62.0, itl_ms=9.0, isl=3000, osl=300, **more):
        """A minute of `rate_rps` requests per second, all finished. 3,000/300 at 60.459 ms TTFT is what the profile expects."""
        finished = rate_rps * self.settings.interval_s
        return self.tick(
            request_rate_rps=rate_rps,
            isl_tokens=isl,
            osl_tokens=osl,
            ttft_ms=ttft_ms,
            itl_ms=itl_ms,
            completed_requests=finished,
            request_duration_s=ttft_ms / 1000 + osl * itl_ms / 1000,
            ttft_attained=1.0 if ttft_ms < self.settings.sla.ttft_ms else 0.2,
            itl_attained=1.0 if itl_ms < self.settings.sla.itl_ms else 0.2,
            **more,
        )

    def idle(self):
        lengths = dict.fromkeys(("isl_tokens", "osl_tokens", "ttft_ms", "itl_ms", "request_duration_s"), "idle")
        return self.tick(request_rate_rps=0.0, completed_requests=0.0, in_flight_requests=0.0, **lengths)

    def outage(self):
        return self.tick()


def test_the_size_at_45_rps_is_the_references(h200, window):
    decision = Run(h200, replace(MEAN, correction=False), window).chat(45)
    assert (decision.prefill.desired, decision.decode.desired) == (3, 3)


@pytest.mark.parametrize("settings", [MEAN, RISK], ids=["mean", "risk"])
def test_an_outage_holds_and_says_so(h200, window, settings):
    run = Run(h200, settings, window)
    for _ in range(3):
        run.chat(45)
    before = run.fleet
    for age in (60.0, 120.0, 180.0):
        decision = run.outage()
        assert run.fleet == before
        assert decision.prefill.reason is Reason.UNKNOWN
        assert decision.data_age_s == age
        assert "traffic is unknown: not measured in this test" in decision.decode.explanation
        assert not decision.act


@pytest.mark.parametrize("settings", [MEAN, RISK], ids=["mean", "risk"])
def test_an_idle_system_goes_down_to_the_floor(h200, window, settings):
    run = Run(h200, settings, window)
    run.chat(45)
    assert run.fleet >= (3, 3)
    for _ in range(60):
        run.idle()
    assert run.fleet == (1, 1)


def test_a_queue_scales_prefill_up(h200_fitted, window):
    run = Run(h200_fitted, RISK, window)
    for _ in range(20):
        run.chat(15)
    run.fleet = (1, 1)  # someone took workers away, and prompts queue for 30 s
    decision = run.chat(15, ttft_ms=30_000)
    assert decision.prefill.desired >= 3
    assert decision.prefill.reason is Reason.BACKLOG
    assert "worker-seconds will be waiting" in decision.prefill.explanation


def test_prefix_cache_hits_reduce_prefill_by_a_bounded_amount(h200_fitted, window):
    run = Run(h200_fitted, RISK, window)
    for _ in range(5):
        run.chat(45)
    before = run.fleet[0]
    for _ in range(40):
        decision = run.chat(45, ttft_ms=10)
    assert before >= 3
    assert before / 2 <= run.fleet[0] < before
    assert decision.prefill_correction >= 0.5


@pytest.mark.parametrize("settings", [MEAN, RISK], ids=["mean", "risk"])
def test_an_unreachable_itl_is_said_and_sized_at_best_effort(h200, window, settings):
    run = Run(h200, replace(settings, sla=Sla(500, 3), max_gpu_budget=16), window)
    for _ in range(5):
        decision = run.chat(15, itl_ms=6.0)
        assert decision.decode.desired <= 4
        assert any("ITL 3 ms cannot be met" in verdict for verdict in decision.verdicts)
        assert decision.decode.reason is Reason.INFEASIBLE


def test_one_interval_of_bad_itl_does_not_blow_up(h200_fitted, window):
    run = Run(h200_fitted, RISK, window)
    for _ in range(5):
        run.chat(15)
    before = run.fleet[1]
    run.chat(15, itl_ms=97)
    assert run.fleet[1] <= before + 2


@pytest.mark.parametrize("settings", [MEAN, RISK], ids=["mean", "risk"])
def test_no_decode_worker_brings_decode_back(h200, window, settings):
    run = Run(h200, settings, window, prefill=1, decode=0)
    decision = run.chat(15)
    assert decision.decode.desired >= 1


def test_workers_that_are_starting_are_not_asked_for_again(h200_fitted, window):
    run = Run(h200_fitted, RISK, window)
    run.chat(45)
    asked = run.fleet
    traffic = run.window(120.0, 60.0, request_rate_rps=45, isl_tokens=3000, osl_tokens=300, completed_requests=2700, ttft_ms=62, itl_ms=9)
    fleet = (WorkerCounts(1, starting=asked[0] - 1), WorkerCounts(1, starting=asked[1] - 1))
    decision, _ = decide(RISK, h200_fitted, run.state, Observation(traffic, *fleet))
    assert (decision.prefill.desired, decision.decode.desired) == asked
    assert decision.prefill.reason is Reason.WARMING


def test_the_budget_binds_both_roles_and_is_named(h200_fitted, window):
    run = Run(h200_fitted, replace(RISK, max_gpu_budget=5), window)
    for _ in range(4):
        decision = run.chat(60)
    assert sum(run.fleet) == 5
    assert Reason.BUDGET in (decision.prefill.reason, decision.decode.reason)
    assert "the GPU budget allows" in decision.prefill.explanation + decision.decode.explanation


def test_requests_without_any_completion_hold(h200_fitted, window):
    run = Run(h200_fitted, RISK, window, prefill=2, decode=2)
    decision = run.tick(request_rate_rps=5.0, isl_tokens="idle", osl_tokens="idle", completed_requests=0.0)
    assert run.fleet == (2, 2)
    assert "none has finished" in decision.prefill.explanation


def test_up_at_once_and_down_one_by_one_after_the_grace_period(h200_fitted, window):
    run = Run(h200_fitted, RISK, window)
    run.chat(60)
    assert run.fleet[0] >= 4
    sizes = []
    for _ in range(80):
        run.chat(5)
        sizes.append(run.fleet[0])
    assert sizes[0] >= 4
    assert sizes[-1] <= 2
    steps = [before - after for before, after in itertools.pairwise(sizes)]
    assert max(steps) <= max(sizes) // 4
    assert sum(step > 0 for step in steps) >= 3
    assert min(steps) >= 0


def test_gpu_seconds_are_charged_for_what_ran(h200_fitted, window):
    settings = replace(RISK, prefill=RoleLimits(gpus_per_worker=2))
    run = Run(h200_fitted, settings, window, prefill=3, decode=4)
    run.outage()
    assert run.state.gpu_seconds == 0.0
    run.outage()
    assert run.state.gpu_seconds == pytest.approx((3 * 2 + 4) * 60)


@pytest.mark.parametrize("settings", [MEAN, RISK], ids=["mean", "risk"])
def test_a_restart_between_any_two_ticks_changes_nothing(h200_fitted, window, settings):
    whole, restarted = (Run(h200_fitted, settings, window) for _ in range(2))
    for rate in (5, 9, 40, 41, 3, 0.5, 30, 12):
        one, other = whole.chat(rate), restarted.chat(rate)
        assert one == other
        document = json.loads(json.dumps(state_to_json(restarted.state, settings, h200_fitted)))
        restarted.state, complaint = state_from_json(document, settings, h200_fitted)
        assert complaint == ""


def test_a_state_of_another_promise_or_profile_is_not_used(h200_fitted, window):
    run = Run(h200_fitted, RISK, window)
    run.chat(45)
    other = replace(RISK, sla=Sla(500, 20))
    state, complaint = state_from_json(state_to_json(run.state, RISK, h200_fitted), other, h200_fitted)
    assert len(run.state.prefill.memory.recent) == 1
    assert len(state.prefill.memory.recent) == 0
    assert complaint == "the saved state was made with another sla: starting afresh"
    slower = engine_of(slowed(read_profile(sample_profile_dir()), 2.0))
    assert state_from_json(state_to_json(run.state, RISK, h200_fitted), RISK, slower)[1].endswith("made with another profile: starting afresh")


def test_history_is_learned_without_deciding(h200_fitted, window):
    lengths = {"isl_tokens": 3000, "osl_tokens": 300, "completed_requests": 2700}
    history = [window(60.0 * i, 60.0, request_rate_rps=45, **lengths) for i in range(30)]
    state = warm_up(RISK, h200_fitted, new_state(RISK), history)
    assert len(state.prefill.series.history) == 30
    assert state.prefill.series.level.level == pytest.approx(45 * 0.06, rel=0.1)
    assert state.gpu_seconds == 0.0


@hypothesis_settings(max_examples=40, deadline=None)
@given(data=st.data(), sizing=st.sampled_from(Sizing), budget=st.integers(4, 40))
def test_whatever_is_seen_limits_hold_and_every_count_has_a_reason(toy_engine, window, data, sizing, budget):
    settings = replace(RISK, sizing=sizing, max_gpu_budget=budget, prefill=RoleLimits(1, 9, 2), decode=RoleLimits(2, 7, 1))
    run = Run(toy_engine, settings, window)
    number = st.one_of(st.floats(0, 1e6), st.just("idle"))
    for _ in range(data.draw(st.integers(1, 6))):
        named = data.draw(st.dictionaries(st.sampled_from(["isl_tokens", "osl_tokens", "ttft_ms", "itl_ms", "queued_prefill_requests"]), number))
        rate = data.draw(st.one_of(st.none(), st.floats(0, 1e4)))
        decision = run.tick(**named, **({} if rate is None else {"request_rate_rps": rate}))
        held = decision.prefill.reason is Reason.UNKNOWN
        if not held:
            assert 1 <= run.fleet[0] <= 9
            assert 2 <= run.fleet[1] <= 7
            assert run.fleet[0] * 2 + run.fleet[1] <= budget
        assert decision.prefill.explanation
        assert decision.decode.explanation


@pytest.mark.parametrize("factor", [1.0, 1.25])
def test_a_barely_feasible_ttft_neither_crashes_nor_gives_up_nor_blows_up(h200_fitted, window, factor):
    settings = replace(RISK, sla=Sla(70, 20))
    run = Run(h200_fitted, settings, window, prefill=3, decode=2)
    run.state = replace(run.state, prefill=replace(run.state.prefill, calibration=Calibration(factor, 50)))
    decision = run.chat(60, ttft_ms=400, queued_prefill_requests=1000)
    assert 4 <= decision.prefill.need <= 30  # 3.6 busy workers, 4.5 on the slower engine
    assert any("TTFT 70 ms" in verdict for verdict in decision.verdicts)


def test_sizes_change_little_where_a_ttft_becomes_infeasible(h200_fitted, window):
    needs = [Run(h200_fitted, replace(RISK, sla=Sla(ttft_ms, 20)), window).chat(60).prefill.need for ttft_ms in (55, 60, 61, 65, 80, 150)]
    assert max(needs[:-1]) <= 1.5 * min(needs[:-1])
    assert needs[-1] <= needs[0]


@pytest.mark.parametrize("attainment", [0.5, 0.8, 0.9, 0.95])
def test_a_loose_promise_still_carries_the_load(h200_fitted, window, attainment):
    run = Run(h200_fitted, replace(RISK, sla=Sla(500, 20, attainment)), window)
    for _ in range(5):
        decision = run.chat(100)
    assert decision.prefill.desired >= 4
    assert decision.decode.desired >= 3


def test_unresolved_attainment_is_no_kept_promise(h200_fitted, window):
    run = Run(h200_fitted, RISK, window)
    traffic = {"request_rate_rps": 15, "isl_tokens": 3000, "osl_tokens": 300, "completed_requests": 900, "ttft_ms": 5000, "itl_ms": 9}
    for _ in range(10):
        run.tick(**traffic)
    assert run.state.budget.requests == 0.0


def test_workers_that_cannot_be_placed_leave_their_gpus_to_the_other_role(h200_fitted, window):
    settings = replace(RISK, max_gpu_budget=8)
    run = Run(h200_fitted, settings, window)
    traffic = window(60.0, 60.0, request_rate_rps=5, isl_tokens=300, osl_tokens=3000, completed_requests=300, ttft_ms=40, itl_ms=9)
    seen = Observation(traffic, WorkerCounts(1, unschedulable=5), WorkerCounts(1))
    decision, _ = decide(settings, h200_fitted, run.state, seen)
    assert decision.decode.desired >= 2
    assert "5 prefill workers cannot be placed for 0 s now; given back after 300 s" in decision.verdicts


def test_a_clock_set_back_starts_the_grace_period_anew(h200_fitted, window):
    run = Run(h200_fitted, RISK, window)
    run.chat(60)
    run.at_s = 1e6
    for _ in range(3):
        run.chat(1)
    run.at_s -= 7200
    for _ in range(80):
        run.chat(1)
    assert run.fleet == (1, 1)


def test_what_the_profile_has_not_measured_is_said(h200_fitted, window):
    verdicts = Run(h200_fitted, RISK, window).chat(1, isl=20_000, osl=300, ttft_ms=450).verdicts
    assert "100% of prompts are longer than the 16372 tokens that the profile measured: their TTFT is extrapolated" in verdicts
    assert "the mean context of 20150 tokens is above the 13585 that the profile measured: its ITL is extrapolated" in verdicts
    assert Run(h200_fitted, RISK, window).chat(1).verdicts == ()


def test_a_worker_that_never_becomes_ready_is_replaced_and_named(h200_fitted, window):
    settings = replace(RISK, correction=False)  # workers that start teach nothing: both must know the same
    run, healthy = Run(h200_fitted, settings, window), Run(h200_fitted, settings, window)
    for _ in range(20):
        needed = [each.chat(45).decode.desired for each in (run, healthy)]
    run.starting = (0, 1)
    waited = [(run.chat(45).decode.desired, healthy.chat(45).decode.desired) for _ in range(3)]  # one of them starts, and starts
    assert waited == [tuple(needed)] * 3
    rising = [(run.chat(45 + 10 * step), healthy.chat(45 + 10 * step)) for step in range(1, 6)]
    assert [stuck.decode.desired - without.decode.desired for stuck, without in rising] == [1] * 5
    assert "1 decode worker has not become ready within 180 s: not counted on, see the events of the pods" in rising[-1][0].verdicts
    assert rising[-1][1].verdicts == ()


def test_what_waits_for_prefill_gets_decode_workers_too(h200_fitted, window):
    """Prefill catches up as soon as its new workers are ready, and the whole queue arrives at decode within a minute."""
    run = Run(h200_fitted, RISK, window)
    for _ in range(20):
        calm = run.chat(45, queued_prefill_requests=3, in_flight_requests=130)
    run.fleet = (1, calm.decode.desired)
    waiting = run.chat(45, queued_prefill_requests=4000, in_flight_requests=4127)
    assert waiting.prefill.reason is Reason.BACKLOG
    assert waiting.decode.reason is Reason.BACKLOG
    assert waiting.decode.desired > calm.decode.desired
    assert "will be waiting" in waiting.decode.explanation


def test_a_queue_that_is_gone_before_help_could_come_launches_nobody(h200_fitted, window):
    run = Run(h200_fitted, RISK, window)
    for _ in range(20):
        calm = run.chat(45, queued_prefill_requests=3, in_flight_requests=130)
    blip = run.chat(45, queued_prefill_requests=60, in_flight_requests=187)  # 4 worker-seconds for workers with a minute to spare
    assert (blip.prefill.desired, blip.decode.desired) == (calm.prefill.desired, calm.decode.desired)


def test_a_wave_of_what_prefill_held_back_is_not_remembered_as_a_jump(h200_fitted, window):
    run = Run(h200_fitted, RISK, window)

    def seen(queued, in_flight):
        run.fleet = (5, 7)  # nobody carries anything out
        return run.chat(45, queued_prefill_requests=queued, in_flight_requests=in_flight)

    for _ in range(20):
        calm = seen(3, 130)
    seen(4000, 4130)
    seen(3, 1500)  # all of it decodes at once
    assert run.state.wave
    seen(3, 130)
    assert not run.state.wave
    for _ in range(20):
        after = seen(3, 130)
    assert after.prediction.decode_load == pytest.approx(calm.prediction.decode_load, rel=0.1)
    grown = seen(3, 1500)  # without a queue before it, it is a jump
    assert not run.state.wave
    assert grown.prediction.decode_load > 1.5 * calm.prediction.decode_load
