"""What a frontend and a worker that is a process of its own say to each other: JSON objects over one WebSocket, `GET /sim/work` of the worker.

    worker -> frontend, first     {"role": "decode", "state": "ready", "max_kv_tokens": ..., "max_batched_tokens": ..., "max_sequences": ...}
    worker -> frontend            {"state": "draining", "tokens": [id, ...], "lost": [id, ...]}
    frontend -> worker            {"take": [[id, isl_tokens, osl_tokens], ...], "waited": true, "drop": [id, ...]}

A message says what has happened since the one before, every part of it is optional, and the parts happen in the order above. An id is the frontend's,
and stands once in `tokens` for every token of its request. A prefill worker gives one token, the first; a decode worker those after it.

    state     of the worker, when it changes; to `gone` the frontend answers by hanging up
    lost      the worker does not have this request (any more): it crashed, or it leaves and takes no more
    waited    these prompts were waiting when the batch before them ended: the worker has been idle only for as long as the messages took, and
              begins as of the end of that batch. So a queue is served without gaps, as by workers that share memory with it

The end of the connection is the end of the worker for this frontend, and of the frontend's requests for the worker.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

from sla_planner.engines.simulated.options import Role
from sla_planner.engines.simulated.routing import State

PATH = "/sim/work"
HEARTBEAT_S = 10.0  # a peer that does not answer for half as long is gone

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a worker says of itself."""

    role: Role
    state: State
    max_kv_tokens: int
    max_batched_tokens: int
    max_sequences: int

    def message(self) -> Message:
        return asdict(self)

    @classmethod
    def of(cls, message: Message) -> Introduction:
        """Raises `ValueError` for a message that is none."""
        try:
            limits = {name: int(message[name]) for name in ("max_kv_tokens", "max_batched_tokens", "max_sequences")}
            return cls(Role(message["role"]), State(message["state"]), **limits)
        except (KeyError, TypeError) as error:
            raise ValueError(f"no introduction of a worker: {message}") from error


class Outbox:
    """Collects what is to be said, and says it in one message per turn of the event loop: a step of a thousand tokens is one write."""

    def __init__(self) -> None:
        self._message: Message = {}
        self._filled = asyncio.Event()

    def add(self, part: str, item: Any) -> None:
        """To the list `part`."""
        self._message.setdefault(part, []).append(item)
        self._filled.set()

    def set(self, part: str, value: Any) -> None:
        self._message[part] = value
        self._filled.set()

    async def deliver(self, send: Callable[[str], Awaitable[None]]) -> None:
        """Until cancelled, or `send` fails."""
        while True:
            await self._filled.wait()
            text, self._message = json.dumps(self._message, separators=(",", ":")), {}
            self._filled.clear()
            await send(text)
