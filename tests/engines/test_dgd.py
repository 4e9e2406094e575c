"""One engine out of a disaggregated manifest, in both API versions."""

import copy
import shlex
from pathlib import Path

import pytest
import yaml

from sla_planner.engines.backends import backend
from sla_planner.engines.dgd import derive, gpus_per_engine, place_pair, read_dgd, to_yaml, worker_image
from sla_planner.errors import UsageError
from sla_planner.model.profile import ParallelMapping
from sla_planner.sweep.port import Deployment, Phase

FILES = {file.stem: file for file in (Path(__file__).parents[1] / "data" / "dgd").glob("*.yaml")}
BACKENDS = {stem: stem.partition("-")[0] for stem in FILES}
TP4 = ParallelMapping(tp=4)
DEP16 = ParallelMapping(dp=16, ep=16)


def document(stem):
    return read_dgd(FILES[stem].read_text())


def derived(stem, mapping=TP4, phase=Phase.DECODE, **more):
    return derive(document(stem), backend(BACKENDS[stem]), Deployment(mapping, phase), name="probe", **more)


def alpha_worker(result):
    """The only service but the frontend, with its name."""
    services = dict(result["spec"]["services"])
    del services["Frontend"]
    ((name, body),) = services.items()
    return name, body, body["extraPodSpec"]["mainContainer"]


