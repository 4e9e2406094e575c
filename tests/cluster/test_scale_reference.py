"""kubectl's spelling of what is scaled."""

import pytest

from sla_planner.cluster.resources import DEPLOYMENTS, LEADER_WORKER_SETS, SCALING_ADAPTERS, STATEFUL_SETS, Resource
from sla_planner.cluster.scale_reference import scale_reference
from sla_planner.errors import UsageError


@pytest.mark.parametrize(
    ("text", "resource"),
    [
        ("deployment/x", DEPLOYMENTS),
        ("Deployment/x", DEPLOYMENTS),
        ("deploy/x", DEPLOYMENTS),
        ("deployments.apps/x", DEPLOYMENTS),
        ("deployments.v1.apps/x", DEPLOYMENTS),
        ("sts/x", STATEFUL_SETS),
        ("statefulset.apps/x", STATEFUL_SETS),
        ("lws/x", LEADER_WORKER_SETS),
        ("leaderworkerset/x", LEADER_WORKER_SETS),
        ("dgdsa/x", SCALING_ADAPTERS),
        ("dynamographdeploymentscalingadapters.nvidia.com/x", SCALING_ADAPTERS),
        ("widgets.v1beta2.example.com/x", Resource("example.com", "v1beta2", "widgets", "")),
    ],
)
def test_what_kubectl_takes(text, resource):
    found = scale_reference(text)
    assert (found.resource, found.name) == (resource, "x")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x", "'x' is no KIND/NAME"),
        ("deployment/", "is no KIND/NAME"),
        ("deployment/Upper", "is no KIND/NAME"),
        ("deployment/a/b", "is no KIND/NAME"),
        ("dynamographdeployment/x", "has no scale of its own; use --graph-deployment x"),
        ("pod/x", "no such kind is known here; use deployment/NAME, "),
        ("widgets.example.com/x", "no such kind is known here"),
        ("widgets.v1.nogroup/x", "no such kind is known here"),
    ],
)
def test_what_cannot_be_scaled_says_what_can(text, told):
    with pytest.raises(UsageError) as refused:
        scale_reference(text)
    assert told in str(refused.value)
