"""What deciding costs: one decision, a thousand targets, one `planner --once`, a month of memory.

    python tests/bench/bench_planner.py [--quick]

CPU time is of this process, or of the child where one is started, with all its threads; a busy machine stretches it less than wall time, but the
load is printed all the same. A remembered day is made with the planner's own `JumpMemory.remember`; after that the planner decides for a while.
Every table has a ratio to something measured in the same run. In this process BLAS has one thread: on a busy machine two of them wait for each other
actively, and an ARIMA fit takes up to a hundred times as long, which would flatter every ratio to it. Processes that are measured have their default.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import sla_planner
from sla_planner.model.engine import Engine, engine_of
from sla_planner.plan.history import observed_windows
from sla_planner.plan.jumps import JumpMemory
from sla_planner.plan.observation import Observation, Quantity, TrafficWindow, WorkerCounts
from sla_planner.plan.planner import decide
from sla_planner.plan.predictors_arima import search
from sla_planner.plan.risk import Horizon
from sla_planner.plan.settings import PlanSettings, Predictor, Sizing
from sla_planner.plan.state import PlanState, RoleState, new_state, state_from_json, state_to_json
from sla_planner.store.profile_files import read_profile
from sla_planner.store.state_file import StateFile

PROFILE = Path(sla_planner.__file__).parent / "sample" / "h200_llama31_8b_fp8"
DAY_S = 86_400.0
RATE_RPS = 8.0
DECISION_MS, FLEET_S, ONCE_S, ONCE_MB = 5.0, 10.0, 1.5, 120.0  # what we allow ourselves
LAUNCHER = """
import resource, subprocess, sys, time
begun = time.monotonic()
code = subprocess.call(sys.argv[1:], stdout=sys.stderr)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(code, used.ru_utime + used.ru_stime, time.monotonic() - begun, used.ru_maxrss / 1024)
"""
BLAS_THREADS = "OPENBLAS_NUM_THREADS"
SEEDS = itertools.count(100)
SERIES = 3  # request rate, ISL, OSL: what the reference predicts at every interval


@dataclass(frozen=True, slots=True)
class Effort:
    ticks: int
    targets: int
    days: tuple[int, ...]


def main() -> None:
    if BLAS_THREADS not in os.environ:  # read when numpy is loaded: too late for this process, not for the next
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, BLAS_THREADS: "1"})
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer decisions, 50 targets, one day")
    effort = Effort(20, 50, (1,)) if parser.parse_args().quick else Effort(120, 1000, (1, 7, 30))
    engine = engine_of(read_profile(PROFILE))
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print_decision(engine, effort)
    print_fleet(engine, effort)
    print_once(engine)
    print_month(engine, effort)


# ---- one decision -------------------------------------------------------------------------------------------------------------------------


def print_decision(engine: Engine, effort: Effort) -> None:
    print(f"\nOne decision with 24 h of 15 s intervals, CPU ms; allowed {DECISION_MS:g}\n")
    print("| sizing | predictor | median | p95 | max | mean | median / allowed | mean / refit |\n|---|---|---|---|---|---|---|---|")
    refit_ms = arima_refit_ms(effort)
    for sizing in Sizing:
        for predictor in (Predictor.EWMA, Predictor.CONSTANT, Predictor.ARIMA):
            settings = PlanSettings(sizing=sizing, predictor=predictor)
            _, took_ms = decided(settings, engine, aged(settings, days=1), effort.ticks)
            median, p95, highest = np.percentile(took_ms, (50, 95, 100))
            mean = float(np.mean(took_ms))
            ratios = f"{median / DECISION_MS:.2f} | 1 / {refit_ms / mean:.0f}"
            print(f"| {sizing} | {predictor} | {median:.2f} | {p95:.2f} | {highest:.2f} | {mean:.2f} | {ratios} |", flush=True)
    print(
        f"\nrefit: {refit_ms:.0f} ms, ARIMA orders searched by AIC at every interval, for {SERIES} series of 50 values. Stands in for the auto_arima"
    )
    print("(pmdarima) of Dynamo's planner, which tries more orders than the six of this search. Ours searches every 60 intervals: see max.")


def arima_refit_ms(effort: Effort) -> float:
    """Mean CPU time of searching the orders of `SERIES` series."""
    rates = tuple(traffic.request_rate_rps.value for traffic in windows(50))
    search(rates, 50)  # the first call imports statsmodels
    rounds = max(effort.ticks // 12, 4)
    return SERIES * cpu_s(lambda: [search(rates, 50) for _ in range(rounds)]) / rounds * 1000


# ---- many targets -------------------------------------------------------------------------------------------------------------------------


def print_fleet(engine: Engine, effort: Effort) -> None:
    """Every target has arrays, lengths and traffic of its own; nothing but the engine is shared."""
    settings = PlanSettings()
    document = json.dumps(state_to_json(decided(settings, engine, aged(settings, days=1), 60)[0], settings, engine))
    before_mb = resident_mb()
    states = [state_from_json(json.loads(document), settings, engine)[0] for _ in range(effort.targets)]
    for index, traffic in enumerate(windows(effort.targets, seed=1)):
        states[index] = one(settings, engine, states[index], traffic)
    memory_mb = (resident_mb() - before_mb) / effort.targets
    traffic = list(windows(effort.targets, seed=2))

    def deciding() -> None:
        for index, window in enumerate(traffic):
            states[index] = one(settings, engine, states[index], window)

    def saving() -> None:
        for index, state in enumerate(states):
            StateFile(Path(folder) / f"{index}.json").write({"plan": state_to_json(state, settings, engine)})

    memory_disk = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory_disk if memory_disk.is_dir() else None) as folder:
        decide_s, save_s = cpu_s(deciding), cpu_s(saving)
    allowed_s = FLEET_S * effort.targets / 1000
    print(f"\n{effort.targets} targets of 24 h in one process, one interval of all, CPU s; allowed {allowed_s:g}, of an interval of 15 s\n")
    print("| decide | save the states | both | both / allowed | MB per target |\n|---|---|---|---|---|")
    print(f"| {decide_s:.2f} | {save_s:.2f} | {decide_s + save_s:.2f} | {(decide_s + save_s) / allowed_s:.2f} | {memory_mb:.2f} |", flush=True)


# ---- one process --------------------------------------------------------------------------------------------------------------------------


def print_once(engine: Engine) -> None:
    print(f"\n`planner --once`, process start to exit, state of 24 h; allowed {ONCE_S:g} CPU s and {ONCE_MB:g} MB\n")
    print("| process | CPU s | wall s | MB | CPU / python -c pass |\n|---|---|---|---|---|")
    rows = [(name, child([sys.executable, "-c", name])) for name in ("pass", "import numpy")]
    with tempfile.TemporaryDirectory() as folder, simulated_engine() as url:
        rows.append(("planner --once", measured_once(engine, url, Path(folder))))
    for name, (cpu, wall, megabytes) in rows:
        print(f"| {name} | {cpu:.2f} | {wall:.2f} | {megabytes:.0f} | {cpu / rows[0][1][0]:.0f} |", flush=True)


def measured_once(engine: Engine, url: str, folder: Path) -> tuple[float, float, float]:
    """The second of two: a window needs two readings, so the first one cannot decide."""
    target = ["--scrape-url", f"{url}/metrics", "--virtual-target", f"file:{folder / 'fleet.json'}", "--profile-results-dir", str(PROFILE)]
    command = [sys.executable, "-m", "sla_planner", "planner", *target, "--state", str(folder / "state.json"), "--once"]
    complete(url)
    child(command, allowed=(0, 4))
    document = json.loads((folder / "state.json").read_text())
    plan, settings = document["plan"], PlanSettings()
    day = state_to_json(decided(settings, engine, aged(settings, days=1), 60)[0], settings, engine)
    StateFile(folder / "state.json").write({**document, "plan": {**day, "fingerprint": plan["fingerprint"], "last_at_s": plan["last_at_s"]}})
    complete(url)
    return child(command)


def child(command: list[str], *, allowed: tuple[int, ...] = (0,)) -> tuple[float, float, float]:
    """CPU seconds, wall seconds and highest resident MB of a process. RuntimeError with what it said when it ends otherwise than `allowed`.

    Linux counts the memory of whoever starts a process as the process's own at first; so a small one starts it.
    """
    environment = {name: value for name, value in os.environ.items() if name != BLAS_THREADS}
    result = subprocess.run([sys.executable, "-c", LAUNCHER, *command], capture_output=True, text=True, check=True, env=environment)
    code, *used = result.stdout.split()
    if int(code) not in allowed:
        raise RuntimeError(f"{command} ended with {code}: {result.stderr}")
    cpu, wall, megabytes = (float(value) for value in used)
    return cpu, wall, megabytes


@contextlib.contextmanager
def simulated_engine() -> Iterator[str]:
    """The URL of an engine of our own."""
    command = [sys.executable, "-m", "sla_planner", "engine-sim", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().split(" on ")[1].split()[0]
        finally:
            server.terminate()


def complete(url: str) -> None:
    body = json.dumps({"prompt": [1] * 500, "max_tokens": 20, "ignore_eos": True}).encode()
    request = urllib.request.Request(f"{url}/v1/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        answer.read()


# ---- a month ------------------------------------------------------------------------------------------------------------------------------


def print_month(engine: Engine, effort: Effort) -> None:
    print("\nOne target after days of 15 s intervals\n")
    print(
        "| days | state KB | MB in memory | write CPU ms | read CPU ms | decision CPU ms | decision / after one day |\n|---|---|---|---|---|---|---|"
    )
    settings, first_ms = PlanSettings(), 0.0
    for days in effort.days:
        state, took_ms = decided(settings, engine, aged(settings, days=days), effort.ticks)
        text = json.dumps(state_to_json(state, settings, engine))
        write_ms = best_ms(lambda state=state: json.dumps(state_to_json(state, settings, engine)))
        read_ms = best_ms(lambda text=text: state_from_json(json.loads(text), settings, engine))
        decision_ms = float(np.median(took_ms))
        first_ms = first_ms or decision_ms
        sizes = f"{len(text) / 1024:.0f} | {traced_mb(text, settings, engine):.2f}"
        print(f"| {days} | {sizes} | {write_ms:.2f} | {read_ms:.2f} | {decision_ms:.2f} | {decision_ms / first_ms:.2f} |", flush=True)


def traced_mb(text: str, settings: PlanSettings, engine: Engine) -> float:
    """What Python allocates for one state."""
    tracemalloc.start()
    state = state_from_json(json.loads(text), settings, engine)[0]
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del state
    return held / 2**20


# ---- a planner that has seen a lot --------------------------------------------------------------------------------------------------------


def windows(count: int, *, seed: int = 0, interval_s: float = 15.0) -> Iterator[TrafficWindow]:
    """`count` windows of a chat service at `RATE_RPS`, all metrics known, lengths in histograms as a frontend exports them."""
    rng = np.random.default_rng(seed)
    arrivals = np.sort(rng.uniform(0, (count + 1) * interval_s, rng.poisson(RATE_RPS * (count + 1) * interval_s)))
    isl, osl = (rng.lognormal(median, spread, len(arrivals)).clip(1, 30_000) for median, spread in ((6.5, 1.2), (5.0, 0.9)))
    for index, traffic in enumerate(observed_windows(arrivals, isl, osl, interval_s)):
        if index < count:
            yield replace(
                traffic,
                ttft_ms=Quantity.of(120),
                itl_ms=Quantity.of(9),
                request_duration_s=Quantity.of(2),
                ttft_attained=Quantity.of(0.995),
                itl_attained=Quantity.of(0.999),
                in_flight_requests=Quantity.of(2 * traffic.request_rate_rps.value),
                queued_prefill_requests=Quantity.of(0),
                running_decode_requests=Quantity.of(2 * traffic.request_rate_rps.value),
                kv_usage=Quantity.of(0.2),
            )


def aged(settings: PlanSettings, *, days: int) -> PlanState:
    """A state that remembers `days` days of loads and has decided nothing yet."""
    state, count = new_state(settings), int(days * DAY_S / settings.interval_s)
    rng = np.random.default_rng(days)
    daily = 1 + 0.6 * np.sin(2 * np.pi * np.arange(count) * settings.interval_s / DAY_S)
    return replace(state, prefill=_aged(state.prefill, 0.3 * daily, rng, settings), decode=_aged(state.decode, 0.8 * daily, rng, settings))


def _aged(role: RoleState, level: np.ndarray, rng: np.random.Generator, settings: PlanSettings) -> RoleState:
    memory, horizon = JumpMemory.empty(), Horizon(settings.startup_s, settings.interval_s)
    loads = level * rng.gamma(10, 0.1, len(level))
    for load, expected in zip(loads.tolist(), level.tolist(), strict=True):
        memory = memory.remember(load, expected, RATE_RPS, interval_s=horizon.interval_s, horizon=horizon.intervals)
    return replace(role, memory=memory)


def decided(settings: PlanSettings, engine: Engine, state: PlanState, ticks: int) -> tuple[PlanState, list[float]]:
    """The state after `ticks` decisions that are carried out at once, and the CPU ms of each. Predictors have a full history by
    then, and the traffic is new with every call: miss curves are cached."""
    workers, took_ms = (WorkerCounts(1), WorkerCounts(1)), []
    for traffic in windows(settings.history_window + ticks, seed=next(SEEDS)):
        begun = time.process_time()
        decision, state = decide(settings, engine, state, Observation(traffic, *workers))
        took_ms.append((time.process_time() - begun) * 1000)
        workers = WorkerCounts(decision.prefill.desired), WorkerCounts(decision.decode.desired)
    return state, took_ms[-ticks:]


def one(settings: PlanSettings, engine: Engine, state: PlanState, traffic: TrafficWindow) -> PlanState:
    return decide(settings, engine, state, Observation(traffic, WorkerCounts(1), WorkerCounts(2)))[1]


# ---- measuring ----------------------------------------------------------------------------------------------------------------------------


def cpu_s(work: Callable[[], Any]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def best_ms(work: Callable[[], Any]) -> float:
    return min(cpu_s(work) for _ in range(5)) * 1000


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if Path("/proc/self/statm").exists() else math.nan
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