class TestAlpha:
    def test_prefill_is_the_prefill_service_under_the_decode_name(self):
        result = derived("vllm-disagg", phase=Phase.PREFILL)
        name, body, main = alpha_worker(result)
        assert name == "VllmDecodeWorker"
        assert (body["componentType"], body["subComponentType"], body["replicas"]) == ("worker", "decode", 1)
        assert body["resources"] == {"limits": {"gpu": "4"}, "requests": {"cpu": "8", "gpu": "4"}}
        assert main["args"] == [
            "--model",
            "Qwen/Qwen3-32B",
            "--speculative-config",
            '{"method": "ngram", "num_speculative_tokens": 3}',
            "--tensor-parallel-size",
            "4",
            "--no-enable-prefix-caching",
            "--max-num-seqs",
            "1",
            "--max-num-batched-tokens",
            "32768",
        ]
        assert main["command"] == ["python3", "-m", "dynamo.vllm"]
        assert body["extraPodSpec"]["tolerations"] == [{"key": "gpu", "operator": "Exists"}]

    def test_decode_is_the_decode_service_that_nothing_scales(self):
        result = derived("vllm-disagg")
        name, body, main = alpha_worker(result)
        assert name == "VllmDecodeWorker"
        assert body["replicas"] == 1
        assert "scalingAdapter" not in body
        assert body["resources"] == {"limits": {"gpu": "4"}, "requests": {"gpu": "4"}}
        assert main["args"] == ["--model", "Qwen/Qwen3-32B", "--gpu-memory-utilization", "0.92", "-tp=4", "--enable-prefix-caching"]

    def test_it_is_a_deployment_of_its_own(self):
        result = derived("vllm-disagg", image="example.com/mine:2")
        assert result["metadata"] == {"name": "probe", "labels": {"team": "chat"}}
        assert list(result["spec"]["services"]) == ["Frontend", "VllmDecodeWorker"]
        assert {service["dynamoNamespace"] for service in result["spec"]["services"].values()} == {"probe"}
        assert result["spec"]["pvcs"] == [{"name": "model-cache", "create": False}]
        assert alpha_worker(result)[2]["image"] == "example.com/mine:2"
        assert result["spec"]["services"]["Frontend"]["extraPodSpec"]["mainContainer"]["image"] == "example.com/dynamo/vllm-runtime:1.0"

    def test_what_the_server_wrote_does_not_come_along(self):
        result = derived("vllm-disagg-shell")
        assert result["metadata"] == {"name": "probe"}
        assert "status" not in result

    def test_a_shell_line_keeps_its_form(self):
        _, _, main = alpha_worker(derived("vllm-disagg-shell", phase=Phase.PREFILL))
        assert main["command"] == ["/bin/sh", "-c"]
        assert main["args"] == [
            "ulimit -n 65536 && VLLM_LOGGING_LEVEL=INFO exec python3 -m dynamo.vllm \\\n"
            '  --model "$MODEL" \\\n'
            "  --tensor-parallel-size 4 --max-model-len=16384 --no-enable-prefix-caching --max-num-seqs 1 --max-num-batched-tokens 32768\n"
        ]

    def test_services_that_share_an_anchor_do_not_share_the_gpus(self):
        result = derived("vllm-disagg-shell")
        assert result["spec"]["services"]["Frontend"]["resources"]["limits"] == {"gpu": "2"}
        assert alpha_worker(result)[1]["resources"]["limits"] == {"gpu": "4"}
        assert "&" not in to_yaml(result).replace("2>&1", "")

    def test_sglang_dense(self):
        _, _, main = alpha_worker(derived("sglang-disagg", phase=Phase.DECODE))
        assert " ".join(main["args"]) == "--model-path Qwen/Qwen3-32B --page-size 16 --tp 4 --trust-remote-code --host 0.0.0.0"

    def test_trtllm_dense(self):
        _, _, main = alpha_worker(derived("trtllm-disagg", phase=Phase.PREFILL))
        assert main["args"] == [
            "--model-path",
            "Qwen/Qwen3-32B",
            "--extra-engine-args",
            "engine_configs/prefill.yaml",
            "--override-engine-args",
            '{"kv_cache_config": {"free_gpu_memory_fraction": 0.85, "enable_block_reuse": false}, "tensor_parallel_size": 4, '
            '"enable_attention_dp": false, "disable_overlap_scheduler": false, '
            '"cache_transceiver_config": null, "max_batch_size": 1, "max_num_tokens": 32768}',
        ]

    def test_an_engine_over_several_nodes(self):
        _, body, main = alpha_worker(derived("sglang-moe-disagg", DEP16))
        assert body["multinode"] == {"nodeCount": 2}
        assert body["resources"] == {"limits": {"gpu": "8"}, "requests": {"gpu": "8"}}
        assert " ".join(main["args"]) == (
            "--model-path /models/deepseek-r1 --tp 16 --dp 16 --ep-size 16 --enable-dp-attention --enable-dp-lm-head "
            "--mem-fraction-static 0.82 --load-balance-method round_robin"
        )

    def test_fewer_gpus_than_a_node_has_need_one_node(self):
        _, body, main = alpha_worker(derived("sglang-moe-disagg", ParallelMapping(tp=4, ep=4), Phase.PREFILL))
        assert "multinode" not in body
        assert body["resources"]["limits"] == {"gpu": "4"}
        assert " ".join(main["args"]) == (
            "--model-path /models/deepseek-r1 --tp 4 --ep-size 4 --mem-fraction-static 0.75 --disable-radix-cache "
            "--max-running-requests 1 --chunked-prefill-size 32768"
        )

    def test_gpus_that_do_not_fill_nodes_are_refused(self):
        with pytest.raises(UsageError, match=r"12 GPUs cannot be spread evenly over nodes of 8"):
            derived("sglang-moe-disagg", ParallelMapping(tp=12))

    def test_an_aggregated_manifest_serves_for_both(self):
        for phase in Phase:
            name, body, main = alpha_worker(derived("vllm-agg", phase=phase))
            assert (name, body["replicas"], body.get("subComponentType")) == ("VllmWorker", 1, None)
            assert main["command"][:7] == ["python3", "-m", "dynamo.vllm", "--model", "Qwen/Qwen3-0.6B", "--tensor-parallel-size", "4"]


class TestBeta:
    def test_prefill(self):
        result = derived("vllm-v1beta1", phase=Phase.PREFILL, image="example.com/mine:2")
        frontend, worker = result["spec"]["components"]
        assert (frontend["name"], worker["name"], worker["type"], worker["replicas"]) == ("frontend", "decode", "decode", 1)
        assert "minAvailable" not in worker
        sidecar, main = worker["podTemplate"]["spec"]["containers"]
        assert sidecar["image"] == "example.com/logs:1"
        assert main["image"] == "example.com/mine:2"
        assert main["resources"] == {"limits": {"nvidia.com/gpu": "4", "memory": "64Gi"}, "requests": {"nvidia.com/gpu": "4"}}
        assert " ".join(main["args"]) == (
            "--model Qwen/Qwen3-32B --tensor-parallel-size 4 --no-enable-prefix-caching --max-num-seqs 1 --max-num-batched-tokens 32768"
        )
        assert worker["podTemplate"]["metadata"] == {"labels": {"pool": "gpu"}}

    def test_decode(self):
        _, worker = derived("vllm-v1beta1")["spec"]["components"]
        assert "scalingAdapter" not in worker
        assert (
            " ".join(worker["podTemplate"]["spec"]["containers"][0]["args"])
            == "--model Qwen/Qwen3-32B --tensor-parallel-size 4 --enable-prefix-caching"
        )

    def test_gpus_by_resource_claims_are_refused(self):
        given = document("vllm-v1beta1")
        for component in given["spec"]["components"][2:]:
            component["podTemplate"]["spec"]["containers"][-1]["resources"] = {"claims": [{"name": "gpu"}]}
        with pytest.raises(UsageError, match=r"decode gets its GPUs by resource claims"):
            derive(given, backend("vllm"), Deployment(TP4), name="probe")


