"""A made-up run: two waves of load, a planner that follows them, latencies that suffer where it is late."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sla_planner.model.sla import Sla
from sla_planner.plan.decision import Decision, Prediction, Reason, Role, RoleDecision
from sla_planner.plan.observation import Observation, Quantity, WorkerCounts, unknown_traffic
from sla_planner.plan.record import Terms, Tick
from sla_planner.plan.settings import PlanSettings
from sla_planner.report.run import Requests, RoleUse, Row, RunReport, WorkerSamples
from sla_planner.sweep.result import SweepResult

START_S = 1_750_000_000.0


STEADY = "the need equals what runs"


def make_decision(role: Role, current: int, desired: int, reason: Reason = Reason.STEADY, explanation: str = STEADY) -> RoleDecision:
    return RoleDecision(role, current, desired, desired, reason, explanation)


def make_tick(at_s: float, prefill: tuple[int, int], decode: tuple[int, int], reason: Reason = Reason.STEADY, explanation: str = STEADY) -> Tick:
    """A tick `at_s` seconds into the run that takes each role from the first count to the second."""
    traffic = replace(
        unknown_traffic(START_S + at_s, 1.0, "no samples"),
        request_rate_rps=Quantity.of(8.0),
        isl_tokens=Quantity.of(1024.0),
        osl_tokens=Quantity.of(128.0),
        ttft_ms=Quantity.of(180.0),
        itl_ms=Quantity.of(21.5),
    )
    decision = Decision(
        at_s=START_S + at_s,
        prefill=make_decision(Role.PREFILL, *prefill, reason, explanation),
        decode=make_decision(Role.DECODE, *decode, reason, explanation),
        prediction=Prediction(8.0, 1024.0, 128.0),
    )
    fleet = Observation(traffic, WorkerCounts(prefill[0]), WorkerCounts(decode[0]))
    return Tick("demo", fleet, decision, gpu_hours=0.0, terms=Terms.of(PlanSettings()))


def _load(t: float) -> float:
    """Requests/s at `t`, 0..1 of the run: a quiet start, a wave, a higher wave."""
    return 4.0 + 22.0 * math.exp(-(((t - 0.33) / 0.1) ** 2)) + 34.0 * math.exp(-(((t - 0.72) / 0.09) ** 2))


def _fleet(times: np.ndarray, need: np.ndarray, startup_s: float, grace_s: float) -> tuple[np.ndarray, np.ndarray]:
    """(asked, ready) per time: asks for the most that the next start-up needs, lets go after the grace, gets workers a start-up later."""
    step = times[1] - times[0]
    ahead, behind = round(startup_s / step), round(grace_s / step)
    asked = np.array([need[max(0, i // 4 * 4 - behind) : i // 4 * 4 + ahead + 1].max() for i in range(len(times))])  # decides every fourth step
    ready = np.array([min(asked[max(0, i - ahead) : i + 1].min(), asked[i]) for i in range(len(times))])
    return asked, ready


def synthetic(duration_s: float = 45.0, interval_s: float = 1.0, startup_s: float = 3.0, scale: float = 2.0, seed: int = 7) -> RunReport:
    rng = np.random.default_rng(seed)
    fine = np.arange(0.0, duration_s, interval_s / 4)
    load = np.array([_load(t / duration_s) for t in fine])
    prefill_need, decode_need = np.ceil(load / 11).astype(int), np.ceil(load / 7.5).astype(int)
    asked_p, ready_p = _fleet(fine, prefill_need, startup_s, 2 * startup_s)
    asked_d, ready_d = _fleet(fine, decode_need, startup_s, 2 * startup_s)
    arrivals = np.repeat(fine, rng.poisson(load * scale * interval_s / 4)) + 0.0
    arrivals = np.sort(np.minimum(arrivals + rng.uniform(0, interval_s / 4, len(arrivals)), duration_s - 1e-6))
    at = np.searchsorted(fine, arrivals, side="right") - 1
    pressure_p, pressure_d = load[at] / (ready_p[at] * 11), load[at] / (ready_d[at] * 7.5)
    ttft = 90 * rng.lognormal(0, 0.35, len(at)) * np.where(pressure_p > 0.93, 2.6, 1 + 0.6 * pressure_p)
    itl = 24 * rng.lognormal(0, 0.1, len(at)) * (1 + 0.45 * pressure_d)
    ttft[rng.random(len(at)) < 0.0003] = np.nan
    itl[rng.random(len(at)) < 0.01] = np.nan
    sla = Sla(ttft_ms=500.0, itl_ms=50.0)
    inside = (ttft <= sla.ttft_ms) & ~(itl > sla.itl_ms)
    gpu_p, gpu_d = 1, 2
    return RunReport(
        title="SLA Planner on recorded traffic: azure-conv-2023, simulated engine",
        promise=sla,
        start_s=START_S,
        duration_s=duration_s,
        requests=Requests(arrivals, rng.integers(200, 2400, len(at)), ttft, itl, inside),
        ticks=tuple(_ticks(fine, asked_p, asked_d, ready_p, ready_d, load)),
        prefill=RoleUse(float(asked_p.sum() * interval_s / 4 * gpu_p), int(asked_p.max()), gpu_p),
        decode=RoleUse(float(asked_d.sum() * interval_s / 4 * gpu_d), int(asked_d.max()), gpu_d),
        workers=WorkerSamples(fine, ready_p, asked_p - ready_p, ready_d, asked_d - ready_d),
        rows=(Row("Dynamo's planner, same run", "97.1 %", "11 % more GPU-seconds"),),
        facts=(
            ("Version", "sla-planner 0.1.0"),
            ("Trace", "azure-conv-2023, CC-BY 4.0"),
            ("Engine", "simulated, profile h200-tp1"),
            ("Start-up", f"{startup_s:g} s"),
            ("Reproduce", "sla-planner demo --trace azure-conv-2023 --seed 7"),
        ),
    )


def _ticks(fine: np.ndarray, asked_p: np.ndarray, asked_d: np.ndarray, ready_p: np.ndarray, ready_d: np.ndarray, load: np.ndarray) -> list[Tick]:
    before = (int(asked_p[0]), int(asked_d[0]))
    ticks = []
    for i in range(0, len(fine), 4):
        after = (int(asked_p[i]), int(asked_d[i]))
        grown, shrunk = sum(after) > sum(before), sum(after) < sum(before)
        reason = Reason.LOAD_UP if grown else Reason.LOAD_DOWN if shrunk else Reason.STEADY
        words = {
            Reason.LOAD_UP: f"load {load[i]:.1f} -> {load[i] * 1.4:.1f} requests/s, jump seen 3 times today",
            Reason.LOAD_DOWN: "the survivors hold the promise and the grace period is over",
            Reason.STEADY: STEADY,
        }[reason]
        tick = make_tick(float(fine[i]), (before[0], after[0]), (before[1], after[1]), reason, words)
        seen = Observation(tick.observation.traffic, WorkerCounts(int(ready_p[i])), WorkerCounts(int(ready_d[i])))
        ticks.append(replace(tick, observation=seen))
        before = after
    return ticks


@pytest.fixture(scope="session")
def run() -> RunReport:
    return synthetic()


@pytest.fixture(scope="session")
def tick() -> Callable[..., Tick]:
    return make_tick


@pytest.fixture
def tiny() -> RunReport:
    """Ten seconds, four requests of which one is late and one is never answered, three ticks of which two change something."""
    return RunReport(
        title="tiny",
        promise=Sla(ttft_ms=500.0, itl_ms=50.0, attainment=0.5),
        start_s=START_S,
        duration_s=10.0,
        requests=Requests(
            arrival_s=np.array([0.5, 2.0, 6.0, 9.0]),
            isl_tokens=np.array([100, 200, 300, 400]),
            ttft_ms=np.array([120.0, 480.0, 900.0, np.nan]),
            itl_ms=np.array([20.0, 30.0, 40.0, np.nan]),
            inside=np.array([True, True, False, False]),
        ),
        ticks=(
            make_tick(2.0, (1, 1), (2, 2)),
            make_tick(4.0, (1, 2), (2, 3), Reason.LOAD_UP, "load 0.8 -> 1.6"),
            make_tick(8.0, (2, 1), (3, 3), Reason.LOAD_DOWN, "the grace period is over"),
        ),
        prefill=RoleUse(gpu_s=14.0, peak_workers=2, gpus_per_worker=1),
        decode=RoleUse(gpu_s=52.0, peak_workers=4, gpus_per_worker=2),
        facts=(("Version", "0.1.0"),),
    )


def _sweep_example():
    """The module beside this one; files of tests are no package, so that it is loaded by its path."""
    spec = importlib.util.spec_from_file_location("sweep_example", Path(__file__).with_name("sweep_example.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def make_sweep() -> Callable[..., SweepResult]:
    """`sweep_example.example`: a made-up sweep."""
    return _sweep_example().example


@pytest.fixture(scope="session")
def sweep(make_sweep) -> SweepResult:
    """TP1 to TP8, prefill picked on TP2 and decode on TP4."""
    return make_sweep()


@pytest.fixture(scope="session")
def impossible(make_sweep) -> SweepResult:
    """Neither TTFT 10 ms nor ITL 2 ms can be kept."""
    return make_sweep(ttft_ms=10.0, itl_ms=2.0)
