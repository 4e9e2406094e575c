"""A DynamoGraphDeployment of either version: both roles read and written together."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.cluster.api_stand_in import ApiStandIn, api_stand_in
from tests.cluster.scaled import adapter, graph, graph_target, of_service, pods_of

from sla_planner.cluster.events import EventBook
from sla_planner.cluster.graph import adapter_shape
from sla_planner.cluster.kubernetes_target import KubernetesTarget, ScalePair
from sla_planner.cluster.resources import GRAPHS_ALPHA, GRAPHS_BETA
from sla_planner.cluster.scale_object import ScaleObject
from sla_planner.cluster.scale_reference import scale_reference
from sla_planner.cluster.target import HandsOff, Hold, Outcome
from sla_planner.errors import UsageError
from sla_planner.plan.observation import WorkerCounts
from sla_planner.stages.planner_kubernetes import GRAPH_MANIFEST

PLURAL = "dynamographdeployments"
NAMES = {"v1alpha1": ("PrefillWorker", "DecodeWorker"), "v1beta1": ("prefill-worker", "decode-worker")}


@pytest.fixture
def cluster() -> Iterator[ApiStandIn]:
    with api_stand_in() as stand_in:
        yield stand_in


@pytest.fixture(params=list(NAMES))
def version(request: pytest.FixtureRequest, cluster: ApiStandIn) -> str:
    """Of a cluster that serves this one only."""
    cluster.kinds.remove(GRAPHS_BETA if request.param == "v1alpha1" else GRAPHS_ALPHA)
    return str(request.param)


def target(cluster: ApiStandIn):  # type: ignore[no-untyped-def]
    return graph_target(cluster, GRAPH_MANIFEST)


def counts(cluster: ApiStandIn) -> list[int | None]:
    spec = (cluster.get(PLURAL, "chat") or {})["spec"]
    bodies = list(spec["services"].values()) if "services" in spec else spec["components"]
    return [body.get("replicas") for body in bodies[1:]]


def set_count(role: int, count: int):  # type: ignore[no-untyped-def]
    def edit(found: dict) -> None:  # type: ignore[type-arg]
        spec = found["spec"]
        bodies = list(spec["services"].values()) if "services" in spec else spec["components"]
        bodies[1 + role]["replicas"] = count

    return edit


def test_both_roles_are_written_by_one_patch_with_tests(cluster: ApiStandIn, version: str) -> None:
    cluster.put(graph(version, prefill=2, decode=3))
    scaled = target(cluster)
    assert scaled.fleet().asked == (2, 3)
    applied = scaled.apply(1, 4, now_s=0.0)
    assert applied.outcome is Outcome.APPLIED
    assert applied.message == "Decision written to DynamoGraphDeployment/chat (prefill=1, decode=4)"
    assert counts(cluster) == [1, 4]
    (call,) = cluster.writes()
    assert call.content_type == "application/json-patch+json"
    tests = [(step["path"], step["value"]) for step in call.body if step["op"] == "test"]
    if version == "v1alpha1":
        assert tests == [("/spec/services/PrefillWorker/replicas", 2), ("/spec/services/DecodeWorker/replicas", 3)]
    else:
        assert tests == [
            ("/spec/components/1/name", "prefill-worker"),
            ("/spec/components/1/replicas", 2),
            ("/spec/components/2/name", "decode-worker"),
            ("/spec/components/2/replicas", 3),
        ]


def test_a_role_that_stays_is_tested_and_not_set(cluster: ApiStandIn, version: str) -> None:
    cluster.put(graph(version, prefill=2, decode=3))
    scaled = target(cluster)
    scaled.fleet()
    scaled.apply(2, 4, now_s=0.0)
    (call,) = cluster.writes()
    assert [step["value"] for step in call.body if step["op"] != "test"] == [4]
    assert sum(step["path"].endswith("/replicas") for step in call.body if step["op"] == "test") == 2


def test_an_absent_count_is_one(cluster: ApiStandIn, version: str) -> None:
    cluster.put(graph(version, prefill=None, decode=None))
    scaled = target(cluster)
    assert scaled.fleet().asked == (1, 1)
    cluster.change(PLURAL, "chat", lambda found: found.update(status={"state": "successful"}))  # not what we look at
    scaled.apply(2, 1, now_s=0.0)
    assert counts(cluster) == [2, None]


def test_a_count_that_somebody_writes_in_between_stands_for_both_roles(cluster: ApiStandIn, version: str) -> None:
    cluster.put(graph(version))
    scaled = target(cluster)
    scaled.fleet()
    cluster.change(PLURAL, "chat", set_count(1, 6), manager="kubectl-edit")
    applied = scaled.apply(3, 2, now_s=0.0)
    assert applied.outcome is Outcome.CONTENDED
    assert "kubectl-edit set decode from 1 to 6 in DynamoGraphDeployment/chat at the same moment" in applied.message
    assert counts(cluster) == [1, 6]


def test_who_else_writes_is_found_in_either_spelling(cluster: ApiStandIn, version: str) -> None:
    cluster.put(graph(version))
    scaled = target(cluster)
    scaled.fleet()
    scaled.apply(3, 2, now_s=0.0)
    assert scaled.fleet((3, 2)).hands_off is None
    cluster.change(PLURAL, "chat", set_count(0, 1), manager="argocd-controller")
    assert scaled.fleet((3, 2)).hands_off == HandsOff(Hold.CONTENDED, "argocd-controller set prefill from 3 to 1 in DynamoGraphDeployment/chat")


def test_workers_are_the_pods_of_the_services(cluster: ApiStandIn, version: str) -> None:
    cluster.put(graph(version, prefill=2, decode=2))
    prefill, decode = NAMES[version]
    pods_of(cluster, of_service(prefill), 2)
    pods_of(cluster, of_service(decode), 1, unplaced=1)
    fleet = target(cluster).fleet()
    assert (fleet.prefill, fleet.decode) == (WorkerCounts(2), WorkerCounts(1, 0, 1))


def test_gpus_of_a_worker_over_all_its_nodes(cluster: ApiStandIn, version: str) -> None:
    cluster.put(graph(version, gpus=8, nodes=2))
    fleet = target(cluster).fleet()
    assert (fleet.prefill_gpus, fleet.decode_gpus) == (16, 16)


def test_services_with_an_adapter_are_scaled_through_it(cluster: ApiStandIn, version: str) -> None:
    prefill, decode = NAMES[version]
    roles = ("prefill", "decode")
    cluster.put(graph(version, prefill=9, decode=9, adapters=roles, gpus=4))
    for service, count in ((prefill, 1), (decode, 5)):
        cluster.put(adapter(service, count))
    pods_of(cluster, of_service(decode), 5)
    scaled = target(cluster)
    fleet = scaled.fleet()
    assert (fleet.asked, fleet.decode, fleet.decode_gpus) == ((1, 5), WorkerCounts(5), 4)
    scaled.apply(3, 2, now_s=0.0)
    assert [(call.resource, call.name) for call in cluster.writes()] == [
        ("dynamographdeploymentscalingadapters/scale", f"chat-{decode.lower()}"),  # the one that shrinks
        ("dynamographdeploymentscalingadapters/scale", f"chat-{prefill.lower()}"),
    ]
    assert scaled.fleet((3, 2)).asked == (3, 2)
    cluster.change(PLURAL, "chat", lambda found: found["metadata"].update(annotations={"slaplanner.io/paused": "true"}))
    assert scaled.fleet((3, 2)).hands_off == HandsOff(Hold.PAUSED, "DynamoGraphDeployment/chat is annotated slaplanner.io/paused")


def test_one_adapter_and_one_count_of_the_graph(cluster: ApiStandIn, version: str) -> None:
    cluster.put(graph(version, prefill=1, decode=9, adapters=("decode",)))
    cluster.put(adapter(NAMES[version][1], 2))
    scaled = target(cluster)
    assert scaled.fleet().asked == (1, 2)
    scaled.apply(2, 1, now_s=0.0)
    assert [call.resource for call in cluster.writes()] == ["dynamographdeploymentscalingadapters/scale", PLURAL]
    assert counts(cluster) == [2, 9]


def test_a_reference_to_an_adapter_knows_the_gpus_from_its_graph(cluster: ApiStandIn, version: str) -> None:
    cluster.put(graph(version, gpus=4))
    api = cluster.api()
    objects = []
    for service in NAMES[version]:
        cluster.put(adapter(service, 1))
        objects.append(ScaleObject(api, scale_reference(f"dgdsa/chat-{service.lower()}"), adapter_shape(api, GRAPH_MANIFEST)))
    fleet = KubernetesTarget(api, ScalePair(*objects), "chat", EventBook(api)).fleet()
    assert (fleet.prefill_gpus, fleet.decode_gpus) == (4, 4)


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda spec: spec["components"][1].update(type="worker", name="other"), "has no prefill service among: frontend, other, decode-worker"),
        (lambda spec: spec["components"].append({**spec["components"][1], "name": "second"}), "has 2 prefill services: prefill-worker, second"),
        (lambda spec: spec.pop("components"), "has no usable spec.components"),
    ],
)
def test_a_role_that_is_missing_or_ambiguous_is_a_clear_error(cluster: ApiStandIn, edit, told: str) -> None:  # type: ignore[no-untyped-def]
    found = graph("v1beta1")
    edit(found["spec"])
    cluster.put(found)
    with pytest.raises(UsageError) as refused:
        target(cluster).fleet()
    assert told in str(refused.value)


def test_an_aggregated_graph_has_no_roles_to_scale(cluster: ApiStandIn) -> None:
    found = graph("v1beta1")
    del found["spec"]["components"][1]
    found["spec"]["components"][1] = {"name": "worker", "type": "worker"}
    cluster.put(found)
    with pytest.raises(
        UsageError, match="the graph has one service of workers, worker: prefill and decode cannot be scaled apart; deploy a service for each role"
    ):
        target(cluster).fleet()


def test_a_cluster_without_the_operator_says_what_else_can_be_scaled(cluster: ApiStandIn) -> None:
    cluster.kinds.remove(GRAPHS_ALPHA)
    cluster.kinds.remove(GRAPHS_BETA)
    with pytest.raises(UsageError, match="this cluster has no DynamoGraphDeployment; install Dynamo's operator, or scale with --prefill-target"):
        target(cluster).fleet()


def test_the_newer_version_is_asked_where_both_are_served(cluster: ApiStandIn) -> None:
    cluster.put(graph("v1beta1"))
    target(cluster).fleet()
    assert [call.resource for call in cluster.calls if call.resource == PLURAL] == [PLURAL]
