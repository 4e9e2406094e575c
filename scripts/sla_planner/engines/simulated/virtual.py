"""Follows a virtual target: scales the fleet to what is asked for and acknowledges it once it is so.

A decision is acknowledged when the asked-for workers are ready and the surplus is out of rotation (draining ones may still finish their streams).
A newer decision replaces one that is not settled yet; acknowledging it acknowledges both.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol, TypeVar

from sla_planner.engines.simulated.fleet import Fleet
from sla_planner.errors import UnreachableError

POLL_S = 0.25

log = logging.getLogger(__name__)


class Decision(Protocol):
    """-1 = not set yet."""

    @property
    def num_prefill_workers(self) -> int: ...

    @property
    def num_decode_workers(self) -> int: ...

    @property
    def decision_id(self) -> int: ...


D = TypeVar("D", bound=Decision)


class DecisionSource(Protocol[D]):
    """The client's end of a virtual target. Blocking; called in a thread."""

    def get(self) -> D: ...

    def complete(self, decision: D) -> None: ...


async def follow(fleet: Fleet, source: DecisionSource[D], poll_s: float = POLL_S) -> None:
    """Runs until cancelled. A source that cannot be reached is said once and asked again."""
    followed: D | None = None
    acknowledged: D | None = None
    reachable = True
    while True:
        try:
            decision = await asyncio.to_thread(source.get)
            prefill, decode = decision.num_prefill_workers, decision.num_decode_workers
            if decision != followed and min(prefill, decode) >= 0:
                followed = decision
                log.info("decision %d: prefill=%d, decode=%d", decision.decision_id, prefill, decode)
                fleet.scale(prefill, decode)
            if decision == followed != acknowledged and fleet.settled:
                await asyncio.to_thread(source.complete, decision)
                acknowledged = followed
            reachable = True
        except UnreachableError as error:
            if reachable:
                log.warning("the virtual target does not answer, the fleet stays as it is: %s", error)
            reachable = False
        await asyncio.sleep(poll_s)