@pytest.mark.parametrize("stem", sorted(FILES))
@pytest.mark.parametrize("phase", list(Phase))
def test_the_input_stays_and_the_output_is_always_the_same(stem, phase):
    given = document(stem)
    before = copy.deepcopy(given)
    mapping = TP4 if "moe" not in stem else DEP16
    results = [derive(given, backend(BACKENDS[stem]), Deployment(mapping, phase), name="probe") for _ in range(2)]
    gpus_per_engine(given, phase)
    worker_image(given)
    assert given == before
    texts = [to_yaml(result) for result in results]
    assert texts[0] == texts[1]
    assert read_dgd(texts[0]) == yaml.safe_load(texts[0]) == results[0]


@pytest.mark.parametrize("stem", sorted(set(FILES) - {"vllm-disagg"}))
def test_an_engine_that_was_derived_can_be_derived_again(stem):
    mapping = TP4 if "moe" not in stem else DEP16
    deployment = Deployment(mapping, Phase.PREFILL)
    once = derive(document(stem), backend(BACKENDS[stem]), deployment, name="probe")
    assert derive(once, backend(BACKENDS[stem]), deployment, name="probe") == once


def test_gpus_and_image_of_a_worker():
    assert [gpus_per_engine(document("sglang-moe-disagg"), role) for role in Phase] == [16, 16, 16]
    assert [gpus_per_engine(document("vllm-v1beta1"), role) for role in ("prefill", "decode")] == [1, 2]
    assert gpus_per_engine(document("vllm-agg"), Phase.PREFILL) == 1
    assert worker_image(document("vllm-v1beta1")) == "example.com/dynamo/vllm-runtime:1.6"
    assert worker_image(document("trtllm-disagg")) == "example.com/dynamo/tensorrtllm-runtime:1.0"


def test_text_of_several_lines_stays_readable():
    text = to_yaml(derived("vllm-disagg-shell", phase=Phase.PREFILL))
    assert "          - |\n" in text
    assert "exec python3 -m dynamo.vllm \\\n" in text


def test_texts_that_look_like_numbers_to_kubernetes_are_quoted():
    texts = ["1e3", "y", "0o17", "-1", "1.5", "true", "plain", "--a=1e3"]
    lines = to_yaml({"args": texts}).splitlines()[1:]
    assert lines == ["- '1e3'", "- 'y'", "- '0o17'", "- '-1'", "- '1.5'", "- 'true'", "- plain", "- --a=1e3"]


def test_the_frontend_of_an_older_manifest_is_known_by_its_name():
    given = document("vllm-agg")
    given["spec"]["services"]["Frontend"]["componentType"] = "main"
    assert list(derive(given, backend("vllm"), Deployment(TP4), name="probe")["spec"]["services"]) == ["Frontend", "VllmWorker"]


