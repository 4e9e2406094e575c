from __future__ import annotations

import copy

import pytest

from .conftest import ROOT, document
from .stand_in.versions import ALPHA, BETA, converted, counts, with_counts

DATA = [str(path.relative_to(ROOT)) for folder in ("tests/data/dgd", "manifests/graphs") for path in sorted((ROOT / folder).rglob("*.yaml"))]


@pytest.mark.parametrize("path", DATA)
def test_a_conversion_loses_nothing(path):
    graph = document(path)
    other = BETA if graph["apiVersion"] == ALPHA else ALPHA
    there = converted(graph, other)
    assert there["apiVersion"] == other
    assert counts(there["spec"]) == counts(graph["spec"])
    assert converted(there, graph["apiVersion"]) == graph


@pytest.mark.parametrize("path", ["tests/data/dgd/vllm-disagg.yaml", "tests/data/dgd/vllm-v1beta1.yaml"])
def test_a_count_that_is_changed_in_the_other_version_comes_back(path):
    graph = document(path)
    other = BETA if graph["apiVersion"] == ALPHA else ALPHA
    there = converted(graph, other)
    with_counts(there["spec"], dict.fromkeys(counts(there["spec"]), 7))
    back = converted(there, graph["apiVersion"])
    assert set(counts(back["spec"]).values()) == {7}
    assert converted(with_counts_of(back, graph), graph["apiVersion"]) == graph


def with_counts_of(graph, original):
    return {**graph, "spec": with_counts(copy.deepcopy(graph["spec"]), counts(original["spec"]))}


def test_the_same_version_is_the_same_graph():
    graph = document("tests/data/dgd/vllm-disagg.yaml")
    assert converted(graph, ALPHA) == graph


def test_a_version_that_nobody_knows():
    with pytest.raises(ValueError, match="cannot be had as nvidia"):
        converted(document("tests/data/dgd/vllm-disagg.yaml"), "nvidia.com/v2")


ALPHA_GRAPH = {
    "apiVersion": ALPHA,
    "kind": "DynamoGraphDeployment",
    "metadata": {"name": "g", "annotations": {"mine": "1"}},
    "spec": {
        "backendFramework": "vllm",
        "envs": [{"name": "EVERYWHERE", "value": "1"}],
        "pvcs": [{"name": "models", "create": False}],
        "services": {
            "prefill": {
                "componentType": "worker",
                "subComponentType": "prefill",
                "replicas": 2,
                "labels": {"app": "g"},
                "multinode": {"nodeCount": 2},
                "scalingAdapter": {"enabled": True},
                "envFromSecret": "tokens",
                "envs": [{"name": "A", "value": "1"}],
                "resources": {"limits": {"gpu": "4", "memory": "1Gi"}},
                "volumeMounts": [{"name": "models", "mountPoint": "/models"}],
                "readinessProbe": {"httpGet": {"path": "/health", "port": 1}},
                "extraPodSpec": {
                    "serviceAccountName": "runner",
                    "containers": [{"name": "beside", "image": "b"}],
                    "mainContainer": {"image": "i", "args": ["--x"], "env": [{"name": "B", "value": "2"}]},
                },
            }
        },
    },
    "status": {"state": "successful", "services": {"prefill": {"readyReplicas": 2}}},
}


def test_alpha_as_beta():
    beta = converted(ALPHA_GRAPH, BETA)
    assert beta["spec"] == {
        "backendFramework": "vllm",
        "env": [{"name": "EVERYWHERE", "value": "1"}],
        "components": [
            {
                "name": "prefill",
                "type": "prefill",
                "replicas": 2,
                "multinode": {"nodeCount": 2},
                "scalingAdapter": {},
                "podTemplate": {
                    "metadata": {"labels": {"app": "g"}},
                    "spec": {
                        "serviceAccountName": "runner",
                        "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}],
                        "containers": [
                            {
                                "name": "main",
                                "image": "i",
                                "args": ["--x"],
                                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                                "envFrom": [{"secretRef": {"name": "tokens"}}],
                                "resources": {"limits": {"nvidia.com/gpu": "4", "memory": "1Gi"}},
                                "readinessProbe": {"httpGet": {"path": "/health", "port": 1}},
                                "volumeMounts": [{"name": "models", "mountPath": "/models"}],
                            },
                            {"name": "beside", "image": "b"},
                        ],
                    },
                },
            }
        ],
    }
    assert beta["status"] == {"state": "successful", "components": {"prefill": {"readyReplicas": 2}}}
    assert beta["metadata"]["annotations"].pop("mine") == "1"
    assert list(beta["metadata"]["annotations"]) == ["nvidia.com/written-as-v1alpha1"]


def test_beta_as_alpha():
    alpha = converted(document("tests/data/dgd/vllm-v1beta1.yaml"), ALPHA)
    assert alpha["spec"]["services"]["prefill"] == {
        "componentType": "worker",
        "subComponentType": "prefill",
        "replicas": 2,
        "labels": {"pool": "gpu"},
        "resources": {"limits": {"gpu": "1", "memory": "64Gi"}},
        "extraPodSpec": {
            "containers": [{"name": "sidecar", "image": "example.com/logs:1"}],
            "mainContainer": {
                "image": "example.com/dynamo/vllm-runtime:1.6",
                "command": ["python3", "-m", "dynamo.vllm"],
                "args": ["--model", "Qwen/Qwen3-32B", "--disaggregation-mode", "prefill"],
            },
        },
    }
    decode = alpha["spec"]["services"]["decode"]
    assert (decode["scalingAdapter"], decode["resources"]) == ({"enabled": True}, {"limits": {"gpu": "2"}})
    assert alpha["spec"]["services"]["frontend"]["componentType"] == "frontend"


def test_all_of_the_shipped_graphs_are_looked_at():
    assert len(DATA) > 8
