"""Mean sizing: the algorithm of Dynamo's SLA planner ("Scaling Algorithm"), kept exact so that its decisions can be compared.

    prefill   load  = rate * isl * min(1, p_corr)                                   tokens/s
              need  = ceil(load / throughput_per_gpu(isl) / gpus)
    decode    itl*  = ITL / d_corr                                                  (d_corr <= 0: ITL)
              load  = rate * osl                                                    tokens/s
              need  = ceil(load / best_throughput_per_gpu(itl*, isl + osl/2) / gpus)

with rate, isl and osl as forecast for the next interval. TTFT does not enter: prefill is sized for throughput. Limits and budget come after
(budget.py).

Two deviations, both where the original answers nonsense:

* No batch holds itl*. The original takes the lowest throughput of the profile, and asks for 21 workers where 2 carry the load. Here the SLA is
  declared infeasible, the lowest ITL is named, and decode is sized at `INFEASIBLE_MARGIN` times that.
* The profile's interpolation gives a throughput that is not positive (cubic surfaces overshoot). Here Little's law on the interpolated latency,
  tokens/s = batch / ITL or isl / TTFT, takes its place, and a verdict says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sla_planner.errors import ProfileError
from sla_planner.model.engine import Engine, OperatingPoint
from sla_planner.model.sla import Sla
from sla_planner.plan.calibration import Corrections
from sla_planner.plan.decision import Prediction
from sla_planner.plan.work import INFEASIBLE_MARGIN


@dataclass(frozen=True, slots=True)
class MeanSizing:
    """Workers needed before limits and budget. `*_load` in busy workers: the need before it is rounded up.

    `verdicts`: what a person must hear. `decode_infeasible`: no batch holds the ITL, the decode need is a best effort.
    """

    prefill: int
    decode: int
    prefill_load: float
    decode_load: float
    verdicts: tuple[str, ...] = ()
    decode_infeasible: bool = False


def size(prediction: Prediction, engine: Engine, sla: Sla, corrections: Corrections) -> MeanSizing:
    """What `prediction` needs of `engine` under `sla`. Raises ProfileError when the profile gives no positive throughput nor latency there."""
    verdicts: list[str] = []
    prefill_load = _prefill_load(prediction, engine, corrections.prefill, verdicts)
    decode_load, infeasible = _decode_load(prediction, engine, sla, corrections.decode, verdicts)
    return MeanSizing(math.ceil(prefill_load), math.ceil(decode_load), prefill_load, decode_load, tuple(verdicts), infeasible)


def _prefill_load(prediction: Prediction, engine: Engine, correction: float, verdicts: list[str]) -> float:
    isl = prediction.isl_tokens
    tokens_per_s = prediction.request_rate_rps * isl * min(1.0, correction)
    throughput = engine.prefill.throughput_per_gpu(isl)
    if not throughput > 0:
        verdicts.append(f"the profile interpolates to {throughput:.1f} prefill tokens/s/GPU at ISL {isl:.0f}: TTFT used instead")
        throughput = _by_littles_law(isl, engine.prefill.ttft_ms(isl), engine.prefill.gpus, f"prefill at ISL {isl:.0f}")
    return tokens_per_s / throughput / engine.prefill.gpus


def _decode_load(prediction: Prediction, engine: Engine, sla: Sla, correction: float, verdicts: list[str]) -> tuple[float, bool]:
    context = prediction.isl_tokens + prediction.osl_tokens / 2
    tokens_per_s = prediction.request_rate_rps * prediction.osl_tokens
    slowdown = correction if correction > 0 else 1.0
    point = engine.decode.best_throughput_per_gpu(sla.itl_ms / slowdown, context)
    if infeasible := not point.reachable:
        verdicts.append(_verdict(sla, slowdown, point, context, engine))
        point = engine.decode.best_throughput_per_gpu(point.itl_ms * INFEASIBLE_MARGIN, context)
    throughput = point.throughput_per_gpu
    if not throughput > 0:
        verdicts.append(f"the profile interpolates to {throughput:.1f} decode tokens/s/GPU at context {context:.0f}: ITL used instead")
        batch = max(point.kv_usage * engine.decode.max_kv_tokens / max(context, 1.0), 1.0)
        throughput = _by_littles_law(batch, point.itl_ms, engine.decode.gpus, f"decode at context {context:.0f}")
    return tokens_per_s / throughput / engine.decode.gpus, infeasible


def _verdict(sla: Sla, slowdown: float, point: OperatingPoint, context: float, engine: Engine) -> str:
    if point.itl_ms * slowdown <= sla.itl_ms:
        return f"context {context:.0f} does not fit the KV cache of a decode worker, {engine.decode.max_kv_tokens} tokens"
    measured = "" if slowdown == 1.0 else f", {slowdown:.2f} times the profile's"
    return f"ITL {sla.itl_ms:g} ms cannot be met: {point.itl_ms * slowdown:.2f} ms is the lowest at context {context:.0f}{measured}"


def _by_littles_law(tokens: float, latency_ms: float, gpus: int, where: str) -> float:
    """tokens/s/GPU of a worker that has `tokens` under way and finishes each after `latency_ms`."""
    if not (tokens > 0 and latency_ms > 0):
        raise ProfileError(
            f"{where}: neither throughput nor latency ({latency_ms:.1f} ms) is positive",
            hint="use interpolation fitted, or measure more points there",
        )
    return tokens / latency_ms * 1000 / gpus
