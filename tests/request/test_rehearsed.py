"""The first look with the manifests and the program's own makers: the deployment is tried before anything is measured, nodes may be hidden."""

from __future__ import annotations

import pytest

from sla_planner.engines.dgd_requests import base_manifest
from sla_planner.request.actions import Freeze, StartProfiling
from sla_planner.request.lifecycle import refused, step
from sla_planner.request.phases import Case
from sla_planner.request.seen import Seen
from sla_planner.request.spec import About

from .samples import ALL, OFFLINE, ROOT, SETTINGS, beta, maker, request_of

NOW = "2026-01-01T00:00:00Z"
DGDS = ROOT / "tests" / "data" / "dgd"


def first_case(document, base, **facts):
    request = request_of(document)
    about = About(request.name, request.namespace, request.uid, 1, request.spec)
    return Case(about, request, Seen(alone=True, graph_api=True, base=base, **facts), {}, maker(), SETTINGS)


def first_look(document, base, **facts):
    return step(first_case(document, base, **facts), NOW)


@pytest.mark.parametrize("sample", ALL, ids=lambda sample: sample.name)
def test_every_sample_can_begin(sample):
    taken = first_look(sample.document, base_manifest(sample.document["spec"]["backend"]))
    assert [type(action) for action in taken.actions] == [Freeze, StartProfiling]


@pytest.mark.parametrize("path", sorted(DGDS.glob("*disagg*.yaml")), ids=lambda path: path.stem)
def test_every_disaggregated_manifest_can_begin(path):
    taken = first_look(beta(backend=path.stem.split("-")[0], searchStrategy="thorough"), path.read_text())
    assert taken.status["state"] == "Profiling", taken.status["message"]


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        ({"apiVersion": "nvidia.com/v9", "spec": {}}, "is not for nvidia.com/v1"),
        ({"spec": {"components": None, "services": None}}, "spec.overrides.dgd"),
    ],
)
def test_overrides_that_leave_no_deployment_are_a_fault_of_the_spec(patch, words):
    taken = first_look(beta(backend="vllm", searchStrategy="thorough", overrides={"dgd": patch}), base_manifest("vllm"))
    assert taken.actions == ()
    assert (taken.status["state"], taken.status["conditions"][-1]["reason"]) == ("Failed", "ValidationFailed")
    assert words in taken.status["message"]
    assert [said.reason for said in taken.events] == ["ValidationFailed"]


def test_a_manifest_with_one_worker_for_both_phases_waits_for_a_better_one():
    taken = first_look(beta(backend="vllm", searchStrategy="thorough"), (DGDS / "vllm-agg.yaml").read_text())
    assert taken.actions == ()
    assert (taken.status["state"], taken.status["conditions"][-1]["reason"]) == ("Pending", "BaseManifestUnusable")


NODES = "nodes is forbidden for the account reconcile-requests; give it list on nodes"


def test_a_gpu_that_nobody_names_since_nodes_may_not_be_read():
    taken = first_look(beta(backend="vllm"), base_manifest("vllm"), unknown={"gpus": NODES})
    assert (taken.actions, taken.status["conditions"][0]["reason"]) == ((), "GPUTypeUnknown")
    assert "the nodes cannot be read: nodes is forbidden for the account reconcile-requests" in taken.status["message"]


def test_nodes_that_were_to_be_asked_and_may_not_be_read_are_told_of():
    unread = first_look(beta(backend="vllm", searchStrategy="thorough"), base_manifest("vllm"), unknown={"gpus": NODES})
    assert unread.status["state"] == "Profiling"
    valid = unread.status["conditions"][0]
    assert (valid["type"], valid["status"]) == ("Validation", "True")
    assert f"the nodes cannot be read: {NODES}; so a node is taken to have 8 GPUs" in valid["message"]
    said = first_look(beta(backend="vllm", searchStrategy="thorough", hardware={"numGpusPerNode": 4}), base_manifest("vllm"), unknown={"gpus": NODES})
    assert "cannot be read" not in said.status["conditions"][0]["message"]


def test_a_gpu_that_nobody_names_is_told_with_the_field_of_each_shape():
    assert "set spec.hardware.gpuSku" in first_look(beta(backend="vllm"), base_manifest("vllm")).status["message"]
    document = OFFLINE.document
    document["spec"]["profilingConfig"]["config"]["sweep"].pop("aic_system")
    document["spec"]["enableGpuDiscovery"] = True
    backend = document["spec"]["backend"]
    assert "set spec.profilingConfig.config.sweep.aic_system" in first_look(document, base_manifest(backend)).status["message"]


def test_a_refusal_says_what_of_the_request_it_may_be_about():
    patched = beta(backend="vllm", searchStrategy="thorough", overrides={"profilingJob": {"backoffLimit": -1}})
    case = first_case(patched, base_manifest("vllm"))
    freeze, start = step(case, NOW).actions
    told = refused(case, start, "spec.backoffLimit: Invalid value: -1", NOW).status["message"]
    assert "spec.backoffLimit: Invalid value: -1; what the request says of it is in spec.overrides.profilingJob; allow it" in told
    assert "overrides" not in refused(case, freeze, "exceeded quota", NOW).status["message"]
