"""What a server takes and tells, found out with a few tiny requests before anything is measured.

    form        token ids, else words to /v1/completions, else words to /v1/chat/completions: the first that is answered with the right prompt_tokens
    fields      strict servers answer 400 to a field they do not know: without min_tokens, without ignore_eos, without both
    length      words per token by the server's count (`prompts.calibrate`), for the forms that send words
    events      tokens_per_event = completion_tokens / events from the first text to the last

Events without a text between two that have one carry tokens (half a character, a special token) and count. The ends of an answer are uncertain by an
event (an end-of-sequence token, a finish reason of its own): within that, a token is an event.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from sla_planner.config_words import masked
from sla_planner.errors import EngineError, UnreachableError
from sla_planner.traffic.client import FORCED_LENGTH, Endpoint, RequestRecord, Server, StreamingClient, TokenStream, has_text
from sla_planner.traffic.prompt_form import PromptForm
from sla_planner.traffic.prompts import A_TOKEN_PER_WORD, calibrate, length_slack

ASKED_TOKENS = 32
LONGER_TOKENS = 256  # where a token is not an event, their ratio is learnt from more of them
PROMPT_TOKENS = 64
EVENT_SLACK = 1
_FIELDS = (FORCED_LENGTH, ("ignore_eos",), ("min_tokens",), ())

_REFUSED = re.compile(r"HTTP (\d+)")


@dataclass(frozen=True, slots=True)
class Probe:
    """`server`: as given, with what was found, ready to be measured. `exact_osl`: an answer had the tokens that were asked for; `reports_usage`:
    token counts come with each answer."""

    server: Server
    tokens_per_event: float
    exact_osl: bool
    reports_usage: bool

    @property
    def prompt_form(self) -> PromptForm:
        return self.server.form


async def probe(server: Server, *, isl_tokens: int, form: PromptForm | None = None) -> Probe:
    """Find out about `server`; words are calibrated at `isl_tokens`. `form`: try no other.

    Raises `UnreachableError` when it does not answer, `EngineError` with its own words when it answers nothing but errors.
    """
    refusals: list[str] = []
    for tried in _candidates(server, form):
        found = await _first_answer(replace(server, prompt=tried), refusals)
        if found is not None:
            ratio = found.tokens_per_event if found.tokens_per_event == 1 else await _ratio(found)
            return replace(found, server=await calibrated(found.server, isl_tokens), tokens_per_event=ratio)
    raise EngineError(f"{masked(server.url)} answers no request: {_most_telling(refusals)}", hint="look at the engine's log; check the model's name")


async def calibrated(server: Server, isl_tokens: int) -> Server:
    """`server` with the number of words that makes prompts of `isl_tokens`; as it is when it takes token ids. Raises as `probe` does."""
    if server.form is PromptForm.IDS:
        return server
    plain = replace(server, length=A_TOKEN_PER_WORD)
    async with StreamingClient(plain, seed=None) as client:
        return replace(server, length=await calibrate(_counting(client, plain), isl_tokens))


def wrong_lengths(records: Sequence[RequestRecord]) -> list[str]:
    """What the server counted and was not asked for, a sentence each; prompts may differ by a token or 1 %. Failed requests are left out."""
    whole = [record for record in records if not record.error]
    prompts = [(record.isl_tokens, record.prompt_tokens) for record in whole if record.prompt_tokens is not None]
    answers = [(record.osl_tokens, record.completion_tokens) for record in whole if record.completion_tokens is not None]
    return [
        *_wrong("prompts", len(prompts), [(asked, got) for asked, got in prompts if abs(got - asked) > max(1.0, 0.01 * asked)]),
        *_wrong("answers", len(answers), [(asked, got) for asked, got in answers if got != asked]),
    ]


def _wrong(what: str, of: int, pairs: Sequence[tuple[int, int]]) -> Iterator[str]:
    if pairs:
        asked, got = ([pair[side] for pair in pairs] for side in (0, 1))
        yield f"{len(pairs)} of {of} {what} had {_range(got)} tokens by the server's count where {_range(asked)} were asked for"


def _range(values: Sequence[int]) -> str:
    return f"{min(values)}" if min(values) == max(values) else f"{min(values)} to {max(values)}"


def _candidates(server: Server, form: PromptForm | None) -> tuple[PromptForm, ...]:
    chosen = form or server.prompt or (PromptForm.CHAT if server.endpoint is Endpoint.CHAT else None)
    return (chosen,) if chosen else tuple(PromptForm)


async def _first_answer(server: Server, refusals: list[str]) -> Probe | None:
    """The answer to `server`'s form with as many fields as it takes; None when this form is not for it, the reasons in `refusals`."""
    for fields in _FIELDS:
        tried = replace(server, forced_length=fields)
        answer = _Answer()
        record = await answer.of(tried)
        if not record.error or record.error_kind == "no usage":
            if server.form is PromptForm.IDS and not _counts_ids(record):
                refusals.append(f"it counted {record.prompt_tokens} prompt tokens for {record.isl_tokens} token ids")
                return None
            return Probe(
                server=tried,
                tokens_per_event=answer.tokens_per_event(record.completion_tokens),
                exact_osl=record.completion_tokens == ASKED_TOKENS,
                reports_usage=record.completion_tokens is not None,
            )
        _raise_if_final(server, record.error)
        refusals.append(record.error)
        if _status(record.error) not in (400, 422):
            return None
    return None


