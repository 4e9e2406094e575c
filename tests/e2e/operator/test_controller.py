"""On the stand-in of the API: what a controller sees and writes. Nothing here makes pods: Deployments get the status that a test gives them."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator

import pytest
from tests.cluster.api_stand_in import ApiStandIn, api_stand_in

from sla_planner.cluster.resources import Object

from .conftest import document, stored
from .stand_in.controller import Controller


@pytest.fixture
def cluster() -> Iterator[ApiStandIn]:
    with api_stand_in() as stand_in:
        yield stand_in


@pytest.fixture
def graph(cluster) -> Object:
    found = stored(document("manifests/graphs/vllm/disagg_planner.yaml"))
    return cluster.put({key: value for key, value in found.items() if key != "status"})


@pytest.fixture
def controller(cluster, engine) -> Controller:
    return Controller(cluster.api(), engine, "here")


NAME = "vllm-disagg-planner"
DEPLOYMENTS = [f"{NAME}-{service}" for service in ("backend", "frontend", "planner", "prefill")]


def look(controller: Controller) -> None:
    controller.look_at("here", NAME)


def all_ready(cluster: ApiStandIn) -> None:
    for name in cluster.names("deployments"):

        def settle(deployment: Object) -> None:
            count = deployment["spec"]["replicas"]
            generation = deployment["metadata"].get("generation", 0)
            counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), count)
            deployment["status"] = {"observedGeneration": generation, **counts}

        cluster.change("deployments", name, settle)


def scale(cluster: ApiStandIn, service: str, replicas: int) -> None:
    def change(graph: Object) -> None:
        next(component for component in graph["spec"]["components"] if component["name"] == service)["replicas"] = replicas

    cluster.change("dynamographdeployments", NAME, change)


def status(cluster: ApiStandIn) -> Object:
    found = cluster.get("dynamographdeployments", NAME)
    assert found is not None
    return found["status"]


def test_a_graph_is_made_and_told_of(cluster, graph, controller):
    look(controller)
    assert cluster.names("deployments") == DEPLOYMENTS
    assert cluster.names("configmaps") == [f"{NAME}-engine"]
    assert status(cluster)["state"] == "pending"
    all_ready(cluster)
    look(controller)
    assert status(cluster)["state"] == "successful"
    assert status(cluster)["components"]["prefill"]["readyReplicas"] == 1


def test_a_second_look_writes_nothing(cluster, graph, controller):
    look(controller)
    all_ready(cluster)
    look(controller)
    before = len(cluster.writes())
    look(controller)
    assert cluster.writes()[before:] == []


def test_a_count_that_changes_changes_its_deployment_alone(cluster, graph, controller):
    look(controller)
    before = len(cluster.writes())
    scale(cluster, "prefill", 3)
    look(controller)
    assert [call.name for call in cluster.writes()[before:] if call.resource == "deployments"] == [f"{NAME}-prefill"]
    assert cluster.get("deployments", f"{NAME}-prefill")["spec"]["replicas"] == 3


def test_a_service_that_a_graph_no_longer_has_goes(cluster, graph, controller):
    look(controller)
    others = {"metadata": {"name": "not-ours", "labels": {"nvidia.com/dynamo-graph-deployment-name": NAME}}}
    cluster.put({"apiVersion": "v1", "kind": "ConfigMap", **others})

    def without_planner(graph: Object) -> None:
        graph["spec"]["components"] = [component for component in graph["spec"]["components"] if component["type"] != "planner"]

    cluster.change("dynamographdeployments", NAME, without_planner)
    look(controller)
    assert cluster.names("deployments") == [name for name in DEPLOYMENTS if not name.endswith("-planner")]
    assert "not-ours" in cluster.names("configmaps")


def test_a_graph_that_cannot_be_deployed_says_why(cluster, graph, controller):
    def two_of_a_kind(graph: Object) -> None:
        again = copy.deepcopy(graph["spec"]["components"][1]) | {"name": "more"}
        graph["spec"]["components"].append(again)

    cluster.change("dynamographdeployments", NAME, two_of_a_kind)
    look(controller)
    assert (status(cluster)["state"], status(cluster)["conditions"][0]["message"]) == ("failed", "2 prefill services: prefill, more")
    assert cluster.names("deployments") == []


def test_adapters(cluster, graph, controller):
    def adapted(graph: Object) -> None:
        graph["spec"]["components"][1] |= {"scalingAdapter": {}, "replicas": 2}

    cluster.change("dynamographdeployments", NAME, adapted)
    look(controller)
    adapter = cluster.get("dynamographdeploymentscalingadapters", f"{NAME}-prefill")
    assert adapter["spec"] == {"replicas": 2, "dgdRef": {"name": NAME, "service": "prefill"}}
    assert "lastScaleTime" not in adapter["status"]
    cluster.change("dynamographdeploymentscalingadapters", f"{NAME}-prefill", lambda found: found["spec"].update(replicas=4))
    look(controller)
    assert cluster.get("dynamographdeployments", NAME)["spec"]["components"][1]["replicas"] == 4
    assert "lastScaleTime" in cluster.get("dynamographdeploymentscalingadapters", f"{NAME}-prefill")["status"]
    look(controller)
    assert cluster.get("deployments", f"{NAME}-prefill")["spec"]["replicas"] == 4
    cluster.change("dynamographdeployments", NAME, lambda graph: graph["spec"]["components"][1].pop("scalingAdapter"))
    look(controller)
    assert cluster.names("dynamographdeploymentscalingadapters") == []


def test_a_graph_that_is_gone_or_going_is_left_alone(cluster, graph, controller):
    controller.look_at("here", "nobody")
    cluster.change("dynamographdeployments", NAME, lambda graph: graph["metadata"].update(deletionTimestamp="2026-01-01T00:00:00Z"))
    look(controller)
    assert cluster.writes() == []


def test_it_follows_what_happens_and_tries_again(cluster, graph, controller):
    stop = threading.Event()
    cluster.fail(500, verb="patch", resource="deployments")
    running = threading.Thread(target=controller.run, args=(stop,))
    running.start()
    try:
        assert cluster.wait(lambda: all(("deployments", "here", name) in cluster.objects for name in DEPLOYMENTS))
        all_ready(cluster)
        graphs = "dynamographdeployments", "here", NAME
        assert cluster.wait(lambda: cluster.objects[graphs].get("status", {}).get("state") == "successful")
        scale(cluster, "backend", 2)
        assert cluster.wait(lambda: cluster.objects["deployments", "here", f"{NAME}-backend"]["spec"]["replicas"] == 2)
    finally:
        stop.set()
        running.join(20)
    assert not running.is_alive()
