import asyncio
import contextlib
import json
from dataclasses import dataclass, field, replace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from sla_planner.errors import EngineError, UnreachableError
from sla_planner.traffic.client import FORCED_LENGTH, Endpoint, RequestRecord, Server
from sla_planner.traffic.probe import calibrated, probe, wrong_lengths
from sla_planner.traffic.prompt_form import PromptForm
from sla_planner.traffic.prompts import TextLength

KNOWN = {"model", "stream", "stream_options", "max_tokens", "prompt", "messages"}


@dataclass
class Habits:
    """A server: which prompts and fields it takes, how it counts, how many tokens make an event. `start_tokens` precede every prompt of words."""

    ids: bool = True
    completions: bool = True
    fields: tuple[str, ...] = FORCED_LENGTH
    stops_after: int | None = None  # when not told to go on
    usage: bool = True
    tokens_per_event: int = 1
    silent_every: int = 0  # every so many events have no text
    tokens_per_word: int = 1
    start_tokens: int = 0
    answer: tuple[int, str] | None = None
    asked: list = field(default_factory=list)

    async def generate(self, request):
        asked = await request.json()
        self.asked.append(asked)
        chat = "messages" in asked
        if self.answer:
            return web.Response(status=self.answer[0], text=self.answer[1])
        if not chat and not self.completions:
            return web.Response(status=404, text="no such path")
        if unknown := set(asked) - KNOWN - set(self.fields):
            return web.Response(status=400, text=f"unknown field {min(unknown)}")
        prompt = asked["messages"][0]["content"] if chat else asked["prompt"]
        if isinstance(prompt, list) and not self.ids:
            return web.Response(status=422, text="prompt: not a string")
        isl = len(prompt) if isinstance(prompt, list) else self.start_tokens + self.tokens_per_word * len(prompt.split())
        osl = asked["max_tokens"]
        if self.stops_after is not None and not asked.get("ignore_eos"):
            osl = min(osl, self.stops_after)
        return await self.stream(request, isl, osl, chat)

    async def stream(self, request, isl, osl, chat):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)

        async def event(text, finish=None, role=False):
            choice = {"delta": {"role": "assistant", "content": text} if role else {"content": text}} if chat else {"text": text}
            await response.write(b"data: " + json.dumps({"choices": [choice | {"finish_reason": finish}]}).encode() + b"\n\n")

        if chat:
            await event("", role=True)
        events = -(-osl // self.tokens_per_event)
        for number in range(1, events + 1):
            silent = self.silent_every and number % self.silent_every == 0 and number < events
            await event("" if silent else "x", "length" if number == events else None)
        if self.usage:
            await response.write(
                b"data: " + json.dumps({"choices": [], "usage": {"prompt_tokens": isl, "completion_tokens": osl}}).encode() + b"\n\n"
            )
        await response.write(b"data: [DONE]\n\n")
        return response


@contextlib.asynccontextmanager
async def serving(habits):
    app = web.Application(client_max_size=2**26)
    app.router.add_post("/v1/{endpoint:completions|chat/completions}", habits.generate)
    async with TestServer(app, host="127.0.0.1", shutdown_timeout=0.1) as server:
        yield Server(str(server.make_url("")).rstrip("/"), "m", timeout_s=20.0)


def probed(habits, isl_tokens=1000, form=None, **changes):
    async def run():
        async with serving(habits) as server:
            return await probe(replace(server, **changes), isl_tokens=isl_tokens, form=form)

    return asyncio.run(run())


def test_a_server_that_takes_everything_is_asked_once():
    habits = Habits()
    found = probed(habits)
    assert (found.prompt_form, found.tokens_per_event, found.exact_osl, found.reports_usage) == (PromptForm.IDS, 1.0, True, True)
    assert found.server.forced_length == FORCED_LENGTH
    assert len(habits.asked) == 1


@pytest.mark.parametrize(
    ("habits", "form"),
    [
        (Habits(ids=False), PromptForm.TEXT),
        (Habits(completions=False), PromptForm.CHAT),
        (Habits(completions=False, ids=False, fields=()), PromptForm.CHAT),
    ],
)
def test_the_first_form_that_is_taken(habits, form):
    found = probed(habits)
    assert found.prompt_form is form
    assert found.tokens_per_event == 1.0  # neither the role nor the end of a chat is a token


def test_ids_that_are_counted_as_something_else_are_not_ids():
    class Joins(Habits):
        async def stream(self, request, isl, osl, chat):
            return await super().stream(request, isl if isinstance(self.asked[-1].get("prompt"), str) else 5 * isl, osl, chat)

    assert probed(Joins()).prompt_form is PromptForm.TEXT


@pytest.mark.parametrize("fields", [("ignore_eos",), ("min_tokens",), ()])
def test_a_strict_server_gets_the_fields_it_knows(fields):
    habits = Habits(fields=fields)
    found = probed(habits)
    assert (found.prompt_form, found.server.forced_length) == (PromptForm.IDS, fields)
    assert found.exact_osl
    assert set(habits.asked[-1]) & set(FORCED_LENGTH) == set(fields)


def test_an_answer_that_ends_early_is_seen():
    assert probed(Habits(stops_after=9)).exact_osl
    assert not probed(Habits(stops_after=9, fields=("min_tokens",))).exact_osl


@pytest.mark.parametrize(("merged", "ratio"), [(1, 1.0), (2, 2.0), (4, 4.0)])
def test_merged_tokens(merged, ratio):
    assert probed(Habits(tokens_per_event=merged)).tokens_per_event == ratio


def test_an_event_without_text_is_a_token_all_the_same():
    assert probed(Habits(silent_every=3)).tokens_per_event == 1.0


def test_words_are_calibrated():
    habits = Habits(ids=False, tokens_per_word=2, start_tokens=20)
    found = probed(habits, isl_tokens=1000)
    assert found.server.length == TextLength(2.0, 20.0)

    async def again():
        async with serving(habits) as server:
            return await calibrated(replace(found.server, url=server.url), 500)

    assert asyncio.run(again()).length.words(500) == 240
    assert habits.asked[-1]["max_tokens"] == 1
    assert len({str(asked["prompt"]) for asked in habits.asked}) == len(habits.asked)


def test_no_usage():
    found = probed(Habits(usage=False))
    assert (found.prompt_form, found.reports_usage, found.exact_osl, found.tokens_per_event) == (PromptForm.IDS, False, False, 1.0)
    with pytest.raises(EngineError, match=r"no usage\.prompt_tokens"):
        probed(Habits(usage=False, ids=False))


def test_a_form_that_was_chosen_is_the_only_one():
    habits = Habits()
    assert probed(habits, form=PromptForm.CHAT).prompt_form is PromptForm.CHAT
    assert all("messages" in asked for asked in habits.asked)
    assert probed(Habits(), endpoint=Endpoint.CHAT).prompt_form is PromptForm.CHAT
    with pytest.raises(EngineError, match="HTTP 422: prompt: not a string"):
        probed(Habits(ids=False), form=PromptForm.IDS)


@pytest.mark.parametrize(
    ("answer", "error", "told"),
    [
        ((404, "The model 'm' does not exist"), EngineError, "answers no request: HTTP 404: The model 'm' does not exist; look at"),
        ((500, "CUDA error"), EngineError, "answers no request: HTTP 500: CUDA error"),
        ((401, "no key"), EngineError, "refuses us: HTTP 401: no key"),
        ((503, "loading"), UnreachableError, "is not ready: HTTP 503: loading"),
    ],
)
def test_the_servers_own_words(answer, error, told):
    with pytest.raises(error) as caught:
        probed(Habits(answer=answer))
    assert told in str(caught.value)


def test_nobody_there(closed_port):
    with pytest.raises(UnreachableError, match=f"no answer from http://127.0.0.1:{closed_port}: Cannot connect"):
        asyncio.run(probe(Server(f"http://127.0.0.1:{closed_port}", "m"), isl_tokens=10))


def record(isl=1000, osl=32, prompt=1000, completion=32, error=""):
    return RequestRecord(0.0, 0.0, isl, osl, prompt, completion, error=error)


def test_wrong_lengths_are_told_with_numbers():
    assert wrong_lengths([record(), record(prompt=1010), record(isl=50, prompt=51), record(prompt=None, completion=None)]) == []
    assert wrong_lengths([record(prompt=1011, completion=12), record(completion=17), record(), record(prompt=3, error="broken stream: x")]) == [
        "1 of 3 prompts had 1011 tokens by the server's count where 1000 were asked for",
        "2 of 3 answers had 12 to 17 tokens by the server's count where 32 were asked for",
    ]
