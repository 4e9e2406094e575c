"""Which mappings are worth starting. A mapping that cannot work is left out with its reason before an engine is started for it, not after.

    GPU counts    powers of two from `min_gpus` to `max_gpus`; by default from 1 to a node (dense) or to 32 (MoE)
    dense         TP n
    MoE           prefill TEP n (attention split, experts spread), decode DEP n (attention copied, experts spread); on request both for both

    memory        weights on one GPU <= 0.9 VRAM: the rest is what engines keep for activations and the KV cache
    attention     heads % TP = 0; KV heads % TP = 0, or TP % KV heads = 0: vLLM, SGLang and TensorRT-LLM then copy KV heads (kept, costs memory).
                  Latent attention (MLA) has no KV heads to split. A DEP copies attention, so none of this binds it
    experts       experts % EP = 0
    MLP           intermediate size % TP = 0, and each part is whole quantisation blocks
    nodes         a dense engine over several nodes is left out (every layer's all-reduce would cross the network); an MoE engine is kept

A rule whose numbers are not known does not apply. An engine with neither TP nor EP (llama.cpp): TP 1 alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sla_planner.errors import UsageError
from sla_planner.model.profile import ParallelMapping
from sla_planner.sweep.model_shape import ModelShape
from sla_planner.sweep.port import Deployment, Phase

MEMORY_FRACTION = 0.9
MOST_MOE_GPUS = 32


@dataclass(frozen=True, slots=True)
class Hardware:
    """What may be used by one engine. `vram_gib`: of one GPU, as its driver reports it (an H200: 140). `budget_gpus`: of the whole sweep at once."""

    min_gpus: int | None = None
    max_gpus: int | None = None
    gpus_per_node: int = 8
    vram_gib: float | None = None
    budget_gpus: int | None = None


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """Mappings per phase in rising number of GPUs. `left_out`: label -> why."""

    prefill: tuple[ParallelMapping, ...]
    decode: tuple[ParallelMapping, ...]
    left_out: tuple[tuple[str, str], ...] = ()

    def deployments(self, *, separate_phases: bool = False) -> tuple[Deployment, ...]:
        """What has to be started, smallest first: a mapping of both phases once, unless each phase is to have its own engine."""
        both = set() if separate_phases else set(self.prefill) & set(self.decode)
        found = [Deployment(mapping, Phase.BOTH) for mapping in self.prefill if mapping in both]
        found += [Deployment(mapping, Phase.PREFILL) for mapping in self.prefill if mapping not in both]
        found += [Deployment(mapping, Phase.DECODE) for mapping in self.decode if mapping not in both]
        return tuple(sorted(found, key=lambda deployment: deployment.mapping.gpus))


@dataclass(slots=True)
class _Sieve:
    shape: ModelShape
    hardware: Hardware
    parallel: bool
    moe: bool
    memory: dict[ParallelMapping, str] = field(default_factory=dict)
    other: dict[ParallelMapping, str] = field(default_factory=dict)

    def kept(self, mappings: list[ParallelMapping]) -> tuple[ParallelMapping, ...]:
        kept = []
        for mapping in dict.fromkeys(mappings):
            if too_big := _does_not_fit(self.shape, self.hardware, mapping):
                self.memory[mapping] = too_big
            elif reason := self._does_not_divide(mapping) or self._out_of_reach(mapping):
                self.other[mapping] = reason
            else:
                kept.append(mapping)
        if not kept:
            raise self._nothing_left(mappings)
        return tuple(kept)

    def _does_not_divide(self, mapping: ParallelMapping) -> str:
        if not self.parallel and mapping.gpus > 1:
            return "the engine has no tensor or expert parallelism"
        return _attention_split(self.shape, mapping) or _expert_split(self.shape, mapping) or _mlp_split(self.shape, mapping)

    def _out_of_reach(self, mapping: ParallelMapping) -> str:
        budget, node = self.hardware.budget_gpus, self.hardware.gpus_per_node
        if budget is not None and mapping.gpus > budget:
            return f"{mapping.gpus} GPUs are more than the sweep may use, {budget}"
        return "" if self.moe or mapping.gpus <= node else f"{mapping.gpus} GPUs of a dense engine do not fit a node of {node}"

    def _nothing_left(self, mappings: list[ParallelMapping]) -> UsageError:
        """Tells the border: the largest mapping that is too big for its GPUs, and the smallest that fails for another reason."""
        telling = [*[(m, self.memory[m]) for m in mappings if m in self.memory][-1:], *[(m, self.other[m]) for m in mappings if m in self.other][:1]]
        reasons = "; ".join(f"{mapping.label}: {reason}" for mapping, reason in telling)
        hint = "check --is-moe-model, --num-gpus-per-node and --max-gpus"
        if any(mapping in self.memory for mapping, _ in telling):
            hint = "raise --max-num-gpus, or check --model-size-gib and --vram-gib"
        elif self.hardware.min_gpus and self.hardware.min_gpus > 1:
            hint = "lower --min-num-gpus"
        return UsageError(f"no parallel mapping is left to measure: {reasons}", hint=hint)


def search_space(shape: ModelShape, hardware: Hardware, *, moe: bool, parallel: bool = True, both: bool = False) -> SearchSpace:
    """The mappings to measure. `parallel`: the engine spreads over GPUs at all; `both`: TEP and DEP of an MoE model for each phase.

    Raises `UsageError` when nothing is left for a phase, with the tightest reasons.
    """
    counts = _gpu_counts(hardware, MOST_MOE_GPUS if moe else hardware.gpus_per_node)
    sieve = _Sieve(shape, hardware, parallel, moe)
    if moe and parallel:
        tep = [ParallelMapping(tp=n, ep=n) for n in counts]
        dep = [ParallelMapping(dp=n, ep=n) for n in counts]
        in_order = [mapping for pair in zip(tep, dep, strict=True) for mapping in pair]
        prefill, decode = sieve.kept(in_order if both else tep), sieve.kept(in_order if both else dep)
    else:
        prefill = decode = sieve.kept([ParallelMapping(tp=n) for n in counts])
    left_out = sorted({**sieve.memory, **sieve.other}.items(), key=lambda item: (item[0].gpus, item[0].dp))
    return SearchSpace(prefill, decode, tuple((mapping.label, reason) for mapping, reason in left_out))


def weights_per_gpu_gib(shape: ModelShape, mapping: ParallelMapping) -> float | None:
    """Experts are spread over EP, everything else over TP and PP and copied over DP. Without the experts' share: all spread, a lower bound."""
    if shape.weights_gib is None:
        return None
    experts = shape.expert_weights_gib
    if mapping.ep == 1:
        return shape.weights_gib / (mapping.tp * mapping.pp)
    if experts is None:
        return shape.weights_gib / mapping.gpus
    return (shape.weights_gib - experts) / (mapping.tp * mapping.pp) + experts / (mapping.ep * mapping.pp)


