"""A sweep over TP1, TP2, TP4 and TP8, made up: the shipped sample's engine, sped up by more GPUs with a law, measured with noise, gated, picked.

Everything a sweep can leave behind is in it: a queued point, one that the measurer did not trust, one that failed, points found again, a mapping
left out, a verification that is off in one of its latencies.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from sla_planner.model.engine import Engine, ItlLaw, engine_of
from sla_planner.model.gates import apply_gates
from sla_planner.model.profile import (
    BatchedPrefillPoint,
    DecodeMeasurement,
    DecodePoint,
    Flag,
    ParallelMapping,
    PrefillMeasurement,
    PrefillPoint,
    Profile,
    Provenance,
)
from sla_planner.model.selection import Candidate, Choice, choose
from sla_planner.model.sla import Sla
from sla_planner.store.profile_files import read_profile, sample_profile_dir
from sla_planner.sweep.points import DecodeSeen, DecodeShape, EngineFacts, Point, PrefillSeen, PrefillShape
from sla_planner.sweep.result import Comparison, Cost, Goal, SweepResult, Verification
from sla_planner.traffic.prompt_form import PromptForm

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
MAX_SEQUENCES = 256
OSL = 150
CONTEXT_LIMIT = 16_384
REPEATS = 5
CLIENT_LATE = "the client was late by 8.1 ms"


class Law:
    """The engine at `mapping`. Sharding is not free: what is computed scales with an efficiency, every step pays for the exchange."""

    def __init__(self, base: Engine, mapping: ParallelMapping) -> None:
        doublings = math.log2(mapping.gpus)
        speed = mapping.gpus * 0.93**doublings
        c = base.itl_law
        self.itl = ItlLaw(c.c0_ms / speed**0.8 + 0.35 * doublings, c.c1_ms / speed**0.7, c.c2_ms / speed)
        self.max_kv_tokens = round(base.decode.max_kv_tokens * (1 + 1.15 * (mapping.gpus - 1)))
        self._base, self._speed, self._exchange_ms = base, speed, 1.8 * doublings

    def ttft_ms(self, isl: float) -> float:
        return 6.0 + (self._base.prefill.ttft_ms(isl) - 6.0) / self._speed + self._exchange_ms


class Bench:
    """Measures the law with noise, the same at every call."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.points: list[Point] = []

    def prefill(self, mapping: ParallelMapping, law: Law, isl: int, concurrency: int = 1) -> PrefillPoint | BatchedPrefillPoint:
        # In flight without a pause, each prompt waits for the others; together they take a tenth less than one after the other.
        mean = law.ttft_ms(isl) * (0.9 * concurrency if concurrency > 1 else 1.0)
        ttft = tuple(mean * (1 + abs(self.random.gauss(0, 0.02))) for _ in range(REPEATS * concurrency))
        wall_s = sum(ttft) / concurrency / 1000
        self._seen(Point(mapping, PrefillShape(isl, concurrency), prefill=PrefillSeen(isl, ttft, wall_s), took_s=wall_s + 1))
        typical = sorted(ttft)[len(ttft) // 2]
        if concurrency == 1:
            return PrefillPoint(isl, typical, mapping.dp * isl / typical * 1000 / mapping.gpus)
        return BatchedPrefillPoint(isl, concurrency, typical, isl * len(ttft) / wall_s / mapping.gpus)

    def decode(self, mapping: ParallelMapping, law: Law, isl: int, batch: int, defect: str = "") -> DecodePoint:
        context = isl + OSL / 2 + 40 * self.random.random()  # as far as the streams are when the window is half over
        running = min(batch, MAX_SEQUENCES)
        mean = law.itl.itl_ms(running, running * context) * (1 + self.random.gauss(0, 0.012)) * (1.18 if defect else 1.0)
        itl = tuple(mean * (1 + self.random.gauss(0, 0.015)) for _ in range(running))
        tokens = running * 2000 / mean
        self._seen(
            Point(
                mapping, DecodeShape(isl, batch), decode=DecodeSeen(running, context, itl, tokens, 2.0), defects=(defect,) if defect else (), took_s=9
            )
        )
        flags, note = ((Flag.REPORTED,), defect) if defect else ((), "")
        return DecodePoint(batch * context / law.max_kv_tokens, context, mean, tokens / 2.0 / mapping.gpus, flags, note)

    def failed(self, point: Point) -> None:
        self._seen(point)

    def _seen(self, point: Point) -> None:
        self.points.append(point)


def batches(most: int, count: int) -> list[int]:
    """1 to `most`, evenly over the logarithm."""
    return sorted({round(most ** (step / (count - 1))) for step in range(count)}) if most > 1 else [1]


def example(
    *,
    ttft_ms: float = 50.0,
    itl_ms: float = 8.0,
    isl: int = 3000,
    mappings: Sequence[ParallelMapping] = tuple(ParallelMapping(tp=n) for n in (1, 2, 4, 8)),
    contexts: Sequence[int] = (200, 3000, 6000, 9000, 12000, 15800),
    max_sequences: int = MAX_SEQUENCES,
    verified: bool = True,
    raw: bool = True,
) -> SweepResult:
    """The sweep's result for a promise to 99 % of requests of `isl` in and 150 out. `raw=False`: an offline profile, nothing was measured."""
    base = engine_of(read_profile(sample_profile_dir()))
    bench = Bench(seed=7)
    goal = Goal(Sla(ttft_ms, itl_ms, 0.99), isl, OSL)
    laws = {mapping: Law(base, mapping) for mapping in mappings}
    prefill, prefill_candidates = _prefill_sweep(bench, laws, goal)
    decode, decode_candidates = _decode_sweep(bench, laws, goal, max_sequences)
    prefill_choice, decode_choice = choose(prefill_candidates, ttft_ms), choose(decode_candidates, itl_ms)
    prefill_pick, decode_pick = prefill_choice.nearest.mapping, decode_choice.nearest.mapping
    prefill[prefill_pick] = _prefill_curve(bench, laws[prefill_pick], prefill[prefill_pick], goal)
    decode[decode_pick] = _decode_surface(bench, laws[decode_pick], decode[decode_pick], contexts, max_sequences)
    last = tuple(laws)[-1]
    bench.failed(Point(last, DecodeShape(isl, 1024), defects=("3 of 1024 requests ended with HTTP 500",), took_s=4))
    profile = apply_gates(
        Profile(
            prefill=tuple(prefill.values()),
            decode=tuple(decode.values()),
            selected_prefill=prefill_pick,
            selected_decode=decode_pick,
            provenance=Provenance("measured" if raw else "offline", MODEL, "vllm", "NVIDIA H200", "vllm/vllm-openai:v0.32", "2026-11-20T09:12:00Z"),
        )
    )
    return SweepResult(
        may_grow=True,
        goal=goal,
        profile=profile,
        prefill=prefill_choice,
        decode=decode_choice,
        prefill_candidates=tuple(prefill_candidates),
        decode_candidates=tuple(decode_candidates),
        points=tuple(bench.points) if raw else (),
        facts={mapping: _facts(law) for mapping, law in laws.items()} if raw else {},
        cost=Cost(2292.0, 4.37, len(laws), len(bench.points) - 12, 12) if raw else Cost(3.1, 0.0, 0, 0, 0),
        left_out=(("TP16", "needs 16 GPUs, one engine may have 8"), ("TP3", "32 attention heads are not divisible by 3")),
        verification=_verification(prefill_choice, decode_choice) if verified else None,
        warnings=("the KV cache of TP8 was measured up to 31 %: the engine runs at most 256 requests at once",),
    )


def _prefill_sweep(bench: Bench, laws: dict[ParallelMapping, Law], goal: Goal) -> tuple[dict[ParallelMapping, PrefillMeasurement], list[Candidate]]:
    measured, candidates = {}, []
    for mapping, law in laws.items():
        isl = goal.isl_tokens
        point = bench.prefill(mapping, law, isl)
        batched = tuple(bench.prefill(mapping, law, isl, concurrency) for concurrency in (2, 4))
        measured[mapping] = PrefillMeasurement(mapping, (point,), batched)
        for one, at_once in ((point, 1), *((b, b.concurrency) for b in batched)):
            at = f"ISL {isl}" + (f", {at_once} at once" if at_once > 1 else "")
            candidates.append(Candidate(mapping, one.ttft_ms * 1.03, one.ttft_ms, one.throughput_per_gpu, at, at_once))
    return measured, candidates


def _decode_sweep(
    bench: Bench, laws: dict[ParallelMapping, Law], goal: Goal, max_sequences: int
) -> tuple[dict[ParallelMapping, DecodeMeasurement], list[Candidate]]:
    measured, candidates = {}, []
    for mapping, law in laws.items():
        most = min(max_sequences, int(law.max_kv_tokens // (goal.isl_tokens + OSL)))
        points = []
        for batch in batches(most, 7):
            point = bench.decode(mapping, law, goal.isl_tokens, batch)
            points.append(point)
            at = f"batch {batch}, context {point.context_tokens:.0f}"
            candidates.append(Candidate(mapping, point.itl_ms * 1.03, point.itl_ms, point.throughput_per_gpu, at, batch))
        measured[mapping] = DecodeMeasurement(mapping, tuple(points), law.max_kv_tokens)
    return measured, candidates


def _prefill_curve(bench: Bench, law: Law, measured: PrefillMeasurement, goal: Goal) -> PrefillMeasurement:
    lengths = [128 + round((CONTEXT_LIMIT - 512 - 128) * step / 13) for step in range(14)]
    points = [bench.prefill(measured.mapping, law, isl) for isl in lengths if isl != goal.isl_tokens]
    slow = points[8]  # something else ran on the machine
    points[8] = PrefillPoint(slow.isl_tokens, slow.ttft_ms * 1.5, slow.throughput_per_gpu / 1.5)
    return PrefillMeasurement(measured.mapping, tuple(sorted([*measured.points, *points], key=lambda p: p.isl_tokens)), measured.batched)


def _decode_surface(bench: Bench, law: Law, measured: DecodeMeasurement, contexts: Sequence[int], max_sequences: int) -> DecodeMeasurement:
    there = {(point.context_tokens, measured.batch(point)) for point in measured.points}
    points = list(measured.points)
    for isl in contexts:
        most = int(law.max_kv_tokens // (isl + OSL))
        counts = batches(min(most, max_sequences), 6) + ([min(most, 2 * max_sequences)] if isl == contexts[0] and most > max_sequences else [])
        for batch in counts:
            defect = CLIENT_LATE if (isl, batch) == (contexts[-1], counts[-2]) else ""
            if not any(round(known) == batch and abs(context - isl - OSL / 2) < 50 for context, known in there):
                points.append(bench.decode(measured.mapping, law, isl, batch, defect))
    ordered = tuple(sorted(points, key=lambda p: (p.context_tokens, p.kv_usage)))
    return DecodeMeasurement(measured.mapping, ordered, measured.max_kv_tokens)


def _facts(law: Law) -> EngineFacts:
    return EngineFacts(MODEL, law.max_kv_tokens, "the engine's log: `GPU KV cache size`", MAX_SEQUENCES, PromptForm.IDS, 1.0, 74.0)


def _verification(prefill: Choice, decode: Choice) -> Verification:
    ttft, itl = prefill.nearest.typical_ms, decode.nearest.typical_ms
    compared = (
        Comparison("TTFT of one request", ttft, ttft * 1.06),
        Comparison("ITL of one request", itl * 0.6, itl * 0.585),
        Comparison("TTFT at 24 in flight", ttft * 1.4, ttft * 1.72),
        Comparison("ITL at 24 in flight", itl, itl * 1.11),
    )
    how = f"{prefill.nearest.mapping.label} prefill and {decode.nearest.mapping.label} decode behind one frontend, 24 requests in flight"
    warning = "TTFT at 24 in flight is 23 % slower than the profile says: transfer of the KV cache is not in the profile"
    return Verification(how, 400, 389, 1, compared, (warning,))
