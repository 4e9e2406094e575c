"""One simulated worker: it starts, runs one step after another, drains, and fails when told to.

A step is a prefill batch or a decode step. It ends at an absolute deadline on the event loop's clock; what ends it picks the next one:

    prefill   takes prompts from the head of the shared queue (`BatchingLaw.take`); their first tokens come when the batch ends
    decode    every running request gets one token per step; requests that arrived during a step join at the next
    agg       both on one worker: a prefill batch, if the KV cache and the sequence limit admit one, is always followed by at least one decode step

States: starting -> ready -> draining -> gone. A draining prefill worker leaves after its batch, a draining decode worker when it is empty.
GPU-seconds are charged from launch to exit, start-up and drain included.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Protocol

from sla_planner.engines.simulated.options import Role
from sla_planner.engines.simulated.timing import Durations, StepStatistics
from sla_planner.model.batching import BatchingLaw

MAX_LAG_S = 0.25  # a loop that was held up for longer does not try to catch up


class State(StrEnum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    GONE = "gone"


class Sink(Protocol):
    """Who gets the tokens. Called from the step loop of a worker: must not block."""

    def token(self, now_s: float) -> None: ...

    def done(self) -> None: ...

    def failed(self, message: str) -> None: ...


@dataclass(eq=False, slots=True)
class Request:
    """`osl_tokens` is the length the output will have; its first token comes with the end of prefill."""

    isl_tokens: int
    osl_tokens: int
    sink: Sink
    emitted: int = 0
    worker: Worker | None = None  # who holds it; None while it waits
    dropped: bool = False

    @property
    def kv_tokens(self) -> int:
        return self.isl_tokens + self.emitted

    def emit(self, now_s: float) -> bool:
        """One more token; True when it was the last."""
        self.emitted += 1
        self.sink.token(now_s)
        return self.emitted >= self.osl_tokens


@dataclass(slots=True)
class Shared:
    """What the workers of a fleet share."""

    law: BatchingLaw
    durations: Durations
    statistics: StepStatistics = field(default_factory=StepStatistics)
    waiting: deque[Request] = field(default_factory=deque)  # prompts, first come first served


class Dispatch(Protocol):
    """What a worker tells its fleet."""

    shared: Shared

    def prefilled(self, requests: Iterable[Request]) -> None: ...

    def slot_freed(self) -> None: ...

    def has_ready_worker(self) -> None: ...

    def is_gone(self, worker: Worker) -> None: ...


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

    # lifecycle

    def launch(self, startup_s: float) -> None:
        self.state = State.STARTING
        if startup_s > 0:
            self._start_timer = self._loop.call_later(startup_s, self._become_ready)
        else:
            self._become_ready()

    def drain(self) -> None:
        """Take no new work and leave when the present work is done; at once when there is none."""
        idle = self.state is State.STARTING or not self._busy
        self.state = State.DRAINING
        if idle:
            self.stop()

    def stop(self) -> None:
        """Leave now. The requests it holds, if any, hear nothing more."""
        self._cancel_timers()
        self.state = State.GONE
        self._fleet.is_gone(self)

    def gpu_seconds(self) -> float:
        return self.gpus * (self._loop.time() - self._launched_s)

    def _become_ready(self) -> None:
        self._start_timer = None
        self.state = State.READY
        self._fleet.has_ready_worker()

    def _cancel_timers(self) -> None:
        for timer in (self._start_timer, self._step_timer):
            if timer is not None:
                timer.cancel()
        self._start_timer = self._step_timer = None
        self._busy = False

    # the step clock

    def kick(self) -> None:
        """There may be something to do."""
        if not self._busy and self.state is State.READY:
            now_s = self._loop.time()
            self._next_step(now_s, now_s)

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


class PrefillWorker(Worker):
    role = Role.PREFILL

    def __init__(self, name: str, gpus: int, fleet: Dispatch) -> None:
        super().__init__(name, gpus, fleet)
        self._batch: list[Request] = []

    @property
    def load(self) -> int:
        return sum(not request.dropped for request in self._batch)

    @property
    def kv_tokens(self) -> int:
        return sum(request.isl_tokens for request in self._batch)

    def drop(self, request: Request) -> None:
        """The batch was computed as a whole: the worker is free when it ends, not sooner."""
        request.dropped = True

    def _begin(self) -> float | None:
        if self.state is State.DRAINING:
            return None
        waiting = self._shared.waiting
        count = self._shared.law.take([request.isl_tokens for request in islice(waiting, self._shared.law.max_sequences)])
        if not count:
            return None
        self._batch = [waiting.popleft() for _ in range(count)]
        for request in self._batch:
            request.worker = self
        return self._shared.durations.prefill_s(self.kv_tokens)

    def _finish(self, now_s: float) -> None:
        batch, self._batch = self._batch, []
        finish_prefill(batch, now_s, self._fleet)

    def _evict(self) -> list[Request]:
        batch, self._batch = self._batch, []
        return [request for request in batch if not request.dropped]


class DecodeWorker(Worker):
    """`running` requests share a step; `joining` ones wait for its end. Both have their KV reserved."""

    role = Role.DECODE

    def __init__(self, name: str, gpus: int, fleet: Dispatch) -> None:
        super().__init__(name, gpus, fleet)
        self._running: dict[Request, None] = {}
        self._joining: dict[Request, None] = {}
        self._kv_tokens = 0
        self._reserved_tokens = 0

    @property
    def load(self) -> int:
        return len(self._running) + len(self._joining)

    @property
    def kv_tokens(self) -> int:
        return self._kv_tokens

    def admits(self, request: Request) -> bool:
        return self._shared.law.admits(self.load, self._reserved_tokens, request.isl_tokens + request.osl_tokens)

    def join(self, request: Request) -> None:
        request.worker = self
        self._joining[request] = None
        self._kv_tokens += request.kv_tokens
        self._reserved_tokens += request.isl_tokens + request.osl_tokens

    def drop(self, request: Request) -> None:
        self._running.pop(request, None)
        self._joining.pop(request, None)
        self._kv_tokens -= request.kv_tokens
        self._reserved_tokens -= request.isl_tokens + request.osl_tokens
        request.worker = None

    def _begin(self) -> float | None:
        self._running.update(self._joining)
        self._joining.clear()
        if not self._running:
            return None
        return self._shared.durations.decode_s(len(self._running), self._kv_tokens)

    def _finish(self, now_s: float) -> None:
        batch = list(self._running)
        self._kv_tokens += len(batch)
        finished = [request for request in batch if request.emit(now_s)]
        for request in finished:
            self.drop(request)
            request.sink.done()
        if finished:
            self._fleet.slot_freed()

    def _evict(self) -> list[Request]:
        held = [*self._running, *self._joining]
        for request in held:
            self.drop(request)
        return held


class AggregatedWorker(DecodeWorker):
    """Prefill and decode in turns. A prompt reserves its KV before its prefill."""

    role = Role.AGG

    def __init__(self, name: str, gpus: int, fleet: Dispatch) -> None:
        super().__init__(name, gpus, fleet)
        self._batch: list[Request] = []  # in prefill, and in `_joining` until it ends
        self._prefilled = False

    def _begin(self) -> float | None:
        if not (self._prefilled and self.load):
            self._batch = self._take()
            if self._batch:
                self._prefilled = True
                return self._shared.durations.prefill_s(sum(request.isl_tokens for request in self._batch))
        self._prefilled = False
        return super()._begin()

    def _take(self) -> list[Request]:
        """Prompts from the head of the queue that fit one batch and whose KV fits beside what is reserved."""
        waiting, law = self._shared.waiting, self._shared.law
        batch: list[Request] = []
        for _ in range(law.take([request.isl_tokens for request in islice(waiting, law.max_sequences)])):
            if not self.admits(waiting[0]):
                break
            batch.append(waiting.popleft())
            self.join(batch[-1])
        return batch

    def _finish(self, now_s: float) -> None:
        if not self._batch:
            super()._finish(now_s)
            return
        batch, self._batch = self._batch, []
        for request in batch:
            if request.worker is self:  # else its client has gone
                self._kv_tokens += 1
                if request.emit(now_s):
                    self.drop(request)
                    request.sink.done()

    def _evict(self) -> list[Request]:
        self._batch = []
        return super()._evict()


def finish_prefill(batch: list[Request], now_s: float, fleet: Dispatch) -> None:
    """First tokens of a prefill batch; what needs more of them goes on to decode."""
    onward = []
    for request in batch:
        request.worker = None
        if request.dropped:
            continue
        if request.emit(now_s):
            request.sink.done()
        else:
            onward.append(request)
    fleet.prefilled(onward)
