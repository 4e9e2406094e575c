"""A frontend's workers when each is a process of its own: they are found, connected (link.py), used like those of a fleet, and forgotten.

Every `LOOK_EVERY_S` the names are resolved. An address that is new gets a connection, which lives until the worker ends it: DNS finds workers, only
the connection tells whether they are there (a worker that drains has left DNS and still streams).

A prefill worker that is free gets the next batch of the one queue, by its own limits. When a worker goes away or loses a request, the request goes to
another one, at the head of the queue, if it has got nothing from this one yet; otherwise its client has seen half an answer, and it fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import aiohttp

from sla_planner.engines.simulated.link import HEARTBEAT_S, PATH, Introduction, Message, Outbox
from sla_planner.engines.simulated.options import Role
from sla_planner.engines.simulated.places import Place, addresses_of
from sla_planner.engines.simulated.routing import Decoding, Request, Routed, Routing, State
from sla_planner.model.batching import BatchingLaw
from sla_planner.model.engine import Engine

LOOK_EVERY_S = 1.0
CONNECT_S = 5.0
UNKNOWN_KV_TOKENS = 2**40  # before a decode worker has told: nothing is too long

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ElsewhereOptions:
    """Where the workers of each role are. `seed`: of output lengths."""

    prefill_at: tuple[Place, ...]
    decode_at: tuple[Place, ...]
    seed: int = 0


class RemoteWorker(ABC):
    """The frontend's end of a link."""

    role: Role

    def __init__(self, name: str, introduction: Introduction, routing: Routing, outbox: Outbox) -> None:
        self.name = name
        self.state = introduction.state
        self.max_kv_tokens = introduction.max_kv_tokens
        self._law = _law_of(introduction)
        self._routing = routing
        self._outbox = outbox
        self._loop = asyncio.get_running_loop()
        self._held: dict[int, Request] = {}
        self._next_number = 0

    @property
    def load(self) -> int:
        return len(self._held)

    @property
    def kv_tokens(self) -> int:
        return sum(request.kv_tokens for request in self._held.values())

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "state": self.state, "requests": self.load, "kv_tokens": self.kv_tokens}

    @abstractmethod
    def kick(self) -> None:
        """There may be something to do."""

    @abstractmethod
    def drop(self, request: Request) -> None:
        """The client of a request that it holds has gone."""

    @abstractmethod
    def _tokens(self, numbers: Iterable[int]) -> None:
        """One more token for each."""

    @abstractmethod
    def _lost(self, requests: list[Request]) -> None:
        """It has these no more."""

    def told(self, message: Message) -> None:
        """By the worker."""
        if "state" in message:
            self.state = State(message["state"])
        if numbers := message.get("tokens"):
            self._tokens(numbers)
        if numbers := message.get("lost"):
            self._lose(numbers)
        self._routing.has_ready_worker()

    def gone(self) -> None:
        self.state = State.GONE
        self._lose(list(self._held))
        self._routing.has_ready_worker()

    def _hold(self, request: Request) -> None:
        request.worker = self
        self._held[self._next_number] = request
        self._outbox.add("take", (self._next_number, request.isl_tokens, request.osl_tokens))
        self._next_number += 1

    def _lose(self, numbers: Iterable[int]) -> None:
        requests = [self._held.pop(number) for number in numbers if number in self._held]
        for request in requests:
            request.worker = None
        self._lost([request for request in requests if not request.dropped])


class RemotePrefill(RemoteWorker):
    """It is free when it has answered everything."""

    role = Role.PREFILL

    def kick(self) -> None:
        self._give()

    def drop(self, request: Request) -> None:
        """The batch is computed as a whole: the worker is free when it ends, not sooner."""
        request.dropped = True

    def _give(self, *, waited: bool = False) -> None:
        if self._held or self.state is not State.READY:
            return
        waiting = self._routing.waiting
        for _ in range(self._law.take([request.isl_tokens for request in islice(waiting, self._law.max_sequences)])):
            self._hold(waiting.popleft())
        if self._held and waited:
            self._outbox.set("waited", True)

    def _tokens(self, numbers: Iterable[int]) -> None:
        batch = [self._held.pop(number) for number in numbers if number in self._held]
        self._give(waited=True)
        self._routing.prefilled([request for request in batch if not request.dropped], self._loop.time())

    def _lost(self, requests: list[Request]) -> None:
        self._routing.waiting.extendleft(reversed(requests))


class RemoteDecode(RemoteWorker):
    role = Role.DECODE

    def __init__(self, name: str, introduction: Introduction, routing: Routing, outbox: Outbox) -> None:
        super().__init__(name, introduction, routing, outbox)
        self._reserved_tokens = 0
        self._numbers: dict[Request, int] = {}

    def kick(self) -> None:
        """It starts by itself."""

    def admits(self, request: Request) -> bool:
        return self._law.admits(self.load, self._reserved_tokens, request.isl_tokens + request.osl_tokens)

    def join(self, request: Request) -> None:
        self._numbers[request] = self._next_number
        self._reserved_tokens += request.isl_tokens + request.osl_tokens
        self._hold(request)

    def drop(self, request: Request) -> None:
        number = self._numbers[request]
        del self._held[number]
        self._release(request)
        self._outbox.add("drop", number)

    def _tokens(self, numbers: Iterable[int]) -> None:
        now_s = self._loop.time()
        for number in numbers:
            request = self._held.get(number)  # None: dropped while the token was on its way
            if request is not None and request.emit(now_s):
                del self._held[number]
                self._release(request)
                request.sink.done()

    def _lost(self, requests: list[Request]) -> None:
        again = []
        for request in requests:
            self._release(request)
            if request.emitted > 1:
                request.sink.failed(f"decode worker {self.name} has lost this request")
            else:
                again.append(request)
        self._routing.handover.extendleft(reversed(again))

    def _release(self, request: Request) -> None:
        del self._numbers[request]
        request.worker = None
        self._reserved_tokens -= request.isl_tokens + request.osl_tokens


