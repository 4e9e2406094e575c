"""What a KV capacity can be: against what engines logged, what AI Configurator 0.12 computes, and a value that was wrong and went unnoticed."""

import pytest
from tests.sweep.models import DEEPSEEK_V3, LLAMA_8B, QWEN3_32B

from sla_planner.model.profile import ParallelMapping
from sla_planner.sweep.capacity import estimated_kv_tokens, implausible
from sla_planner.sweep.port import Capacity
from sla_planner.sweep.space import Hardware, ModelShape

H200 = Hardware(vram_gib=139.8)
TP1 = ParallelMapping()


def shape(config, **changed):
    return ModelShape.from_hf_config({**config, **changed})


def told(tokens, **known):
    return implausible(Capacity(tokens, "log"), **{"max_context_tokens": None, "estimate_tokens": None, **known})


class TestEstimate:
    @pytest.mark.parametrize(("tp", "tokens"), [(1, 249_864), (2, 751_550), (4, 1_755_323), (8, 3_760_597)])
    def test_qwen3_32b_on_h200_as_ai_configurator_computes_it(self, tp, tokens):
        assert estimated_kv_tokens(shape(QWEN3_32B), H200, ParallelMapping(tp=tp)) == pytest.approx(tokens, rel=0.01)

    def test_what_vllm_logged(self):
        assert estimated_kv_tokens(shape(QWEN3_32B), H200, TP1) == pytest.approx(256_000, rel=0.02)

    def test_what_dynamos_profile_holds(self):
        fp8 = shape(LLAMA_8B, quantization_config={"quant_method": "modelopt", "quant_algo": "FP8"})
        assert estimated_kv_tokens(fp8, H200, TP1) == pytest.approx(945_029, rel=0.02)

    def test_by_hand(self):
        # 100 GiB * (0.9 - 0.025) - 47.5 GiB = 40 GiB; a token takes 2 * 2 heads * 64 * 2 bytes * 10 layers = 5120 bytes
        model = ModelShape(weights_gib=47.5, expert_weights_gib=0, layers=10, kv_heads=2, head_dim=64, kv_element_bytes=2)
        assert estimated_kv_tokens(model, Hardware(vram_gib=100), TP1) == 40 * 2**30 // 5120
        assert estimated_kv_tokens(model, Hardware(vram_gib=100), TP1, memory_fraction=0.7) == 20 * 2**30 // 5120

    def test_copied_kv_heads_hold_no_more(self):
        # one KV head: each GPU of a TP group keeps all of it, only the weights are halved (87.5 - 10, 87.5 - 5 GiB)
        model = ModelShape(weights_gib=10, expert_weights_gib=0, layers=1, kv_heads=1, head_dim=512, kv_element_bytes=2)
        on_one, on_two = (estimated_kv_tokens(model, Hardware(vram_gib=100), ParallelMapping(tp=n)) for n in (1, 2))
        assert (on_one, on_two) == (77.5 * 2**19, 82.5 * 2**19)

    def test_latent_attention_is_copied_by_tp_and_multiplied_by_dp(self):
        # DeepSeek-V3: 61 layers * 576 * 2 bytes = 70272 bytes per token; 122.3 - 78.3 GiB on each of TEP8, 122.3 - 93.8 on each of DEP8
        model = shape(DEEPSEEK_V3)
        assert estimated_kv_tokens(model, H200, ParallelMapping(tp=8, ep=8)) == pytest.approx(44.0 * 2**30 / 70272, rel=0.002)
        assert estimated_kv_tokens(model, H200, ParallelMapping(dp=8, ep=8)) == pytest.approx(8 * 28.53 * 2**30 / 70272, rel=0.002)

    @pytest.mark.parametrize(
        "changed",
        [{"torch_dtype": None}, {"model_type": "new"}, {"num_hidden_layers": None}, {"layer_types": ["linear_attention"]}, {"index_topk": 9}],
    )
    def test_what_is_not_known_is_not_estimated(self, changed):
        assert estimated_kv_tokens(shape(QWEN3_32B, **changed), H200, TP1) is None

    def test_nor_without_the_memory_of_a_gpu_or_the_share_of_experts_or_any_room(self):
        assert estimated_kv_tokens(shape(QWEN3_32B), Hardware(), TP1) is None
        assert estimated_kv_tokens(ModelShape().weighing(600), H200, ParallelMapping(dp=8, ep=8)) is None
        assert estimated_kv_tokens(shape(QWEN3_32B), Hardware(vram_gib=40), TP1) is None


class TestImplausible:
    def test_the_first_log_line_taken_for_the_second(self):
        # Dynamo's published comparison has 8224 tokens for Qwen3 32B on an H200; nothing failed
        estimate = estimated_kv_tokens(shape(QWEN3_32B), H200, TP1)
        assert told(8224, estimate_tokens=estimate) == (
            "a KV capacity of 8,224 tokens (log) is 0.033 times the 251,093 that the memory leaves room for"
        )
        assert told(8224, max_context_tokens=40960) == (
            "a KV capacity of 8,224 tokens (log) holds not even one request of the longest context, 40,960 tokens"
        )

    def test_what_engines_truly_say(self):
        estimate = estimated_kv_tokens(shape(QWEN3_32B), H200, TP1)
        assert told(256_000, max_context_tokens=40960, estimate_tokens=estimate) == ""

    @pytest.mark.parametrize(("tokens", "fine"), [(75_000, True), (125_000, True), (74_999, False), (125_001, False), (800_000, False)])
    def test_a_quarter_off_is_the_limit(self, tokens, fine):
        assert (told(tokens, estimate_tokens=100_000) == "") == fine

    def test_one_context_is_enough(self):
        assert told(4096, max_context_tokens=4096) == ""
        assert told(4095, max_context_tokens=4096) != ""

    def test_nothing_to_compare_with(self):
        assert told(1) == ""
        assert told(0) == "a KV capacity of 0 tokens (log) cannot be"
