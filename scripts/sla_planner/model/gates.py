"""Quality gates: which measured points describe the engine, and which describe an accident. Flags are added, never taken away.

LITTLE         decode. In a closed loop  throughput * ITL / batch = 1  (Little's law). Below 0.95 some of the batch was waiting, above 1.05 the
               numbers are not of one run; either way `batch` is not the running batch, and the recorded KV usage is wrong with it.
               Batched prefill, a closed loop without think time: tokens/s * TTFT = prompts in flight * ISL, within 10 %: its few prompts
               per point leave more at the edges of the measurement.
OUTLIER        the residual of the robust fit (laws.py) exceeds both 25 % and 5 sigma of all residuals (ITL: relative ones, TTFT: absolute
               ones). Judged among the points that pass the gate above, from five points on; not below 384 prompt tokens, where fixed costs
               that the law does not know decide the TTFT.
NOT_MONOTONE   TTFT must not fall by more than 10 % as ISL rises, nor ITL as the batch rises at one context (within 10 %). Of the points that pass
               the gates above, the most that agree with each other are kept; where that leaves a choice, those nearest to the fit.

Which points are flagged depends only on the measurements and on REPORTED flags, so applying the gates twice is the same as once. Dynamo's
shipped H200 profile has five such points: the engine's sequence limit read as an ITL plateau, and two waves that queued.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from sla_planner.model.laws import fit_itl, fit_prefill, robust_sigma
from sla_planner.model.profile import BatchedPrefillPoint, DecodeMeasurement, DecodePoint, Flag, PrefillMeasurement, PrefillPoint, Profile

LITTLE_RANGE = (0.95, 1.05)
BATCHED_LITTLE_RANGE = (0.9, 1.1)
OUTLIER_SHARE = 0.25
OUTLIER_SIGMAS = 5.0
MONOTONE_TOLERANCE = 0.10
SHORTEST_JUDGED_ISL = 384
SAME_CONTEXT = 1.1  # the longest context of a group over its shortest
_FEWEST_TO_JUDGE = 5  # three coefficients leave two residuals

Point = TypeVar("Point", PrefillPoint, BatchedPrefillPoint, DecodePoint)


def apply_gates(profile: Profile) -> Profile:
    """`profile` with every point of every mapping judged."""
    return replace(
        profile,
        prefill=tuple(judged_prefill(measurement) for measurement in profile.prefill),
        decode=tuple(judged_decode(measurement) for measurement in profile.decode),
    )


def judged_prefill(measurement: PrefillMeasurement) -> PrefillMeasurement:
    """`measurement` with flags set on the points that fail a gate."""
    points = measurement.points
    trusted = [index for index, point in enumerate(points) if Flag.REPORTED not in point.flags]
    residual = dict.fromkeys(trusted, 0.0)
    outliers: set[int] = set()
    if len(trusted) >= _FEWEST_TO_JUDGE:
        law, _ = fit_prefill([points[i].isl_tokens for i in trusted], [points[i].ttft_ms for i in trusted])
        residual = {i: abs(points[i].ttft_ms - law.ttft_ms(points[i].isl_tokens)) for i in trusted}
        limit = OUTLIER_SIGMAS * robust_sigma(list(residual.values()))
        judged = (i for i in trusted if points[i].isl_tokens >= SHORTEST_JUDGED_ISL)
        outliers = {i for i in judged if residual[i] > max(limit, OUTLIER_SHARE * law.ttft_ms(points[i].isl_tokens))}
    chain = [i for i in trusted if i not in outliers]
    falling = _falling([points[i].ttft_ms for i in chain], [residual[i] for i in chain])
    low, high = BATCHED_LITTLE_RANGE
    queued = {i for i, point in enumerate(measurement.batched) if not low <= batched_little_ratio(measurement, point) <= high}
    return replace(
        measurement,
        points=_flagged(points, {Flag.OUTLIER: outliers, Flag.NOT_MONOTONE: {chain[i] for i in falling}}),
        batched=_flagged(measurement.batched, {Flag.LITTLE: queued}),
    )


def judged_decode(measurement: DecodeMeasurement) -> DecodeMeasurement:
    """`measurement` with flags set on the points that fail a gate."""
    points = measurement.points
    little = {i for i, point in enumerate(points) if not LITTLE_RANGE[0] <= little_ratio(measurement, point) <= LITTLE_RANGE[1]}
    trusted = [i for i, point in enumerate(points) if i not in little and Flag.REPORTED not in point.flags]
    residual = dict.fromkeys(trusted, 0.0)
    outliers: set[int] = set()
    if len(trusted) >= _FEWEST_TO_JUDGE:
        batch = {i: measurement.batch(points[i]) for i in trusted}
        kv_tokens = {i: points[i].kv_usage * measurement.max_kv_tokens for i in trusted}
        law, _ = fit_itl(list(batch.values()), list(kv_tokens.values()), [points[i].itl_ms for i in trusted])
        residual = {i: abs(points[i].itl_ms / law.itl_ms(batch[i], kv_tokens[i]) - 1) for i in trusted}
        limit = max(OUTLIER_SIGMAS * robust_sigma(list(residual.values())), OUTLIER_SHARE)
        outliers = {i for i in trusted if residual[i] > limit}
    not_monotone: set[int] = set()
    for chain in _at_one_context(measurement, [i for i in trusted if i not in outliers]):
        falling = _falling([points[i].itl_ms for i in chain], [residual[i] for i in chain])
        not_monotone |= {chain[i] for i in falling}
    return replace(measurement, points=_flagged(points, {Flag.LITTLE: little, Flag.OUTLIER: outliers, Flag.NOT_MONOTONE: not_monotone}))


def _at_one_context(measurement: DecodeMeasurement, indices: Sequence[int]) -> list[list[int]]:
    """Groups of points of about one context, each by rising batch. Held requests grow while they are measured, so contexts drift a little."""
    groups: list[list[int]] = []
    for i in sorted(indices, key=lambda i: measurement.points[i].context_tokens):
        context = measurement.points[i].context_tokens
        if groups and context <= SAME_CONTEXT * measurement.points[groups[-1][0]].context_tokens:
            groups[-1].append(i)
        else:
            groups.append([i])
    return [sorted(group, key=lambda i: measurement.batch(measurement.points[i])) for group in groups]


def little_ratio(measurement: DecodeMeasurement, point: DecodePoint) -> float:
    """Requests that made progress at `point`, over the batch it claims: 1 when nothing queued."""
    return point.throughput_per_gpu * measurement.mapping.gpus * point.itl_ms / 1000 / measurement.batch(point)


def batched_little_ratio(measurement: PrefillMeasurement, point: BatchedPrefillPoint) -> float:
    """Prompts that were being answered at `point`, over the concurrency it claims: 1 in a closed loop without think time."""
    return point.throughput_per_gpu * measurement.mapping.gpus * point.ttft_ms / 1000 / (point.concurrency * point.isl_tokens)


def _falling(values: Sequence[float], residuals: Sequence[float]) -> set[int]:
    """Positions to leave out so that no value is more than the tolerance below the one before it.

    Longest chain by dynamic programming; the smallest sum of residuals decides between chains of one length.
    """
    best: list[tuple[int, float, int]] = []  # length, -residuals, position before: of the best chain that ends here
    for position, value in enumerate(values):
        length, quality, before = 0, 0.0, -1
        for earlier in range(position):
            if value >= (1 - MONOTONE_TOLERANCE) * values[earlier] and best[earlier][:2] > (length, quality):
                length, quality, before = *best[earlier][:2], earlier
        best.append((length + 1, quality - residuals[position], before))
    at = max(range(len(best)), key=lambda position: best[position][:2], default=-1)
    kept = set()
    while at >= 0:
        kept.add(at)
        at = best[at][2]
    return set(range(len(values))) - kept


def _flagged(points: Sequence[Point], found: dict[Flag, set[int]]) -> tuple[Point, ...]:
    """`points` with the flags found added, in the order of `Flag`."""
    return tuple(
        replace(point, flags=tuple(flag for flag in Flag if flag in point.flags or index in found.get(flag, ())))
        for index, point in enumerate(points)
    )
