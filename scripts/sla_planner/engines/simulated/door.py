"""A worker as a process of its own: frontends connect, hand it requests and get tokens (link.py). The worker is that of a fleet of one.

Whatever a frontend asks, the worker's own law decides: prompts beyond a batch and requests beyond the KV cache wait in the fleet's queues, as they do
in one process. So several frontends can share a worker.

When it has drained it says that it is gone, upon which frontends hang up: what was said before has arrived.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging

from aiohttp import WSMsgType, web

from sla_planner.engines.simulated.fleet import Fleet
from sla_planner.engines.simulated.link import HEARTBEAT_S, PATH, Introduction, Message, Outbox
from sla_planner.engines.simulated.options import Role
from sla_planner.engines.simulated.routing import Request, State
from sla_planner.engines.simulated.worker import Worker

log = logging.getLogger(__name__)


class RemoteSink:
    """Tells the frontend that asked."""

    __slots__ = ("_frontend", "_number")

    def __init__(self, frontend: Frontend, number: int) -> None:
        self._frontend = frontend
        self._number = number

    def token(self, now_s: float) -> None:  # noqa: ARG002 - the frontend has a clock of its own
        self._frontend.outbox.add("tokens", self._number)

    def done(self) -> None:
        self._frontend.requests.pop(self._number, None)

    def failed(self, message: str) -> None:  # noqa: ARG002 - the frontend knows who it talks to
        self.done()
        self._frontend.outbox.add("lost", self._number)


class Frontend:
    """One that is connected, as the worker sees it."""

    def __init__(self, fleet: Fleet, worker: Worker) -> None:
        self.outbox = Outbox()
        self.requests: dict[int, Request] = {}
        self._fleet = fleet
        self._worker = worker

    def told(self, message: Message) -> None:
        takes = message.get("take", ())
        if self._worker.state is State.READY:
            self._take(takes, waited=bool(message.get("waited")))
        else:
            for number, _, _ in takes:
                self.outbox.add("lost", number)
        for number in message.get("drop", ()):
            if (request := self.requests.pop(number, None)) is not None:
                self._fleet.cancel(request)

    def gone(self) -> None:
        """Nobody listens any more."""
        for request in self.requests.values():
            self._fleet.cancel(request)
        self.requests.clear()

    def _take(self, takes: list[tuple[int, int, int]], *, waited: bool) -> None:
        prefills = self._worker.role is Role.PREFILL
        requests = []
        for number, isl_tokens, osl_tokens in takes:
            sink = RemoteSink(self, number)
            request = Request(isl_tokens, 1, sink) if prefills else Request(isl_tokens, osl_tokens, sink, emitted=1)
            self.requests[number] = request
            requests.append(request)
        if prefills:
            self._fleet.waiting.extend(requests)
            self._worker.kick(waited=waited)
        else:
            self._fleet.hand_over(requests)


class WorkerDoor:
    """`fleet` must have been started, and be one worker."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._worker = next(fleet.workers())
        self._frontends: set[Frontend] = set()
        self._websockets: set[web.WebSocketResponse] = set()
        self._left = asyncio.Event()
        fleet.watcher = self._state_changed

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get(PATH, self._serve)

    def connect(self) -> tuple[Introduction, Frontend]:
        law = self._fleet.options.law
        frontend = Frontend(self._fleet, self._worker)
        self._frontends.add(frontend)
        limits = law.engine.decode.max_kv_tokens, law.max_batched_tokens, law.max_sequences
        return Introduction(self._worker.role, self._worker.state, *limits), frontend

    def disconnect(self, frontend: Frontend) -> None:
        self._frontends.remove(frontend)
        frontend.gone()
        self._leave_if_done()

    async def drain(self, limit_s: float) -> None:
        """No new requests. Returns when those it has are finished and every frontend has heard so, or after `limit_s`."""
        if self._worker.state is not State.GONE:
            self._worker.drain()
        try:
            async with asyncio.timeout(limit_s):
                await self._left.wait()
        except TimeoutError:
            log.warning("the drain ends after %g s; requests that are cut: %d", limit_s, self._worker.load)
            for websocket in list(self._websockets):
                await websocket.close()

    def _state_changed(self, worker: Worker) -> None:
        for frontend in self._frontends:
            frontend.outbox.set("state", worker.state)
        self._leave_if_done()

    def _leave_if_done(self) -> None:
        if self._worker.state is State.GONE and not self._frontends:
            self._left.set()

    async def _serve(self, http: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse(heartbeat=HEARTBEAT_S, max_msg_size=0)
        await websocket.prepare(http)
        introduction, frontend = self.connect()
        self._websockets.add(websocket)
        delivery = asyncio.create_task(self._deliver(websocket, introduction, frontend))
        try:
            async for message in websocket:
                if message.type is WSMsgType.TEXT:
                    frontend.told(json.loads(message.data))
        finally:
            delivery.cancel()
            self._websockets.remove(websocket)
            self.disconnect(frontend)
        return websocket

    async def _deliver(self, websocket: web.WebSocketResponse, introduction: Introduction, frontend: Frontend) -> None:
        """Ends when the connection does; whoever reads from it notices too."""
        with contextlib.suppress(ConnectionError):
            await websocket.send_json(introduction.message())
            await frontend.outbox.deliver(websocket.send_str)
