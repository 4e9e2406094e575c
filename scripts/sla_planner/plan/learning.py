"""What every known interval teaches, whichever sizing is used: lengths, how much of the error budget is spent, how the engine compares with its
profile, and what the fleet has cost.

    lengths        `work.mixed`, over as many requests as tell their mean prefill work to within `WORK_ERROR`: where few long prompts hold most of the
                   tokens, one interval says little about the mean
    error budget   misses = finished * min(1, (1 - share within TTFT) + (1 - share within ITL))      the two shares do not say which requests overlap;
                         where a frontend counts gaps between tokens and not requests (Dynamo), the share within ITL is one of gaps
                   both sums fade with a time constant of `BUDGET_MEMORY_S`, so that last week's outage is forgiven
    calibration    `calibration`, per role
    cost           GPU-seconds = workers that hold a GPU * GPUs per worker * time since the last tick
"""

from __future__ import annotations

import math
from dataclasses import replace

from sla_planner.model.engine import Engine
from sla_planner.plan.calibration import Calibration, calibrate_decode, calibrate_prefill
from sla_planner.plan.observation import Observation, TrafficWindow, WorkerCounts
from sla_planner.plan.settings import PlanSettings
from sla_planner.plan.state import ErrorBudget, PlanState, RoleState
from sla_planner.plan.work import MIX_REQUESTS, mixed, prompt_work

BUDGET_MEMORY_S = 3 * 86_400.0
WORK_ERROR = 0.05


def seconds_charged(state: PlanState, settings: PlanSettings, observation: Observation) -> PlanState:
    """The state with the GPU-seconds since the last tick charged; workers that cannot be placed hold no GPU."""
    at_s = observation.traffic.at_s
    elapsed_s = 0.0 if state.last_at_s is None else max(at_s - state.last_at_s, 0.0)
    gpus = _holding(observation.prefill, state.prefill.asked) * settings.prefill.gpus_per_worker
    gpus += _holding(observation.decode, state.decode.asked) * settings.decode.gpus_per_worker
    return replace(state, last_at_s=at_s, gpu_seconds=state.gpu_seconds + gpus * elapsed_s)


def _holding(counts: WorkerCounts | None, asked: int | None) -> int:
    return counts.coming if counts is not None else (asked or 0)


def learned(settings: PlanSettings, engine: Engine, state: PlanState, observation: Observation) -> PlanState:
    """The state after a window whose traffic is known."""
    traffic = observation.traffic
    mix = mixed(state.mix, traffic, _telling_requests(engine, state))
    prefill, decode = state.prefill, state.decode
    if mix is not None and settings.correction:
        work = prompt_work(engine, mix)
        prefill = _calibrated(prefill, calibrate_prefill(prefill.calibration, observation, work))
        decode = _calibrated(decode, calibrate_decode(decode.calibration, observation, engine))
    return replace(state, prefill=prefill, decode=decode, mix=mix, budget=_spent(state.budget, traffic), known_at_s=traffic.at_s)


def _calibrated(state: RoleState, calibration: Calibration) -> RoleState:
    return state if calibration is state.calibration else replace(state, calibration=calibration)


def _telling_requests(engine: Engine, state: PlanState) -> float:
    """How many requests tell the mean prefill work of one to within `WORK_ERROR`: the squared variation of a request's over the squared error."""
    if state.mix is None:
        return MIX_REQUESTS
    work = prompt_work(engine, state.mix)
    variation = work.prefill_s2 / work.prefill_s**2 - 1
    return max(variation / WORK_ERROR**2, MIX_REQUESTS)


def _spent(budget: ErrorBudget, traffic: TrafficWindow) -> ErrorBudget:
    if not (traffic.ttft_attained.known and traffic.itl_attained.known and traffic.completed_requests.known):
        return budget
    faded = math.exp(-traffic.window_s / BUDGET_MEMORY_S)
    finished = traffic.completed_requests.value
    late = min((1 - traffic.ttft_attained.value) + (1 - traffic.itl_attained.value), 1.0)
    return ErrorBudget(budget.requests * faded + finished, budget.misses * faded + finished * late, budget.seconds * faded + traffic.window_s)
