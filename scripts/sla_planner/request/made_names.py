"""How the objects of a request are called, the keys in them, and what is granted to make them in another namespace."""

from __future__ import annotations

from sla_planner.request.spec import About, Request

SHARED_PROFILE = "planner-profile-data"
"""The profile's ConfigMap where one request is alone in a namespace."""

BASE_KEY, SPEC_KEY, GRAPH_KEY = "disagg.yaml", "spec.json", "config_with_planner.yaml"
"""Of the output ConfigMap: the base manifest that the sweep is given, the spec that profiling began with, the deployment that came out."""


def job_name(request: Request | About) -> str:
    """Of the Job that profiles."""
    return f"profile-{request.name}"


def output_name(request: Request | About) -> str:
    """Of the ConfigMap with what went in and what came out."""
    return f"dgdr-output-{request.name}"


def profile_name(request: Request | About) -> str:
    """Of the ConfigMap that the sweep publishes its profile into."""
    return f"{SHARED_PROFILE}-{request.name}"


def granting(there: str, own: str) -> str:
    """The command that lets the reconciler of namespace `own` deploy into namespace `there`, in a checkout, as somebody who may give rights there."""
    role, name = "manifests/components/deployment-requests-target-namespace/objects/role.yaml", "reconcile-requests-target"
    account = f"--serviceaccount={own}:reconcile-requests"
    return f"kubectl apply -f {role} -n {there} && kubectl create rolebinding {name} --role={name} {account} -n {there}"
