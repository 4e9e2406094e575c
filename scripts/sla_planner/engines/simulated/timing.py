"""How long a step lasts, and how well the wall clock kept to it.

Duration of a step, from the laws of `model.batching`:

    duration_s = law_ms / 1000 * (1 + model_error_percent/100) / time_scale * exp(noise*Z - noise^2/2),   Z ~ N(0, 1)

Steps run against absolute deadlines (deadline of a step = deadline of the one before + duration), so a late wake-up shortens the next step instead of
adding up. The statistics tell how far the real steps were from the lawful ones:

    error = |real_s - lawful_s| / lawful_s          real_s: from wake-up to wake-up
    late  = woken more than max(10 % of the step, 1 ms) after its deadline

An asyncio loop on epoll wakes on whole milliseconds, which is a tenth of a short step; `precise_event_loop` waits on microseconds.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import select
import selectors
from collections import deque

from sla_planner.engines.simulated.options import FleetOptions

LATE_SHARE_OF_STEP = 0.10
LATE_FLOOR_S = 0.001
TOLERATED_LATE_SHARE = 0.10
WINDOW_STEPS = 1000
WARN_EVERY_S = 30.0

log = logging.getLogger(__name__)


class Durations:
    """Times in wall-clock seconds. Draws from a generator of its own, so one seed gives one sequence."""

    def __init__(self, options: FleetOptions) -> None:
        self._law = options.law
        self._startup_s = options.startup_s / options.time_scale
        self._jitter_s = options.startup_jitter_s / options.time_scale
        self._s_per_law_ms = (1 + options.model_error_percent / 100) / options.time_scale / 1000
        self._noise = options.noise
        self._random = random.Random(options.seed)

    def prefill_s(self, isl_total: int) -> float:
        return self._law.prefill_ms(isl_total) * self._factor()

    def decode_s(self, batch: int, kv_tokens: int) -> float:
        return self._law.step_ms(batch, kv_tokens) * self._factor()

    def startup_s(self) -> float:
        return self._startup_s + self._jitter_s * self._random.random()

    def _factor(self) -> float:
        if not self._noise:
            return self._s_per_law_ms
        return self._s_per_law_ms * math.exp(self._random.gauss(-(self._noise**2) / 2, self._noise))


class StepStatistics:
    """How real steps compare with lawful ones. Percentiles and `late_share` look at the last `WINDOW_STEPS` steps of all workers."""

    def __init__(self) -> None:
        self.steps = 0
        self.late_steps = 0
        self._errors: deque[float] = deque(maxlen=WINDOW_STEPS)
        self._late: deque[bool] = deque(maxlen=WINDOW_STEPS)
        self._late_in_window = 0
        self._warned_s = -math.inf

    def record(self, lawful_s: float, real_s: float, late_s: float, now_s: float) -> None:
        late = late_s > max(LATE_SHARE_OF_STEP * lawful_s, LATE_FLOOR_S)
        if len(self._late) == WINDOW_STEPS:
            self._late_in_window -= self._late[0]
        self._late.append(late)
        self._errors.append(abs(real_s - lawful_s) / lawful_s)
        self._late_in_window += late
        self.late_steps += late
        self.steps += 1
        if late and len(self._late) == WINDOW_STEPS and not self.keeps_up and now_s - self._warned_s > WARN_EVERY_S:
            self._warned_s = now_s
            log.warning("cannot keep up: %.0f %% of the last steps were late; latencies are worse than the profile's", 100 * self.late_share)

    @property
    def late_share(self) -> float:
        return self._late_in_window / len(self._late) if self._late else 0.0

    @property
    def keeps_up(self) -> bool:
        return self.late_share <= TOLERATED_LATE_SHARE

    def error_percentiles(self) -> tuple[float, float]:
        """(p50, p95) of the relative error; zeros before the first step."""
        ordered = sorted(self._errors) or [0.0]
        return ordered[len(ordered) // 2], ordered[min(len(ordered) * 95 // 100, len(ordered) - 1)]


def precise_event_loop() -> asyncio.AbstractEventLoop:
    """An event loop whose timers are good to about 0.1 ms: epoll's timeout counts whole milliseconds, select's counts microseconds."""
    if not hasattr(selectors, "EpollSelector"):
        return asyncio.new_event_loop()  # kqueue has fine timeouts of its own

    class PreciseSelector(selectors.EpollSelector):
        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            if timeout is not None and timeout > 0:
                select.select([self.fileno()], [], [], timeout)
                timeout = 0
            return super().select(timeout)

    return asyncio.SelectorEventLoop(PreciseSelector())
