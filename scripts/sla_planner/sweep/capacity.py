"""Whether a KV capacity that was read from an engine can be. Everything a profile says of decode is divided by it, and logs hold several numbers that
look like it: TensorRT-LLM prints the cache of its memory test before the real one.

    at least    one request of the longest context
    about       (fraction * VRAM - activations - weights) of each GPU, over what one token takes there

    per token and GPU    layers * 2 * max(KV heads / TP, 1) * head size * bytes         latent attention: layers * (latent + rotary) * bytes
    whole engine         that of one GPU of a TP group (each holds its part of every token), times the DP ranks

Activations are taken as 2.5 % of VRAM: with it the estimate for Qwen3 32B (BF16) on an H200 of 139.8 GiB is 251,093 tokens at TP 1. vLLM logged
256,000; AI Configurator 0.12, which models activations, says 249,864, and 751,550, 1,755,323 and 3,760,597 at TP 2, 4 and 8: within 2 % each.
Dynamo's H200 profile of Llama 3.1 8B FP8 (945,029 tokens): 1.3 % below. But an engine that was told to take 0.8 of the memory instead of 0.9 holds
23 % less, and on a small GPU activations weigh more; while a wrong number is wrong by a factor (a rank for the engine, blocks for tokens, the first
log line for the second). Hence TOLERANCE.
"""

from __future__ import annotations

from sla_planner.model.profile import ParallelMapping
from sla_planner.sweep.model_shape import GIB, ModelShape
from sla_planner.sweep.points import EngineFacts
from sla_planner.sweep.port import Capacity
from sla_planner.sweep.space import MEMORY_FRACTION, Hardware, weights_per_gpu_gib

TOLERANCE = 0.25
ACTIVATIONS = 0.025  # of VRAM


def implausible(capacity: Capacity, *, max_context_tokens: int | None, estimate_tokens: int | None) -> str:
    """'' when the capacity can be, else one sentence with the numbers. What is None is not compared."""
    read = capacity.max_kv_tokens
    where = f"a KV capacity of {read:,} tokens ({capacity.source})"
    if read <= 0:
        return f"{where} cannot be"
    if max_context_tokens is not None and read < max_context_tokens:
        return f"{where} holds not even one request of the longest context, {max_context_tokens:,} tokens"
    if estimate_tokens is not None and abs(read / estimate_tokens - 1) > TOLERANCE:
        return f"{where} is {read / estimate_tokens:.2g} times the {estimate_tokens:,} that the memory leaves room for"
    return ""


def unexplained(facts: EngineFacts, running: int, held_tokens: float) -> str:
    """'' when an engine that ran no more than `running` requests, which held `held_tokens`, met a limit that is known, else one sentence."""
    if facts.max_sequences == running or held_tokens > (1 - TOLERANCE) * facts.max_kv_tokens:
        return ""
    ran = f"no more than {running} requests ran at once, with {held_tokens:,.0f} tokens"
    read = f"the {facts.max_kv_tokens:,} tokens that were read ({facts.kv_source})"
    return f"{ran}: a limit of sequences, or less KV than {read}; --max-kv-tokens corrects it"


def estimated_kv_tokens(shape: ModelShape, hardware: Hardware, mapping: ParallelMapping, memory_fraction: float = MEMORY_FRACTION) -> int | None:
    """Tokens that one engine holds, all data-parallel ranks together. None when something needed is not known, or weights leave no room."""
    weights, per_token = weights_per_gpu_gib(shape, mapping), _bytes_per_token(shape, mapping)
    if weights is None or per_token is None or hardware.vram_gib is None:
        return None
    if mapping.ep > 1 and shape.expert_weights_gib is None:
        return None  # a lower bound of weights would be an upper bound of tokens
    room = (memory_fraction - ACTIVATIONS) * hardware.vram_gib - weights
    return mapping.dp * int(room * GIB / per_token) if room > 0 else None


def _bytes_per_token(shape: ModelShape, mapping: ParallelMapping) -> float | None:
    """On one GPU."""
    if not shape.uniform_attention or shape.layers is None or shape.kv_element_bytes is None:
        return None
    per_layer = shape.kv_element_bytes * shape.layers / mapping.pp
    if shape.kv_latent is not None:
        return shape.kv_latent * per_layer
    if shape.kv_heads is None or shape.head_dim is None:
        return None
    return 2 * max(shape.kv_heads / mapping.tp, 1) * shape.head_dim * per_layer
