"""The production planner on the virtual clock: `plan.planner.decide`, with the windows and the counts that it would be given in a cluster.

`restart_every_s` ends the planner and starts another one from what the first saved, through the JSON of its state, as often as that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sla_planner.model.engine import Engine
from sla_planner.plan.decision import Decision
from sla_planner.plan.observation import Observation
from sla_planner.plan.planner import decide, window_s
from sla_planner.plan.settings import PlanSettings
from sla_planner.plan.state import PlanState, new_state, state_from_json, state_to_json
from sla_planner.simulate.policy import Seen, Workers


class Planner:
    """One target's planner. `decisions`: what it said, tick by tick, if `remember`."""

    def __init__(
        self, settings: PlanSettings, engine: Engine, *, name: str = "slaplanner", restart_every_s: float | None = None, remember: bool = False
    ) -> None:
        self.name = name
        self.plan = settings
        self.state: PlanState = new_state(settings)
        self.decisions: list[Decision] = []
        self._engine = engine
        self._restart_every_s = restart_every_s
        self._restarts = 0
        self._remember = remember

    @property
    def interval_s(self) -> float:
        return self.plan.interval_s

    @property
    def settings(self) -> Mapping[str, Any]:
        return asdict(self.plan)

    def decide(self, seen: Seen) -> Workers:
        self._restart(seen.at_s)
        observation = Observation(seen.traffic(window_s(self.plan, self.state, seen.at_s), self.plan.sla), seen.prefill, seen.decode)
        decision, self.state = decide(self.plan, self._engine, self.state, observation)
        if self._remember:
            self.decisions.append(decision)
        return Workers(decision.prefill.desired, decision.decode.desired)

    def _restart(self, at_s: float) -> None:
        if self._restart_every_s is None or at_s < (self._restarts + 1) * self._restart_every_s:
            return
        self._restarts += 1
        document = json.loads(json.dumps(state_to_json(self.state, self.plan, self._engine)))
        self.state, _ = state_from_json(document, self.plan, self._engine)
