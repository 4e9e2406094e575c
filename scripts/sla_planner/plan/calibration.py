"""How the running engine compares with its profile: observed latency / expected latency, per role.

Mean sizing takes the last interval's ratio as it is, as the algorithm it reproduces does:

    p_corr      = TTFT_observed / ttft_ms(isl)
    concurrency = rate * duration / ready decode workers                  Little's law, queueing included
    d_corr      = ITL_observed / itl_ms(concurrency, isl + osl/2)

and 1 where an input is idle or unknown.

Risk sizing keeps one `Calibration` per role, a slow and bounded one:

    f <- exp(ln f + clip(0.1 * (clip(ln ratio, ln 0.5, ln 2) - ln f), -ln 1.1, ln 1.1))                     f stays within [0.5, 2]

so that one odd interval moves a size by a few percent at most. An interval teaches nothing while workers of the role start (the first requests of
a worker compile and warm caches) or when fewer than `LEAST_REQUESTS` finished. What is expected:

    decode    the ITL law at the batch that really ran: running requests and KV use per ready worker where the engines report them; else Little's
              law over the time in decode,  batch = finished/s * (duration - TTFT) / ready
    prefill   TTFT contains the wait in the queue, and under load mostly that. Only below `QUIET` utilisation with nothing queued is the wait small
              and known well enough:  E[ttft_ms(isl)] + wait,  wait of an M/G/c queue (Sakasegawa)
              rho^(sqrt(2(c+1)) - 1) / (c (1 - rho)) * E[s^2] / (2 E[s]).   What exceeds that may as well be a fixed overhead of frontend and
              router, which costs no capacity: no more than `MOST_OVERHEAD` is believed. Under load waiting only ever adds, so a TTFT below
              ttft_ms(isl) still teaches that ratio, and any other leads a ratio below 1 back to 1; else what was learned in quieter hours stays.

A ratio below 1 at prefill is a prefix cache at work; the lower bound keeps a cold cache after a restart affordable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sla_planner.model.engine import Engine
from sla_planner.plan.observation import Observation, Quantity, TrafficWindow, WorkerCounts, ready_workers
from sla_planner.plan.work import PromptWork

GAIN = 0.1
SMALLEST, LARGEST = 0.5, 2.0
LARGEST_STEP = 1.1
MOST_OVERHEAD = 1.25
LEAST_REQUESTS = 20
QUIET = 0.3


@dataclass(frozen=True, slots=True)
class Corrections:
    """Observed / expected of the last interval, for mean sizing. `skipped`: why a role's is 1 although correction was asked for."""

    prefill: float = 1.0
    decode: float = 1.0
    skipped: tuple[str, ...] = ()


def last_interval_corrections(observation: Observation, engine: Engine) -> Corrections:
    """The ratios of this one interval, unsmoothed and unbounded."""
    prefill, prefill_why = _prefill_ratio(observation.traffic, engine)
    decode, decode_why = _decode_ratio(observation, engine)
    return Corrections(prefill, decode, tuple(why for why in (prefill_why, decode_why) if why))


def _prefill_ratio(traffic: TrafficWindow, engine: Engine) -> tuple[float, str]:
    if why := _missing(TTFT=traffic.ttft_ms, ISL=traffic.isl_tokens):
        return 1.0, f"prefill correction skipped: {why}"
    return _ratio("prefill", traffic.ttft_ms.value, engine.prefill.ttft_ms(traffic.isl_tokens.value))


def _decode_ratio(observation: Observation, engine: Engine) -> tuple[float, str]:
    traffic, ready = observation.traffic, ready_workers(observation.decode)
    why = _missing(
        ITL=traffic.itl_ms,
        rate=traffic.request_rate_rps,
        duration=traffic.request_duration_s,
        ISL=traffic.isl_tokens,
        OSL=traffic.osl_tokens,
    )
    if why or not ready:
        return 1.0, f"decode correction skipped: {why or 'no decode worker is ready'}"
    concurrency = traffic.request_rate_rps.value * traffic.request_duration_s.value / ready
    return _ratio("decode", traffic.itl_ms.value, engine.decode.itl_ms(concurrency, _context(traffic)))


def _ratio(role: str, observed_ms: float, expected_ms: float) -> tuple[float, str]:
    if observed_ms > 0 and expected_ms > 0:
        return observed_ms / expected_ms, ""
    return 1.0, f"{role} correction skipped: observed {observed_ms:.2f} ms, expected {expected_ms:.2f} ms"


def _missing(**quantities: Quantity) -> str:
    return "; ".join(f"{name}: {quantity.why or quantity.kind.value}" for name, quantity in quantities.items() if not quantity.known)


