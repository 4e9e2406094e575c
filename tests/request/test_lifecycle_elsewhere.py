"""A deployment in another namespace than its request: what is made there, when, and what stays there. Stories: `scenarios.py`, `elsewhere, ...`."""

from __future__ import annotations

from .plain import profile_name
from .scenarios import apply, call, moved, profiled, put, ready

COPY = profile_name("x")
ELSEWHERE = apply(there="chat")


def test_the_profile_is_copied_to_the_deployment_which_is_its_only_owner():
    world = moved(ELSEWHERE, profiled)
    assert world.graphs["x"]["metadata"]["namespace"] == "chat"
    assert world.copies[COPY]["metadata"]["owners"] == [world.graphs["x"]["metadata"]["uid"]]
    assert world.copies[COPY]["data"] == world.config_maps[COPY]["data"]
    assert world.config_maps[COPY]["metadata"]["owners"] == [world.requests["x"]["metadata"]["uid"]]


def test_nothing_is_there_before_the_deployment():
    assert moved(ELSEWHERE).copies == {}
    assert moved(apply(there="chat", autoApply=False), profiled).copies == {}


def test_a_deleted_request_leaves_the_deployment_with_its_profile_and_nothing_else():
    world = moved(ELSEWHERE, profiled, ready, call("delete_request"))
    assert (list(world.graphs), list(world.copies)) == (["x"], [COPY])
    assert (list(world.config_maps), world.jobs) == (["dgd-base"], {})
    world.delete_graph()
    assert world.copies == {}


def test_what_the_profile_says_is_what_the_copy_says():
    def edited(world):
        world.config_maps[COPY]["data"] = {"prefill_raw_data.json": "[3]", "decode_raw_data.json": "[2]"}

    assert moved(ELSEWHERE, profiled, ready, edited).copies[COPY]["data"]["prefill_raw_data.json"] == "[3]"


def test_missing_rights_are_told_with_the_command_that_grants_them():
    world = moved(put(no_rights_in={"chat"}), ELSEWHERE)
    message = world.requests["x"]["status"]["message"]
    assert "may not create dynamographdeployments in namespace chat" in message
    assert "objects/role.yaml -n chat && kubectl create rolebinding" in message
    assert "--serviceaccount=serving:reconcile-requests -n chat" in message
    assert (world.jobs, world.reasons()) == ({}, ["Initialized", "RightsMissing"])


def test_a_profile_in_the_way_is_left_to_its_deployment():
    world = moved(call("somebodys_copy"), ELSEWHERE)
    message = world.requests["x"]["status"]["message"]
    assert f"ConfigMap {COPY} in namespace chat" in message
    assert f"kubectl get configmap {COPY} -n chat" in message
    assert world.copies[COPY]["data"] == {"mine": "1"}


def test_while_its_profile_is_refused_the_deployment_is_followed():
    world = moved(ELSEWHERE, call("somebodys_copy"), profiled)
    assert "is somebody else's" in world.requests["x"]["status"]["message"]
    assert world.condition("DeploymentReady")["reason"] == "DeploymentPending"
    assert world.reasons().count("Refused") == 1
