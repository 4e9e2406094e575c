"""An engine for as long as its mapping is measured: started once, probed once, with one staircase of decode points open at a time."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

from sla_planner.sweep.measure import Measurer, Staircase
from sla_planner.sweep.points import DecodeShape
from sla_planner.sweep.port import RunningEngine
from sla_planner.traffic.probe import Probe


@dataclass(slots=True)
class StartedEngine:
    """`start_s`: from launch to ready. `stack`: ends what is still open, with the engine."""

    running: RunningEngine
    probed: Probe
    measurer: Measurer
    start_s: float
    stack: AsyncExitStack
    _open: tuple[AsyncExitStack, Staircase] | None = None

    async def staircase(self, shape: DecodeShape, max_tokens: int) -> Staircase:
        """The open staircase if `shape` is a step up on it, else a new one."""
        if self._open is not None:
            staircase = self._open[1]
            if staircase.isl_tokens == shape.isl_tokens and staircase.batch < shape.batch and not staircase.spent:
                return staircase
        await self.end_staircase()
        stack = await self.stack.enter_async_context(AsyncExitStack())
        staircase = await stack.enter_async_context(self.measurer.staircase(shape.isl_tokens, max_tokens))
        self._open = (stack, staircase)
        return staircase

    async def end_staircase(self) -> None:
        if self._open is not None:
            await self._open[0].aclose()
            self._open = None
