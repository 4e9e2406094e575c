"""Engines with round numbers and requests one by one, so that what a fleet does can be worked out on paper."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from sla_planner.model.engine import Engine, ItlLaw, OperatingPoint
from sla_planner.simulate import events
from sla_planner.simulate.fleet import SimulatedFleet
from sla_planner.simulate.options import ClusterOptions
from sla_planner.traffic.trace import Trace

PLAIN = ClusterOptions()


@dataclass(frozen=True)
class Prefill:
    """1 ms per 10 tokens unless told otherwise."""

    law_ms: Callable[[float], float] = lambda isl_tokens: isl_tokens / 10
    gpus: int = 1
    isl_range: tuple[float, float] = (1, 100_000)

    def ttft_ms(self, isl_tokens: float) -> float:
        return self.law_ms(isl_tokens)

    def throughput_per_gpu(self, isl_tokens: float) -> float:
        return isl_tokens * 1000 / self.law_ms(isl_tokens) / self.gpus

    def in_range(self, isl_tokens: float) -> bool:
        return True


@dataclass(frozen=True)
class Decode:
    gpus: int = 1
    max_kv_tokens: int = 1_000_000
    context_range: tuple[float, float] = (1, 100_000)

    def itl_ms(self, batch: float, context_tokens: float) -> float:
        raise NotImplementedError

    def best_throughput_per_gpu(self, itl_ms: float, context_tokens: float) -> OperatingPoint:
        raise NotImplementedError

    def in_range(self, batch: float, context_tokens: float) -> bool:
        raise NotImplementedError


def engine(*, prefill: Prefill = Prefill(), decode: Decode = Decode(), c0: float = 10.0, c1: float = 0.0, c2: float = 0.0) -> Engine:
    """Steps of c0 + c1*batch + c2*KV tokens, ms."""
    return Engine(prefill, decode, ItlLaw(c0, c1, c2))


def requests(*rows: tuple[float, int, int]) -> Trace:
    """(arrival_s, isl, osl) each."""
    return Trace(*(np.array(column) for column in zip(*rows, strict=True)))


def poisson(rate_rps: float, count: int, isl: Iterable[int] | int, osl: Iterable[int] | int, *, seed: int) -> Trace:
    arrival_s = np.cumsum(np.random.default_rng(seed).exponential(1 / rate_rps, count))
    return Trace(arrival_s, np.broadcast_to(np.asarray(isl), count), np.broadcast_to(np.asarray(osl), count))


def fleet(trace: Trace, engine: Engine, *, prefill: int = 1, decode: int = 1, options: ClusterOptions = PLAIN) -> SimulatedFleet:
    return SimulatedFleet(trace, engine, options, prefill=prefill, decode=decode)


def served(trace: Trace, engine: Engine, *, prefill: int = 1, decode: int = 1, options: ClusterOptions = PLAIN) -> SimulatedFleet:
    """The fleet after everything that will ever happen."""
    ended = fleet(trace, engine, prefill=prefill, decode=decode, options=options)
    ended.advance(math.inf)
    return ended


def batched_up_to(queue: SimulatedFleet, tokens: int) -> SimulatedFleet:
    """`queue` with another `max_batched_tokens`; 0: every prompt is a batch of its own."""
    queue.core.law[events.MAX_BATCHED] = tokens
    return queue
