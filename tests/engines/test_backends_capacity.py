"""How much an engine holds, read from what engines really print, and from the traps among it."""

import json
from pathlib import Path

import pytest

from sla_planner.engines.backend import Evidence
from sla_planner.engines.backends import backend, backend_names
from sla_planner.model.profile import ParallelMapping
from sla_planner.sweep.port import Deployment

DATA = Path(__file__).parents[1] / "data"
TP2 = ParallelMapping(tp=2)
DEP2 = ParallelMapping(dp=2, ep=2)
SPLIT_PROPS = {"default_generation_settings": {"params": {"seed": 1}, "n_ctx": 512}, "total_slots": 8, "build_info": "b0-unknown"}


def read(name, log="", mapping=TP2, **pages):
    return backend(name).capacity(Evidence(log, {f"/{page}": text for page, text in pages.items()}), Deployment(mapping))


def tokens(*given, **named):
    return read(*given, **named).max_kv_tokens


def log_file(name):
    return (DATA / "engine_logs" / name).read_text()


@pytest.mark.parametrize("name", backend_names())
@pytest.mark.parametrize("log", ["", "INFO: loading\nTraceback (most recent call last):\n"])
def test_an_engine_that_does_not_say_is_not_guessed_at(name, log):
    assert read(name, log, metrics="# HELP up\nup 1\n", props="<html>") is None


class TestVllm:
    def test_the_page_of_a_real_server(self):
        page = (DATA / "metrics" / "vllm-0.32.txt").read_text()
        page += 'vllm:cache_config_info{block_size="128",engine="0",kv_cache_size_tokens="524288",num_gpu_blocks="4096"} 1.0\n'
        assert tokens("vllm", metrics=page) == 524288

    @pytest.mark.parametrize(
        ("labels", "mapping", "expected"),
        [
            ('block_size="16",num_gpu_blocks="1000"', TP2, 16000),
            ('block_size="16",num_gpu_blocks="1000",kv_cache_size_tokens="None"', TP2, 16000),
            ('block_size="16",num_gpu_blocks="1000"', DEP2, 32000),  # a page of one rank
            ('block_size="16",num_gpu_blocks="1000",kv_cache_size_tokens="15000"', DEP2, 30000),
        ],
    )
    def test_one_rank_on_the_page(self, labels, mapping, expected):
        assert tokens("vllm", metrics=f'vllm:cache_config_info{{{labels},engine="0"}} 1.0\n', mapping=mapping) == expected

    def test_both_ranks_on_the_page_carry_the_sum_of_their_blocks(self):
        page = "".join(f'vllm:cache_config_info{{block_size="16",engine="{rank}",num_gpu_blocks="2000"}} 1.0\n' for rank in (0, 1))
        assert tokens("vllm", metrics=page, mapping=DEP2) == 32000

    def test_the_page_comes_before_the_log(self):
        page = 'vllm:cache_config_info{block_size="16",num_gpu_blocks="1000"} 1.0'
        assert tokens("vllm", log_file("vllm-0.32-tp2.log"), metrics=page) == 16000

    def test_of_a_log_with_two_starts_the_last(self):
        capacity = read("vllm", log_file("vllm-0.32-tp2.log"))
        assert (capacity.max_kv_tokens, capacity.max_sequences) == (2042016, 256)

    def test_lines_of_older_versions_and_of_every_rank(self):
        log = "".join(
            f"(EngineCore_DP{rank} pid=7) INFO 11-21 12:00:00 [kv_cache_utils.py:849] GPU KV cache size: {size} tokens\n"
            for rank, size in ((0, "9,000"), (1, "9,000"), (1, "300,000"), (0, "301,000"))
        )
        assert tokens("vllm", log, mapping=DEP2) == 601000
        assert tokens("vllm", log, mapping=ParallelMapping(dp=4, ep=4)) == 601000 + 2 * 300000

    def test_the_concurrency_is_the_last_resort(self):
        assert tokens("vllm", "Maximum concurrency for 2,048 tokens per request: 997.08x") == 2042019  # 2048 * 997.08 = 2042019.84

    @pytest.mark.parametrize("words", ["max_num_seqs=256", "'max_num_seqs': 256,", "--max-num-seqs 256", "--max-num-seqs=256"])
    def test_sequences_are_per_rank(self, words):
        assert read("vllm", f"args {words}\nGPU KV cache size: 10 tokens", mapping=DEP2).max_sequences == 512

    def test_sequences_that_are_not_said_are_not_known(self):
        assert read("vllm", "'max_num_seqs': None\nGPU KV cache size: 10 tokens").max_sequences is None


