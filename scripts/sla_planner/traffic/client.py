"""The one streaming client: sends a request to an OpenAI-compatible server and times its tokens.

    TTFT = first text - sent
    ITL  = (last token - first text) / (completion_tokens - 1)
    e2e  = last token - sent

*first text* is the first server-sent event with a non-empty text: the first chat event carries only the role. *Last token* is the last event with a
text or a finish reason: the last tokens may have no text of their own. `completion_tokens` is the server's own count (`usage`, asked for with
`stream_options.include_usage`), never the number of events: servers merge tokens into one event, and split characters over several.

The client shares a core with thousands of streams, so events are searched as bytes and only the one that carries `usage` is parsed. Quotes inside a
JSON string are escaped, so the patterns below cannot match inside generated text.

Every prompt is random and of the asked length, so that no prefix cache answers in place of prefill: the TTFT of a cached prompt is not a TTFT.
To `/v1/completions` it goes as token ids, which makes the ISL exact, or as a string; to `/v1/chat/completions` as common words, about a token each
plus template unless `prompts.calibrate` has found better.
What goes wrong with a request is data (`RequestRecord.error`), never an exception.
"""

from __future__ import annotations

import json
import re
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiohttp
import numpy as np

from sla_planner.config_words import masked
from sla_planner.errors import UnreachableError, UsageError
from sla_planner.traffic.prompt_form import PromptForm
from sla_planner.traffic.prompts import A_TOKEN_PER_WORD, TextLength, random_ids, random_words

_TEXT = re.compile(rb'"(?:text|content|reasoning_content|reasoning)"\s*:\s*"[^"]')
_FINISH = re.compile(rb'"finish_reason"\s*:\s*"')
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_FAULT = re.compile(rb'"error"\s*:\s*[{"]|"object"\s*:\s*"error"')

_BROKEN = "broken stream"
_BODY_CHARACTERS = 200
_OPEN_FILES = 10_240  # the most that macOS grants
# Servers close idle connections (uvicorn after 5 s); a request sent on one that is just being closed would fail through no fault of the engine.
_KEEP_ALIVE_S = 2.0

FORCED_LENGTH = ("min_tokens", "ignore_eos")


class Endpoint(StrEnum):
    COMPLETIONS = "completions"
    CHAT = "chat"


