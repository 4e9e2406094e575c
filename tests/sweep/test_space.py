"""Which mappings are measured: each rule with a model that breaks it, and what a person reads when nothing is left."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sweep.models import DEEPSEEK_V3, LLAMA_8B, LLAMA_70B, MIXTRAL_8X7B, QWEN3_32B, QWEN3_235B

from sla_planner.errors import UsageError
from sla_planner.model.profile import ParallelMapping
from sla_planner.sweep.port import Phase
from sla_planner.sweep.space import Hardware, ModelShape, search_space, weights_per_gpu_gib

H200 = 139.8
UNKNOWN = ModelShape()


def shape(config):
    return ModelShape.from_hf_config(config)


def labels(mappings):
    return [mapping.label for mapping in mappings]


def dense(shape=UNKNOWN, backend="vllm", **hardware):
    return search_space(shape, Hardware(**hardware), moe=False, parallel=backend != "llamacpp")


def moe(shape=UNKNOWN, both=False, **hardware):
    return search_space(shape, Hardware(**hardware), moe=True, both=both)


class TestCounts:
    def test_powers_of_two_up_to_a_node_by_default(self):
        space = dense()
        assert labels(space.prefill) == labels(space.decode) == ["TP1", "TP2", "TP4", "TP8"]
        assert labels(dense(gpus_per_node=4).prefill) == ["TP1", "TP2", "TP4"]

    def test_between_what_is_asked_for(self):
        assert labels(dense(min_gpus=3, max_gpus=8).prefill) == ["TP4", "TP8"]

    def test_no_power_of_two_between(self):
        with pytest.raises(UsageError, match="no power of two lies between 5 and 7 GPUs"):
            dense(min_gpus=5, max_gpus=7)

    def test_moe_prefills_with_split_and_decodes_with_copied_attention_up_to_32(self):
        space = moe()
        assert labels(space.prefill) == ["TP1", "TEP2", "TEP4", "TEP8", "TEP16", "TEP32"]
        assert labels(space.decode) == ["TP1", "DEP2", "DEP4", "DEP8", "DEP16", "DEP32"]
        assert {(m.tp, m.dp, m.ep) for m in space.prefill if m.gpus == 8} == {(8, 1, 8)}
        assert {(m.tp, m.dp, m.ep) for m in space.decode if m.gpus == 8} == {(1, 8, 8)}

    def test_both_kinds_for_both_phases_on_request(self):
        space = moe(both=True, max_gpus=4)
        assert labels(space.prefill) == labels(space.decode) == ["TP1", "TEP2", "DEP2", "TEP4", "DEP4"]

    def test_llama_cpp_runs_on_one(self):
        space = dense(backend="llamacpp", max_gpus=2)
        assert labels(space.prefill) == ["TP1"]
        assert space.left_out == (("TP2", "the engine has no tensor or expert parallelism"),)

    def test_what_the_budget_does_not_hold_is_left_out(self):
        space = dense(budget_gpus=2, max_gpus=4)
        assert labels(space.prefill) == ["TP1", "TP2"]
        assert space.left_out == (("TP4", "4 GPUs are more than the sweep may use, 2"),)


class TestRules:
    def test_weights_that_do_not_fit(self):
        # 70.55e9 parameters in two bytes are 131.4 GiB; 0.9 * 79.6 GiB are 71.6
        space = dense(shape(LLAMA_70B), vram_gib=79.6)
        assert labels(space.prefill) == ["TP2", "TP4", "TP8"]
        assert space.left_out == (("TP1", "131.4 GiB of weights on each GPU, room for 71.6 (0.9 of 79.6 GiB)"),)

    def test_without_the_memory_of_a_gpu_nothing_is_said_of_weights(self):
        assert labels(dense(shape(LLAMA_70B)).prefill) == ["TP1", "TP2", "TP4", "TP8"]

    def test_heads_that_do_not_divide(self):
        qwen25_7b = ModelShape(attention_heads=28, kv_heads=4, intermediate_size=18944)
        space = dense(qwen25_7b)
        assert labels(space.prefill) == ["TP1", "TP2", "TP4"]
        assert space.left_out == (("TP8", "28 attention heads do not divide by 8"),)

    def test_kv_heads_are_split_or_copied_but_not_unevenly(self):
        assert labels(dense(ModelShape(attention_heads=64, kv_heads=2)).prefill) == ["TP1", "TP2", "TP4", "TP8"]
        phi3_medium = dense(ModelShape(attention_heads=40, kv_heads=10))
        assert labels(phi3_medium.prefill) == ["TP1", "TP2"]
        assert phi3_medium.left_out[0] == ("TP4", "10 KV heads neither divide by 4 nor can be copied evenly to 4")

    def test_an_mlp_is_cut_into_whole_blocks(self):
        assert labels(dense(ModelShape(intermediate_size=1408)).prefill) == ["TP1", "TP2", "TP4", "TP8"]
        cut = dense(ModelShape(intermediate_size=1408, quant_block=128))  # 11 blocks
        assert labels(cut.prefill) == ["TP1"]
        assert cut.left_out[0] == ("TP2", "an intermediate size of 1408 over 2 is not whole quantisation blocks of 128")
        assert dense(ModelShape(intermediate_size=1001), max_gpus=2).left_out == (("TP2", "an intermediate size of 1001 does not divide by 2"),)

    def test_experts_without_expert_parallelism_are_cut_too(self):
        assert labels(dense(ModelShape(num_experts=4, moe_intermediate_size=18, intermediate_size=None), max_gpus=4).prefill) == ["TP1", "TP2"]

    def test_experts_are_spread_evenly(self):
        space = moe(shape(MIXTRAL_8X7B), max_gpus=16)
        assert labels(space.decode) == ["TP1", "DEP2", "DEP4", "DEP8"]
        assert dict(space.left_out)["DEP16"] == dict(space.left_out)["TEP16"] == "8 experts do not divide by 16"

    def test_copied_attention_is_not_bound_by_its_heads(self):
        space = moe(ModelShape(attention_heads=20, kv_heads=4), max_gpus=8)
        assert (labels(space.prefill), labels(space.decode)[-1]) == (["TP1", "TEP2", "TEP4"], "DEP8")

    def test_a_dense_engine_stays_on_a_node_and_an_moe_engine_need_not(self):
        space = dense(max_gpus=16)
        assert labels(space.prefill)[-1] == "TP8"
        assert space.left_out == (("TP16", "16 GPUs of a dense engine do not fit a node of 8"),)
        assert labels(moe(max_gpus=16).prefill)[-1] == "TEP16"

    def test_deepseek_v3_on_h200(self):
        # 609 GiB of 626.7 are experts; copied attention (17.7 GiB) makes DEP4 169.9 and DEP8 93.8 GiB on each GPU; 18432 / 32 is 4.5 blocks
        space = moe(shape(DEEPSEEK_V3), vram_gib=H200)
        assert labels(space.prefill) == ["TEP8", "TEP16"]
        assert labels(space.decode) == ["DEP8", "DEP16", "DEP32"]
        assert [label for label, _ in space.left_out] == ["TP1", "TEP2", "DEP2", "TEP4", "DEP4", "TEP32"]

    def test_weights_per_gpu(self):
        model = ModelShape(weights_gib=100, expert_weights_gib=80)
        assert weights_per_gpu_gib(model, ParallelMapping(tp=4)) == 25
        assert weights_per_gpu_gib(model, ParallelMapping(tp=4, ep=4)) == 20 / 4 + 80 / 4
        assert weights_per_gpu_gib(model, ParallelMapping(dp=4, ep=4)) == 20 + 80 / 4
        assert weights_per_gpu_gib(ModelShape(weights_gib=100), ParallelMapping(dp=4, ep=4)) == 25
        assert weights_per_gpu_gib(UNKNOWN, ParallelMapping()) is None


class TestNothingLeft:
    def test_too_big_for_what_is_allowed(self):
        with pytest.raises(UsageError) as caught:
            dense(shape(LLAMA_70B), vram_gib=44.4, max_gpus=2)
        assert str(caught.value) == (
            "no parallel mapping is left to measure: TP2: 65.7 GiB of weights on each GPU, room for 40.0 (0.9 of 44.4 GiB); "
            "raise --max-num-gpus, or check --model-size-gib and --vram-gib"
        )

    def test_too_big_below_and_not_divisible_above(self):
        with pytest.raises(UsageError, match=r"measure: TP2: 50\.0 GiB of weights .*; TP4: 6 attention heads do not divide by 4; raise"):
            dense(ModelShape(weights_gib=100, attention_heads=6), vram_gib=40)

    def test_the_fewest_are_too_many(self):
        with pytest.raises(UsageError, match="TP8: 28 attention heads do not divide by 8; lower --min-num-gpus"):
            dense(ModelShape(attention_heads=28), min_gpus=8)


class TestDeployments:
    def test_a_mapping_of_both_phases_is_started_once(self):
        assert [deployment.label for deployment in dense(max_gpus=4).deployments()] == ["TP1", "TP2", "TP4"]

    def test_strictly_one_phase_each_on_request(self):
        assert [d.label for d in dense(max_gpus=2).deployments(separate_phases=True)] == ["TP1 prefill", "TP1 decode", "TP2 prefill", "TP2 decode"]

    def test_moe_phases_have_their_own(self):
        found = moe(min_gpus=8, max_gpus=16).deployments()
        assert [d.label for d in found] == ["TEP8 prefill", "DEP8 decode", "TEP16 prefill", "DEP16 decode"]

    def test_both_kinds_are_started_once_each(self):
        found = moe(min_gpus=8, max_gpus=8, both=True).deployments()
        assert [(d.label, d.phase) for d in found] == [("TEP8", Phase.BOTH), ("DEP8", Phase.BOTH)]


@given(
    model=st.sampled_from([LLAMA_8B, LLAMA_70B, QWEN3_32B, QWEN3_235B, MIXTRAL_8X7B, DEEPSEEK_V3, {}]),
    low=st.integers(0, 3),
    high=st.integers(3, 6),
    vram_gib=st.none() | st.floats(8, 300),
    both=st.booleans(),
)
def test_every_count_is_kept_or_left_out_with_a_reason(model, low, high, vram_gib, both):
    hardware = Hardware(min_gpus=2**low, max_gpus=2**high, vram_gib=vram_gib)
    is_moe = shape(model).moe
    try:
        space = search_space(shape(model), hardware, moe=is_moe, both=both)
    except UsageError:
        return
    counts = {2**power for power in range(low, high + 1)}
    kept = {*space.prefill, *space.decode}
    assert {m.gpus for m in kept} <= counts
    assert not {m.label for m in kept} & {label for label, _ in space.left_out}
    assert len(kept) + len(space.left_out) == sum(1 if count == 1 or not is_moe else 2 for count in counts)
    assert all(reason for _, reason in space.left_out)