def _gpu_counts(hardware: Hardware, default_most: int) -> list[int]:
    fewest = hardware.min_gpus or 1
    most = hardware.max_gpus or max(default_most, fewest)
    counts = [n for power in range(most.bit_length()) if fewest <= (n := 2**power) <= most]
    if not counts:
        raise UsageError(
            f"no power of two lies between {fewest} and {most} GPUs", hint="set --min-num-gpus and --max-num-gpus around 1, 2, 4, 8, 16 or 32"
        )
    return counts


def _does_not_fit(shape: ModelShape, hardware: Hardware, mapping: ParallelMapping) -> str:
    weights = weights_per_gpu_gib(shape, mapping)
    if weights is None or hardware.vram_gib is None or weights <= (room := MEMORY_FRACTION * hardware.vram_gib):
        return ""
    return f"{weights:.1f} GiB of weights on each GPU, room for {room:.1f} ({MEMORY_FRACTION:g} of {hardware.vram_gib:g} GiB)"


def _attention_split(shape: ModelShape, mapping: ParallelMapping) -> str:
    heads, kv_heads, tp = shape.attention_heads, shape.kv_heads, mapping.tp
    if heads is not None and heads % tp:
        return f"{heads} attention heads do not divide by {tp}"
    if shape.kv_latent is None and kv_heads is not None and kv_heads % tp and tp % kv_heads:
        return f"{kv_heads} KV heads neither divide by {tp} nor can be copied evenly to {tp}"
    return ""


def _expert_split(shape: ModelShape, mapping: ParallelMapping) -> str:
    if shape.num_experts is not None and shape.num_experts % mapping.ep:
        return f"{shape.num_experts} experts do not divide by {mapping.ep}"
    return ""


def _mlp_split(shape: ModelShape, mapping: ParallelMapping) -> str:
    """Of the MLPs that TP splits: of an MoE model with expert parallelism only those that are not experts."""
    sizes = (shape.intermediate_size, None if mapping.ep > 1 else shape.moe_intermediate_size)
    for size in filter(None, sizes):
        if size % mapping.tp:
            return f"an intermediate size of {size} does not divide by {mapping.tp}"
        if mapping.tp > 1 and shape.quant_block and size // mapping.tp % shape.quant_block:
            return f"an intermediate size of {size} over {mapping.tp} is not whole quantisation blocks of {shape.quant_block}"
    return ""
