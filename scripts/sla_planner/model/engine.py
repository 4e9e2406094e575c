"""What the planner asks of an engine: two questions per role, answered by any interpolation of a profile.

    prefill   ttft_ms(isl)                      one prompt alone on an idle worker
              throughput_per_gpu(isl)           tokens/s/GPU at that prompt length
    decode    itl_ms(batch, context)            step time of `batch` running requests with a mean context of `context` tokens
              best_throughput_per_gpu(itl, context)   the most tokens/s/GPU whose step time stays within `itl`

`engine_of(profile, interpolation=...)` builds either of two answers:

* `"fitted"` (default): the linear ITL law  ITL = c0 + c1*batch + c2*kv_tokens  and a monotone prefill curve with a fixed overhead, both fitted
  robustly to the points that no gate flagged. Monotone and positive everywhere; outside the measured range it says so (`in_range`).
* `"as_measured"`: what Dynamo 0.6 computes (cubic interpolation on a 100 x 100 grid, nearest cell), kept so that its decisions can be reproduced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from sla_planner.model.profile import Profile

Interpolation = Literal["fitted", "as_measured"]


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A decode operating point of one worker. `reachable` is False when even the smallest batch exceeds the ITL asked for."""

    throughput_per_gpu: float
    itl_ms: float
    kv_usage: float
    reachable: bool = True


class PrefillModel(Protocol):
    gpus: int  # GPUs of one prefill worker
    isl_range: tuple[float, float]  # measured, tokens

    def ttft_ms(self, isl_tokens: float) -> float: ...

    def throughput_per_gpu(self, isl_tokens: float) -> float: ...

    def in_range(self, isl_tokens: float) -> bool: ...


class DecodeModel(Protocol):
    gpus: int  # GPUs of one decode worker
    max_kv_tokens: int
    context_range: tuple[float, float]  # measured, tokens

    def itl_ms(self, batch: float, context_tokens: float) -> float: ...

    def best_throughput_per_gpu(self, itl_ms: float, context_tokens: float) -> OperatingPoint: ...

    def in_range(self, batch: float, context_tokens: float) -> bool: ...


@dataclass(frozen=True, slots=True)
class ItlLaw:
    """ITL_ms = c0_ms + c1_ms * batch + c2_ms * kv_tokens: fixed step cost, cost per running request, cost per KV token read."""

    c0_ms: float
    c1_ms: float
    c2_ms: float

    def itl_ms(self, batch: float, kv_tokens: float) -> float:
        return self.c0_ms + self.c1_ms * batch + self.c2_ms * kv_tokens


@dataclass(frozen=True, slots=True)
class Engine:
    """One served model on one kind of GPU, as the planner and the simulated engine see it.

    `itl_law` is always fitted (the risk sizing and the simulated engine need its coefficients), whichever interpolation `decode` uses.
    """

    prefill: PrefillModel
    decode: DecodeModel
    itl_law: ItlLaw


def engine_of(
    profile: Profile, interpolation: Interpolation = "fitted", *, prefill_gpus: int | None = None, decode_gpus: int | None = None
) -> Engine:
    """The engine that `profile` describes at its selected mappings.

    `prefill_gpus`, `decode_gpus`: GPUs of one worker, where the profile's mapping does not say (npz files do not name it).
    Raises ProfileError when too few points are usable.
    """
    # Imported here: both modules need the types above, and only one of them needs scipy.
    from sla_planner.model.fitted import FittedDecode, FittedPrefill

    measured_prefill, measured_decode = profile.picked_prefill, profile.picked_decode
    gpus_of_prefill = measured_prefill.mapping.gpus if prefill_gpus is None else prefill_gpus
    gpus_of_decode = measured_decode.mapping.gpus if decode_gpus is None else decode_gpus
    fitted = FittedDecode(measured_decode, gpus_of_decode)
    if interpolation == "fitted":
        return Engine(FittedPrefill(measured_prefill, gpus_of_prefill), fitted, fitted.law)

    from sla_planner.model.as_measured import AsMeasuredDecode, AsMeasuredPrefill

    return Engine(AsMeasuredPrefill(measured_prefill, gpus_of_prefill), AsMeasuredDecode(measured_decode, gpus_of_decode), fitted.law)
