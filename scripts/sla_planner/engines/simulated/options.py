"""What a simulated engine is made of.

    agg               one worker that does prefill and decode, as a profile sweep measures it
    disagg            a pool of prefill workers and a pool of decode workers, and their frontend, in one process
    prefill, decode   one worker, for a frontend elsewhere
    frontend          a frontend whose workers are processes elsewhere

Workers of a pool's initial count are ready at once; a worker added later, and one that is a process of its own, takes `startup_s` plus a uniform
share of `startup_jitter_s`. With `time_scale` X everything that the engine does, start-up included, takes 1/X of its time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from sla_planner.errors import UsageError
from sla_planner.model.batching import BatchingLaw


class Role(StrEnum):
    PREFILL = "prefill"
    DECODE = "decode"
    AGG = "agg"


class Mode(StrEnum):
    """What one process is."""

    AGG = "agg"
    DISAGG = "disagg"
    PREFILL = "prefill"
    DECODE = "decode"
    FRONTEND = "frontend"

    @property
    def worker_role(self) -> Role | None:
        """Of a process that is one worker for a frontend elsewhere."""
        return {Mode.PREFILL: Role.PREFILL, Mode.DECODE: Role.DECODE}.get(self)


@dataclass(frozen=True, slots=True)
class FleetOptions:
    """`noise` is the sigma of a log-normal factor of mean 1 on every step; `model_error_percent` 10 = the engine is 10 % slower than its profile.
    `reported_kv_tokens`: the KV capacity that the engine states in place of its own, for whoever should notice. `ranks`: the data-parallel ranks that
    it states it for, an equal share each; their batches run as one.

    Errors: `UsageError` for a value out of range.
    """

    law: BatchingLaw
    mode: Mode = Mode.DISAGG
    prefill_workers: int = 1
    decode_workers: int = 1
    startup_s: float = 0.0
    startup_jitter_s: float = 0.0
    noise: float = 0.0
    model_error_percent: float = 0.0
    time_scale: float = 1.0
    seed: int = 0
    reported_kv_tokens: int | None = None
    ranks: int = 1

    @property
    def stated_kv_tokens(self) -> int:
        """What the engine says of its KV capacity, per worker."""
        return self.law.engine.decode.max_kv_tokens if self.reported_kv_tokens is None else self.reported_kv_tokens

    def initial_workers(self) -> dict[Role, int]:
        if self.mode is Mode.DISAGG:
            return {Role.PREFILL: self.prefill_workers, Role.DECODE: self.decode_workers}
        return {self.mode.worker_role or Role.AGG: 1}

    def __post_init__(self) -> None:
        for name in ("prefill_workers", "decode_workers", "startup_s", "startup_jitter_s", "noise"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name.replace('_', '-')} is {getattr(self, name)}", hint="give 0 or more")
        if not 0 < self.time_scale < math.inf:
            raise UsageError(f"time-scale is {self.time_scale}", hint="give a positive factor, such as 1 or 10")
        if not -100 < self.model_error_percent < math.inf:
            raise UsageError(f"model-error is {self.model_error_percent} %", hint="give more than -100; negative is faster than the profile")
        if self.law.max_batched_tokens < 1 or self.law.max_sequences < 1:
            limits = f"{self.law.max_batched_tokens} batched tokens and {self.law.max_sequences} sequences"
            raise UsageError(f"the batch limits are {limits}", hint="give 1 or more for --max-batched-tokens and --max-sequences")
        gpus = self.law.engine.prefill.gpus, self.law.engine.decode.gpus
        if self.mode is Mode.AGG and gpus[0] != gpus[1]:
            raise UsageError(f"prefill was profiled on {gpus[0]} GPUs and decode on {gpus[1]}", hint="one worker does both: choose a size with --tp")
