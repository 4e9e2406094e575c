"""Runs the simulated engine until SIGINT or SIGTERM: the fleet, its HTTP front, faults asked for in advance, and the virtual target it follows."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from sla_planner.engines.simulated.faults import Fault
from sla_planner.engines.simulated.fleet import Fleet
from sla_planner.engines.simulated.options import FleetOptions
from sla_planner.engines.simulated.server import EngineServer
from sla_planner.engines.simulated.timing import precise_event_loop
from sla_planner.engines.simulated.virtual import DecisionSource, follow
from sla_planner.errors import UsageError

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


def serve(options: ServeOptions, announce: Callable[[str], None]) -> None:
    """Blocks. `announce` is called with the URL once requests are answered. Errors: `UsageError` when the address cannot be bound."""
    with asyncio.Runner(loop_factory=precise_event_loop) as runner:
        runner.run(_serve(options, announce))


@dataclass(frozen=True, slots=True)
class RunningEngine:
    """`following` ends only with an error."""

    url: str
    fleet: Fleet
    following: asyncio.Task[None] | None


@contextlib.asynccontextmanager
async def running(options: ServeOptions) -> AsyncIterator[RunningEngine]:
    """The engine, answering requests. Errors: `UsageError` when the address cannot be bound, or a fault strikes no worker."""
    fleet = Fleet(options.fleet)
    fleet.start()
    server = EngineServer(fleet, options.model)
    # A handler is cancelled when its client goes: that is what frees the request's slot.
    front = web.AppRunner(server.app(), access_log=None, handler_cancellation=True, shutdown_timeout=SHUTDOWN_S)
    await front.setup()
    following = None
    try:
        url = await _listen(front, options.host, options.port)
        for fault in options.faults:
            server.faults.inject(fault)
        if options.target is not None:
            following = asyncio.create_task(follow(fleet, options.target))
        yield RunningEngine(url, fleet, following)
    finally:
        if following is not None:
            following.cancel()
        fleet.close()
        await front.cleanup()


async def _serve(options: ServeOptions, announce: Callable[[str], None]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with running(options) as engine:
        announce(engine.url)
        ends: list[asyncio.Task[Any]] = [asyncio.create_task(stop.wait())]
        if engine.following is not None:
            ends.append(engine.following)
        ended, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        ended.pop().result()


async def _listen(front: web.AppRunner, host: str, port: int) -> str:
    try:
        await web.TCPSite(front, host, port, backlog=1024).start()
    except OSError as error:
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror or error}", hint="free it, or take --port 0 for any free port") from None
    bound = front.addresses[0]
    return f"http://[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"http://{bound[0]}:{bound[1]}"