class TestSglang:
    def test_ranks_add_up(self):
        capacity = read("sglang", log_file("sglang-0.5.23-dep2.log"), mapping=DEP2)
        assert (capacity.max_kv_tokens, capacity.max_sequences) == (512000 + 511872, 2048)

    def test_tensor_parallel_ranks_do_not(self):
        log = "".join(f"[2026-11-21 12:00:00 TP{rank}] KV Cache is allocated. #tokens: 2042016, K size: 1 GB, V size: 1 GB\n" for rank in (0, 1))
        assert tokens("sglang", log) == 2042016

    def test_the_pool_of_a_draft_model_is_not_the_cache(self):
        log = (
            "KV Cache is allocated. dtype: x, #tokens: 700\nPost-capture KV sizing: draft KV cache allocated. dtype: x, #tokens: 90, KV size: 1 GB\n"
        )
        assert tokens("sglang", log) == 700
        assert tokens("sglang", log + "Post-capture KV sizing: KV cache allocated. dtype: x, #tokens: 800, KV size: 1 GB\n") == 800

    def test_the_gauge(self):
        page = "".join(
            f'sglang:max_total_num_tokens{{dp_rank="{dp}",model_name="m",tp_rank="{tp}"}} {size}\n'
            for dp, tp, size in ((0, 0, "1.5e+06"), (0, 1, "1.5e+06"), (1, 2, "1.4e+06"), (1, 3, "1.4e+06"))
        )
        page += 'sglang:max_total_num_tokens_swa{dp_rank="0"} 7.0\n'
        assert tokens("sglang", metrics=page, mapping=ParallelMapping(tp=2, dp=2, ep=4)) == 2900000


class TestTrtllm:
    def test_the_first_allocation_is_an_estimate(self):
        capacity = read("trtllm", log_file("trtllm-tp2.log"))
        assert (capacity.max_kv_tokens, capacity.max_sequences) == (502272, 128)

    def test_attention_ranks_have_a_cache_each(self):
        assert tokens("trtllm", log_file("trtllm-tp2.log"), mapping=DEP2) == 1004544

    def test_the_batch_of_something_else_is_not_taken(self):
        log = log_file("trtllm-tp2.log").replace("'max_batch_size': 128, ", "")
        assert read("trtllm", log).max_sequences is None


class TestLlamacpp:
    @pytest.mark.parametrize(("file", "expected"), [("llamacpp-split.log", 4 * 512), ("llamacpp-unified.log", 2048)])
    def test_the_log_of_a_real_server(self, file, expected):
        capacity = read("llamacpp", log_file(file), props=json.dumps(SPLIT_PROPS))
        assert (capacity.max_kv_tokens, capacity.max_sequences) == (expected, 4)

    def test_a_pool_that_is_larger_than_a_slot_may_be(self):
        log = "llama_context: n_ctx         = 9000\nllama_context: n_ctx_seq     = 9000\n"
        log += "srv load_model: initializing, n_slots = 4, n_ctx_slot = 4096, kv_unified = 'true'"
        assert tokens("llamacpp", log) == 9000

    def test_an_older_log(self):
        log = (
            "llama_model_loader: - kv 3: llama.context_length u32 = 131072\nllama_context: n_ctx         = 8192\n"
            "llama_context: n_ctx_per_seq = 1024\n"
            "srv    load_model: initializing slots, n_slots = 8\nslot   load_model: id  0 | new slot n_ctx_slot = 1024\n"
        )
        capacity = read("llamacpp", log)
        assert (capacity.max_kv_tokens, capacity.max_sequences) == (8192, 8)

    def test_props_alone(self):
        capacity = read("llamacpp", props=json.dumps(SPLIT_PROPS))
        assert (capacity.max_kv_tokens, capacity.max_sequences) == (8 * 512, 8)

    def test_props_with_as_many_slots_as_a_server_takes_by_itself_may_be_one_pool(self):
        capacity = read("llamacpp", props=json.dumps({**SPLIT_PROPS, "total_slots": 4}))
        assert (capacity.max_kv_tokens, capacity.max_sequences) == (512, 4)
        assert "does not say" in capacity.source


def test_of_a_simulated_fleet_one_worker():
    page = "".join(
        f'vllm:cache_config_info{{block_size="16",model_name="m",num_gpu_blocks="59064",role="decode",worker="{worker}"}} 1.0\n' for worker in "abc"
    )
    capacity = read("simulated", metrics=page)
    assert (capacity.max_kv_tokens, capacity.max_sequences) == (945024, None)
