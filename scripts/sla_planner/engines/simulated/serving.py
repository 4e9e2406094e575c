"""Runs a process of the simulated engine until SIGINT or SIGTERM: its workers or its links to workers, its HTTP front, faults asked for in
advance, and the virtual target it follows.

At the end no new requests are taken, and those that run get `drain_s`: a process with a front lets its answers end, a worker that is a process of its
own finishes what it has been given.

An `exit` fault ends the whole engine. In a process of its own (`serve`) that is the end of the process: the last words on stderr, and no clean-up.
Within another process (`running`) the port is closed, every connection is cut in the middle, and `ended` says so; the block itself goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from aiohttp import web

from sla_planner.engines.simulated.api import Prompts
from sla_planner.engines.simulated.door import WorkerDoor
from sla_planner.engines.simulated.elsewhere import ElsewhereOptions, WorkersElsewhere
from sla_planner.engines.simulated.exposition import Exposition, FleetMetrics, FrontendMetrics
from sla_planner.engines.simulated.faults import Fault, FaultInjector, LastWords
from sla_planner.engines.simulated.fleet import Fleet
from sla_planner.engines.simulated.operations import Operations
from sla_planner.engines.simulated.options import FleetOptions
from sla_planner.engines.simulated.routing import Routing
from sla_planner.engines.simulated.server import MAX_BODY_BYTES, OpenAiFront, ServedModel, errors_as_json
from sla_planner.engines.simulated.timing import precise_event_loop
from sla_planner.engines.simulated.virtual import DecisionSource, follow
from sla_planner.errors import UsageError
from sla_planner.traffic.client import allow_open_connections

DRAIN_S = 0.5  # of an engine on its own: for streams that end by themselves; the rest is cut
POD_DRAIN_S = 25.0  # a pod has 30 s unless it says otherwise


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """`fleet`: workers of this process, or where others are. `port` 0 takes a free one. `target` scales the fleet, None leaves it as it is."""

    fleet: FleetOptions | ElsewhereOptions
    model: str
    host: str = "127.0.0.1"
    port: int = 8000
    faults: tuple[Fault, ...] = ()
    target: DecisionSource[Any] | None = None
    prompts: Prompts = Prompts.IDS
    drain_s: float = DRAIN_S


def serve(options: ServeOptions, announce: Callable[[str], None]) -> None:
    """Blocks. `announce` is called with the URL once requests are answered. Errors: `UsageError` when the address cannot be bound."""
    with asyncio.Runner(loop_factory=precise_event_loop) as runner:
        runner.run(_serve(options, announce))


@dataclass(frozen=True, slots=True)
class RunningEngine:
    """`following` ends only with an error, `ended` only with an `exit` fault. `door`: of a process that is one worker."""

    url: str
    fleet: Routing
    following: asyncio.Task[None] | None
    ended: asyncio.Future[LastWords]
    door: WorkerDoor | None


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a process consists of. `fleet`: its own workers, `door`: when they are one for a frontend elsewhere."""

    routing: Routing
    fleet: Fleet | None = None
    door: WorkerDoor | None = None


@contextlib.asynccontextmanager
async def running(options: ServeOptions) -> AsyncIterator[RunningEngine]:
    """The engine, answering requests. Errors: `UsageError` when the address cannot be bound, or a fault strikes no worker."""
    parts = _parts_of(options)
    faults = FaultInjector(parts.fleet)
    drain_s = DRAIN_S if parts.door else options.drain_s  # a door is drained before
    # A handler is cancelled when its client goes: that is what frees the request's slot.
    front = web.AppRunner(_app(options, parts, faults), access_log=None, handler_cancellation=True, shutdown_timeout=drain_s)
    await front.setup()
    following = cut = None
    try:
        url = await _listen(front, options.host, options.port)
        cut = asyncio.create_task(_cut_when_ended(front, faults.ended))
        for fault in options.faults:
            faults.inject(fault)
        if options.target is not None and parts.fleet is not None:
            following = asyncio.create_task(follow(parts.fleet, options.target))
        yield RunningEngine(url, parts.routing, following, faults.ended, parts.door)
    finally:
        for task in (following, cut):
            if task is not None:
                task.cancel()
        await front.cleanup()
        parts.routing.close()


def _parts_of(options: ServeOptions) -> _Parts:
    if isinstance(options.fleet, ElsewhereOptions):
        elsewhere = WorkersElsewhere(options.fleet)
        elsewhere.start()
        return _Parts(elsewhere)
    fleet = Fleet(options.fleet)
    fleet.start()
    return _Parts(fleet, fleet, WorkerDoor(fleet) if options.fleet.mode.worker_role else None)


def _app(options: ServeOptions, parts: _Parts, faults: FaultInjector) -> web.Application:
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[errors_as_json])
    counted: list[FrontendMetrics | FleetMetrics] = [FleetMetrics(parts.fleet, options.model)] if parts.fleet else []
    if parts.door is not None:
        parts.door.add_routes(app)
    else:
        metrics = FrontendMetrics(options.model)
        counted.append(metrics)
        OpenAiFront(parts.routing, faults, metrics, ServedModel(options.model, options.prompts, options.fleet.seed)).add_routes(app)
    Operations(parts.routing, faults, Exposition(*counted)).add_routes(app)
    return app


async def _serve(options: ServeOptions, announce: Callable[[str], None]) -> None:
    allow_open_connections()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running(options) as engine:
        if not engine.ended.done():
            announce(engine.url)
        ends: list[asyncio.Future[Any]] = [asyncio.create_task(stop.wait()), engine.ended]
        if engine.following is not None:
            ends.append(engine.following)
        ended, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if engine.ended in ended:
            _die(engine.ended.result())
        ended.pop().result()
        if engine.door is not None:
            await engine.door.drain(options.drain_s)


def _die(words: LastWords) -> NoReturn:
    sys.stderr.write(f"{words.message}\n")
    sys.stderr.flush()
    os._exit(words.code)


async def _cut_when_ended(front: web.AppRunner, ended: asyncio.Future[LastWords]) -> None:
    await asyncio.shield(ended)
    for site in list(front.sites):
        await site.stop()
    for connection in front.server.connections if front.server else ():
        connection.force_close()
        if connection.transport is not None:
            connection.transport.abort()


async def _listen(front: web.AppRunner, host: str, port: int) -> str:
    try:
        await web.TCPSite(front, host, port, backlog=1024).start()
    except OSError as error:
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror or error}", hint="free it, or take --port 0 for any free port") from None
    bound = front.addresses[0]
    return f"http://[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"http://{bound[0]}:{bound[1]}"
