"""`reconcile-requests --once` as a CronJob calls it, again and again, on an API over HTTP; what controllers do is played."""

from __future__ import annotations

import copy
import json

import pytest
import yaml
from tests.stages.requests_place import GRAPHS, JOBS, MAPS, REQUESTS, Place, place

from sla_planner.cli import run
from sla_planner.cluster.requests_actions import Occupied
from sla_planner.engines.dgd_requests import base_manifest
from sla_planner.errors import UsageError
from sla_planner.requests_config import RequestsConfig
from sla_planner.stages import reconcile_requests_one as stage

LONG_AGO = "2026-01-01T00:00:00Z"
SLA = {"isl": 3000, "osl": 150, "ttft": 200, "itl": 20}
OFFLINE = {"use_ai_configurator": True, "aic_system": "h200_sxm"}
ONCE = ("reconcile-requests", "--once", "--log-format", "human")


@pytest.fixture
def here(tmp_path, monkeypatch):
    with place(tmp_path, monkeypatch) as found:
        yield found


def once(*flags: str) -> int:
    return run([*ONCE, *flags])


def begun(here: Place, **spec) -> None:
    here.request(**spec)
    assert once() == 0
    assert here.state() == "Profiling/Profiling"


def deployed(here: Place, **spec) -> None:
    begun(here, **spec)
    here.profiled()
    assert once() == 0
    here.operator_says("successful")
    assert once() == 0
    assert here.state() == "Ready/Deployed"


