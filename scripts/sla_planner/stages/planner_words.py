"""What the planner's log says of one interval, line by line. Every interval says why, also when nothing happens."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from sla_planner.cluster.target import Fleet
from sla_planner.errors import PlannerError
from sla_planner.model.sla import Sla
from sla_planner.plan.decision import Decision, Reason, RoleDecision
from sla_planner.plan.observation import Observation, Quantity
from sla_planner.plan.settings import PlanSettings

LOG = logging.getLogger("sla_planner.planner")


@dataclass(frozen=True, slots=True)
class Voice:
    """Log lines of one target; named in the text only where there are several."""

    target: str
    alone: bool

    def say(self, message: str, *, level: int = logging.INFO, **fields: Any) -> None:
        LOG.log(level, message if self.alone else f"[{self.target}] {message}", extra={"target": self.target, **fields})

    def warn(self, message: str) -> None:
        self.say(message, level=logging.WARNING)

    def lost(self, error: PlannerError) -> None:
        self.say(f"This interval is lost: {error}", level=logging.ERROR)

    def observed(self, observation: Observation, sla: Sla) -> None:
        """Traffic and workers."""
        traffic = observation.traffic
        if not traffic.request_rate_rps.known:
            self.warn(f"Traffic is unknown: {traffic.request_rate_rps.why}")
        else:
            requests = Quantity.of(traffic.request_rate_rps.value * traffic.window_s)
            self.say(f"Observed num_req: {_shown(requests)} isl: {_shown(traffic.isl_tokens)} osl: {_shown(traffic.osl_tokens)}")
            self.say(f"Observed ttft: {_shown(traffic.ttft_ms, 1e-3, 's')} itl: {_shown(traffic.itl_ms, 1e-3, 's')}")
        for label, seen, target in (("TTFT", traffic.ttft_ms, sla.ttft_ms), ("ITL", traffic.itl_ms, sla.itl_ms)):
            if seen.known and seen.value > target:
                self.warn(f"Current {label}: {seen.value:.0f}ms, Target: {target:g}ms (exceeding SLA)")
        if observation.prefill and observation.decode:
            prefill, decode = observation.prefill, observation.decode
            coming = f" ({prefill.starting} prefill and {decode.starting} decode starting)" if prefill.starting or decode.starting else ""
            self.say(f"Number of prefill workers: {prefill.ready}, number of decode workers: {decode.ready}{coming}")

    def fleet_troubles(self, fleet: Fleet) -> None:
        """Workers that have no place or do not start."""
        for text in fleet.unplaced:
            self.warn(f"Workers cannot be placed: {text}")
        for text in fleet.troubles:
            self.warn(f"Workers do not start: {text}")

    def decided(self, decision: Decision, settings: PlanSettings, *, done: bool) -> None:
        """What was assumed, and each role with its reason. `done`: it was carried out."""
        if decision.prediction is not None:
            predicted = decision.prediction
            self.say(f"Correction factors: TTFT: {decision.prefill_correction:.3f}, ITL: {decision.decode_correction:.3f}")
            requests = predicted.request_rate_rps * settings.interval_s
            note = f" ({predicted.note})" if predicted.note else ""
            self.say(f"Predicted load: num_req={requests:.3f}, isl={predicted.isl_tokens:.3f}, osl={predicted.osl_tokens:.3f}{note}")
        for text in decision.verdicts:
            self.warn(text)
        scaling = "Scaling" if done else "Would be scaling"
        for role in (decision.prefill, decision.decode):
            change = f"{scaling} {role.role} workers: {role.current} -> {role.desired}" if role.changed else _kept(role)
            self.say(f"{change} ({role.explanation})")


def asked_for(decision: Decision) -> str:
    return f"prefill={decision.prefill.desired}, decode={decision.decode.desired}"


def untouched(decision: Decision, observation: Observation) -> str:
    """The last line of an interval in which there was nothing to change."""
    if observation.prefill is None or observation.decode is None:
        return "Nothing decided: the number of workers is unknown"
    if Reason.UNKNOWN in (decision.prefill.reason, decision.decode.reason):
        return f"Nothing decided, holding {asked_for(decision)}"
    return f"No scaling needed ({asked_for(decision)})"


def _kept(role: RoleDecision) -> str:
    return f"Keeping {role.current} {role.role} worker{'' if role.current == 1 else 's'}"


def _shown(quantity: Quantity, scale: float = 1.0, unit: str = "") -> str:
    return f"{quantity.value * scale:.3f}{unit}" if quantity.known else quantity.kind.value
