"""Requests from beginning to end in a small cluster: where they end, what is told on the way, and what there is in the end."""

from __future__ import annotations

import copy
import json

import pytest

from .plain import GRAPH_KEY, NAMESPACE, SHARED_PROFILE, SPEC, SPEC_KEY
from .scenarios import SCENARIOS, moved, played
from .world import Reconciler, World, finished, settle

BEGUN = ["Initialized", "ProfilingJobCreated"]
DEPLOYED = [*BEGUN, "SpecGenerated", "DeploymentCreated", "DeploymentReady"]
TOLD = {
    "online": DEPLOYED,
    "offline": DEPLOYED,
    "not applied": [*BEGUN, "SpecGenerated"],
    "applied by hand": DEPLOYED,
    "infeasible": [*BEGUN, "SLAInfeasible"],
    "Job failed": [*BEGUN, "ProfilingJobFailed"],
    "AI Configurator failed": [*BEGUN, "AIConfiguratorFailed"],
    "image not pulled": [*BEGUN, "ImagePullBackOff", "ImagePullFailed"],
    "unschedulable, then placed": [*BEGUN, "Unschedulable", *DEPLOYED[2:]],
    "base missing, then there": ["Initialized", "BaseManifestMissing", "ProfilingJobCreated", *DEPLOYED[2:]],
    "claim missing, then there": ["Initialized", "ObjectsMissing", "ProfilingJobCreated", *DEPLOYED[2:]],
    "no operator": ["Initialized", "DeploymentAPIMissing"],
    "operator gone and back": [*BEGUN, "SpecGenerated", "DeploymentAPIMissing", "DeploymentCreated", "DeploymentReady"],
    "too few GPUs": ["Initialized", "GPUsMissing"],
    "name of somebody's deployment": ["Initialized", "DeploymentConflict"],
    "somebody's deployment comes": [*BEGUN, "SpecGenerated", "DeploymentConflict"],
    "wrong spec": ["ValidationFailed"],
    "wrong spec put right": ["ValidationFailed", *DEPLOYED],
    "unusable overrides": ["ValidationFailed"],
    "unusable overrides put right": ["ValidationFailed", *DEPLOYED],
    "spec edited while profiling": [*BEGUN, "SpecChangeRejected", *DEPLOYED[2:]],
    "spec made wrong while profiling": [*BEGUN, "SpecChangeRejected", *DEPLOYED[2:]],
    "spec edited when deployed": [*DEPLOYED, "SpecChangeRejected"],
    "spec edited when failed": [*BEGUN, "ProfilingJobFailed", "SpecChangeRejected"],
    "Job deleted": [*BEGUN, "ProfilingJobFailed"],
    "no deployment of it": [*BEGUN, "MappingRefused"],
    "deployment deleted": [*DEPLOYED, "DeploymentDeleted"],
    "degraded and back": [*DEPLOYED, "DeploymentDegraded", "DeploymentReady"],
    "scaled up": DEPLOYED,
    "scaled up, then in trouble, then back": [*DEPLOYED, "DeploymentDegraded", "DeploymentReady"],
    "nothing available": [*DEPLOYED, "DeploymentDegraded"],
    "given up by the operator": [*DEPLOYED, "DeploymentDegraded"],
    "somebody's Job in the way": ["Initialized", "NameTaken"],
    "dry run": BEGUN,
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_ends_as_it_should(name):
    _, state, reason = SCENARIOS[name]
    world = played(name)
    if state is None:
        assert "x" not in world.requests
        return
    assert world.state() == state
    assert world.condition("Succeeded").get("reason", "") == reason
    assert world.requests["x"]["status"].get("observedGeneration") == (world.requests["x"]["metadata"]["generation"] if reason else None)


@pytest.mark.parametrize("name", SCENARIOS)
def test_makes_each_object_once(name):
    made = played(name).made
    most = 2 if "made anew" in name or "applied by hand" in name or name == "elsewhere, profile deleted" else 1
    assert all(count <= most for count in made.values()), made


@pytest.mark.parametrize("name", TOLD)
def test_tells_what_happens_in_order_and_once(name):
    assert played(name).reasons() == TOLD[name]


@pytest.mark.parametrize("name", SCENARIOS)
def test_does_nothing_where_nothing_has_happened(name):
    """Each look is taken twice after every move, by one that remembers nothing; time goes on."""
    world = World()
    for move in SCENARIOS[name][0]:
        move(world)
        settle(world)
        before, told, requests = world.picture(), list(world.events), copy.deepcopy(world.requests)
        for request in world.requests:
            assert finished(Reconciler(world, iter(range(5000, 9000))).pass_over(request)) is False
        assert (world.picture(), world.events, world.requests) == (before, told, requests)


def test_what_there_is_when_it_serves():
    world = played("online")
    status = world.requests["x"]["status"]
    assert {each["type"]: (each["status"], each["reason"]) for each in status["conditions"]} == {
        "Validation": ("True", "Valid"),
        "Profiling": ("True", "ProfilingCompleted"),
        "SpecGenerated": ("True", "SpecGenerated"),
        "DeploymentReady": ("True", "DeploymentReady"),
        "Succeeded": ("True", "Deployed"),
    }
    assert status["generatedDeployment"]["spec"] == {"prefill": "TP2", "decode": "TP1"}
    assert world.graphs["x"]["spec"] == status["generatedDeployment"]["spec"]
    assert (status["profilingResults"], status["dgdName"], status["profilingJobName"]) == ("configmap/planner-profile-data-x", "x", "profile-x")
    assert status["deployment"] == {"name": "x", "namespace": NAMESPACE, "state": "successful", "created": True}
    assert status["deploymentInfo"] == {"replicas": 4, "availableReplicas": 4}
    assert (status["backend"], status["profilingPhase"]) == ("vllm", "Done")
    assert "progress" not in status
    output = world.config_maps["dgdr-output-x"]["data"]
    assert json.loads(output[SPEC_KEY]) == SPEC
    assert json.loads(output[GRAPH_KEY]) == status["generatedDeployment"]
    assert world.config_maps[SHARED_PROFILE]["data"] == world.config_maps["planner-profile-data-x"]["data"]


def test_nothing_is_deployed_that_is_not_asked_for():
    for name in ("not applied", "infeasible", "no deployment of it", "dry run"):
        assert not played(name).graphs, name


def test_the_profile_outlives_the_request_with_its_deployment_only():
    world = played("deleted when deployed")
    assert sorted(world.config_maps) == ["dgd-base", "planner-profile-data-x"]
    assert world.graphs
    assert not world.jobs
    world.delete_graph()
    assert sorted(world.config_maps) == ["dgd-base"]
    assert sorted(played("deleted when generated").config_maps) == ["dgd-base"]
    again = played("deployment deleted and applied by hand")
    again.delete_request()
    assert sorted(again.config_maps) == ["dgd-base", "planner-profile-data-x"]


def test_two_requests_share_nothing_unless_one_was_alone_first():
    both, one = played("two requests"), played("the first is profiled, then there is another")
    assert SHARED_PROFILE not in both.config_maps
    assert one.config_maps[SHARED_PROFILE]["metadata"]["request"] == one.requests["x"]["metadata"]["uid"]
    assert both.state("y") == ("Deploying", "Deploying")


def test_a_profile_that_somebody_else_published_is_left_alone():
    def published(world):
        world.config_maps[SHARED_PROFILE] = {"metadata": {"name": SHARED_PROFILE, "uid": "theirs"}, "data": {"prefill_raw_data.json": "[9]"}}

    world = moved(published, *SCENARIOS["online"][0])
    assert world.config_maps[SHARED_PROFILE]["data"] == {"prefill_raw_data.json": "[9]"}


def test_the_spec_that_profiling_began_with_goes_on_being_used():
    for name in ("spec edited while profiling", "spec made wrong while profiling"):
        world = played(name)
        assert json.loads(world.config_maps["dgdr-output-x"]["data"][SPEC_KEY]) == SPEC
        assert world.condition("Validation")["reason"] == "SpecChangeRejected"
        assert "create it anew" in world.condition("Validation")["message"]
    world.apply()
    settle(world)
    assert world.condition("Validation")["reason"] == "Valid"
