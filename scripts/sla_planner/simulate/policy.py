"""What a scaling policy sees and answers. The production planner and every alternative implement this one protocol.

A causal policy is told of traffic only what `scrape` shows, and of workers what the Kubernetes API tells. A policy that knows the future (the
clairvoyant, a fleet sized in hindsight) has it from its constructor, so that the difference can be seen in the type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sla_planner.model.sla import Sla
from sla_planner.plan.observation import TrafficWindow, WorkerCounts
from sla_planner.simulate.scrape import Scrape, Scrapes


@dataclass(frozen=True, slots=True)
class Workers:
    """So many workers of each role, asked for."""

    prefill: int
    decode: int


@dataclass(frozen=True, slots=True)
class Seen:
    """One tick's view, at `at_s` seconds from the trace start."""

    at_s: float
    prefill: WorkerCounts
    decode: WorkerCounts
    scrapes: Scrapes

    @property
    def asked(self) -> Workers:
        """What the last decision asked for."""
        return Workers(self.prefill.total, self.decode.total)

    @property
    def newest(self) -> Scrape | None:
        return self.scrapes.newest(self.at_s)

    def traffic(self, window_s: float, sla: Sla) -> TrafficWindow:
        return self.scrapes.traffic(self.at_s, window_s, sla)


class Policy(Protocol):
    """Asked every `interval_s` seconds. `settings` says, in plain JSON types, what it was run with."""

    @property
    def name(self) -> str: ...

    @property
    def interval_s(self) -> float: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...

    def decide(self, seen: Seen) -> Workers: ...
