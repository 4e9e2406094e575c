"""The loop: advance to the next scrape or tick, scrape, ask the policy, scale; and what is left of it, request by request and tick by tick.

Times are seconds from the trace start. The day ends `horizon_s` after its beginning: GPU-hours are charged until then. Requests that still run get
up to `LAST_ANSWERS_S` to finish, on the fleet as it is then, so that their latency is known; after that they are missed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sla_planner.model.engine import Engine
from sla_planner.plan.decision import Role
from sla_planner.simulate.fleet import Fleet, SimulatedFleet
from sla_planner.simulate.options import ClusterOptions
from sla_planner.simulate.policy import Policy, Seen, Workers
from sla_planner.simulate.scrape import Scrapes
from sla_planner.traffic.trace import Trace

LAST_ANSWERS_S = 900.0


@dataclass(frozen=True, slots=True, eq=False)
class Scenario:
    """What every policy of one comparison is run on. `start`: workers that are ready at second 0. `horizon_s`: where the day ends; None = at
    the last arrival."""

    trace: Trace
    engine: Engine
    start: Workers
    options: ClusterOptions = field(default_factory=ClusterOptions)
    horizon_s: float | None = None

    @property
    def end_s(self) -> float:
        return self.trace.end_s if self.horizon_s is None else self.horizon_s


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """The fleet over time, one entry per tick: ready when it was decided, and asked for then. Columns of (t, 2) are prefill, decode."""

    at_s: npt.NDArray[np.float64]
    ready: npt.NDArray[np.int64]
    asked: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class RunResult:
    """One policy on one scenario. Per request, in order of arrival: `ttft_s`, `itl_s` (n,), NaN where there is none: no first token (missed), an
    answer of one token (kept), or an answer that never ended (missed: `finished` is False)."""

    policy: str
    ttft_s: npt.NDArray[np.float64]
    itl_s: npt.NDArray[np.float64]
    finished: npt.NDArray[np.bool_]
    gpu_hours_prefill: float
    gpu_hours_decode: float
    launches: int
    course: Course

    @property
    def gpu_hours(self) -> float:
        return self.gpu_hours_prefill + self.gpu_hours_decode


def run(scenario: Scenario, policy: Policy, progress: Callable[[float], None] | None = None, *, cluster: type[Fleet] = SimulatedFleet) -> RunResult:
    """`policy` on `scenario`. `progress` is told the simulated second now and then. `cluster`: event by event, or an estimate (`fluid`)."""
    fleet = cluster(scenario.trace, scenario.engine, scenario.options, prefill=scenario.start.prefill, decode=scenario.start.decode)
    scrapes = Scrapes(scenario.options, fleet.core.edges)
    scrapes.take(fleet)
    scrape_s, end_s = scenario.options.metrics.scrape_s, scenario.end_s
    at, ready, asked = [0.0], [_pair(scenario.start)], [_pair(scenario.start)]
    scraped = ticked = 1
    while True:
        next_scrape_s, next_tick_s = scraped * scrape_s, ticked * policy.interval_s
        now_s = min(next_scrape_s, next_tick_s)
        if now_s > end_s:
            break
        fleet.advance(now_s)
        if now_s == next_scrape_s:
            scrapes.take(fleet)
            scraped += 1
        if now_s == next_tick_s:
            seen = Seen(now_s, fleet.counts(Role.PREFILL), fleet.counts(Role.DECODE), scrapes)
            wanted = policy.decide(seen)
            if wanted != seen.asked:
                fleet.scale(wanted.prefill, wanted.decode)
            at.append(now_s)
            ready.append((seen.prefill.ready, seen.decode.ready))
            asked.append(_pair(wanted))
            ticked += 1
            if progress is not None and ticked % 64 == 0:
                progress(now_s)
    fleet.advance(end_s)
    hours = {role: fleet.gpu_seconds(role) / 3600 for role in Role}
    fleet.advance(end_s + LAST_ANSWERS_S)
    return _result(policy.name, fleet, hours, Course(np.array(at), np.array(ready), np.array(asked)))


def _pair(workers: Workers) -> tuple[int, int]:
    return workers.prefill, workers.decode


def _result(policy: str, fleet: Fleet, hours: dict[Role, float], course: Course) -> RunResult:
    core = fleet.core
    gaps = core.osl - 1
    itl_s = np.where(gaps > 0, (core.finish_s - core.first_token_s) / np.maximum(gaps, 1), math.nan)
    return RunResult(
        policy=policy,
        ttft_s=core.first_token_s - core.arrival_s,
        itl_s=itl_s,
        finished=np.isfinite(core.finish_s),
        gpu_hours_prefill=hours[Role.PREFILL],
        gpu_hours_decode=hours[Role.DECODE],
        launches=fleet.launches,
        course=course,
    )