def _known(*quantities: Quantity) -> bool:
    return all(quantity.known for quantity in quantities)


def _context(traffic: TrafficWindow) -> float:
    """Mean context of a running request, tokens."""
    return traffic.isl_tokens.value + traffic.osl_tokens.value / 2


@dataclass(frozen=True, slots=True)
class Calibration:
    """One role: how many times slower than its profile the engine is (0.5 .. 2), learned over `intervals` intervals."""

    factor: float = 1.0
    intervals: int = 0

    def toward(self, ratio: float) -> Calibration:
        """One interval's ratio, > 0, learned from."""
        aim = math.log(min(max(ratio, SMALLEST), LARGEST))
        step = GAIN * (aim - math.log(self.factor))
        step = min(max(step, -math.log(LARGEST_STEP)), math.log(LARGEST_STEP))
        return Calibration(min(max(self.factor * math.exp(step), SMALLEST), LARGEST), self.intervals + 1)

    def to_json(self) -> dict[str, Any]:
        return {"factor": self.factor, "intervals": self.intervals}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Calibration:
        """The inverse of `to_json`. Raises KeyError, TypeError or ValueError when `document` is not a calibration."""
        factor = float(document["factor"])
        if not SMALLEST <= factor <= LARGEST:
            raise ValueError(f"factor {factor} outside {SMALLEST} .. {LARGEST}")
        return cls(factor, int(document["intervals"]))


def calibrate_prefill(calibration: Calibration, observation: Observation, work: PromptWork) -> Calibration:
    """The calibration after this interval. `work`: of the prompts of the last intervals, as profiled."""
    traffic = observation.traffic
    ready = _teaching_workers(traffic, observation.prefill)
    if not ready or not _known(traffic.ttft_ms, traffic.isl_tokens, traffic.request_rate_rps):
        return calibration
    utilisation = traffic.request_rate_rps.value * work.prefill_s / ready
    alone_ms = work.alone_s * 1000
    if utilisation > QUIET or traffic.queued_prefill_requests.or_else(0.0) > 0:
        below_1 = min(traffic.ttft_ms.value, alone_ms)
        return _learned(calibration, below_1, alone_ms) if below_1 < alone_ms or calibration.factor < 1 else calibration
    residual_s = work.prefill_s2 / (2 * work.prefill_s)
    wait_s = utilisation ** (math.sqrt(2 * (ready + 1)) - 1) / (ready * (1 - utilisation)) * residual_s
    expected_ms = alone_ms + wait_s * 1000
    return _learned(calibration, min(traffic.ttft_ms.value, MOST_OVERHEAD * expected_ms), expected_ms)


def calibrate_decode(calibration: Calibration, observation: Observation, engine: Engine) -> Calibration:
    """The calibration after this interval."""
    traffic = observation.traffic
    ready = _teaching_workers(traffic, observation.decode)
    if not ready or not _known(traffic.itl_ms, traffic.isl_tokens, traffic.osl_tokens):
        return calibration
    batch = _batch(traffic, ready)
    if batch is None:
        return calibration
    kv_tokens = batch * _context(traffic)
    if traffic.kv_usage.known and traffic.running_decode_requests.known:
        kv_tokens = traffic.kv_usage.value * engine.decode.max_kv_tokens
    return _learned(calibration, traffic.itl_ms.value, engine.itl_law.itl_ms(batch, kv_tokens))


def _teaching_workers(traffic: TrafficWindow, workers: WorkerCounts | None) -> int:
    """Ready workers of the role; 0 when they are unknown, or some start, or too few requests finished."""
    if workers is None or workers.starting > 0 or traffic.completed_requests.or_else(0.0) < LEAST_REQUESTS:
        return 0
    return workers.ready


def _batch(traffic: TrafficWindow, ready: int) -> float | None:
    """Requests running on each decode worker, at least 1: the ITL is a mean over tokens, and a token has a batch."""
    if traffic.running_decode_requests.known:
        return max(traffic.running_decode_requests.value / ready, 1.0)
    if not _known(traffic.request_duration_s, traffic.ttft_ms):
        return None
    in_decode_s = max(traffic.request_duration_s.value - traffic.ttft_ms.value / 1000, 0.0)
    return max(traffic.completed_requests.value / traffic.window_s * in_decode_s / ready, 1.0)


def _learned(calibration: Calibration, observed_ms: float, expected_ms: float) -> Calibration:
    return calibration.toward(observed_ms / expected_ms) if observed_ms > 0 and expected_ms > 0 else calibration
