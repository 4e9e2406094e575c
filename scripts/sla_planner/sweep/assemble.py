"""From measured points to a profile, and to the candidates of which a mapping is picked.

    prefill   ttft = median of the point's requests           throughput/GPU = dp * isl / ttft * 1000 / gpus          (Dynamo's formula)
              several at once: ttft = mean, throughput/GPU = prompt tokens answered / time / gpus                       (measured)
    decode    itl = mean over the streams of the window       throughput/GPU = tokens in the window / window / gpus
              kv_usage = batch * mean context / max_kv_tokens

A candidate's latency is that of its requests at the promised percentile, nearest rank: a point keeps a promise of 99 % when 99 % of its requests do.
Only points that no gate flagged and no measurer doubted are candidates. Of an offline profile, which has no requests, the laws are asked instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from sla_planner.errors import EngineError, ProfileError
from sla_planner.model.fitted import FittedDecode, FittedPrefill
from sla_planner.model.gates import judged_decode, judged_prefill
from sla_planner.model.profile import (
    BatchedPrefillPoint,
    DecodeMeasurement,
    DecodePoint,
    Flag,
    PrefillMeasurement,
    PrefillPoint,
    Profile,
    Provenance,
)
from sla_planner.model.selection import Candidate, choose
from sla_planner.sweep.points import DecodeSeen, DecodeShape, Point, PrefillShape
from sla_planner.sweep.port import Phase
from sla_planner.sweep.result import Goal
from sla_planner.sweep.runner import MappingRun

AGAIN = "points/ has their requests; when the cause is gone, --force-rerun measures them again"


@dataclass(frozen=True, slots=True)
class Assembled:
    """`profile`: the best mappings selected, the nearest to the promise where none keeps it. Candidates are of its mappings alone."""

    profile: Profile
    prefill: tuple[Candidate, ...]
    decode: tuple[Candidate, ...]


def prefill_measurement(run: MappingRun) -> PrefillMeasurement:
    """The curve of one mapping, gated; points without an answer are not in it."""
    mapping = run.deployment.mapping
    alone, queued = [], []
    for point in run.points:
        if point.prefill is None or not isinstance(point.shape, PrefillShape):
            continue
        seen, flags, note = point.prefill, _reported(point), "; ".join(point.defects)
        throughput = point.throughput_per_gpu
        if point.shape.concurrency == 1:
            alone.append(PrefillPoint(seen.isl_tokens, seen.typical_ms, throughput, flags, note))
        else:
            queued.append(BatchedPrefillPoint(seen.isl_tokens, point.shape.concurrency, seen.mean_ms, throughput, flags, note))
    alone.sort(key=lambda point: point.isl_tokens)
    queued.sort(key=lambda point: (point.isl_tokens, point.concurrency))
    return judged_prefill(PrefillMeasurement(mapping, tuple(alone), tuple(queued)))


def decode_measurement(run: MappingRun) -> DecodeMeasurement:
    """The surface of one mapping, gated; points without an answer are not in it."""
    mapping, capacity = run.deployment.mapping, run.facts.max_kv_tokens
    points = [
        DecodePoint(
            kv_usage=_kv_usage(point.shape.batch, point.decode, capacity),
            context_tokens=point.decode.context_tokens,
            itl_ms=point.decode.mean_ms,
            throughput_per_gpu=point.throughput_per_gpu,
            flags=_reported(point),
            note="; ".join(point.defects),
        )
        for point in run.points
        if point.decode is not None and isinstance(point.shape, DecodeShape)
    ]
    points.sort(key=lambda point: (point.context_tokens, point.kv_usage))
    return judged_decode(DecodeMeasurement(mapping, tuple(points), capacity))


def prefill_candidates(runs: Sequence[MappingRun], goal: Goal) -> list[Candidate]:
    """Of every mapping that was measured for prefill: its trusted points with the goal's prompt."""
    candidates = []
    for run in runs:
        measurement = prefill_measurement(run)
        trusted = {(1, point.isl_tokens, point.throughput_per_gpu) for point in measurement.points if not point.flags}
        trusted |= {(point.concurrency, point.isl_tokens, point.throughput_per_gpu) for point in measurement.batched if not point.flags}
        for point in run.points:
            shape, seen = point.shape, point.prefill
            if seen is None or not isinstance(shape, PrefillShape) or shape.isl_tokens != goal.isl_tokens:
                continue
            if (shape.concurrency, seen.isl_tokens, point.throughput_per_gpu) in trusted:
                at = f"ISL {shape.isl_tokens}" + (f", {shape.concurrency} at once" if shape.concurrency > 1 else "")
                latency_ms = _percentile(seen.ttft_ms, goal)
                candidates.append(Candidate(run.deployment.mapping, latency_ms, seen.typical_ms, point.throughput_per_gpu, at, shape.concurrency))
    return candidates


