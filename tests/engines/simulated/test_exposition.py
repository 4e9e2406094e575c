"""Names, labels and buckets are compared with a recorded /metrics of a Dynamo frontend 1.6.1 (tests/data/metrics)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sla_planner.engines.backend import Evidence
from sla_planner.engines.backends import backend as backend_named
from sla_planner.engines.simulated.api import Call, Endpoint
from sla_planner.engines.simulated.exposition import Exposition, FleetMetrics, FrontendMetrics, Histogram
from sla_planner.engines.simulated.options import Mode
from sla_planner.model.profile import ParallelMapping
from sla_planner.sweep.port import Deployment, Phase

RECORDED = Path(__file__).parents[2] / "data" / "metrics" / "dynamo-frontend-1.6.1.txt"


def call(*, stream: bool = True) -> Call:
    return Call(Endpoint.CHAT, isl_tokens=100, max_tokens=2, min_tokens=0, ignore_eos=True, stream=stream, include_usage=True)


def test_a_value_counts_in_its_bucket_and_all_above():
    histogram = Histogram((1, 2, 4))
    for value in (1, 1.5, 2, 3, 100):
        histogram.observe(value)
    samples = {sample.labels.get("le", sample.name): sample.value for sample in histogram.family("x", "", "m").samples}
    assert samples == {
        "1.0": 1,
        "2.0": 3,
        "4.0": 4,
        "+Inf": 5,
        "dynamo_frontend_x_count": 5,
        "dynamo_frontend_x_sum": pytest.approx(107.5),
    }


def test_names_labels_and_buckets_are_those_of_dynamo(world):
    frontend = FrontendMetrics("tiny-qwen3")
    frontend.started(call())
    frontend.finished(call(), osl_tokens=2, duration_s=1.0, error_type="")
    recorded = {shape(sample) for family in text_string_to_metric_families(RECORDED.read_text()) for sample in family.samples}

    async def test(fleet) -> None:
        text = Exposition(frontend, FleetMetrics(fleet, "tiny-qwen3")).text().decode()
        ours = {shape(sample) for family in text_string_to_metric_families(text) for sample in family.samples}
        frontends = {each for each in ours if each[0].startswith("dynamo_")}
        assert len(frontends) > 80
        assert frontends <= recorded
        for histogram in ("time_to_first_token", "inter_token_latency", "request_duration"):
            name = f"dynamo_frontend_{histogram}_seconds_bucket"
            assert {each for each in frontends if each[0] == name} == {each for each in recorded if each[0] == name}

    world.run(world.options(), test)


def shape(sample) -> tuple[str, tuple[tuple[str, object], ...]]:
    """A sample without its value; bounds as numbers ("1" is "1.0")."""
    return sample.name, tuple(sorted((name, float(value) if name == "le" else value) for name, value in sample.labels.items()))


def test_gauges_of_workers_and_queues(world):
    async def test(fleet) -> None:
        running = world.submit(fleet, 250, 50)
        while not running.sink.token_ms:
            await asyncio.sleep(0.001)
        for _ in range(3):
            world.submit(fleet, 100, 5)
        text = Exposition(FrontendMetrics("m"), FleetMetrics(fleet, "m")).text().decode()
        values = {
            (sample.name, sample.labels["worker"]): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name.startswith("vllm:") and sample.labels.get("model_name") == "m"
        }
        assert values["vllm:num_requests_running", "prefill-0"] == 1
        assert values["vllm:num_requests_running", "decode-0"] == 1
        assert values["vllm:kv_cache_usage_perc", "prefill-0"] == pytest.approx(0.1)
        assert values["vllm:kv_cache_usage_perc", "decode-0"] == pytest.approx(0.251)
        assert 'vllm:num_requests_waiting{model_name="m",role="prefill",worker="shared"} 2.0' in text
        assert 'vllm:num_requests_waiting{model_name="m",role="decode",worker="shared"} 0.0' in text

    world.run(world.options(), test)


@pytest.mark.parametrize(
    ("options", "stated"),
    [
        ({"mode": Mode.AGG, "same_gpus": True}, [("agg-0", "0", "62")]),  # 1000 tokens are 62 whole blocks of 16
        ({"decode_workers": 2}, [("decode-0", "0", "62"), ("decode-1", "1", "62")]),
        ({"reported_kv_tokens": 8000}, [("decode-0", "0", "500")]),
        ({"ranks": 2}, [("decode-0", "0", "62"), ("decode-0", "1", "62")]),
    ],
)
def test_kv_capacity_of_workers_that_decode(world, options, stated):
    async def test(fleet) -> None:
        text = Exposition(FrontendMetrics("m"), FleetMetrics(fleet, "m")).text().decode()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples if sample.name == "vllm:cache_config_info"]
        assert [(sample.labels["worker"], sample.labels["engine"], sample.labels["num_gpu_blocks"]) for sample in samples] == stated
        assert {(sample.labels["block_size"], sample.value) for sample in samples} == {("16", 1.0)}

    world.run(world.options(**options), test)


@pytest.mark.parametrize(("backend", "tokens"), [("vllm", 62 * 16), ("sglang", 1000)])
def test_each_rank_states_its_share_and_a_sweep_reads_the_whole(world, backend, tokens):
    async def test(fleet) -> None:
        page = Exposition(FrontendMetrics("m"), FleetMetrics(fleet, "m")).text().decode()
        spread = Deployment(ParallelMapping(tp=1, dp=2, ep=2), Phase.DECODE)
        found = backend_named(backend).capacity(Evidence("", {"/metrics": page}), spread)
        assert found is not None
        assert found.max_kv_tokens == tokens

    world.run(world.options(ranks=2), test)