@dataclass(frozen=True, slots=True)
class Server:
    """Where requests go, and how they are written. `url` is the base, with or without `/v1`; `timeout_s` bounds one whole request.

    `prompt`: the form of prompts; None: token ids on completions, words on chat. When given, the endpoint follows from it. `length`: how many words
    a prompt of words has. `forced_length`: which of the fields `FORCED_LENGTH` go along, so that an answer has the asked length; strict servers
    refuse those that they do not know.
    """

    url: str
    model: str
    endpoint: Endpoint = Endpoint.COMPLETIONS
    timeout_s: float = 120.0
    prompt: PromptForm | None = None
    length: TextLength = A_TOKEN_PER_WORD
    forced_length: tuple[str, ...] = FORCED_LENGTH

    @property
    def form(self) -> PromptForm:
        return self.prompt or (PromptForm.CHAT if self.endpoint is Endpoint.CHAT else PromptForm.IDS)


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request. `isl_tokens`, `osl_tokens`: asked for; `prompt_tokens`, `completion_tokens`, `cached_tokens` (of the prompt, answered by a prefix
    cache): reported by the server, None when it did not.

    Latencies are None when the answer did not get that far; `itl_ms` also for answers of a single token. Times are seconds since the run began.
    `error` is empty for a whole answer, else `kind: details`.
    """

    scheduled_s: float
    sent_s: float
    isl_tokens: int
    osl_tokens: int
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    ttft_ms: float | None = None
    itl_ms: float | None = None
    e2e_s: float | None = None
    error: str = ""
    cached_tokens: int | None = None

    @property
    def error_kind(self) -> str:
        return self.error.partition(":")[0]


@dataclass(slots=True)
class _Attempt:
    """`reused`: on a connection kept from an earlier request; `answered`: the server began to answer."""

    reused: bool = False
    answered: bool = False


def _tracing() -> aiohttp.TraceConfig:
    async def reused(_: aiohttp.ClientSession, context: Any, __: aiohttp.TraceConnectionReuseconnParams) -> None:
        context.trace_request_ctx.reused = True

    tracing = aiohttp.TraceConfig()
    tracing.on_connection_reuseconn.append(reused)
    return tracing


class Sink(Protocol):
    """Takes the bytes of one answer as they come. Called between two waits of the event loop: must be quick."""

    def feed(self, block: bytes, now_s: float) -> None: ...


class StreamingClient:
    """Sends requests to one server. Use as an async context manager; any number of them may run at once. `seed` None: other prompts every time, for
    servers that may still have those of before in a cache. `clock` gives seconds."""

    def __init__(self, server: Server, *, seed: int | None, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self._server = server
        self._url = base_url(server.url) + ("/chat/completions" if server.form is PromptForm.CHAT else "/completions")
        self._rng = np.random.default_rng(seed)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> StreamingClient:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
            trace_configs=[_tracing()],
            cookie_jar=aiohttp.DummyCookieJar(),  # every request is another user; a sticky session would send all to one replica
            # A compressing proxy in between would hold tokens back.
            headers={"Content-Type": "application/json", "Accept": "text/event-stream", "Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._session is not None:
            await self._session.close()

    async def send(self, isl_tokens: int, osl_tokens: int, *, scheduled_s: float = 0.0, origin_s: float = 0.0) -> RequestRecord:
        """Send one request and wait for its last token. `origin_s`: the client's `clock()` when the run began; `scheduled_s`: since then."""
        body = self._body(isl_tokens, osl_tokens)
        stream = TokenStream()
        sent_s, error = await self._exchange(body, stream, self._server.timeout_s)
        return stream.record(RequestRecord(scheduled_s, sent_s - origin_s, isl_tokens, osl_tokens, error=error), sent_s)

    async def stream(self, isl_tokens: int, osl_tokens: int, sink: Sink, *, timeout_s: float | None = None) -> str:
        """Send one request and feed its answer into `sink` until it ends, or for `timeout_s`. '' or what went wrong."""
        return (await self._exchange(self._body(isl_tokens, osl_tokens), sink, timeout_s))[1]

    async def _exchange(self, body: bytes, sink: Sink, timeout_s: float | None) -> tuple[float, str]:
        """Feed the answer into `sink`: when the request left, and '' or what went wrong. A kept connection that turns out to be closed is no failure
        (llama.cpp closes it after each answer): the request leaves once more, on another one."""
        while True:
            attempt = _Attempt()
            sent_s = self.clock()
            error = await self._attempt(body, sink, timeout_s, attempt)
            if not (error.startswith(_BROKEN) and attempt.reused and not attempt.answered):
                return sent_s, error

    async def _attempt(self, body: bytes, sink: Sink, timeout_s: float | None, attempt: _Attempt) -> str:
        if self._session is None:
            raise RuntimeError("use the client inside `async with`")
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.post(self._url, data=body, timeout=timeout, trace_request_ctx=attempt) as response:
                attempt.answered = True
                if response.status != 200:
                    return f"HTTP {response.status}: {one_line(await response.content.read(4 * _BODY_CHARACTERS))}"
                if response.content_type != "text/event-stream":
                    return f"not a stream: the answer is {response.content_type}"
                while block := await response.content.readany():
                    sink.feed(block, self.clock())
        except TimeoutError:
            return f"timeout: no whole answer within {timeout_s:g} s"
        except aiohttp.ClientConnectorError as error:
            return f"no connection: {one_line(str(error).encode())}"
        except (aiohttp.ClientError, OSError) as error:
            return f"{_BROKEN}: {one_line((str(error) or type(error).__name__).encode())}"
        return ""

    def _body(self, isl_tokens: int, osl_tokens: int) -> bytes:
        server = self._server
        request: dict[str, Any] = {
            "model": server.model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": osl_tokens,
        }
        forced = {"min_tokens": osl_tokens, "ignore_eos": True}
        request |= {field: forced[field] for field in server.forced_length}
        head = json.dumps(request).encode().removesuffix(b"}")
        if server.form is PromptForm.IDS:
            return head + b', "prompt": [' + random_ids(isl_tokens, self._rng) + b"]}"
        words = random_words(server.length.words(isl_tokens), self._rng)
        if server.form is PromptForm.TEXT:
            return head + b', "prompt": "' + words + b'"}'
        return head + b', "messages": [{"role": "user", "content": "' + words + b'"}]}'


