"""Against the simulated engine, over real sockets, on a clock that jumps to the next timer when nothing moves: exact, however busy the machine is."""

import asyncio
import contextlib
import selectors

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from sla_planner.engines.simulated.options import FleetOptions, Mode
from sla_planner.engines.simulated.serving import ServeOptions, running
from sla_planner.model.batching import BatchingLaw
from sla_planner.model.engine import engine_of
from sla_planner.store.profile_files import read_profile, sample_profile_dir
from sla_planner.traffic.client import Server, StreamingClient
from sla_planner.traffic.held import HeldBatch

ISL = 500


class JumpingSelector(selectors.SelectSelector):
    """What sockets have ready comes first. When nothing has come for a moment, the clock moves to the next timer."""

    now_s = 0.0

    def select(self, timeout=None):
        ready = super().select(0 if timeout == 0 else 0.0003)
        if not ready and timeout:
            self.now_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self):
        self.jumping = JumpingSelector()
        super().__init__(self.jumping)

    def time(self):
        return self.jumping.now_s


def on_virtual_time(test):
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(test())


def law(max_sequences=1024):
    return BatchingLaw(engine_of(read_profile(sample_profile_dir())), max_sequences=max_sequences)


@contextlib.asynccontextmanager
async def held(max_tokens=2000, isl_tokens=ISL, tokens_per_event=1.0, **options):
    """A batch on the simulated engine, and the engine's one worker."""
    fleet = FleetOptions(law=law(options.pop("max_sequences", 1024)), mode=Mode.AGG, **options)
    async with (
        running(ServeOptions(fleet, "m", port=0)) as engine,
        StreamingClient(Server(engine.url, "m"), seed=1, clock=asyncio.get_running_loop().time) as client,
        HeldBatch(client, isl_tokens=isl_tokens, max_tokens=max_tokens, tokens_per_event=tokens_per_event) as batch,
    ):
        yield batch, next(engine.fleet.workers())


def mean(values):
    return sum(values) / len(values)


def test_a_staircase_follows_the_law():
    async def run():
        async with held() as (batch, _):
            return [(size, await batch.grow(size, limit_s=60), await batch.window(steps=32, limit_s=60)) for size in (1, 8, 32)]

    for size, growth, window in on_virtual_time(run):
        assert (growth.running, growth.waiting, growth.failed) == (size, 0, ())
        assert (window.running, window.ended, window.stalled, len(window.itl_ms)) == (size, 0, False, size)
        itl_ms = mean(window.itl_ms)
        assert itl_ms == pytest.approx(law().step_ms(size, size * window.context_tokens), rel=0.02)
        assert window.tokens / window.window_s * itl_ms / 1000 / size == pytest.approx(1.0, abs=0.03)
        assert 32 <= window.steps <= 40
        assert window.tokens == pytest.approx(size * window.steps, rel=0.03)
        assert window.events_per_read == 1.0


def test_noise_changes_nothing():
    async def run():
        async with held(noise=0.3, seed=4) as (batch, _):
            await batch.grow(8, limit_s=60)
            return await batch.window(steps=100, limit_s=60)

    window = on_virtual_time(run)
    assert window.tokens / window.window_s * mean(window.itl_ms) / 1000 / 8 == pytest.approx(1.0, abs=0.01)


def test_the_context_grows_with_what_was_generated():
    async def run():
        async with held() as (batch, worker):
            await batch.grow(2, limit_s=60)
            first = await batch.window(steps=50, limit_s=60)
            before = worker.kv_tokens / 2
            second = await batch.window(steps=100, limit_s=60)
            return first, before, second, worker.kv_tokens / 2

    first, before, second, after = on_virtual_time(run)
    assert ISL + 20 < first.context_tokens < before < second.context_tokens < after
    assert second.context_tokens == pytest.approx((before + after) / 2, abs=6)


def test_merged_tokens_count_as_many():
    async def run():
        async with held(tokens_per_event=2.0) as (batch, _):
            await batch.grow(4, limit_s=60)
            return await batch.window(steps=32, limit_s=60)

    window = on_virtual_time(run)
    # Each of the simulator's tokens is taken for two: half the gap, and half as many events are needed.
    assert mean(window.itl_ms) == pytest.approx(law().step_ms(4, 4 * window.context_tokens) / 2, rel=0.02)
    assert 32 <= window.steps <= 44
    assert window.tokens / window.window_s * mean(window.itl_ms) / 1000 / 4 == pytest.approx(1.0, abs=0.03)


def test_streams_behind_a_sequence_limit_are_noticed_early():
    async def run():
        async with held(max_sequences=6) as (batch, _):
            loop = asyncio.get_running_loop()
            first = await batch.grow(4, limit_s=600)
            begun_s = loop.time()
            second = await batch.grow(10, limit_s=600)
            took_s = loop.time() - begun_s
            return first, second, took_s, await batch.window(steps=16, limit_s=60)

    first, second, took_s, window = on_virtual_time(run)
    assert (first.running, first.waiting) == (4, 0)
    assert (second.running, second.waiting, second.failed) == (6, 4, ())
    assert 0.4 < took_s < 4.0  # virtual seconds, of 600
    assert window.running == 6


def test_a_fast_engine_is_found_out_before_its_answers_end():
    # 400 tokens take half a second: less than a wait that would be suspicious by itself.
    async def run():
        async with held(max_sequences=6, max_tokens=400, time_scale=4) as (batch, _):
            await batch.grow(4, limit_s=600)
            return await batch.grow(10, limit_s=600), await batch.window(steps=16, limit_s=60)

    growth, window = on_virtual_time(run)
    assert (growth.running, growth.waiting, growth.failed) == (6, 4, ())
    assert (window.running, window.ended) == (6, 0)


