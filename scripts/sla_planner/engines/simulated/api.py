"""What clients send: the OpenAI requests that the simulated engine understands, checked, and reduced to lengths.

No tokenizer. How prompts are taken and counted (`Prompts`):

    ids      token ids count exactly; a text has as many tokens as words between white space, a chat those of its messages
    text     as strict servers with a tokenizer: token ids are refused; a text has a start token, a token per word and one more for every letter r;
             a chat template adds 3 tokens, and 4 per message

An empty prompt is refused. The OSL, with M = `max_tokens` (or `max_completion_tokens`; default `DEFAULT_MAX_TOKENS`):

    ignore_eos         M
    otherwise          uniform on [max(1, min_tokens), M], drawn from the server's seeded generator, as if an end-of-sequence token had come

`ignore_eos`, `min_tokens` and `max_tokens` are also read from `nvext`. Other fields are accepted and have no effect.
Refusals: 400 a value that cannot be served or no JSON, 404 an unknown model, 422 JSON of the wrong shape.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, ValidationError

DEFAULT_MAX_TOKENS = 128


class Endpoint(StrEnum):
    """Values are those of the label `endpoint` in Dynamo's metrics."""

    CHAT = "chat_completions"
    COMPLETIONS = "completions"


class Prompts(StrEnum):
    """What a server takes as a prompt."""

    IDS = "ids"
    TEXT = "text"

    def text_tokens(self, text: str) -> int:
        words = len(text.split())
        return words if self is Prompts.IDS else words + text.count("r")

    def start_tokens(self) -> int:
        return 0 if self is Prompts.IDS else 1

    def template_tokens(self, messages: int) -> int:
        return 0 if self is Prompts.IDS else 3 + 4 * messages


class ApiError(Exception):
    """An OpenAI-style error answer."""

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind

    def body(self) -> dict[str, Any]:
        return {"error": {"message": str(self), "type": self.kind, "param": None, "code": self.status}}


@dataclass(frozen=True, slots=True)
class Call:
    """A request reduced to what an engine without a model needs."""

    endpoint: Endpoint
    isl_tokens: int
    max_tokens: int
    min_tokens: int
    ignore_eos: bool
    stream: bool
    include_usage: bool

    def draw_osl(self, generator: random.Random) -> int:
        if self.ignore_eos:
            return self.max_tokens
        return generator.randint(max(1, self.min_tokens), self.max_tokens)


class _Lengths(BaseModel):
    max_tokens: PositiveInt | None = None
    min_tokens: NonNegativeInt | None = None
    ignore_eos: bool | None = None


class _StreamOptions(BaseModel):
    include_usage: bool = False


class _Body(_Lengths, ABC):
    model: str | None = None
    max_completion_tokens: PositiveInt | None = None
    n: int = 1
    stream: bool = False
    stream_options: _StreamOptions | None = None
    nvext: _Lengths | None = None

    @property
    def lengths(self) -> _Lengths:
        """Top level first, then `nvext`."""
        inner = self.nvext or _Lengths()
        return _Lengths(
            max_tokens=self.max_completion_tokens or self.max_tokens or inner.max_tokens,
            min_tokens=inner.min_tokens if self.min_tokens is None else self.min_tokens,
            ignore_eos=inner.ignore_eos if self.ignore_eos is None else self.ignore_eos,
        )

    @abstractmethod
    def isl_tokens(self, prompts: Prompts) -> int:
        """0 for an empty prompt."""


class _TextPart(BaseModel):
    type: Literal["text"]
    text: str


class _Message(BaseModel):
    role: str
    content: str | list[_TextPart] | None = None


class _ChatBody(_Body):
    messages: Annotated[list[_Message], Field(min_length=1)]

    def isl_tokens(self, prompts: Prompts) -> int:
        total = 0
        for message in self.messages:
            parts = [message.content or ""] if not isinstance(message.content, list) else [part.text for part in message.content]
            total += sum(prompts.text_tokens(part) for part in parts)
        return total and total + prompts.start_tokens() + prompts.template_tokens(len(self.messages))


class _CompletionBody(_Body):
    prompt: str | list[int] | list[str] | list[list[int]]

    def isl_tokens(self, prompts: Prompts) -> int:
        prompt = self.prompt
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            if len(prompt) > 1:
                raise ApiError(400, f"{len(prompt)} prompts in one request; send one prompt per request")
            prompt = prompt[0]
        if isinstance(prompt, str):
            tokens = prompts.text_tokens(prompt)
            return tokens and tokens + prompts.start_tokens()
        if prompts is Prompts.TEXT:
            raise ApiError(400, "prompt: Input should be a valid string")
        return len(prompt)


_BODIES: dict[Endpoint, type[_Body]] = {Endpoint.CHAT: _ChatBody, Endpoint.COMPLETIONS: _CompletionBody}


def parse_call(endpoint: Endpoint, raw: bytes, *, model: str, max_kv_tokens: int, prompts: Prompts = Prompts.IDS) -> Call:
    """Errors: `ApiError`."""
    body = _validate(endpoint, raw)
    if body.model not in (None, model):
        raise ApiError(404, f"The model {body.model!r} does not exist; this server has {model!r}", "model_not_found")
    if body.n != 1:
        raise ApiError(400, f"n is {body.n}; this engine gives one answer per request")
    isl_tokens = body.isl_tokens(prompts)
    if not isl_tokens:
        raise ApiError(400, "the prompt is empty")
    lengths = body.lengths
    max_tokens = lengths.max_tokens or max(1, min(DEFAULT_MAX_TOKENS, max_kv_tokens - isl_tokens))
    min_tokens = lengths.min_tokens or 0
    if min_tokens > max_tokens:
        raise ApiError(400, f"min_tokens is {min_tokens}, more than max_tokens, which is {max_tokens}")
    if isl_tokens + max_tokens > max_kv_tokens:
        raise ApiError(400, f"a prompt of {isl_tokens} and an output of {max_tokens} tokens; the KV cache of one worker holds {max_kv_tokens}")
    return Call(
        endpoint=endpoint,
        isl_tokens=isl_tokens,
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        ignore_eos=bool(lengths.ignore_eos),
        stream=body.stream,
        include_usage=body.stream_options is not None and body.stream_options.include_usage,
    )


def _validate(endpoint: Endpoint, raw: bytes) -> _Body:
    try:
        return _BODIES[endpoint].model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "json_invalid":
            raise ApiError(400, f"the body is no JSON: {first['msg']}") from None
        raise ApiError(422, f"{place or 'body'}: {first['msg']}") from None
