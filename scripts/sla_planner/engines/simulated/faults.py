"""Faults on request: what `POST /sim/faults` and `--fault` take.

Of one worker: `worker` names it; without it the first ready worker of `role` is struck.

    {"kind": "hang" | "crash" | "slow", "role": "prefill" | "decode" | "agg", "worker": "decode-0", "factor": 2}

Of the whole engine, which take no worker:

    {"kind": "metrics-gone"}                             /metrics answers 503
    {"kind": "errors", "share": 0.1}                     this share of requests gets a 500 in place of an answer, evenly spread: every tenth
    {"kind": "short", "factor": 0.5}                     answers end after this share of their tokens, with finish_reason "stop" and a true usage
    {"kind": "exit", "code": 1, "message": "fatal: ..."}   the process ends as in a crash: last words on stderr, connections cut, no clean-up

Every kind takes `after_s` and, but for a crash and an exit, `duration_s`: wall-clock seconds, whatever the time scale. Without `duration_s` a fault
lasts; a worker that crashed restarts after its start-up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, ValidationError

from sla_planner.engines.simulated.fleet import Fleet
from sla_planner.engines.simulated.options import Role
from sla_planner.engines.simulated.routing import State
from sla_planner.engines.simulated.worker import Worker
from sla_planner.errors import UsageError

EXAMPLE = 'example: {"kind": "hang", "role": "decode", "duration_s": 10}'

log = logging.getLogger(__name__)


class FaultKind(StrEnum):
    HANG = "hang"
    CRASH = "crash"
    SLOW = "slow"
    METRICS_GONE = "metrics-gone"
    ERRORS = "errors"
    SHORT = "short"
    EXIT = "exit"


OF_WORKERS = frozenset({FaultKind.HANG, FaultKind.CRASH, FaultKind.SLOW})
DEFAULT_FACTORS = {FaultKind.SLOW: 2.0, FaultKind.SHORT: 0.5}


class Fault(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: FaultKind
    role: Role | None = None
    worker: str | None = None
    factor: PositiveFloat | None = None
    share: Annotated[float, Field(gt=0, le=1)] = 0.1
    code: Annotated[int, Field(ge=0, le=255)] = 1
    message: str = "fatal: the engine ended, as a fault asked"
    duration_s: PositiveFloat | None = None
    after_s: NonNegativeFloat = 0.0

    @property
    def factor_or_default(self) -> float:
        return DEFAULT_FACTORS.get(self.kind, 1.0) if self.factor is None else self.factor


@dataclass(frozen=True, slots=True)
class LastWords:
    """How an engine ended that was told to."""

    code: int
    message: str


def parse_fault(text: str | bytes) -> Fault:
    """Errors: `UsageError` for JSON that is not a fault."""
    try:
        fault = Fault.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "fault"
        raise UsageError(f"{place}: {first['msg']}", hint=EXAMPLE) from None
    if fault.kind in OF_WORKERS and fault.role is None and fault.worker is None:
        raise UsageError(f"a {fault.kind} fault needs a role or a worker", hint=EXAMPLE)
    if fault.kind is FaultKind.SHORT and fault.factor_or_default >= 1:
        raise UsageError(f"a short fault of factor {fault.factor_or_default:g} shortens nothing", hint="give a factor below 1")
    return fault


class FaultInjector:
    """Strikes the workers of a fleet (None: this process has none); the HTTP front asks it what else is wrong, and waits for `ended`."""

    def __init__(self, fleet: Fleet | None) -> None:
        self._fleet = fleet
        self._loop = asyncio.get_running_loop()
        self._active: list[Fault] = []  # of the whole engine
        self._requests = 0
        self.ended: asyncio.Future[LastWords] = self._loop.create_future()

    @property
    def metrics_gone(self) -> bool:
        return any(fault.kind is FaultKind.METRICS_GONE for fault in self._active)

    def refuses(self) -> bool:
        """Asked once per request: whether this one gets an error in place of an answer."""
        shares = [fault.share for fault in self._active if fault.kind is FaultKind.ERRORS]
        if not shares:
            self._requests = 0
            return False
        before, self._requests = self._requests, self._requests + 1
        return _whole(self._requests * max(shares)) > _whole(before * max(shares))

    def shortened(self, osl_tokens: int) -> int:
        """How many of `osl_tokens` an answer gets; at least 1."""
        factors = [fault.factor_or_default for fault in self._active if fault.kind is FaultKind.SHORT]
        return max(1, _whole(osl_tokens * min(factors, default=1.0)))

    def inject(self, fault: Fault) -> str:
        """Do it, or see to it that it is done in `after_s`. Says what is struck. `UsageError` when there is no such worker now."""
        if fault.after_s:
            self._loop.call_later(fault.after_s, self._strike_later, fault)
            return f"{fault.kind} in {fault.after_s:g} s"
        if fault.kind not in OF_WORKERS:
            return self._strike_all(fault)
        worker = self._find(fault)
        log.warning("fault: %s of %s", fault.kind, worker.name)
        self._strike(fault, worker)
        return worker.name

    def _strike_later(self, fault: Fault) -> None:
        try:
            self.inject(fault.model_copy(update={"after_s": 0.0}))
        except UsageError as error:
            log.warning("fault skipped: %s", error)

    def _strike_all(self, fault: Fault) -> str:
        if fault.kind is FaultKind.EXIT:
            if not self.ended.done():
                self.ended.set_result(LastWords(fault.code, fault.message))
            return "engine"
        log.warning("fault: %s", fault.kind)
        self._active.append(fault)
        self._undo_later(fault, partial(self._active.remove, fault))
        return "metrics" if fault.kind is FaultKind.METRICS_GONE else "requests"

    def _strike(self, fault: Fault, worker: Worker) -> None:
        if fault.kind is FaultKind.CRASH:
            worker.crash()
        elif fault.kind is FaultKind.HANG:
            worker.hang()
            self._undo_later(fault, worker.resume)
        else:
            worker.slow_down(fault.factor_or_default)
            self._undo_later(fault, partial(worker.slow_down, 1.0))

    def _undo_later(self, fault: Fault, undo: Callable[[], object]) -> None:
        if fault.duration_s is not None:
            self._loop.call_later(fault.duration_s, undo)

    def _find(self, fault: Fault) -> Worker:
        if self._fleet is None:
            raise UsageError("the workers of this frontend are processes of their own", hint="send the fault to the worker")
        known = list(self._fleet.workers())
        for worker in known:
            if fault.worker == worker.name or (fault.worker is None and worker.role is fault.role and worker.state is State.READY):
                return worker
        wanted = f"worker {fault.worker!r}" if fault.worker else f"ready {fault.role} worker"
        raise UsageError(f"there is no {wanted}", hint=f"workers: {', '.join(worker.name for worker in known) or 'none'}")


def _whole(count: float) -> int:
    """Rounded down; 0.1 * 30 is 3."""
    return int(count + 1e-9)
