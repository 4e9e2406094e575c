"""`reconcile-requests --once` as a CronJob calls it, again and again, on an API over HTTP; what controllers do is played."""

from __future__ import annotations

import json

import pytest
import yaml
from tests.stages.requests_place import GRAPHS, JOBS, MAPS, REQUESTS, begun, deployed, once, place

LONG_AGO = "2026-01-01T00:00:00Z"
SLA = {"isl": 3000, "osl": 150, "ttft": 200, "itl": 20}
OFFLINE = {"use_ai_configurator": True, "aic_system": "h200_sxm"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    with place(tmp_path, monkeypatch) as found:
        yield found


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
