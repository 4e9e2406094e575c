"""Engines from a DynamoGraphDeployment: what the host is handed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sla_planner.engines.backends import backend
from sla_planner.engines.hosted_graph import GraphRecipe, PairRecipe
from sla_planner.errors import UsageError
from sla_planner.model.profile import ParallelMapping
from sla_planner.sweep.port import Deployment, Phase

DGDS = Path(__file__).parents[1] / "data" / "dgd"
TP2, TP4 = ParallelMapping(tp=2), ParallelMapping(tp=4)


def recipe(stem="vllm-disagg", **more):
    return GraphRecipe((DGDS / f"{stem}.yaml").read_text(), backend(stem.partition("-")[0]), **more)


def test_one_engine_with_the_operators_service_and_label():
    manifests = recipe(worker_image="reg/vllm:2", port=8080).manifests(Deployment(TP4), "sweep-1-tp4")
    (document,) = manifests.documents
    assert document["metadata"]["name"] == "sweep-1-tp4"
    assert list(document["spec"]["services"]) == ["Frontend", "VllmDecodeWorker"]
    assert (manifests.service, manifests.port) == ("sweep-1-tp4-frontend", 8080)
    assert manifests.pods == "nvidia.com/dynamo-graph-deployment-name=sweep-1-tp4"
    assert (manifests.gpus, manifests.gpu_resource) == ((4,), "nvidia.com/gpu")
    assert recipe(worker_image="reg/vllm:2").image == "reg/vllm:2"
    assert recipe().image == "example.com/dynamo/vllm-runtime:1.0"


def test_an_engine_over_several_nodes_is_several_pods():
    assert recipe("sglang-moe-disagg").manifests(Deployment(ParallelMapping(dp=16, ep=16)), "e").gpus == (8, 8)


def test_a_gpu_of_another_maker_is_counted():
    text = (DGDS / "vllm-v1beta1.yaml").read_text().replace("nvidia.com/gpu", "amd.com/gpu")
    manifests = GraphRecipe(text, backend("vllm")).manifests(Deployment(TP4, Phase.DECODE), "e")
    assert (manifests.gpus, manifests.gpu_resource) == ((4,), "amd.com/gpu")


def test_the_text_is_the_same_every_time():
    name, text = recipe().text(Deployment(TP4, Phase.PREFILL))
    assert name == "prefill_4gpus_TP4/config.yaml"
    assert text == recipe().text(Deployment(TP4, Phase.PREFILL))[1]
    assert yaml.safe_load(text)["metadata"]["name"] == "prefill-4gpus-tp4"


@pytest.mark.parametrize("stem", ["vllm-disagg", "vllm-v1beta1"])
def test_a_pair_is_both_workers_in_their_roles(stem):
    manifests = PairRecipe(recipe(stem), TP2, TP4).manifests(Deployment(TP4), "pair")
    spec = manifests.documents[0]["spec"]
    if stem == "vllm-disagg":
        bodies = spec["services"]
        assert list(bodies) == ["Frontend", "VllmDecodeWorker", "VllmPrefillWorker"]
        prefill, decode = (bodies[f"Vllm{role}Worker"]["extraPodSpec"]["mainContainer"]["args"] for role in ("Prefill", "Decode"))
        assert "--is-prefill-worker" in prefill
        assert "--is-prefill-worker" not in decode
        assert "-tp=4" in decode
    else:
        bodies = {component["name"]: component for component in spec["components"]}
        assert list(bodies) == ["frontend", "prefill", "decode"]
        prefill = bodies["prefill"]["podTemplate"]["spec"]["containers"][1]["args"]
        assert prefill[:4] == ["--model", "Qwen/Qwen3-32B", "--disaggregation-mode", "prefill"]
    assert prefill[prefill.index("--tensor-parallel-size") + 1] == "2"
    assert {body["replicas"] for body in bodies.values()} == {1}
    assert manifests.gpus == (4, 2)
    assert PairRecipe(recipe(stem), TP2, TP4).text(Deployment(TP4))[0] == "pair_TP2_TP4/config.yaml"


@pytest.mark.parametrize(
    ("name", "given", "flags"),
    [
        ("sglang", "--model-path m --tp 1 --disaggregation-mode decode", "--model-path m --tp 4 --disaggregation-mode decode"),
        ("vllm", "--model m --is-prefill-worker --max-num-seqs 8", "--model m --is-prefill-worker --max-num-seqs 8 --tensor-parallel-size 4"),
    ],
)
def test_spreading_an_engine_leaves_the_rest_as_it_is(name, given, flags):
    assert " ".join(backend(name).spread(given.split(), TP4)) == flags


def test_spreading_tensorrt_keeps_its_role():
    written = backend("trtllm").spread(["--model-path", "m", "--disaggregation-mode", "prefill"], TP4)
    assert written[:4] == ["--model-path", "m", "--disaggregation-mode", "prefill"]
    assert '"tensor_parallel_size": 4' in written[-1]
    assert "cache_transceiver_config" not in written[-1]


def test_an_aggregated_graph_has_no_pair():
    with pytest.raises(UsageError, match="one worker for both phases"):
        PairRecipe(recipe("vllm-agg"), TP2, TP4)


def test_what_is_no_graph_is_refused_at_once():
    with pytest.raises(UsageError, match="the manifest holds no DynamoGraphDeployment"):
        GraphRecipe("kind: Pod\n", backend("vllm"))
