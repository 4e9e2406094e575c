"""Offline profiles: what NVIDIA's AI Configurator predicts from kernel times that it measured on real GPUs, for all mappings in one process.

Per mapping the library gives the time of a prefill of `n` prompts and of a decode step of `n` requests, both per attention-data-parallel rank, and
the KV cache of a rank. With dp ranks (1 without data-parallel attention), in the terms of `model/profile.py`:

    max_kv_tokens       = dp * KV tokens of a rank            KV usage           = batch * context / max_kv_tokens
    prefill throughput  = dp * isl / ttft_ms * 1000 / gpus    decode throughput  = batch / itl_ms * 1000 / gpus,   batch = dp * n

    mapping    tp n           attention and feed-forward over n GPUs (the experts of a mixture too)
               tp n, ep n     TEP: attention over n GPUs, whole experts on each
               dp n, ep n     DEP: attention copied n times, whole experts on each

The library answers for batches that cannot fit, so capacity is checked here: a mapping whose rank cannot hold the longest context is left out, as
an engine refuses to start there, and no point holds more tokens than its rank or more than `MAX_SEQUENCES` requests. The times are those of the
kernels: no HTTP, tokenizer, scheduler or queue, so latencies are lower bounds. Against NVIDIA's published profiles of Qwen3-32B and Llama-3.1-8B on
an H200, TTFT comes out 5 to 30 % low (half of it missing at 100 tokens), ITL 10 to 35 %. Good to rank mappings; to promise anything, calibrate with
a few measured points (`model/calibrated.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from sla_planner.engines.ai_configurator_library import REFUSALS, Library, in_short, load, model_config, quiet, table_version
from sla_planner.errors import UsageError
from sla_planner.model.batching import MAX_BATCHED_TOKENS, MAX_SEQUENCES
from sla_planner.model.profile import DecodeMeasurement, DecodePoint, ParallelMapping, PrefillMeasurement, PrefillPoint, Profile, Provenance
from sla_planner.sweep.port import Deployment, Phase

_BFLOAT16 = {"kvcache_quant_mode": "bfloat16", "fmha_quant_mode": "bfloat16"}
_TYPE_OF = {"kvcache_quant_mode": "KV cache", "fmha_quant_mode": "attention"}
_FRACTION_OF = {"trtllm": "of_free"}  # of the memory that the weights leave; else of all
_SHORTEST, _ISLS, _CONTEXTS, _BATCHES = 128, 16, 8, 12  # of the default grid
_FEWEST_HEADS = 4  # per GPU: below, attention is extrapolated


@dataclass(frozen=True, slots=True)
class OfflineRequest:
    """What to predict. Empty shapes: a grid of `offline_profile`'s own, evenly spaced on a logarithmic scale."""

    model: str  # its id on Hugging Face, or a directory with its config.json
    system: str  # the GPU, as the library names it: h200_sxm
    backend: str  # vllm, sglang, trtllm
    prefill: tuple[ParallelMapping, ...]
    decode: tuple[ParallelMapping, ...]
    max_context_tokens: int = 0  # one request, prompt and answer; 0: what the model's config.json says
    isl_tokens: tuple[int, ...] = ()
    context_tokens: tuple[int, ...] = ()  # mean contexts, ISL + OSL/2
    batches: tuple[int, ...] = ()  # requests of one engine; what does not fit is left out
    backend_version: str = ""  # empty: the newest that the library calls current
    memory_fraction: float = 0.9  # of a GPU's memory, as the engine counts it
    kv_cache_type: str = ""  # bfloat16, fp8 ...; empty: as the library concludes from the checkpoint


@dataclass(frozen=True, slots=True)
class OfflineProfile:
    """`profile` selects its first mappings: picking is the caller's. `left_out`: label -> why. `notes`: what limits trust, one sentence each."""

    profile: Profile
    left_out: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def has_experts(model: str) -> bool:
    """Whether the library takes `model` for a mixture of experts. UsageError when it is not installed or does not know the model."""
    with quiet():
        library = load()
        model_config(library, model)
        return bool(library.models.check_is_moe(model))


def offline_profile(request: OfflineRequest) -> OfflineProfile:
    """Every mapping of `request`, in one process and without a GPU or network.

    Raises UsageError when the library is not installed, does not know what is asked for (the nearest it knows is named), or can predict no mapping.
    """
    with quiet():
        target = _target(request, load())
        attempt = _attempt(target, _types(request.kv_cache_type))
        if attempt.tables_missing and not attempt.types:
            fallback = _attempt(target, _BFLOAT16)
            attempt = fallback if fallback.kept > attempt.kept else attempt
        if not (attempt.prefill and attempt.decode):
            raise _nothing_left(target, attempt)
        notes = [*_types_assumed(target, attempt), *_thin_heads(target)]
    types = "".join(f", {_TYPE_OF[name]} in {value}" for name, value in attempt.types.items())
    source = f"offline: {target.library.title}, {target.engine}, {request.system}{types}"
    profile = Profile(
        tuple(attempt.prefill),
        tuple(attempt.decode),
        attempt.prefill[0].mapping,
        attempt.decode[0].mapping,
        Provenance(source=source, model=request.model, engine=target.engine, gpu=request.system),
    )
    return OfflineProfile(profile, tuple(attempt.left_out.items()), tuple(notes))


