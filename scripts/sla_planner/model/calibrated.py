"""An offline profile put right by a handful of measured points.

Offline latencies have the right shape and are too low: kernels without HTTP, scheduler and queue, of another version of the engine. So per role

    measured_ms  =  factor * offline_ms + extra_ms [+ per_request_ms * batch]          all >= 0, relative least squares without outliers

with the offline value at a measured shape interpolated between offline points. A line needs offline values that differ by LEAST_SPREAD; of points
nearer together only a factor is taken, their median ratio. The cost per request, which scheduler and sampling add and kernels do not show, is
fitted from FEWEST_PER_REQUEST decode points on (on NVIDIA's H200 profile it takes the error from 7.5 to 3.4 %). Which points correct a mapping:

    its own, three or more                      its own
    one or two of its own                       that of all measured mappings together, times the median ratio of its own points to it
    none                                        that of all measured mappings together; without any, offline values stay

KV capacity of a mapping: the measured one; else the offline one times the median of measured over offline. Points that no longer fit are dropped.

Points should span the shapes in use: a small and a large batch, a short and a long context. Beyond them the correction is extrapolated.

What was measured stays: every measured point is in the result as it is, flags included, and takes the place of offline points near it (within
`NEAR` in prompt length, or in both context and batch). All other points are offline ones, corrected, and say so in their `note`. A mapping that was
measured well enough for laws of its own needs no offline points: many corrected ones would outvote the few that are true. That takes
FEWEST_ALONE_PREFILL prompt lengths, or FEWEST_ALONE_DECODE points of contexts and batches, that lie LENGTHS_SPREAD and BATCH_SPREAD apart. A mapping
that only one of both profiles has is taken from that one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, groupby
from statistics import median
from typing import NamedTuple, TypeVar

import numpy as np

from sla_planner.model.laws import fit_itl, fit_prefill, robust_sigma
from sla_planner.model.profile import DecodeMeasurement, DecodePoint, ParallelMapping, PrefillMeasurement, PrefillPoint, Profile

NEAR = 1.25  # ratio of two lengths, or batches, that count as one shape
CORRECTED = "offline, corrected by measured points of this mapping"
CORRECTED_BY_OTHERS = "offline, corrected by measured points of other mappings"
LEAST_SPREAD = 2.0  # largest over smallest offline value: below, a factor and an addition cannot be told apart
FEWEST_PER_REQUEST = 6
FEWEST_ALONE_PREFILL, FEWEST_ALONE_DECODE = 4, 5  # more than the law has coefficients
LENGTHS_SPREAD, BATCH_SPREAD = 4.0, 32.0  # largest over smallest
_FEWEST_OWN = 3
_OUTLIER_SIGMAS = 3.0
_ROUNDING = 1e-9

Measurement = TypeVar("Measurement", PrefillMeasurement, DecodeMeasurement)


class Pair(NamedTuple):
    """One clean measured point. `batch` is 0 for prefill."""

    offline_ms: float
    measured_ms: float
    batch: float = 0.0


@dataclass(frozen=True, slots=True)
class Correction:
    """measured_ms = factor * offline_ms + extra_ms + per_request_ms * batch."""

    factor: float = 1.0
    extra_ms: float = 0.0
    per_request_ms: float = 0.0

    def __call__(self, offline_ms: float, batch: float = 0.0) -> float:
        return self.factor * offline_ms + self.extra_ms + self.per_request_ms * batch


def calibrated(offline: Profile, measured: Profile) -> Profile:
    """`offline` corrected by the clean points of `measured`; its source says by how many. Mappings are selected as in `offline`; where
    nothing of the selected decode mapping fits any more, the first that does.
    """
    prefill_pairs = _pairs(offline.prefill, measured.prefill, _prefill_pairs)
    decode_pairs = _pairs(offline.decode, measured.decode, _decode_pairs)
    prefill_by, decode_by = _corrections(offline.prefill, prefill_pairs), _corrections(offline.decode, decode_pairs)
    capacity = _capacity_ratio(offline.decode, measured.decode)
    measured_prefill = {measurement.mapping: measurement for measurement in measured.prefill}
    measured_decode = {measurement.mapping: measurement for measurement in measured.decode}
    prefill = [_prefill(m, measured_prefill.pop(m.mapping, None), prefill_by[m.mapping], _note(m.mapping, prefill_pairs)) for m in offline.prefill]
    decode = [
        _decode(
            _resized(m, measured_decode.get(m.mapping), capacity),
            measured_decode.pop(m.mapping, None),
            decode_by[m.mapping],
            _note(m.mapping, decode_pairs),
        )
        for m in offline.decode
    ]
    points = sum(len(pairs) for pairs in (*prefill_pairs.values(), *decode_pairs.values()))
    provenance = replace(
        offline.provenance,
        source=f"{offline.provenance.source or 'offline'}, calibrated with {points} measured point{'s' * (points != 1)}",
        image=measured.provenance.image,
        measured_at=measured.provenance.measured_at,
    )
    surfaces = tuple(measurement for measurement in (*decode, *measured_decode.values()) if measurement.points)
    selected = next((m.mapping for m in surfaces if m.mapping == offline.selected_decode), surfaces[0].mapping)
    curves = (*prefill, *measured_prefill.values())
    return replace(offline, prefill=curves, decode=surfaces, selected_decode=selected, provenance=provenance)


def fit_correction(pairs: Sequence[Pair]) -> Correction:
    """From latencies that are all positive. Of no pair: no correction."""
    if not pairs:
        return Correction()
    if max(pair.offline_ms for pair in pairs) < LEAST_SPREAD * min(pair.offline_ms for pair in pairs):
        return Correction(median(pair.measured_ms / pair.offline_ms for pair in pairs))
    if len(pairs) >= FEWEST_PER_REQUEST and max(pair.batch for pair in pairs) > LEAST_SPREAD * min(pair.batch for pair in pairs):
        # the decode law with offline time in the place of KV tokens: the same three columns, the same robust fit
        law, _ = fit_itl([pair.batch for pair in pairs], [pair.offline_ms for pair in pairs], [pair.measured_ms for pair in pairs])
        if law.c2_ms > 0:
            return Correction(law.c2_ms, law.c0_ms, law.c1_ms)
    return _line(pairs)


def _line(pairs: Sequence[Pair]) -> Correction:
    """Of the lines through two of the points, or through one and the origin, that with the least sum of errors, which no outlier pulls away; then
    least squares among the points near it."""
    lines = [Correction(pair.measured_ms / pair.offline_ms) for pair in pairs]
    lines += [line for one, other in combinations(pairs, 2) if (line := _through(one, other)) is not None]
    start = min(lines, key=lambda line: sum(_error(line, pair) for pair in pairs))
    errors = [_error(start, pair) for pair in pairs]
    limit = max(_OUTLIER_SIGMAS * robust_sigma(errors), _ROUNDING)
    return _least_squares([pair for pair, error in zip(pairs, errors, strict=True) if error <= limit])


def _through(one: Pair, other: Pair) -> Correction | None:
    if one.offline_ms == other.offline_ms:
        return None
    factor = (other.measured_ms - one.measured_ms) / (other.offline_ms - one.offline_ms)
    extra_ms = one.measured_ms - factor * one.offline_ms
    return Correction(factor, extra_ms) if factor > 0 and extra_ms >= 0 else None


def _error(line: Correction, pair: Pair) -> float:
    return abs(math.log(line(pair.offline_ms) / pair.measured_ms))  # half and double are equally wrong


def _least_squares(pairs: Sequence[Pair]) -> Correction:
    """The least sum of squared relative errors with both coefficients >= 0; where the addition would be negative it is 0."""
    columns = np.array([(pair.offline_ms / pair.measured_ms, 1 / pair.measured_ms) for pair in pairs])
    factor, extra_ms = np.linalg.lstsq(columns, np.ones(len(columns)), rcond=None)[0].tolist()
    if factor > 0 and extra_ms >= 0:
        return Correction(factor, extra_ms)
    shares = columns[:, 0]
    return Correction(float(shares.sum() / (shares @ shares)))


def _pairs(
    offline: Sequence[Measurement], measured: Sequence[Measurement], paired: Callable[[Measurement, Measurement], list[Pair]]
) -> dict[ParallelMapping, list[Pair]]:
    """Per mapping that both have: its clean measured points with the offline value at their shape."""
    predicted = {measurement.mapping: measurement for measurement in offline}
    both = ((predicted[measurement.mapping], measurement) for measurement in measured if measurement.mapping in predicted)
    return {measurement.mapping: paired(prediction, measurement) for prediction, measurement in both}


def _corrections(offline: Sequence[Measurement], pairs: dict[ParallelMapping, list[Pair]]) -> dict[ParallelMapping, Correction]:
    pooled = fit_correction([pair for own in pairs.values() for pair in own])
    return {measurement.mapping: _correction(pairs.get(measurement.mapping, []), pooled) for measurement in offline}


def _correction(own: Sequence[Pair], pooled: Correction) -> Correction:
    if len(own) >= _FEWEST_OWN:
        return fit_correction(own)
    ratio = median(pair.measured_ms / pooled(pair.offline_ms, pair.batch) for pair in own) if own else 1.0
    return Correction(ratio * pooled.factor, ratio * pooled.extra_ms, ratio * pooled.per_request_ms)


def _note(mapping: ParallelMapping, pairs: dict[ParallelMapping, list[Pair]]) -> str:
    if pairs.get(mapping):
        return CORRECTED
    return CORRECTED_BY_OTHERS if any(pairs.values()) else ""


def _prefill_pairs(offline: PrefillMeasurement, measured: PrefillMeasurement) -> list[Pair]:
    ttft_ms = _ttft(offline)
    return [Pair(ttft_ms(point.isl_tokens), point.ttft_ms) for point in measured.points if not point.flags] if ttft_ms else []


def _decode_pairs(offline: DecodeMeasurement, measured: DecodeMeasurement) -> list[Pair]:
    itl_ms = _itl(offline)
    clean = [(measured.batch(point), point) for point in measured.points if not point.flags]
    return [Pair(itl_ms(batch, point.context_tokens), point.itl_ms, batch) for batch, point in clean] if itl_ms else []


def _ttft(offline: PrefillMeasurement) -> Callable[[float], float] | None:
    """TTFT over ISL: the fitted law times its own error, interpolated, so that every point is met and the law goes on outside."""
    clean = sorted((point.isl_tokens, point.ttft_ms) for point in offline.points if not point.flags)
    if not clean:
        return None
    isl, ttft_ms = zip(*clean, strict=True)
    law, _ = fit_prefill(isl, ttft_ms)
    errors = [value / law.ttft_ms(at) for at, value in clean]
    return lambda asked: law.ttft_ms(asked) * float(np.interp(math.log(asked), np.log(isl), errors))


def _itl(offline: DecodeMeasurement) -> Callable[[float, float], float] | None:
    """ITL over batch and context, in the same way: errors over the batch within a context, then between the contexts on both sides."""
    clean = sorted((point.context_tokens, offline.batch(point), point.itl_ms) for point in offline.points if not point.flags)
    if not clean:
        return None
    law, _ = fit_itl([batch for _, batch, _ in clean], [batch * context for context, batch, _ in clean], [itl for _, _, itl in clean])
    contexts: list[float] = []  # logarithms, one per row
    rows: list[tuple[list[float], list[float]]] = []  # logarithms of the batches, errors
    for context, row in groupby(clean, lambda point: point[0]):
        contexts.append(math.log(context))
        found = [(math.log(batch), value / law.itl_ms(batch, batch * context)) for _, batch, value in row]
        rows.append(([at for at, _ in found], [error for _, error in found]))

    def itl_ms(batch: float, context_tokens: float) -> float:
        errors = [float(np.interp(math.log(batch), batches, of_row)) for batches, of_row in rows]
        return law.itl_ms(batch, batch * context_tokens) * float(np.interp(math.log(context_tokens), contexts, errors))

    return itl_ms


def _capacity_ratio(offline: Sequence[DecodeMeasurement], measured: Sequence[DecodeMeasurement]) -> float:
    predicted = {measurement.mapping: measurement.max_kv_tokens for measurement in offline}
    return median([m.max_kv_tokens / predicted[m.mapping] for m in measured if m.mapping in predicted] or [1.0])


def _resized(offline: DecodeMeasurement, measured: DecodeMeasurement | None, ratio: float) -> DecodeMeasurement:
    """The same batches in a KV cache as large as was measured, less those that no longer fit."""
    tokens = measured.max_kv_tokens if measured else round(offline.max_kv_tokens * ratio)
    usage = [(point, point.kv_usage * (offline.max_kv_tokens / tokens)) for point in offline.points]
    return replace(offline, points=tuple(replace(point, kv_usage=used) for point, used in usage if used <= 1), max_kv_tokens=tokens)


def _prefill(offline: PrefillMeasurement, measured: PrefillMeasurement | None, correction: Correction, note: str) -> PrefillMeasurement:
    if measured is not None and _alone(FEWEST_ALONE_PREFILL, [p.isl_tokens for p in measured.points if not p.flags]):
        return measured
    kept = measured.points if measured else ()
    points = list(kept)
    for point in offline.points:
        if not any(_near(point.isl_tokens, other.isl_tokens) for other in kept):
            points.append(_slower_prefill(point, correction(point.ttft_ms), note))
    batched = measured.batched if measured else offline.batched
    return replace(offline, points=tuple(sorted(points, key=lambda point: point.isl_tokens)), batched=batched)


def _decode(offline: DecodeMeasurement, measured: DecodeMeasurement | None, correction: Correction, note: str) -> DecodeMeasurement:
    clean = [point for point in measured.points if not point.flags] if measured else []
    if measured and _alone(FEWEST_ALONE_DECODE, [point.context_tokens for point in clean], [measured.batch(point) for point in clean]):
        return measured
    kept = [(point.context_tokens, measured.batch(point)) for point in measured.points] if measured else []
    points = list(measured.points) if measured else []
    for point in offline.points:
        if not any(_near(point.context_tokens, context) and _near(offline.batch(point), batch) for context, batch in kept):
            points.append(_slower_decode(point, correction(point.itl_ms, offline.batch(point)), note))
    return replace(offline, points=tuple(sorted(points, key=lambda point: (point.context_tokens, point.kv_usage))))


def _alone(fewest: int, lengths: Sequence[float], batches: Sequence[float] | None = None) -> bool:
    """Whether points of these prompt lengths or contexts, and batches, are enough for a law of their own."""
    spread = len(lengths) >= fewest and max(lengths) >= LENGTHS_SPREAD * min(lengths)
    return spread and (batches is None or max(batches) >= BATCH_SPREAD * min(batches))


def _slower_prefill(point: PrefillPoint, ttft_ms: float, note: str) -> PrefillPoint:
    return replace(point, ttft_ms=ttft_ms, throughput_per_gpu=point.throughput_per_gpu * (point.ttft_ms / ttft_ms), note=note)


def _slower_decode(point: DecodePoint, itl_ms: float, note: str) -> DecodePoint:
    return replace(point, itl_ms=itl_ms, throughput_per_gpu=point.throughput_per_gpu * (point.itl_ms / itl_ms), note=note)


def _near(one: float, other: float) -> bool:
    return max(one, other) <= NEAR * min(one, other)