class TestTheWay:
    def test_from_a_request_to_a_deployment_that_serves(self, here):
        begun(here)
        job = here.found(JOBS, "profile-chat")
        owner = {key: job["metadata"]["ownerReferences"][0][key] for key in ("kind", "name")}
        assert owner == {"kind": "DynamoGraphDeploymentRequest", "name": "chat"}
        assert here.word.read_text() == "chat: Profiling"
        frozen = here.found(MAPS, "dgdr-output-chat")["data"]
        assert json.loads(frozen["spec.json"]) == here.found(REQUESTS, "chat")["spec"]
        assert "Qwen/Qwen3-32B" in frozen["disagg.yaml"]

        progress = {"phase": "SweepingPrefill", "mapping": "prefill TP:1", "point": 3, "points": 9, "eta_s": 50}
        here.pod({"running": {}}, log=json.dumps({"message": "TP1 prefill", "progress": progress}))
        assert once() == 0
        assert here.status()["progress"] == {"mapping": "prefill TP:1", "point": 3, "points": 9, "etaSeconds": 50}
        assert here.status()["profilingPhase"] == "SweepingPrefill"

        here.profiled()
        assert once() == 0
        assert here.state() == "Deploying/Deploying"
        graph = here.found(GRAPHS, "chat")
        status = here.status()
        assert status["generatedDeployment"]["spec"] == graph["spec"]
        assert status["profilingResults"] == "configmap/planner-profile-data-chat"
        assert "ownerReferences" not in graph["metadata"]
        output = yaml.safe_load(here.found(MAPS, "dgdr-output-chat")["data"]["config_with_planner.yaml"])
        assert output["spec"] == graph["spec"]
        assert here.found(MAPS, "planner-profile-data")["data"] == here.found(MAPS, "planner-profile-data-chat")["data"]

        here.operator_says("successful")
        assert once() == 0
        assert here.state() == "Ready/Deployed"
        owners = here.found(MAPS, "planner-profile-data-chat")["metadata"]["ownerReferences"]
        assert [owner["kind"] for owner in owners] == ["DynamoGraphDeploymentRequest", "DynamoGraphDeployment"]
        assert here.events() == ["Initialized", "ProfilingJobCreated", "SpecGenerated", "DeploymentCreated", "DeploymentReady"]

    def test_when_nothing_happens_nothing_is_written(self, here):
        deployed(here)
        here.cluster.calls.clear()
        assert once() == 0
        assert here.cluster.writes() == []

    def test_a_shared_copy_of_somebody_else_is_left_alone_and_not_tried_again(self, here):
        here.cluster.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "planner-profile-data"}, "data": {"mine": "1"}})
        deployed(here)
        here.cluster.calls.clear()
        assert once() == 0
        assert here.cluster.writes() == []
        assert here.found(MAPS, "planner-profile-data")["data"] == {"mine": "1"}

    def test_without_auto_apply_it_stops_before_applying_and_follows_who_applies_it(self, here):
        begun(here, autoApply=False)
        here.profiled()
        assert once() == 0
        assert here.state() == "Ready/Ready"
        assert here.cluster.names(GRAPHS) == []
        here.cluster.put(here.status()["generatedDeployment"])
        here.operator_says("successful")
        assert once() == 0
        assert here.state() == "Ready/Deployed"

    def test_what_profiling_began_with_may_be_deleted_meanwhile(self, here):
        begun(here)
        here.cluster.drop(MAPS, "dgdr-output-chat")
        here.profiled()
        assert once() == 0
        assert "Qwen/Qwen3-32B" in here.found(MAPS, "dgdr-output-chat")["data"]["disagg.yaml"]
        here.operator_says("successful")
        assert once() == 0
        assert here.state() == "Ready/Deployed"

    def test_what_was_generated_is_written_anew_where_somebody_has_deleted_it(self, here):
        deployed(here)
        kept = here.found(MAPS, "dgdr-output-chat")["data"]
        here.cluster.drop(MAPS, "dgdr-output-chat")
        assert once() == 0
        assert here.found(MAPS, "dgdr-output-chat")["data"] == kept

    def test_a_request_of_the_other_shape(self, here):
        spec = {"model": "Qwen/Qwen3-0.6B", "searchStrategy": "thorough", "image": "registry.example.com/profile-sweep:1"}
        kind = {"apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeploymentRequest"}
        here.cluster.put({**kind, "metadata": {"name": "chat", "generation": 1}, "spec": spec})
        assert once() == 0
        here.profiled()
        assert once() == 0
        here.operator_says("successful")
        assert once() == 0
        assert here.state() == "Ready/Deployed"

    def test_offline_needs_no_gpus_of_its_own_and_finds_their_kind_on_the_nodes(self, here):
        begun(here, sweep={"use_ai_configurator": True}, enableGpuDiscovery=True)
        (container,) = here.found(JOBS, "profile-chat")["spec"]["template"]["spec"]["containers"]
        assert container["args"][container["args"].index("--aic-system") + 1] == "h200_sxm"

    def test_a_deployment_that_degrades_and_one_that_is_deleted(self, here):
        deployed(here)
        here.operator_says("pending", available=2)
        assert once() == 0
        assert here.state() == "Ready/Deployed"  # one more is on its way
        here.operator_says("pending", available=0)
        assert once() == 0
        assert (here.state(), here.condition("DeploymentReady")[1]) == ("Deploying/Deploying", "DeploymentDegraded")
        here.cluster.drop(GRAPHS, "chat")
        assert once() == 0
        assert here.state() == "DeploymentDeleted/Failed"
        assert once() == 0
        assert here.cluster.names(GRAPHS) == []

    def test_an_edit_after_profiling_has_begun_has_no_effect(self, here):
        begun(here)
        here.edit(model="another/model")
        here.profiled()
        assert once() == 0
        assert "SpecChangeRejected" in here.events()
        assert "another/model" not in json.dumps(here.status()["generatedDeployment"])


