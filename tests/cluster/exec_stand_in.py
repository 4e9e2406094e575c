"""The exec endpoint of a Kubernetes API: a websocket on loopback, behind it real programs or whatever a test says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from aiohttp import ClientSession, WSMsgType, web
from kubernetes.client.configuration import Configuration

from sla_planner.cluster.api import KubernetesApi

STDIN, STDOUT, STDERR, STATUS = (bytes([channel]) for channel in range(4))
PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")

Behaviour = Callable[[web.WebSocketResponse, list[str]], Awaitable[None]]


@dataclass
class ExecStandIn:
    """`behaviour` is what happens behind a connection; `refuse`: HTTP status and message instead of one. All that is no exec goes on to `behind`."""

    url: str = ""
    behind: str = ""
    behaviour: Behaviour | None = None
    refuse: tuple[int, str] | None = None
    asked: list[web.Request] = field(default_factory=list)

    def api(self) -> KubernetesApi:
        configuration = Configuration()
        configuration.host = self.url
        configuration.api_key = {"authorization": "Bearer a-token"}
        return KubernetesApi(configuration, "here", patience_s=0.0)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        if self.refuse:
            status, message = self.refuse
            return web.json_response({"kind": "Status", "message": message}, status=status)
        connection = web.WebSocketResponse(protocols=PROTOCOLS)
        await connection.prepare(request)
        assert self.behaviour is not None
        await self.behaviour(connection, request.query.getall("command"))
        return connection

    async def pass_on(self, request: web.Request) -> web.StreamResponse:
        body, headers = await request.read(), {"Content-Type": request.headers.get("Content-Type", "")}
        async with ClientSession() as session, session.request(request.method, self.behind + request.path_qs, data=body, headers=headers) as answer:
            response = web.StreamResponse(status=answer.status)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
        return response


async def run_program(connection: web.WebSocketResponse, command: list[str]) -> None:
    """As a kubelet does: stdin from the websocket, stdout and stderr to it, then how it ended."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None

    async def forward(stream: asyncio.StreamReader, channel: bytes) -> None:
        while data := await stream.read(32 * 1024):
            await connection.send_bytes(channel + data)

    async def feed(stdin: asyncio.StreamWriter) -> None:
        async for message in connection:
            if message.type is WSMsgType.BINARY and message.data[:1] == STDIN:
                stdin.write(message.data[1:])
                await stdin.drain()
        stdin.close()

    feeding = asyncio.ensure_future(feed(process.stdin))
    try:
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(forward(process.stdout, STDOUT), forward(process.stderr, STDERR))
            code = await process.wait()
            await connection.send_bytes(STATUS + json.dumps(status_of(code)).encode())
            await connection.close()
    finally:
        feeding.cancel()
        process._transport.close()  # type: ignore[attr-defined]  # kills it if it still runs


def status_of(code: int) -> dict[str, object]:
    """The Status object that ends an exec."""
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    cause = {"reason": "ExitCode", "message": str(code if code > 0 else 128 - code)}
    message = f"command terminated with non-zero exit code: command terminated with exit code {cause['message']}"
    return {"status": "Failure", "message": message, "reason": "NonZeroExitCode", "details": {"causes": [cause]}}


@contextlib.contextmanager
def exec_stand_in(behind: str = "") -> Iterator[ExecStandIn]:
    """One on a free loopback port, for as long as the block lasts."""
    stand_in, loop, started = ExecStandIn(behind=behind, behaviour=run_program), asyncio.new_event_loop(), threading.Event()
    application = web.Application()
    application.router.add_get("/api/v1/namespaces/{namespace}/pods/{pod}/exec", stand_in.answer)
    application.router.add_route("*", "/{rest:.*}", stand_in.pass_on)
    runner = web.AppRunner(application, shutdown_timeout=0.1)

    async def start() -> None:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        stand_in.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        started.set()

    def serve() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    started.wait()
    try:
        yield stand_in
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
