"""Two workloads in a cluster, scaled, watched, shared with others."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from tests.cluster.api_stand_in import ApiStandIn, Call, api_stand_in
from tests.cluster.scaled import adapter, deployment, pair, pods_of

from sla_planner.cluster.conditions import Notice
from sla_planner.cluster.resources import Resource
from sla_planner.cluster.target import Fleet, HandsOff, Hold, Outcome
from sla_planner.errors import ForbiddenError, UnreachableError
from sla_planner.plan.observation import WorkerCounts

WIDGETS = Resource("example.com", "v1", "widgets", "Widget")


@pytest.fixture
def cluster() -> Iterator[ApiStandIn]:
    """With two Deployments of one replica each."""
    with api_stand_in(WIDGETS) as stand_in:
        for name in ("prefill", "decode"):
            stand_in.put(deployment(name))
        yield stand_in


def replicas(cluster: ApiStandIn, kind: str = "deployments") -> tuple[int, int]:
    found = [cluster.get(kind, name) for name in ("prefill", "decode")]
    return tuple(each["spec"]["replicas"] for each in found if each)  # type: ignore[return-value]


class TestReading:
    def test_workers_are_counted_by_the_pods_of_the_selector(self, cluster: ApiStandIn) -> None:
        cluster.put(deployment("prefill", 4, gpus=2))
        pods_of(cluster, {"app": "prefill"}, 1, starting=1, unplaced=2)
        pods_of(cluster, {"app": "decode"}, 1)
        fleet = pair(cluster).fleet()
        assert (fleet.prefill, fleet.decode) == (WorkerCounts(1, 1, 2), WorkerCounts(1))
        assert (fleet.prefill_gpus, fleet.decode_gpus) == (2, 0)
        assert fleet.unplaced == ("prefill: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",)
        assert fleet.hands_off is None

    def test_a_deployment_that_may_not_make_pods_says_so(self, cluster: ApiStandIn) -> None:
        def refused(found: dict) -> None:  # type: ignore[type-arg]
            found["spec"]["replicas"] = 3
            found["status"] = {"conditions": [{"type": "ReplicaFailure", "status": "True", "message": 'pods "x" is forbidden: exceeded quota: gpus'}]}

        cluster.change("deployments", "decode", refused, manager="sla-planner")
        pods_of(cluster, {"app": "decode"}, 1)
        fleet = pair(cluster).fleet()
        assert fleet.decode == WorkerCounts(1, 0, 2)
        assert fleet.unplaced == ('decode: pods "x" is forbidden: exceeded quota: gpus',)

    def test_a_group_of_pods_is_one_worker(self, cluster: ApiStandIn) -> None:
        template = {"spec": {"containers": [{"name": "main", "resources": {"limits": {"nvidia.com/gpu": "8"}}}]}}
        cluster.put(
            {
                "apiVersion": "leaderworkerset.x-k8s.io/v1",
                "kind": "LeaderWorkerSet",
                "metadata": {"name": "decode"},
                "spec": {"replicas": 2, "leaderWorkerTemplate": {"size": 2, "workerTemplate": template}},
                "status": {"selector": "leaderworkerset.sigs.k8s.io/name=decode,leaderworkerset.sigs.k8s.io/worker-index=0"},
            }
        )
        for group, index in itertools.product((0, 1), (0, 1)):
            labels = {"leaderworkerset.sigs.k8s.io/name": "decode", "leaderworkerset.sigs.k8s.io/group-index": str(group)}
            labels["leaderworkerset.sigs.k8s.io/worker-index"] = str(index)
            ready = (group, index) != (1, 1)
            cluster.put({**_pod(f"decode-{group}-{index}", ready=ready), "metadata": {"name": f"decode-{group}-{index}", "labels": labels}})
        fleet = pair(cluster, decode="lws/decode").fleet()
        assert fleet.decode == WorkerCounts(1, 1)
        assert fleet.decode_gpus == 16

    def test_without_a_selector_the_observed_count_is_what_there_is(self, cluster: ApiStandIn) -> None:
        cluster.put({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"replicas": 3}, "status": {"replicas": 2}})
        assert pair(cluster, decode="widgets.v1.example.com/w").fleet().decode == WorkerCounts(2, 1)

    def test_counts_of_zero_are_counts(self, cluster: ApiStandIn) -> None:
        cluster.put(deployment("prefill", 0))
        target = pair(cluster)
        assert target.fleet().prefill == WorkerCounts(0)
        assert target.apply(2, 1, now_s=0.0).outcome is Outcome.APPLIED

    def test_a_right_that_is_missing_is_named(self, cluster: ApiStandIn) -> None:
        cluster.deny("list", "pods")
        with pytest.raises(ForbiddenError, match="may not list pods in namespace here; grant it in the Role"):
            pair(cluster).fleet()


def _pod(name: str, *, ready: bool) -> dict:  # type: ignore[type-arg]
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": str(ready)}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "status": status}


class TestWriting:
    @pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
    def test_counts_are_written_to_the_scale_with_the_version_that_was_read(self, cluster: ApiStandIn, kind: str) -> None:
        for name in ("prefill", "decode"):
            cluster.put(deployment(name, kind=kind))
        target = pair(cluster, f"{kind}/prefill".lower(), f"{kind}/decode".lower())
        target.fleet()
        versions = {found["metadata"]["resourceVersion"] for found in target.holders}
        applied = target.apply(3, 2, now_s=0.0)
        assert applied.outcome is Outcome.APPLIED
        assert applied.message == f"Decision written to {kind}/prefill and {kind}/decode (prefill=3, decode=2)"
        assert replicas(cluster, f"{kind.lower()}s") == (3, 2)
        assert {call.body["metadata"]["resourceVersion"] for call in cluster.writes()} == versions
        assert all(set(call.body) == {"metadata", "spec"} for call in cluster.writes())
        assert {(call.resource, call.content_type) for call in cluster.writes()} == {(f"{kind.lower()}s/scale", "application/merge-patch+json")}

    def test_the_role_that_shrinks_goes_first_and_a_role_that_stays_is_not_written(self, cluster: ApiStandIn) -> None:
        cluster.put(deployment("decode", 5))
        target = pair(cluster)
        target.fleet()
        target.apply(3, 2, now_s=0.0)
        target.fleet((3, 2))
        target.apply(4, 2, now_s=0.0)
        assert [(call.name, call.body["spec"]["replicas"]) for call in cluster.writes()] == [("decode", 2), ("prefill", 3), ("prefill", 4)]

    def test_the_same_decision_again_writes_nothing(self, cluster: ApiStandIn) -> None:
        target = pair(cluster)
        for outcome in (Outcome.APPLIED, Outcome.UNCHANGED, Outcome.UNCHANGED):
            target.fleet()
            assert target.apply(3, 2, now_s=0.0).outcome is outcome
        assert len(cluster.writes()) == 2

    def test_a_status_that_changes_in_between_is_no_conflict(self, cluster: ApiStandIn) -> None:
        target = pair(cluster)
        target.fleet()
        cluster.change("deployments", "prefill", lambda found: found.update(status={"replicas": 1}))
        assert target.apply(3, 1, now_s=0.0).outcome is Outcome.APPLIED
        assert replicas(cluster) == (3, 1)

    def test_a_count_that_somebody_writes_in_between_stands(self, cluster: ApiStandIn) -> None:
        target = pair(cluster)
        target.fleet()
        cluster.change("deployments", "decode", lambda found: found["spec"].update(replicas=7), manager="kubectl")
        applied = target.apply(3, 2, now_s=0.0)
        assert applied.outcome is Outcome.CONTENDED
        assert applied.message == ("Not asking for prefill=3, decode=2: kubectl set decode from 1 to 7 in Deployment/decode at the same moment")
        assert replicas(cluster) == (1, 7)

    def test_one_that_never_holds_still_is_given_up(self, cluster: ApiStandIn) -> None:
        target = pair(cluster)
        target.fleet()
        cluster.fail(409, verb="patch", times=1000)
        with pytest.raises(UnreachableError, match=r"deployments\.apps/decode changes faster than it can be written"):
            target.apply(1, 2, now_s=0.0)

    def test_what_was_written_before_the_other_role_failed_is_said(self, cluster: ApiStandIn) -> None:
        target = pair(cluster)
        target.fleet()

        def second_write(call: Call) -> int | None:
            return 500 if call.verb == "patch" and call.name == "decode" else None

        cluster.failures.append(second_write)
        with pytest.raises(UnreachableError, match=r"^prefill=2 stands, but the Kubernetes API .* answers HTTP 500"):
            target.apply(2, 3, now_s=0.0)
        cluster.failures.clear()
        fleet = target.fleet((1, 1))
        assert fleet.hands_off is None  # it was us
        assert fleet.asked == (2, 1)
        target.apply(2, 3, now_s=0.0)
        assert replicas(cluster) == (2, 3)


class TestOthersWhoWrite:
    def test_a_count_that_somebody_else_set_is_left_alone_and_told(self, cluster: ApiStandIn) -> None:
        target = pair(cluster)
        target.fleet()
        target.apply(3, 2, now_s=0.0)
        assert target.fleet((3, 2)).hands_off is None
        cluster.change("deployments", "prefill", lambda found: found["spec"].update(replicas=1), manager="argocd-controller")
        fleet = target.fleet((3, 2))
        assert fleet.hands_off == HandsOff(Hold.CONTENDED, "argocd-controller set prefill from 3 to 1 in Deployment/prefill")
        assert fleet.asked == (1, 2)
        assert target.fleet((1, 2)).hands_off is None  # having stood back once

    def test_an_autoscaler_is_named(self, cluster: ApiStandIn) -> None:
        reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "decode"}
        cluster.put(
            {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "hpa"}, "spec": {"scaleTargetRef": reference}}
        )
        cluster.change("deployments", "decode", lambda found: found["spec"].update(replicas=9), manager="kube-controller-manager")
        told = "kube-controller-manager set decode from 1 to 9 in Deployment/decode"
        assert pair(cluster).fleet((1, 1)).hands_off == HandsOff(Hold.CONTENDED, f"{told}; HorizontalPodAutoscaler/hpa scales it, too")
        cluster.deny("list", "horizontalpodautoscalers")
        assert pair(cluster).fleet((1, 1)).hands_off == HandsOff(Hold.CONTENDED, told)

    def test_what_we_wrote_and_forgot_is_ours(self, cluster: ApiStandIn) -> None:
        target = pair(cluster)
        target.fleet()
        target.apply(3, 2, now_s=0.0)
        assert pair(cluster).fleet((1, 1)).hands_off is None

    def test_at_the_first_look_whatever_is_asked_for_is_right(self, cluster: ApiStandIn) -> None:
        assert pair(cluster).fleet().hands_off is None

    @pytest.mark.parametrize("value", ["true", "True", "yes", ""])
    def test_an_annotation_pauses(self, cluster: ApiStandIn, value: str) -> None:
        cluster.change("deployments", "decode", lambda found: found["metadata"].update(annotations={"slaplanner.io/paused": value}))
        assert pair(cluster).fleet((9, 9)).hands_off == HandsOff(Hold.PAUSED, "Deployment/decode is annotated slaplanner.io/paused")

    def test_an_annotation_that_says_false_does_not(self, cluster: ApiStandIn) -> None:
        cluster.change("deployments", "decode", lambda found: found["metadata"].update(annotations={"slaplanner.io/paused": "false"}))
        assert pair(cluster).fleet((1, 1)).hands_off is None


def test_a_scaling_adapter_is_scaled_like_any_other_and_its_workers_are_the_services(cluster: ApiStandIn) -> None:
    cluster.put(adapter("DecodeWorker", 2))
    labels = {"nvidia.com/dynamo-graph-deployment-name": "chat", "nvidia.com/dynamo-component": "DecodeWorker"}
    pods_of(cluster, labels, 1)
    target = pair(cluster, decode="dgdsa/chat-decodeworker")
    assert target.fleet().decode == WorkerCounts(1, 1)
    target.apply(1, 3, now_s=0.0)
    assert (cluster.get("dynamographdeploymentscalingadapters", "chat-decodeworker") or {})["spec"]["replicas"] == 3


def test_events_go_to_the_objects_that_hold_the_counts(cluster: ApiStandIn) -> None:
    target = pair(cluster)
    assert target.announce((Notice("Normal", "ScalingDecision", "too early"),)) == ""  # nothing is known yet to tell it of
    target.fleet()
    assert target.announce((Notice("Normal", "ScalingDecision", "up"),)) == ""
    about = [(cluster.get("events", name) or {})["regarding"]["name"] for name in cluster.names("events")]
    assert sorted(about) == ["decode", "prefill"]


def test_a_fleet_says_what_is_asked_for() -> None:
    assert Fleet(WorkerCounts(1, 2, 3), WorkerCounts(4)).asked == (6, 4)
