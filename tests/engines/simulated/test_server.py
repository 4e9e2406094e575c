"""The HTTP front, on a real socket; the engine runs ten times faster than its profile."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sla_planner.engines.simulated.api import Prompts
from sla_planner.engines.simulated.faults import LastWords, parse_fault
from sla_planner.engines.simulated.fleet import Fleet
from sla_planner.engines.simulated.options import FleetOptions, Mode, Role
from sla_planner.engines.simulated.serving import ServeOptions, running
from sla_planner.errors import UsageError


@dataclass
class Front:
    """A client of one running engine."""

    url: str
    http: aiohttp.ClientSession
    fleet: Fleet
    ended: asyncio.Future[LastWords]

    async def ask(self, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
        async with self.http.post(path, json=body) as answer:
            return answer.status, await answer.json()

    async def stream(self, path: str, **body: Any) -> list[dict[str, Any]]:
        """Events of a whole stream; checks that it is one."""
        async with self.http.post(path, json={"stream": True, "ignore_eos": True, **body}) as answer:
            assert answer.status == 200
            assert answer.content_type == "text/event-stream"
            return events(await answer.text())

    async def get(self, path: str) -> tuple[int, str]:
        async with self.http.get(path) as answer:
            return answer.status, await answer.text()

    async def hang(self, role: Role) -> None:
        """What reaches `role` stays there."""
        assert (await self.ask("/sim/faults", kind="hang", role=role))[0] == 200

    async def metric(self, name: str, **labels: str) -> float:
        """Sum over the samples with these labels."""
        _, text = await self.get("/metrics")
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples if sample.name == name]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def events(text: str) -> list[dict[str, Any]]:
    lines = text.strip().split("\n\n")
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


@contextlib.asynccontextmanager
async def front(options: FleetOptions, **serve: Any) -> AsyncIterator[Front]:
    async with (
        running(ServeOptions(options, model="tiny", port=0, **serve)) as engine,
        aiohttp.ClientSession(engine.url, connector=aiohttp.TCPConnector(limit=0)) as http,
    ):
        yield Front(engine.url, http, engine.fleet, engine.ended)


def run(options: FleetOptions, test: Callable[[Front], Awaitable[None]], **serve: Any) -> None:
    async def whole() -> None:
        async with front(options, **serve) as client:
            await asyncio.wait_for(test(client), 20)

    asyncio.run(whole())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


@pytest.fixture
def options(world) -> FleetOptions:
    return world.options(time_scale=10)


def test_a_streamed_chat(options):
    async def test(client: Front) -> None:
        messages = [{"role": "user", "content": "how are you"}]
        opening, *tokens, usage = await client.stream("/v1/chat/completions", messages=messages, max_tokens=5, stream_options={"include_usage": True})
        assert opening["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert [token["choices"][0]["delta"]["content"] for token in tokens] == [" tok"] * 5
        assert [token["choices"][0]["finish_reason"] for token in tokens] == [None] * 4 + ["length"]
        assert usage["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
        assert usage["choices"] == []
        assert {event["object"] for event in (opening, *tokens, usage)} == {"chat.completion.chunk"}
        assert {event["model"] for event in (opening, *tokens, usage)} == {"tiny"}

    run(options, test)


def test_a_streamed_completion_without_usage(options):
    async def test(client: Front) -> None:
        tokens = await client.stream("/v1/completions", prompt=[1, 2, 3], max_tokens=4)
        assert [token["choices"][0]["text"] for token in tokens] == [" tok"] * 4
        assert not any("usage" in token for token in tokens)

    run(options, test)


def test_whole_answers(options):
    async def test(client: Front) -> None:
        status, chat = await client.ask("/v1/chat/completions", messages=[{"role": "user", "content": "hi"}], max_tokens=3, ignore_eos=True)
        assert (status, chat["object"]) == (200, "chat.completion")
        assert chat["choices"] == [{"index": 0, "message": {"role": "assistant", "content": " tok tok tok"}, "finish_reason": "length"}]
        status, text = await client.ask("/v1/completions", prompt=[1, 2], max_tokens=2, nvext={"ignore_eos": True}, model="tiny")
        assert (status, text["choices"][0]["text"]) == (200, " tok tok")
        assert text["usage"] == {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}

    run(options, test)


def test_an_answer_that_ends_before_max_tokens_says_stop(options):
    async def test(client: Front) -> None:
        answers = [(await client.ask("/v1/completions", prompt="a", max_tokens=4))[1] for _ in range(20)]
        for answer in answers:
            shorter = answer["usage"]["completion_tokens"] < 4
            assert answer["choices"][0]["finish_reason"] == ("stop" if shorter else "length")
        assert {answer["usage"]["completion_tokens"] for answer in answers} == {1, 2, 3, 4}

    run(options, test)


def test_ttft_follows_the_profile(options):
    """Prompts of 900 and 100 tokens take 100 ms and 20 ms: compared with each other, as a busy machine slows both."""

    async def test(client: Front) -> None:
        for isl_tokens in (100, 900):
            await client.stream("/v1/completions", prompt=[1] * isl_tokens, max_tokens=1)
            ttft_s = await client.metric("dynamo_frontend_time_to_first_token_seconds_sum")
            assert ttft_s >= {100: 0.002, 900: 0.012}[isl_tokens]  # never faster than the law; sums: 20, then 20 + 100 ms, over 10

    run(options, test)


def test_metrics_sum_up_to_what_clients_saw(options):
    async def test(client: Front) -> None:
        lengths = [(10 * n, n + 1) for n in range(1, 8)]
        await asyncio.gather(*(client.stream("/v1/completions", prompt=[1] * isl, max_tokens=osl) for isl, osl in lengths))
        await client.ask("/v1/completions", prompt=[1] * 100, max_tokens=50, ignore_eos=True)
        assert await client.metric("dynamo_frontend_requests_total", request_type="stream", status="success", error_type="", model="tiny") == 7
        assert await client.metric("dynamo_frontend_requests_total", request_type="unary") == 1
        assert await client.metric("dynamo_frontend_requests_started_total") == 8
        assert await client.metric("dynamo_frontend_input_sequence_tokens_sum") == 280 + 100
        assert await client.metric("dynamo_frontend_output_sequence_tokens_sum") == 35 + 50
        assert await client.metric("dynamo_frontend_output_tokens_total") == 35 + 50
        # Latencies are those of streams: a first token each, and the other 28.
        assert await client.metric("dynamo_frontend_time_to_first_token_seconds_count") == 7
        assert await client.metric("dynamo_frontend_inter_token_latency_seconds_count") == 28
        assert await client.metric("dynamo_frontend_request_duration_seconds_count") == 8
        for gauge in ("dynamo_frontend_inflight_requests", "dynamo_frontend_queued_requests", "vllm:num_requests_running"):
            assert await client.metric(gauge) == 0

    run(options, test)


def test_gauges_while_requests_run_and_wait(options):
    async def test(client: Front) -> None:
        await client.hang(Role.DECODE)
        asks = [asyncio.create_task(client.stream("/v1/completions", prompt=[1] * 600, max_tokens=300)) for _ in range(2)]
        await until(lambda: len(client.fleet.handover) == 1)
        assert await client.metric("dynamo_frontend_inflight_requests") == 2
        assert await client.metric("dynamo_frontend_queued_requests") == 0  # both have their first token
        assert await client.metric("vllm:num_requests_running", role="decode") == 1
        assert await client.metric("vllm:num_requests_waiting", role="decode") == 1
        assert await client.metric("vllm:kv_cache_usage_perc", role="decode") == 0.601
        for ask in asks:
            ask.cancel()

    run(options, test)


def test_a_client_that_goes_frees_its_slot(options):
    async def test(client: Front) -> None:
        await client.hang(Role.DECODE)
        worker = next(client.fleet.workers(Role.DECODE))
        for stream in (True, False):
            ask = asyncio.create_task(client.ask("/v1/completions", prompt=[1] * 100, max_tokens=800, ignore_eos=True, stream=stream))
            await until(lambda: worker.load == 1)
            ask.cancel()
            await until(lambda: worker.load == 0)
        assert await client.metric("dynamo_frontend_requests_total", error_type="cancelled", status="error") == 2
        assert await client.metric("dynamo_frontend_inflight_requests") == 0

    run(options, test)


def test_a_crash_before_the_first_token_is_a_500_and_after_it_an_event(options):
    async def test(client: Front) -> None:
        body = {"prompt": [1] * 100, "max_tokens": 500, "ignore_eos": True, "stream": True}
        await client.hang(Role.PREFILL)
        early = asyncio.create_task(client.ask("/v1/completions", **body))
        await until(lambda: next(client.fleet.workers(Role.PREFILL)).load == 1)
        assert await client.ask("/sim/faults", kind="crash", role="prefill") == (200, {"struck": "prefill-0"})
        status, answer = await early
        assert (status, answer["error"]["message"]) == (500, "worker prefill-0 crashed")
        await client.hang(Role.DECODE)
        late = asyncio.create_task(client.stream("/v1/completions", **body))
        await until(lambda: next(client.fleet.workers(Role.DECODE)).load == 1)
        await client.ask("/sim/faults", kind="crash", role="decode")
        assert (await late)[-1]["error"]["message"] == "worker decode-0 crashed"
        assert await client.metric("dynamo_frontend_requests_total", error_type="internal", status="error") == 2
        assert await client.metric("dynamo_frontend_queued_requests") == 0

    run(options, test)


def test_metrics_gone_is_a_503_of_metrics_alone(options):
    async def test(client: Front) -> None:
        assert (await client.get("/metrics"))[0] == 503
        assert (await client.get("/health"))[0] == 200

    run(options, test, faults=(parse_fault('{"kind": "metrics-gone"}'),))


def test_errors_instead_of_answers_are_counted_as_such(options):
    async def test(client: Front) -> None:
        answers = [await client.ask("/v1/completions", prompt=[1], max_tokens=1, stream=False) for _ in range(4)]
        assert [status for status, _ in answers] == [200, 500, 200, 500]
        assert answers[1][1]["error"] == {"message": "no answer, as a fault asked", "type": "internal_error", "param": None, "code": 500}
        assert await client.metric("dynamo_frontend_requests_total", error_type="internal", status="error") == 2
        assert await client.metric("dynamo_frontend_requests_total", status="success") == 2
        assert await client.metric("dynamo_frontend_queued_requests") == 0

    run(options, test, faults=(parse_fault('{"kind": "errors", "share": 0.5}'),))


def test_short_answers_say_stop_and_count_truly(options):
    async def test(client: Front) -> None:
        *tokens, usage = await client.stream("/v1/completions", prompt=[1, 2], max_tokens=6, stream_options={"include_usage": True})
        assert [token["choices"][0]["finish_reason"] for token in tokens] == [None, None, "stop"]
        assert usage["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}

    run(options, test, faults=(parse_fault('{"kind": "short", "factor": 0.5}'),))


def test_an_exit_cuts_streams_and_closes_the_port(options):
    async def test(client: Front) -> None:
        body = {"prompt": [1] * 100, "max_tokens": 500, "ignore_eos": True, "stream": True}
        await client.hang(Role.DECODE)
        async with client.http.post("/v1/completions", json=body) as answer:
            with contextlib.suppress(aiohttp.ClientError):  # its own answer may come or not
                await client.ask("/sim/faults", kind="exit", code=7, message="gone")
            with pytest.raises(aiohttp.ClientError):
                await answer.read()
        assert await client.ended == LastWords(7, "gone")
        with pytest.raises(aiohttp.ClientError):
            await client.get("/health")

    run(options, test)


def test_a_server_of_texts(options):
    async def test(client: Front) -> None:
        status, refusal = await client.ask("/v1/completions", prompt=[1, 2, 3], max_tokens=1)
        assert (status, refusal["error"]["message"]) == (400, "prompt: Input should be a valid string")
        _, answer = await client.ask("/v1/completions", prompt="bird on a tree", max_tokens=1)
        assert answer["usage"]["prompt_tokens"] == 1 + 4 + 2

    run(options, test, prompts=Prompts.TEXT)


@pytest.mark.parametrize("prefilled", [False, True])
def test_an_aggregated_worker_lets_go_of_requests_whose_clients_have_gone(world, prefilled):
    """The KV cache of 1000 tokens does not hold both requests: the second runs only when the first has left."""

    async def test(client: Front) -> None:
        worker = next(client.fleet.workers(Role.AGG))
        if not prefilled:
            await client.hang(Role.AGG)
        first = asyncio.create_task(client.stream("/v1/completions", prompt=[1] * 100, max_tokens=850))
        await until(lambda: worker.kv_tokens >= (102 if prefilled else 100))  # with 101 the prompt is done
        worker.hang()
        second = asyncio.create_task(client.stream("/v1/completions", prompt=[1] * 900, max_tokens=50))
        await until(lambda: len(client.fleet.waiting) == 1)
        assert worker.load == 1
        first.cancel()
        await until(lambda: worker.load == worker.kv_tokens == 0)
        worker.resume()
        assert len(await second) == 50
        assert worker.kv_tokens == 0

    run(world.options(mode=Mode.AGG, same_gpus=True, time_scale=10), test)


def test_health_needs_workers(world):
    async def test(client: Front) -> None:
        assert (await client.get("/health"))[0] == 503
        client.fleet.scale(1, 1)
        assert (await client.get("/health"))[0] == 200

    run(world.options(prefill_workers=0), test)


def test_models_and_state(options):
    async def test(client: Front) -> None:
        _, models = await client.get("/v1/models")
        assert [model["id"] for model in json.loads(models)["data"]] == ["tiny"]
        await client.stream("/v1/completions", prompt=[1] * 10, max_tokens=20)
        state = json.loads((await client.get("/sim/state"))[1])
        assert [worker["name"] for worker in state["workers"]["decode"]] == ["decode-0"]
        assert state["timing"]["steps"] == 20
        assert state["gpu_seconds"]["decode"] > state["gpu_seconds"]["prefill"] > 0
        assert state["settled"] is True
        assert (state["max_kv_tokens"], state["max_sequences"]) == (1000, 1024)

    run(options, test)


def test_a_kv_capacity_that_is_not_true_is_stated_everywhere_and_changes_nothing(world):
    async def test(client: Front) -> None:
        assert await client.metric("vllm:cache_config_info", num_gpu_blocks="250", block_size="16") == 1
        assert json.loads((await client.get("/sim/state"))[1])["max_kv_tokens"] == 4000
        status, refusal = await client.ask("/v1/completions", prompt=[1] * 1500, max_tokens=1)
        assert (status, "holds 1000" in refusal["error"]["message"]) == (400, True)

    run(world.options(reported_kv_tokens=4000), test)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", "/v1/completions", b"{", 400, "the body is no JSON"),
        ("POST", "/v1/completions", b'{"prompt": "a", "model": "big"}', 404, "The model 'big' does not exist"),
        ("POST", "/v1/completions", b'{"prompt": "a", "max_tokens": 5000}', 400, "KV cache of one worker holds 1000"),
        ("POST", "/v1/chat/completions", b'{"messages": []}', 422, "messages"),
        ("POST", "/sim/faults", b'{"kind": "hang", "role": "agg"}', 422, "there is no ready agg worker"),
        ("POST", "/v1/embeddings", b"{}", 404, "POST /v1/embeddings: Not Found"),
        ("GET", "/v1/completions", b"", 405, "GET /v1/completions: Method Not Allowed"),
    ],
)
def test_refusals_are_openai_errors(options, method, path, body, status, message):
    async def test(client: Front) -> None:
        async with client.http.request(method, path, data=body) as answer:
            assert answer.status == status
            assert message in (await answer.json())["error"]["message"]
        assert await client.metric("dynamo_frontend_requests_started_total") == 0

    run(options, test)


def test_a_busy_port_is_one_line(options):
    async def test(client: Front) -> None:
        port = int(client.url.rpartition(":")[2])
        with pytest.raises(UsageError, match=rf"cannot listen on 127.0.0.1:{port}: .*; free it, or take --port 0"):
            async with running(ServeOptions(options, model="tiny", port=port)):
                pass

    run(options, test)