async def _ratio(found: Probe) -> float:
    answer = _Answer()
    record = await answer.of(found.server, LONGER_TOKENS)
    return found.tokens_per_event if record.error else answer.tokens_per_event(record.completion_tokens)


def _counts_ids(record: RequestRecord) -> bool:
    return record.prompt_tokens is None or abs(record.prompt_tokens - record.isl_tokens) <= length_slack(record.isl_tokens)


def _raise_if_final(server: Server, error: str) -> None:
    """For what no other form or field would change."""
    where = masked(server.url)
    if error.startswith("no connection"):
        raise UnreachableError(f"no answer from {where}: {error.partition(': ')[2]}", hint="check the address and that the server is up")
    if error.startswith("timeout"):
        raise UnreachableError(f"no answer from {where}: {error}", hint="check that the engine is not stuck, or raise the timeout")
    if _status(error) in (502, 503, 504):
        raise UnreachableError(f"{where} is not ready: {error}", hint="wait until the server is ready")
    if _status(error) in (401, 403):
        raise EngineError(f"{where} refuses us: {error}", hint="measure the engine behind the gateway, without authentication")


def _status(error: str) -> int | None:
    match = _REFUSED.match(error)
    return int(match[1]) if match else None


def _most_telling(refusals: Sequence[str]) -> str:
    """The first refusal that is not about a path which the server does not have."""
    return next((refusal for refusal in refusals if _status(refusal) != 404), refusals[0])


def _counting(client: StreamingClient, server: Server) -> Callable[[int], Awaitable[int | None]]:
    async def count(words: int) -> int | None:
        record = await client.send(words, 1)
        if record.error and record.error_kind != "no usage":
            _raise_if_final(server, record.error)
            raise EngineError(f"{masked(server.url)} does not answer a prompt of {words} words: {record.error}", hint="look at the engine's log")
        return record.prompt_tokens

    return count


class _Answer:
    """One answer, with its events counted."""

    def __init__(self) -> None:
        self._stream = TokenStream()
        self._rest = b""
        self._events = 0  # from the first text to the last
        self._silent = 0  # since the last text

    async def of(self, server: Server, osl_tokens: int = ASKED_TOKENS) -> RequestRecord:
        async with StreamingClient(server, seed=None) as client:
            sent_s = client.clock()
            error = await client.stream(PROMPT_TOKENS, osl_tokens, self, timeout_s=server.timeout_s)
        return self._stream.record(RequestRecord(0.0, 0.0, PROMPT_TOKENS, osl_tokens, error=error), sent_s)

    def feed(self, block: bytes, now_s: float) -> None:
        self._stream.feed(block, now_s)
        *lines, self._rest = (self._rest + block).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            if has_text(line):
                self._events += 1 + (self._silent if self._events else 0)
                self._silent = 0
            else:
                self._silent += 1

    def tokens_per_event(self, tokens: int | None) -> float:
        if tokens is None or not self._events or abs(tokens - self._events) <= EVENT_SLACK:
            return 1.0
        return tokens / self._events
