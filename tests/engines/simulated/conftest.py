"""A hand-made engine, an event loop whose clock jumps from timer to timer, and sinks that remember.

prefill  ttft_ms = 10 + 0.1 * isl          2 GPUs per worker
decode   step_ms = 5 + 1 * batch + 0.001 * kv_tokens,  1000 tokens of KV,  4 GPUs per worker
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from sla_planner.engines.simulated.fleet import Fleet
from sla_planner.engines.simulated.options import FleetOptions
from sla_planner.engines.simulated.routing import Request
from sla_planner.model.batching import BatchingLaw
from sla_planner.model.engine import Engine, ItlLaw, OperatingPoint


@dataclass(frozen=True)
class HandMadePrefill:
    gpus: int = 2
    isl_range: tuple[float, float] = (1, 1000)

    def ttft_ms(self, isl_tokens: float) -> float:
        return 10 + 0.1 * isl_tokens

    def throughput_per_gpu(self, isl_tokens: float) -> float:
        raise NotImplementedError

    def in_range(self, isl_tokens: float) -> bool:
        raise NotImplementedError


@dataclass(frozen=True)
class HandMadeDecode:
    gpus: int = 4
    max_kv_tokens: int = 1000
    context_range: tuple[float, float] = (1, 1000)

    def itl_ms(self, batch: float, context_tokens: float) -> float:
        raise NotImplementedError

    def best_throughput_per_gpu(self, itl_ms: float, context_tokens: float) -> OperatingPoint:
        raise NotImplementedError

    def in_range(self, batch: float, context_tokens: float) -> bool:
        raise NotImplementedError


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits for a timer: moves the clock to it."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nothing will ever happen again"
            self.now_s += max(timeout, 0)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s

    def hold_up(self, seconds: float) -> None:
        """As if a callback had taken so long."""
        self._jumping.now_s += seconds


@dataclass
class Recorder:
    """A sink. Times in milliseconds of the loop's clock."""

    token_ms: list[float] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    error: str | None = None

    def token(self, now_s: float) -> None:
        self.token_ms.append(round(1000 * now_s, 6))

    def done(self) -> None:
        self.ended.set()

    def failed(self, message: str) -> None:
        self.error = message
        self.ended.set()


@dataclass
class Submitted:
    request: Request
    sink: Recorder

    async def end(self) -> list[float]:
        await self.sink.ended.wait()
        return self.sink.token_ms


class World:
    """What a test needs of the simulated fleet."""

    loop_factory = VirtualLoop

    def options(self, *, max_batched_tokens: int = 8192, max_sequences: int = 1024, same_gpus: bool = False, **changes: Any) -> FleetOptions:
        engine = Engine(HandMadePrefill(4 if same_gpus else 2), HandMadeDecode(), ItlLaw(5.0, 1.0, 0.001))
        return replace(FleetOptions(BatchingLaw(engine, max_batched_tokens, max_sequences)), **changes)

    def submit(self, fleet: Fleet, isl_tokens: int, osl_tokens: int) -> Submitted:
        sink = Recorder()
        request = Request(isl_tokens, osl_tokens, sink)
        fleet.submit(request)
        return Submitted(request, sink)

    def run(self, options: FleetOptions, test: Callable[[Fleet], Awaitable[None]]) -> None:
        """`test` on a started fleet, in virtual time."""

        async def whole() -> None:
            fleet = Fleet(options)
            fleet.start()
            await test(fleet)
            fleet.close()

        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(whole())


@pytest.fixture
def world() -> World:
    return World()
