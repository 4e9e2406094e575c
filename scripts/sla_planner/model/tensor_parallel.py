"""One GPU's profile over more GPUs: a law of tensor parallelism, for engines that are simulated and for tests. It measures nothing.

With n GPUs every matrix is cut n ways, so reading and multiplying take 1/n of their time. What a GPU does for itself takes as long as before, and
after every layer the GPUs exchange partial sums, which costs in proportion to the tokens and hardly depends on n:

    decode    c0(n) = c0 * (w/n + (1 - w)*(1 + g*log2 n))      w: reading the weights; 1 - w: launches and sampling; g: the steps of an all-reduce
              c1(n) = c1 / (n*e_d)                             e(n) = 1 / (1 + x*(n - 1)), Amdahl's law: a share x of a token's cost stays whatever n
              c2(n) = c2 / n                                   every GPU reads the KV of its own heads
    prefill   a(n) = a,   b(n) = b / (n*e_p),   c(n) = c / (n*e_p)
    KV        K(n) = n*K(1) + (n - 1)*W,   W = w*c0/c2         the weights are held once; W is the KV tokens that fit their place

W follows from the profile: memory is read at one speed, so reading the weights takes as long as reading the KV tokens of the same size. For Qwen3-32B
on H200 (AI Configurator 0.12.0: c0 18.2 ms, c2 5.46e-5 ms, w 0.75) this gives W = 250,000, and KV capacities within 0.4 % of its own up to TP8; its
step times suggest x = 0.2 in decode, its TTFTs x = 0.1 in prefill.

At the same batch or prompt, latency falls with n, and so does throughput per GPU, as nothing gets cheaper. At the same ITL more GPUs also mean larger
batches that share the fixed cost: a tight ITL may still want them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sla_planner.errors import ProfileError
from sla_planner.model.batching import MAX_SEQUENCES
from sla_planner.model.engine import ItlLaw
from sla_planner.model.fitted import FittedDecode, FittedPrefill
from sla_planner.model.laws import PrefillLaw
from sla_planner.model.profile import (
    DecodeMeasurement,
    DecodePoint,
    ParallelMapping,
    PrefillMeasurement,
    PrefillPoint,
    Profile,
)

PROMPT_LENGTHS, CONTEXTS, BATCHES = 24, 6, 8  # of the grid


@dataclass(frozen=True, slots=True)
class TensorParallelLaw:
    """The shares of the module's formulas: w, g, and x of decode and of prefill."""

    weights_share: float = 0.5
    all_reduce_growth: float = 0.1
    decode_exchange_share: float = 0.2
    prefill_exchange_share: float = 0.1

    def decode(self, one: ItlLaw, gpus: int) -> ItlLaw:
        own_share = (1 - self.weights_share) * (1 + self.all_reduce_growth * math.log2(gpus))
        return ItlLaw(
            one.c0_ms * (self.weights_share / gpus + own_share),
            one.c1_ms / (gpus * _efficiency(self.decode_exchange_share, gpus)),
            one.c2_ms / gpus,
        )

    def prefill(self, one: PrefillLaw, gpus: int) -> PrefillLaw:
        speed_up = gpus * _efficiency(self.prefill_exchange_share, gpus)
        return PrefillLaw(one.overhead_ms, one.linear_ms / speed_up, one.quadratic_ms / speed_up)

    def max_kv_tokens(self, one: ItlLaw, max_kv_tokens: int, gpus: int) -> int:
        """Of `gpus` GPUs, where one has `max_kv_tokens` beside its weights."""
        weights_as_tokens = self.weights_share * one.c0_ms / one.c2_ms if one.c2_ms else 0.0
        return round(gpus * max_kv_tokens + (gpus - 1) * weights_as_tokens)


def over_tensor_parallel(profile: Profile, sizes: Sequence[int], law: TensorParallelLaw | None = None) -> Profile:
    """A profile with the mappings TP n for every n of `sizes`, points exactly on the law derived from the selected mappings of `profile`.

    The grid spans what was measured: prompt lengths and contexts evenly on a logarithmic scale, batches likewise from 1 to what the KV capacity or
    the usual sequence limit admits. The smallest size is selected. ProfileError when `profile` selects more than one GPU, or `sizes` are none.
    """
    if not sizes or min(sizes) < 1:
        raise ProfileError(f"no tensor-parallel sizes in {list(sizes)}", hint="give at least one, none below 1")
    one_prefill, one_decode = profile.picked_prefill, profile.picked_decode
    for measured in (one_prefill, one_decode):
        if measured.mapping.gpus != 1:
            raise ProfileError(f"{measured.mapping.label} is selected, the law starts from one GPU", hint="select TP1")
    law = law or TensorParallelLaw()
    prompts, steps = FittedPrefill(one_prefill, 1), FittedDecode(one_decode, 1)
    mappings = [ParallelMapping(tp=size) for size in sorted(set(sizes))]
    source = f"{profile.provenance.source}, over tensor parallelism by law".removeprefix(", ")
    return Profile(
        prefill=tuple(_prefill(mapping, law.prefill(prompts.law, mapping.tp), prompts.isl_range) for mapping in mappings),
        decode=tuple(
            _decode(mapping, law.decode(steps.law, mapping.tp), steps.context_range, law.max_kv_tokens(steps.law, steps.max_kv_tokens, mapping.tp))
            for mapping in mappings
        ),
        selected_prefill=mappings[0],
        selected_decode=mappings[0],
        provenance=replace(profile.provenance, source=source),
    )


def _efficiency(stays_share: float, gpus: int) -> float:
    return 1 / (1 + stays_share * (gpus - 1))


def _prefill(mapping: ParallelMapping, law: PrefillLaw, isl_range: tuple[float, float]) -> PrefillMeasurement:
    points = []
    for isl_tokens in _spaced(*isl_range, PROMPT_LENGTHS):
        ttft_ms = law.ttft_ms(isl_tokens)
        points.append(PrefillPoint(isl_tokens, ttft_ms, isl_tokens / ttft_ms * 1000 / mapping.gpus))
    return PrefillMeasurement(mapping, tuple(points))


def _decode(mapping: ParallelMapping, law: ItlLaw, context_range: tuple[float, float], max_kv_tokens: int) -> DecodeMeasurement:
    points = []
    for context_tokens in _spaced(*context_range, CONTEXTS):
        for batch in _spaced(1, min(max_kv_tokens // context_tokens, MAX_SEQUENCES), BATCHES):
            kv_tokens = batch * context_tokens
            itl_ms = law.itl_ms(batch, kv_tokens)
            points.append(DecodePoint(kv_tokens / max_kv_tokens, context_tokens, itl_ms, batch / itl_ms * 1000 / mapping.gpus))
    return DecodeMeasurement(mapping, tuple(points), max_kv_tokens)


def _spaced(least: float, most: float, count: int) -> Iterator[float]:
    """Up to `count` whole numbers from `least` to `most`, evenly on a logarithmic scale, each once; the ends as they are."""
    between = (round(least * (most / least) ** (step / (count - 1))) for step in range(1, count - 1))
    yield from dict.fromkeys((least, *(value for value in between if least < value < most), *([most] if most > least else [])))
