"""`risk` sizing of both roles from one observation: traffic becomes work, work becomes a level, level and remembered jumps become needs (`risk`).

prefill load   rate * prefill_s(ISL)                                            worker-seconds/s
decode load    what the running batches stand for, where the engines report them or a frontend counts requests in flight and queued; else
               rate * decode_s(ISL, OSL) smoothed over the mean residence OSL * ITL, because what is promised is a mean over a request's
               life. While prefill holds requests back, and until the wave of them is over (batches stand for no more than WAVE_OVER times the
               arriving work), arrivals too: a wave comes of a shortage of ours and is no jump of the traffic to be insured against.
backlog        prompts that wait for prefill, in worker-seconds: the queue gauge where there is one, else Little's law on what TTFT exceeds
               the promise by:  rate * (TTFT - promised TTFT) * prefill_s
in time        a queue up to IN_TIME * (promised TTFT - TTFT alone) * ready workers is no backlog: a looser promise lets more wait
late           what of the rest will still wait when workers launched now are ready:  backlog - in time + (level - ready) * start-up. It waits for
               decode next, as late * decode_s / prefill_s: once prefill has workers enough to catch up, all of it arrives at decode within a minute

Prefill load is averaged over `ABSORBED` promised TTFTs where intervals are shorter than that: a burst that a queue absorbs within the promise is no
jump, and the miss curve already counts how arrivals scatter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from sla_planner.model.engine import Engine
from sla_planner.plan.decision import Prediction, Reason, Role
from sla_planner.plan.forecast import forecast, observe
from sla_planner.plan.misses import Curve, decode_miss_curve, miss_share, prefill_miss_curve, within_reach
from sla_planner.plan.observation import Observation, TrafficWindow, ready_workers
from sla_planner.plan.risk import Horizon, RiskNeed, RoleCase, RoleLoad, budget_used, price_gpu_s, risk_need
from sla_planner.plan.settings import PlanSettings
from sla_planner.plan.sizing import RoleNeed, Sized
from sla_planner.plan.state import PlanState, RoleState
from sla_planner.plan.work import LengthMix, RequestWork, Slowness, decode_load_of_batch, request_work

DAY_S = 86_400.0
ABSORBED = 2.0
ALREADY_MISSED = 0.001
WAVE_OVER = 1.2  # times the arriving decode work
IN_TIME = 0.6  # of the time that a prompt may wait: a queue up to there is served within the promise


@dataclass(frozen=True, slots=True)
class _Seen:
    """The observation in units of work. `in_time_s`: how much of a backlog is served within the promise."""

    rate_rps: float
    prefill_load: float
    decode_load: float
    decode_arrivals: float
    backlog_s: float
    in_time_s: float
    batch_workers: float
    wave: bool


def size_by_risk(settings: PlanSettings, engine: Engine, state: PlanState, observation: Observation) -> tuple[Sized, PlanState]:
    """Needs of both roles, and the state that remembers this interval's loads. The fleet must be known."""
    assert observation.prefill is not None
    assert observation.decode is not None
    slowness = Slowness(state.prefill.calibration.factor, state.decode.calibration.factor) if settings.correction else Slowness()
    mix = state.mix or LengthMix(((1.0,), (1.0,)), ((1.0,), (1.0,)))  # nothing has ever run: any mix, the rate is zero
    work = within_reach(request_work(engine, settings.sla, mix, slowness), settings.sla)
    seen = _seen(observation, work, mix.osl_tokens, state)
    horizon = Horizon(settings.startup_s, settings.interval_s)
    price_of = _prices(settings, state, work, seen.rate_rps)
    roles = (
        (Role.PREFILL, state.prefill, observation.prefill, settings.prefill, seen.prefill_load, prefill_miss_curve(work)),
        (Role.DECODE, state.decode, observation.decode, settings.decode, seen.decode_load, decode_miss_curve(work)),
    )
    allowed = 1 - settings.sla.attainment
    needs, states, note = [], [], ""
    late_s = 0.0  # prefill work that will wait when workers launched now are ready
    for role, role_state, counts, limits, now, curve in roles:
        remembered, level, note = _remembered(role_state, now, seen.rate_rps, horizon)
        if role is Role.PREFILL and seen.backlog_s > seen.in_time_s:
            late_s = max(seen.backlog_s - seen.in_time_s + (level - counts.ready) * settings.startup_s, 0.0)
        load = RoleLoad(
            role=role,
            level=level,
            rate_rps=seen.rate_rps,
            ready=counts.ready,
            coming=counts.coming,
            gpus_per_worker=limits.gpus_per_worker,
            backlog_s=late_s if role is Role.PREFILL else late_s * work.decode_s / work.prefill_s,
            batch_workers=seen.batch_workers if role is Role.DECODE else 0.0,
        )
        need = risk_need(RoleCase(load, remembered.memory, curve, price_of[role], remembered.needs), horizon, allowed)
        needs.append((need, load, curve))
        states.append(replace(remembered, needs=(*remembered.needs, need.undipped)[-horizon.dip_intervals :]))
    sized = Sized(
        prefill=_role_need(*needs[0], allowed, held_back=late_s > 0, infeasible=work.prefill_infeasible),
        decode=_role_need(*needs[1], allowed, held_back=late_s > 0, infeasible=work.decode_infeasible),
        prediction=Prediction(
            request_rate_rps=seen.rate_rps,
            isl_tokens=mix.isl_tokens if state.mix else 0.0,
            osl_tokens=mix.osl_tokens if state.mix else 0.0,
            prefill_load=needs[0][0].high_load,
            decode_load=needs[1][0].high_load,
            horizon_s=settings.horizon_s,
            predictor=settings.predictor.value,
            note=note,
        ),
        prefill_correction=slowness.prefill,
        decode_correction=slowness.decode,
        miss_share=min(needs[0][0].miss_share + needs[1][0].miss_share + work.hopeless_share, 1.0),
        verdicts=work.verdicts + _extrapolations(engine, mix) if state.mix else (),
    )
    return sized, replace(
        state, prefill=states[0], decode=states[1], prefill_arrivals=seen.prefill_load, decode_arrivals=seen.decode_arrivals, wave=seen.wave
    )


