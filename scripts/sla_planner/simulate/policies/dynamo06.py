"""The SLA planner of Dynamo 0.6 on the virtual clock, and the constant headroom that its users put on top.

It is the production planner with `Sizing.MEAN` (the documented formulas, plan/mean.py), the constant predictor, correction factors of the last
interval and a decision every 60 s. Headroom multiplies what the formulas ask for before it is rounded up: ceil(factor * load), per role.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sla_planner.model.engine import Engine
from sla_planner.plan.settings import PlanSettings, Predictor, RoleLimits, Sizing
from sla_planner.simulate.policies.planner import Planner
from sla_planner.simulate.policy import Seen, Workers

INTERVAL_S = 60.0


@dataclass(frozen=True, slots=True)
class Headroom:
    """Factors on the formulas' workers."""

    prefill: float = 1.0
    decode: float = 1.0


class Dynamo06:
    """`plan` says the promise and the start-up; everything else is as Dynamo 0.6 ships it."""

    interval_s = INTERVAL_S

    def __init__(self, plan: PlanSettings, engine: Engine, headroom: Headroom = Headroom(), *, name: str = "dynamo06") -> None:
        self.name = name
        self._headroom = headroom
        settings = PlanSettings(
            sla=plan.sla,
            sizing=Sizing.MEAN,
            predictor=Predictor.CONSTANT,
            interval_s=INTERVAL_S,
            startup_s=plan.startup_s,
            prefill=RoleLimits(gpus_per_worker=engine.prefill.gpus),
            decode=RoleLimits(gpus_per_worker=engine.decode.gpus),
            correction=True,
        )
        self._planner = Planner(settings, engine, name=name, remember=True)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"prefill_headroom": self._headroom.prefill, "decode_headroom": self._headroom.decode, "interval_s": INTERVAL_S}

    def decide(self, seen: Seen) -> Workers:
        plain = self._planner.decide(seen)
        decision = self._planner.decisions.pop()
        prediction = decision.prediction
        if prediction is None or not prediction.prefill_load or not prediction.decode_load:  # it holds, or is idle
            return plain
        return Workers(
            max(plain.prefill, math.ceil(self._headroom.prefill * prediction.prefill_load)),
            max(plain.decode, math.ceil(self._headroom.decode * prediction.decode_load)),
        )
