from __future__ import annotations

import asyncio
import json

import pytest

from sla_planner.engines.simulated.faults import FaultInjector, LastWords, parse_fault
from sla_planner.engines.simulated.fleet import Fleet
from sla_planner.engines.simulated.options import Role
from sla_planner.errors import UsageError


def strike(fleet: Fleet, **fault: object) -> str:
    return FaultInjector(fleet).inject(parse_fault(json.dumps(fault)))


def test_a_hung_worker_starts_its_step_again_when_it_wakes(world):
    async def test(fleet: Fleet) -> None:
        stream = world.submit(fleet, 100, 3)
        await asyncio.sleep(0.022)
        strike(fleet, kind="hang", role="decode", duration_s=1)
        assert await stream.end() == [20.0, 1028.101, 1034.203]  # 22 + 1000 + a whole step

    world.run(world.options(), test)


def test_a_hung_worker_still_takes_work(world):
    async def test(fleet: Fleet) -> None:
        strike(fleet, kind="hang", worker="prefill-0", duration_s=1)
        assert await world.submit(fleet, 100, 1).end() == [1020.0]

    world.run(world.options(), test)


def test_a_slow_worker_is_slow_for_as_long_as_asked(world):
    async def test(fleet: Fleet) -> None:
        strike(fleet, kind="slow", role="prefill", factor=3, duration_s=0.05)
        assert await world.submit(fleet, 100, 1).end() == [60.0]
        assert await world.submit(fleet, 100, 1).end() == [80.0]

    world.run(world.options(), test)


def test_a_crash_fails_the_requests_of_its_worker_and_restarts_it(world):
    async def test(fleet: Fleet) -> None:
        streams = [world.submit(fleet, 100, 100) for _ in range(2)]
        await asyncio.sleep(0.1)
        assert strike(fleet, kind="crash", role="decode") == "decode-0"
        assert [stream.sink.error for stream in streams] == ["worker decode-0 crashed", None]
        assert [worker.state for worker in fleet.workers(Role.DECODE)] == ["starting", "ready"]
        assert len(await streams[1].end()) == 100
        await asyncio.sleep(30)
        assert fleet.settled
        assert len(await world.submit(fleet, 100, 5).end()) == 5
        assert fleet.gpu_seconds(Role.DECODE) == pytest.approx(8 * asyncio.get_running_loop().time())

    world.run(world.options(decode_workers=2, startup_s=30), test)


def test_a_crash_in_prefill(world):
    async def test(fleet: Fleet) -> None:
        struck, waiting = world.submit(fleet, 100, 1), world.submit(fleet, 100, 1)
        strike(fleet, kind="crash", role="prefill")
        assert struck.sink.error == "worker prefill-0 crashed"
        assert await waiting.end() == [30020.0]

    world.run(world.options(startup_s=30), test)


def test_a_draining_worker_that_crashes_is_gone(world):
    async def test(fleet: Fleet) -> None:
        stream = world.submit(fleet, 100, 100)
        await asyncio.sleep(0.1)
        fleet.scale(1, 0)
        strike(fleet, kind="crash", worker="decode-0")
        assert stream.sink.error == "worker decode-0 crashed"
        assert list(fleet.workers(Role.DECODE)) == []

    world.run(world.options(startup_s=30), test)


def test_a_fault_later(world):
    async def test(fleet: Fleet) -> None:
        strike(fleet, kind="crash", role="prefill", after_s=5)
        await asyncio.sleep(4.9)
        assert fleet.settled
        await asyncio.sleep(0.2)
        assert not fleet.settled

    world.run(world.options(startup_s=30), test)


def test_a_fault_that_finds_nobody_later_is_skipped(world, caplog):
    async def test(fleet: Fleet) -> None:
        strike(fleet, kind="crash", role="agg", after_s=5)
        await asyncio.sleep(6)
        assert "there is no ready agg worker" in caplog.text

    world.run(world.options(), test)


def test_metrics_are_gone_until_the_last_fault_is_over(world):
    async def test(fleet: Fleet) -> None:
        injector = FaultInjector(fleet)
        injector.inject(parse_fault('{"kind": "metrics-gone", "duration_s": 5}'))
        injector.inject(parse_fault('{"kind": "metrics-gone", "duration_s": 10}'))
        await asyncio.sleep(7)
        assert injector.metrics_gone
        await asyncio.sleep(4)
        assert not injector.metrics_gone

    world.run(world.options(), test)


@pytest.mark.parametrize(
    ("share", "of_20"),
    [(0.1, [10, 20]), (0.25, [4, 8, 12, 16, 20]), (0.3, [4, 7, 10, 14, 17, 20]), (1, list(range(1, 21)))],
)
def test_errors_are_evenly_spread(world, share, of_20):
    async def test(fleet: Fleet) -> None:
        injector = FaultInjector(fleet)
        assert not injector.refuses()  # before the fault nothing is counted
        assert injector.inject(parse_fault(json.dumps({"kind": "errors", "share": share, "duration_s": 5}))) == "requests"
        assert [number for number in range(1, 21) if injector.refuses()] == of_20
        await asyncio.sleep(6)
        assert not any(injector.refuses() for _ in range(20))

    world.run(world.options(), test)


def test_short_answers_for_as_long_as_asked(world):
    async def test(fleet: Fleet) -> None:
        injector = FaultInjector(fleet)
        injector.inject(parse_fault('{"kind": "short", "duration_s": 5}'))
        assert [injector.shortened(osl) for osl in (1, 2, 101)] == [1, 1, 50]
        injector.inject(parse_fault('{"kind": "short", "factor": 0.1}'))
        assert injector.shortened(101) == 10
        await asyncio.sleep(6)
        assert injector.shortened(101) == 10

    world.run(world.options(), test)


def test_an_exit_is_told_once(world):
    async def test(fleet: Fleet) -> None:
        injector = FaultInjector(fleet)
        assert injector.inject(parse_fault('{"kind": "exit", "after_s": 5, "code": 137, "message": "Killed"}')) == "exit in 5 s"
        await asyncio.sleep(4)
        assert not injector.ended.done()
        injector.inject(parse_fault('{"kind": "exit", "after_s": 2}'))
        assert await injector.ended == LastWords(137, "Killed")
        assert asyncio.get_running_loop().time() == pytest.approx(5)
        await asyncio.sleep(2)

    world.run(world.options(), test)


def test_nobody_to_strike(world):
    async def test(fleet: Fleet) -> None:
        with pytest.raises(UsageError, match=r"there is no worker 'decode-7'; workers: prefill-0, decode-0"):
            strike(fleet, kind="crash", worker="decode-7")

    world.run(world.options(), test)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "fault: Invalid JSON"),
        ("{}", "kind: Field required"),
        ('{"kind": "melt"}', "kind: Input should be 'hang'"),
        ('{"kind": "hang"}', "a hang fault needs a role or a worker"),
        ('{"kind": "errors", "share": 0}', "share: Input should be greater than 0"),
        ('{"kind": "exit", "code": 256}', "code: Input should be less than or equal to 255"),
        ('{"kind": "short", "factor": 1}', "a short fault of factor 1 shortens nothing; give a factor below 1"),
        ('{"kind": "slow", "role": "decode", "factor": 0}', "factor: Input should be greater than 0"),
        ('{"kind": "slow", "role": "decode", "speed": 2}', "speed: Extra inputs are not permitted"),
    ],
)
def test_what_is_no_fault_is_said(text, problem):
    with pytest.raises(UsageError, match=problem):
        parse_fault(text)
