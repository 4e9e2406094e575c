"""`mean` sizing of both roles from one observation: the last interval forecast by three independent series, corrected, and put into the formulas of
`mean`. What is idle is carried (lengths) or zero (requests); an unknown never gets here.
"""

from __future__ import annotations

from dataclasses import replace

from sla_planner.model.engine import Engine
from sla_planner.plan.calibration import Corrections, last_interval_corrections
from sla_planner.plan.decision import Prediction, Reason
from sla_planner.plan.forecast import Forecast, forecast, observe
from sla_planner.plan.mean import size
from sla_planner.plan.observation import Observation, Quantity
from sla_planner.plan.settings import PlanSettings
from sla_planner.plan.sizing import RoleNeed, Sized, direction
from sla_planner.plan.state import PlanState


def size_by_mean(settings: PlanSettings, engine: Engine, state: PlanState, observation: Observation) -> tuple[Sized, PlanState]:
    """Needs of both roles, and the state with this interval in its three series."""
    traffic = observation.traffic
    state = replace(
        state,
        requests=observe(state.requests, traffic.request_rate_rps.value),
        isl=observe(state.isl, _length(traffic.isl_tokens)),
        osl=observe(state.osl, _length(traffic.osl_tokens)),
    )
    rate, isl, osl = (forecast(series) for series in (state.requests, state.isl, state.osl))
    corrections = last_interval_corrections(observation, engine) if settings.correction else Corrections()
    prediction = Prediction(
        request_rate_rps=rate.next,
        isl_tokens=isl.next,
        osl_tokens=osl.next,
        horizon_s=settings.interval_s,
        predictor=settings.predictor.value,
        note=_notes(rate, isl, osl),
    )
    if not (prediction.isl_tokens > 0 and prediction.osl_tokens > 0):
        nothing = RoleNeed(0, Reason.IDLE, "no request has been seen yet")
        return Sized(nothing, nothing, prediction, gradual=False), state
    mean = size(prediction, engine, settings.sla, corrections)
    prediction = replace(prediction, prefill_load=mean.prefill_load, decode_load=mean.decode_load)
    predicted = f"{rate.next:.2f} requests/s of {isl.next:.0f} + {osl.next:.0f} tokens predicted"
    sized = Sized(
        prefill=RoleNeed(
            mean.prefill,
            direction(mean.prefill, observation.prefill.total if observation.prefill else 0),
            f"{predicted} are {mean.prefill_load:.2f} busy prefill workers at a correction of {min(1.0, corrections.prefill):.2f}",
        ),
        decode=RoleNeed(
            mean.decode,
            Reason.INFEASIBLE if mean.decode_infeasible else direction(mean.decode, observation.decode.total if observation.decode else 0),
            f"{predicted} are {mean.decode_load:.2f} busy decode workers at a correction of {corrections.decode:.2f}",
        ),
        prediction=prediction,
        prefill_correction=corrections.prefill,
        decode_correction=corrections.decode,
        verdicts=mean.verdicts,
        gradual=False,
    )
    return sized, state


def _length(quantity: Quantity) -> float | None:
    return quantity.value if quantity.known else None


def _notes(*forecasts: Forecast) -> str:
    return "; ".join(dict.fromkeys(one.note for one in forecasts if one.note))
