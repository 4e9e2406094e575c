"""What is measured: shapes, and what came of them.

A *shape* is what is asked of an engine; a *point* is a shape with everything that was seen while it was measured, kept request by request so that any
percentile can be taken later. A point that the measurer does not trust carries `defects`, one sentence each; it is kept, shown, and left out of fits.

    prefill   `concurrency` prompts of `isl_tokens` at once, one output token: TTFT of each
    decode    `batch` requests of `isl_tokens` held in flight: the gap between tokens of each, over a window in which all of them run
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, median

from sla_planner.model.profile import ParallelMapping
from sla_planner.traffic.prompt_form import PromptForm


@dataclass(frozen=True, slots=True)
class PrefillShape:
    isl_tokens: int
    concurrency: int = 1

    @property
    def label(self) -> str:
        return f"prefill ISL {self.isl_tokens}" + (f" x{self.concurrency}" if self.concurrency > 1 else "")


@dataclass(frozen=True, slots=True)
class DecodeShape:
    isl_tokens: int
    batch: int

    @property
    def label(self) -> str:
        return f"decode ISL {self.isl_tokens} batch {self.batch}"


Shape = PrefillShape | DecodeShape


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What was learnt of an engine once, before its points: kept beside them, so that a resumed sweep plans the same points."""

    model: str
    max_kv_tokens: int
    kv_source: str
    max_sequences: int | None
    prompt_form: PromptForm
    tokens_per_event: float  # of a stream: servers merge tokens into one event
    start_s: float  # from launch to ready


@dataclass(frozen=True, slots=True)
class PrefillSeen:
    """`isl_tokens`: as the server counted them, mean. `ttft_ms`: one per whole answer. `wall_s`: from the first request to the last answer."""

    isl_tokens: float
    ttft_ms: tuple[float, ...]
    wall_s: float
    client_lag_ms: float = 0.0

    @property
    def typical_ms(self) -> float:
        return median(self.ttft_ms)

    @property
    def mean_ms(self) -> float:
        return fmean(self.ttft_ms)


@dataclass(frozen=True, slots=True)
class DecodeSeen:
    """One window. `running`: streams that made progress; `context_tokens`: prompt and tokens so far, mean of the running streams at the middle of
    the window; `itl_ms`: one mean gap per stream; `tokens`: of all streams within `window_s`."""

    running: int
    context_tokens: float
    itl_ms: tuple[float, ...]
    tokens: float
    window_s: float
    client_lag_ms: float = 0.0

    @property
    def mean_ms(self) -> float:
        return fmean(self.itl_ms)

    def little_ratio(self, batch: int) -> float:
        """Throughput * ITL / batch: 1 when all of `batch` ran all the time."""
        return self.tokens / self.window_s * self.mean_ms / 1000 / batch


@dataclass(frozen=True, slots=True)
class Point:
    """`took_s`: what measuring it cost. Exactly one of `prefill`, `decode` is set, or none when it failed (`defects` says how)."""

    mapping: ParallelMapping
    shape: Shape
    prefill: PrefillSeen | None = None
    decode: DecodeSeen | None = None
    defects: tuple[str, ...] = ()
    measured_at: str = ""  # ISO 8601
    took_s: float = 0.0

    @property
    def throughput_per_gpu(self) -> float:
        """Tokens/s/GPU of a point that was answered: one prompt alone by Dynamo's formula, dp * isl / ttft / gpus; all others as measured."""
        if self.decode is not None:
            return self.decode.tokens / self.decode.window_s / self.mapping.gpus
        assert self.prefill is not None
        seen, queued = self.prefill, isinstance(self.shape, PrefillShape) and self.shape.concurrency > 1
        if queued:
            return len(seen.ttft_ms) * seen.isl_tokens / seen.wall_s / self.mapping.gpus
        return self.mapping.dp * seen.isl_tokens / seen.typical_ms * 1000 / self.mapping.gpus
