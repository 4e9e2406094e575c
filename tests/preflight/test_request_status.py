"""What a definition of requests drops of a status, by its schema alone; and what that comes to."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml
from tests.manifests.objects import ROOT
from tests.preflight.test_checks import CLEAN

from sla_planner.preflight.checks import findings_of
from sla_planner.preflight.facts import Operator, Unread, Workload
from sla_planner.preflight.finding import Severity
from sla_planner.preflight.request_status import FIELDS, dropped_fields

BOTH = ("v1alpha1", "v1beta1")
RECONCILER = Workload("CronJob", "reconcile-requests", "reconcile-requests", True, {"spec": {"serviceAccountName": "reconcile-requests"}})


def definition(schema, version="v1beta1"):
    return {"metadata": {"name": "r"}, "spec": {"versions": [{"name": version, "schema": {"openAPIV3Schema": schema}}]}}


def with_status(*names, **more):
    return {"type": "object", "properties": {"status": {"type": "object", "properties": {name: {"type": "string"} for name in names}, **more}}}


def test_our_own_definition_drops_nothing():
    ours = yaml.safe_load((ROOT / "manifests/crds/dynamographdeploymentrequest.yaml").read_text())
    assert [dropped_fields(ours, served) for served in (BOTH, BOTH[:1])] == [(), ()]


@pytest.mark.parametrize(
    ("schema", "dropped"),
    [
        (with_status("phase", "profilingJobName", "conditions"), ("state", "message", "generatedDeployment")),
        (with_status("state"), ("phase", "message", "profilingJobName", "generatedDeployment")),
        ({"type": "object", "properties": {"spec": {}}}, FIELDS),
        (with_status("phase", **{"x-kubernetes-preserve-unknown-fields": True}), ()),
        ({"type": "object", "x-kubernetes-preserve-unknown-fields": True}, ()),
        ({}, ()),  # it does not show
    ],
)
def test_what_a_schema_does_not_name_is_dropped(schema, dropped):
    assert dropped_fields(definition(schema), BOTH) == dropped


def test_only_the_version_that_is_written_counts():
    assert dropped_fields(definition(with_status("phase"), version="v1alpha1"), BOTH) == ()
    assert dropped_fields(definition(with_status("phase"), version="v1alpha1"), BOTH[:1]) != ()
    assert dropped_fields({"metadata": {"name": "r"}}, BOTH) == ()


def looked_at(schema, *workloads, **changes):
    found = replace(CLEAN.cluster, request_versions=BOTH, request_definition=definition(schema), **changes)
    namespace = replace(CLEAN.namespace, workloads=(*CLEAN.namespace.workloads, *workloads))
    findings = findings_of(replace(CLEAN, cluster=found, namespace=namespace))
    (told,) = [each for each in findings if each.check == "request-definition"]
    return told


@pytest.mark.parametrize(
    ("operators", "fix"),
    [
        ((Operator("d", "o", True),), "kubectl -n llm delete cronjob reconcile-requests"),
        (Unread("may not list deployments"), "kubectl -n llm delete cronjob reconcile-requests"),
        ((), "kubectl apply -k manifests/crds"),
    ],
)
def test_who_works_on_requests_that_lose_their_status_is_told(operators, fix):
    told = looked_at(with_status("phase", "message"), RECONCILER, operators=operators)
    assert told.severity is Severity.PROBLEM
    assert "v1beta1 of it drops status.state, status.profilingJobName, status.generatedDeployment" in told.what
    assert told.fix.startswith(fix)


def test_where_nobody_of_ours_works_on_requests_it_is_only_said():
    told = looked_at(with_status("phase", "message"))
    assert (told.severity, "drops status.state" in told.what) == (Severity.OK, True)


def test_a_definition_that_keeps_the_status_is_no_fault():
    told = looked_at(with_status(*FIELDS), RECONCILER)
    assert (told.severity, "drops" in told.what) == (Severity.OK, False)
