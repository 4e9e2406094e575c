"""What a simulated day costs: the event core as machine code and as Python, the fluid fleet, and the planner's decisions in it.

    python tests/bench/bench_simulator.py [--quick]

CPU time of one thread. Traffic is made up: arrivals over a day with a swing of 1 to 3, lengths as of a chat service; the engine is the shipped
profile. Every table has a ratio to something measured in the same run. Python runs a piece of the same traffic, in a process of its own that has
no numba. Compiling is not counted; it takes some 15 s once, and is kept on disk.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sla_planner.model.engine import engine_of
from sla_planner.model.sla import Sla
from sla_planner.plan.settings import PlanSettings
from sla_planner.simulate.compiled import COMPILES
from sla_planner.simulate.fleet import Fleet, SimulatedFleet
from sla_planner.simulate.fluid import FluidFleet
from sla_planner.simulate.options import ClusterOptions, Metrics
from sla_planner.simulate.policies.planner import Planner
from sla_planner.simulate.policies.static import Static
from sla_planner.simulate.policy import Seen, Workers
from sla_planner.simulate.run import Scenario, run
from sla_planner.store.profile_files import read_profile, sample_profile_dir
from sla_planner.traffic.trace import Trace

CORE_RPS, DAY_S = 1_000_000, 10.0  # what we allow ourselves: requests per second of one core, a whole day with the planner
HOURS = 86_400.0
START = Workers(7, 5)


@dataclass(frozen=True, slots=True)
class Effort:
    requests: int  # of the day
    slow_requests: int  # of the piece that Python runs


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a day of 0.4 million requests instead of 3.4 million")
    parser.add_argument("--alone", type=int, metavar="REQUESTS", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        print(json.dumps(core_rps(day(arguments.alone, HOURS * arguments.alone / 3_400_000))))
        return
    effort = Effort(400_000, 10_000) if arguments.quick else Effort(3_400_000, 50_000)
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print_core(effort)
    print_day(effort)


# ---- the core -----------------------------------------------------------------------------------------------------------------------------


def print_core(effort: Effort) -> None:
    print(f"\nThe event core over a day, workers fixed, CPU; allowed {CORE_RPS:,} requests/s with numba\n")
    print("| core | requests | requests/s | / Python |\n|---|---|---|---|")
    python = without_numba(effort.slow_requests)
    print(f"| Python | {effort.slow_requests:,} | {python:,.0f} | 1 |", flush=True)
    if COMPILES:
        core_rps(day(1000, 30.0))  # compiled, or read from disk
        compiled = core_rps(day(effort.requests, HOURS))
        print(f"| machine code | {effort.requests:,} | {compiled:,.0f} | {compiled / python:.0f} |", flush=True)


def core_rps(trace: Trace) -> float:
    fleet = SimulatedFleet(trace, ENGINE, ClusterOptions(), prefill=START.prefill, decode=START.decode)
    return len(trace) / cpu_s(lambda: fleet.advance(2 * HOURS))


def without_numba(requests: int) -> float:
    """In a process that does not find it."""
    blocked = "import sys; sys.modules['numba'] = None; sys.argv[0] = {0!r}; import runpy; runpy.run_path({0!r}, run_name='__main__')"
    command = [sys.executable, "-c", blocked.format(str(Path(__file__).resolve())), "--alone", str(requests)]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


# ---- a day --------------------------------------------------------------------------------------------------------------------------------


class Timed:
    """A policy, and the CPU time that it takes to decide."""

    def __init__(self, policy: Any) -> None:
        self.name, self.interval_s, self.settings = policy.name, policy.interval_s, policy.settings
        self.spent_s = 0.0
        self.decisions = 0
        self._policy = policy

    def decide(self, seen: Seen) -> Workers:
        begun = time.process_time()
        wanted: Workers = self._policy.decide(seen)
        self.spent_s += time.process_time() - begun
        self.decisions += 1
        return wanted


def print_day(effort: Effort) -> None:
    trace = day(effort.requests, HOURS)
    print(f"\nA whole day of {len(trace):,} requests, CPU s; allowed {DAY_S:g} with the planner\n")
    print("| fleet | scrapes | policy | decisions | day | decisions take | share | day / static on events |\n|---|---|---|---|---|---|---|---|")
    fleets: list[tuple[str, type[Fleet], float]] = [("events", SimulatedFleet, 5.0), ("fluid", FluidFleet, 10.0)]
    first_s = 0.0
    for name, cluster, scrape_s in fleets if COMPILES else fleets[1:]:
        scenario = Scenario(trace, ENGINE, START, ClusterOptions(metrics=Metrics(scrape_s=scrape_s)), horizon_s=HOURS)
        for policy in (Static(START), planner(15.0), planner(60.0)):
            timed = Timed(policy)
            took_s = cpu_s(lambda timed=timed, cluster=cluster, scenario=scenario: run(scenario, timed, cluster=cluster))
            first_s = first_s or took_s
            said = f"{name} | every {scrape_s:g} s | {policy.name} every {policy.interval_s:g} s"
            cost = f"{took_s:.2f} | {timed.spent_s:.2f} | {timed.spent_s / took_s:.0%} | {took_s / first_s:.2f}"
            print(f"| {said} | {timed.decisions} | {cost} |", flush=True)


def planner(interval_s: float) -> Planner:
    return Planner(PlanSettings(sla=Sla(500, 20, 0.99), interval_s=interval_s), ENGINE)


# ---- traffic and time ---------------------------------------------------------------------------------------------------------------------


def day(requests: int, seconds: float) -> Trace:
    """`requests` over so many seconds, three times as dense at the height of the day as at night."""
    rng = np.random.default_rng(1)
    grid = np.linspace(0, seconds, 1441)
    dense = 2 - np.cos(2 * np.pi * grid / seconds)
    share = np.concatenate([[0.0], np.cumsum((dense[1:] + dense[:-1]) / 2)])
    arrival_s = np.sort(np.interp(rng.random(requests), share / share[-1], grid))
    isl, osl = (rng.lognormal(median, spread, requests).clip(1, 30_000).astype(np.int64) for median, spread in ((6.5, 1.0), (5.0, 0.9)))
    return Trace(arrival_s, isl, osl)


def cpu_s(work: Callable[[], Any]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


ENGINE = engine_of(read_profile(sample_profile_dir()))

if __name__ == "__main__":
    main()