class TestEnds:
    def test_a_job_that_fails_says_why_in_the_request_and_is_not_started_again(self, here):
        begun(here)
        here.job_ends("Failed", code=2, message="TP1: no node takes its pod; lower --max-num-gpus\n")
        assert once() == 0
        assert here.state() == "Failed/Failed"
        status, reason, message = here.condition("Profiling")
        assert (status, reason) == ("False", "ProfilingJobFailed")
        assert "TP1: no node takes its pod; lower --max-num-gpus" in message
        here.cluster.drop(JOBS, "profile-chat")
        assert once() == 0
        assert here.cluster.names(JOBS) == []

    def test_a_promise_that_cannot_be_kept_names_the_nearest(self, here):
        begun(here)
        here.publish(feasible=False)
        here.job_ends("Failed", code=3, message="no mapping keeps ITL 20 ms; the nearest is 24.1 ms on TP2")
        assert once() == 0
        assert here.condition("Profiling")[1:] == ("SLAInfeasible", here.status()["message"])
        assert "the nearest is 24.1 ms on TP2" in here.status()["message"]
        assert here.cluster.names(GRAPHS) == []

    def test_a_profile_that_no_config_map_holds(self, here):
        """The sweep removes what it would have filled, and says so."""
        begun(here)
        here.cluster.drop(MAPS, "planner-profile-data-chat")
        here.job_ends("Failed", code=2, message="the profile has 1,200,000 bytes, a ConfigMap holds 1,000,000; measure fewer points")
        assert once() == 0
        assert here.condition("Profiling")[1] == "ProfilingJobFailed"
        assert "a ConfigMap holds 1,000,000" in here.status()["message"]

    def test_a_job_that_somebody_deletes(self, here):
        begun(here)
        here.cluster.drop(JOBS, "profile-chat")
        assert once() == 0
        assert here.condition("Profiling")[1] == "ProfilingJobGone"
        assert here.cluster.names(JOBS) == []

    def test_an_image_that_cannot_be_pulled_is_told_at_once_and_ends_it_after_a_while(self, here):
        begun(here)
        here.pod({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}, phase="Pending")
        assert once("--image-limit-s", "1e12") == 0
        assert here.condition("Profiling")[1] == "ImagePullBackOff"
        assert once() == 0
        assert here.condition("Profiling")[1] == "ImagePullBackOff"  # its pod has waited for long, but not for the image
        here.cluster.change(REQUESTS, "chat", lambda found: [one.update(lastTransitionTime=LONG_AGO) for one in found["status"]["conditions"]])
        assert once() == 0
        assert here.condition("Profiling")[1] == "ImagePullFailed"
        assert here.cluster.names(JOBS) == []

    def test_a_pod_that_no_node_takes(self, here):
        begun(here)
        here.pod({}, phase="Pending")

        def unplaced(pod):
            words = "0/3 nodes are available: 3 Insufficient cpu. preemption: 0/3 nodes are available: 3 No preemption victims found."
            placed = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
            pod["status"] = {"phase": "Pending", "conditions": [placed]}

        here.cluster.change("pods", "profile-chat-x", unplaced)
        assert once() == 0
        assert here.state() == "Profiling/Profiling"
        assert here.condition("Profiling")[1] == "Unschedulable"

    def test_what_is_wrong_with_the_spec_is_told_fault_by_fault_until_it_is_changed(self, here):
        here.request(backend="tgi", model="")
        assert once() == 0
        assert here.state() == "Failed/Failed"
        assert here.condition("Validation")[1] == "ValidationFailed"
        events = [here.found("events", name) for name in here.cluster.names("events")]
        told = sorted(event["note"] for event in events if event["reason"] == "ValidationFailed")
        assert [note.partition(":")[0] for note in told] == ["spec.backend", "spec.model"]
        here.edit(backend="vllm", model="Qwen/Qwen3-32B")
        assert once() == 0
        assert here.state() == "Profiling/Profiling"

    @pytest.mark.parametrize(
        ("planner", "words"),
        [
            ({"planner_min_endpoints": 2}, "min_endpoint"),
            ({"planner_adjustment_interval": "soon"}, "adjustment-interval: 'soon' is not allowed"),
            ({"planner_min_prefill_replicas": 4, "planner_max_prefill_replicas": 2}, "4"),
            ({"planner_no_correction": "yes"}, "must be true or false"),
            ({"planner_ttft": 5}, "the request's SLA"),
        ],
    )
    def test_settings_of_the_planner_are_checked_as_the_planner_checks_them(self, here, planner, words):
        config = {"sla": {"isl": 3000, "osl": 150, "ttft": 200, "itl": 20}, "planner": planner}
        here.request(profiling={"config": config})
        assert once() == 0
        status, reason, message = here.condition("Validation")
        assert (status, reason) == ("False", "ValidationFailed")
        assert words in message

    def test_a_gpu_that_ai_configurator_does_not_know_ends_before_a_job_is_made(self, here):
        here.request(sweep={"use_ai_configurator": True, "aic_system": "h20_typo"})
        assert once() == 0
        assert (here.state(), here.cluster.names(JOBS)) == ("Failed/Failed", [])
        assert "AI Configurator has no data of 'h20_typo'; use one of a100_sxm, " in here.condition("Validation")[2]
        here.edit(profilingConfig={**here.found(REQUESTS, "chat")["spec"]["profilingConfig"], "config": {"sweep": OFFLINE, "sla": SLA}})
        assert once() == 0
        assert here.state() == "Profiling/Profiling"


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


