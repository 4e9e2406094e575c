"""The one entry: state + observation + settings -> decision + state. What runs in production and what a simulator runs is this function.

    known?      no  -> hold both roles, say what is unknown and for how long
                yes -> learn       lengths, error budget, calibration, loads, jumps
                       size        `mean` or `risk`: what each role needs, and why
                       steady      up at once, down late and gently
                       limit       per-role bounds, the GPU budget and what the cluster has room for, both roles together
                       explain     every role's count with its reason, also when nothing changes

Nothing here measures, writes or waits; time is `observation.traffic.at_s`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from sla_planner.model.engine import Engine
from sla_planner.plan.budget import fit
from sla_planner.plan.decision import Decision, Reason, Role, RoleDecision
from sla_planner.plan.learning import learned, seconds_charged
from sla_planner.plan.observation import Kind, Observation, TrafficWindow, WorkerCounts
from sla_planner.plan.room import Sight, room_seen, room_verdict, within_room
from sla_planner.plan.settings import PlanSettings, RoleLimits, Sizing
from sla_planner.plan.size_mean import size_by_mean
from sla_planner.plan.size_risk import size_by_risk
from sla_planner.plan.sizing import RoleNeed, Sized
from sla_planner.plan.stability import MOST_TURNS, Below, Steadied, steady
from sla_planner.plan.state import PlanState, RoleState
from sla_planner.plan.stuck import stuck_verdict, without

_SIZES = {Sizing.MEAN: size_by_mean, Sizing.RISK: size_by_risk}


LONGEST_WINDOW = 4  # intervals; after a pause the planner looks at the recent past only


def window_s(settings: PlanSettings, state: PlanState, now_s: float) -> float:
    """How long the window of traffic is that a decision at `now_s` wants to see: all since the last one."""
    if state.last_at_s is None:
        return settings.interval_s
    return min(max(now_s - state.last_at_s, 1e-3), LONGEST_WINDOW * settings.interval_s)


def decide(settings: PlanSettings, engine: Engine, state: PlanState, observation: Observation) -> tuple[Decision, PlanState]:
    """One decision for both roles, and the state for the next. Never raises for anything that can be observed."""
    state = _fleet_seen(seconds_charged(state, settings, observation), settings, observation)
    unknown = _unknown(observation)
    if unknown or observation.prefill is None or observation.decode is None:
        return _hold(settings, state, observation, unknown)
    fleet = (observation.prefill, observation.decode)
    stuck = tuple(each.starting.stuck(observation.traffic.at_s, settings.startup_s) for each in (state.prefill, state.decode))
    if any(stuck):
        observation = replace(observation, prefill=without(fleet[0], stuck[0]), decode=without(fleet[1], stuck[1]))
    state = learned(settings, engine, state, observation)
    if state.mix is None and observation.traffic.request_rate_rps.value > 0:
        lengths = observation.traffic.isl_tokens
        missing = "none has finished" if lengths.kind is Kind.IDLE else f"their lengths are unknown ({lengths.why})"
        return _hold(settings, state, observation, f"requests arrive, but {missing}")
    sized, state = _SIZES[settings.sizing](settings, engine, state, observation)
    if any(stuck):
        sized = _in_place_of(stuck, sized, settings.startup_s)
    return _decided(settings, state, observation.traffic, sized, fleet)


def warm_up(settings: PlanSettings, engine: Engine, state: PlanState, history: Iterable[TrafficWindow]) -> PlanState:
    """The state after watching `history` (oldest first) without deciding anything."""
    for traffic in history:
        observation = Observation(traffic, WorkerCounts(1), WorkerCounts(1))
        if not _unknown(observation):
            state = learned(settings, engine, state, observation)
            if state.mix is not None:
                _, state = _SIZES[settings.sizing](settings, engine, state, observation)
    return replace(state, gpu_seconds=0.0, last_at_s=None, known_at_s=None)


def _fleet_seen(state: PlanState, settings: PlanSettings, observation: Observation) -> PlanState:
    """Whether workers can be placed and become ready is seen on the fleet, also while traffic is unknown."""
    prefill, decode, at_s = observation.prefill, observation.decode, observation.traffic.at_s
    if prefill is None or decode is None:
        return state
    gpus = (settings.prefill.gpus_per_worker, settings.decode.gpus_per_worker)
    return replace(
        state,
        prefill=_role_seen(state.prefill, Sight(prefill, decode, gpus[0], gpus[1], at_s), settings),
        decode=_role_seen(state.decode, Sight(decode, prefill, gpus[1], gpus[0], at_s), settings),
    )


def _role_seen(state: RoleState, sight: Sight, settings: PlanSettings) -> RoleState:
    room = room_seen(state.room, sight, settings.unschedulable_limit_s)
    starting = state.starting.after(sight.counts, sight.at_s, settings.startup_s)
    return state if (room, starting) == (state.room, state.starting) else replace(state, room=room, starting=starting)


def _in_place_of(stuck: tuple[int, ...], sized: Sized, startup_s: float) -> Sized:
    """As many workers more as are stuck, and said."""
    told = (stuck_verdict(role, each, startup_s) for role, each in zip(Role, stuck, strict=True))
    return replace(
        sized,
        prefill=replace(sized.prefill, workers=sized.prefill.workers + stuck[0]),
        decode=replace(sized.decode, workers=sized.decode.workers + stuck[1]),
        verdicts=(*sized.verdicts, *filter(None, told)),
    )


def _unknown(observation: Observation) -> str:
    """Why no decision can be made; empty when one can."""
    if not observation.traffic.request_rate_rps.known:
        return f"traffic is unknown: {observation.traffic.request_rate_rps.why}"
    if observation.prefill is None or observation.decode is None:
        return "the number of workers is unknown"
    return ""


def _hold(settings: PlanSettings, state: PlanState, observation: Observation, why: str) -> tuple[Decision, PlanState]:
    """Nothing changes, except that a fleet below its configured minimum is brought up to it; the grace period starts anew, since nobody saw whether
    the need stayed low."""
    traffic = observation.traffic
    roles = []
    for role, counts, role_state, limits in (
        (Role.PREFILL, observation.prefill, state.prefill, settings.prefill),
        (Role.DECODE, observation.decode, state.decode, settings.decode),
    ):
        current = counts.total if counts is not None else (role_state.asked or 0)
        if counts is not None and observation.prefill and observation.decode and current < limits.min_workers:
            text = f"{limits.min_workers} is the configured minimum; beyond it, {why}"
            roles.append(RoleDecision(role, current, limits.min_workers, limits.min_workers, Reason.FLOOR, text))
        else:
            roles.append(RoleDecision(role, current, current, current, Reason.UNKNOWN, f"holding {current}: {why}"))
    age_s = 0.0 if state.known_at_s is None else max(traffic.at_s - state.known_at_s, 0.0)
    decision = Decision(traffic.at_s, roles[0], roles[1], None, data_age_s=age_s)
    return decision, replace(state, prefill=replace(state.prefill, below=Below()), decode=replace(state.decode, below=Below()))


def _decided(
    settings: PlanSettings, state: PlanState, traffic: TrafficWindow, sized: Sized, fleet: tuple[WorkerCounts, WorkerCounts]
) -> tuple[Decision, PlanState]:
    """Stability, limits and words."""
    needs = (_bounded(sized.prefill, settings.prefill), _bounded(sized.decode, settings.decode))
    steadied = (
        _steadied(settings, sized, needs[0], fleet[0], state.prefill, traffic.at_s),
        _steadied(settings, sized, needs[1], fleet[1], state.decode, traffic.at_s),
    )
    rooms = (state.prefill.room, state.decode.room)
    fitted = fit(
        need=(steadied[0].desired, steadied[1].desired),
        limits=(within_room(settings.prefill, rooms[0], traffic.at_s), within_room(settings.decode, rooms[1], traffic.at_s)),
        max_gpu_budget=settings.max_gpu_budget,
        running=(fleet[0].coming, fleet[1].coming),  # what cannot be placed holds no GPU
    )
    prefill = _role(
        Role.PREFILL, fleet[0], needs[0], steadied[0], fitted.prefill, _limit(fitted.prefill_limited_by, settings.prefill, fitted.prefill)
    )
    decode = _role(Role.DECODE, fleet[1], needs[1], steadied[1], fitted.decode, _limit(fitted.decode_limited_by, settings.decode, fitted.decode))
    told = (room_verdict(*each, traffic.at_s, settings.unschedulable_limit_s) for each in zip((prefill, decode), fleet, rooms, strict=True))
    decision = Decision(
        at_s=traffic.at_s,
        prefill=prefill,
        decode=decode,
        prediction=sized.prediction,
        prefill_correction=sized.prefill_correction,
        decode_correction=sized.decode_correction,
        expected_miss_share=sized.miss_share,
        verdicts=(*sized.verdicts, *filter(None, told)),
    )
    return decision, replace(
        state,
        prefill=_after(state.prefill, steadied[0].below, prefill, traffic.at_s),
        decode=_after(state.decode, steadied[1].below, decode, traffic.at_s),
    )


def _after(state: RoleState, below: Below, decision: RoleDecision, at_s: float) -> RoleState:
    return replace(state, below=below, asked=decision.desired, turns=state.turns.after(decision.desired - decision.current, at_s))


def _bounded(need: RoleNeed, limits: RoleLimits) -> RoleNeed:
    """The need within the role's own minimum; stability must not wait for what may never happen."""
    if need.workers >= limits.min_workers:
        return need
    text = f"{need.explanation}; {limits.min_workers} is the configured minimum"
    reason = need.reason if need.reason is Reason.INFEASIBLE else Reason.FLOOR
    return replace(need, workers=limits.min_workers, reason=reason, explanation=text)


