import asyncio
import itertools
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sla_planner.errors import UnreachableError, UsageError
from sla_planner.traffic.client import Endpoint, RequestRecord, Server, StreamingClient, TokenStream, served_models
from sla_planner.traffic.prompt_form import PromptForm
from sla_planner.traffic.prompts import TextLength

ASKED = RequestRecord(scheduled_s=1.0, sent_s=1.5, isl_tokens=7, osl_tokens=5)


def ask(serving, model, *sizes, endpoint=Endpoint.COMPLETIONS, timeout_s=30.0):
    async def run():
        async with serving() as engine, StreamingClient(Server(engine.url, model, endpoint, timeout_s), seed=1) as client:
            return engine, [await client.send(*size) for size in sizes or [(7, 5)]]

    return asyncio.run(run())


def fed(parts, first_s=10.0, every_s=1.0, sent_s=8.0, asked=ASKED):
    stream = TokenStream()
    for index, part in enumerate(parts):
        stream.feed(part, first_s + index * every_s)
    return stream.record(asked, sent_s)


@pytest.mark.parametrize(
    ("name", "ttft_ms", "itl_ms", "e2e_s"),
    [
        ("plain", 2000.0, 500.0, 4.0),  # text at 10, finish at 12: 2 s over 4 gaps
        ("empty-finish", 2000.0, 750.0, 5.0),  # the finish of the last token comes at 13
        ("chat-null-role", 3000.0, 500.0, 5.0),  # the role came at 10, text at 11, finish at 13
        ("chat-empty-role", 3000.0, 250.0, 4.0),
        ("reasoning", 3000.0, 250.0, 4.0),
    ],
)
def test_latencies_from_known_times(streams, name, ttft_ms, itl_ms, e2e_s):
    record = fed(streams[name])
    assert (record.ttft_ms, record.itl_ms, record.e2e_s, record.error) == (ttft_ms, itl_ms, e2e_s, "")
    assert (record.prompt_tokens, record.completion_tokens) == (7, 5)
    assert (record.scheduled_s, record.sent_s) == (1.0, 1.5)


def test_all_tokens_in_one_block_have_no_distance(streams):
    record = fed([b"".join(streams["plain"])])
    assert (record.ttft_ms, record.itl_ms, record.e2e_s, record.error) == (2000.0, 0.0, 2.0, "")


def test_an_only_token_has_a_ttft_and_no_itl(streams):
    record = fed(streams["only-special-token"])
    assert (record.ttft_ms, record.itl_ms, record.e2e_s, record.error) == (2000.0, None, 2.0, "")


def test_generated_text_cannot_pass_for_the_protocol(streams):
    record = fed(streams["quoted"])
    assert (record.ttft_ms, record.itl_ms, record.error) == (2000.0, 250.0, "")


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("no-text", "no text", "no token"),
        ("no-usage", "no usage", "did not report"),
        ("bad-usage", "no usage", "did not report"),
        ("no-finish", "broken stream", "without a finish reason"),
        ("engine-error", "engine error", "CUDA out of memory"),
    ],
)
def test_what_a_stream_lacks_is_told(streams, name, kind, told):
    record = fed(streams[name])
    assert record.error_kind == kind
    assert told in record.error
    assert record.itl_ms is None


def test_a_transport_error_stays_the_error_and_keeps_the_ttft(streams):
    record = fed(streams["plain"][:1], asked=RequestRecord(0.0, 0.0, 7, 5, error="timeout: no whole answer within 1 s"))
    assert record.error_kind == "timeout"
    assert record.ttft_ms == 2000.0


@settings(deadline=None)
@given(name=st.sampled_from(["plain", "empty-finish", "chat-null-role", "quoted", "engine-error", "bad-usage"]), cuts=st.sets(st.integers(0, 700)))
def test_where_blocks_are_cut_does_not_matter(streams, name, cuts):
    content = b"".join(streams[name])
    edges = [0, *sorted(cut for cut in cuts if cut < len(content)), len(content)]
    parts = [content[start:end] for start, end in itertools.pairwise(edges)]
    assert fed(parts, every_s=0.0) == fed([content])


