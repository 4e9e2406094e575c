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
To `/v1/completions` it goes as token ids, which makes the ISL exact; to `/v1/chat/completions` as common words, about a token each plus template.
What goes wrong with a request is data (`RequestRecord.error`), never an exception.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import numpy as np

from sla_planner.config_words import masked
from sla_planner.errors import UnreachableError, UsageError

# Entries of equal width: a prompt is one table look-up. Token ids from 1000 on are plain text in common tokenizers; small ones end below 4000.
_TOKEN_IDS = np.array([f"{token}," for token in range(1000, 4000)], dtype="S5")
_WORDS = np.frombuffer(
    b"time year work life hand part case week home team room book word city area head side kind tree road "
    b"fish door wind boat farm lake song bird rain snow bank desk gold iron king leaf milk moon park rock ",
    dtype="S5",
)

_TEXT = re.compile(rb'"(?:text|content|reasoning_content|reasoning)"\s*:\s*"[^"]')
_FINISH = re.compile(rb'"finish_reason"\s*:\s*"')
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_FAULT = re.compile(rb'"error"\s*:\s*[{"]|"object"\s*:\s*"error"')

_BODY_CHARACTERS = 200
# Servers close idle connections (uvicorn after 5 s); a request sent on one that is just being closed would fail through no fault of the engine.
_KEEP_ALIVE_S = 2.0


class Endpoint(StrEnum):
    COMPLETIONS = "completions"
    CHAT = "chat"


@dataclass(frozen=True, slots=True)
class Server:
    """Where requests go. `url` is the base, with or without `/v1`; `timeout_s` bounds one whole request."""

    url: str
    model: str
    endpoint: Endpoint = Endpoint.COMPLETIONS
    timeout_s: float = 120.0


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request. `isl_tokens`, `osl_tokens`: asked for; `prompt_tokens`, `completion_tokens`: reported by the server, None when it did not.

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

    @property
    def error_kind(self) -> str:
        return self.error.partition(":")[0]


class StreamingClient:
    """Sends requests to one server. Use as an async context manager; any number of `send`s may run at once."""

    def __init__(self, server: Server, *, seed: int) -> None:
        self._server = server
        self._url = base_url(server.url) + ("/chat/completions" if server.endpoint is Endpoint.CHAT else "/completions")
        self._rng = np.random.default_rng(seed)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> StreamingClient:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),  # every request is another user; a sticky session would send all to one replica
            timeout=aiohttp.ClientTimeout(total=self._server.timeout_s),
            # A compressing proxy in between would hold tokens back.
            headers={"Content-Type": "application/json", "Accept": "text/event-stream", "Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._session is not None:
            await self._session.close()

    async def send(self, isl_tokens: int, osl_tokens: int, *, scheduled_s: float = 0.0, origin_s: float = 0.0) -> RequestRecord:
        """Send one request and wait for its last token. `origin_s`: `time.perf_counter()` when the run began; `scheduled_s`: since then."""
        if self._session is None:
            raise RuntimeError("use the client inside `async with`")
        body = self._body(isl_tokens, osl_tokens)
        stream = TokenStream()
        sent_s = time.perf_counter()
        error = await self._exchange(self._session, body, stream)
        return stream.record(RequestRecord(scheduled_s, sent_s - origin_s, isl_tokens, osl_tokens, error=error), sent_s)

    async def _exchange(self, session: aiohttp.ClientSession, body: bytes, stream: TokenStream) -> str:
        """Feed the answer into `stream`; '' or what went wrong on the way."""
        try:
            async with session.post(self._url, data=body) as response:
                if response.status != 200:
                    return f"HTTP {response.status}: {_one_line(await response.content.read(4 * _BODY_CHARACTERS))}"
                if response.content_type != "text/event-stream":
                    return f"not a stream: the answer is {response.content_type}"
                async for block in response.content.iter_any():
                    stream.feed(block, time.perf_counter())
        except TimeoutError:
            return f"timeout: no whole answer within {self._server.timeout_s:g} s"
        except aiohttp.ClientConnectorError as error:
            return f"no connection: {_one_line(str(error).encode())}"
        except (aiohttp.ClientError, OSError) as error:
            return f"broken stream: {_one_line((str(error) or type(error).__name__).encode())}"
        return ""

    def _body(self, isl_tokens: int, osl_tokens: int) -> bytes:
        table = _WORDS if self._server.endpoint is Endpoint.CHAT else _TOKEN_IDS
        prompt = table[self._rng.integers(len(table), size=isl_tokens)].tobytes()[:-1]
        request: dict[str, Any] = {
            "model": self._server.model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": osl_tokens,
            "min_tokens": osl_tokens,
            "ignore_eos": True,
        }
        head = json.dumps(request).encode().removesuffix(b"}")
        if self._server.endpoint is Endpoint.CHAT:
            return head + b', "messages": [{"role": "user", "content": "' + prompt + b'"}]}'
        return head + b', "prompt": [' + prompt + b"]}"


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
        if _TEXT.search(lines):
            self._last_s = now_s
            if self._first_s is None:
                self._first_s = now_s
        if _FINISH.search(lines):
            self._last_s = now_s
            self._finished = True
        for match in _USAGE.finditer(lines):
            self._usage = _event(lines, match)
        for match in _FAULT.finditer(lines):
            self._fault = _event(lines, match)

    def record(self, asked: RequestRecord, sent_s: float) -> RequestRecord:
        """The finished record of the request `asked`, which left at `sent_s`. An error already in `asked` stays the error."""
        prompt_tokens, completion_tokens = _token_counts(self._usage)
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
        )

    def _error(self, completion_tokens: int | None) -> str:
        if self._fault:
            return f"engine error: {_one_line(self._fault)}"
        if not self._finished:
            return "broken stream: it ended without a finish reason"
        if completion_tokens is None:
            return "no usage: the server did not report its token counts"
        if self._first_s is None and completion_tokens != 1:
            return "no text: the stream carried no token"
        return ""


def _event(lines: bytes, match: re.Match[bytes]) -> bytes:
    """The data of the event in which `match` was found."""
    start = lines.rfind(b"\n", 0, match.start()) + 1
    return lines[start : lines.index(b"\n", match.end())].removeprefix(b"data:").strip()


def _token_counts(event: bytes) -> tuple[int | None, int | None]:
    """Prompt and completion tokens of an event with usage; None for what it does not say."""
    try:
        usage = json.loads(event)["usage"]
        counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None, None
    prompt_tokens, completion_tokens = (count if type(count) is int and count >= 0 else None for count in counts)
    return prompt_tokens, completion_tokens


def _one_line(text: bytes) -> str:
    return " ".join(text.decode(errors="replace").split())[:_BODY_CHARACTERS]


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
        raise UnreachableError(f"{masked(address)} answers HTTP {response.status}: {_one_line(body)}", hint="wait until the server is ready")
    try:
        return [str(model["id"]) for model in json.loads(body)["data"]]
    except (ValueError, KeyError, TypeError):
        return []