@dataclass(frozen=True, slots=True)
class _Target:
    """A request whose names are known: its library, the version of the tables, and the shapes."""

    request: OfflineRequest
    library: Library
    version: str
    mixture: bool  # of experts
    max_context_tokens: int
    isl_tokens: tuple[int, ...]
    context_tokens: tuple[int, ...]
    heads: int  # of attention

    @property
    def engine(self) -> str:
        return f"{self.request.backend} {self.version}"


@dataclass(slots=True)
class _Attempt:
    """All mappings with one choice of number types."""

    types: Mapping[str, str]
    prefill: list[PrefillMeasurement] = field(default_factory=list)
    decode: list[DecodeMeasurement] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    tables_missing: bool = False

    @property
    def kept(self) -> int:
        return len(self.prefill) + len(self.decode)


class _Refused(Exception):
    """This mapping is not predicted; the text says why."""


def _attempt(target: _Target, types: Mapping[str, str]) -> _Attempt:
    attempt = _Attempt(types)
    request = target.request
    for mapping in dict.fromkeys((*request.prefill, *request.decode)):
        with _left_out(target, attempt, mapping.label):
            arguments = {"backend_version": target.version, **_parallel(mapping, target.mixture), **types}
            handle = target.library.engine.EngineHandle.compile(request.model, request.system, request.backend, **arguments)
            rank_kv_tokens = _rank_kv_tokens(target, arguments)
            if mapping in request.prefill:
                with _left_out(target, attempt, Deployment(mapping, Phase.PREFILL).label):
                    attempt.prefill.append(_prefill(target, mapping, handle))
            if mapping in request.decode:
                with _left_out(target, attempt, Deployment(mapping, Phase.DECODE).label):
                    attempt.decode.append(_decode(target, mapping, handle, rank_kv_tokens))
    return attempt


@contextmanager
def _left_out(target: _Target, attempt: _Attempt, label: str) -> Iterator[None]:
    """What the library refuses within the block becomes a reason instead of an error."""
    try:
        yield
    except _Refused as refused:
        attempt.left_out[label] = str(refused)
    except REFUSALS as error:
        attempt.tables_missing |= isinstance(error, target.library.table_missing)
        attempt.left_out[label] = in_short(error)


def _prefill(target: _Target, mapping: ParallelMapping, handle: Any) -> PrefillMeasurement:
    points = []
    for isl in target.isl_tokens:
        ttft_ms = _positive(handle.predict_prefill_latency(1, isl), f"TTFT at ISL {isl}")
        points.append(PrefillPoint(float(isl), ttft_ms, mapping.dp * isl / ttft_ms * 1000 / mapping.gpus))
    return PrefillMeasurement(mapping, tuple(points))


