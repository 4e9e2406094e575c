"""What of a model decides how it may be spread over GPUs, read from its Hugging Face `config.json`.

Weights are counted from the architecture, where it is one whose layers are known here (gated MLP, grouped-query or latent attention):

    attention   h (heads + 2 kv_heads) d + heads d h                    latent (MLA): the five low-rank matrices of DeepSeek-V2, section 2.1
    MLP         3 h intermediate; of an expert 3 h moe_intermediate     router: h experts
    embedding   vocabulary h, twice unless tied; never quantised

Checked against the published counts: Llama 3.1 8B and 70B, Qwen3 32B and 235B-A22B, Mixtral 8x7B, DeepSeek-V3, each within 0.2 %. Norms, biases,
vision towers and extra prediction layers are not counted. What a file does not say stays None: a rule that needs it is then not applied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

GIB = 2**30

_COUNTED = {"llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "deepseek_v2", "deepseek_v3", "kimi_k2"}
_ELEMENT_BYTES = {"bfloat16": 2, "float16": 2, "half": 2, "float32": 4, "float": 4}
_NVFP4_BITS = 4.5  # 16 values share one scale of 8 bits


@dataclass(frozen=True, slots=True)
class ModelShape:
    """All optional. `weights_gib`: as stored; `expert_weights_gib`: the part of it that belongs to routed experts (0 of a dense model)."""

    weights_gib: float | None = None
    expert_weights_gib: float | None = None
    layers: int | None = None
    attention_heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    kv_latent: int | None = None  # elements per token and layer of latent attention (MLA), which no TP splits
    kv_element_bytes: int | None = None
    uniform_attention: bool = True  # every layer keeps every token
    num_experts: int | None = None
    intermediate_size: int | None = None  # of the MLPs that are not experts
    moe_intermediate_size: int | None = None
    quant_block: int | None = None
    max_context_tokens: int | None = None

    @property
    def moe(self) -> bool:
        return self.num_experts is not None and self.num_experts > 1

    @classmethod
    def from_hf_config(cls, config: Mapping[str, Any]) -> ModelShape:
        """From a parsed `config.json`; a multimodal model's language part is looked at. Unknown or odd values are left None."""
        text = _language_part(config)
        heads, hidden = _whole(text, "num_attention_heads"), _whole(text, "hidden_size")
        latent, rope = _whole(text, "kv_lora_rank"), _whole(text, "qk_rope_head_dim")
        experts = _whole(text, "n_routed_experts", "num_local_experts", "num_experts")
        weights = _weights_bytes(text)
        return cls(
            weights_gib=sum(weights) / GIB if weights else None,
            expert_weights_gib=weights[1] / GIB if weights else None,
            layers=_whole(text, "num_hidden_layers"),
            attention_heads=heads,
            kv_heads=None if latent else _whole(text, "num_key_value_heads") or heads,
            head_dim=_head_dim(text, heads, hidden),
            kv_latent=latent + rope if latent and rope else None,
            kv_element_bytes=_kv_element_bytes(text),
            uniform_attention=_uniform(text),
            num_experts=experts,
            intermediate_size=_whole(text, "intermediate_size") if _moe_layers(text) != _whole(text, "num_hidden_layers") else None,
            moe_intermediate_size=_expert_size(text) if experts else None,
            quant_block=_quant_block(text),
            max_context_tokens=_max_context(text),
        )

    def weighing(self, weights_gib: float) -> ModelShape:
        """The same model with weights of this size: what a person says wins over what was counted; the experts' share stays."""
        experts = self.expert_weights_gib * weights_gib / self.weights_gib if self.weights_gib and self.expert_weights_gib is not None else None
        return replace(self, weights_gib=weights_gib, expert_weights_gib=experts)


def _language_part(config: Mapping[str, Any]) -> dict[str, Any]:
    named = [_section(config, name) for name in ("text_config", "language_config", "llm_config")]
    return {**config, **next(filter(None, named), {})}


def _whole(config: Mapping[str, Any], *names: str) -> int | None:
    """The first of `names` that holds a whole number above 0."""
    values = (config.get(name) for name in names)
    return next((value for value in values if isinstance(value, int) and not isinstance(value, bool) and value > 0), None)


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = config.get(name)
    return value if isinstance(value, Mapping) else {}


