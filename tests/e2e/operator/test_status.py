from __future__ import annotations

from datetime import UTC, datetime, timedelta

from .stand_in.status import adapter_status, failed_status, graph_status

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


def deployments(graph, **changes):
    """Every service has what it wants, but for `changes` (of the worker that prefills)."""
    found = {}
    for component in graph.components:
        status = {"observedGeneration": 1, **dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), component.replicas)}
        if component is graph.prefill:
            status |= changes
        name = graph.object_name(component)
        found[name] = {"metadata": {"name": name, "generation": 1}, "spec": {"replicas": component.replicas}, "status": status}
    return found


def ready(status):
    (condition,) = status["conditions"]
    assert condition["type"] == "Ready"
    return condition


def test_all_is_well(shipped):
    graph = shipped()
    status = graph_status(graph, deployments(graph), NOON)
    assert (status["state"], status["observedGeneration"]) == ("successful", 3)
    assert ready(status)["reason"] == "all_resources_are_ready"
    assert (ready(status)["status"], ready(status)["lastTransitionTime"]) == ("True", "2026-01-02T12:00:00Z")
    assert status["components"]["backend"] == {
        "componentKind": "Deployment",
        "componentNames": ["vllm-disagg-planner-backend"],
        "replicas": 1,
        "updatedReplicas": 1,
        "readyReplicas": 1,
        "availableReplicas": 1,
    }


def test_what_is_not_ready_is_named(shipped):
    graph = shipped()
    for change in ({"readyReplicas": 0}, {"updatedReplicas": 0}, {"replicas": 2}, {"observedGeneration": 0}):
        status = graph_status(graph, deployments(graph, **change), NOON)
        assert (status["state"], ready(status)["status"], ready(status)["reason"]) == ("pending", "False", "some_resources_are_not_ready")
        assert ready(status)["message"] == "Resources not ready: prefill"


def test_nothing_is_there_yet(shipped):
    status = graph_status(shipped(), {}, NOON)
    assert (status["state"], ready(status)["reason"]) == ("pending", "pods_not_ready")
    assert status["components"]["prefill"]["readyReplicas"] == 0


def test_a_count_that_its_deployment_has_not_got_yet(shipped):
    graph = shipped()
    before = deployments(graph)
    assert graph.prefill is not None
    graph.prefill.body["replicas"] = 2
    assert ready(graph_status(graph, before, NOON))["status"] == "False"


def test_pods_that_may_not_be_made(shipped):
    graph = shipped()
    failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"}
    status = graph_status(graph, deployments(graph, readyReplicas=0, conditions=[failure]), NOON)
    assert (status["state"], ready(status)["message"]) == ("failed", "exceeded quota")


def test_the_time_is_that_of_the_last_change(shipped):
    graph = shipped()
    graph.found["status"] = graph_status(graph, deployments(graph), NOON)
    later = NOON + timedelta(minutes=5)
    assert graph_status(graph, deployments(graph), later) == graph.found["status"]
    assert ready(graph_status(graph, {}, later))["lastTransitionTime"] == "2026-01-02T12:05:00Z"


def test_a_graph_that_cannot_be_deployed(shipped):
    status = failed_status(shipped().found, "2 decode services: a, b", NOON)
    assert (status["state"], ready(status)["message"]) == ("failed", "2 decode services: a, b")


def test_an_adapter(shipped):
    graph = shipped()
    assert graph.prefill is not None
    found = deployments(graph, replicas=3)["vllm-disagg-planner-prefill"]
    selector = "nvidia.com/dynamo-graph-deployment-name=vllm-disagg-planner,nvidia.com/dynamo-component=prefill"
    assert adapter_status(graph, graph.prefill, found, None) == {"replicas": 3, "selector": selector}
    assert adapter_status(graph, graph.prefill, None, NOON) == {"replicas": 0, "selector": selector, "lastScaleTime": "2026-01-02T12:00:00Z"}
