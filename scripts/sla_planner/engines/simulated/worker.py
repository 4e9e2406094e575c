"""One simulated worker: it starts, runs one step after another, drains, and fails when told to. What a step is, is up to its role (roles.py).

A step ends at an absolute deadline on the event loop's clock, and the next one begins there: one timer per worker, no task, whatever the batch.

States: starting -> ready -> draining -> gone. GPU-seconds are charged from launch to exit, start-up and drain included.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from sla_planner.engines.simulated.options import Role
from sla_planner.engines.simulated.routing import Request, State
from sla_planner.engines.simulated.timing import Durations, StepStatistics
from sla_planner.model.batching import BatchingLaw

MAX_LAG_S = 0.25  # a loop that was held up for longer does not try to catch up


@dataclass(slots=True)
class Shared:
    """What the workers of a fleet share."""

    law: BatchingLaw
    durations: Durations
    waiting: deque[Request]  # prompts, first come first served
    statistics: StepStatistics = field(default_factory=StepStatistics)


class Dispatch(Protocol):
    """What a worker tells its fleet."""

    shared: Shared

    def prefilled(self, batch: Iterable[Request], now_s: float) -> None: ...

    def slot_freed(self) -> None: ...

    def state_changed(self, worker: Worker) -> None: ...


class Worker(ABC):
    """Lifecycle, step clock and faults; the roles say what a step is."""

    role: Role

    def __init__(self, name: str, gpus: int, fleet: Dispatch) -> None:
        self.name = name
        self.gpus = gpus
        self.state = State.STARTING
        self.hung = False
        self.slowness = 1.0
        self._fleet = fleet
        self._shared = fleet.shared
        self._loop = asyncio.get_running_loop()
        self._launched_s = self._loop.time()
        self._start_timer: asyncio.TimerHandle | None = None
        self._step_timer: asyncio.TimerHandle | None = None
        self._busy = False
        self._lawful_s = self._begun_s = self._deadline_s = 0.0

    # what a role is

    @property
    @abstractmethod
    def load(self) -> int:
        """Requests it holds."""

    @property
    @abstractmethod
    def kv_tokens(self) -> int:
        """KV held by these requests."""

    @abstractmethod
    def drop(self, request: Request) -> None:
        """Let go of a request that it holds."""

    @abstractmethod
    def _begin(self) -> float | None:
        """Start the next step: its lawful duration in seconds, or None when there is nothing to do."""

    @abstractmethod
    def _finish(self, now_s: float) -> None:
        """The step that `_begin` started is over."""

    @abstractmethod
    def _evict(self) -> list[Request]:
        """Give up every request."""

    def describe(self) -> dict[str, Any]:
        """For /sim/state."""
        return {
            "name": self.name,
            "state": self.state,
            "requests": self.load,
            "kv_tokens": self.kv_tokens,
            "hung": self.hung,
            "slowness": self.slowness,
        }

    # lifecycle

    def launch(self, startup_s: float) -> None:
        self._enter(State.STARTING)
        if startup_s > 0:
            self._start_timer = self._loop.call_later(startup_s, self._become_ready)
        else:
            self._become_ready()

    def drain(self) -> None:
        """Take no new work and leave when the present work is done; at once when there is none."""
        idle = self.state is State.STARTING or not self._busy
        self._enter(State.DRAINING)
        if idle:
            self.stop()

    def stop(self) -> None:
        """Leave now. The requests it holds, if any, hear nothing more."""
        self._cancel_timers()
        self._enter(State.GONE)

    def gpu_seconds(self) -> float:
        return self.gpus * (self._loop.time() - self._launched_s)

    def _become_ready(self) -> None:
        self._start_timer = None
        self._enter(State.READY)

    def _enter(self, state: State) -> None:
        self.state = state
        self._fleet.state_changed(self)

    def _cancel_timers(self) -> None:
        for timer in (self._start_timer, self._step_timer):
            if timer is not None:
                timer.cancel()
        self._start_timer = self._step_timer = None
        self._busy = False

    # the step clock

    def kick(self, *, waited: bool = False) -> None:
        """There may be something to do. `waited`: there was already when the last step ended, so that the next one counts from there."""
        if not self._busy and self.state is State.READY:
            now_s = self._loop.time()
            self._next_step(max(self._deadline_s, now_s - MAX_LAG_S) if waited else now_s, now_s)

    def _next_step(self, start_s: float, now_s: float) -> None:
        duration_s = self._begin()
        self._busy = duration_s is not None
        if duration_s is None:
            if self.state is State.DRAINING:
                self.stop()
            return
        self._lawful_s = duration_s * self.slowness
        self._begun_s = now_s
        self._deadline_s = start_s + self._lawful_s
        if not self.hung:
            self._step_timer = self._loop.call_at(self._deadline_s, self._wake)

    def _wake(self) -> None:
        now_s = self._loop.time()
        self._step_timer = None
        self._shared.statistics.record(self._lawful_s, now_s - self._begun_s, now_s - self._deadline_s, now_s)
        self._finish(now_s)
        self._next_step(max(self._deadline_s, now_s - MAX_LAG_S), now_s)

    # faults

    def slow_down(self, factor: float) -> None:
        """Steps that begin from now on take `factor` times as long."""
        self.slowness = factor

    def hang(self) -> None:
        """No progress until `resume`. It stays in rotation: nobody has noticed yet."""
        self.hung = True
        if self._step_timer is not None:
            self._step_timer.cancel()
            self._step_timer = None

    def resume(self) -> None:
        """Go on; a step that was interrupted starts again."""
        if not self.hung:
            return
        self.hung = False
        if self._busy:
            self._begun_s = self._loop.time()
            self._deadline_s = self._begun_s + self._lawful_s
            self._step_timer = self._loop.call_at(self._deadline_s, self._wake)

    def crash(self) -> None:
        """Its requests fail; it restarts in place, with a start-up of its own, or leaves if it was draining."""
        draining = self.state is State.DRAINING
        victims = self._evict()
        self._cancel_timers()
        self.hung = False
        self.slowness = 1.0
        if draining:
            self.stop()
        else:
            self.launch(self._shared.durations.startup_s())
        for request in victims:
            request.worker = None
            request.sink.failed(f"worker {self.name} crashed")
