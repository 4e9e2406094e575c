"""Faults on request: what `POST /sim/faults` and `--fault` take.

    {"kind": "hang" | "crash" | "slow" | "metrics-gone",
     "role": "prefill" | "decode" | "agg", "worker": "decode-0", "factor": 2, "duration_s": 10, "after_s": 0}

`worker` names one worker; without it the first ready worker of `role` is struck. `factor` belongs to `slow`. Without `duration_s` a fault lasts; a
crash has none, the worker restarts after its start-up. `duration_s` and `after_s` are wall-clock seconds, whatever the time scale.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import StrEnum
from functools import partial

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, ValidationError

from sla_planner.engines.simulated.fleet import Fleet
from sla_planner.engines.simulated.options import Role
from sla_planner.engines.simulated.worker import State, Worker
from sla_planner.errors import UsageError

EXAMPLE = 'example: {"kind": "hang", "role": "decode", "duration_s": 10}'

log = logging.getLogger(__name__)


class FaultKind(StrEnum):
    HANG = "hang"
    CRASH = "crash"
    SLOW = "slow"
    METRICS_GONE = "metrics-gone"


class Fault(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: FaultKind
    role: Role | None = None
    worker: str | None = None
    factor: PositiveFloat = 2.0
    duration_s: PositiveFloat | None = None
    after_s: NonNegativeFloat = 0.0


def parse_fault(text: str | bytes) -> Fault:
    """Errors: `UsageError` for JSON that is not a fault."""
    try:
        fault = Fault.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "fault"
        raise UsageError(f"{place}: {first['msg']}", hint=EXAMPLE) from None
    if fault.kind is not FaultKind.METRICS_GONE and fault.role is None and fault.worker is None:
        raise UsageError(f"a {fault.kind} fault needs a role or a worker", hint=EXAMPLE)
    return fault


class FaultInjector:
    """Strikes the workers of a fleet; the HTTP front asks it whether metrics are gone."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._loop = asyncio.get_running_loop()
        self._metrics_gone = 0

    @property
    def metrics_gone(self) -> bool:
        return self._metrics_gone > 0

    def inject(self, fault: Fault) -> str:
        """Do it, or see to it that it is done in `after_s`. Says what is struck. `UsageError` when there is no such worker now."""
        if fault.after_s:
            self._loop.call_later(fault.after_s, self._strike_later, fault)
            return f"{fault.kind} in {fault.after_s:g} s"
        if fault.kind is FaultKind.METRICS_GONE:
            self._metrics_gone += 1
            self._undo_later(fault, self._metrics_are_back)
            return "metrics"
        worker = self._find(fault)
        log.warning("fault: %s of %s", fault.kind, worker.name)
        self._strike(fault, worker)
        return worker.name

    def _strike_later(self, fault: Fault) -> None:
        try:
            self.inject(fault.model_copy(update={"after_s": 0.0}))
        except UsageError as error:
            log.warning("fault skipped: %s", error)

    def _strike(self, fault: Fault, worker: Worker) -> None:
        if fault.kind is FaultKind.CRASH:
            worker.crash()
        elif fault.kind is FaultKind.HANG:
            worker.hang()
            self._undo_later(fault, worker.resume)
        else:
            worker.slow_down(fault.factor)
            self._undo_later(fault, partial(worker.slow_down, 1.0))

    def _undo_later(self, fault: Fault, undo: Callable[[], object]) -> None:
        if fault.duration_s is not None:
            self._loop.call_later(fault.duration_s, undo)

    def _metrics_are_back(self) -> None:
        self._metrics_gone -= 1

    def _find(self, fault: Fault) -> Worker:
        known = list(self._fleet.workers())
        for worker in known:
            if fault.worker == worker.name or (fault.worker is None and worker.role is fault.role and worker.state is State.READY):
                return worker
        wanted = f"worker {fault.worker!r}" if fault.worker else f"ready {fault.role} worker"
        raise UsageError(f"there is no {wanted}", hint=f"workers: {', '.join(worker.name for worker in known) or 'none'}")
