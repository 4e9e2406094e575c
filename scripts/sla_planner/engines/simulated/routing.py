"""Who gets which request: one queue of prompts, one of prompts that are prefilled, and the workers, wherever they run. No HTTP, no timing.

    prompt --> waiting (FCFS) --> a prefill worker, in a batch --> first token
           --> handover (FCFS) --> the ready decode worker with the fewest requests that admits it --> one token per step

A request that no decode worker admits (KV full, sequence limit, none ready) waits in the handover, and those behind it wait too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from sla_planner.engines.simulated.options import Role


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


class Routed(Protocol):
    """A worker, as far as requests are concerned."""

    role: Role
    name: str
    state: State

    @property
    def load(self) -> int:
        """Requests it holds."""

    def kick(self) -> None:
        """There may be something to do."""

    def drop(self, request: Request) -> None:
        """Let go of a request that it holds."""

    def describe(self) -> dict[str, Any]:
        """For /sim/state."""


class Decoding(Routed, Protocol):
    """One that decodes."""

    def admits(self, request: Request) -> bool: ...

    def join(self, request: Request) -> None: ...


@dataclass(eq=False, slots=True)
class Request:
    """`osl_tokens` is the length the output will have; its first token comes with the end of prefill."""

    isl_tokens: int
    osl_tokens: int
    sink: Sink
    emitted: int = 0
    worker: Routed | None = None  # who holds it; None while it waits
    dropped: bool = False

    @property
    def kv_tokens(self) -> int:
        return self.isl_tokens + self.emitted

    def emit(self, now_s: float) -> bool:
        """One more token; True when it was the last."""
        self.emitted += 1
        self.sink.token(now_s)
        return self.emitted >= self.osl_tokens


class Routing(ABC):
    """Queues and routing; who the workers are is up to what is derived from it."""

    def __init__(self) -> None:
        self.waiting: deque[Request] = deque()
        self.handover: deque[Request] = deque()

    @property
    @abstractmethod
    def roles(self) -> tuple[Role, ...]:
        """Those that a request passes through here."""

    @abstractmethod
    def workers(self, role: Role | None = None) -> Iterator[Routed]:
        """Workers from launch to exit, of one role or of all."""

    @abstractmethod
    def decoding(self) -> Iterator[Decoding]:
        """Workers that take what is prefilled, from launch to exit."""

    @property
    @abstractmethod
    def max_kv_tokens(self) -> int:
        """The longest request, prompt and output, that a worker can hold."""

    @abstractmethod
    def close(self) -> None:
        """The end of every worker here."""

    # requests

    def submit(self, request: Request) -> None:
        self.waiting.append(request)
        self.feed()

    def hand_over(self, requests: Iterable[Request]) -> None:
        """Prefilled: they wait for decode."""
        self.handover.extend(requests)
        self.slot_freed()

    def cancel(self, request: Request) -> None:
        """The client has gone: free what the request holds. Nothing happens for one that is over."""
        if request.worker is not None:
            request.worker.drop(request)
            self.slot_freed()
            return
        for queue in (self.waiting, self.handover):
            if request in queue:
                queue.remove(request)

    def feed(self) -> None:
        """Idle workers that prefill look at the queue."""
        for worker in self.workers():
            if not self.waiting:
                return
            if worker.role is not Role.DECODE:
                worker.kick()

    # what workers report

    def prefilled(self, batch: Iterable[Request], now_s: float) -> None:
        """The first token of each."""
        onward = []
        for request in batch:
            request.worker = None
            if request.emit(now_s):
                request.sink.done()
            else:
                onward.append(request)
        self.hand_over(onward)

    def slot_freed(self) -> None:
        """Place what waits for decode."""
        joined: dict[Decoding, None] = {}
        while self.handover:
            able = [worker for worker in self.decoding() if worker.state is State.READY and worker.admits(self.handover[0])]
            if not able:
                break
            chosen = min(able, key=lambda worker: worker.load)
            chosen.join(self.handover.popleft())
            joined[chosen] = None
        for worker in joined:
            worker.kick()

    def has_ready_worker(self) -> None:
        self.slot_freed()
        self.feed()

    # what an observer may know

    def serves(self) -> bool:
        """Whether a request that comes now would be worked on: a ready worker in every role."""
        return all(any(worker.state is State.READY for worker in self.workers(role)) for role in self.roles)

    def describe(self) -> dict[str, Any]:
        """What /sim/state says."""
        return {
            "workers": {role: [worker.describe() for worker in self.workers(role)] for role in self.roles},
            "queued": {"prefill": len(self.waiting), "decode": len(self.handover)},
        }
