"""How an engine batches: the laws that the simulated engine runs on a wall clock, a simulator on a virtual one, and the planner sizes with.

Prefill, one FCFS queue. An idle worker takes whole prompts from the head of the queue while their tokens sum to at most `max_batched_tokens`,
or one longer prompt alone; the batch is served in the time that one prompt of the summed length takes:

    service_ms(batch) = ttft_ms(sum of isl in batch)

Decode, per worker. Every running request gets one token per step; the step takes

    step_ms(batch, kv_tokens) = c0 + c1*batch + c2*kv_tokens

where kv_tokens is the KV held by the running batch (prompt + tokens generated so far). A request is admitted while its prompt and its output fit
the KV capacity and the batch is below `max_sequences`; an empty batch admits any request, or one too large would block the queue for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sla_planner.model.engine import Engine

MAX_BATCHED_TOKENS = 8192  # vLLM's default of max_num_batched_tokens for online serving
MAX_SEQUENCES = 1024  # vLLM's default of max_num_seqs on data-centre GPUs


@dataclass(frozen=True, slots=True)
class BatchingLaw:
    """The batching of one engine. Works for wall clock, virtual clock and closed forms alike."""

    engine: Engine
    max_batched_tokens: int = MAX_BATCHED_TOKENS
    max_sequences: int = MAX_SEQUENCES

    def take(self, waiting_isl: Sequence[int]) -> int:
        """How many prompts from the head of the queue the next prefill batch takes (0 only for an empty queue)."""
        total = 0
        for count, isl in enumerate(waiting_isl):
            total += isl
            if total > self.max_batched_tokens:
                return max(count, 1)
        return len(waiting_isl)

    def prefill_ms(self, isl_total: int) -> float:
        """Service time of a prefill batch of `isl_total` tokens."""
        return self.engine.prefill.ttft_ms(isl_total)

    def step_ms(self, batch: int, kv_tokens: float) -> float:
        """Time of one decode step."""
        return self.engine.itl_law.itl_ms(batch, kv_tokens)

    def admits(self, batch: int, kv_reserved_tokens: float, request_tokens: int) -> bool:
        """Whether a request of `request_tokens` (ISL + OSL) may join a batch that has reserved `kv_reserved_tokens`."""
        fits = kv_reserved_tokens + request_tokens <= self.engine.decode.max_kv_tokens
        return batch < self.max_sequences and (fits or batch == 0)
