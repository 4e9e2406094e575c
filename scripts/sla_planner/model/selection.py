"""Which mapping: the most throughput per GPU among what keeps the promise.

    kept  = candidates whose latency, at the promised percentile, is within the promise
    best  = the highest throughput per GPU of `kept`; among those within TIE of it the fewest GPUs

Nothing is relaxed: when no candidate keeps the promise there is no pick, and `nearest` is the candidate with the lowest latency.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sla_planner.model.profile import ParallelMapping

TIE = 0.01  # of the throughput: less than a measurement repeats by


@dataclass(frozen=True, slots=True)
class Candidate:
    """One operating point of one mapping. `latency_ms`: TTFT or ITL at the promised percentile; `typical_ms`: of a typical request, the median where
    requests were seen."""

    mapping: ParallelMapping
    latency_ms: float
    typical_ms: float
    throughput_per_gpu: float  # tokens/s/GPU
    at: str = ""  # in words: `ISL 3000, 2 at once`, `batch 48 at context 3250`
    concurrency: float = 1.0  # prompts at once, or the batch


@dataclass(frozen=True, slots=True)
class Choice:
    """`picked` is None when nothing keeps the promise; `nearest` is then what comes closest, else the pick itself."""

    picked: Candidate | None
    nearest: Candidate


def choose(candidates: Sequence[Candidate], promised_ms: float) -> Choice:
    """The pick among `candidates` (at least one) for a latency of `promised_ms`."""
    kept = [candidate for candidate in candidates if candidate.latency_ms <= promised_ms]
    if not kept:
        return Choice(None, min(candidates, key=lambda candidate: (candidate.latency_ms, candidate.mapping.gpus)))
    most = max(candidate.throughput_per_gpu for candidate in kept)
    as_good = [candidate for candidate in kept if candidate.throughput_per_gpu >= (1 - TIE) * most]
    picked = min(as_good, key=lambda candidate: (candidate.mapping.gpus, -candidate.throughput_per_gpu))
    return Choice(picked, picked)
