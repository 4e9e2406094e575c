"""The table of rights is what the committed Roles grant, and the planner is asked for what it does, no more."""

from __future__ import annotations

import pytest
import yaml
from tests.manifests.objects import ROOT

from sla_planner.preflight.rights import (
    RECONCILER_VIEW,
    ROLES,
    Right,
    Rule,
    ScaledObject,
    planner_rights,
    reconciler_rights,
    sweep_rights,
    volume_rights,
)

OWN = "preflight"  # what it lacks it says itself
FILES = [
    file
    for file in sorted([*ROOT.glob("jobs/*/role.yaml"), *ROOT.glob("manifests/components/*/objects/*role.yaml")])
    if yaml.safe_load(file.read_text())["kind"] == "Role" and yaml.safe_load(file.read_text())["metadata"]["name"] != OWN
]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_table_is_what_the_role_grants(file):
    role = yaml.safe_load(file.read_text())
    committed = [
        (group, tuple(rule["resources"]), tuple(rule["verbs"]), tuple(rule.get("resourceNames", ())))
        for rule in role["rules"]
        for group in rule["apiGroups"]
    ]
    name = role["metadata"]["name"]
    assert name in ROLES, f"preflight does not know this Role: add it to ROLES in scripts/sla_planner/preflight/rights.py as {committed}"
    assert [(rule.group, rule.resources, rule.verbs, rule.names) for rule in ROLES[name]] == committed


def test_the_table_has_no_role_that_is_not_committed():
    assert {yaml.safe_load(file.read_text())["metadata"]["name"] for file in FILES} == ROLES.keys()


def test_what_who_works_on_requests_may_see_is_what_its_cluster_role_grants():
    role = yaml.safe_load((ROOT / "manifests/components/deployment-requests-cluster/objects/clusterrole.yaml").read_text())
    committed = [Rule(*rule["apiGroups"], *map(tuple, (rule["resources"], rule["verbs"], rule.get("resourceNames", ())))) for rule in role["rules"]]
    assert list(RECONCILER_VIEW) == committed


def said(rights):
    return [f"{right.verb} {right.what}" for right in rights]


ALWAYS = ["list pods", *(f"{verb} events.events.k8s.io" for verb in ("create", "get", "patch"))]
OTHERS = ["list horizontalpodautoscalers.autoscaling"]


def test_a_planner_of_one_graph():
    assert said(planner_rights(["chat"], [], state="memory", lease="")) == [
        *ALWAYS,
        "get configmaps memory",
        "patch configmaps memory",
        *OTHERS,
        "get dynamographdeployments.nvidia.com chat",
        "patch dynamographdeployments.nvidia.com chat",
    ]


def test_a_planner_of_two_deployments_needs_nothing_of_dynamo():
    pair = [ScaledObject("apps", "deployments", "in"), ScaledObject("apps", "deployments", "out")]
    assert said(planner_rights([], pair, state="", lease="")) == [
        *ALWAYS,
        *OTHERS,
        "get deployments.apps in",
        "get deployments.apps out",
        "get deployments.apps/scale in",
        "get deployments.apps/scale out",
        "patch deployments.apps/scale in",
        "patch deployments.apps/scale out",
    ]


def test_a_service_with_a_scaling_adapter_is_scaled_through_it():
    adapter = ScaledObject("nvidia.com", "dynamographdeploymentscalingadapters", "chat-decode")
    assert said(planner_rights(["chat"], [adapter], state="", lease=""))[-3:] == [
        "get dynamographdeploymentscalingadapters.nvidia.com chat-decode",
        "get dynamographdeploymentscalingadapters.nvidia.com/scale chat-decode",
        "patch dynamographdeploymentscalingadapters.nvidia.com/scale chat-decode",
    ]


def test_whoever_holds_a_lease_may_make_any_and_change_this_one():
    assert said(planner_rights([], [], state="", lease="mine"))[-3:] == [
        "create leases.coordination.k8s.io",
        "get leases.coordination.k8s.io mine",
        "update leases.coordination.k8s.io mine",
    ]


def test_a_sweep_makes_graphs_or_deployments():
    always, (graphs, deployments) = sweep_rights(for_requests=False)
    assert Right("update", "", "configmaps", "planner-profile-data") in always
    assert {right.resource for right in graphs} == {"dynamographdeployments"}
    assert {right.resource for right in deployments} == {"deployments", "services"}


def test_a_sweep_for_requests_leaves_profiles_of_any_name():
    more = set(sweep_rights(for_requests=True)[0]) - set(sweep_rights(for_requests=False)[0])
    assert said(more) == ["update configmaps"]


def test_planners_of_requests_are_of_any_graph():
    assert "patch dynamographdeployments.nvidia.com" in said(planner_rights([""], [], state="memory", lease=""))


def test_who_works_on_requests_all_the_time_watches_them():
    more = set(reconciler_rights(continuous=True)) - set(reconciler_rights(continuous=False))
    assert {right.verb for right in more} == {"watch"}


def test_files_go_through_a_pod_of_a_job():
    assert {"create jobs.batch", "create pods/exec"} <= set(said(volume_rights()))