def _head_dim(text: Mapping[str, Any], heads: int | None, hidden: int | None) -> int | None:
    return _whole(text, "head_dim") or (hidden // heads if hidden and heads else None)


def _expert_size(text: Mapping[str, Any]) -> int | None:
    """Mixtral writes the size of an expert where others write that of a dense MLP."""
    return _whole(text, "moe_intermediate_size") or _whole(text, "intermediate_size")


def _max_context(text: Mapping[str, Any]) -> int | None:
    scaling = _section(text, "rope_scaling")
    original, factor = _whole(scaling, "original_max_position_embeddings"), scaling.get("factor")
    if scaling.get("rope_type", scaling.get("type")) == "yarn" and original and isinstance(factor, int | float):
        return int(original * factor)
    return _whole(text, "max_position_embeddings", "max_sequence_length")


def _uniform(text: Mapping[str, Any]) -> bool:
    """Whether each layer's cache grows by the same with every token: no sliding windows, no linear attention, no index beside the cache."""
    types = text.get("layer_types")
    if isinstance(types, list) and any(kind != "full_attention" for kind in types):
        return False
    slides = text.get("sliding_window") is not None and text.get("use_sliding_window") is not False
    return not slides and not any(text.get(name) for name in ("index_topk", "linear_num_key_heads", "mamba_d_state", "attention_chunk_size"))


def _moe_layers(text: Mapping[str, Any]) -> int:
    """How many layers have experts."""
    layers = _whole(text, "num_hidden_layers") or 0
    if not _whole(text, "n_routed_experts", "num_local_experts", "num_experts"):
        return 0
    if "decoder_sparse_step" in text:
        step, dense = _whole(text, "decoder_sparse_step") or 1, text.get("mlp_only_layers")
        without = dense if isinstance(dense, list) else []
        return sum((layer + 1) % step == 0 and layer not in without for layer in range(layers))
    first, every = _whole(text, "first_k_dense_replace") or 0, _whole(text, "moe_layer_freq") or 1
    return sum(layer >= first and layer % every == 0 for layer in range(layers))


def _attention_elements(text: Mapping[str, Any]) -> int | None:
    hidden, heads = _whole(text, "hidden_size"), _whole(text, "num_attention_heads")
    if hidden is None or heads is None:
        return None
    latent = _whole(text, "kv_lora_rank")
    if latent is None:
        head_dim = _head_dim(text, heads, hidden) or 0
        kv_heads = _whole(text, "num_key_value_heads") or heads
        return hidden * (2 * heads + 2 * kv_heads) * head_dim
    parts = [_whole(text, name) for name in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")]
    nope, rope, value = (part or 0 for part in parts)
    low = _whole(text, "q_lora_rank")
    query = low * (hidden + heads * (nope + rope)) if low else hidden * heads * (nope + rope)
    return query + hidden * (latent + rope) + latent * heads * (nope + value) + heads * value * hidden if None not in parts else None


def _weights_bytes(text: Mapping[str, Any]) -> tuple[float, float] | None:
    """(all but the routed experts, the routed experts), or None when the architecture or the number format is not known."""
    hidden, layers, vocabulary = (_whole(text, name) for name in ("hidden_size", "num_hidden_layers", "vocab_size"))
    attention, stored, linear = _attention_elements(text), _stored_bytes(text), _linear_bytes(text)
    if str(text.get("model_type")) not in _COUNTED:
        return None
    if hidden is None or layers is None or vocabulary is None or attention is None or stored is None or linear is None:
        return None
    moe_layers = _moe_layers(text)
    dense_size, expert_size = _whole(text, "intermediate_size") or 0, _expert_size(text) or 0
    experts = _whole(text, "n_routed_experts", "num_local_experts", "num_experts") or 0
    shared = _whole(text, "shared_expert_intermediate_size") or (_whole(text, "n_shared_experts") or 0) * expert_size
    always = layers * attention + (layers - moe_layers) * 3 * hidden * dense_size + moe_layers * hidden * (3 * shared + experts)
    embedding = vocabulary * hidden * (1 if text.get("tie_word_embeddings") else 2)
    return always * linear + embedding * stored, moe_layers * experts * 3 * hidden * expert_size * linear


def _stored_bytes(text: Mapping[str, Any]) -> int | None:
    return _ELEMENT_BYTES.get(str(text.get("dtype") or text.get("torch_dtype")).removeprefix("torch."))


def _linear_bytes(text: Mapping[str, Any]) -> float | None:
    """Bytes per element of the matrices, scales included where they count."""
    if not (quantised := _section(text, "quantization_config")):
        return _stored_bytes(text)
    method, group = quantised.get("quant_method"), _whole(quantised, "group_size")
    bits: float | None = None
    if method in ("fp8", "fbgemm_fp8"):
        bits = 8
    elif method in ("gptq", "awq") and (of_weights := _whole(quantised, "bits", "w_bit")):
        bits = of_weights + ((16 + of_weights) / group if group else 0)
    elif method == "modelopt":
        bits = {"FP8": 8, "NVFP4": _NVFP4_BITS}.get(str(quantised.get("quant_algo")))
    elif method == "compressed-tensors":
        groups = [_section(part, "weights") for part in _section(quantised, "config_groups").values() if isinstance(part, Mapping)]
        bits = _whole(groups[0], "num_bits") if len(groups) == 1 else None
    return bits / 8 if bits else None


def _kv_element_bytes(text: Mapping[str, Any]) -> int | None:
    """As the model is stored; None where the checkpoint brings scales for a smaller cache, which some engines use and others do not."""
    quantised = _section(text, "quantization_config")
    return None if quantised.get("kv_cache_scheme") or quantised.get("kv_cache_quant_algo") else _stored_bytes(text)


def _quant_block(text: Mapping[str, Any]) -> int | None:
    quantised = _section(text, "quantization_config")
    block = quantised.get("weight_block_size")
    if isinstance(block, list) and block and all(isinstance(size, int) and size > 0 for size in block):
        return int(max(block))
    return _whole(quantised, "group_size")