def _prices(settings: PlanSettings, state: PlanState, work: RequestWork, rate_rps: float) -> dict[Role, float]:
    budget, attainment = state.budget, settings.sla.attainment
    used = budget_used(budget.misses, budget.requests, budget.requests / max(budget.seconds, 1.0) * DAY_S, attainment)
    usual_rps = max(budget.requests / budget.seconds if budget.seconds > 0 else rate_rps, 1e-3)
    standing_s = 1 / usual_rps
    requests_gpu_s = {
        Role.PREFILL: settings.prefill.gpus_per_worker * (work.prefill_s + standing_s),
        Role.DECODE: settings.decode.gpus_per_worker * (work.decode_s + standing_s),
    }
    return {role: price_gpu_s(role, request_gpu_s, attainment, used, settings.horizon_s) for role, request_gpu_s in requests_gpu_s.items()}


def _seen(observation: Observation, work: RequestWork, osl_tokens: float, state: PlanState) -> _Seen:
    traffic = observation.traffic
    prefill_ready, decode_ready = ready_workers(observation.prefill), ready_workers(observation.decode)
    rate_rps = traffic.request_rate_rps.value
    absorbed = min(traffic.window_s / (ABSORBED * work.ttft_target_ms / 1000), 1.0)
    prefill_load = _smoothed(state.prefill_arrivals, rate_rps * work.prefill_s, absorbed)
    residence_s = max(osl_tokens * work.itl_target_ms / 1000, 1e-3)
    arrivals = _smoothed(state.decode_arrivals, rate_rps * work.decode_s, 1 - math.exp(-traffic.window_s / residence_s))
    backlog_s = _backlog_s(traffic, work)
    in_time_s = IN_TIME * max(work.ttft_target_ms / 1000 - work.alone_s, 0.0) * max(prefill_ready, 1)
    decode_load, batch_workers, wave = arrivals, 0.0, False
    running = _running(traffic)
    if running is not None:
        batch_workers = running * work.batch_share
        held_back = backlog_s > in_time_s
        of_batch = decode_load_of_batch(work, running, decode_ready)
        wave = held_back or (state.wave and of_batch > WAVE_OVER * arrivals)
        decode_load = arrivals if wave else of_batch
    return _Seen(rate_rps, prefill_load, decode_load, arrivals, backlog_s, in_time_s, batch_workers, wave)


def _smoothed(before: float | None, value: float, gain: float) -> float:
    return value if before is None else before + gain * (value - before)


def _running(traffic: TrafficWindow) -> float | None:
    """Requests in decode batches; None where nobody counts them."""
    if traffic.running_decode_requests.known:
        return traffic.running_decode_requests.value
    if traffic.in_flight_requests.known and traffic.queued_prefill_requests.known:
        return max(traffic.in_flight_requests.value - traffic.queued_prefill_requests.value, 0.0)
    return None


def _backlog_s(traffic: TrafficWindow, work: RequestWork) -> float:
    if traffic.queued_prefill_requests.known:
        return traffic.queued_prefill_requests.value * work.prefill_s
    late_s = (traffic.ttft_ms.or_else(0.0) - work.ttft_target_ms) / 1000
    return max(traffic.request_rate_rps.value * late_s, 0.0) * work.prefill_s


def _remembered(state: RoleState, load: float, rate_rps: float, horizon: Horizon) -> tuple[RoleState, float, str]:
    """The role's state with this interval in it, the level believed in now, and what the predictor has to say about itself."""
    series = observe(state.series, load)
    expected = forecast(series, horizon.intervals)
    memory = state.memory.remember(load, expected.mean, rate_rps, interval_s=horizon.interval_s, horizon=horizon.intervals)
    return replace(state, series=series, memory=memory), expected.mean, expected.note


def _role_need(need: RiskNeed, load: RoleLoad, curve: Curve, allowed: float, *, held_back: bool, infeasible: bool) -> RoleNeed:
    present = max(load.level, 0.0)

    now_missed = float(miss_share(curve, present, load.coming))

    def holds(workers: int) -> bool:
        """The survivors keep the promise, or what they miss is missed already."""
        missed = float(miss_share(curve, present, workers))
        return not held_back and missed <= max(allowed, now_missed + ALREADY_MISSED)

    return RoleNeed(need.workers, Reason.INFEASIBLE if infeasible else need.reason, need.explanation, holds)


def _extrapolations(engine: Engine, mix: LengthMix) -> tuple[str, ...]:
    """Lengths beyond those that the profile measured: what is said of them is the laws', not a measurement."""
    said = []
    longest = engine.prefill.isl_range[1]
    longer = sum(share for tokens, share in zip(*mix.isl, strict=True) if tokens > longest)
    if longer > 0.01:
        said.append(f"{longer:.0%} of prompts are longer than the {longest:.0f} tokens that the profile measured: their TTFT is extrapolated")
    context, widest = mix.isl_tokens + mix.osl_tokens / 2, engine.decode.context_range[1]
    if context > widest:
        said.append(f"the mean context of {context:.0f} tokens is above the {widest:.0f} that the profile measured: its ITL is extrapolated")
    return tuple(said)
