"""What is known of each engine: its command line at a mapping, argument by argument, and the contract of all of them."""

import json

import pytest

from sla_planner.engines.backends import backend, backend_names
from sla_planner.engines.metric_names import FAMILIES
from sla_planner.errors import UsageError
from sla_planner.model.profile import ParallelMapping
from sla_planner.sweep.port import Deployment, Phase

TP4 = ParallelMapping(tp=4)
TEP8 = ParallelMapping(tp=8, ep=8)
DEP8 = ParallelMapping(dp=8, ep=8)
WITH_MANIFEST = ("vllm", "sglang", "trtllm")


def arguments(name, text, mapping, phase=Phase.BOTH):
    return " ".join(backend(name).arguments(text.split(), Deployment(mapping, phase)))


def test_the_engines_are_found_by_looking():
    assert backend_names() == ("llamacpp", "sglang", "simulated", "trtllm", "vllm")
    assert [backend(name).name for name in backend_names()] == list(backend_names())


def test_an_unknown_engine_is_one_line_with_the_known_ones():
    with pytest.raises(UsageError, match=r"unknown backend 'vlm'; known: llamacpp, sglang, simulated, trtllm, vllm"):
        backend("vlm")


def test_every_family_of_an_engine_is_in_the_table():
    for name in backend_names():
        for family in backend(name).families:
            assert FAMILIES[family.name] is family


@pytest.mark.parametrize("name", ["llamacpp", "simulated"])
def test_an_engine_without_a_manifest_says_so(name):
    with pytest.raises(UsageError, match=r"has no DynamoGraphDeployment; use an engine command, an endpoint or a workload"):
        backend(name).arguments(["--model", "m"], Deployment(TP4))


class TestVllm:
    @pytest.mark.parametrize(
        ("given", "mapping", "phase", "expected"),
        [
            ("--model m", TP4, Phase.BOTH, "--model m --tensor-parallel-size 4"),
            ("--model m --is-decode-worker", TP4, Phase.DECODE, "--model m --tensor-parallel-size 4 --enable-prefix-caching"),
            (
                "--model m --is-prefill-worker --enable-prefix-caching",
                TP4,
                Phase.PREFILL,
                "--model m --tensor-parallel-size 4 --no-enable-prefix-caching --max-num-seqs 1 --max-num-batched-tokens 32768",
            ),
            ("--disaggregation-mode prefill --no-enable-prefix-caching", TP4, Phase.BOTH, "--no-enable-prefix-caching --tensor-parallel-size 4"),
            ("-tp 1 --max-num-seqs=64", TP4, Phase.PREFILL, "-tp 4 --max-num-seqs=1 --no-enable-prefix-caching --max-num-batched-tokens 32768"),
            ("--model m", TEP8, Phase.BOTH, "--model m --tensor-parallel-size 8 --enable-expert-parallel"),
            ("--model m", DEP8, Phase.BOTH, "--model m --tensor-parallel-size 1 --data-parallel-size 8 --enable-expert-parallel"),
            ("-dp 8 -dpl 4 -ep -tp 1", TEP8, Phase.BOTH, "-ep -tp 8"),
            ("-dp 8 --enable-expert-parallel", TP4, Phase.BOTH, "--tensor-parallel-size 4"),
            (
                "--pipeline-parallel-size 2 --speculative-config {}",
                TP4,
                Phase.BOTH,
                "--pipeline-parallel-size 2 --speculative-config {} --tensor-parallel-size 4",
            ),
            ("-pp 1", ParallelMapping(tp=4, pp=2), Phase.BOTH, "-pp 2 --tensor-parallel-size 4"),
        ],
    )
    def test_arguments(self, given, mapping, phase, expected):
        assert arguments("vllm", given, mapping, phase) == expected

    def test_the_prefill_limit_of_several_ranks_is_one_request_each(self):
        assert "--max-num-seqs 1" in arguments("vllm", "--model m", DEP8, Phase.PREFILL)

    def test_experts_over_some_of_the_gpus_are_refused(self):
        with pytest.raises(
            UsageError, match=r"an expert parallelism of 2 is not possible; vLLM spreads experts over all 8 GPUs or none; use TEP or DEP"
        ):
            arguments("vllm", "--model m", ParallelMapping(tp=8, ep=2))


