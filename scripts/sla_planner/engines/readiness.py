"""When an engine answers requests, and what its pages say of its capacity.

    ready  =  GET /health is no server error (200, or no such page)   and   GET /v1/models lists a model

A refused connection, 5xx (503: loading) and an empty list (a frontend that still waits for its workers) mean: not yet. A server that is healthy and
answers 4xx under /v1/models for `REFUSED_S` on end will not change: it wants a key, or it is no OpenAI-compatible server.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

from sla_planner.engines.backend import Backend, Evidence
from sla_planner.errors import EngineError, UnreachableError
from sla_planner.sweep.port import Capacity, Deployment
from sla_planner.traffic.client import served_models

REFUSED_S = 30.0

_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _PAUSE_GROWTH = 0.05, 1.0, 1.5
_ANSWER_LIMIT_S = 5.0
_CHECK_EVERY_S = 0.25
_PAGE_LIMIT_S = 10.0
_CONNECT_LIMIT_S = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said when asked once. `models` is empty while it is not ready; `saw` says why, in words."""

    models: tuple[str, ...] = ()
    saw: str = ""
    refused: bool = False  # 4xx where a list of models should be

    def lacking(self, limit_s: float) -> str:
        """Of one that is not ready, after `until_ready` has given up."""
        return f"will not become ready: {self.saw}" if self.refused else f"is not ready within {limit_s:g} s: {self.saw}"


async def until_ready(url: str, *, limit_s: float, check: Callable[[], None] = lambda: None) -> Answer:
    """Ask the server at `url` (without `/v1`) until it is ready; the last answer when it is not within `limit_s`.

    `check` is called all the while, and after the last answer too. It raises when there is nothing to wait for.
    """
    begun_s = time.monotonic()
    refused_since_s: float | None = None
    pause_s = _FIRST_PAUSE_S
    while True:
        answer = await _asked(url, check)
        now_s = time.monotonic()
        refused_since_s = (refused_since_s or now_s) if answer.refused else None
        given_up = now_s - begun_s >= limit_s or (refused_since_s is not None and now_s - refused_since_s >= REFUSED_S)
        if answer.models or given_up:
            return answer
        await asyncio.sleep(min(pause_s, max(0.0, begun_s + limit_s - now_s)))
        pause_s = min(_LONGEST_PAUSE_S, pause_s * _PAUSE_GROWTH)


async def _asked(url: str, check: Callable[[], None]) -> Answer:
    """One answer. A server that is loading may let a question hang, so `check` does not wait for it."""
    question = asyncio.create_task(asked(url))
    try:
        while not question.done():
            check()
            await asyncio.wait([question], timeout=_CHECK_EVERY_S)
        check()
        return question.result()
    finally:
        question.cancel()


async def asked(url: str) -> Answer:
    """Is the server at `url` ready now?"""
    health = await _status(f"{url}/health")
    if isinstance(health, str):
        return Answer(saw=health)
    if health >= 500:
        return Answer(saw=f"/health answers HTTP {health}")
    try:
        models = await served_models(url, timeout_s=_ANSWER_LIMIT_S)
    except UnreachableError as error:
        return Answer(saw=error.message)
    if models:
        return Answer(models=tuple(models))
    status = await _status(f"{url}/v1/models")
    if isinstance(status, int) and 400 <= status < 500:
        return Answer(saw=f"/v1/models answers HTTP {status}", refused=True)
    return Answer(saw="/v1/models lists no model")


async def _status(address: str) -> int | str:
    """The HTTP status, or what came instead."""
    try:
        async with _session(_ANSWER_LIMIT_S) as session, session.get(address) as response:
            return response.status
    except TimeoutError:
        return f"no answer within {_ANSWER_LIMIT_S:g} s"
    except aiohttp.ClientConnectorError as error:
        number = error.os_error.errno or 0  # of name resolution: negative
        return os.strerror(number).lower() if number > 0 else error.os_error.strerror or "no connection"
    except (aiohttp.ClientError, OSError) as error:
        return f"no HTTP answer ({type(error).__name__})"


async def pages(url: str, paths: Iterable[str]) -> Mapping[str, str]:
    """Path -> text of the pages of the server at `url`; one that is not served is absent."""
    found = {}
    async with _session(_PAGE_LIMIT_S) as session:
        for path in paths:
            try:
                async with session.get(url + path) as response:
                    if response.status == 200:
                        found[path] = (await response.read()).decode(errors="replace")
            except (TimeoutError, aiohttp.ClientError, OSError):
                continue
    return found


def _session(limit_s: float) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=limit_s))


def unreachable(url: str) -> str:
    """'' while something listens at `url`, else why not. A connection that takes long is a busy server, not one that is gone.

    Blocks for a round trip, at most `_CONNECT_LIMIT_S`: for use between measurements.
    """
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)), _CONNECT_LIMIT_S).close()
    except TimeoutError:
        return ""
    except OSError as error:
        return (error.strerror or type(error).__name__).lower()
    return ""


def checked_capacity(backend: Backend, evidence: Evidence, deployment: Deployment) -> Capacity:
    """What `evidence` says. Raises `EngineError` when it says nothing, or what cannot be."""
    capacity = backend.capacity(evidence, deployment)
    hint = "give the tokens that its KV cache holds with --max-kv-tokens"
    if capacity is None:
        looked = [*(["its log"] if evidence.log else []), *(path if path in evidence.pages else f"{path} (not served)" for path in backend.pages)]
        places = ", ".join(looked) or "its pages"
        raise EngineError(f"{deployment.label}: the KV capacity of the {backend.name} engine is in none of: {places}", hint=hint)
    if capacity.max_kv_tokens < 1 or (capacity.max_sequences is not None and capacity.max_sequences < 1):
        said = f"{capacity.max_kv_tokens} tokens" + ("" if capacity.max_sequences is None else f" for {capacity.max_sequences} requests")
        raise EngineError(f"{deployment.label}: the engine says it holds {said} ({capacity.source}), which cannot be", hint=hint)
    return capacity