@given(st.lists(st.binary(max_size=80) | st.sampled_from([b'data: {"usage": {', b'"text":"x"', b'"finish_reason":"stop"', b"\n", b'{"usage":{}}\n'])))
def test_any_bytes_give_a_record(parts):
    assert isinstance(fed(parts), RequestRecord)


def test_a_request_asks_for_exact_lengths_and_unique_prompts(serving):
    engine, records = ask(serving, "plain", (300, 5), (300, 5), (1, 9))
    first, second, third = engine.asked
    assert [record.error for record in records] == ["", "", ""]
    assert (len(first["prompt"]), len(second["prompt"]), len(third["prompt"])) == (300, 300, 1)
    assert all(1000 <= token < 4000 for token in first["prompt"])
    assert sum(a == b for a, b in zip(first["prompt"], second["prompt"], strict=True)) < 10
    assert {key: third[key] for key in third if key != "prompt"} == {
        "model": "plain",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 9,
        "min_tokens": 9,
        "ignore_eos": True,
    }


def test_chat_sends_that_many_words(serving):
    engine, records = ask(serving, "chat-null-role", (40, 5), endpoint=Endpoint.CHAT)
    (message,) = engine.asked[0]["messages"]
    assert message["role"] == "user"
    assert len(message["content"].split()) == 40
    assert records[0].error == ""


def test_the_seed_fixes_the_prompts(serving):
    prompts = [ask(serving, "plain", (20, 5))[0].asked[0]["prompt"] for _ in range(2)]
    assert prompts[0] == prompts[1]


def test_ttft_waits_for_text_not_for_the_role(serving):
    async def run():
        async with serving() as engine, StreamingClient(Server(engine.url, "held"), seed=1) as client:
            answer = asyncio.create_task(client.send(7, 5))
            while not engine.in_flight:
                await asyncio.sleep(0)
            engine.release.set()
            return engine, await answer

    engine, record = asyncio.run(run())
    assert record.error == ""
    assert record.sent_s + record.ttft_ms / 1e3 >= engine.text_after_s[0]


@pytest.mark.parametrize(
    ("model", "told", "has_ttft"),
    [
        ("busy", "HTTP 503: no capacity xxx", False),
        ("not-streaming", "not a stream: the answer is application/json", False),
        ("drops", "broken stream: Server disconnected", False),
        ("breaks", "broken stream: ", True),
        ("engine-error", 'engine error: {"error": {"message": "CUDA out of memory"', True),
    ],
)
def test_failures_are_data(serving, model, told, has_ttft):
    _, (record,) = ask(serving, model)
    assert record.error.startswith(told)
    assert len(record.error) < 240
    assert (record.ttft_ms is not None) is has_ttft
    json.dumps(record.error)


def test_a_hang_ends_at_the_timeout(serving):
    _, (record,) = ask(serving, "hangs", timeout_s=0.2)
    assert record.error == "timeout: no whole answer within 0.2 s"
    assert record.ttft_ms is None


def test_nobody_listening_is_data(closed_port):
    async def run():
        async with StreamingClient(Server(f"http://127.0.0.1:{closed_port}", "m"), seed=1) as client:
            return await client.send(7, 5)

    assert asyncio.run(run()).error.startswith("no connection: Cannot connect to host 127.0.0.1")


@pytest.mark.parametrize(("path", "models"), [("", ["plain", "other"]), ("/", ["plain", "other"]), ("/v1/", ["plain", "other"]), ("/bare", [])])
def test_the_served_models(serving, path, models):
    async def run():
        async with serving() as engine:
            return await served_models(engine.url + path)

    assert asyncio.run(run()) == models


