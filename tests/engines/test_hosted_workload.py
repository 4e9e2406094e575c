"""Engines from any manifests: what is filled in, what keeps engines apart, what is refused."""

from __future__ import annotations

import pytest
import yaml

from sla_planner.engines.hosted_workload import WorkloadRecipe
from sla_planner.errors import UsageError
from sla_planner.model.profile import ParallelMapping
from sla_planner.sweep.port import Deployment, Phase

TP4 = Deployment(ParallelMapping(tp=4))
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: "{name}"}
spec: {selector: {app: "{name}"}, ports: [{name: http, port: {port}}]}
"""
DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: "{name}"}
spec:
  selector: {matchLabels: {app: "{name}"}}
  template:
    metadata: {labels: {app: "{name}"}}
    spec:
      containers:
        - name: vllm
          image: "{image}"
          args: [serve, "{model}", "--tp={tp}", "--config", '{"level": 3, "tp": {tp}}', "echo ${HOME}", "{{port}}"]
          ports: [{containerPort: {port}}]
          resources: {limits: {nvidia.com/gpu: {gpus}}}
"""
BOTH = f"{SERVICE}---{DEPLOYMENT}"


def recipe(text=BOTH, **more):
    return WorkloadRecipe(text, **{"model": "m", "image": "reg/vllm:1"} | more)


def refusal(text=BOTH, deployment=TP4, **more):
    with pytest.raises(UsageError) as caught:
        recipe(text, **more).manifests(deployment, "engine-1")
    return str(caught.value)


def test_placeholders_are_filled_and_other_braces_left():
    manifests = recipe(port=9000).manifests(TP4, "engine-1")
    service, deployment = manifests.documents
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["serve", "m", "--tp=4", "--config", '{"level": 3, "tp": 4}', "echo ${HOME}", "{port}"]
    assert container["image"] == "reg/vllm:1"
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 4}}
    assert (container["ports"], service["spec"]["ports"]) == ([{"containerPort": 9000}], [{"name": "http", "port": 9000}])
    assert [document["metadata"]["name"] for document in manifests.documents] == ["engine-1", "engine-1"]
    assert (manifests.service, manifests.port, manifests.gpus, manifests.gpu_resource) == ("engine-1", 9000, (4,), "nvidia.com/gpu")


def test_without_a_port_it_is_8000_and_found_out():
    manifests = recipe().manifests(TP4, "engine-1")
    assert manifests.documents[0]["spec"]["ports"] == [{"name": "http", "port": 8000}]
    assert manifests.port is None


def test_pods_and_selectors_carry_the_engines_own_label():
    manifests = recipe().manifests(TP4, "engine-1")
    own = {"app": "engine-1", "slaplanner.io/engine": "engine-1"}
    service, deployment = manifests.documents
    assert service["spec"]["selector"] == own
    assert deployment["spec"]["selector"] == {"matchLabels": own}
    assert deployment["spec"]["template"]["metadata"]["labels"] == own
    assert manifests.pods == "slaplanner.io/engine=engine-1"


def test_a_bare_pod_and_a_group_of_nodes_are_labelled_too():
    pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: '{name}'}\nspec: {containers: [{name: x}]}\n"
    assert recipe(f"{SERVICE}---\n{pod}").manifests(TP4, "e").documents[1]["metadata"] == {"name": "e", "labels": {"slaplanner.io/engine": "e"}}
    group = """
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata: {name: "{name}"}
spec:
  leaderWorkerTemplate:
    size: 2
    leaderTemplate: {spec: {containers: [{name: x, resources: {limits: {nvidia.com/gpu: 8}}}]}}
    workerTemplate: {spec: {containers: [{name: x, resources: {limits: {nvidia.com/gpu: 8}}}]}}
"""
    manifests = recipe(f"{SERVICE}---{group}").manifests(Deployment(ParallelMapping(tp=16)), "e")
    template = manifests.documents[1]["spec"]["leaderWorkerTemplate"]
    assert {template[part]["metadata"]["labels"]["slaplanner.io/engine"] for part in ("leaderTemplate", "workerTemplate")} == {"e"}
    assert manifests.gpus == (8, 8)


def test_the_text_is_yaml_under_a_name_that_stays():
    name, text = recipe().text(Deployment(TP4.mapping, Phase.PREFILL))
    assert name == "prefill_4gpus_TP4/config.yaml"
    assert [document["metadata"]["name"] for document in yaml.safe_load_all(text)] == ["prefill-4gpus-tp4"] * 2
    assert recipe().text(TP4) == recipe().text(TP4)
    assert recipe().image == "reg/vllm:1"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (DEPLOYMENT, "the workload has no Service; add one that leads to the engine's port"),
        (SERVICE.replace('"{name}"}\nspec', "engine}\nspec"), "the name of Service/engine in the workload does not hold {name}"),
        (BOTH.replace("{tp}", "{tpp}"), "the workload has an unknown placeholder {tpp}; known: {name}, {tp}, "),
        (BOTH.replace("{gpus}", "2"), "TP4 has 4 GPUs, the workload asks for 2; write nvidia.com/gpu: {gpus} into its limits, one replica"),
        (BOTH.replace("spec:\n  selector", "spec:\n  replicas: 2\n  selector"), "TP4 has 4 GPUs, the workload asks for 8"),
        (BOTH.replace("spec:\n  selector", "spec:\n  replicas: one\n  selector"), "in the workload is 'one'; write a whole number, or leave it out"),
        (f"{SERVICE}---{SERVICE}".replace('name: "{name}"', 'name: "{name}-a"'), "the workload has 2 Services: engine-1-a, engine-1-a; call the one"),
        ("a: 1\n", "the workload holds something that is no Kubernetes object: an object without a kind/?"),
        ("- 1\n", "the workload holds something that is no Kubernetes object: list"),
        ("", "the workload holds nothing"),
        ("a: [", "the workload is no YAML: "),
        (BOTH.replace('{name: "{name}"}\nspec:\n  sel', '{name: "{name}", namespace: x}\nspec:\n  sel'), "names a namespace; leave it out"),
    ],
)
def test_what_is_no_workload_is_refused(text, words):
    assert words in refusal(text)


def test_a_model_or_an_image_that_nobody_gave():
    assert refusal(model="") == "the workload uses {model}, but there is none; give --model, or write it into the workload"
    assert refusal(image="").endswith("give --image, or write it into the workload")


def test_one_service_of_several_is_called_like_the_engine():
    other = SERVICE.replace('"{name}"}\n', '"{name}-metrics"}\n')
    assert recipe(f"{other}---{BOTH}").manifests(TP4, "engine-1").service == "engine-1"
