"""A frontend and workers that are processes of their own, joined by links in memory. Times are exact: the loop's clock is virtual.

Laws of the hand-made engine: conftest.py. What a link says takes as long as the test asks for.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from sla_planner.engines.simulated.door import Frontend, WorkerDoor
from sla_planner.engines.simulated.elsewhere import ElsewhereOptions, RemoteWorker, WorkersElsewhere
from sla_planner.engines.simulated.fleet import Fleet
from sla_planner.engines.simulated.link import Introduction, Outbox
from sla_planner.engines.simulated.options import Mode, Role
from sla_planner.engines.simulated.routing import State
from sla_planner.engines.simulated.worker import Worker


@dataclass
class Link:
    """Between one frontend and one worker, until `cut`."""

    pool: WorkersElsewhere
    door: WorkerDoor
    frontend: Frontend
    remote: RemoteWorker
    tasks: list[asyncio.Task[None]]

    def cut(self) -> None:
        for task in self.tasks:
            task.cancel()
        self.pool.go(self.remote)
        self.door.disconnect(self.frontend)


@dataclass
class Pod:
    """A worker process."""

    fleet: Fleet
    door: WorkerDoor
    links: list[Link] = field(default_factory=list)

    @property
    def worker(self) -> Worker:
        return next(self.fleet.workers())

    def die(self) -> None:
        for link in self.links:
            link.cut()
        self.fleet.close()


class Cluster:
    """One frontend; workers come with `add`. `latency_s` is that of every message."""

    def __init__(self, world: Any, latency_s: float = 0.0) -> None:
        self.pool = WorkersElsewhere(ElsewhereOptions((), ()))
        self._world = world
        self._latency_s = latency_s

    def add(self, mode: Mode, **options: Any) -> Pod:
        fleet = Fleet(self._world.options(mode=mode, **options))
        fleet.start()
        pod = Pod(fleet, WorkerDoor(fleet))
        self.connect(pod, self.pool)
        return pod

    def pair(self, **options: Any) -> tuple[Pod, Pod]:
        return self.add(Mode.PREFILL, **options), self.add(Mode.DECODE, **options)

    def connect(self, pod: Pod, pool: WorkersElsewhere) -> None:
        introduction, frontend = pod.door.connect()
        outbox = Outbox()
        told = Introduction.of(json.loads(json.dumps(introduction.message())))
        remote = pool.come(f"{told.role}-{id(pod)}", told, outbox)
        link = Link(pool, pod.door, frontend, remote, [])
        link.tasks = [self._carry(outbox, frontend.told), self._carry(frontend.outbox, lambda message: self._to_frontend(link, message))]
        pod.links.append(link)

    def _carry(self, outbox: Outbox, told: Callable[[dict[str, Any]], None]) -> asyncio.Task[None]:
        async def send(text: str) -> None:
            if self._latency_s:
                asyncio.get_running_loop().call_later(self._latency_s, told, json.loads(text))
            else:
                told(json.loads(text))

        return asyncio.create_task(outbox.deliver(send))

    def _to_frontend(self, link: Link, message: dict[str, Any]) -> None:
        link.remote.told(message)
        if link.remote.state is State.GONE:
            link.cut()


Test = Callable[[Cluster], Awaitable[None]]


@pytest.fixture
def run(world) -> Callable[..., None]:
    """`test(cluster)` in virtual time."""

    def run(test: Test, *, latency_s: float = 0.0) -> None:
        async def whole() -> None:
            await test(Cluster(world, latency_s))

        with asyncio.Runner(loop_factory=type(world).loop_factory) as runner:
            runner.run(whole())

    return run


async def moment(milliseconds: float) -> None:
    await asyncio.sleep(milliseconds / 1000)


def test_times_are_those_of_one_process(run, world):
    async def test(cluster: Cluster) -> None:
        cluster.pair()
        first = world.submit(cluster.pool, 100, 3)
        second, third = world.submit(cluster.pool, 100, 2), world.submit(cluster.pool, 100, 2)
        # First: 20, + 5+1+0.101, + 5+1+0.102. The others: 10 + 0.1 * 200 after the first, then one step of 5 + 2 + 0.202.
        assert await first.end() == [20.0, 26.101, 32.203]
        assert await second.end() == [50.0, 57.202]
        assert await third.end() == [50.0, 57.202]

    run(test)


def test_a_queue_is_served_without_gaps_though_messages_take_time(run, world):
    async def test(cluster: Cluster) -> None:
        cluster.pair(max_batched_tokens=100)
        sent = [world.submit(cluster.pool, 100, 1) for _ in range(4)]
        # 1 ms there, 1 ms back, and 20 ms for each prompt.
        assert [await each.end() for each in sent] == [[22.0], [42.0], [62.0], [82.0]]

    run(test, latency_s=0.001)


def test_what_comes_to_an_idle_worker_starts_when_it_comes(run, world):
    async def test(cluster: Cluster) -> None:
        cluster.pair()
        assert await world.submit(cluster.pool, 100, 1).end() == [22.0]
        await moment(78)
        assert await world.submit(cluster.pool, 100, 1).end() == [122.0]

    run(test, latency_s=0.001)


def test_messages_do_not_slow_a_stream(run, world):
    async def test(cluster: Cluster) -> None:
        cluster.pair()
        # 22 for the first token; there and back once more; then a token per step.
        assert await world.submit(cluster.pool, 100, 4).end() == [22.0, 30.101, 36.203, 42.306]

    run(test, latency_s=0.001)


def test_prefill_workers_share_the_queue(run, world):
    async def test(cluster: Cluster) -> None:
        cluster.pair(max_sequences=1)
        cluster.add(Mode.PREFILL, max_sequences=1)
        sent = [world.submit(cluster.pool, isl, 1) for isl in (300, 100, 100, 100)]
        # One has 40 ms to do; the other takes the rest, 20 ms each, until both are free at 40.
        assert [await each.end() for each in sent] == [[40.0], [20.0], [40.0], [60.0]]

    run(test)


def test_decode_goes_to_the_worker_with_the_fewest_requests(run, world):
    async def test(cluster: Cluster) -> None:
        _, one = cluster.pair()
        other = cluster.add(Mode.DECODE)
        for _ in range(4):
            world.submit(cluster.pool, 100, 50)
        await moment(80)
        assert [one.worker.load, other.worker.load] == [2, 2]

    run(test)


def test_a_request_that_does_not_fit_the_kv_cache_waits_in_the_frontend(run, world):
    async def test(cluster: Cluster) -> None:
        _, decode = cluster.pair()
        first, second = world.submit(cluster.pool, 300, 30), world.submit(cluster.pool, 800, 2)
        until_first_is_done = (await first.end())[-1]
        assert second.sink.token_ms == [130.0]
        assert not decode.fleet.handover
        assert (await second.end())[1] == pytest.approx(until_first_is_done + 6.801)

    run(test)


def test_a_worker_that_comes_takes_what_waits(run, world):
    async def test(cluster: Cluster) -> None:
        waiting = world.submit(cluster.pool, 100, 2)
        await moment(50)
        cluster.pair(startup_s=5)
        assert not cluster.pool.serves()
        assert await waiting.end() == [5070.0, 5076.101]
        assert cluster.pool.serves()

    run(test)


def test_prompts_of_a_worker_that_goes_are_prefilled_by_another_in_their_order(run, world):
    async def test(cluster: Cluster) -> None:
        dying, _ = cluster.pair(max_sequences=2)
        sent = [world.submit(cluster.pool, isl, 1) for isl in (50, 100, 200)]
        await moment(16)  # the first is done, the others are under way
        dying.die()
        assert not cluster.pool.serves()
        await moment(84)
        cluster.add(Mode.PREFILL, max_sequences=1)
        assert [await each.end() for each in sent] == [[15.0], [120.0], [150.0]]

    run(test)


def test_a_stream_whose_worker_goes_fails_and_one_without_a_token_from_it_goes_on(run, world):
    async def test(cluster: Cluster) -> None:
        _, dying = cluster.pair()
        streaming = world.submit(cluster.pool, 100, 100)
        await moment(30)
        fresh = world.submit(cluster.pool, 100, 2)
        await moment(20.5)  # prefilled at 50, and not yet part of a step
        assert (len(streaming.sink.token_ms), len(fresh.sink.token_ms)) == (5, 1)
        dying.die()
        await moment(1)
        assert streaming.sink.error is not None
        assert "has lost this request" in streaming.sink.error
        cluster.add(Mode.DECODE)
        assert await fresh.end() == [50.0, 57.601]  # 51.5 + 6.101
        assert fresh.sink.error is None

    run(test)


def test_a_prefill_worker_that_drains_finishes_its_batch_and_takes_no_more(run, world):
    async def test(cluster: Cluster) -> None:
        leaving, _ = cluster.pair(max_sequences=1)
        running, behind = world.submit(cluster.pool, 100, 1), world.submit(cluster.pool, 100, 1)
        await moment(10)
        await leaving.door.drain(100)
        assert running.sink.token_ms == [20.0]
        assert not list(cluster.pool.workers(Role.PREFILL))
        await moment(30)
        cluster.add(Mode.PREFILL)
        assert await behind.end() == [70.0]

    run(test)


def test_an_idle_worker_leaves_at_once(run):
    async def test(cluster: Cluster) -> None:
        for pod in cluster.pair():
            await pod.door.drain(100)
        assert not list(cluster.pool.workers())
        assert asyncio.get_running_loop().time() == 0

    run(test)


def test_a_drain_has_a_limit(run, world, caplog):
    async def test(cluster: Cluster) -> None:
        _, leaving = cluster.pair()
        world.submit(cluster.pool, 100, 500)
        await moment(50)
        await leaving.door.drain(1)
        assert asyncio.get_running_loop().time() == pytest.approx(1.05)
        assert caplog.messages == ["the drain ends after 1 s; requests that are cut: 1"]

    run(test)


def test_a_decode_worker_that_drains_streams_to_the_end(run, world):
    async def test(cluster: Cluster) -> None:
        _, leaving = cluster.pair()
        running = world.submit(cluster.pool, 100, 20)
        await moment(40)
        gone = asyncio.create_task(leaving.door.drain(100))
        await moment(1)
        assert leaving.links[0].remote.state is State.DRAINING
        assert not cluster.pool.serves()
        later = world.submit(cluster.pool, 100, 2)
        await gone
        assert len(running.sink.token_ms) == 20
        assert running.sink.error is None
        assert len(later.sink.token_ms) == 1
        cluster.add(Mode.DECODE)
        await later.end()

    run(test)


def test_what_was_on_its_way_to_a_worker_that_leaves_goes_to_another(run, world):
    async def test(cluster: Cluster) -> None:
        leaving, _ = cluster.pair()
        busy = world.submit(cluster.pool, 100, 1)
        await moment(5)
        gone = asyncio.create_task(leaving.door.drain(100))
        await moment(0.5)
        late = world.submit(cluster.pool, 100, 1)
        cluster.add(Mode.PREFILL)
        assert await busy.end() == [22.0]
        assert await late.end() == [pytest.approx(27.5)]
        await gone

    run(test, latency_s=0.001)


def test_prompts_that_a_crash_loses_are_prefilled_again(run, world):
    async def test(cluster: Cluster) -> None:
        prefill, _ = cluster.pair(startup_s=1)
        await moment(1000)
        sent = world.submit(cluster.pool, 100, 1)
        await moment(10)
        prefill.worker.crash()
        assert await sent.end() == [2030.0]  # 1010, a start-up, a prefill
        assert sent.sink.error is None

    run(test)


def test_cancelling_frees_the_worker(run, world):
    async def test(cluster: Cluster) -> None:
        prefill, decode = cluster.pair()
        first = world.submit(cluster.pool, 900, 50)
        await moment(120)
        assert decode.worker.load == 1
        cluster.pool.cancel(first.request)
        await moment(1)
        assert (decode.worker.load, decode.worker.kv_tokens) == (0, 0)
        assert [worker.load for worker in cluster.pool.workers()] == [0, 0]
        in_prefill, behind = world.submit(cluster.pool, 100, 2), world.submit(cluster.pool, 900, 2)
        await moment(1)
        cluster.pool.cancel(in_prefill.request)
        # The batch that was cancelled is computed all the same.
        assert (await behind.end())[0] == pytest.approx(121 + 20 + 100)
        assert in_prefill.sink.token_ms == []
        assert prefill.worker.load == 0

    run(test)


def test_two_frontends_share_workers(run, world):
    async def test(cluster: Cluster) -> None:
        other = WorkersElsewhere(ElsewhereOptions((), ()))
        for pod in cluster.pair():
            cluster.connect(pod, other)
        first, second = world.submit(cluster.pool, 600, 3), world.submit(other, 600, 2)
        # As in one fleet: prefill one after the other, and the second waits in the worker for KV.
        assert await first.end() == [70.0, 76.601, 83.203]
        assert await second.end() == [140.0, 146.601]
        third, fourth = world.submit(cluster.pool, 300, 30), world.submit(other, 800, 2)
        until_third_is_done = (await third.end())[-1]
        assert (await fourth.end())[1] == pytest.approx(until_third_is_done + 6.801)

    run(test)


def test_a_frontend_that_goes_frees_what_it_asked_for(run, world):
    async def test(cluster: Cluster) -> None:
        _, decode = cluster.pair()
        world.submit(cluster.pool, 100, 500)
        await moment(50)
        assert decode.worker.load == 1
        decode.links[0].cut()
        assert (decode.worker.load, decode.worker.kv_tokens) == (0, 0)

    run(test)


def test_the_longest_request_is_what_a_decode_worker_says(run):
    async def test(cluster: Cluster) -> None:
        cluster.add(Mode.PREFILL)
        assert cluster.pool.max_kv_tokens > 10**9
        cluster.add(Mode.DECODE)
        assert cluster.pool.max_kv_tokens == 1000

    run(test)


def test_what_an_observer_sees(run, world):
    async def test(cluster: Cluster) -> None:
        cluster.pair()
        world.submit(cluster.pool, 100, 50)
        await moment(30)
        told = cluster.pool.describe()
        assert [worker["requests"] for worker in told["workers"][Role.PREFILL]] == [0]
        assert [(worker["state"], worker["requests"], worker["kv_tokens"]) for worker in told["workers"][Role.DECODE]] == [(State.READY, 1, 102)]
        assert told["queued"] == {"prefill": 0, "decode": 0}

    run(test)


@pytest.mark.parametrize("message", [{}, {"role": "cook"}, {"role": "decode", "state": "ready", "max_kv_tokens": None}])
def test_what_is_no_worker(message):
    with pytest.raises(ValueError):
        Introduction.of(message)
