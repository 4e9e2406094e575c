"""The bytes of an answer. Every token is the same short text, so a stream needs two kinds of token events, made once per request.

A token event is already framed as an HTTP chunk (`size CRLF data CRLF`), ready for the transport: at 15,000 tokens/s there is no time to build it.
"""

from __future__ import annotations

import json
import time
from typing import Any

from sla_planner.engines.simulated.api import Call, Endpoint

TOKEN_TEXT = " tok"
DONE = b"data: [DONE]\n\n"


def event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"


def http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class AnswerText:
    """One answer, as events of a stream or as a whole."""

    def __init__(self, call: Call, osl_tokens: int, model: str, number: int) -> None:
        self._call = call
        self._osl_tokens = osl_tokens
        self._chat = call.endpoint is Endpoint.CHAT
        self._finish_reason = "length" if osl_tokens == call.max_tokens else "stop"
        prefix = "chatcmpl" if self._chat else "cmpl"
        self._common = {"id": f"{prefix}-{number:08x}", "created": int(time.time()), "model": model}

    def token(self, *, last: bool) -> bytes:
        return event(self._chunk({"content": TOKEN_TEXT}, self._finish_reason if last else None))

    def opening(self) -> bytes:
        """What precedes the first token: a chat names the role."""
        return event(self._chunk({"role": "assistant", "content": ""}, None)) if self._chat else b""

    def closing(self) -> bytes:
        """What follows the last token."""
        if not self._call.include_usage:
            return DONE
        return event({**self._common, "object": self._object(stream=True), "choices": [], "usage": self.usage()}) + DONE

    def whole(self) -> dict[str, Any]:
        """The answer without streaming."""
        text = TOKEN_TEXT * self._osl_tokens
        content = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        choice = {"index": 0, **content, "finish_reason": self._finish_reason}
        return {**self._common, "object": self._object(stream=False), "choices": [choice], "usage": self.usage()}

    def usage(self) -> dict[str, int]:
        isl_tokens = self._call.isl_tokens
        return {"prompt_tokens": isl_tokens, "completion_tokens": self._osl_tokens, "total_tokens": isl_tokens + self._osl_tokens}

    def _object(self, *, stream: bool) -> str:
        if self._chat:
            return "chat.completion.chunk" if stream else "chat.completion"
        return "text_completion"

    def _chunk(self, delta: dict[str, str], finish_reason: str | None) -> dict[str, Any]:
        content = {"delta": delta} if self._chat else {"text": delta["content"]}
        choice = {"index": 0, **content, "finish_reason": finish_reason}
        return {**self._common, "object": self._object(stream=True), "choices": [choice]}
