"""Several engines at once: as many as their GPUs allow, and each can have the client to itself for a moment.

    side_by_side   starts in the given order whatever fits what is left of the GPUs; without a number one after the other
    Turns          mappings measure among others; a point that is not trusted is measured a second time with nothing else under way

One client sends the requests of all engines. Whether it is late for one of them because of the others is seen in the point (a defect), and the second
try, alone, settles it. So what is measured side by side is what is measured one after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def side_by_side(items: Sequence[T], gpus_of: Callable[[T], int], most_gpus: int | None, run: Callable[[T], Awaitable[R]]) -> list[R]:
    """What `run` gives, in the order of `items`. One that needs more than `most_gpus` by itself runs alone.

    The first exception ends the others; it is raised when nothing of them is left.
    """
    waiting = list(range(len(items)))
    running: dict[asyncio.Task[R], int] = {}
    results: dict[int, R] = {}
    try:
        while waiting or running:
            for at in tuple(waiting):
                used = sum(gpus_of(items[other]) for other in running.values())
                if not running or (most_gpus is not None and used + gpus_of(items[at]) <= most_gpus):
                    running[asyncio.ensure_future(run(items[at]))] = at
                    waiting.remove(at)
            ended, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                at = running.pop(task)
                results[at] = task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return [results[at] for at in range(len(items))]


class Turns:
    """Of all mappings of a sweep."""

    def __init__(self) -> None:
        self.measuring = 0
        self._wanted_alone = 0
        self._is_alone = False
        self._changed = asyncio.Condition()

    async def enter(self, *, alone: bool) -> None:
        async with self._changed:
            self._wanted_alone += alone
            try:
                await self._changed.wait_for(lambda: self._free(alone))
                self._is_alone, self.measuring = alone, self.measuring + 1
            finally:
                self._wanted_alone -= alone
                self._changed.notify_all()

    async def leave(self) -> None:
        async with self._changed:
            self._is_alone, self.measuring = False, self.measuring - 1
            self._changed.notify_all()

    @property
    def contended(self) -> bool:
        """Whether somebody waits to measure alone."""
        return self._wanted_alone > 0

    def _free(self, alone: bool) -> bool:
        return not self.measuring if alone else not (self._is_alone or self._wanted_alone)


class Turn:
    """Of one mapping, from when its engine is up until it is done. `quiet` ends what it still has in flight."""

    def __init__(self, turns: Turns, quiet: Callable[[], Awaitable[None]]) -> None:
        self._turns, self._quiet = turns, quiet
        self._holds = False

    @asynccontextmanager
    async def held(self) -> AsyncIterator[Turn]:
        """Among others for as long as the block lasts."""
        await self._take(alone=False)
        try:
            yield self
        finally:
            await self._give_back()

    @property
    def among_others(self) -> bool:
        """Whether others measure at this moment."""
        return self._turns.measuring > 1

    async def give_way(self) -> None:
        """Between two points: let those go first that have to measure alone."""
        if self._turns.contended:
            await self._quiet()
            await self._give_back()
            await self._take(alone=False)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Nothing else is measured while the block lasts. After an exception the mapping is done."""
        await self._quiet()
        await self._give_back()
        await self._take(alone=True)
        yield
        await self._give_back()
        await self._take(alone=False)

    async def _take(self, *, alone: bool) -> None:
        await self._turns.enter(alone=alone)
        self._holds = True

    async def _give_back(self) -> None:
        if self._holds:
            self._holds = False
            await self._turns.leave()
