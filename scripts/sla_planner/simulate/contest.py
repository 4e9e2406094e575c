"""One traffic, one cluster, one promise, many policies: who enters, what each was allowed to know, and what came of it.

A contestant is a function from the contest to an entry. The planner runs once, with the settings it is given. An alternative is given every advantage
a user could not have: its own settings are searched on this very traffic, for the cheapest that reaches the goal (`hindsight`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sla_planner.model.engine import Engine
from sla_planner.plan.settings import PlanSettings
from sla_planner.simulate.run import RunResult, Scenario
from sla_planner.simulate.score import Score


class Knows(StrEnum):
    """What a contestant's numbers rest on."""

    PAST = "the past"  # settings fixed beforehand, sees what has been scraped
    HINDSIGHT = "the past; settings searched on this traffic"
    FUTURE = "the future"


@dataclass(frozen=True, slots=True)
class Contest:
    """What all contestants get. `plan` holds the promise (`plan.sla`) and how the planner under test is set; `goal` is the share of requests (0..1)
    that must be inside, `plan.sla.attainment` unless a user asks for another. `progress` hears (contestant, share done 0..1). `dynamo_engine`: the
    profile as Dynamo 0.6 reads it, `engine_of(profile, "as_measured")`, for its planner; None = the scenario's engine."""

    scenario: Scenario
    plan: PlanSettings
    goal: float
    progress: Callable[[str, float], None] = field(default=lambda _name, _share: None)
    dynamo_engine: Engine | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the table. `settings` in plain JSON types. `tried`: runs that it took to find them. `result` is None for a bound that never ran;
    `reached` whether the goal was; without that, this is the setting that came nearest. `causes`: why requests were missed, of a policy that says why
    it decides."""

    policy: str
    knows: Knows
    settings: Mapping[str, Any]
    score: Score
    reached: bool
    tried: int = 1
    result: RunResult | None = None
    causes: tuple[str, ...] = ()


Contestant = Callable[[Contest], Entry]
