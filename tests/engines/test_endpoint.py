"""Engines that run already: a small server that the test starts, and the launcher must leave alone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from sla_planner.engines.backend import Backend
from sla_planner.engines.endpoint import EndpointLauncher
from sla_planner.engines.process import ProcessLauncher
from sla_planner.errors import EngineError, UsageError
from sla_planner.model.profile import ParallelMapping
from sla_planner.sweep.port import Capacity, Deployment, RunningEngine

TP1, TP4 = ParallelMapping(), ParallelMapping(tp=4)
ASKED = Deployment(TP4)

SmallEngine = Callable[..., str]


@contextlib.asynccontextmanager
async def server(command: str, backend: Backend) -> AsyncIterator[RunningEngine]:
    async with ProcessLauncher(command, backend).engine(Deployment(TP1)) as engine:
        yield engine


def test_only_the_mapping_it_runs_at_can_be_asked_for(backend: Backend) -> None:
    launcher = EndpointLauncher("http://127.0.0.1:1", mapping=TP4, backend=backend)
    for ask in (launcher.identity, launcher.manifest, lambda deployment: asyncio.run(launcher.engine(deployment).__aenter__())):
        with pytest.raises(UsageError, match="runs at TP4; TP1 cannot be measured there"):
            ask(Deployment(TP1))


def test_identity_and_manifest_are_the_address_without_v1_and_password(backend: Backend) -> None:
    launcher = EndpointLauncher("http://user:secret@host:8000/v1/", mapping=TP4, backend=backend, model="m")
    identity = launcher.identity(ASKED)
    assert (identity.backend, identity.model, identity.source) == ("oneline", "m", "http://user:***@host:8000")
    assert launcher.manifest(ASKED) == ("endpoint.txt", "http://user:***@host:8000\n")


def test_what_is_no_address_or_no_capacity_is_refused_at_once(backend: Backend) -> None:
    with pytest.raises(UsageError, match="not the address of a server"):
        EndpointLauncher("localhost:8000", mapping=TP4, backend=backend)
    with pytest.raises(UsageError, match="0 tokens cannot be"):
        EndpointLauncher("http://h", mapping=TP4, backend=backend, max_kv_tokens=0)


def test_it_is_used_left_running_and_its_end_is_noticed(backend: Backend, small_engine: SmallEngine) -> None:
    async def go() -> None:
        async with server(small_engine("--metrics", "kv_tokens 900", "--models", "first,second"), backend) as running:
            async with EndpointLauncher(f"{running.url}/v1", mapping=TP4, backend=backend, model="second").engine(ASKED) as engine:
                assert (engine.url, engine.model) == (running.url, "second")
                assert await engine.capacity() == Capacity(900, "/metrics")
                assert await engine.ended() == ""
            assert await running.ended() == ""
        assert await engine.ended() == f"{running.url} no longer answers (connection refused)"

    asyncio.run(go())


def test_the_capacity_that_the_user_gives_is_believed(backend: Backend, small_engine: SmallEngine) -> None:
    async def go() -> Capacity:
        async with contextlib.AsyncExitStack() as stack:
            running = await stack.enter_async_context(server(small_engine("--metrics", "kv_tokens 900"), backend))
            launcher = EndpointLauncher(running.url, mapping=TP4, backend=backend, max_kv_tokens=1234)
            return await (await stack.enter_async_context(launcher.engine(ASKED))).capacity()

    assert asyncio.run(go()) == Capacity(1234, "given with --max-kv-tokens")


def test_a_model_that_it_does_not_serve_and_a_capacity_that_it_does_not_tell(backend: Backend, small_engine: SmallEngine) -> None:
    async def go() -> None:
        async with server(small_engine("--models", "first,second"), backend) as running:
            with pytest.raises(EngineError, match="does not serve the model 'third'; it serves first, second"):
                await EndpointLauncher(running.url, mapping=TP4, backend=backend, model="third").engine(ASKED).__aenter__()
            async with EndpointLauncher(running.url, mapping=TP4, backend=backend).engine(ASKED) as engine:
                assert engine.model == "first"
                with pytest.raises(EngineError, match=r"in none of: /metrics \(not served\)"):
                    await engine.capacity()

    asyncio.run(go())


def test_nobody_there_is_an_error_that_a_retry_may_cure(backend: Backend) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(EngineError) as caught:
            asyncio.run(EndpointLauncher(url, mapping=TP4, backend=backend, ready_limit_s=0.1).engine(ASKED).__aenter__())
    assert f"{url} is not ready within 0.1 s: connection refused" in caught.value.message
    assert caught.value.exit_code == 4
