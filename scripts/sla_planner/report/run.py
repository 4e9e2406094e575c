"""One run of the planner as data, and the few numbers a person asks of it first.

    share inside   requests inside the promise / requests that arrived (one that was never answered arrived too)
    peak-sized     a fleet that never scales and holds the busiest moment: peak_workers x gpus_per_worker x duration
    saving         1 - GPU-seconds used / GPU-seconds of the peak-sized fleet; negative when the planner used more

Times are seconds since the run began; only ticks carry epoch seconds, and `start_s` is the epoch second at which the run began.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from sla_planner.model.sla import Sla
from sla_planner.plan.decision import Decision, Reason, Role, RoleDecision
from sla_planner.plan.observation import Observation, WorkerCounts
from sla_planner.plan.record import Carried, Tick

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def _same_length(arrays: object, what: str) -> None:
    lengths = {item.name: len(getattr(arrays, item.name)) for item in fields(arrays)}  # type: ignore[arg-type]
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{what}: arrays differ in length: {lengths}")


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """Every request that arrived, in order of arrival; all arrays have shape (requests,).

    ttft_ms  NaN = no first token ever came.
    itl_ms   mean gap between the request's tokens; NaN = fewer than two tokens.
    inside   the request met both targets.
    """

    arrival_s: Floats
    isl_tokens: Ints
    ttft_ms: Floats
    itl_ms: Floats
    inside: Bools

    def __post_init__(self) -> None:
        _same_length(self, "requests")
        if np.any(np.diff(self.arrival_s) < 0):
            raise ValueError("requests: not in order of arrival")

    @property
    def count(self) -> int:
        return len(self.arrival_s)

    @property
    def inside_count(self) -> int:
        return int(np.count_nonzero(self.inside))


@dataclass(frozen=True, slots=True, eq=False)
class WorkerSamples:
    """The fleet as it was, sampled at `t_s` (rising); a sample holds until the next one. All arrays have shape (samples,)."""

    t_s: Floats
    prefill_ready: Ints
    prefill_starting: Ints
    decode_ready: Ints
    decode_starting: Ints

    def __post_init__(self) -> None:
        _same_length(self, "worker samples")


@dataclass(frozen=True, slots=True)
class RoleUse:
    """What one role cost, and the fleet that would have been rented without a planner."""

    gpu_s: float
    peak_workers: int
    gpus_per_worker: int = 1


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a summary."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """A decision that changed the size of one role, `at_s` seconds after the run began."""

    at_s: float
    role: Role
    before: int
    after: int
    reason: Reason
    explanation: str


@dataclass(frozen=True, slots=True, eq=False)
class RunReport:
    """A run of the planner on one target, from the load to the result.

    workers  None: the fleet is drawn as the ticks saw it.
    rows     what the caller adds to the summary.
    facts    (what, value): version, trace and its licence, command to reproduce, engine, start-up.
    """

    title: str
    promise: Sla
    start_s: float
    duration_s: float
    requests: Requests
    ticks: tuple[Tick, ...]
    prefill: RoleUse
    decode: RoleUse
    workers: WorkerSamples | None = None
    rows: tuple[Row, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.duration_s > 0:
            raise ValueError(f"a run lasts longer than {self.duration_s} s")

    def use(self, role: Role) -> RoleUse:
        return self.prefill if role is Role.PREFILL else self.decode

    def peak_gpu_s(self, role: Role) -> float:
        use = self.use(role)
        return use.peak_workers * use.gpus_per_worker * self.duration_s

    @property
    def saving(self) -> float | None:
        """Share (<= 1) of the peak-sized fleet's GPU time that was not used; None when that fleet is empty."""
        peak_gpu_s = sum(self.peak_gpu_s(role) for role in Role)
        return 1 - (self.prefill.gpu_s + self.decode.gpu_s) / peak_gpu_s if peak_gpu_s > 0 else None

    @property
    def kept(self) -> bool:
        """The promised share of requests was inside. With no request there was nothing to break."""
        return self.requests.inside_count >= self.promise.attainment * self.requests.count - 1e-9


def of_role(decision: Decision, role: Role) -> RoleDecision:
    return decision.prefill if role is Role.PREFILL else decision.decode


def workers_of(observation: Observation, role: Role) -> WorkerCounts | None:
    return observation.prefill if role is Role.PREFILL else observation.decode


def changes(ticks: Sequence[Tick], start_s: float) -> Iterator[Change]:
    """Every change of a size that was carried out, oldest first, prefill before decode."""
    for tick in ticks:
        for role in Role:
            made = of_role(tick.decision, role)
            if made.changed and tick.carried is Carried.APPLIED:
                yield Change(tick.decision.at_s - start_s, role, made.current, made.desired, made.reason, made.explanation)
