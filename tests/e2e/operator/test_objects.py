from __future__ import annotations

import copy
from typing import Any

import pytest

from sla_planner.cluster.resources import CONFIG_MAPS, DEPLOYMENTS, SERVICES, Object

from .conftest import document, stored
from .stand_in.engine import command_line, model_of, tensor_parallel
from .stand_in.graph import Component, Graph, GraphError, read_graph
from .stand_in.objects import SimulatedEngine, digest_of, objects_of
from .stand_in.versions import BETA


def made(graph: Graph, engine: SimulatedEngine) -> dict[str, Object]:
    """By `Kind/name`."""
    return {f"{resource.kind}/{body['metadata']['name']}": body for resource, body in objects_of(graph, engine)}


def pod(found: dict[str, Object], name: str) -> dict[str, Any]:
    return found[f"Deployment/{name}"]["spec"]["template"]["spec"]


def arguments(found: dict[str, Object], name: str) -> str:
    return " ".join(pod(found, name)["containers"][0]["args"])


def test_a_graph_becomes_the_objects_that_the_guides_name(shipped, engine):
    found = made(shipped(), engine)
    assert sorted(found) == [
        "ConfigMap/vllm-disagg-planner-engine",
        "Deployment/vllm-disagg-planner-backend",
        "Deployment/vllm-disagg-planner-frontend",
        "Deployment/vllm-disagg-planner-planner",
        "Deployment/vllm-disagg-planner-prefill",
        "Service/vllm-disagg-planner-backend",
        "Service/vllm-disagg-planner-frontend",
        "Service/vllm-disagg-planner-planner",
        "Service/vllm-disagg-planner-prefill",
    ]
    for body in found.values():
        assert body["metadata"]["ownerReferences"][0] == {
            "apiVersion": "nvidia.com/v1beta1",
            "kind": "DynamoGraphDeployment",
            "name": "vllm-disagg-planner",
            "uid": "u-1",
            "controller": True,
            "blockOwnerDeletion": True,
        }
        assert body["metadata"]["namespace"] == "here"
        assert body["metadata"]["labels"]["nvidia.com/dynamo-graph-deployment-name"] == "vllm-disagg-planner"


def test_a_pair_of_workers_behind_a_frontend(shipped, engine):
    found = made(shipped(), engine)
    assert arguments(found, "vllm-disagg-planner-frontend") == (
        "engine-sim --mode frontend --host 0.0.0.0 --port 8000 --model Qwen/Qwen3-0.6B"
        " --prefill-workers-at http://vllm-disagg-planner-prefill:9090 --decode-workers-at http://vllm-disagg-planner-backend:9090"
    )
    for name, mode in (("prefill", "prefill"), ("backend", "decode")):
        assert arguments(found, f"vllm-disagg-planner-{name}") == (
            f"engine-sim --mode {mode} --host 0.0.0.0 --port 9090 --model Qwen/Qwen3-0.6B --profile /profile --tp 1"
        )
        service = found[f"Service/vllm-disagg-planner-{name}"]["spec"]
        assert (service["clusterIP"], service["ports"][0]["port"]) == ("None", 9090)
        assert service["selector"].items() <= found[f"Deployment/vllm-disagg-planner-{name}"]["spec"]["template"]["metadata"]["labels"].items()
    frontend = found["Service/vllm-disagg-planner-frontend"]["spec"]
    assert "clusterIP" not in frontend
    assert [(port["name"], port["port"]) for port in frontend["ports"]] == [("http", 8000)]


def test_labels_of_pods(shipped, engine):
    found = made(shipped(), engine)
    assert found["Deployment/vllm-disagg-planner-prefill"]["spec"]["template"]["metadata"]["labels"] == {
        "app": "vllm-disagg-planner",
        "nvidia.com/dynamo-graph-deployment-name": "vllm-disagg-planner",
        "nvidia.com/dynamo-component": "prefill",
        "nvidia.com/dynamo-component-type": "worker",
        "nvidia.com/dynamo-sub-component-type": "prefill",
        "nvidia.com/dynamo-namespace": "here-vllm-disagg-planner",
        "nvidia.com/metrics-enabled": "true",
    }
    frontend = found["Deployment/vllm-disagg-planner-frontend"]["spec"]["template"]["metadata"]["labels"]
    assert frontend["nvidia.com/dynamo-component-type"] == "frontend"
    assert "nvidia.com/dynamo-sub-component-type" not in frontend
    planner = found["Deployment/vllm-disagg-planner-planner"]["spec"]["template"]["metadata"]["labels"]
    assert (planner["app"], planner["nvidia.com/dynamo-component-type"]) == ("vllm-disagg-planner-planner", "planner")


