"""`reconcile-requests --once` with a deployment that goes to another namespace, `there`, on an API over HTTP."""

from __future__ import annotations

from functools import partial

import pytest
from tests.stages.requests_place import GRAPHS, JOBS, MAPS, begun, once, place

from sla_planner.cluster.api import KubernetesApi
from sla_planner.cluster.resources import ACCESS_REVIEWS

THERE = {"namespace": "there", "workersImage": "registry.example.com/vllm:1"}
COPY = "planner-profile-data-chat"
GRANT = (
    "kubectl apply -f manifests/components/deployment-requests-target-namespace/objects/role.yaml -n there && kubectl create rolebinding "
    "reconcile-requests-target --role=reconcile-requests-target --serviceaccount=here:reconcile-requests -n there"
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    with place(tmp_path, monkeypatch) as found:
        found.open_namespace("there")
        yield found


def deployed_there(here, **spec):
    begun(here, deploymentOverrides=THERE, **spec)
    here.profiled()
    assert once() == 0
    here.operator_says("successful", namespace="there")
    assert once() == 0
    assert here.state() == "Ready/Deployed"


class TestTheWay:
    def test_profiled_here_and_deployed_there_with_a_profile_of_its_own(self, here):
        deployed_there(here)
        graph = here.found(GRAPHS, "chat", namespace="there")
        assert here.cluster.names(GRAPHS) == []
        assert here.cluster.names(MAPS) == ["dgdr-output-chat", "planner-profile-data", COPY]
        assert here.cluster.names(MAPS, namespace="there") == [COPY]
        copy = here.found(MAPS, COPY, namespace="there")
        assert copy["data"] == here.found(MAPS, COPY)["data"]
        assert [(owner["kind"], owner["uid"]) for owner in copy["metadata"]["ownerReferences"]] == [
            ("DynamoGraphDeployment", graph["metadata"]["uid"])
        ]
        assert here.status()["deployment"]["namespace"] == "there"
        planner = str(graph["spec"])
        assert f"'configMap': {{'name': '{COPY}'}}" in planner
        labels = graph["metadata"]["labels"]
        assert (labels["dgdr.nvidia.com/name"], labels["dgdr.nvidia.com/namespace"]) == ("chat", "here")

    def test_when_nothing_happens_nothing_is_written(self, here):
        deployed_there(here)
        here.cluster.calls.clear()
        assert once() == 0
        assert here.cluster.writes() == []

    def test_who_applies_it_gets_the_profile_at_the_next_look(self, here):
        begun(here, deploymentOverrides=THERE, autoApply=False)
        here.profiled()
        assert once() == 0
        assert here.cluster.names(MAPS, namespace="there") == []
        here.cluster.put(here.status()["generatedDeployment"], namespace="there")
        assert once() == 0
        assert here.cluster.names(MAPS, namespace="there") == [COPY]

    def test_a_deleted_request_leaves_the_deployment_its_profile(self, here):
        deployed_there(here)
        here.delete()
        assert once() == 0
        assert (here.cluster.names(MAPS), here.cluster.names(JOBS)) == ([], [])
        assert (here.cluster.names(GRAPHS, namespace="there"), here.cluster.names(MAPS, namespace="there")) == (["chat"], [COPY])

    def test_what_somebody_changes_in_the_copy_is_put_right_and_another_owner_stays(self, here):
        deployed_there(here)

        def change(found):
            found["data"]["prefill_raw_data.json"] = "[]"
            found["metadata"]["ownerReferences"] = [{"apiVersion": "v1", "kind": "ConfigMap", "name": "mine", "uid": "u"}]

        here.cluster.change(MAPS, COPY, change, namespace="there", manager="kubectl-edit")
        assert once() == 0
        copy = here.found(MAPS, COPY, namespace="there")
        assert copy["data"] == here.found(MAPS, COPY)["data"]
        assert [owner["kind"] for owner in copy["metadata"]["ownerReferences"]] == ["ConfigMap", "DynamoGraphDeployment"]

    def test_why_pods_do_not_start_is_looked_for_there(self, here):
        begun(here, deploymentOverrides=THERE)
        here.profiled()
        assert once() == 0
        container = {"name": "main", "image": "x", "restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}}
        placed = {"type": "PodScheduled", "status": "True"}
        metadata = {"name": "chat-decode-0", "labels": {"nvidia.com/dynamo-graph-deployment-name": "chat"}}
        status = {"phase": "Pending", "conditions": [placed], "containerStatuses": [container]}
        here.cluster.put({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}, "status": status}, namespace="there")
        said = {"reason": "FailedMount", "type": "Warning", "note": 'secret "weights" not found', "regarding": {"name": "chat-decode-0"}}
        event = {"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "eventTime": "2026-01-31T12:00:00Z", **said}
        here.cluster.put(event, namespace="there")
        assert once() == 0
        assert 'secret "weights" not found' in here.condition("DeploymentReady")[2]

    def test_a_rehearsal_names_the_namespace(self, here, capsys):
        begun(here, deploymentOverrides=THERE, autoApply=False)
        here.profiled()
        assert once() == 0
        here.cluster.put(here.status()["generatedDeployment"], namespace="there")
        assert once("--dry-run") == 0
        assert f"chat: would write ConfigMap/{COPY} in namespace there, the profile for DynamoGraphDeployment/chat" in capsys.readouterr().out


class TestMissing:
    """Before anything is measured, and taken up when it is there."""

    def pending(self, here, reason, *words):
        here.request(deploymentOverrides=THERE)
        for _ in range(2):
            assert once() == 0
        assert here.condition("Validation")[:2] == ("False", reason)
        assert all(each in here.status()["message"] for each in words)
        assert here.events().count(reason) == 1
        assert (here.cluster.names(JOBS), here.cluster.names(MAPS, namespace="there")) == ([], [])

    def test_the_namespace(self, here):
        here.cluster.drop("namespaces", "there", namespace="")
        here.cluster.drop("serviceaccounts", "planner", namespace="there")
        self.pending(here, "ObjectsMissing", "there is no namespace there; make it: kubectl create namespace there")
        here.open_namespace("there")
        assert once() == 0
        assert here.state() == "Profiling/Profiling"

    def test_the_account_of_its_planner(self, here):
        here.cluster.drop("serviceaccounts", "planner", namespace="there")
        self.pending(here, "ObjectsMissing", "no ServiceAccount planner in namespace there", "kubectl apply -k . -n there")

    def test_rights(self, here, monkeypatch):
        granted = reviewed(here, monkeypatch, missing={("create", GRAPHS), ("patch", MAPS)})
        who = "may not create dynamographdeployments.nvidia.com, patch configmaps in namespace there"
        self.pending(here, "RightsMissing", who, f"who administers there grants it: {GRANT}")
        granted()
        assert once() == 0
        assert here.state() == "Profiling/Profiling"

    def test_what_is_not_applied_needs_no_right_to_create_deployments(self, here, monkeypatch):
        reviewed(here, monkeypatch, missing={("create", GRAPHS)})
        begun(here, deploymentOverrides=THERE, autoApply=False)

    def test_a_profile_that_is_somebody_elses(self, here):
        here.cluster.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": COPY}, "data": {"mine": "1"}}, namespace="there")
        self.pending_with_maps(here)
        here.cluster.drop(MAPS, COPY, namespace="there")
        assert once() == 0
        assert here.state() == "Profiling/Profiling"

    def pending_with_maps(self, here):
        here.request(deploymentOverrides=THERE)
        assert once() == 0
        assert here.condition("Validation")[:2] == ("False", "NameTaken")
        assert f"ConfigMap {COPY} in namespace there" in here.status()["message"]
        assert (here.cluster.names(JOBS), here.found(MAPS, COPY, namespace="there")["data"]) == ([], {"mine": "1"})

    def test_a_deployment_that_is_somebody_elses(self, here):
        theirs = {"apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeployment", "metadata": {"name": "chat"}, "spec": {}}
        here.cluster.put(theirs, namespace="there")
        self.pending(here, "DeploymentConflict", "kubectl delete dynamographdeployment chat -n there", "spec.deploymentOverrides.name")


class TestAfterProfiling:
    """What was there when it began, and is not any more."""

    def test_the_right_to_create_deployments(self, here):
        begun(here, deploymentOverrides=THERE)
        here.profiled()
        here.cluster.deny("create", GRAPHS)
        self.refused(here, "may not create dynamographdeployments in namespace there")
        assert here.cluster.names(GRAPHS, namespace="there") == ["chat"]

    def test_the_right_to_create_its_profile(self, here):
        deployed_there(here)
        here.cluster.drop(MAPS, COPY, namespace="there")
        here.cluster.deny("create", MAPS)
        self.refused(here, "may not create configmaps in namespace there")
        assert here.cluster.names(MAPS, namespace="there") == [COPY]

    def refused(self, here, words):
        """Told with the command that grants it, and taken up."""
        state = here.status()["state"]
        for _ in range(2):
            assert once() == 2
            assert words in here.status()["message"]
            assert GRANT in here.status()["message"]
        assert here.events().count("Refused") == 1
        here.cluster.denied.clear()
        assert once() == 0
        assert GRANT not in here.status()["message"]
        assert (state, here.status()["state"]) in (("Profiling", "Deploying"), ("Ready", "Ready"))

    def test_a_profile_of_somebody_else_that_came_meanwhile_is_left_alone_and_told(self, here):
        begun(here, deploymentOverrides=THERE)
        here.cluster.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": COPY}, "data": {"mine": "1"}}, namespace="there")
        here.profiled()
        assert once() == 2
        assert f"ConfigMap/{COPY} is needed and belongs to somebody else" in here.status()["message"]
        assert here.found(MAPS, COPY, namespace="there")["data"] == {"mine": "1"}
        here.cluster.drop(MAPS, COPY, namespace="there")
        assert once() == 0
        here.operator_says("successful", namespace="there")
        assert once() == 0
        assert here.state() == "Ready/Deployed"


def reviewed(here, monkeypatch, *, missing):
    """Answers access reviews; the function that it returns grants everything."""
    here.cluster.kinds.append(ACCESS_REVIEWS)
    create = KubernetesApi.create

    def answered(api, resource, body, **more):
        if resource != ACCESS_REVIEWS:
            return create(api, resource, body, **more)
        asked = body["spec"]["resourceAttributes"]
        assert asked["namespace"] == "there"
        return {"status": {"allowed": (asked["verb"], asked["resource"]) not in missing}}

    monkeypatch.setattr(KubernetesApi, "create", answered)
    return partial(missing.clear)
