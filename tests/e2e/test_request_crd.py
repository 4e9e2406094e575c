"""The DynamoGraphDeploymentRequest definition on a real API server: what it takes, keeps, refuses and shows. Nobody acts on the requests here."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from tests.manifests.objects import ROOT
from tests.manifests.request_refusals import ACCEPTED, ALPHA, BEGUN, BETA, CHANGED, CREATED, MISTYPED, STATUS

pytestmark = pytest.mark.cluster

DEFINITION = "dynamographdeploymentrequests.nvidia.com"
FOLDER = str(ROOT / "manifests" / "crds")
SAMPLES = sorted((ROOT / "manifests" / "requests").glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def definition(cluster: Any) -> Any:
    """Installed as the component installs it; it was not there before, or it was ours."""
    if DEFINITION in cluster.kubectl("get", "crd", "--output=name", "--selector=app.kubernetes.io/part-of!=sla-planner"):
        pytest.fail(f"the cluster has a {DEFINITION} of somebody else", pytrace=False)
    before = cluster.kubectl("get", "crd", DEFINITION, "--ignore-not-found", "--output=name")
    cluster.kubectl("apply", "-k", FOLDER, "--warnings-as-errors")
    cluster.wait(f"crd/{DEFINITION}", "condition=Established")
    yield
    if not before:
        cluster.kubectl("delete", "crd", DEFINITION)


def create(namespace: Any, found: dict[str, Any]) -> None:
    namespace.kubectl("create", "-f", "-", input=json.dumps(found))


def spec(namespace: Any, name: str, version: str) -> Any:
    """As one who asks for this version has it."""
    return json.loads(namespace.kubectl("get", f"dynamographdeploymentrequests.{version}.nvidia.com/{name}", "-o", "json"))["spec"]


def begin(namespace: Any, status: dict[str, Any]) -> None:
    namespace.kubectl("patch", "dgdr/sla", "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))


def test_the_definition_is_accepted_as_a_whole(cluster: Any) -> None:
    found = cluster.get(f"crd/{DEFINITION}")
    conditions = {condition["type"]: condition["status"] for condition in found["status"]["conditions"]}
    assert (conditions["Established"], conditions["NamesAccepted"], conditions.get("NonStructuralSchema", "False")) == ("True", "True", "False")
    assert "unchanged" in cluster.kubectl("apply", "-k", FOLDER)


def test_samples_apply_and_are_the_same_in_both_versions(namespace: Any) -> None:
    for file in SAMPLES:
        wanted = yaml.safe_load(file.read_text())
        for version in ("v1alpha1", "v1beta1"):
            namespace.apply(
                yaml.safe_dump(wanted | {"apiVersion": f"nvidia.com/{version}", "metadata": {"name": f"{file.stem.replace('_', '-')}-{version}"}})
            )
        for written in ("v1alpha1", "v1beta1"):
            for read in ("v1alpha1", "v1beta1"):
                assert spec(namespace, f"{file.stem.replace('_', '-')}-{written}", read) == wanted["spec"]
    for file in SAMPLES:
        namespace.kubectl("apply", "-f", str(file))


def test_nothing_of_a_request_is_lost_or_added(namespace: Any) -> None:
    for found in ACCEPTED:
        create(namespace, found)
        for version in ("v1alpha1", "v1beta1"):
            assert spec(namespace, found["metadata"]["name"], version) == found["spec"]
        namespace.kubectl("delete", f"dgdr/{found['metadata']['name']}")


@pytest.mark.parametrize("words", CREATED)
def test_rules_for_what_is_created(namespace: Any, words: str) -> None:
    for found in CREATED[words]:
        assert words in namespace.refused("create", "-f", "-", input=json.dumps(found))


def test_types_and_ranges(namespace: Any) -> None:
    for path, found in MISTYPED.items():
        assert path in namespace.refused("create", "-f", "-", input=json.dumps(found))


def test_kubectl_names_a_field_that_is_unknown(namespace: Any) -> None:
    misspelt = BETA | {"spec": BETA["spec"] | {"modle": "a"}}
    assert 'unknown field "spec.modle"' in namespace.refused("create", "-f", "-", input=json.dumps(misspelt))


@pytest.mark.parametrize("words", CHANGED)
def test_a_spec_stays_as_it_was_when_profiling_began(namespace: Any, words: str) -> None:
    for before, after in CHANGED[words]:
        create(namespace, before)
        namespace.kubectl("replace", "-f", "-", input=json.dumps(after))
        namespace.kubectl("replace", "-f", "-", input=json.dumps(before))
        begin(namespace, BEGUN)
        assert words in namespace.refused("replace", "-f", "-", input=json.dumps(after))
        namespace.kubectl("label", "dgdr/sla", "team=search")  # the rest may change
        namespace.kubectl("apply", "-f", "-", input=json.dumps(before))
        namespace.kubectl("delete", "dgdr/sla")


def test_a_status_is_kept_whole_and_does_not_touch_the_spec(namespace: Any) -> None:
    create(namespace, ALPHA)
    begin(namespace, STATUS)
    found = namespace.get("dgdr/sla")
    assert found["status"] == STATUS
    assert (found["spec"], found["metadata"]["generation"]) == (ALPHA["spec"], 1)
    begin(namespace, {"progress": None, "state": "Failed"})  # also after profiling has begun
    assert namespace.get("dgdr/sla")["status"] == {key: value for key, value in STATUS.items() if key != "progress"} | {"state": "Failed"}


def test_the_generated_deployment_comes_out_as_it_went_in(namespace: Any) -> None:
    create(namespace, ALPHA)
    begin(namespace, STATUS)
    assert json.loads(namespace.kubectl("get", "dgdr", "sla", "-o", "jsonpath={.status.generatedDeployment}")) == STATUS["generatedDeployment"]


@pytest.mark.parametrize(
    "resource", ["dgdr", "dynamographdeploymentrequests.v1alpha1.nvidia.com", "dynamographdeploymentrequests.v1beta1.nvidia.com"]
)
def test_columns(namespace: Any, resource: str) -> None:
    create(namespace, ALPHA)
    begin(namespace, STATUS)
    header, row = namespace.kubectl("get", resource).splitlines()
    assert header.split() == ["NAME", "MODEL", "BACKEND", "STATE", "DGD-STATE", "AGE"]
    assert row.split()[:5] == ["sla", "Qwen/Qwen3-0.6B", "vllm", "Ready", "successful"]
    header, row = namespace.kubectl("get", resource, "-o", "wide").splitlines()
    assert ("PROGRESS" in header, "MESSAGE" in header) == (True, True)
    assert "SweepingPrefill" in row
    assert "in words" in row


def test_explain(cluster: Any) -> None:
    for version in ("v1alpha1", "v1beta1"):
        said = cluster.kubectl("explain", "dgdr.spec.profilingConfig.config.sla", f"--api-version=nvidia.com/{version}")
        assert "Time to first token, in ms." in said
        assert version in said
    assert "AI Configurator computes the profile" in cluster.kubectl("explain", "dgdr.spec.searchStrategy")