def test_a_server_that_loads_or_is_gone_is_unreachable(serving, closed_port):
    async def run():
        async with serving() as engine:
            return await served_models(engine.url + "/loading")

    with pytest.raises(UnreachableError, match="HTTP 503: loading"):
        asyncio.run(run())
    with pytest.raises(UnreachableError, match=f"no answer from http://127.0.0.1:{closed_port}/v1/models"):
        asyncio.run(served_models(f"http://127.0.0.1:{closed_port}"))


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://x", "http://", "http://host:99999", "http://[::1", "http://a..b", "http://a b", "http://a?b=c"]
)
def test_an_address_that_is_none_is_told(url):
    with pytest.raises(UsageError, match="not the address of a server"):
        StreamingClient(Server(url, "m"), seed=1)


def test_text_goes_to_completions_as_a_string_of_calibrated_length(serving):
    async def run():
        async with serving() as engine:
            server = Server(engine.url, "plain", prompt=PromptForm.TEXT, length=TextLength(2.0, 10.0))
            async with StreamingClient(server, seed=1) as client:
                return engine, await client.send(50, 5)

    engine, record = asyncio.run(run())
    assert record.error == ""
    assert len(engine.asked[0]["prompt"].split()) == 20  # (50 - 10) / 2


def test_the_form_decides_on_the_endpoint(serving):
    async def run():
        async with serving() as engine:
            async with StreamingClient(Server(engine.url, "chat-null-role", prompt=PromptForm.CHAT), seed=1) as client:
                await client.send(3, 5)
            return engine

    assert "messages" in asyncio.run(run()).asked[0]


@pytest.mark.parametrize("fields", [(), ("ignore_eos",), ("min_tokens",)])
def test_fields_that_a_server_does_not_know_stay_away(serving, fields):
    async def run():
        async with serving() as engine:
            async with StreamingClient(Server(engine.url, "plain", forced_length=fields), seed=1) as client:
                await client.send(3, 5)
            return engine

    assert set(asyncio.run(run()).asked[0]) == {"model", "stream", "stream_options", "max_tokens", "prompt", *fields}


def test_without_a_seed_prompts_never_come_again(serving):
    async def run():
        async with serving() as engine:
            for _ in range(2):
                async with StreamingClient(Server(engine.url, "plain"), seed=None) as client:
                    await client.send(20, 5)
            return engine

    first, second = asyncio.run(run()).asked
    assert first["prompt"] != second["prompt"]


class Bytes:
    def __init__(self):
        self.content = b""

    def feed(self, block, now_s):
        self.content += block


def test_a_stream_as_it_comes(serving, streams):
    async def run(model, timeout_s):
        async with serving() as engine, StreamingClient(Server(engine.url, model, timeout_s=0.01), seed=1) as client:
            sink = Bytes()
            return await client.stream(7, 5, sink, timeout_s=timeout_s), sink.content

    assert asyncio.run(run("plain", None)) == ("", b"".join(streams["plain"]))
    assert asyncio.run(run("hangs", 0.1))[0] == "timeout: no whole answer within 0.1 s"
    assert asyncio.run(run("busy", None))[0].startswith("HTTP 503")


def test_a_kept_connection_that_the_server_has_closed_is_no_failure(streams):
    """A server that says keep-alive and closes every connection after its first answer, just as the second request comes."""
    requests = []

    async def answer(reader, writer):
        for number in range(2):
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(int(re.search(rb"Content-Length: (\d+)", head)[1]))
            if number:
                break
            requests.append(body)
            content = b"".join(streams["plain"])
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content))
        writer.close()

    async def run():
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with StreamingClient(Server(url, "m"), seed=1) as client:
                return [await client.send(7, 5) for _ in range(3)]

    records = asyncio.run(run())
    assert [record.error for record in records] == ["", "", ""]
    assert len(set(requests)) == 3


def test_prompt_tokens_that_a_prefix_cache_answered_are_kept():
    stream = TokenStream()
    stream.feed(b'data: {"choices": [{"text": "a", "finish_reason": "length"}]}\n', 1.0)
    usage = b'{"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 8}}'
    stream.feed(b'data: {"choices": [], "usage": ' + usage + b"}\n", 1.1)
    record = stream.record(RequestRecord(0.0, 0.0, 9, 1), 0.5)
    assert (record.prompt_tokens, record.completion_tokens, record.cached_tokens, record.error) == (9, 1, 8, "")
