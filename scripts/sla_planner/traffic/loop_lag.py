"""How late the event loop runs: one process sends and times everything on one loop, so that its delays are in every latency.

A tick every `TICK_S` by a fixed schedule, lag = when it ran - when it was due. A stall counts once for every tick that it swallowed: percentiles are
over time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import numpy as np

TICK_S = 0.01


class LoopLag:
    """Measures while `measure()` runs, until it is cancelled."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lag_s: list[float] = []

    async def measure(self) -> None:
        due_s = self._clock() + TICK_S
        while True:
            await asyncio.sleep(max(due_s - self._clock(), 0.0))
            now_s = self._clock()
            while due_s <= now_s:
                self._lag_s.append(now_s - due_s)
                due_s += TICK_S

    @property
    def p99_ms(self) -> float:
        """Nearest rank; 0 before the first tick."""
        return float(np.percentile(self._lag_s or [0.0], 99, method="inverted_cdf")) * 1e3