def test_a_prefill_that_takes_long_is_no_queue():
    # Prompts of 4000 tokens, two at a time, on a slow engine: seconds pass between first tokens, with a decode step or two.
    async def run():
        async with held(isl_tokens=4000, time_scale=0.05) as (batch, _):
            return await batch.grow(1, limit_s=6000), await batch.grow(7, limit_s=6000)

    first, second = on_virtual_time(run)
    assert (first.running, second.running, second.waiting) == (1, 7, 0)


def test_growing_ends_at_its_limit():
    async def run():
        async with held() as (batch, worker):
            worker.hang()
            return await batch.grow(3, limit_s=2.0), await batch.window(steps=8, limit_s=2.0), asyncio.get_running_loop().time()

    growth, window, now_s = on_virtual_time(run)
    assert (growth.running, growth.waiting, growth.failed) == (0, 3, ())
    assert (window.stalled, window.tokens, window.itl_ms, window.ended) == (True, 0.0, (), 0)
    assert now_s < 5.0


def test_a_stall_inside_a_window_ends_at_the_limit():
    async def run():
        async with held() as (batch, worker):
            await batch.grow(3, limit_s=60)
            asyncio.get_running_loop().call_later(0.1, worker.hang)
            return await batch.window(steps=1000, limit_s=2.0)

    window = on_virtual_time(run)
    assert (window.running, window.stalled) == (3, False)
    assert 10 < window.steps < 30
    assert window.window_s < 0.1  # both ends on tokens


def test_answers_that_end_inside_a_window_are_counted():
    async def run():
        async with held(max_tokens=20) as (batch, _):
            await batch.grow(3, limit_s=60)
            return await batch.window(steps=500, limit_s=60), await batch.grow(3, limit_s=60), asyncio.get_running_loop().time()

    window, again, now_s = on_virtual_time(run)
    assert (window.ended, window.failed) == (3, ())
    assert (again.running, again.waiting) == (3, 0)  # three new ones
    assert now_s < 10.0


def test_a_crash_is_told_in_the_engines_words():
    async def run():
        async with held() as (batch, worker):
            await batch.grow(3, limit_s=60)
            asyncio.get_running_loop().call_later(0.1, worker.crash)
            return await batch.window(steps=500, limit_s=60), await batch.grow(2, limit_s=60)

    window, again = on_virtual_time(run)
    assert window.ended == 3
    assert all("crashed" in words for words in window.failed)
    assert (again.running, again.failed) == (2, ())


def test_a_refusal_ends_the_growth():
    async def run():
        async with held(max_tokens=10**9) as (batch, _):
            return await batch.grow(2, limit_s=60)

    growth = on_virtual_time(run)
    assert (growth.running, growth.waiting) == (0, 0) or growth.waiting == 1
    assert growth.failed[0].startswith("HTTP 400")
    assert "KV cache" in growth.failed[0]


def test_leaving_frees_the_engine():
    async def run():
        async with held() as (batch, worker):
            await batch.grow(5, limit_s=60)
            loads = [worker.load]
            await batch.__aexit__(None, None, None)
            while worker.load:
                await asyncio.sleep(0.001)
            return loads, len(asyncio.all_tasks())

    loads, tasks = on_virtual_time(run)
    assert loads == [5]
    assert tasks < 10


def test_a_client_that_lags_behind_is_seen():
    async def run():
        async with held() as (batch, _):
            await batch.grow(4, limit_s=60)
            loop = asyncio.get_running_loop()

            def hold_up():  # as if a callback had taken 50 ms: about ten steps
                loop.jumping.now_s += 0.05
                loop.call_later(0.05, hold_up)

            hold_up()
            return await batch.window(steps=200, limit_s=60)

    window = on_virtual_time(run)
    assert window.client_lag_ms > 30
    assert window.tokens / window.window_s * mean(window.itl_ms) / 1000 / 4 == pytest.approx(1.0, abs=0.05)


def test_where_blocks_are_cut_does_not_matter():
    """Events cut into two writes each, a chat's role long before its first token, text that speaks like the protocol, tokens without text."""
    opening = b'data: {"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": null}]}\r\n\r\n'
    token = rb'data: {"choices": [{"delta": {"content": "\ndata: \"error\": {"}, "finish_reason": null}]}' + b"\r\n\r\n"
    silent = b'data: {"choices": [{"delta": {"content": ""}, "finish_reason": null}]}\r\n\r\n'
    first_token = asyncio.Event()

    async def answer(request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(opening)
        await first_token.wait()
        for number in range(10_000):
            event = silent if number % 3 == 2 else token
            await response.write(event[:7])
            await asyncio.sleep(0.005)
            await response.write(event[7:])
            await asyncio.sleep(0.005)

    async def run():
        app = web.Application()
        app.router.add_post("/v1/completions", answer)
        clock = asyncio.get_running_loop().time
        async with (
            TestServer(app, host="127.0.0.1", shutdown_timeout=0.1) as server,
            StreamingClient(Server(str(server.make_url("")), "m"), seed=1, clock=clock) as client,
            HeldBatch(client, isl_tokens=5, max_tokens=10_000) as batch,
        ):
            before = await batch.grow(2, limit_s=1.0)
            first_token.set()
            return before, await batch.grow(2, limit_s=60), await batch.window(steps=30, limit_s=60)

    before, growth, window = on_virtual_time(run)
    assert (before.running, before.waiting) == (0, 2)
    assert (growth.running, growth.waiting, growth.failed) == (2, 0, ())
    assert window.itl_ms == pytest.approx((10.0, 10.0), rel=0.02)
    assert window.tokens / window.window_s == pytest.approx(200.0, rel=0.02)
