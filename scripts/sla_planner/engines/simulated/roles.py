"""What a step is, by role.

    prefill   takes prompts from the head of the shared queue (`BatchingLaw.take`); their first tokens come when the batch ends
    decode    every running request gets one token per step; requests that arrived during a step join at the next
    agg       both on one worker: a prefill batch, if the KV cache and the sequence limit admit one, is always followed by at least one decode step

A draining prefill worker leaves after its batch, a draining decode worker when it is empty.
"""

from __future__ import annotations

from itertools import islice

from sla_planner.engines.simulated.options import Role
from sla_planner.engines.simulated.routing import Request, State
from sla_planner.engines.simulated.worker import Dispatch, Worker


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
        self._fleet.prefilled(self._evict(), now_s)

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
