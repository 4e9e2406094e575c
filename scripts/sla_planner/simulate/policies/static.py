"""The fleet that never changes. In hindsight: the cheapest constant one that reaches the goal on this very traffic (`hindsight`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sla_planner.simulate.policy import Seen, Workers


@dataclass(frozen=True, slots=True)
class Static:
    """`workers`, always."""

    workers: Workers
    name: str = "static"
    interval_s: float = 600.0

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"prefill": self.workers.prefill, "decode": self.workers.decode}

    def decide(self, seen: Seen) -> Workers:  # noqa: ARG002 - the protocol's
        return self.workers
