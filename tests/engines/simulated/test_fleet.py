"""Times are exact: the loop's clock is virtual. Laws of the hand-made engine: conftest.py."""

from __future__ import annotations

import asyncio

import pytest

from sla_planner.engines.simulated.fleet import Fleet
from sla_planner.engines.simulated.options import Mode, Role
from sla_planner.engines.simulated.routing import State
from sla_planner.errors import UsageError


def states(fleet: Fleet, role: Role) -> list[str]:
    return [f"{worker.name} {worker.state}" for worker in fleet.workers(role)]


@pytest.mark.parametrize(("isl_tokens", "ttft_ms"), [(100, 20.0), (400, 50.0), (900, 100.0)])
def test_first_token_comes_when_prefill_ends(world, isl_tokens, ttft_ms):
    async def test(fleet: Fleet) -> None:
        assert await world.submit(fleet, isl_tokens, 1).end() == [ttft_ms]

    world.run(world.options(), test)


def test_decode_steps_grow_with_the_kv_of_their_request(world):
    async def test(fleet: Fleet) -> None:
        # 20 for prefill, then 5 + 1 + 0.001 * 101, then 5 + 1 + 0.001 * 102
        assert await world.submit(fleet, 100, 3).end() == [20.0, 26.101, 32.203]

    world.run(world.options(), test)


def test_prompts_that_waited_are_prefilled_as_one_batch_and_decoded_together(world):
    async def test(fleet: Fleet) -> None:
        first = world.submit(fleet, 100, 1)
        second, third = world.submit(fleet, 100, 2), world.submit(fleet, 100, 2)
        assert await first.end() == [20.0]
        # 10 + 0.1 * 200 after the first; then one step of 5 + 2 + 0.001 * 202
        assert await second.end() == [50.0, 57.202]
        assert await third.end() == [50.0, 57.202]

    world.run(world.options(), test)


def test_a_batch_holds_no_more_than_its_tokens_allow(world):
    async def test(fleet: Fleet) -> None:
        sent = [world.submit(fleet, 100, 1) for _ in range(4)]
        assert [await each.end() for each in sent] == [[20.0], [50.0], [50.0], [70.0]]

    world.run(world.options(max_batched_tokens=250), test)


def test_a_batch_holds_no_more_sequences_than_allowed(world):
    async def test(fleet: Fleet) -> None:
        sent = [world.submit(fleet, 100, 1) for _ in range(4)]
        assert [await each.end() for each in sent] == [[20.0], [50.0], [50.0], [70.0]]

    world.run(world.options(max_sequences=2), test)


def test_two_prefill_workers_share_the_queue(world):
    async def test(fleet: Fleet) -> None:
        sent = [world.submit(fleet, 100, 1) for _ in range(2)]
        assert [await each.end() for each in sent] == [[20.0], [20.0]]

    world.run(world.options(prefill_workers=2), test)


def test_decode_goes_to_the_worker_with_the_fewest_requests(world):
    async def test(fleet: Fleet) -> None:
        sent = [world.submit(fleet, 100, 50) for _ in range(4)]
        while not all(each.sink.token_ms for each in sent):
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
        assert [worker.load for worker in fleet.workers(Role.DECODE)] == [2, 2]

    world.run(world.options(decode_workers=2), test)


def test_a_request_that_does_not_fit_the_kv_cache_waits_for_one_that_leaves(world):
    async def test(fleet: Fleet) -> None:
        first, second = world.submit(fleet, 600, 3), world.submit(fleet, 600, 2)
        # First: 70, + 5+1+0.601, + 5+1+0.602. Second: prefill ends at 140, when the first is done.
        assert await first.end() == [70.0, 76.601, 83.203]
        assert await second.end() == [140.0, 146.601]
        third, fourth = world.submit(fleet, 300, 30), world.submit(fleet, 800, 2)
        until_third_is_done = (await third.end())[-1]
        # 300 + 30 and 800 + 2 exceed 1000: the fourth has its first token long before it may decode.
        assert (await fourth.end())[0] < until_third_is_done
        assert fourth.sink.token_ms[1] == pytest.approx(until_third_is_done + 6.801)

    world.run(world.options(), test)