HEAD = "apiVersion: nvidia.com/v1alpha1\nkind: DynamoGraphDeployment\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no DynamoGraphDeployment: nothing"),
        ("a: [", "the manifest is no YAML: while parsing"),
        ("kind: Deployment\n---\nkind: Service", "holds no DynamoGraphDeployment: Deployment, Service; give a file with exactly one"),
        ("- 1", "holds no DynamoGraphDeployment: list"),
        (HEAD + "---\n" + HEAD, "holds 2 DynamoGraphDeployment"),
        (
            "kind: DynamoGraphDeployment\napiVersion: nvidia.com/v2",
            "apiVersion of the DynamoGraphDeployment is 'nvidia.com/v2'; known: nvidia.com/v1alpha1, nvidia.com/v1beta1",
        ),
        (HEAD, "no usable spec.services"),
        (HEAD + "spec: {services: [1]}", "no usable spec.services"),
        (HEAD.replace("alpha", "beta") + "spec: {components: [{type: frontend}]}", "no usable spec.components"),
        (HEAD + "spec: {services: {a: {replicas: one}}}", "spec.services.a: replicas is 'one'; write a whole number, or leave it out"),
        (HEAD.replace("alpha", "beta") + "spec: {components: [{name: a, replicas: -1}]}", "spec.components a: replicas is -1"),
        (HEAD + "spec: {services: {Frontend: {}, a: {}, b: {}}}", "no prefill and no decode service among: Frontend, a, b; set subComponentType"),
        (HEAD + "spec: {services: {p1-prefill: {}, p2-prefill: {}, decode: {}}}", "2 prefill services: p1-prefill, p2-prefill"),
    ],
)
def test_what_cannot_be_read_is_one_line(text, message):
    with pytest.raises(UsageError) as caught:
        read_dgd(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("services", "message"),
    [
        ("{worker: {}}", "no frontend services among: worker"),
        ("{Frontend: {}, worker: {}}", "worker has no arguments; its main container needs `args` or `command`"),
        ("{Frontend: {}, worker: {resources: {limits: {gpu: many}}, multinode: {nodeCount: 2}}}", "worker: resources.limits.gpu is 'many'"),
        ("{Frontend: {}, worker: {resources: {limits: 8, requests: [1]}}}", "worker has no arguments"),
        ("{Frontend: {}, worker: {extraPodSpec: {mainContainer: {args: {a: 1}}}}}", "worker: args is neither a list of texts nor a text"),
    ],
)
def test_what_cannot_be_derived_is_one_line(services, message):
    with pytest.raises(UsageError) as caught:
        derive(read_dgd(HEAD + f"spec: {{services: {services}}}"), backend("vllm"), Deployment(TP4), name="probe")
    assert message in str(caught.value)


def test_a_manifest_of_another_engine_is_refused():
    with pytest.raises(UsageError, match=r"the manifest is for vllm, asked for is sglang; use --backend vllm"):
        derive(document("vllm-disagg"), backend("sglang"), Deployment(TP4), name="probe")


def test_arguments_as_one_text():
    given = yaml.safe_load(HEAD + "spec: {services: {Frontend: {}, w: {extraPodSpec: {mainContainer: {args: python3 -m dynamo.vllm --model m}}}}}")
    result = derive(given, backend("vllm"), Deployment(TP4), name="probe")
    assert shlex.split(alpha_worker(result)[2]["args"]) == ["python3", "-m", "dynamo.vllm", "--model", "m", "--tensor-parallel-size", "4"]


class TestNodes:
    """Where the manifest shows none of several nodes, who knows their size says it."""

    def test_an_engine_that_is_larger_than_a_node(self):
        _, body, _ = alpha_worker(derived("sglang-disagg", ParallelMapping(tp=16), node_gpus=8))
        assert (body["multinode"], body["resources"]["limits"]["gpu"]) == ({"nodeCount": 2}, "8")

    def test_one_that_fits(self):
        _, body, _ = alpha_worker(derived("sglang-disagg", ParallelMapping(tp=8), node_gpus=8))
        assert ("multinode" in body, body["resources"]["limits"]["gpu"]) == (False, "8")

    def test_what_the_manifest_shows_wins(self):
        shown = gpus_per_engine(document("sglang-moe-disagg"), Phase.DECODE)
        one, other = (derived("sglang-moe-disagg", DEP16, node_gpus=gpus) for gpus in (None, 2))
        assert one == other
        assert shown == 16

    def test_one_that_cannot_be_spread_evenly(self):
        with pytest.raises(UsageError, match="12 GPUs cannot be spread evenly over nodes of 8"):
            derived("sglang-disagg", ParallelMapping(tp=12), node_gpus=8)


class TestPlaced:
    """The manifest itself at the picked mappings."""

    @pytest.mark.parametrize("stem", ["vllm-disagg", "vllm-v1beta1"])
    def test_roles_arguments_and_everything_else_stay(self, stem):
        given = document(stem)
        found = place_pair(given, backend("vllm"), (ParallelMapping(tp=2), TP4), name="chat")
        assert given == document(stem)
        assert [gpus_per_engine(found, role) for role in (Phase.PREFILL, Phase.DECODE)] == [2, 4]
        assert found["metadata"]["name"] == "chat"
        again = place_pair(found, backend("vllm"), (ParallelMapping(tp=2), TP4), name="chat")
        assert again == found

    def test_an_aggregated_one_cannot(self):
        with pytest.raises(UsageError, match="one worker for both phases"):
            place_pair(document("vllm-agg"), backend("vllm"), (TP4, TP4), name="chat")
