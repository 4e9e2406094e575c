"""The OpenAI endpoints of the simulated engine, over workers in this process or elsewhere.

A streamed answer begins with its first token: until then a failure still gets a status code of its own. aiohttp opens and closes the answer; the
token events between go straight to the transport: a token costs a function call and a system call, not a coroutine.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from itertools import count

from aiohttp import HttpVersion11, web
from aiohttp.typedefs import Handler

from sla_planner.engines.simulated.api import ApiError, Call, Endpoint, Prompts, parse_call
from sla_planner.engines.simulated.exposition import FrontendMetrics
from sla_planner.engines.simulated.faults import FaultInjector
from sla_planner.engines.simulated.routing import Request, Routing
from sla_planner.engines.simulated.wire import DONE, AnswerText, event, http_chunk

MAX_BODY_BYTES = 64 * 2**20
ROUTES = {"/v1/chat/completions": Endpoint.CHAT, "/v1/completions": Endpoint.COMPLETIONS}


class Answer:
    """The sink of one request: counts, and streams once it is attached to a transport."""

    __slots__ = (
        "_chunk",
        "_last_chunk",
        "_metrics",
        "_osl_tokens",
        "_previous_s",
        "_sent",
        "_stream",
        "_transport",
        "emitted",
        "error",
        "finished",
        "started",
    )

    def __init__(self, osl_tokens: int, metrics: FrontendMetrics, *, arrived_s: float, stream: bool) -> None:
        self.started = asyncio.Event()
        self.finished = asyncio.Event()
        self.error: ApiError | None = None
        self.emitted = 0
        self._osl_tokens = osl_tokens
        self._metrics = metrics
        self._previous_s = arrived_s
        self._stream = stream
        self._sent = 0
        self._transport: asyncio.WriteTransport | None = None
        self._chunk = self._last_chunk = b""

    def token(self, now_s: float) -> None:
        metrics = self._metrics
        metrics.output_tokens += 1
        self.emitted += 1
        if self._stream:
            (metrics.itl_s if self.emitted > 1 else metrics.ttft_s).observe(now_s - self._previous_s)
            self._previous_s = now_s
        if self._transport is not None:
            self._sent += 1
            self._transport.write(self._chunk if self.emitted < self._osl_tokens else self._last_chunk)
        elif self.emitted == 1:
            metrics.queued -= 1
            self.started.set()

    def done(self) -> None:
        self.finished.set()

    def failed(self, message: str) -> None:
        self.error = ApiError(500, message, "internal_error")
        self.started.set()
        self.finished.set()

    def attach(self, transport: asyncio.WriteTransport, text: AnswerText) -> None:
        """From now on tokens are written as they come; those of before are written now."""
        self._chunk, self._last_chunk = http_chunk(text.token(last=False)), http_chunk(text.token(last=True))
        while self._sent < self.emitted:
            self._sent += 1
            transport.write(self._chunk if self._sent < self._osl_tokens else self._last_chunk)
        self._transport = transport


@dataclass(frozen=True, slots=True)
class ServedModel:
    """`seed`: of output lengths."""

    name: str
    prompts: Prompts = Prompts.IDS
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Served:
    """One request on its way through the front."""

    http: web.Request
    call: Call
    request: Request
    answer: Answer
    text: AnswerText


class OpenAiFront:
    """Counts in `metrics` what it serves."""

    def __init__(self, routing: Routing, faults: FaultInjector, metrics: FrontendMetrics, served: ServedModel) -> None:
        self._routing = routing
        self._faults = faults
        self._metrics = metrics
        self._model = served.name
        self._prompts = served.prompts
        self._loop = asyncio.get_running_loop()
        self._eos = random.Random(served.seed)
        self._numbers = count()

    def add_routes(self, app: web.Application) -> None:
        for path in ROUTES:
            app.router.add_post(path, self._generate)
        app.router.add_get("/v1/models", self._models)

    async def _generate(self, http: web.Request) -> web.StreamResponse:
        arrived_s = self._loop.time()
        raw = await http.read()
        call = parse_call(ROUTES[http.path], raw, model=self._model, max_kv_tokens=self._routing.max_kv_tokens, prompts=self._prompts)
        if call.stream and http.version < HttpVersion11:
            raise ApiError(400, "streaming needs HTTP/1.1")
        osl_tokens = self._faults.shortened(call.draw_osl(self._eos))
        answer = Answer(osl_tokens, self._metrics, arrived_s=arrived_s, stream=call.stream)
        request = Request(call.isl_tokens, osl_tokens, answer)
        served = Served(http, call, request, answer, AnswerText(call, osl_tokens, self._model, next(self._numbers)))
        self._metrics.started(call)
        error_type = "cancelled"
        try:
            if self._faults.refuses():
                raise ApiError(500, "no answer, as a fault asked", "internal_error")
            self._routing.submit(request)
            response = await (self._stream(served) if call.stream else self._whole(served))
            error_type = "internal" if answer.error else ""
            return response
        except ApiError:
            error_type = "internal"
            raise
        finally:
            if error_type == "cancelled":
                self._routing.cancel(request)
            self._metrics.finished(call, osl_tokens=answer.emitted, duration_s=self._loop.time() - arrived_s, error_type=error_type)

    async def _whole(self, served: Served) -> web.StreamResponse:
        await served.answer.finished.wait()
        if served.answer.error:
            raise served.answer.error
        return web.json_response(served.text.whole())

    async def _stream(self, served: Served) -> web.StreamResponse:
        answer = served.answer
        await answer.started.wait()
        if answer.error and not answer.emitted:
            raise answer.error
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"})
        response.enable_chunked_encoding()
        await response.prepare(served.http)
        await response.write(served.text.opening())
        if served.http.transport is None:
            raise ConnectionResetError("the client has gone")
        answer.attach(served.http.transport, served.text)
        await answer.finished.wait()
        await response.write_eof(event(answer.error.body()) + DONE if answer.error else served.text.closing())
        return response

    async def _models(self, _: web.Request) -> web.Response:
        model = {"id": self._model, "object": "model", "created": 0, "owned_by": "sla-planner"}
        return web.json_response({"object": "list", "data": [model]})


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal has OpenAI's shape, also those of aiohttp (unknown path, wrong method, body too large)."""
    try:
        return await handler(request)
    except ApiError as error:
        return web.json_response(error.body(), status=error.status)
    except web.HTTPException as error:
        refusal = ApiError(error.status, f"{request.method} {request.path}: {error.reason}")
        return web.json_response(refusal.body(), status=error.status)