def test_the_sequence_limit_queues_decode(world):
    async def test(fleet: Fleet) -> None:
        first, second = world.submit(fleet, 100, 20), world.submit(fleet, 100, 2)
        until_first_is_done = (await first.end())[-1]
        assert (await second.end())[1] == pytest.approx(until_first_is_done + 6.101)

    world.run(world.options(max_sequences=1), test)


def test_cancelling_frees_the_kv_for_the_next(world):
    async def test(fleet: Fleet) -> None:
        first = world.submit(fleet, 900, 50)
        second = world.submit(fleet, 900, 2)
        await asyncio.sleep(0.21)
        assert len(fleet.handover) == 1  # prefilled at 200 ms, no KV left
        fleet.cancel(first.request)
        assert not fleet.handover
        emitted = len(first.sink.token_ms)
        await second.end()
        assert len(first.sink.token_ms) == emitted
        assert next(fleet.workers(Role.DECODE)).kv_tokens == 0

    world.run(world.options(), test)


def test_cancelling_what_waits_or_is_in_prefill(world):
    async def test(fleet: Fleet) -> None:
        in_prefill, waiting, last = (world.submit(fleet, 100, 2) for _ in range(3))
        fleet.cancel(waiting.request)
        fleet.cancel(in_prefill.request)
        # The batch that was cancelled is computed all the same: 20, then 20 for the last.
        assert await last.end() == [40.0, 46.101]
        assert (in_prefill.sink.token_ms, waiting.sink.token_ms) == ([], [])

    world.run(world.options(), test)


def test_aggregated_worker_takes_turns(world):
    async def test(fleet: Fleet) -> None:
        first = world.submit(fleet, 100, 4)
        second = world.submit(fleet, 100, 2)
        # Prefill of the first; a step (6.101); prefill of the second (20); a step of both: 5 + 2 + 0.102 + 0.101; a step of the first alone.
        assert await first.end() == [20.0, 26.101, 53.304, 59.407]
        assert await second.end() == [46.101, 53.304]

    world.run(world.options(mode=Mode.AGG, same_gpus=True), test)


def test_aggregated_worker_prefills_only_what_its_kv_admits(world):
    async def test(fleet: Fleet) -> None:
        first, second = world.submit(fleet, 600, 2), world.submit(fleet, 600, 1)
        assert await first.end() == [70.0, 76.601]
        assert await second.end() == [146.601]

    world.run(world.options(mode=Mode.AGG, same_gpus=True), test)


def test_aggregated_worker_forgets_a_prompt_that_is_cancelled_in_prefill(world):
    async def test(fleet: Fleet) -> None:
        first, second = world.submit(fleet, 900, 5), world.submit(fleet, 900, 1)
        fleet.cancel(first.request)
        assert await second.end() == [200.0]
        assert first.sink.token_ms == []
        assert next(fleet.workers()).kv_tokens == 0

    world.run(world.options(mode=Mode.AGG, same_gpus=True), test)


def test_aggregated_needs_one_size_for_both_phases(world):
    with pytest.raises(UsageError, match="prefill was profiled on 2 GPUs and decode on 4"):
        world.options(mode=Mode.AGG)


def test_added_workers_are_ready_after_their_start_up(world):
    async def test(fleet: Fleet) -> None:
        assert fleet.settled
        fleet.scale(2, 1)
        await asyncio.sleep(29.9)
        assert states(fleet, Role.PREFILL) == ["prefill-0 ready", "prefill-1 starting"]
        assert not fleet.settled
        await asyncio.sleep(0.2)
        assert states(fleet, Role.PREFILL) == ["prefill-0 ready", "prefill-1 ready"]
        assert fleet.settled

    world.run(world.options(startup_s=30), test)


def test_start_up_jitter_stays_within_its_bound(world):
    async def test(fleet: Fleet) -> None:
        fleet.scale(50, 0)
        await asyncio.sleep(30)
        assert states(fleet, Role.PREFILL)[1:] == [f"prefill-{n} starting" for n in range(1, 50)]
        await asyncio.sleep(5)
        started = sum(worker.state is State.READY for worker in fleet.workers(Role.PREFILL))
        assert 10 < started < 40  # half of the bound: about half of them
        await asyncio.sleep(5)
        assert fleet.settled

    world.run(world.options(startup_s=30, startup_jitter_s=10), test)