class TestSglang:
    @pytest.mark.parametrize(
        ("given", "mapping", "phase", "expected"),
        [
            ("--model-path m", TP4, Phase.BOTH, "--model-path m --tp 4"),
            ("--tp-size=1 --disable-radix-cache", TP4, Phase.BOTH, "--tp-size=4 --disable-radix-cache"),
            ("--tp-size=1 --disable-radix-cache", TP4, Phase.DECODE, "--tp-size=4"),
            (
                "--tensor-parallel-size 1 --disaggregation-mode prefill --disaggregation-transfer-backend nixl --disaggregation-bootstrap-port=30001",
                TP4,
                Phase.PREFILL,
                "--tensor-parallel-size 4 --disable-radix-cache --max-running-requests 1 --chunked-prefill-size 32768",
            ),
            ("--model-path m", TEP8, Phase.BOTH, "--model-path m --tp 8 --ep-size 8"),
            ("--tp 16 --dp 16 --ep-size 16 --enable-dp-attention --enable-dp-lm-head", TEP8, Phase.BOTH, "--tp 8 --ep-size 8"),
            ("--tp 1", DEP8, Phase.BOTH, "--tp 8 --dp 8 --enable-dp-attention --ep-size 8 --load-balance-method round_robin"),
            ("--tp 1 --attn-dp-size 4", DEP8, Phase.BOTH, "--tp 8 --attn-dp-size 8 --ep-size 8 --load-balance-method round_robin"),
            ("--tp 8 --attn-dp-size 8", TEP8, Phase.BOTH, "--tp 8 --ep-size 8"),
            ("--tp 4", ParallelMapping(tp=2, dp=2), Phase.BOTH, "--tp 2 --dp 2 --load-balance-method round_robin"),
            (
                "--tp 4 --enable-dp-attention",
                ParallelMapping(tp=2, dp=2),
                Phase.BOTH,
                "--tp 4 --enable-dp-attention --dp 2 --load-balance-method round_robin",
            ),
            ("--ep 4 --pp 2 --speculative-algorithm EAGLE", TP4, Phase.BOTH, "--pp 2 --speculative-algorithm EAGLE --tp 4"),
        ],
    )
    def test_arguments(self, given, mapping, phase, expected):
        assert arguments("sglang", given, mapping, phase) == expected


AGGREGATED = {"disable_overlap_scheduler": False, "cache_transceiver_config": None}


