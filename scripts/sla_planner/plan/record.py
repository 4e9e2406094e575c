"""One tick as data: what was seen and what was decided. The JSON log prints it, the report draws it, a test compares it.

The JSON form is the dataclasses' own fields, nested; `Quantity` becomes `{"kind", "value", "why"}`. Infinite histogram edges become null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from sla_planner.model.sla import Sla
from sla_planner.plan.decision import Decision, Prediction, Reason, Role, RoleDecision
from sla_planner.plan.observation import Kind, LengthHistogram, Observation, Quantity, TrafficWindow, WorkerCounts
from sla_planner.plan.settings import PlanSettings


class Carried(StrEnum):
    """What became of a decision."""

    APPLIED = "applied"
    NOTHING = "nothing"  # there was nothing to change
    WAITING = "waiting"  # the one before has not been carried out yet
    PAUSED = "paused"  # a person asked for hands off
    CONTENDED = "contended"  # somebody else wrote the counts: theirs stand for this interval
    FAILED = "failed"  # the target could not be reached
    ADVISORY = "advisory"  # --no-operation: nothing is ever written


@dataclass(frozen=True, slots=True)
class Terms:
    """What a decision is judged by and counted with: the promise, the time between decisions, the GPUs of one worker."""

    sla: Sla
    interval_s: float
    prefill_gpus: int
    decode_gpus: int

    @classmethod
    def of(cls, settings: PlanSettings) -> Terms:
        return cls(settings.sla, settings.interval_s, settings.prefill.gpus_per_worker, settings.decode.gpus_per_worker)


@dataclass(frozen=True, slots=True)
class Tick:
    """What one target's planner saw and decided at one moment, and what became of it. `gpu_hours` is the total charged since its state began."""

    target: str
    observation: Observation
    decision: Decision
    gpu_hours: float
    carried: Carried = Carried.APPLIED
    terms: Terms = field(kw_only=True)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types only."""
        document: dict[str, Any] = _plain(asdict(self))
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Tick:
        """The inverse of `to_json`. Raises KeyError or TypeError when `document` is not a tick."""
        seen, decided = document["observation"], document["decision"]
        return cls(
            target=document["target"],
            observation=Observation(
                traffic=_traffic(seen["traffic"]),
                prefill=None if seen["prefill"] is None else WorkerCounts(**seen["prefill"]),
                decode=None if seen["decode"] is None else WorkerCounts(**seen["decode"]),
            ),
            decision=Decision(
                **{
                    **decided,
                    "prefill": _role(decided["prefill"]),
                    "decode": _role(decided["decode"]),
                    "prediction": None if decided["prediction"] is None else Prediction(**decided["prediction"]),
                    "verdicts": tuple(decided["verdicts"]),
                }
            ),
            gpu_hours=document["gpu_hours"],
            carried=Carried(document["carried"]),
            terms=Terms(**{**document["terms"], "sla": Sla(**document["terms"]["sla"])}),
        )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _role(document: Mapping[str, Any]) -> RoleDecision:
    return RoleDecision(**{**document, "role": Role(document["role"]), "reason": Reason(document["reason"])})


def _traffic(document: Mapping[str, Any]) -> TrafficWindow:
    fields: dict[str, Any] = {}
    for key, value in document.items():
        if key in ("isl_lengths", "osl_lengths"):
            fields[key] = None if value is None else _lengths(value)
        elif isinstance(value, Mapping):
            fields[key] = Quantity(Kind(value["kind"]), value["value"], value["why"])
        else:
            fields[key] = value
    return TrafficWindow(**fields)


def _lengths(document: Mapping[str, Any]) -> LengthHistogram:
    edges = tuple(math.inf if edge is None else edge for edge in document["upper_tokens"])
    return LengthHistogram(edges, tuple(document["requests"]), document["total_tokens"])
