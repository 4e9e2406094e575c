"""Faults around what a planner scales: no room, no node, no right, somebody else who scales it too."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .conftest import ControlPlane, Document, Namespace
from .serving import FLOOD, LONG_PROMPTS, NONE, Form, Serving

pytestmark = pytest.mark.cluster


@pytest.fixture
def alone(namespace: Namespace, image: Callable[[str], str], python_image: str, tmp_path: Path) -> Serving:
    """Still to be deployed."""
    return Serving(namespace, image, python_image, tmp_path)


@pytest.fixture(scope="module")
def shared(module_namespace: Namespace, image: Callable[[str], str], python_image: str, tmp_path_factory: pytest.TempPathFactory) -> Serving:
    """One continuous planner for all tests that put right what they have disturbed."""
    serving = Serving(module_namespace, image, python_image, tmp_path_factory.mktemp("overlay"))
    serving.deploy()
    return serving


@pytest.fixture
def serving(shared: Serving) -> Serving:
    """Without load, and at rest."""
    shared.load(NONE)
    shared.until_counts(1, 1)
    shared.ticks(1)
    return shared


# no room


def test_what_has_no_gpu_is_reported_and_given_back_while_the_rest_goes_on(alone: Serving, cluster: Namespace) -> None:
    """One node; a second prefill worker has room on it beside the decode workers, a third has not."""
    gpus = _free_gpus(cluster)
    if gpus < 5:
        pytest.fail(f"this test wants a node with 5 free GPUs or more; it has {gpus}", pytrace=False)
    each = (gpus - 2) // 2
    alone.deploy(Form(gpus={"prefill": each, "decode": 1}), unschedulable_limit_s=30)  # time for a busy machine to change the load meanwhile
    assert f"a prefill worker has {each} GPUs in its manifest, 1 in the profile: {each} are counted" in alone.log()
    alone.load(FLOOD)
    alone.until_counts(3, 2)
    reported = alone.until("Schedulable", "False", "Unschedulable")
    assert reported["message"].startswith("cannot be placed: 1 prefill; prefill: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
    alone.until_event("Unschedulable", "Insufficient nvidia.com/gpu")

    alone.load(LONG_PROMPTS)
    alone.until_counts(3, 1)  # decode leaves while a prefill worker still waits
    assert alone.status()["workers"]["prefill"]["unschedulable"] == 1

    alone.until_counts(2, 1)  # given back
    alone.until("Schedulable", "False", "GivenBack")
    alone.ticks(2)
    assert alone.counts() == (2, 1), "it is not asked for again at once"
    assert "the cluster has had room for 2 prefill workers; more are asked for in " in alone.log()
    alone.until_ready(2, 1)
    alone.load(NONE)
    alone.until_counts(1, 1)
    alone.until("Schedulable", "True")


def test_a_cordoned_node_is_reported_and_freezes_nothing(serving: Serving, cluster: Namespace, control_plane: ControlPlane) -> None:
    with _cordoned(cluster):
        serving.load(FLOOD)
        serving.until_counts(3, 2)
        reported = serving.until("Schedulable", "False", "Unschedulable")
        assert "1 node(s) were unschedulable" in reported["message"]
        serving.until_event("Unschedulable", "1 node(s) were unschedulable")
        serving.load(NONE)
        serving.until_counts(1, 1)
        serving.until("Schedulable", "True")
        serving.load(FLOOD)
        serving.until_counts(3, 2)
        serving.until("Schedulable", "False")
    serving.until("Schedulable", "True", "AllPlaced")
    serving.until_ready(3, 2)
    assert serving.counts() == (3, 2)


# somebody else


def test_a_count_that_somebody_else_sets_is_left_alone_for_one_interval(serving: Serving) -> None:
    namespace = serving.namespace
    with serving.journal() as journal:
        namespace.kubectl("scale", "deployment/prefill", "--replicas=4")
        told = serving.until_event("ActuationConflict")
        assert told["note"].startswith("kubectl set prefill from 1 to 4 in Deployment/prefill")
        assert told["type"] == "Warning"
        serving.until_counts(1, 1)
        serving.until("Contended", "False", "OnlyWriter")
    assert journal.of("prefill") == [1, 4, 1]
    assert journal.of("decode") == [1]
    assert "Hands off for this interval: kubectl set prefill from 1 to 4 in Deployment/prefill" in serving.log()


def test_a_horizontal_pod_autoscaler_on_the_same_target_is_named(serving: Serving) -> None:
    """A real one, which brings its target up to its own minimum even without metrics, every 15 s."""
    namespace = serving.namespace
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "prefill"}
    metric = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}
    namespace.apply(
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "rival"},
            "spec": {"scaleTargetRef": reference, "minReplicas": 3, "maxReplicas": 5, "metrics": [metric]},
        }
    )
    contended = serving.until("Contended", "True", "ActuationConflict")
    assert "set prefill from 1 to 3 in Deployment/prefill; HorizontalPodAutoscaler/rival scales it, too" in contended["message"]
    namespace.kubectl("delete", "hpa/rival")
    serving.until_counts(1, 1)
    serving.until("Contended", "False")


def test_a_pause_holds_until_it_is_taken_back(serving: Serving) -> None:
    namespace = serving.namespace
    namespace.kubectl("annotate", "deployment/decode", "slaplanner.io/paused=true")
    serving.until("Paused", "True", "Annotated")
    serving.load(FLOOD)
    serving.ticks(3)
    assert serving.counts() == (1, 1)
    serving.until_said("Hands off for this interval: Deployment/decode is annotated slaplanner.io/paused; not asked for prefill=3, decode=2")
    namespace.kubectl("annotate", "deployment/decode", "slaplanner.io/paused-")
    serving.until_counts(3, 2)
    serving.until("Paused", "False")
    serving.until_event("Resumed")


# a right that is missing


def test_a_right_that_is_missing_is_named_and_used_when_it_is_granted(serving: Serving) -> None:
    """One after the other; what does not need it goes on."""
    namespace = serving.namespace
    account = f"system:serviceaccount:{namespace.name}:planner"

    with _stripped(namespace, "planner", "pods", "list"):
        serving.until("Ready", "False", "Forbidden")
        serving.until_said(f"The number of workers is unknown: {account} may not list pods in namespace {namespace.name}; grant it in the Role")
    serving.until("Ready", "True")

    with _stripped(namespace, "planner-workloads", "deployments/scale", "patch"):
        serving.load(FLOOD)
        serving.until("Ready", "False", "Forbidden")
        serving.until_said(
            f"The decision could not be carried out: {account} may not patch deployments/scale in namespace {namespace.name}; grant it"
        )
        serving.until_event("ActuationFailed", "may not patch deployments/scale")
        assert serving.counts() == (1, 1)
    serving.until_counts(3, 2)
    serving.until("Ready", "True")

    with _stripped(namespace, "planner", "configmaps", "patch"):
        serving.until_said(f"The state could not be saved: {account} may not patch configmaps in namespace {namespace.name}; grant it")
        serving.load(NONE)
        serving.until_counts(1, 1)
    serving.ticks(1)
    assert serving.status()["lastScaling"]["prefill"]["to"] == 1

    with _stripped(namespace, "planner", "events", "create"):
        serving.load(FLOOD)
        serving.until_counts(3, 2)
        serving.until_said(f"Events cannot be posted: {account} may not create events in namespace {namespace.name}; grant it")
    serving.load(NONE)
    serving.until_event("ScalingDecision", "prefill 3 -> 1")
    assert serving.log().count("Traceback") == 0


def test_a_job_without_a_right_fails_for_good_with_one_line(alone: Serving, namespace: Namespace) -> None:
    """Exit code 2, which its Job does not repeat."""
    alone.deploy(Form(continuous=False), min_endpoint=2)
    account = f"system:serviceaccount:{namespace.name}:planner"
    for role, verb, resource in (
        ("planner", "list", "pods"),
        ("planner-workloads", "patch", "deployments/scale"),
        ("planner", "patch", "configmaps"),
    ):
        with _stripped(namespace, role, resource, verb):
            ended = alone.once(f"may-not-{verb}-{resource.partition('/')[0]}")
        line = f"{account} may not {verb} {resource} in namespace {namespace.name}; grant it in the Role of that service account"
        assert (ended["exitCode"], ended["message"]) == (2, line)
        assert [each for each in alone.said if each.startswith("error: ")] == [f"error: {line}"]
    assert alone.once("granted")["exitCode"] == 0
    assert alone.counts() == (2, 2)


@contextmanager
def _stripped(namespace: Namespace, role: str, resource: str, verb: str) -> Iterator[None]:
    """The Role without one verb on one resource."""
    granted = namespace.get(f"role/{role}")
    rules = []
    for rule in granted["rules"]:
        verbs = [each for each in rule["verbs"] if resource not in rule["resources"] or each != verb]
        rules += [{**rule, "verbs": verbs}] if verbs else []
    assert rules != granted["rules"]

    def put(rules: list[Document]) -> None:
        namespace.kubectl("patch", "role", role, "--type=merge", "-p", json.dumps({"rules": rules}))

    put(rules)
    try:
        yield
    finally:
        put(granted["rules"])


@contextmanager
def _cordoned(cluster: Namespace) -> Iterator[None]:
    nodes = [node["metadata"]["name"] for node in cluster.get("nodes")["items"]]
    cluster.kubectl("cordon", *nodes)
    try:
        yield
    finally:
        cluster.kubectl("uncordon", *nodes)


def _free_gpus(cluster: Namespace) -> int:
    """Of the only node; 0 where there are several."""
    nodes = cluster.get("nodes")["items"]
    pods = json.loads(cluster.kubectl("get", "pods", "--all-namespaces", "--field-selector=status.phase=Running", "-o", "json"))["items"]
    used = sum(int((each.get("resources", {}).get("limits") or {}).get("nvidia.com/gpu", 0)) for pod in pods for each in pod["spec"]["containers"])
    return int(nodes[0]["status"]["allocatable"].get("nvidia.com/gpu", 0)) - used if len(nodes) == 1 else 0
