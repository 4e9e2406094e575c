"""A profile: what was measured of an engine, point by point, with where it came from and how far each point is trusted.

A *prefill point* is one prompt length: TTFT (ms) of a prompt of `isl_tokens` on an otherwise idle engine, and prefill throughput (tokens/s/GPU).
A *decode point* is one operating point of the decode surface: ITL (ms) and throughput (tokens/s/GPU) when the running batch uses `kv_usage` (0..1)
of the KV cache at a mean context of `context_tokens` (ISL + OSL/2). The batch size of a decode point is not stored; it follows:

    batch = kv_usage * max_kv_tokens / context_tokens

Keys, units and formulas are those of Dynamo's profiler results (`raw_data.npz`), so either planner reads either file.
A point that a quality gate flagged stays in the profile and is shown, but no fit and no default interpolation uses it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class Flag(StrEnum):
    """Why a point is not trusted. The values are stored in `profile.json`."""

    LITTLE = "little"  # throughput * ITL / batch outside [0.95, 1.05]: requests were queueing, the batch was not the running batch
    NOT_MONOTONE = "not-monotone"  # TTFT falls with ISL, or ITL with batch, by more than the measurement spread
    OUTLIER = "outlier"  # residual of the robust fit beyond its threshold
    REPORTED = "reported"  # flagged by whoever measured it (client limit, errors, wrong token count ...)


@dataclass(frozen=True, slots=True)
class ParallelMapping:
    """How one engine is spread over GPUs. `gpus` is the number of GPUs of one engine (one worker)."""

    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1

    @property
    def gpus(self) -> int:
        return self.tp * self.pp * self.dp

    @property
    def label(self) -> str:
        """`TP4`; with experts over all GPUs `TEP8` (attention sharded) or `DEP8` (attention copied); else what is not 1: `TP4-PP2`."""
        if self.ep == self.gpus > 1 and self.pp == 1 and 1 in (self.tp, self.dp):
            return f"{'TEP' if self.dp == 1 else 'DEP'}{self.ep}"
        extra = [f"{name}{size}" for name, size in (("PP", self.pp), ("DP", self.dp), ("EP", self.ep)) if size != 1]
        return "-".join([f"TP{self.tp}", *extra])


@dataclass(frozen=True, slots=True)
class PrefillPoint:
    isl_tokens: float
    ttft_ms: float
    throughput_per_gpu: float
    flags: tuple[Flag, ...] = ()
    note: str = ""  # what the measurer said of it


@dataclass(frozen=True, slots=True)
class BatchedPrefillPoint:
    """`concurrency` prompts kept in flight: what waiting for each other costs. `throughput_per_gpu` is measured here, not derived from TTFT."""

    isl_tokens: float
    concurrency: int
    ttft_ms: float
    throughput_per_gpu: float
    flags: tuple[Flag, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class DecodePoint:
    kv_usage: float
    context_tokens: float
    itl_ms: float
    throughput_per_gpu: float
    flags: tuple[Flag, ...] = ()
    note: str = ""  # what the measurer said of it


@dataclass(frozen=True, slots=True)
class PrefillMeasurement:
    """The prefill curve of one mapping; points sorted by ISL (`validation.checked` sorts). `batched` is shown and judged, never fitted."""

    mapping: ParallelMapping
    points: tuple[PrefillPoint, ...]
    batched: tuple[BatchedPrefillPoint, ...] = ()


@dataclass(frozen=True, slots=True)
class DecodeMeasurement:
    """The decode surface of one mapping; points sorted by context, then KV usage. `max_kv_tokens` is the KV capacity of one engine."""

    mapping: ParallelMapping
    points: tuple[DecodePoint, ...]
    max_kv_tokens: int

    def batch(self, point: DecodePoint) -> float:
        """Running requests at `point`."""
        return point.kv_usage * self.max_kv_tokens / point.context_tokens


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a profile came from. Every field may be empty when the source does not say."""

    source: str = ""  # "measured", "offline", "offline, calibrated with 6 measured points", or the format it was read from
    model: str = ""
    engine: str = ""
    gpu: str = ""
    image: str = ""
    measured_at: str = ""  # ISO 8601


@dataclass(frozen=True, slots=True)
class Profile:
    """Everything measured of one model on one kind of GPU. `selected_*` are the mappings that a sweep picked."""

    prefill: tuple[PrefillMeasurement, ...]
    decode: tuple[DecodeMeasurement, ...]
    selected_prefill: ParallelMapping
    selected_decode: ParallelMapping
    provenance: Provenance = Provenance()

    @property
    def picked_prefill(self) -> PrefillMeasurement:
        return next(m for m in self.prefill if m.mapping == self.selected_prefill)

    @property
    def picked_decode(self) -> DecodeMeasurement:
        return next(m for m in self.decode if m.mapping == self.selected_decode)


def slowed(profile: Profile, factor: float) -> Profile:
    """The same engine `factor` times slower: latencies times `factor`, throughputs divided by it, KV capacity and flags as they were."""
    prefill = tuple(
        replace(
            m,
            points=tuple(replace(p, ttft_ms=p.ttft_ms * factor, throughput_per_gpu=p.throughput_per_gpu / factor) for p in m.points),
            batched=tuple(replace(p, ttft_ms=p.ttft_ms * factor, throughput_per_gpu=p.throughput_per_gpu / factor) for p in m.batched),
        )
        for m in profile.prefill
    )
    decode = tuple(
        replace(
            m,
            points=tuple(replace(p, itl_ms=p.itl_ms * factor, throughput_per_gpu=p.throughput_per_gpu / factor) for p in m.points),
        )
        for m in profile.decode
    )
    source = f"{profile.provenance.source}, slowed {factor:g} times".removeprefix(", ")
    return replace(profile, prefill=prefill, decode=decode, provenance=replace(profile.provenance, source=source))