def decode_candidates(runs: Sequence[MappingRun], goal: Goal) -> list[Candidate]:
    """Of every mapping that was measured for decode: its trusted points at the goal's context."""
    candidates = []
    for run in runs:
        mapping = run.deployment.mapping
        trusted = {(point.context_tokens, point.itl_ms) for point in decode_measurement(run).points if not point.flags}
        for point in run.points:
            shape, seen = point.shape, point.decode
            if seen is None or not isinstance(shape, DecodeShape) or shape.isl_tokens != goal.isl_tokens:
                continue
            if (seen.context_tokens, seen.mean_ms) in trusted:
                at = f"batch {shape.batch}, context {seen.context_tokens:.0f}"
                candidates.append(Candidate(mapping, _percentile(seen.itl_ms, goal), median(seen.itl_ms), point.throughput_per_gpu, at, shape.batch))
    return candidates


def assembled(runs: Sequence[MappingRun], goal: Goal, provenance: Provenance) -> Assembled:
    """All mappings that can be fitted, and what there is to pick from among them.

    Raises `EngineError` when no mapping of a phase has enough trusted points, with what its points suffer from.
    """
    curves = [(run, prefill_measurement(run)) for run in runs if run.deployment.phase is not Phase.DECODE]
    surfaces = [(run, decode_measurement(run)) for run in runs if run.deployment.phase is not Phase.PREFILL]
    prefill = [(run, curve) for run, curve in curves if _fits(FittedPrefill, curve)]
    decode = [(run, surface) for run, surface in surfaces if _fits(FittedDecode, surface)]
    for phase, usable in ((Phase.PREFILL, prefill), (Phase.DECODE, decode)):
        if not usable:
            raise EngineError(f"no mapping has enough trusted {phase} points to be profiled: {_complaint(runs, phase)}", hint=AGAIN)
    of_prefill, of_decode = prefill_candidates([run for run, _ in prefill], goal), decode_candidates([run for run, _ in decode], goal)
    for phase, found in ((Phase.PREFILL, of_prefill), (Phase.DECODE, of_decode)):
        if not found:
            raise EngineError(f"no mapping has a trusted {phase} point at ISL {goal.isl_tokens}: {_complaint(runs, phase)}", hint=AGAIN)
    profile = Profile(
        prefill=tuple(curve for _, curve in prefill),
        decode=tuple(surface for _, surface in decode),
        selected_prefill=choose(of_prefill, goal.promise.ttft_ms).nearest.mapping,
        selected_decode=choose(of_decode, goal.promise.itl_ms).nearest.mapping,
        provenance=provenance,
    )
    return Assembled(profile, tuple(of_prefill), tuple(of_decode))


def candidates_of(profile: Profile, goal: Goal) -> tuple[list[Candidate], list[Candidate]]:
    """Prefill and decode candidates from the laws of a profile, one per mapping: for a profile without requests of its own."""
    prefill = []
    for curve in profile.prefill:
        model = FittedPrefill(curve, curve.mapping.gpus)
        ttft_ms = model.ttft_ms(goal.isl_tokens)
        prefill.append(Candidate(curve.mapping, ttft_ms, ttft_ms, model.throughput_per_gpu(goal.isl_tokens), f"ISL {goal.isl_tokens}"))
    decode = []
    for surface in profile.decode:
        law = FittedDecode(surface, surface.mapping.gpus)
        best = law.best_throughput_per_gpu(goal.promise.itl_ms, goal.context_tokens)
        batch = max(math.floor(best.kv_usage * surface.max_kv_tokens / goal.context_tokens + 1e-6), 1)
        itl_ms = law.itl_ms(batch, goal.context_tokens)
        throughput = batch / itl_ms * 1000 / surface.mapping.gpus
        decode.append(Candidate(surface.mapping, itl_ms, itl_ms, throughput, f"batch {batch}, context {goal.context_tokens:.0f}", batch))
    return prefill, decode


def _kv_usage(batch: int, seen: DecodeSeen, capacity: int) -> float:
    """At most 1: a batch of which some waited holds no more than the cache."""
    return min(batch * seen.context_tokens / capacity, 1.0)


def _reported(point: Point) -> tuple[Flag, ...]:
    return (Flag.REPORTED,) if point.defects else ()


def _percentile(values: Sequence[float], goal: Goal) -> float:
    return float(np.percentile(values, 100 * goal.promise.attainment, method="inverted_cdf"))


def _fits(model: type[FittedPrefill] | type[FittedDecode], measurement: PrefillMeasurement | DecodeMeasurement) -> bool:
    try:
        model(measurement, measurement.mapping.gpus)  # type: ignore[arg-type]
    except ProfileError:
        return False
    return True


def _complaint(runs: Sequence[MappingRun], phase: Phase) -> str:
    """What the last distrusted point of a phase suffers from."""
    kind = PrefillShape if phase is Phase.PREFILL else DecodeShape
    defects = [defect for run in runs for point in run.points if isinstance(point.shape, kind) for defect in point.defects]
    return defects[-1] if defects else "the points contradict each other"
