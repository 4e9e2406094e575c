"""An event loop in which nothing is waited for: when no socket has anything to say, the clock goes on to the next timer.

Engine and client are on the same loop and talk through loopback sockets, where what was sent is there to be received at once. So a timer is due only
when everybody has done what they had to do, and work takes no time at all: latencies are those of the engine's law on any machine, however busy.
Work in threads is waited for, and the clock stands still meanwhile.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from sla_planner.sweep import measure
from sla_planner.traffic import replay
from sla_planner.traffic.client import StreamingClient
from sla_planner.traffic.loop_lag import LoopLag

ARRIVAL_S = 0.0002  # in real time: what a busy kernel may take to hand a packet on


class SimulatedClock:
    """Seconds. `loop` is a loop that lives by it."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def loop(self) -> asyncio.AbstractEventLoop:
        return _Loop(self)

    def rule(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever measures an engine looks at this clock."""
        for module in (measure, replay):
            monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=self, monotonic=self))
        monkeypatch.setitem(StreamingClient.__init__.__kwdefaults__, "clock", self)
        monkeypatch.setattr(LoopLag.__init__, "__defaults__", (self,))


class _Selector(selectors.EpollSelector):
    def __init__(self, clock: SimulatedClock) -> None:
        super().__init__()
        self._clock = clock
        self.in_threads = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0 or self.in_threads:
            return super().select(timeout)
        if events := super().select(ARRIVAL_S):
            return events
        self._clock.now_s += timeout
        return []


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: SimulatedClock) -> None:
        self._clock, self._waits = clock, _Selector(clock)
        super().__init__(self._waits)

    def time(self) -> float:
        return self._clock()

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        self._waits.in_threads += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._back)
        return future

    def _back(self, _: asyncio.Future[Any]) -> None:
        self._waits.in_threads -= 1
