"""The default answer to the planner's questions: laws fitted to the points that no gate flagged. No scipy; microseconds per call.

Prefill. Inside the measured range a monotone cubic through the measured TTFTs (monotone.py). Outside, the fitted law a + b*isl + c*isl^2, scaled
by one factor per side so that it meets the curve at the edge: below the smallest ISL TTFT falls towards the scaled fixed overhead, never to
zero; above the largest it keeps growing like the law.

    throughput_per_gpu = prompts at once * isl / ttft * 1000 / gpus          (prompts at once = data-parallel ranks, 1 without)

Decode. The ITL law for every batch and context. The best operating point within an ITL is the largest real batch >= 1 with

    c0 + batch*(c1 + c2*context) <= itl   and   batch*context <= max_kv_tokens,      throughput_per_gpu = batch / step time * 1000 / gpus

with the step time of that batch. Throughput rises with the ITL allowed and falls with the context.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import groupby

from sla_planner.errors import ProfileError
from sla_planner.model.engine import ItlLaw, OperatingPoint
from sla_planner.model.laws import FitQuality, PrefillLaw, fit_itl, fit_prefill
from sla_planner.model.monotone import MonotoneCurve
from sla_planner.model.profile import DecodeMeasurement, DecodePoint, PrefillMeasurement

_FEWEST = 2  # different prompt lengths, batch sizes: a fixed cost and a cost per token or request


class FittedPrefill:
    """`PrefillModel` from the clean points of `measurement`. ProfileError when they have fewer than two prompt lengths."""

    __slots__ = ("_above", "_below", "_curve", "_prompts_at_once", "gpus", "isl_range", "law", "quality")

    def __init__(self, measurement: PrefillMeasurement, gpus: int) -> None:
        clean = [point for point in measurement.points if not point.flags]
        isl = [point.isl_tokens for point in clean]
        _require_different(isl, "prompt length", f"prefill {measurement.mapping.label}", len(measurement.points))
        ttft_ms = [point.ttft_ms for point in clean]
        self.gpus = gpus
        self.isl_range = (isl[0], isl[-1])
        self.law: PrefillLaw
        self.quality: FitQuality
        self.law, self.quality = fit_prefill(isl, ttft_ms)
        self._curve = MonotoneCurve(isl, ttft_ms)
        self._below = self._curve.y[0] / self.law.ttft_ms(isl[0])
        self._above = self._curve.y[-1] / self.law.ttft_ms(isl[-1])
        self._prompts_at_once = measurement.mapping.dp

    def ttft_ms(self, isl_tokens: float) -> float:
        shortest, longest = self.isl_range
        if isl_tokens < shortest:
            return self._below * self.law.ttft_ms(max(isl_tokens, 1.0))
        if isl_tokens > longest:
            return self._above * self.law.ttft_ms(isl_tokens)
        return self._curve(isl_tokens)

    def throughput_per_gpu(self, isl_tokens: float) -> float:
        isl = max(isl_tokens, 1.0)
        return self._prompts_at_once * isl / self.ttft_ms(isl) * 1000 / self.gpus

    def in_range(self, isl_tokens: float) -> bool:
        return self.isl_range[0] <= isl_tokens <= self.isl_range[1]


class FittedDecode:
    """`DecodeModel` from the clean points of `measurement`. ProfileError when they have fewer than two batch sizes."""

    __slots__ = ("_contexts", "_least_batch", "_most_kv", "context_range", "gpus", "law", "max_kv_tokens", "quality")

    def __init__(self, measurement: DecodeMeasurement, gpus: int) -> None:
        clean = [point for point in measurement.points if not point.flags]
        batches = [measurement.batch(point) for point in clean]
        _require_different(batches, "batch size", f"decode {measurement.mapping.label}", len(measurement.points))
        self.gpus = gpus
        self.max_kv_tokens = measurement.max_kv_tokens
        self.law: ItlLaw
        self.quality: FitQuality
        self.law, self.quality = fit_itl(batches, [point.kv_usage * self.max_kv_tokens for point in clean], [point.itl_ms for point in clean])
        self._contexts, self._most_kv = _measured_edge(clean)
        self._least_batch = max(min(batches), 1.0)
        self.context_range = (self._contexts[0], self._contexts[-1])

    def itl_ms(self, batch: float, context_tokens: float) -> float:
        return self.law.itl_ms(batch, batch * context_tokens)

    def best_throughput_per_gpu(self, itl_ms: float, context_tokens: float) -> OperatingPoint:
        context = max(context_tokens, 1.0)
        capacity = self.max_kv_tokens / context
        per_request_ms = self.law.c1_ms + self.law.c2_ms * context
        allowed = (itl_ms - self.law.c0_ms) / per_request_ms if per_request_ms > 0 else capacity
        batch = max(min(allowed, capacity), 1.0)
        step_ms = self.itl_ms(batch, context)
        return OperatingPoint(
            throughput_per_gpu=batch / step_ms * 1000 / self.gpus,
            itl_ms=step_ms,
            kv_usage=min(batch / capacity, 1.0),
            reachable=self.itl_ms(1.0, context) <= itl_ms and capacity >= 1.0,
        )

    def in_range(self, batch: float, context_tokens: float) -> bool:
        """Whether measured points surround this one: context between two measured ones, KV use up to what was measured there."""
        if not self.context_range[0] <= context_tokens <= self.context_range[1]:
            return False
        right = bisect_left(self._contexts, context_tokens)
        left = right if self._contexts[right] == context_tokens else right - 1
        share = (context_tokens - self._contexts[left]) / (self._contexts[right] - self._contexts[left]) if right > left else 0.0
        most = self._most_kv[left] + share * (self._most_kv[right] - self._most_kv[left])
        fits = batch * context_tokens / self.max_kv_tokens <= most * (1 + 1e-9)
        return fits and max(batch, 1.0) >= self._least_batch * (1 - 1e-9)


def _measured_edge(points: list[DecodePoint]) -> tuple[list[float], list[float]]:
    """The contexts measured, ascending, and the highest KV usage measured at each."""
    ordered = sorted(points, key=lambda point: (point.context_tokens, point.kv_usage))
    last = [list(group)[-1] for _, group in groupby(ordered, key=lambda point: point.context_tokens)]
    return [point.context_tokens for point in last], [point.kv_usage for point in last]


def _require_different(values: list[float], axis: str, key: str, measured: int) -> None:
    different = len({round(value) for value in values})
    if different < _FEWEST:
        raise ProfileError(
            f"the {len(values)} usable of {measured} points have {different} different {axis}s, a fit needs {_FEWEST}",
            key=key,
            hint=f"measure more {axis}s, or look at the flags of the points left out",
        )
