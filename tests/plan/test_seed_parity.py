"""The replica numbers that Dynamo 0.6.1's planner gives for the shipped 8B profile (1-GPU engines, interval 60 s), and where ours must differ."""

import pytest

from sla_planner.model.engine import Engine, engine_of
from sla_planner.model.sla import Sla
from sla_planner.plan.budget import fit
from sla_planner.plan.calibration import Corrections
from sla_planner.plan.decision import Prediction
from sla_planner.plan.mean import MeanSizing, size
from sla_planner.plan.settings import RoleLimits
from sla_planner.store.profile_files import read_profile, sample_profile_dir

UNCORRECTED = Corrections()


@pytest.fixture(scope="module")
def engine() -> Engine:
    return engine_of(read_profile(sample_profile_dir()), "as_measured")


def sized(engine: Engine, rate_rps: float, isl: float, osl: float, itl_ms: float = 10.0, corrections: Corrections = UNCORRECTED) -> MeanSizing:
    return size(Prediction(rate_rps, isl, osl), engine, Sla(itl_ms=itl_ms), corrections)


def within_budget(sizing: MeanSizing, budget: int = 8) -> tuple[int, int]:
    fitted = fit((sizing.prefill, sizing.decode), (RoleLimits(), RoleLimits()), budget, running=(1, 1))
    return fitted.prefill, fitted.decode


@pytest.mark.parametrize(
    ("rates_rps", "isl", "osl", "expected"),
    [
        ((5, 10, 15), 3000, 300, (1, 1)),
        ((18, 24, 30), 3000, 300, (2, 2)),
        ((36, 45), 3000, 300, (3, 3)),
        ((60,), 3000, 300, (4, 4)),  # exactly the budget
        ((8, 10), 4000, 150, (1, 1)),
        ((15, 18, 20), 4000, 150, (2, 1)),
        ((25, 36), 4000, 150, (3, 2)),
        ((40, 45), 4000, 150, (4, 2)),
        ((60,), 4000, 150, (5, 3)),
    ],
)
def test_replicas_by_rate(engine: Engine, rates_rps: tuple[float, ...], isl: float, osl: float, expected: tuple[int, int]) -> None:
    for rate_rps in rates_rps:
        assert within_budget(sized(engine, rate_rps, isl, osl)) == expected


def test_replicas_with_corrections(engine: Engine) -> None:
    assert within_budget(sized(engine, 900 / 60, 3000, 150, corrections=Corrections(0.5, 1.5))) == (1, 2)
    # The same load as (3, 3) above, with a decode engine a little slower than its profile.
    assert within_budget(sized(engine, 45, 3000, 300, corrections=Corrections(1.0, 1.05))) == (3, 4)


def test_queueing_adds_no_prefill_in_this_algorithm(engine: Engine) -> None:
    # 15 rps at a TTFT of 5 s against 60.459 ms: factor 82.7; 45 rps at 10 ms: 0.165.
    assert sized(engine, 15, 3000, 300, corrections=Corrections(82.7, 1.0)).prefill == 1
    assert sized(engine, 45, 3000, 300, corrections=Corrections(0.165, 1.0)).prefill == 1


@pytest.mark.parametrize(("requests", "expected"), [(10, (1, 1)), (5000, (6, 2))])
def test_replicas_at_50_ms(engine: Engine, requests: int, expected: tuple[int, int]) -> None:
    sizing = sized(engine, requests / 60, 3000, 150, itl_ms=50)
    assert (sizing.prefill, sizing.decode) == expected


def test_the_load_doubles_at_4000_tokens(engine: Engine) -> None:
    before, after = sized(engine, 8, 4000, 150), sized(engine, 18, 4000, 150)
    assert ((before.prefill, before.decode), (after.prefill, after.decode)) == ((1, 1), (2, 1))


@pytest.mark.parametrize(
    ("itl_ms", "correction", "verdict"),
    [
        (3.0, 1.0, "ITL 3 ms cannot be met: 4.43 ms is the lowest at context 3150"),
        (10.0, 2.33, "ITL 10 ms cannot be met: 10.32 ms is the lowest at context 3150, 2.33 times the profile's"),
    ],
)
def test_unreachable_itl_does_not_ask_for_21_workers(engine: Engine, itl_ms: float, correction: float, verdict: str) -> None:
    sizing = sized(engine, 15, 3000, 300, itl_ms=itl_ms, corrections=Corrections(1.0, correction))
    assert sizing.verdicts == (verdict,)
    assert sizing.decode_infeasible
    # 4500 tokens/s; the profile holds about 2000 tokens/s at 1.5 times its lowest ITL.
    assert (sizing.prefill, sizing.decode) == (1, 3)
