"""Runs the simulated engine until SIGINT or SIGTERM: the fleet, its HTTP front, faults asked for in advance, and the virtual target it follows.

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
from sla_planner.engines.simulated.faults import Fault, LastWords
from sla_planner.engines.simulated.fleet import Fleet
from sla_planner.engines.simulated.options import FleetOptions
from sla_planner.engines.simulated.server import EngineServer
from sla_planner.engines.simulated.timing import precise_event_loop
from sla_planner.engines.simulated.virtual import DecisionSource, follow
from sla_planner.errors import UsageError
from sla_planner.traffic.client import allow_open_connections

SHUTDOWN_S = 0.5  # for streams that end by themselves; the rest is cut


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """`port` 0 takes a free one. `target` scales the fleet, None leaves it as it is."""

    fleet: FleetOptions
    model: str
    host: str = "127.0.0.1"
    port: int = 8000
    faults: tuple[Fault, ...] = ()
    target: DecisionSource[Any] | None = None
    prompts: Prompts = Prompts.IDS


def serve(options: ServeOptions, announce: Callable[[str], None]) -> None:
    """Blocks. `announce` is called with the URL once requests are answered. Errors: `UsageError` when the address cannot be bound."""
    with asyncio.Runner(loop_factory=precise_event_loop) as runner:
        runner.run(_serve(options, announce))


@dataclass(frozen=True, slots=True)
class RunningEngine:
    """`following` ends only with an error, `ended` only with an `exit` fault."""

    url: str
    fleet: Fleet
    following: asyncio.Task[None] | None
    ended: asyncio.Future[LastWords]


@contextlib.asynccontextmanager
async def running(options: ServeOptions) -> AsyncIterator[RunningEngine]:
    """The engine, answering requests. Errors: `UsageError` when the address cannot be bound, or a fault strikes no worker."""
    fleet = Fleet(options.fleet)
    fleet.start()
    server = EngineServer(fleet, options.model, options.prompts)
    # A handler is cancelled when its client goes: that is what frees the request's slot.
    front = web.AppRunner(server.app(), access_log=None, handler_cancellation=True, shutdown_timeout=SHUTDOWN_S)
    await front.setup()
    following = cut = None
    try:
        url = await _listen(front, options.host, options.port)
        cut = asyncio.create_task(_cut_when_ended(front, server.faults.ended))
        for fault in options.faults:
            server.faults.inject(fault)
        if options.target is not None:
            following = asyncio.create_task(follow(fleet, options.target))
        yield RunningEngine(url, fleet, following, server.faults.ended)
    finally:
        for task in (following, cut):
            if task is not None:
                task.cancel()
        fleet.close()
        await front.cleanup()


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
