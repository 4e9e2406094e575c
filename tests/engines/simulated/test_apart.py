"""A frontend, a prefill and a decode worker on sockets of their own; the engine runs ten times faster than its profile."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sla_planner.engines.simulated import elsewhere
from sla_planner.engines.simulated.elsewhere import ElsewhereOptions
from sla_planner.engines.simulated.options import Mode, Role
from sla_planner.engines.simulated.places import parse_places
from sla_planner.engines.simulated.serving import RunningEngine, ServeOptions, running

BODY = {"prompt": [1] * 100, "max_tokens": 20, "ignore_eos": True, "stream": True}


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch):
    monkeypatch.setattr(elsewhere, "LOOK_EVERY_S", 0.01)


class Apart:
    """What a test starts, until its block ends. `http` talks to the frontend."""

    def __init__(self, world: Any, stack: contextlib.AsyncExitStack) -> None:
        self.http: aiohttp.ClientSession
        self._world = world
        self._stack = stack

    async def worker(self, mode: Mode, *, port: int = 0, stack: contextlib.AsyncExitStack | None = None, **options: Any) -> RunningEngine:
        fleet = self._world.options(mode=mode, time_scale=10, **options)
        return await (stack or self._stack).enter_async_context(running(ServeOptions(fleet, "tiny", port=port)))

    async def frontend(self, prefill_at: str, decode_at: str) -> RunningEngine:
        options = ElsewhereOptions(parse_places(prefill_at), parse_places(decode_at))
        engine = await self._stack.enter_async_context(running(ServeOptions(options, "tiny", port=0)))
        self.http = await self._stack.enter_async_context(aiohttp.ClientSession(engine.url))
        return engine

    async def healthy(self) -> None:
        await until(lambda: self.status("/health"), 200)

    async def status(self, path: str) -> int:
        async with self.http.get(path) as answer:
            return answer.status

    async def tokens(self) -> int:
        """Of a whole stream; checks that it is one."""
        async with self.http.post("/v1/completions", json=BODY) as answer:
            assert answer.status == 200, await answer.text()
            *events, done = (await answer.text()).strip().split("\n\n")
            assert done == "data: [DONE]"
            return sum(json.loads(event.removeprefix("data: "))["choices"][0]["text"] == " tok" for event in events)


async def until(ask: Callable[[], Any], wanted: Any) -> None:
    while await ask() != wanted:
        await asyncio.sleep(0.005)


async def metrics(url: str) -> dict[str, float]:
    """Sums by name."""
    found: dict[str, float] = {}
    async with aiohttp.ClientSession(url) as http, http.get("/metrics") as answer:
        for family in text_string_to_metric_families(await answer.text()):
            for sample in family.samples:
                found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


@pytest.fixture
def run(world):
    def run(test: Callable[[Apart], Any]) -> None:
        async def whole() -> None:
            async with asyncio.timeout(20), contextlib.AsyncExitStack() as stack:
                await test(Apart(world, stack))

        asyncio.run(whole())

    return run


def test_answers_come_from_the_workers(run):
    async def test(apart: Apart) -> None:
        prefill, decode = await apart.worker(Mode.PREFILL), await apart.worker(Mode.DECODE)
        frontend = await apart.frontend(prefill.url, decode.url)
        await apart.healthy()
        assert await asyncio.gather(*(apart.tokens() for _ in range(5))) == [20] * 5
        counted = await metrics(frontend.url)
        assert counted["dynamo_frontend_requests_total"] == 5
        assert counted["dynamo_frontend_output_tokens_total"] == 100
        assert counted["dynamo_frontend_time_to_first_token_seconds_count"] == 5
        assert counted["dynamo_frontend_inter_token_latency_seconds_count"] == 95
        assert not any(name.startswith("vllm:") for name in counted)
        for worker in (prefill, decode):
            counted = await metrics(worker.url)
            assert counted["vllm:num_requests_running"] == 0
            assert not any(name.startswith("dynamo_frontend_") for name in counted)
            async with aiohttp.ClientSession(worker.url) as http, http.post("/v1/completions", json=BODY) as answer:
                assert answer.status == 404

    run(test)


def test_workers_that_come_later_are_found_and_those_that_go_are_forgotten(run):
    async def test(apart: Apart) -> None:
        prefill = await apart.worker(Mode.PREFILL)
        async with contextlib.AsyncExitStack() as first_life:
            decode = await apart.worker(Mode.DECODE, stack=first_life)
            frontend = await apart.frontend(prefill.url, f"{decode.url},http://localhost:{decode.url.rpartition(':')[2]}")
            await apart.healthy()
            assert len(list(frontend.fleet.workers(Role.DECODE))) == 1  # two names, one address
            assert await apart.tokens() == 20
            assert decode.door is not None
            await decode.door.drain(10)
        await until(lambda: apart.status("/health"), 503)
        assert list(frontend.fleet.workers(Role.DECODE)) == []
        waits = asyncio.create_task(apart.tokens())
        await apart.worker(Mode.DECODE, port=int(decode.url.rpartition(":")[2]))
        assert await waits == 20

    run(test)


def test_a_worker_that_starts_is_not_healthy_and_gets_nothing(run):
    async def test(apart: Apart) -> None:
        prefill, decode = await apart.worker(Mode.PREFILL), await apart.worker(Mode.DECODE, startup_s=3600)
        frontend = await apart.frontend(prefill.url, decode.url)
        while not (workers := list(frontend.fleet.workers(Role.DECODE))):
            await asyncio.sleep(0.005)
        assert workers[0].state == "starting"
        async with aiohttp.ClientSession(decode.url) as http, http.get("/health") as answer:
            assert answer.status == 503
        assert await apart.status("/health") == 503

    run(test)


def test_a_worker_of_the_wrong_role_is_not_used(run, caplog):
    async def test(apart: Apart) -> None:
        decode = await apart.worker(Mode.DECODE)
        frontend = await apart.frontend(decode.url, decode.url)
        while "not used" not in caplog.text:
            await asyncio.sleep(0.005)
        assert list(frontend.fleet.workers(Role.PREFILL)) == []

    run(test)


def test_a_client_that_goes_frees_the_worker(run):
    async def test(apart: Apart) -> None:
        prefill, decode = await apart.worker(Mode.PREFILL), await apart.worker(Mode.DECODE)
        await apart.frontend(prefill.url, decode.url)
        await apart.healthy()
        worker = next(iter(decode.fleet.workers()))
        ask = asyncio.create_task(apart.http.post("/v1/completions", json=BODY | {"max_tokens": 800, "stream": False}))
        while not worker.load:
            await asyncio.sleep(0.005)
        ask.cancel()
        while worker.load:
            await asyncio.sleep(0.005)

    run(test)


def test_faults_of_workers_are_asked_of_workers(run):
    async def test(apart: Apart) -> None:
        prefill, decode = await apart.worker(Mode.PREFILL), await apart.worker(Mode.DECODE)
        await apart.frontend(prefill.url, decode.url)
        crash = {"kind": "crash", "role": "prefill"}
        async with apart.http.post("/sim/faults", json=crash) as answer:
            assert (answer.status, "send the fault to the worker" in await answer.text()) == (422, True)
        async with aiohttp.ClientSession(prefill.url) as http, http.post("/sim/faults", json=crash) as answer:
            assert await answer.json() == {"struck": "prefill-0"}

    run(test)


def test_a_worker_that_does_not_answer_any_more_is_asked_no_more(run):
    """An `exit` fault cuts every connection in the middle."""

    async def test(apart: Apart) -> None:
        prefill = await apart.worker(Mode.PREFILL)
        dying, decode = await apart.worker(Mode.DECODE), await apart.worker(Mode.DECODE)
        frontend = await apart.frontend(prefill.url, f"{dying.url},{decode.url}")
        while len(list(frontend.fleet.workers(Role.DECODE))) < 2:
            await asyncio.sleep(0.005)
        async with aiohttp.ClientSession(dying.url) as http, http.post("/sim/faults", json={"kind": "exit"}) as answer:
            assert answer.status == 200
        while len(list(frontend.fleet.workers(Role.DECODE))) > 1:
            await asyncio.sleep(0.005)
        assert await apart.tokens() == 20

    run(test)
