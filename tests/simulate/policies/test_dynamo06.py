"""Dynamo 0.6's planner: decides once a minute by its formulas, and headroom multiplies the workers that they ask for."""

from __future__ import annotations

import pytest

from sla_planner.model.engine import engine_of
from sla_planner.model.sla import Sla
from sla_planner.plan.decision import Decision
from sla_planner.plan.settings import PlanSettings, Predictor, Sizing
from sla_planner.simulate.policies.dynamo06 import Dynamo06, Headroom
from sla_planner.simulate.policies.planner import Planner
from sla_planner.simulate.policy import Seen, Workers
from sla_planner.simulate.run import RunResult, Scenario, run
from sla_planner.store.profile_files import read_profile, sample_profile_dir
from sla_planner.traffic.trace import read_trace, sample_trace_path

ENGINE = engine_of(read_profile(sample_profile_dir()))
PLAN = PlanSettings(sla=Sla(500, 20), startup_s=120.0)
SCENARIO = Scenario(read_trace(sample_trace_path()).scaled(8, seed=1).window(0, 1200), ENGINE, Workers(2, 2))


def _run(headroom: Headroom) -> RunResult:
    return run(SCENARIO, Dynamo06(PLAN, ENGINE, headroom))


def test_without_headroom_it_is_the_production_planner_with_mean_sizing() -> None:
    mean = PlanSettings(sla=PLAN.sla, sizing=Sizing.MEAN, predictor=Predictor.CONSTANT, interval_s=60.0, startup_s=120.0)
    assert _run(Headroom()).course.asked.tolist() == run(SCENARIO, Planner(mean, ENGINE)).course.asked.tolist()


def test_it_decides_once_a_minute() -> None:
    assert _run(Headroom()).course.at_s.tolist() == [60.0 * minute for minute in range(20)]


def test_headroom_multiplies_the_workers_and_rounds_up() -> None:
    """What the formulas say of one window, asked of the planner itself; and what is asked for then."""
    planner = Planner(PlanSettings(sla=PLAN.sla, sizing=Sizing.MEAN, predictor=Predictor.CONSTANT, interval_s=60.0), ENGINE, remember=True)
    tuned = Dynamo06(PLAN, ENGINE, Headroom(prefill=2.5, decode=1.1))
    checked: list[tuple[Decision, Workers]] = []

    class Both:
        name, interval_s, settings = "both", 60.0, {}

        def decide(self, seen: Seen) -> Workers:
            planner.decide(seen)
            wanted = tuned.decide(seen)
            checked.append((planner.decisions[-1], wanted))
            return wanted

    run(SCENARIO, Both())
    sized = [(decision, wanted) for decision, wanted in checked if decision.prediction and decision.prediction.decode_load]
    assert len(sized) > 15
    times_2_5, times_1_1 = {1: 3, 2: 5, 3: 8, 4: 10, 5: 13, 6: 15}, {1: 2, 2: 3, 3: 4, 4: 5, 5: 6, 6: 7, 10: 11}
    for decision, wanted in sized:
        assert wanted == Workers(times_2_5[decision.prefill.desired], times_1_1[decision.decode.desired])


@pytest.mark.parametrize(("headroom", "settings"), [(Headroom(1.5, 2.0), {"prefill_headroom": 1.5, "decode_headroom": 2.0, "interval_s": 60.0})])
def test_settings_name_the_headroom(headroom: Headroom, settings: dict[str, float]) -> None:
    assert Dynamo06(PLAN, ENGINE, headroom).settings == settings