def test_a_new_worker_takes_what_waits(world):
    async def test(fleet: Fleet) -> None:
        waiting = world.submit(fleet, 100, 2)
        fleet.scale(1, 1)
        assert await waiting.end() == [5020.0, 5026.101]

    world.run(world.options(prefill_workers=0, decode_workers=0, startup_s=5), test)


def test_a_draining_decode_worker_finishes_its_streams_and_takes_no_new_ones(world):
    async def test(fleet: Fleet) -> None:
        streams = [world.submit(fleet, 100, 100) for _ in range(2)]
        await asyncio.sleep(0.1)
        fleet.scale(1, 1)
        assert states(fleet, Role.DECODE) == ["decode-0 ready", "decode-1 draining"]
        assert fleet.settled  # the surplus is out of rotation
        late = world.submit(fleet, 100, 10)
        await asyncio.sleep(0.05)
        assert [worker.load for worker in fleet.workers(Role.DECODE)] == [2, 1]
        assert len(await streams[1].end()) == 100
        assert len(await streams[0].end()) == 100
        assert len(await late.end()) == 10
        assert states(fleet, Role.DECODE) == ["decode-0 ready"]

    world.run(world.options(prefill_workers=2, decode_workers=2), test)


def test_a_draining_prefill_worker_leaves_after_its_batch(world):
    async def test(fleet: Fleet) -> None:
        busy, left = world.submit(fleet, 100, 1), world.submit(fleet, 100, 1)
        fleet.scale(0, 1)
        assert states(fleet, Role.PREFILL) == ["prefill-0 draining"]
        assert await busy.end() == [20.0]
        assert states(fleet, Role.PREFILL) == []
        assert list(fleet.waiting) == [left.request]

    world.run(world.options(), test)


def test_scaling_down_takes_starting_workers_before_serving_ones(world):
    async def test(fleet: Fleet) -> None:
        fleet.scale(1, 3)
        await asyncio.sleep(1)
        fleet.scale(1, 1)
        assert states(fleet, Role.DECODE) == ["decode-0 ready"]

    world.run(world.options(startup_s=30), test)


def test_scaling_down_takes_idle_workers_before_busy_ones(world):
    async def test(fleet: Fleet) -> None:
        for _ in range(2):
            world.submit(fleet, 10, 500)
        await asyncio.sleep(0.1)
        fleet.scale(1, 2)
        assert states(fleet, Role.DECODE) == ["decode-0 ready", "decode-1 ready"]

    world.run(world.options(decode_workers=3), test)


def test_gpu_seconds_run_from_launch_to_exit(world):
    async def test(fleet: Fleet) -> None:
        await asyncio.sleep(10)
        fleet.scale(2, 1)  # starting until 40, ready until 50
        await asyncio.sleep(40)
        fleet.scale(1, 1)
        await asyncio.sleep(50)
        # 2 GPUs: 100 s of one worker, 40 s of the other. 4 GPUs: 100 s.
        assert fleet.gpu_seconds(Role.PREFILL) == pytest.approx(280)
        assert fleet.gpu_seconds(Role.DECODE) == pytest.approx(400)

    world.run(world.options(startup_s=30), test)


def test_gpu_seconds_include_the_drain(world):
    async def test(fleet: Fleet) -> None:
        stream = world.submit(fleet, 100, 100)
        await asyncio.sleep(0.1)
        fleet.scale(1, 0)
        last_ms = (await stream.end())[-1]
        await asyncio.sleep(10)
        assert fleet.gpu_seconds(Role.DECODE) == pytest.approx(4 * last_ms / 1000)

    world.run(world.options(), test)


def test_serves_only_with_a_ready_worker_in_every_role(world):
    async def test(fleet: Fleet) -> None:
        assert fleet.serves()
        fleet.scale(1, 0)
        assert not fleet.serves()

    world.run(world.options(), test)


def test_an_aggregated_worker_runs_no_more_sequences_than_allowed(world):
    async def test(fleet: Fleet) -> None:
        sent = [world.submit(fleet, 100, 3) for _ in range(3)]
        # The third prompt waits until the first has its last token, at 53.304.
        assert await sent[0].end() == [20.0, 26.101, 53.304]
        assert await sent[1].end() == [46.101, 53.304, 80.507]
        assert await sent[2].end() == [73.304, 80.507, 86.609]

    world.run(world.options(mode=Mode.AGG, same_gpus=True, max_sequences=2), test)