def _steadied(settings: PlanSettings, sized: Sized, need: RoleNeed, counts: WorkerCounts, state: RoleState, at_s: float) -> Steadied:
    if not sized.gradual and settings.grace_s is None:
        return Steadied(need.workers, state.below)
    steadied = steady(need.workers, counts.total, state.below, at_s=at_s, grace_s=settings.effective_grace_s, survivors_hold=need.holds)
    if steadied.desired < counts.total and state.turns.too_many(at_s):
        text = f"{steadied.desired} would do; no worker leaves after {MOST_TURNS} changes of direction within an hour"
        return Steadied(counts.total, steadied.below, Reason.GRACE, text)
    return steadied


def _role(role: Role, counts: WorkerCounts, need: RoleNeed, steadied: Steadied, granted: int, limited_by: Reason | None) -> RoleDecision:
    reason, clauses = need.reason, [need.explanation]
    if counts.ready < granted <= counts.coming and counts.starting and granted == counts.total:
        reason = Reason.WARMING
        clauses.append(f"{counts.starting} of {granted} are starting")
    if steadied.reason is not None:
        reason = steadied.reason
        clauses.append(steadied.explanation)
    if limited_by is not None and not (limited_by is Reason.FLOOR and need.reason is Reason.FLOOR):
        reason = limited_by
        clauses.append(_LIMITS[limited_by].format(granted=granted, wanted=steadied.desired))
    if need.reason is Reason.INFEASIBLE:  # whatever else holds, this is what a person must hear
        reason = need.reason
    return RoleDecision(role, counts.total, need.workers, granted, reason, "; ".join(clause for clause in clauses if clause))


_LIMITS = {
    Reason.FLOOR: "{granted} is the configured minimum",
    Reason.CEILING: "{wanted} needed, {granted} is the configured maximum",
    Reason.BUDGET: "{wanted} needed, the GPU budget allows {granted}",
    Reason.NO_ROOM: "{wanted} needed, the cluster has had room for {granted}",
}


def _limit(limited_by: Reason | None, limits: RoleLimits, granted: int) -> Reason | None:
    """A maximum that nobody configured is the cluster's."""
    return Reason.NO_ROOM if limited_by is Reason.CEILING and granted != limits.max_workers else limited_by