def _decode(target: _Target, mapping: ParallelMapping, handle: Any, rank_kv_tokens: int) -> DecodeMeasurement:
    max_kv_tokens = mapping.dp * rank_kv_tokens
    points = []
    for context in target.context_tokens:
        for requests in _rank_batches(target.request.batches, mapping.dp, min(rank_kv_tokens // context, MAX_SEQUENCES)):
            itl_ms = _positive(handle.decode_step_latency(requests, context, 2), f"ITL at context {context}")
            batch = mapping.dp * requests
            points.append(DecodePoint(batch * context / max_kv_tokens, float(context), itl_ms, batch / itl_ms * 1000 / mapping.gpus))
    if not points:
        raise _Refused("none of the batches asked for fits its KV cache")
    return DecodeMeasurement(mapping, tuple(points), max_kv_tokens)


def _rank_batches(asked: tuple[int, ...], ranks: int, most: int) -> list[int]:
    """Requests of one rank, up to `most`. The fullest rank sets the pace, so an uneven batch counts as the next even one."""
    if asked:
        return sorted({requests for batch in asked if (requests := math.ceil(batch / ranks)) <= most})
    return _spread(1, most, _BATCHES)


def _rank_kv_tokens(target: _Target, arguments: Mapping[str, Any]) -> int:
    tokens = int(_rank_kv(target, arguments)["total_kv_size_tokens"])
    if tokens < target.max_context_tokens:
        raise _Refused(f"its KV cache holds {tokens} tokens, less than one context of {target.max_context_tokens}")
    return tokens


def _rank_kv(target: _Target, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    request = target.request
    estimate: Mapping[str, Any] = target.library.memory.estimate_kv_cache(
        request.model,
        request.system,
        request.backend,
        max_num_tokens=MAX_BATCHED_TOKENS,
        max_batch_size=MAX_SEQUENCES,
        memory_fraction_kind=_FRACTION_OF.get(request.backend, "of_total"),
        memory_fraction_value=request.memory_fraction,
        **arguments,
    )
    return estimate


def _types(kv_cache: str) -> Mapping[str, str]:
    """The library's arguments for a KV cache in this type: none for its own conclusion. Attention reads bfloat16 in bfloat16."""
    if not kv_cache:
        return {}
    return _BFLOAT16 if kv_cache == "bfloat16" else {"kvcache_quant_mode": kv_cache}


def _parallel(mapping: ParallelMapping, mixture: bool) -> dict[str, int]:
    """The library's arguments for `mapping`."""
    if mapping.pp > 1:
        raise _Refused("pipeline stages: the library does not share the KV cache out over them")
    if not mixture:
        if mapping.ep > 1 or mapping.dp > 1:
            raise _Refused("the model has no experts: data-parallel ranks would be engines of their own")
        return {"tp_size": mapping.tp}
    if mapping.gpus % mapping.ep:
        raise _Refused(f"experts over {mapping.ep} do not divide {mapping.gpus} GPUs")
    return {"tp_size": mapping.tp, "attention_dp_size": mapping.dp, "moe_ep_size": mapping.ep, "moe_tp_size": mapping.gpus // mapping.ep}


def _target(request: OfflineRequest, library: Library) -> _Target:
    """`request` with every name checked against what the library has."""
    if not 0 < request.memory_fraction <= 1:
        raise UsageError(f"{request.memory_fraction:g} is no share of a GPU's memory", hint="above 0, up to 1; engines use 0.9 by default")
    if min(request.batches, default=1) < 1:
        raise UsageError(f"a batch of {min(request.batches)} requests is none", hint="batches are whole numbers from 1")
    if request.kv_cache_type and request.kv_cache_type not in (known := [kind.name for kind in library.common.KVCacheQuantMode]):
        raise UsageError(f"{request.kv_cache_type!r} is no type of a KV cache", hint=f"one of {', '.join(known)}")
    version = table_version(library, request.backend, request.system, request.backend_version)
    config = model_config(library, request.model)
    longest = request.max_context_tokens or int(config["context"])
    if longest < 1:
        raise UsageError(f"a longest context of {longest} tokens is none", hint="give at least 1 token")
    for what, shapes in (("prompt length", request.isl_tokens), ("context", request.context_tokens)):
        for tokens in shapes:
            if not 1 <= tokens <= longest:
                raise UsageError(
                    f"a {what} of {tokens} tokens is outside 1 to {longest}, the longest context", hint="ask for shapes that the model can serve"
                )
    least = min(_SHORTEST, longest)
    return _Target(
        request=request,
        library=library,
        version=version,
        mixture=bool(library.models.check_is_moe(request.model)),
        max_context_tokens=longest,
        isl_tokens=tuple(sorted(set(request.isl_tokens))) or tuple(_spread(least, longest, _ISLS)),
        context_tokens=tuple(sorted(set(request.context_tokens))) or tuple(_spread(least, longest, _CONTEXTS)),
        heads=int(config["n"]),
    )


def _types_assumed(target: _Target, attempt: _Attempt) -> Iterator[str]:
    if attempt.types and not target.request.kv_cache_type:
        yield f"{target.library.title} has no {target.engine} tables for the model's own types: KV cache and attention in bfloat16"
    if not attempt.types:
        arguments = {"backend_version": target.version, **_parallel(attempt.decode[0].mapping, target.mixture)}
        with suppress(*REFUSALS):  # no bfloat16 to compare with: nothing to say
            own, wide = (_rank_kv(target, {**arguments, **types})["kv_size_per_token_bytes"] for types in ({}, _BFLOAT16))
            if own < wide:
                yield f"KV cache of {16 * own / wide:.0f} bits a value, as the checkpoint suggests: an engine that keeps it in bfloat16 holds less"


def _thin_heads(target: _Target) -> Iterator[str]:
    for mapping in dict.fromkeys((*target.request.prefill, *target.request.decode)):
        if target.heads < _FEWEST_HEADS * mapping.tp:
            yield f"{mapping.label}: {target.heads / mapping.tp:g} attention heads per GPU, where the tables are thin: its times are extrapolated"


def _nothing_left(target: _Target, attempt: _Attempt) -> UsageError:
    role = "decode" if attempt.prefill else "prefill"
    reasons = list(dict.fromkeys(attempt.left_out.values()))
    told = reasons[0] if len(reasons) == 1 else "; ".join(f"{label}: {reason}" for label, reason in attempt.left_out.items())
    message = (
        f"no {role} mapping of {target.request.model} can be predicted for {target.engine} on {target.request.system}: {told or 'none was asked for'}"
    )
    return UsageError(message, hint="use more GPUs per engine, a shorter longest context, or measure instead")


def _positive(latency_ms: float, what: str) -> float:
    if not 0 < latency_ms < math.inf:
        raise _Refused(f"{what} comes out as {latency_ms:g} ms")
    return float(latency_ms)


def _spread(low: int, high: int, count: int) -> list[int]:
    """At most `count` different whole numbers from `low` to `high`, evenly spaced on a logarithmic scale."""
    ratio = high / low
    return sorted({round(low * ratio ** (step / (count - 1))) for step in range(count)})
