"""Risk sizing: the number of workers that costs least when a missed promise has a price.

For one role let m(N) be the requests per second expected to miss the promise with N workers. It joins two things: how far load has been seen to rise
within one start-up (`jumps`: possible loads u with weights and request rates q_u) and what N workers lose at a load (`misses`: the curve phi):

    m(N) = sum over u of weight_u * q_u * phi(u / N)

A worker costs its GPUs every second; an avoided miss is worth `price` GPU-seconds. Then

    keep     argmin_N  g N + price m(N)                  with u = the highest load within the horizon
    launch   argmin_N  3 g N + price m'(N)               with u = loads a worker launched now arrives in time for; the 3 pays its start-up S
    need   = launch                        when that is more than what runs or is on its way
             max(launch, min(running, keep))     otherwise

so that a worker is harder to get than to hold. Four corrections follow, each of which can only raise the need:

    present  however cheap a miss is, the load that is there now must be carried: at most 5 % of it missed, or what the promise allows if that is more
    drain    work B that will wait when workers launched now are ready makes every arriving request miss until it is gone. Holding N extra workers for
             S + 60 s costs g N (S + 60) and shortens that to B / N:  N = load / r + sqrt(price q B / (g (S + 60))), r = the utilisation that loses
             20 %; at most 3 load + 1. What waits for prefill will wait for decode, as soon as more prefill workers let it through: both roles drain
    batch    decode: the requests that are running already need running * batch share workers; none is launched for them, they are over sooner
    dip      do not release below the 30 % quantile of the needs of the last 13 horizons: a lull is not a trend

Price. A request costs this role w GPU-seconds of work, and its share of the one worker that stands there anyway, g / usual requests per second; an
avoided miss is worth `PRICE[role]` times both, in proportion to how strict the promise is (1 % allowed misses = 1) and to what is left of the error
budget: with e = (misses - allowed) / (allowed in 24 h), times exp(2.5 e) clipped to [0.5, 4]. So it means the same for an 8 B and a 400 B model, and
for two workers and two hundred. What waited while workers were missing is late, too, and that weighs the more the shorter a start-up is: times
1 + min(`CATCH_UP_S` / horizon, 0.5), relative to the horizon that `PRICE` was found at. The aim is a little stricter than the promise (`AIM`):
one setting scatters between days.

The numbers are those that did best on three recorded days of LLM traffic (ServeGen), the same days rotated by 12 hours among them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sla_planner.plan.decision import Reason, Role
from sla_planner.plan.jumps import JumpMemory, Rises
from sla_planner.plan.misses import Curve, highest_load, miss_share
from sla_planner.plan.sizing import direction

PRICE = {Role.PREFILL: 34.0, Role.DECODE: 17.0}
LAUNCH_COST = 3.0
DRAIN_HOLD_S = 60.0
CATCH_UP_S = 20.0  # until a queue is gone, once workers are there
MOST_CATCH_UP = 0.5  # of the horizon
PRICED_AT_S = 135.0  # start-up and interval that `PRICE` was found at
BUDGET_GAIN = 2.5
BUDGET_CLIP = (0.5, 4.0)
AIM = 0.7  # share of the allowed misses that the price loop steers to
DRAIN_UTILISATION_MISSES = 0.2
PRESENT_MISSES = 0.05
NOTHING = 0.01  # of a worker
DIP_QUANTILE = 0.3
DIP_HORIZONS = 13
STRIDES = 64
AT_ONCE = 8  # sizes that are compared in one go


@dataclass(frozen=True, slots=True)
class RoleLoad:
    """One role now. Loads in worker-seconds/s; `backlog_s` worker-seconds that will wait when a worker launched now is ready; `batch_workers`
    workers that the running batch needs (decode)."""

    role: Role
    level: float
    rate_rps: float
    ready: int
    coming: int
    gpus_per_worker: int
    backlog_s: float = 0.0
    batch_workers: float = 0.0


@dataclass(frozen=True, slots=True)
class Horizon:
    """How far ahead a decision reaches."""

    startup_s: float
    interval_s: float

    @property
    def intervals(self) -> int:
        return max(math.ceil((self.startup_s + self.interval_s) / self.interval_s), 1)

    @property
    def dip_intervals(self) -> int:
        return DIP_HORIZONS * self.intervals


@dataclass(frozen=True, slots=True)
class RiskNeed:
    """`workers` before limits; `undipped` is the same without the dip floor, and is what later intervals remember. `miss_share` of the
    horizon's requests at that size."""

    workers: int
    undipped: int
    reason: Reason
    explanation: str
    miss_share: float
    high_load: float  # 99 % of the possible highest loads lie below


def price_gpu_s(role: Role, request_gpu_s: float, attainment: float, budget_used: float, horizon_s: float = PRICED_AT_S) -> float:
    """GPU-seconds that one avoided miss is worth. `request_gpu_s`: what a request costs this role, standing worker included; `budget_used`: e of the
    module docstring; `horizon_s`: start-up and interval."""
    loop = min(max(math.exp(min(BUDGET_GAIN * budget_used, 50.0)), BUDGET_CLIP[0]), BUDGET_CLIP[1])
    late_too = _late_too(horizon_s) / _late_too(PRICED_AT_S)
    return PRICE[role] * request_gpu_s * 0.01 / (1 - attainment) * loop * late_too


def _late_too(horizon_s: float) -> float:
    """Seconds in which requests miss per second without the workers; where they come at once, a queue is never long."""
    return 1 + min(CATCH_UP_S / horizon_s, MOST_CATCH_UP)