REMOTE_TYPES: dict[Role, type[RemotePrefill] | type[RemoteDecode]] = {Role.PREFILL: RemotePrefill, Role.DECODE: RemoteDecode}


class WorkersElsewhere(Routing):
    """Lives on the running event loop, from `start()` to `close()`."""

    def __init__(self, options: ElsewhereOptions) -> None:
        super().__init__()
        self._places = {Role.PREFILL: options.prefill_at, Role.DECODE: options.decode_at}
        self._workers: dict[Role, list[RemoteWorker]] = {role: [] for role in self._places}
        self._max_kv_tokens = UNKNOWN_KV_TOKENS
        self._links: dict[tuple[Role, Place], asyncio.Task[None]] = {}
        self._looks: list[asyncio.Task[None]] = []

    @property
    def roles(self) -> tuple[Role, ...]:
        return tuple(self._workers)

    @property
    def max_kv_tokens(self) -> int:
        """As the decode worker said that came last."""
        return self._max_kv_tokens

    def workers(self, role: Role | None = None) -> Iterator[Routed]:
        for each in (role,) if role else self.roles:
            yield from self._workers[each]

    def decoding(self) -> Iterator[Decoding]:
        return (worker for worker in self._workers[Role.DECODE] if isinstance(worker, RemoteDecode))

    def start(self) -> None:
        self._looks = [asyncio.create_task(self._look(role, place)) for role, places in self._places.items() for place in places]

    def close(self) -> None:
        for task in (*self._looks, *self._links.values()):
            task.cancel()

    # a worker's way through here

    def come(self, name: str, introduction: Introduction, outbox: Outbox) -> RemoteWorker:
        worker = REMOTE_TYPES[introduction.role](name, introduction, self, outbox)
        if introduction.role is Role.DECODE:
            self._max_kv_tokens = introduction.max_kv_tokens
        self._workers[introduction.role].append(worker)
        self.has_ready_worker()
        return worker

    def go(self, worker: RemoteWorker) -> None:
        self._workers[worker.role].remove(worker)
        worker.gone()

    # finding and connecting

    async def _look(self, role: Role, place: Place) -> None:
        while True:
            for address in await addresses_of(place):
                if (role, address) not in self._links:
                    self._links[role, address] = asyncio.create_task(self._connect(role, address))
            await asyncio.sleep(LOOK_EVERY_S)

    async def _connect(self, role: Role, address: Place) -> None:
        """Until the connection ends. Whoever does not answer is asked again by the next look."""
        try:
            await self._talk(role, address)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            log.debug("%s worker %s: %s", role, address.url, error)
        finally:
            del self._links[role, address]

    async def _talk(self, role: Role, address: Place) -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            http.ws_connect(address.url + PATH, heartbeat=HEARTBEAT_S, max_msg_size=0) as websocket,
        ):
            introduction = Introduction.of(await websocket.receive_json(timeout=CONNECT_S))
            if introduction.role is not role:
                log.warning("%s is a %s worker, not one for %s: not used", address.url, introduction.role, role)
                return
            outbox = Outbox()
            worker = self.come(f"{address.host}:{address.port}", introduction, outbox)
            log.info("%s worker %s has come (%s)", role, worker.name, worker.state)
            delivery = asyncio.create_task(_deliver(outbox, websocket))
            try:
                while worker.state is not State.GONE:
                    message = await websocket.receive()
                    if message.type is not aiohttp.WSMsgType.TEXT:
                        break
                    worker.told(json.loads(message.data))
            finally:
                delivery.cancel()
                log.info("%s worker %s has gone, with %d requests", role, worker.name, worker.load)
                self.go(worker)


async def _deliver(outbox: Outbox, websocket: aiohttp.ClientWebSocketResponse) -> None:
    """Ends when the connection does; whoever reads from it notices too."""
    with contextlib.suppress(ConnectionError, aiohttp.ClientError):
        await outbox.deliver(websocket.send_str)


@dataclass(frozen=True, slots=True)
class _Capacity:
    max_kv_tokens: int


@dataclass(frozen=True, slots=True)
class _Limited:
    decode: _Capacity


def _law_of(introduction: Introduction) -> BatchingLaw:
    """Of this law a frontend asks what fits, never how long it takes; for that the limits are all of the engine that is looked at."""
    engine = cast(Engine, _Limited(_Capacity(introduction.max_kv_tokens)))
    return BatchingLaw(engine, introduction.max_batched_tokens, introduction.max_sequences)
