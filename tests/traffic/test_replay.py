import asyncio
import time

import pytest

from sla_planner.traffic.client import Server, StreamingClient
from sla_planner.traffic.patterns import spike, steady
from sla_planner.traffic.replay import Watch, closed_loop, replay


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


def test_the_open_loop_does_not_wait_for_answers(serving):
    async def run():
        async with serving() as engine, StreamingClient(Server(engine.url, "held"), seed=1) as client:
            running = asyncio.create_task(replay(client, steady(6, 0.01)))
            await until(lambda: engine.in_flight == 6)
            engine.release.set()
            return await running

    run = asyncio.run(run())
    assert [record.error for record in run.records] == [""] * 6
    assert [record.scheduled_s for record in run.records] == [0.0, 0.01, 0.02, 0.03, 0.04, 0.05]
    assert all(record.sent_s >= record.scheduled_s for record in run.records)
    assert (run.requests, run.stopped) == (6, False)


def test_records_keep_the_traces_order_and_lengths(serving):
    async def run():
        async with serving() as engine, StreamingClient(Server(engine.url, "plain"), seed=1) as client:
            return await replay(client, spike(30, 7, 5))

    run = asyncio.run(run())
    assert [(record.isl_tokens, record.osl_tokens, record.error) for record in run.records] == [(7, 5, "")] * 30
    assert run.wall_s >= max(record.sent_s + record.e2e_s for record in run.records)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_the_closed_loop_keeps_its_concurrency(serving, concurrency):
    async def run():
        async with serving() as engine, StreamingClient(Server(engine.url, "held"), seed=1) as client:
            running = asyncio.create_task(closed_loop(client, spike(9), concurrency))
            await until(lambda: engine.in_flight == concurrency)
            engine.release.set()
            return engine, await running

    engine, run = asyncio.run(run())
    assert engine.most_in_flight == concurrency
    assert [record.error for record in run.records] == [""] * 9


def test_a_stop_ends_the_run_with_what_it_has(serving):
    async def run():
        async with serving() as engine, StreamingClient(Server(engine.url, "held"), seed=1) as client:
            watch = Watch()
            running = asyncio.create_task(replay(client, steady(50, 1000.0), watch))
            await until(lambda: engine.in_flight == 1)
            watch.stop.set()
            return await running

    run = asyncio.run(run())
    (record,) = run.records
    assert (run.stopped, run.requests, record.error_kind, record.ttft_ms) == (True, 50, "unfinished", None)


def test_answers_before_a_stop_are_kept(serving):
    async def run():
        async with serving() as engine, StreamingClient(Server(engine.url, "plain"), seed=1) as client:
            seen = []
            watch = Watch(seen.append, every_s=0.001)
            running = asyncio.create_task(replay(client, steady(2, 1000.0, osl_tokens=5), watch))
            await until(lambda: seen and seen[-1].finished == 1)
            watch.stop.set()
            return await running, seen

    run, seen = asyncio.run(run())
    assert [record.error for record in run.records] == [""]
    assert run.stopped
    assert (seen[-1].requests, seen[-1].sent, seen[-1].finished, seen[-1].failed) == (2, 1, 1, 0)


def test_progress_counts_failures(serving):
    async def run():
        async with serving() as engine, StreamingClient(Server(engine.url, "busy"), seed=1) as client:
            seen = []
            await replay(client, spike(3), Watch(seen.append))
            return seen

    (last,) = asyncio.run(run())
    assert (last.sent, last.finished, last.failed) == (3, 3, 3)


def test_cancelling_a_run_cancels_its_requests(serving):
    async def run():
        async with serving() as engine, StreamingClient(Server(engine.url, "held"), seed=1) as client:
            running = asyncio.create_task(replay(client, spike(3)))
            await until(lambda: engine.in_flight == 3)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            return len(asyncio.all_tasks())

    assert asyncio.run(run()) < 10


def test_a_stalled_loop_is_seen(serving):
    async def run():
        async with serving() as engine, StreamingClient(Server(engine.url, "plain"), seed=1) as client:
            stalls = iter([0.3])
            watch = Watch(lambda _: time.sleep(next(stalls, 0)), every_s=0.02)
            return await replay(client, steady(4, 0.1), watch)

    run = asyncio.run(run())
    assert run.client_lag_ms > 200
    assert max(record.sent_s - record.scheduled_s for record in run.records) > 0.1