class TokenStream:
    """What is kept of one event stream: when the first text and the last token came, the usage, an error that the engine sent."""

    __slots__ = ("_fault", "_finished", "_first_s", "_last_s", "_rest", "_usage")

    def __init__(self) -> None:
        self._first_s: float | None = None
        self._last_s: float | None = None
        self._finished = False
        self._usage = b""
        self._fault = b""
        self._rest = b""

    def feed(self, block: bytes, now_s: float) -> None:
        """Take bytes as they arrived at `now_s` (`time.perf_counter()`), cut anywhere. An event counts when its line is whole."""
        data = self._rest + block
        cut = data.rfind(b"\n") + 1
        lines, self._rest = data[:cut], data[cut:]
        if has_text(lines):
            self._last_s = now_s
            if self._first_s is None:
                self._first_s = now_s
        if _FINISH.search(lines):
            self._last_s = now_s
            self._finished = True
        for match in _USAGE.finditer(lines):
            self._usage = _event(lines, match)
        self._fault = reported_fault(lines) or self._fault

    def record(self, asked: RequestRecord, sent_s: float) -> RequestRecord:
        """The finished record of the request `asked`, which left at `sent_s`. An error already in `asked` stays the error."""
        prompt_tokens, completion_tokens, cached_tokens = _token_counts(self._usage)
        first_s = self._first_s
        if first_s is None and completion_tokens == 1:
            first_s = self._last_s  # an only token without text: a special token
        itl_ms = None
        if first_s is not None and self._last_s is not None and completion_tokens is not None and completion_tokens > 1:
            itl_ms = (self._last_s - first_s) / (completion_tokens - 1) * 1e3
        return RequestRecord(
            asked.scheduled_s,
            asked.sent_s,
            asked.isl_tokens,
            asked.osl_tokens,
            prompt_tokens,
            completion_tokens,
            ttft_ms=None if first_s is None else (first_s - sent_s) * 1e3,
            itl_ms=itl_ms,
            e2e_s=None if self._last_s is None else self._last_s - sent_s,
            error=asked.error or self._error(completion_tokens),
            cached_tokens=cached_tokens,
        )

    def _error(self, completion_tokens: int | None) -> str:
        if self._fault:
            return f"engine error: {one_line(self._fault)}"
        if not self._finished:
            return f"{_BROKEN}: it ended without a finish reason"
        if completion_tokens is None:
            return "no usage: the server did not report its token counts"
        if self._first_s is None and completion_tokens != 1:
            return "no text: the stream carried no token"
        return ""


def _event(lines: bytes, match: re.Match[bytes]) -> bytes:
    """The data of the event in which `match` was found."""
    start = lines.rfind(b"\n", 0, match.start()) + 1
    return lines[start : lines.index(b"\n", match.end())].removeprefix(b"data:").strip()


def _token_counts(event: bytes) -> tuple[int | None, int | None, int | None]:
    """Prompt, completion and cached prompt tokens of an event with usage; None for what it does not say."""
    try:
        usage = json.loads(event)["usage"]
        details = usage.get("prompt_tokens_details")
        counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"), details.get("cached_tokens") if isinstance(details, dict) else None)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None, None, None
    prompt_tokens, completion_tokens, cached_tokens = (count if type(count) is int and count >= 0 else None for count in counts)
    return prompt_tokens, completion_tokens, cached_tokens


def has_text(lines: bytes) -> bool:
    """Whether one of these events carries generated text."""
    return _TEXT.search(lines) is not None


def reported_fault(lines: bytes) -> bytes:
    """The event in which the engine says that it failed; empty when none does."""
    match = _FAULT.search(lines)
    return _event(lines, match) if match else b""


def one_line(text: bytes) -> str:
    """What a server said, fit for an error message."""
    return " ".join(text.decode(errors="replace").split())[:_BODY_CHARACTERS]


def allow_open_connections() -> None:
    """Every request in flight is an open file; the usual soft limit of 1024 would fail the ones above it. For the whole process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def base_url(url: str) -> str:
    """`http://host:port/v1` for a server's address. Raises UsageError when it is none."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")
        valid = parts.scheme in ("http", "https") and host and parts.port != 0 and not parts.query and not any(map(str.isspace, url))
    except ValueError:
        valid = False
    if not valid:
        raise UsageError(f"{masked(url)!r} is not the address of a server", hint="give one like http://127.0.0.1:8000")
    return url.rstrip("/").removesuffix("/v1") + "/v1"


def _refused(error: BaseException) -> bool:
    return isinstance(getattr(error, "os_error", error), ConnectionRefusedError)


async def served_models(url: str, *, timeout_s: float = 10.0) -> list[str]:
    """Names that the server at `url` lists under /v1/models; may be empty. Raises UnreachableError when it does not answer or is not ready."""
    address = base_url(url) + "/models"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s)) as session,
            session.get(address) as response,
        ):
            body = await response.read()
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        why = "timeout" if isinstance(error, TimeoutError) else "connection refused" if _refused(error) else type(error).__name__
        raise UnreachableError(f"no answer from {masked(address)} ({why})", hint="check --url and that the server is up") from error
    if response.status >= 500:
        raise UnreachableError(f"{masked(address)} answers HTTP {response.status}: {one_line(body)}", hint="wait until the server is ready")
    try:
        return [str(model["id"]) for model in json.loads(body)["data"]]
    except (ValueError, KeyError, TypeError):
        return []
