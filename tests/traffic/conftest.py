"""A server that speaks OpenAI's event streams, in process. The model asked for picks how it answers."""

import asyncio
import contextlib
import json
import socket
import time
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


def event(document):
    return b"data: " + (document if isinstance(document, bytes) else json.dumps(document).encode()) + b"\n\n"


def text(content, finish=None):
    return event({"choices": [{"index": 0, "text": content, "finish_reason": finish}], "usage": None})


def delta(finish=None, **content):
    return event({"choices": [{"index": 0, "delta": content, "finish_reason": finish}]})


def usage(**changes):
    return event({"choices": [], "usage": USAGE | changes})


DONE = event(b"[DONE]")

# Five tokens in three events each; vLLM finishes on the last token's event, llama.cpp in an empty one of its own.
STREAMS = {
    "plain": [text("one"), text(" two three"), text(" four five", "length"), usage(), DONE],
    "empty-finish": [text("one"), text(" two three"), text(" four five"), text("", "length"), usage(), DONE],
    "chat-null-role": [
        delta(role="assistant", content=None),
        delta(content="one"),
        delta(content=" two three four five"),
        delta("length"),
        usage(),
        DONE,
    ],
    "chat-empty-role": [delta(role="assistant", content=""), delta(content="one"), delta("length", content=" two three four five"), usage(), DONE],
    "reasoning": [delta(role="assistant", content=""), delta(reasoning_content="one two"), delta("length", content="three four five"), usage(), DONE],
    "only-special-token": [text("", "length"), usage(completion_tokens=1), DONE],
    "no-text": [text("", "length"), usage(), DONE],
    "no-usage": [text("one"), text(" two", "length"), DONE],
    "bad-usage": [text("one", "length"), event({"choices": [], "usage": {"prompt_tokens": None, "completion_tokens": "five"}}), DONE],
    "no-finish": [text("one"), text(" two")],
    "engine-error": [text("one"), event({"error": {"message": "CUDA out of memory", "code": 500}}), DONE],
    "quoted": [text('"error": {"x"} "usage": {} "finish_reason":"'), text("two", "length"), usage(), DONE],
}


@dataclass
class Engine:
    """`asked`: bodies received; `text_after_s`: time.perf_counter() just before the first text left; `release`: lets `model: held` answer."""

    url: str = ""
    asked: list = field(default_factory=list)
    text_after_s: list = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    release: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request):
        asked = await request.json()
        self.asked.append(asked)
        model = asked["model"]
        if model == "busy":
            return web.Response(status=503, text="no capacity\n" + "x" * 5000)
        if model == "not-streaming":
            return web.json_response({"choices": [{"text": "one"}]})
        if model == "drops":
            request.transport.close()
            return web.Response()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await response.prepare(request)
            await self.stream(model, request, response)
        finally:
            self.in_flight -= 1
        return response

    async def stream(self, model, request, response):
        if model in ("held", "hangs"):
            await response.write(delta(role="assistant", content=""))
            await self.release.wait()
            model = "plain"
        if model == "breaks":
            await response.write(text("one"))
            request.transport.close()
            return
        self.text_after_s.append(time.perf_counter())
        for part in STREAMS[model]:
            await response.write(part)
            await asyncio.sleep(0)


async def models(request):
    """The list of models below the server's root, a server that still loads, and one that does not list any."""
    match request.match_info["where"]:
        case "":
            return web.json_response({"data": [{"id": "plain"}, {"id": "other"}]})
        case "loading/":
            return web.Response(status=503, text="loading")
    return web.Response(status=404)


@pytest.fixture
def serving():
    """`async with serving() as engine`: the server, listening."""

    @contextlib.asynccontextmanager
    async def start():
        engine = Engine()
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/{endpoint:completions|chat/completions}", engine.answer)
        app.router.add_get("/{where:.*}v1/models", models)
        async with TestServer(app, host="127.0.0.1", shutdown_timeout=0.1) as server:
            engine.url = str(server.make_url("")).rstrip("/")
            yield engine
            engine.release.set()

    return start


@pytest.fixture(scope="session")
def streams():
    return STREAMS


@pytest.fixture
def closed_port():
    """A port nobody listens on: bound, never listening, until the test ends."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
