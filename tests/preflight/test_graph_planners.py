"""The planner of a graph is found among its services, in both API versions; another's is none of ours."""

from __future__ import annotations

import pytest
import yaml
from tests.manifests.objects import ROOT

from sla_planner.cluster.preflight_facts import planners_of


@pytest.mark.parametrize("version", ["v1alpha1", "v1beta1"])
def test_the_planner_that_requests_add_is_found(version):
    graph = yaml.safe_load((ROOT / f"scripts/sla_planner/graphs/planner/{version}.yaml").read_text())
    (found,) = planners_of(graph)
    (container,) = found.pod["spec"]["containers"]
    assert (found.kind, found.name, found.stage, found.runs, found.account) == ("DynamoGraphDeployment", "graph", "planner", True, "planner")
    assert "PROMETHEUS_ENDPOINT" in {each["name"] for each in container["env"]}
    assert "--environment=kubernetes" in container["args"]
    assert {each["name"] for each in found.pod["spec"]["volumes"]} == {each["name"] for each in container["volumeMounts"]}


def test_a_planner_of_dynamos_own_is_none_of_ours():
    service = {
        "componentType": "planner",
        "extraPodSpec": {"mainContainer": {"command": ["python3", "-m", "dynamo.planner"], "args": ["--config", "x"]}},
    }
    graph = {"kind": "DynamoGraphDeployment", "metadata": {"name": "chat"}, "spec": {"services": {"Planner": service}}}
    assert list(planners_of(graph)) == []
