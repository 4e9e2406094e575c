"""What a user promised and allows, for one target. Plain values; the configuration file, environment and flags end up here (`config.py`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from sla_planner.model.sla import Sla


class Sizing(StrEnum):
    MEAN = "mean"
    RISK = "risk"


class Predictor(StrEnum):
    CONSTANT = "constant"
    EWMA = "ewma"
    ARIMA = "arima"
    PROPHET = "prophet"


@dataclass(frozen=True, slots=True)
class RoleLimits:
    """Bounds of one role. `max_workers` None = no bound of its own."""

    min_workers: int = 1
    max_workers: int | None = None
    gpus_per_worker: int = 1


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """Everything the pure planner needs to know about one target.

    interval_s       time between decisions.
    startup_s        time from asking for a worker to its first request, as measured for this deployment.
    grace_s          a smaller need must have lasted this long before workers leave; None = startup_s + interval_s.
    max_gpu_budget   GPUs of both roles together; -1 = no limit.
    correction       calibrate the profile with observed latencies.
    history_window   how many past intervals the arima and prophet predictors look at.
    unschedulable_limit_s   how long a worker that cannot be placed is waited for before it is given back.
    """

    sla: Sla = field(default_factory=Sla)
    sizing: Sizing = Sizing.RISK
    predictor: Predictor = Predictor.EWMA
    interval_s: float = 15.0
    startup_s: float = 120.0
    grace_s: float | None = None
    max_gpu_budget: int = -1
    prefill: RoleLimits = field(default_factory=RoleLimits)
    decode: RoleLimits = field(default_factory=RoleLimits)
    correction: bool = True
    history_window: int = 50
    unschedulable_limit_s: float = 300.0

    @property
    def effective_grace_s(self) -> float:
        return self.horizon_s if self.grace_s is None else self.grace_s

    @property
    def horizon_s(self) -> float:
        """What is decided now is served by what is ready after a start-up, until the next decision's workers are."""
        return self.startup_s + self.interval_s