class TestWhose:
    def test_where_the_definition_is_another_operators_only_those_that_name_us(self, here, capsys):
        here.define({"app.kubernetes.io/managed-by": "dynamo-operator"})
        here.request("theirs")
        here.request("ours", annotations={"slaplanner.io/request-class": "sla-planner"})
        assert once() == 0
        assert here.status("theirs") == {}
        assert here.state("ours") == "Profiling/Profiling"
        assert "Only requests with the annotation slaplanner.io/request-class: sla-planner are taken" in capsys.readouterr().err

    def test_where_it_cannot_be_read_the_same(self, here):
        here.cluster.deny("get", "customresourcedefinitions")
        here.request("theirs")
        here.request("ours", annotations={"slaplanner.io/request-class": "sla-planner"})
        assert once() == 0
        assert (here.status("theirs"), here.state("ours")) == ({}, "Profiling/Profiling")

    def test_one_that_names_another_class_is_never_ours(self, here):
        here.request(annotations={"slaplanner.io/request-class": "dynamo"})
        assert once() == 0
        assert here.status() == {}


class TestDefinitionOfSomebodyElse:
    """What its schema does not have is dropped without a word: nothing is made that would not be remembered."""

    @pytest.mark.parametrize(
        "dropped", [{"state", "message", "progress", "deployment"}, {"phase", "message", "progress", "profilingJobName", "dgdName"}]
    )
    def test_a_request_that_cannot_be_followed_is_left_alone_and_told_so(self, here, capsys, dropped):
        here.cluster.pruned[REQUESTS] = dropped
        here.request(annotations={"slaplanner.io/request-class": "sla-planner"})
        for _ in range(2):
            assert once() == 2
        assert (here.status(), here.cluster.names(JOBS), here.cluster.names(MAPS)) == ({}, [], [])
        (event,) = [here.found("events", name) for name in here.cluster.names("events")]
        assert event["reason"] == "StatusNotKept"
        assert all(f"status.{field}" in event["note"] for field in dropped)
        assert "so this request cannot be followed; install ours (component deployment-requests-crd)" in capsys.readouterr().err
        here.cluster.pruned.clear()
        assert once() == 0
        assert here.state() == "Profiling/Profiling"

    def test_one_whose_schema_takes_other_values(self, here):
        here.request()
        here.cluster.failures.append(lambda call: 422 if call.resource == f"{REQUESTS}/status" and call.query.get("dryRun") else None)
        assert once() == 2
        assert (here.cluster.names(JOBS), here.events()) == ([], ["StatusNotKept"])

    def test_while_it_runs_it_is_told_once_and_not_looked_at_all_the_time(self, here):
        here.cluster.pruned[REQUESTS] = {"state"}
        here.request()
        reconciler = stage.open_reconciler(RequestsConfig())
        reconciler.survey()
        looks = [reconciler.look("chat") for _ in range(3)]
        assert [(look.again_now, look.again_s) for look in looks] == [(False, 300.0)] * 3
        assert [call.resource for call in here.cluster.writes() if "dryRun" not in call.query] == ["events"]


