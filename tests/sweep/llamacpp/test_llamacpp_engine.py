"""What we read of a real llama.cpp server, and whether it counts as we do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from sla_planner.engines.backends import backend
from sla_planner.engines.endpoint import EndpointLauncher
from sla_planner.engines.process import ProcessLauncher
from sla_planner.errors import EngineError
from sla_planner.model.profile import ParallelMapping
from sla_planner.sweep.port import Capacity, Deployment
from sla_planner.traffic.client import RequestRecord, Server, StreamingClient
from sla_planner.traffic.probe import Probe, probe
from sla_planner.traffic.prompt_form import PromptForm

LLAMACPP = backend("llamacpp")
TP1 = Deployment(ParallelMapping())

Command = Callable[..., str]


def capacities(command: str) -> tuple[Capacity, Capacity]:
    """As the log says, and as /props says to somebody who sees no log."""

    async def read() -> tuple[Capacity, Capacity]:
        async with (
            ProcessLauncher(command, LLAMACPP).engine(TP1) as started,
            EndpointLauncher(started.url, mapping=TP1.mapping, backend=LLAMACPP).engine(TP1) as seen,
        ):
            return await started.capacity(), await seen.capacity()

    return asyncio.run(read())


def test_slots_with_a_part_each(llamacpp_command: Command) -> None:
    log, props = capacities(llamacpp_command("--slots", 3, "--context", 3 * 512))
    assert (log.max_kv_tokens, log.max_sequences) == (3 * 512, 3)
    assert (props.max_kv_tokens, props.max_sequences) == (3 * 512, 3)
    assert log.source.startswith("log:")
    assert props.source.startswith("/props:")


def test_four_slots_with_one_pool_as_a_server_takes_by_itself(llamacpp_command: Command) -> None:
    log, props = capacities(llamacpp_command("--slots", 4, "--context", 2048, "--unified"))
    assert (log.max_kv_tokens, log.max_sequences) == (2048, 4)
    assert (props.max_kv_tokens, props.max_sequences) == (2048, 4)


def test_a_pool_that_is_larger_than_one_request_may_use(llamacpp_command: Command) -> None:
    """A slot is capped to the 4096 tokens that the model is trained for, the pool is not; /props tells the slot alone."""
    log, props = capacities(llamacpp_command("--slots", 4, "--context", 8192, "--unified"))
    assert log.max_kv_tokens == 8192
    assert props.max_kv_tokens == 4096


def test_slots_that_are_each_capped(llamacpp_command: Command) -> None:
    log, props = capacities(llamacpp_command("--slots", 2, "--context", 16384))
    assert (log.max_kv_tokens, props.max_kv_tokens) == (2 * 4096, 2 * 4096)


def test_token_ids_are_taken_and_every_token_is_counted_and_streamed(llamacpp_command: Command) -> None:
    async def asked() -> tuple[Probe, list[RequestRecord]]:
        async with ProcessLauncher(llamacpp_command(), LLAMACPP).engine(TP1) as engine:
            found = await probe(Server(engine.url, engine.model), isl_tokens=256)
            async with StreamingClient(found.server, seed=0) as client:
                return found, [await client.send(isl, osl) for isl, osl in ((1, 1), (200, 7), (700, 33))]

    found, records = asyncio.run(asked())
    assert (found.prompt_form, found.tokens_per_event, found.exact_osl, found.reports_usage) == (PromptForm.IDS, 1.0, True, True)
    assert [(record.error, record.prompt_tokens, record.completion_tokens) for record in records] == [("", 1, 1), ("", 200, 7), ("", 700, 33)]
    assert all(record.ttft_ms and record.ttft_ms > 0 for record in records)
    assert [record.itl_ms is None for record in records] == [True, False, False]


def test_a_model_that_is_not_there_is_told_in_the_servers_words(llamacpp_command: Command, tiny_model: object) -> None:
    async def start() -> None:
        async with ProcessLauncher(llamacpp_command().replace(str(tiny_model), "/nowhere/absent.gguf"), LLAMACPP).engine(TP1):
            pass

    with pytest.raises(EngineError, match=r"exit code 1: the model is not found or cannot be read: .*/nowhere/absent\.gguf") as caught:
        asyncio.run(start())
    assert "check its path" in caught.value.hint
