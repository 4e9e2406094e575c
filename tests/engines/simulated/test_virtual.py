from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from sla_planner.engines.simulated.fleet import Fleet
from sla_planner.engines.simulated.options import FleetOptions, Role
from sla_planner.engines.simulated.virtual import follow
from sla_planner.errors import UnreachableError


@dataclass(frozen=True)
class Asked:
    num_prefill_workers: int
    num_decode_workers: int
    decision_id: int


@dataclass
class Source:
    """A virtual target in memory. Knows whether the fleet was settled when it was acknowledged."""

    fleet: Fleet
    loop: asyncio.AbstractEventLoop
    decision: Asked = Asked(-1, -1, -1)
    down: bool = False
    asked: int = 0
    acknowledged: list[tuple[int, bool]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def get(self) -> Asked:
        self.asked += 1
        self.loop.call_soon_threadsafe(self.news.set)
        if self.down:
            raise UnreachableError("no answer")
        return self.decision

    def complete(self, decision: Asked) -> None:
        self.acknowledged.append((decision.decision_id, self.fleet.settled))
        self.loop.call_soon_threadsafe(self.news.set)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.news.clear()
            await self.news.wait()

    async def asked_again(self, times: int = 2) -> None:
        already = self.asked
        await self.until(lambda: self.asked >= already + times)


def run(options: FleetOptions, test: Callable[[Source], Awaitable[None]]) -> None:
    async def whole() -> None:
        fleet = Fleet(options)
        fleet.start()
        source = Source(fleet, asyncio.get_running_loop())
        following = asyncio.create_task(follow(fleet, source, poll_s=0.002))
        await asyncio.wait_for(test(source), 10)
        following.cancel()
        fleet.close()

    asyncio.run(whole())


def count(source: Source, role: Role) -> int:
    return len(list(source.fleet.workers(role)))


def test_a_decision_is_acknowledged_once_it_is_carried_out(world):
    async def test(source: Source) -> None:
        await source.asked_again()
        assert source.acknowledged == []  # nothing has been asked for
        source.decision = Asked(2, 3, 0)
        await source.until(lambda: bool(source.acknowledged))
        assert (count(source, Role.PREFILL), count(source, Role.DECODE)) == (2, 3)
        await source.asked_again()
        assert source.acknowledged == [(0, True)]

    run(world.options(startup_s=0.05), test)


def test_a_newer_decision_replaces_one_that_is_not_settled(world):
    async def test(source: Source) -> None:
        source.decision = Asked(2, 2, 0)
        await source.until(lambda: count(source, Role.DECODE) == 2)
        assert not source.fleet.settled
        source.decision = Asked(1, 1, 1)
        await source.until(lambda: bool(source.acknowledged))
        assert source.acknowledged == [(1, True)]
        assert count(source, Role.DECODE) == 1

    run(world.options(startup_s=3600), test)


def test_numbers_that_begin_anew_are_followed(world):
    async def test(source: Source) -> None:
        source.decision = Asked(1, 2, 0)
        await source.until(lambda: len(source.acknowledged) == 1)
        source.decision = Asked(1, 3, 0)  # someone deleted the keys and a new planner started
        await source.until(lambda: len(source.acknowledged) == 2)
        assert count(source, Role.DECODE) == 3

    run(world.options(), test)


def test_a_target_that_does_not_answer_changes_nothing_and_is_said_once(world, caplog):
    async def test(source: Source) -> None:
        source.decision = Asked(1, 2, 0)
        await source.until(lambda: bool(source.acknowledged))
        source.down = True
        await source.asked_again(4)
        assert count(source, Role.DECODE) == 2
        assert caplog.text.count("does not answer") == 1
        source.decision, source.down = Asked(1, 4, 1), False
        await source.until(lambda: len(source.acknowledged) == 2)
        assert count(source, Role.DECODE) == 4

    run(world.options(), test)


@pytest.mark.parametrize("decision", [Asked(-1, 2, 0), Asked(2, -1, 0)])
def test_half_a_decision_is_none(world, decision):
    async def test(source: Source) -> None:
        source.decision = decision
        await source.asked_again()
        assert (count(source, Role.PREFILL), count(source, Role.DECODE)) == (1, 1)
        assert source.acknowledged == []

    run(world.options(), test)