class TestTrtllm:
    def overrides(self, mapping, phase, given=None, more=()):
        flags = ["--model-path", "m", *more, *(["--override-engine-args", json.dumps(given)] if given else [])]
        written = backend("trtllm").arguments(flags, Deployment(mapping, phase))
        at = written.index("--override-engine-args")
        return written[:at], json.loads(written[at + 1])

    def test_dense(self):
        rest, overrides = self.overrides(TP4, Phase.BOTH, more=["--disaggregation-mode", "decode", "--disaggregation-strategy=x"])
        assert rest == ["--model-path", "m"]
        assert overrides == {"tensor_parallel_size": 4, "enable_attention_dp": False, **AGGREGATED}

    def test_prefill_limits_are_merged_with_what_is_there(self):
        given = {"kv_cache_config": {"free_gpu_memory_fraction": 0.8, "enable_block_reuse": True}, "max_batch_size": 64, "print_iter_log": True}
        _, overrides = self.overrides(TP4, Phase.PREFILL, given)
        assert overrides == {
            "kv_cache_config": {"free_gpu_memory_fraction": 0.8, "enable_block_reuse": False},
            "max_batch_size": 1,
            "max_num_tokens": 32768,
            "print_iter_log": True,
            "tensor_parallel_size": 4,
            "enable_attention_dp": False,
            **AGGREGATED,
        }

    def test_decode_reuses_blocks_and_keeps_its_limits(self):
        _, overrides = self.overrides(TP4, Phase.DECODE, {"max_batch_size": 64})
        assert (overrides["kv_cache_config"], overrides["max_batch_size"]) == ({"enable_block_reuse": True}, 64)

    @pytest.mark.parametrize(
        ("mapping", "attention_dp", "moe_tp", "moe_ep"), [(TEP8, False, 1, 8), (DEP8, True, 1, 8), (ParallelMapping(tp=8, ep=2), False, 4, 2)]
    )
    def test_experts(self, mapping, attention_dp, moe_tp, moe_ep):
        _, overrides = self.overrides(mapping, Phase.BOTH)
        assert overrides["tensor_parallel_size"] == 8
        assert overrides["enable_attention_dp"] is attention_dp
        assert (overrides["moe_tensor_parallel_size"], overrides["moe_expert_parallel_size"]) == (moe_tp, moe_ep)

    def test_experts_of_before_do_not_stay(self):
        rest, overrides = self.overrides(
            TP4, Phase.BOTH, more=["--expert-parallel-size", "8", "--tensor-parallel-size", "8", "--enable-attention-dp"]
        )
        assert (overrides["moe_expert_parallel_size"], overrides["moe_tensor_parallel_size"]) == (1, 4)
        assert rest == ["--model-path", "m", "--expert-parallel-size", "1", "--tensor-parallel-size", "4"]

    @pytest.mark.parametrize("text", ["{", "[1]", '{"a": $TP}'])
    def test_overrides_that_are_no_json_object_are_refused(self, text):
        with pytest.raises(UsageError, match=r"--override-engine-args is no JSON"):
            backend("trtllm").arguments(["--override-engine-args", text], Deployment(TP4))

    def test_dotted_flags_are_refused_because_the_worker_takes_only_one_kind(self):
        with pytest.raises(UsageError, match=r"--trtllm.kv_cache_config.dtype cannot stand beside --override-engine-args"):
            backend("trtllm").arguments(["--trtllm.kv_cache_config.dtype", "fp8"], Deployment(TP4))


GIVEN = {
    "vllm": "--model m --is-prefill-worker -tp 2 -tp 2 --unknown-flag a,b -O3 --speculative-config {} --enable-prefix-caching",
    "sglang": "--model-path m --tp 2 --tp-size=2 --disaggregation-mode decode --unknown-flag a,b --enable-dp-attention --dp 2",
    "trtllm": '--model-path m --disaggregation-mode decode --unknown-flag a,b --override-engine-args {"max_seq_len":9}',
}


@pytest.mark.parametrize("name", WITH_MANIFEST)
@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("mapping", [TP4, TEP8, DEP8, ParallelMapping(tp=2, pp=2), ParallelMapping(tp=2, dp=2)], ids=lambda mapping: mapping.label)
def test_a_second_time_changes_nothing_and_what_is_not_ours_stays(name, phase, mapping):
    deployment = Deployment(mapping, phase)
    for given in (
        GIVEN[name].split(),
        ["sh", "-c", f"cd /x && A=1 python3 -m dynamo.{name} {GIVEN[name].replace('{', chr(39) + '{').replace('}', '}' + chr(39))} 2>&1"],
    ):
        once = backend(name).arguments(given, deployment)
        assert backend(name).arguments(once, deployment) == once
        text = " ".join(once)
        assert "--unknown-flag a,b" in text
        assert "disagg" not in text
        assert "worker" not in text
    assert text.startswith(f"sh -c cd /x && A=1 python3 -m dynamo.{name} --model")
    assert text.endswith(" 2>&1")
