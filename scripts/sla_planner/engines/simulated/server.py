"""The HTTP front of the simulated engine: OpenAI endpoints, /health, /metrics, and /sim/* for whoever runs the simulation.

A streamed answer begins with its first token: until then a failure still gets a status code of its own. aiohttp opens and closes the answer; the
token events between go straight to the transport: a token costs a function call and a system call, not a coroutine.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from itertools import count
from typing import Any

from aiohttp import HttpVersion11, web
from aiohttp.typedefs import Handler
from prometheus_client import CONTENT_TYPE_LATEST

from sla_planner.engines.simulated.api import ApiError, Call, Endpoint, Prompts, parse_call
from sla_planner.engines.simulated.exposition import Exposition, FleetMetrics, FrontendMetrics
from sla_planner.engines.simulated.faults import FaultInjector, parse_fault
from sla_planner.engines.simulated.fleet import Fleet
from sla_planner.engines.simulated.wire import DONE, AnswerText, event, http_chunk
from sla_planner.engines.simulated.worker import Request
from sla_planner.errors import UsageError

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
class Served:
    """One request on its way through the front."""

    http: web.Request
    call: Call
    request: Request
    answer: Answer
    text: AnswerText


class EngineServer:
    """Routes. `fleet` must have been started on the running loop."""

    def __init__(self, fleet: Fleet, model: str, prompts: Prompts = Prompts.IDS) -> None:
        self.faults = FaultInjector(fleet)
        self._fleet = fleet
        self._model = model
        self._prompts = prompts
        self._loop = asyncio.get_running_loop()
        self._metrics = FrontendMetrics(model)
        self._exposition = Exposition(self._metrics, FleetMetrics(fleet, model))
        self._eos = random.Random(fleet.options.seed)
        self._numbers = count()

    def app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[errors_as_json])
        for path in ROUTES:
            app.router.add_post(path, self._generate)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics_text)
        app.router.add_get("/sim/state", self._state)
        app.router.add_post("/sim/faults", self._fault)
        return app

    async def _generate(self, http: web.Request) -> web.StreamResponse:
        arrived_s = self._loop.time()
        capacity = self._fleet.options.law.engine.decode.max_kv_tokens
        call = parse_call(ROUTES[http.path], await http.read(), model=self._model, max_kv_tokens=capacity, prompts=self._prompts)
        if call.stream and http.version < HttpVersion11:
            raise ApiError(400, "streaming needs HTTP/1.1")
        osl_tokens = self.faults.shortened(call.draw_osl(self._eos))
        answer = Answer(osl_tokens, self._metrics, arrived_s=arrived_s, stream=call.stream)
        request = Request(call.isl_tokens, osl_tokens, answer)
        served = Served(http, call, request, answer, AnswerText(call, osl_tokens, self._model, next(self._numbers)))
        self._metrics.started(call)
        error_type = "cancelled"
        try:
            if self.faults.refuses():
                raise ApiError(500, "no answer, as a fault asked", "internal_error")
            self._fleet.submit(request)
            response = await (self._stream(served) if call.stream else self._whole(served))
            error_type = "internal" if answer.error else ""
            return response
        except ApiError:
            error_type = "internal"
            raise
        finally:
            if error_type == "cancelled":
                self._fleet.cancel(request)
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

    async def _health(self, _: web.Request) -> web.Response:
        serves = self._fleet.serves()
        return web.json_response({"status": "healthy" if serves else "no worker is ready"}, status=200 if serves else 503)

    async def _metrics_text(self, _: web.Request) -> web.Response:
        if self.faults.metrics_gone:
            raise ApiError(503, "metrics are gone, as a fault asked", "service_unavailable")
        return web.Response(body=self._exposition.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _fault(self, http: web.Request) -> web.Response:
        try:
            struck = self.faults.inject(parse_fault(await http.read()))
        except UsageError as error:
            raise ApiError(422, str(error)) from None
        return web.json_response({"struck": struck})

    async def _state(self, _: web.Request) -> web.Response:
        return web.json_response(fleet_state(self._fleet) | {"metrics_gone": self.faults.metrics_gone})


def fleet_state(fleet: Fleet) -> dict[str, Any]:
    """What /sim/state says of the fleet. `gpu_seconds`: wall-clock seconds times GPUs, from launch to exit, start-up and drain included.
    `max_kv_tokens`: of one worker that decodes, as /metrics states it."""
    statistics = fleet.shared.statistics
    p50, p95 = statistics.error_percentiles()
    return {
        "workers": {
            role: [
                {
                    "name": worker.name,
                    "state": worker.state,
                    "requests": worker.load,
                    "kv_tokens": worker.kv_tokens,
                    "hung": worker.hung,
                    "slowness": worker.slowness,
                }
                for worker in fleet.workers(role)
            ]
            for role in fleet.roles
        },
        "targets": {role: fleet.targets[role] for role in fleet.roles},
        "settled": fleet.settled,
        "queued": {"prefill": len(fleet.waiting), "decode": len(fleet.handover)},
        "gpu_seconds": {role: fleet.gpu_seconds(role) for role in fleet.roles},
        "max_kv_tokens": fleet.options.stated_kv_tokens,
        "max_sequences": fleet.options.law.max_sequences,
        "timing": {
            "steps": statistics.steps,
            "late_steps": statistics.late_steps,
            "late_share": statistics.late_share,
            "step_error_p50": p50,
            "step_error_p95": p95,
            "keeps_up": statistics.keeps_up,
            "cpu_s": time.process_time(),
        },
    }


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