def test_engine_pods_keep_to_restricted_pod_security_and_ask_for_gpus(shipped, engine):
    found = made(shipped(), engine)
    for name, gpus in (("frontend", None), ("prefill", "1"), ("backend", "1")):
        spec = pod(found, f"vllm-disagg-planner-{name}")
        (container,) = spec["containers"]
        assert container["image"] == "localhost/engine:1"
        assert (spec["securityContext"]["runAsNonRoot"], spec["securityContext"]["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        for amounts in container["resources"].values():
            assert amounts.get("nvidia.com/gpu") == gpus
        assert container["readinessProbe"]["httpGet"]["path"] == "/health"


def test_engines_read_the_profile(shipped, engine):
    found = made(shipped(), engine)
    assert found["ConfigMap/vllm-disagg-planner-engine"]["data"] == {"profile.json": '{"a": 1}'}
    worker = pod(found, "vllm-disagg-planner-prefill")
    assert worker["volumes"] == [{"name": "profile", "configMap": {"name": "vllm-disagg-planner-engine"}}]
    assert worker["containers"][0]["volumeMounts"][0]["mountPath"] == "/profile"
    assert "volumes" not in pod(found, "vllm-disagg-planner-frontend")


def test_a_planner_runs_as_its_manifest_says(shipped, engine):
    graph = shipped()
    given = next(component for component in graph.components if component.type == "planner").template["spec"]
    before = copy.deepcopy(given)
    spec = pod(made(graph, engine), "vllm-disagg-planner-planner")
    assert given == before
    env = {entry["name"]: entry for entry in spec["containers"][0].pop("env")}
    wanted = copy.deepcopy(before)
    given_env = wanted["containers"][0].pop("env")
    assert spec == wanted
    assert spec["serviceAccountName"] == "planner"
    assert all(env[entry["name"]] == entry for entry in given_env)
    assert env["DYN_PARENT_DGD_K8S_NAME"]["value"] == "vllm-disagg-planner"
    assert env["POD_NAMESPACE"]["valueFrom"] == {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}


def test_one_engine_for_both_phases_is_reached_at_the_frontends_service(swept, engine):
    found = made(swept(), engine)
    assert arguments(found, "tp2-vllmdecodeworker") == "engine-sim --mode agg --host 0.0.0.0 --port 8000 --model m --profile /profile --tp 2"
    assert pod(found, "tp2-vllmdecodeworker")["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "4"
    assert found["Service/tp2-frontend"]["spec"]["selector"] == {
        "nvidia.com/dynamo-graph-deployment-name": "tp2",
        "nvidia.com/dynamo-component": "VllmDecodeWorker",
    }
    assert "Service/tp2-vllmdecodeworker" not in found
    assert "--mode agg" in arguments(found, "tp2-frontend")


def test_limits_and_more_of_the_simulated_engine(swept, engine):
    args = ["--model", "m", "--max-num-seqs=1", "--max-num-batched-tokens", "32768"]
    container = {"image": "x", "args": args, "env": [{"name": "ENGINE_SIM_ARGS", "value": '--startup-s 5 --fault \'{"kind": "hang"}\''}]}
    graph = swept(extraPodSpec={"mainContainer": container})
    (worker,) = pod(made(graph, SimulatedEngine("i", "{}", ("--seed", "7"))), "tp2-vllmdecodeworker")["containers"]
    assert worker["args"][-10:] == [
        *("--max-batched-tokens", "32768"),
        *("--max-sequences", "1"),
        *("--startup-s", "5"),
        *("--fault", '{"kind": "hang"}'),
        *("--seed", "7"),
    ]


@pytest.mark.parametrize(
    ("container", "size"),
    [
        ({"args": ["--tensor-parallel-size", "4"]}, 4),
        ({"args": ["--tp=8"]}, 8),
        ({"command": ["python3", "-m", "dynamo.sglang", "--tp", "2"]}, 2),
        ({"command": ["/bin/sh", "-c"], "args": ["ulimit -n 9 && exec python3 -m x \\\n  --tensor-parallel-size 2 --y"]}, 2),
        ({"args": "vllm serve m -tp 4"}, 4),
        ({"args": ["--override-engine-args", '{"tensor_parallel_size": 4, "x": 1}']}, 4),
        ({"args": ["--model", "m"], "resources": {"limits": {"nvidia.com/gpu": 2}}}, 2),
        ({"args": ["it's", "--tp", "2"]}, 2),
        ({}, 1),
    ],
)
def test_tensor_parallel_size(container, size):
    component = {"name": "w", "type": "worker", "podTemplate": {"spec": {"containers": [{"name": "main", **container}]}}}
    assert tensor_parallel(Component("w", component)) == size


def test_gpus_of_all_nodes(swept):
    assert swept(multinode={"nodeCount": 2}).decode.gpus == 8


@pytest.mark.parametrize(
    ("path", "prefill", "decode", "model"),
    [
        ("tests/data/dgd/sglang-disagg.yaml", "prefill", "decode", "Qwen/Qwen3-32B"),
        ("tests/data/dgd/trtllm-disagg.yaml", "TRTLLMPrefillWorker", "TRTLLMDecodeWorker", "Qwen/Qwen3-32B"),
        ("tests/data/dgd/vllm-disagg-shell.yaml", "prefill", "decode", "vllm-shell"),
        ("tests/data/dgd/vllm-agg.yaml", None, "VllmWorker", "Qwen/Qwen3-0.6B"),
        ("tests/data/dgd/vllm-v1beta1.yaml", "prefill", "decode", "Qwen/Qwen3-32B"),
        ("manifests/graphs/sla-planner.yaml", "prefill", "decode", "Qwen/Qwen3-0.6B"),
        ("manifests/graphs/sglang/disagg_planner.yaml", "prefill", "backend", "Qwen/Qwen3-0.6B"),
        ("manifests/graphs/trtllm/disagg_planner.yaml", "prefill", "backend", "Qwen/Qwen3-0.6B"),
    ],
)
def test_who_does_what(path, prefill, decode, model, engine):
    graph = read_graph(stored(document(path)))
    assert (graph.prefill and graph.prefill.name, graph.decode and graph.decode.name) == (prefill, decode)
    assert model_of(graph) == model
    assert objects_of(graph, engine)


def test_a_worker_alone_is_one_engine_whatever_it_is_called(swept):
    graph = swept(subComponentType="prefill")
    assert graph.prefill is None
    assert graph.decode is not None
    assert graph.decode.name == "VllmDecodeWorker"


@pytest.mark.parametrize(
    ("components", "why"),
    [
        ([], "spec.components is empty"),
        ([{"name": "a", "type": "decode"}, {"name": "b", "type": "decode"}], "2 decode services: a, b"),
        ([{"name": "a", "type": "worker"}, {"name": "b", "type": "worker"}], "what kind of worker are a, b"),
    ],
)
def test_graphs_that_cannot_be_deployed(components, why):
    with pytest.raises(GraphError, match=why):
        read_graph({"apiVersion": BETA, "metadata": {"name": "g"}, "spec": {"components": components}})


def test_a_worker_without_its_container(engine):
    found = stored({"apiVersion": BETA, "metadata": {"name": "g"}, "spec": {"components": [{"name": "a", "type": "decode"}]}})
    with pytest.raises(GraphError, match="a: no container named main"):
        objects_of(read_graph(found), engine)


def test_another_service_with_an_image_of_its_own(engine):
    container = {"name": "main", "image": "prometheus", "ports": [{"name": "web", "containerPort": 9090}]}
    body = {"name": "Prometheus", "type": "", "podTemplate": {"spec": {"containers": [container]}}}
    found = made(read_graph(stored({"apiVersion": BETA, "metadata": {"name": "g"}, "spec": {"components": [body]}})), engine)
    assert sorted(found) == ["Deployment/g-prometheus", "Service/g-prometheus"]
    assert pod(found, "g-prometheus")["containers"][0]["image"] == "prometheus"
    assert found["Service/g-prometheus"]["spec"]["ports"][0]["port"] == 9090


def test_a_change_is_seen_in_the_digest(shipped, engine):
    graph = shipped()
    before = {name: digest_of(body) for name, body in made(graph, engine).items()}
    assert before == {name: digest_of(body) for name, body in made(shipped(), engine).items()}
    assert graph.prefill is not None
    graph.prefill.body["replicas"] = 5
    after = {name: digest_of(body) for name, body in made(graph, engine).items()}
    assert [name for name, digest in after.items() if digest != before[name]] == ["Deployment/vllm-disagg-planner-prefill"]


def test_every_object_has_its_kind(shipped, engine):
    for resource, body in objects_of(shipped(), engine):
        assert resource in (CONFIG_MAPS, SERVICES, DEPLOYMENTS)
        assert (body["apiVersion"], body["kind"]) == (resource.api_version, resource.kind)


def test_words_of_a_command():
    assert command_line({"command": ["a", "b c"], "args": ["--json", '{"x": "y z"}']}) == ["a", "b", "c", "--json", '{"x": "y z"}']
