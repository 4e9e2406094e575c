"""What either sizing answers: the need of each role before stability and limits, and what it assumed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sla_planner.plan.decision import Prediction, Reason


def always(_workers: int) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class RoleNeed:
    """`workers` this role needs, why in words, and `holds(n)`: whether n workers keep the promise at the load that is there now."""

    workers: int
    reason: Reason
    explanation: str
    holds: Callable[[int], bool] = always


@dataclass(frozen=True, slots=True)
class Sized:
    """Both roles. `gradual`: whether the stability rules apply (`mean` follows its formulas at once, as the documents that define it do)."""

    prefill: RoleNeed
    decode: RoleNeed
    prediction: Prediction
    prefill_correction: float = 1.0
    decode_correction: float = 1.0
    miss_share: float | None = None
    verdicts: tuple[str, ...] = ()
    gradual: bool = True


def direction(need: int, current: int) -> Reason:
    """The reason that a bare comparison gives."""
    return Reason.LOAD_UP if need > current else Reason.LOAD_DOWN if need < current else Reason.STEADY