def budget_used(misses: float, requests: float, requests_per_day: float, attainment: float) -> float:
    """How far the misses so far are above what the promise allows, in days' worth of allowance (negative: below)."""
    allowed = AIM * (1 - attainment)
    return (misses - allowed * requests) / max(allowed * requests_per_day, 1e-9)


@dataclass(frozen=True, slots=True)
class RoleCase:
    """One role's load, what is remembered of it, and what a miss costs. `past_needs`: `RiskNeed.undipped` of earlier intervals, newest last."""

    load: RoleLoad
    memory: JumpMemory
    curve: Curve
    price: float
    past_needs: tuple[int, ...] = ()


def risk_need(case: RoleCase, horizon: Horizon, allowed_misses: float) -> RiskNeed:
    """The size of one role under the price rule. `allowed_misses`: share (0..1) that the promise lets miss."""
    load, memory, curve, price = case.load, case.memory, case.curve, case.price
    keep_rises = memory.keep(load.level, load.rate_rps, horizon=horizon.intervals)
    launch_rises = memory.launch(load.level, load.rate_rps)
    keep = cheapest(keep_rises, curve, load.gpus_per_worker, price)
    launch = cheapest(launch_rises, curve, load.gpus_per_worker * LAUNCH_COST, price)
    workers = launch if launch > load.coming else max(launch, min(load.coming, keep))
    reason = direction(workers, load.coming)
    notes = []
    present = math.ceil(load.level / highest_load(curve, max(allowed_misses, PRESENT_MISSES)) - NOTHING)
    if present > workers:
        workers, reason = present, direction(present, load.coming)
        notes.append("what is there now must be carried")
    if (drained := _drain(load, curve, price, horizon.startup_s)) > workers:
        workers, reason = drained, Reason.BACKLOG
        notes.append(f"{load.backlog_s:.1f} worker-seconds will be waiting")
    if (batch := min(math.ceil(load.batch_workers - 0.05), load.coming)) > workers:
        workers, reason = batch, Reason.BACKLOG
        notes.append(f"the running batch alone needs {load.batch_workers:.2f} workers")
    undipped = workers
    dip = _dip_floor(case.past_needs, horizon.dip_intervals)
    if workers < dip:
        workers = min(dip, max(load.coming, workers))
        reason = direction(workers, load.coming)
        notes.append(f"at least {dip} were needed {1 - DIP_QUANTILE:.0%} of the last {_duration(horizon.dip_intervals * horizon.interval_s)}")
    here, below = _missed(keep_rises, curve, workers)
    high = keep_rises.quantile(0.99)
    within = _duration(horizon.startup_s + horizon.interval_s)
    misses = f"{workers} would miss {here:.2%} of requests, {workers - 1} {below:.2%}: " if workers > 0 else ""
    text = f"{misses}{load.level:.2f} workers' load, seen to reach {high:.2f} within {within}"
    return RiskNeed(workers, undipped, reason, "; ".join([text, *notes]), here, high)


def cheapest(rises: Rises, curve: Curve, worker_cost: float, price: float) -> int:
    """argmin over N of worker_cost * N + price * (misses per second with N workers)."""
    stakes = price * rises.weight * rises.rate_rps

    def costs(workers: range) -> npt.NDArray[np.float64]:
        return worker_cost * np.arange(workers.start, workers.stop, workers.step) + missed_rps(stakes, curve, rises.load, workers)

    stride = max(1, int(rises.load[-1] / STRIDES))  # a large fleet is searched in strides that get shorter
    best, least, first = 0, float(stakes.sum()), 0
    while worker_cost * first < least:
        candidates = range(first, first + AT_ONCE * stride, stride)
        here = costs(candidates)
        lowest = int(here.argmin())
        if here[lowest] < least:
            best, least = candidates[lowest], float(here[lowest])
        first = candidates.stop
    while stride > 1:
        stride, reach = max(1, stride // 8), stride
        candidates = range(max(best - reach, 0), best + reach + 1, stride)
        best = candidates[int(costs(candidates).argmin())]
    return best


def missed_rps(stakes: npt.NDArray[np.float64], curve: Curve, load: npt.NDArray[np.float64], workers: range) -> npt.NDArray[np.float64]:
    """What is lost of `stakes`, one per possible `load`, with each number of workers."""
    counts = np.arange(workers.start, workers.stop, workers.step)
    lost: npt.NDArray[np.float64] = miss_share(curve, load, np.maximum(counts, 1)[:, None]) @ stakes
    if counts[0] == 0:
        lost[0] = miss_share(curve, load, 0) @ stakes
    return lost


def _missed(rises: Rises, curve: Curve, workers: int) -> tuple[float, float]:
    """Expected share of the horizon's requests that miss, with `workers` and with one fewer."""
    stakes = rises.weight * rises.rate_rps
    at_stake = float(stakes.sum())
    lost = missed_rps(stakes, curve, rises.load, range(max(workers - 1, 0), workers + 1)) / at_stake if at_stake > 0 else np.zeros(2)
    return float(lost[-1]), float(lost[0])


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _drain(load: RoleLoad, curve: Curve, price: float, startup_s: float) -> int:
    if load.backlog_s <= 0:
        return 0
    extra = math.sqrt(price * load.rate_rps * load.backlog_s / (load.gpus_per_worker * (startup_s + DRAIN_HOLD_S)))
    wanted = load.level / highest_load(curve, DRAIN_UTILISATION_MISSES) + extra
    return math.ceil(min(wanted, 3 * load.level + 1))


def _dip_floor(past_needs: tuple[int, ...], intervals: int) -> int:
    recent = sorted(past_needs[-intervals:])
    return recent[int(DIP_QUANTILE * (len(recent) - 1))] if recent else 0
