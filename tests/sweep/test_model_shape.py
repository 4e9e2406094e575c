"""A model's shape from its config.json: published parameter counts, and names of several families."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sweep.models import DEEPSEEK_V3, LLAMA_8B, MIXTRAL_8X7B, PUBLISHED, QWEN3_32B, QWEN3_235B

from sla_planner.sweep.model_shape import GIB, ModelShape


def shape(config, **changed):
    return ModelShape.from_hf_config({**config, **changed})


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_are_those_of_the_published_parameters_in_two_bytes_each(name):
    config, parameters = PUBLISHED[name]
    assert shape(config).weights_gib * GIB == pytest.approx(2 * parameters, rel=0.002)


class TestNames:
    def test_dense(self):
        found = shape(QWEN3_32B)
        assert (found.layers, found.attention_heads, found.kv_heads, found.head_dim) == (64, 64, 8, 128)
        assert (found.intermediate_size, found.max_context_tokens, found.moe, found.expert_weights_gib) == (25600, 40960, False, 0)

    def test_a_head_size_that_is_not_written_follows_from_the_hidden_size(self):
        assert shape(LLAMA_8B).head_dim == 128

    def test_experts_under_three_names(self):
        assert [shape(config).num_experts for config in (MIXTRAL_8X7B, QWEN3_235B, DEEPSEEK_V3)] == [8, 128, 256]
        assert [shape(config).moe_intermediate_size for config in (MIXTRAL_8X7B, QWEN3_235B, DEEPSEEK_V3)] == [14336, 1536, 2048]

    def test_the_dense_size_counts_only_where_a_layer_is_dense(self):
        assert [shape(config).intermediate_size for config in (MIXTRAL_8X7B, QWEN3_235B, DEEPSEEK_V3)] == [None, None, 18432]

    def test_latent_attention_has_no_kv_heads(self):
        found = shape(DEEPSEEK_V3)
        assert (found.kv_latent, found.kv_heads) == (576, None)

    def test_a_multimodal_model_is_its_language_part(self):
        nested = {"model_type": "some_vl", "vision_config": {"num_attention_heads": 16}, "text_config": QWEN3_32B}
        assert ModelShape.from_hf_config(nested) == shape(QWEN3_32B)

    def test_a_stretched_context_is_the_stretched_one_where_the_scaling_stretches(self):
        assert shape(DEEPSEEK_V3).max_context_tokens == 163840
        yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
        assert shape(QWEN3_32B, rope_scaling=yarn).max_context_tokens == 131072
        assert shape(LLAMA_8B).max_context_tokens == 131072


class TestNumberFormats:
    # Llama 3.1 8B: 2 * 128256 * 4096 = 1.051e9 parameters in embeddings, which stay in 16 bits, and 6.979e9 in matrices
    @pytest.mark.parametrize(
        ("quantised", "matrix_bytes"),
        [
            ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 1),
            ({"quant_method": "modelopt", "quant_algo": "FP8"}, 1),
            ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 0.5625),
            ({"quant_method": "awq", "bits": 4, "group_size": 128}, 0.51953125),
            ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 8}}}}, 1),
        ],
    )
    def test_matrices_shrink_and_embeddings_do_not(self, quantised, matrix_bytes):
        assert shape(LLAMA_8B, quantization_config=quantised).weights_gib * GIB == pytest.approx(1.0507e9 * 2 + 6.9793e9 * matrix_bytes, rel=1e-3)

    @pytest.mark.parametrize("changed", [{"torch_dtype": None}, {"model_type": "gpt_neox"}, {"quantization_config": {"quant_method": "new"}}])
    def test_what_is_not_known_is_not_guessed(self, changed):
        assert shape(LLAMA_8B, **changed).weights_gib is None

    def test_a_block_is_the_unit_that_a_matrix_may_be_cut_in(self):
        assert shape(DEEPSEEK_V3).quant_block == 128
        assert shape(LLAMA_8B, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 64}).quant_block == 64
        assert shape(LLAMA_8B).quant_block is None

    def test_a_checkpoint_with_scales_for_a_smaller_cache_leaves_the_cache_open(self):
        assert shape(LLAMA_8B).kv_element_bytes == 2
        assert shape(LLAMA_8B, quantization_config={"quant_method": "modelopt", "kv_cache_quant_algo": "FP8"}).kv_element_bytes is None


@pytest.mark.parametrize(
    "changed",
    [{"layer_types": ["full_attention", "sliding_attention"]}, {"sliding_window": 4096, "use_sliding_window": True}, {"index_topk": 2048}],
)
def test_attention_that_forgets_is_not_uniform(changed):
    assert shape(QWEN3_32B).uniform_attention
    assert shape(QWEN3_32B, sliding_window=4096, use_sliding_window=False).uniform_attention
    assert not shape(QWEN3_32B, **changed).uniform_attention


def test_a_size_that_is_told_wins_and_the_experts_keep_their_share():
    counted = shape(MIXTRAL_8X7B)
    assert counted.expert_weights_gib == 84.0  # 32 layers * 8 experts * 3 * 4096 * 14336 * 2 bytes
    told = counted.weighing(counted.weights_gib / 2)
    assert (told.weights_gib, told.expert_weights_gib) == (counted.weights_gib / 2, 42.0)
    assert ModelShape().weighing(10) == ModelShape(weights_gib=10)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 10**6) | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=4,
)
KEYS = [*DEEPSEEK_V3, *QWEN3_235B, "text_config", "layer_types", "quantization_config", "head_dim"]


@given(st.sampled_from([DEEPSEEK_V3, QWEN3_235B, LLAMA_8B]), st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4))
def test_no_config_is_a_crash(config, odd):
    found = shape(config, **odd)
    assert found.weights_gib is None or found.weights_gib > 0
