"""Who enters a contest, by name.

    slaplanner           the production planner, as it is set
    static               the cheapest fleet that never changes
    hpa, threshold       the best of a grid;   hpa-customary, threshold-customary: as people set them
    dynamo06             Dynamo 0.6's planner as it is shipped;   dynamo06-headroom: with the smallest constant headroom that reaches the goal
    clairvoyant          knows every request, waits for start-ups like everybody
    fluid-bound          no run: what the work alone costs

"Best" and "cheapest" are found on the very traffic (`hindsight`). No autoscaler may grow a role beyond `MOST_OF_STATIC` times the static fleet: a
queue that builds up during a start-up would drive it without bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from sla_planner.simulate.bound import fluid_bound
from sla_planner.simulate.causes import causes
from sla_planner.simulate.contest import Contest, Contestant, Entry, Knows
from sla_planner.simulate.hindsight import Ladder, Space, cheapest
from sla_planner.simulate.policies.clairvoyant import BIN_S, Clairvoyant, Margin, schedule
from sla_planner.simulate.policies.dynamo06 import Dynamo06, Headroom
from sla_planner.simulate.policies.hpa import Hpa, Metric, Target
from sla_planner.simulate.policies.planner import Planner
from sla_planner.simulate.policies.static import Static
from sla_planner.simulate.policies.threshold import CUSTOMARY_KV, CUSTOMARY_QUEUE, Threshold, Thresholds
from sla_planner.simulate.policy import Policy, Workers
from sla_planner.simulate.run import Scenario, run
from sla_planner.simulate.score import score
from sla_planner.simulate.true_work import bins_of, true_work

S = TypeVar("S")

MOST_OF_STATIC = 1.5

HPA_PREFILL = (
    (Metric.UTILISATION, tuple(round(0.9 - 0.05 * step, 2) for step in range(15))),  # 0.9 .. 0.2
    (Metric.WAITING, (32.0, 16.0, 8.0, 4.0, 2.0, 1.0, 0.5)),
    (Metric.UNANSWERED, (64.0, 32.0, 16.0, 8.0, 4.0, 2.0, 1.0)),
)
HPA_DECODE = (
    (Metric.KV_USAGE, (0.8, 0.7, 0.6, 0.5, 0.4, 0.35, 0.3, 0.25, 0.2, 0.17, 0.15, 0.13, 0.11, 0.1, 0.09, 0.08, 0.07, 0.06, 0.05, 0.04)),
    (Metric.RUNNING, (512.0, 384.0, 256.0, 192.0, 160.0, 128.0, 112.0, 96.0, 80.0, 64.0, 56.0, 48.0, 40.0, 32.0, 24.0, 16.0, 8.0)),
)
CUSTOMARY_UTILISATION, CUSTOMARY_KV_USAGE = Target(Metric.UTILISATION, 0.6), Target(Metric.KV_USAGE, 0.7)
HEADROOMS = tuple(round(1.0 + 0.1 * step, 1) for step in range(41))  # 1.0 .. 5.0
THRESHOLD_LOOPS_S = (60.0, 15.0)
THRESHOLD_QUEUES = (5.0, 3.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02)  # spare may shrink until so many wait per worker: limit - trigger
THRESHOLD_KV = (0.8, 0.6, 0.4, 0.3, 0.25, 0.2, 0.15, 0.11, 0.08, 0.05, 0.03)  # limit; the trigger is the customary share of it
CLAIRVOYANT_A = tuple(round(0.6 + 0.025 * step, 3) for step in range(77))  # 0.6 .. 2.5
CLAIRVOYANT_B = (0.0, 0.25)


def slaplanner(contest: Contest) -> Entry:
    return of_planner(contest, Planner(contest.plan, contest.scenario.engine, remember=True))


def of_planner(contest: Contest, planner: Planner) -> Entry:
    """A planner that remembers its decisions, as it is."""
    entry = _as_it_is(contest, planner)
    assert entry.result is not None
    return replace(entry, causes=causes(contest.scenario, entry.result, contest.plan.sla, planner.decisions))


def static(contest: Contest) -> Entry:
    fleet, tried = _static_fleet(contest)
    from_the_start = replace(contest, scenario=replace(contest.scenario, start=_start(contest.scenario, fleet)))
    return replace(_as_it_is(from_the_start, Static(fleet)), knows=Knows.HINDSIGHT, tried=tried)


def hpa(contest: Contest) -> Entry:
    most = _most(contest)
    return cheapest(
        contest,
        Space(
            "hpa",
            prefill=[_middle([Target(metric, value) for value in values]) for metric, values in HPA_PREFILL],
            decode=[_middle([Target(metric, value) for value in values]) for metric, values in HPA_DECODE],
            policy=lambda prefill, decode: Hpa(prefill, decode, most),
        ),
    )


def hpa_customary(contest: Contest) -> Entry:
    return _as_it_is(contest, Hpa(CUSTOMARY_UTILISATION, CUSTOMARY_KV_USAGE, _most(contest), name="hpa-customary"))


def dynamo06(contest: Contest) -> Entry:
    return _as_it_is(contest, Dynamo06(contest.plan, contest.dynamo_engine or contest.scenario.engine))


def dynamo06_headroom(contest: Contest) -> Entry:
    name, engine = "dynamo06-headroom", contest.dynamo_engine or contest.scenario.engine

    def policy(prefill: float, decode: float) -> Policy:
        return Dynamo06(contest.plan, engine, Headroom(prefill, decode), name=name)

    headrooms = Ladder(HEADROOMS, HEADROOMS.index(2.0))
    return cheapest(contest, Space(name, prefill=[headrooms], decode=[headrooms], policy=policy))


def threshold(contest: Contest) -> Entry:
    most = _most(contest)
    kv_limit, kv_trigger = CUSTOMARY_KV
    _, queue_trigger = CUSTOMARY_QUEUE
    queues = [(waiting + queue_trigger, queue_trigger) for waiting in THRESHOLD_QUEUES]
    caches = [(limit, kv_trigger / kv_limit * limit) for limit in THRESHOLD_KV]
    return cheapest(
        contest,
        Space(
            "threshold",
            prefill=[_middle([Thresholds(queue=queue, loop_s=loop_s) for queue in queues]) for loop_s in THRESHOLD_LOOPS_S],
            decode=[_middle([Thresholds(kv=kv, loop_s=loop_s) for kv in caches]) for loop_s in THRESHOLD_LOOPS_S],
            policy=lambda prefill, decode: Threshold(prefill, decode, most),
        ),
    )


def threshold_customary(contest: Contest) -> Entry:
    return _as_it_is(contest, Threshold(Thresholds(), Thresholds(kv=CUSTOMARY_KV), _most(contest), name="threshold-customary"))


def clairvoyant(contest: Contest) -> Entry:
    scenario = contest.scenario
    work, bins = true_work(scenario, contest.plan.sla), bins_of(scenario, BIN_S)
    prefill_load, decode_load = work.prefill_load(BIN_S, bins), work.decode_load(BIN_S, bins)
    startup_s = scenario.options.startup.mean_s

    def policy(prefill: Margin, decode: Margin) -> Policy:
        schedules = schedule(prefill_load, prefill, startup_s), schedule(decode_load, decode, startup_s)
        return Clairvoyant(*schedules, (prefill, decode))

    ladders = [Ladder([Margin(a, b) for a in CLAIRVOYANT_A], CLAIRVOYANT_A.index(1.0 - b)) for b in CLAIRVOYANT_B]
    return cheapest(contest, Space("clairvoyant", prefill=ladders, decode=ladders, policy=policy, knows=Knows.FUTURE))


CONTESTANTS: Mapping[str, Contestant] = {
    "slaplanner": slaplanner,
    "static": static,
    "hpa": hpa,
    "hpa-customary": hpa_customary,
    "dynamo06": dynamo06,
    "dynamo06-headroom": dynamo06_headroom,
    "threshold": threshold,
    "threshold-customary": threshold_customary,
    "clairvoyant": clairvoyant,
    "fluid-bound": fluid_bound,
}


def _as_it_is(contest: Contest, policy: Policy) -> Entry:
    """One run, nothing searched."""
    scenario = contest.scenario
    result = run(scenario, policy, _share_of_day(contest, policy.name))
    judged = score(scenario, result, contest.plan.sla)
    contest.progress(policy.name, 1.0)
    return Entry(policy.name, Knows.PAST, policy.settings, judged, judged.attainment >= contest.goal, result=result)


def _share_of_day(contest: Contest, name: str) -> Callable[[float], None]:
    end_s = max(contest.scenario.end_s, 1.0)
    return lambda at_s: contest.progress(name, min(at_s / end_s, 1.0))


def _middle(settings: Sequence[S]) -> Ladder[S]:
    return Ladder(settings, len(settings) // 2)


def _most(contest: Contest) -> Workers:
    fleet, _ = _static_fleet(contest)
    return Workers(math.ceil(MOST_OF_STATIC * fleet.prefill), math.ceil(MOST_OF_STATIC * fleet.decode))


@lru_cache(maxsize=1)
def _static_fleet(contest: Contest) -> tuple[Workers, int]:
    """The cheapest constant fleet that reaches the goal, or comes nearest, and how many runs it took. Asked for by several contestants in a row."""
    work, bins = true_work(contest.scenario, contest.plan.sla), bins_of(contest.scenario, BIN_S)
    arrivals = np.bincount((work.arrival_s // BIN_S).astype(np.int64), minlength=bins)[:bins]
    space: Space[int] = Space(
        "static",
        prefill=[_workers(work.prefill_load(BIN_S, bins), arrivals, contest.goal)],
        decode=[_workers(work.decode_load(BIN_S, bins), arrivals, contest.goal)],
        policy=lambda prefill, decode: Static(Workers(prefill, decode)),
        start=lambda prefill, decode: _start(contest.scenario, Workers(prefill, decode)),
    )
    entry = cheapest(contest, space)
    return Workers(entry.settings["prefill"], entry.settings["decode"]), entry.tried


def _start(scenario: Scenario, fleet: Workers) -> Workers:
    """`fleet`, where the cluster has room for it."""
    gpus = fleet.prefill * scenario.engine.prefill.gpus + fleet.decode * scenario.engine.decode.gpus
    return fleet if scenario.options.max_gpus is None or gpus <= scenario.options.max_gpus else scenario.start


def _workers(load: npt.NDArray[np.float64], arrivals: npt.NDArray[np.int64], goal: float) -> Ladder[int]:
    """1, 2, 3 ... workers up to twice the peak and some; to begin with, as many as hold the load that `goal` of the requests arrive under."""
    order = np.argsort(load)
    reached = np.searchsorted(np.cumsum(arrivals[order]), goal * arrivals.sum())
    enough = math.ceil(load[order][min(int(reached), len(load) - 1)])
    most = math.ceil(2 * load.max()) + 4
    return Ladder(range(1, most + 1), min(max(enough, 1), most) - 1)
