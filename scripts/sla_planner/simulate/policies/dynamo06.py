"""The SLA planner of Dynamo 0.6 on the virtual clock, and the constant headroom that its users put on top.

It is the production planner with `Sizing.MEAN` (the documented formulas, plan/mean.py), the constant predictor, correction factors of the last
interval and a decision every 60 s. Headroom multiplies the workers that it asks for: ceil(factor * workers), per role. (On the load, before that is
rounded to workers, the same attainment costs 4 to 17 % more on three recorded days: a small fleet gets no whole spare worker.)
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
    """Factors on the workers that are asked for, >= 1."""

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
        prediction = self._planner.decisions.pop().prediction
        if prediction is None or not prediction.decode_load:  # it holds what was asked for, headroom included, or is idle
            return plain
        return Workers(math.ceil(self._headroom.prefill * plain.prefill - 1e-9), math.ceil(self._headroom.decode * plain.decode - 1e-9))
