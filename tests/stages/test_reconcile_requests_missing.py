"""`reconcile-requests --once` where something is not there that a request needs, or where somebody else has its names."""

from __future__ import annotations

import pytest
from tests.stages.requests_place import GRAPHS, JOBS, MAPS, Place, begun, once, place

from sla_planner.cluster.requests_actions import Occupied
from sla_planner.engines.dgd_requests import base_manifest
from sla_planner.stages import reconcile_requests_one as stage


@pytest.fixture
def here(tmp_path, monkeypatch):
    with place(tmp_path, monkeypatch) as found:
        yield found


class TestMissing:
    """Pending, each with a reason; taken up by itself once it is there."""

    def pending(self, here: Place, reason: str, words: str) -> None:
        assert once() == 0
        assert here.state() == "Pending/Pending"
        status, found, message = here.condition("Validation")
        assert (status, found) == ("False", reason)
        assert words in message
        assert here.cluster.names(JOBS) == []
        assert here.events() == ["Initialized", reason]

    def test_the_base_manifest_and_its_key(self, here):
        here.request(profiling={"configMapRef": {"name": "mine", "key": "disagg.yaml"}})
        self.pending(here, "BaseManifestMissing", "there is no ConfigMap mine in namespace here; make it: kubectl create configmap mine")
        here.cluster.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine"}, "data": {"other.yaml": ""}})
        assert once() == 0
        assert "has no key disagg.yaml, its keys: other.yaml" in here.condition("Validation")[2]
        here.cluster.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine"}, "data": {"disagg.yaml": base_manifest("vllm")}})
        assert once() == 0
        assert here.state() == "Profiling/Profiling"

    def test_a_claim(self, here):
        here.request(profiling={"outputPVC": "results"})
        self.pending(here, "ObjectsMissing", "there is no PersistentVolumeClaim results in namespace here")

    def test_an_account(self, here):
        here.cluster.drop("serviceaccounts", "planner")
        here.request()
        self.pending(here, "ObjectsMissing", "there is no ServiceAccount planner in namespace here; install the stages there")

    def test_gpus(self, here):
        here.cluster.drop("nodes", "a", namespace="")
        here.request()
        self.pending(here, "GPUsMissing", "no node has any")

    def test_the_operator(self, here):
        here.cluster.kinds = [kind for kind in here.cluster.kinds if kind.plural != GRAPHS]
        here.request()
        self.pending(here, "DeploymentAPIMissing", "install the Dynamo operator")

    def test_names_that_somebody_else_has(self, here):
        here.cluster.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "dgdr-output-chat"}, "data": {"mine": "1"}})
        here.request()
        self.pending(here, "NameTaken", "ConfigMap dgdr-output-chat")
        assert here.found(MAPS, "dgdr-output-chat")["data"] == {"mine": "1"}

    def test_a_deployment_of_somebody_else(self, here):
        graph = {"apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeployment", "metadata": {"name": "chat"}, "spec": {"components": []}}
        here.cluster.put(graph)
        here.request()
        self.pending(here, "DeploymentConflict", "was not made for this request")
        assert here.found(GRAPHS, "chat")["spec"] == {"components": []}

    def test_a_deployment_of_somebody_else_that_comes_in_the_last_moment(self, here, monkeypatch):
        begun(here)
        here.profiled()
        graph = {"apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeployment", "metadata": {"name": "chat"}, "spec": {"components": []}}

        def comes(call):
            if (call.verb, call.resource) == ("create", GRAPHS) and here.cluster.names(GRAPHS) == []:
                here.cluster.put(graph)

        here.cluster.failures.append(comes)
        assert once() == 0
        assert (here.state(), here.condition("DeploymentReady")[1]) == ("Failed/Failed", "DeploymentConflict")
        assert here.found(GRAPHS, "chat")["spec"] == {"components": []}

    def test_an_object_in_the_way_that_no_look_shows_is_told_and_not_tried_again_at_once(self, here, monkeypatch):
        tries = []

        def occupied(hands, action):
            tries.append(action)
            raise Occupied("Job/profile-chat is needed and belongs to somebody else", hint="delete or rename it")

        monkeypatch.setattr(stage.Hands, "carry_out", occupied)
        here.request()
        assert once() == 2
        assert len(tries) == 2  # the second look might have shown it
        assert "Job/profile-chat is needed and belongs to somebody else" in here.status()["message"]
        assert here.state() == "Pending/Pending"

    def test_what_goes_while_it_is_written_is_not_taken_for_the_request(self, here, capsys):
        begun(here)
        here.profiled()

        def goes(call):
            if (call.verb, call.resource, call.name) == ("patch", MAPS, "dgdr-output-chat"):
                here.cluster.drop(MAPS, "dgdr-output-chat")

        here.cluster.failures.append(goes)
        assert once() == 4
        assert "request chat: what was there is gone again" in capsys.readouterr().err
