"""What the planner answers: one decision for both roles, each with its reason in words. Every interval says why, also when nothing happens."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Role(StrEnum):
    PREFILL = "prefill"
    DECODE = "decode"


class Reason(StrEnum):
    """Why a role's count is what it is. The value is the machine-readable code in JSON logs and metrics."""

    STEADY = "steady"  # the need equals what runs
    LOAD_UP = "load-up"  # more load, or a jump seen before at this level
    BACKLOG = "backlog"  # a queue must be drained
    LOAD_DOWN = "load-down"  # the survivors hold the promise and the grace period is over
    GRACE = "grace"  # fewer would do, but the grace period runs
    CONSOLIDATION = "consolidation"  # fewer would do by rule, but the survivors would not hold the promise
    IDLE = "idle"  # no traffic: decay to the floor
    UNKNOWN = "unknown-metrics"  # metrics unknown: hold
    WARMING = "starting-workers"  # enough is on its way
    FLOOR = "minimum"  # the configured minimum holds it up
    CEILING = "maximum"  # the configured maximum holds it down
    BUDGET = "gpu-budget"  # the GPU budget holds it down
    NO_ROOM = "unschedulable"  # the cluster has no room for more
    INFEASIBLE = "infeasible"  # the SLA cannot be met at any size: best effort


@dataclass(frozen=True, slots=True)
class RoleDecision:
    """`current`: what the last decision asked for. `need`: what the sizing wants. `desired`: after limits, budget and stability."""

    role: Role
    current: int
    need: int
    desired: int
    reason: Reason
    explanation: str  # one clause for people: "load 1.8 -> 2.6 worker-seconds/s, jump seen 3 times today"

    @property
    def changed(self) -> bool:
        return self.desired != self.current


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the decision assumed of the next horizon. Rates in requests/s, lengths in tokens, loads in busy workers (worker-seconds per second)."""

    request_rate_rps: float
    isl_tokens: float
    osl_tokens: float
    prefill_load: float = 0.0
    decode_load: float = 0.0
    horizon_s: float = 0.0
    predictor: str = ""
    note: str = ""  # e.g. "arima failed (LinAlgError): last value used"


@dataclass(frozen=True, slots=True)
class Decision:
    """Both roles, decided together. `act` is False when the tick must not touch the target (metrics unknown, nothing to change)."""

    at_s: float
    prefill: RoleDecision
    decode: RoleDecision
    prediction: Prediction | None
    prefill_correction: float = 1.0
    decode_correction: float = 1.0
    expected_miss_share: float | None = None  # of the horizon's requests, at the desired size
    verdicts: tuple[str, ...] = field(default=())  # infeasible SLA and other findings a person must hear, nearest achievable named
    data_age_s: float = 0.0  # since traffic was last known

    @property
    def act(self) -> bool:
        return self.prefill.changed or self.decode.changed