class TestTwo:
    def test_each_has_its_own_and_the_shared_copy_is_nobodys(self, here):
        here.request("one")
        here.request("two")
        assert once() == 0
        for name in ("one", "two"):
            here.profiled(name=name)
        assert once() == 0
        assert here.cluster.names(GRAPHS) == ["one", "two"]
        maps = ["dgdr-output-one", "dgdr-output-two", "planner-profile-data-one", "planner-profile-data-two"]
        assert here.cluster.names(MAPS) == maps
        assert here.word.read_text() == "one: Deploying; two: Deploying"

    def test_a_fault_of_ours_with_one_is_its_own(self, here, monkeypatch, capsys):
        step = stage.step
        monkeypatch.setattr(stage, "step", lambda case, now: 1 / 0 if case.about.name == "one" else step(case, now))
        here.request("one")
        here.request("two")
        assert once() == 4
        assert here.state("two") == "Profiling/Profiling"
        assert "one: a fault of ours" in capsys.readouterr().err

    def test_the_deployment_outlives_its_request_and_a_new_one_of_that_name_is_told_so(self, here):
        deployed(here)
        here.delete()
        assert here.cluster.names(MAPS) == ["planner-profile-data-chat"]  # the planner reads it
        here.request()
        assert once() == 0
        assert here.condition("Validation")[1] == "DeploymentConflict"
        here.cluster.drop(GRAPHS, "chat")
        here.cluster.drop(MAPS, "planner-profile-data-chat")
        assert once() == 0
        assert here.state() == "Profiling/Profiling"


class TestGone:
    """A request that is deleted takes along what only it owns, and nothing is made for it again."""

    @pytest.mark.parametrize("state", ["Pending", "Profiling", "Failed", "Ready"])
    def test_in_any_state(self, here, state):
        if state == "Pending":
            here.cluster.drop("nodes", "a", namespace="")
            here.request()
            assert once() == 0
        elif state == "Ready":
            deployed(here)
        else:
            begun(here)
            if state == "Failed":
                here.job_ends("Failed", code=2, message="no")
                assert once() == 0
        assert here.status()["state"] == state
        here.delete()
        assert once() == 0
        assert here.word.read_text() == "there are no requests"
        kept = ["planner-profile-data-chat"] if state == "Ready" else []
        assert (here.cluster.names(JOBS), here.cluster.names(MAPS), here.cluster.names(GRAPHS)) == ([], kept, ["chat"] if state == "Ready" else [])

    def test_a_sweep_that_ends_after_it_leaves_no_profile_behind(self, here):
        begun(here)
        job = here.found(JOBS, "profile-chat")
        here.delete()
        here.cluster.put(job)  # its pod is still ending
        with pytest.raises(UsageError, match="planner-profile-data-chat that the profile is for is gone"):
            here.publish()
        assert here.cluster.names(MAPS) == []

    def test_one_that_is_on_its_way_out_is_left_alone(self, here):
        here.request()
        here.cluster.change(REQUESTS, "chat", lambda found: found["metadata"].update(deletionTimestamp="2026-01-31T12:00:00Z"))
        assert once() == 0
        assert here.cluster.writes() == []

    def test_a_new_one_of_that_name_waits_until_the_old_ones_objects_are_gone(self, here):
        begun(here)
        old = copy.deepcopy(here.cluster.objects)
        here.delete()
        for key, found in old.items():  # the garbage collector is late
            if key[0] in (JOBS, MAPS):
                here.cluster.objects[key] = found
        here.request()
        assert once() == 0
        assert here.condition("Validation")[1] == "NameTaken"
        for name in ("dgdr-output-chat", "planner-profile-data-chat"):
            here.cluster.drop(MAPS, name)
        here.cluster.drop(JOBS, "profile-chat")
        assert once() == 0
        assert here.state() == "Profiling/Profiling"
