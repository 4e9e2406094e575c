"""Every YAML file of the repository is of a kind that something checks."""

from __future__ import annotations

import functools

import pytest
import yaml
from tests.manifests.objects import ONE_OFF_JOBS, ROOT

from sla_planner.config import load
from sla_planner.planner_config import PlannerConfig
from sla_planner.requests_config import RequestsConfig
from sla_planner.sweep_config import SweepConfig

# Pattern -> what checks files of this kind. The first that matches is meant.
KINDS = {
    "kustomization.yaml": "kustomization: test_kustomizations.py builds it",
    "jobs/**/kustomization.yaml": "kustomization: test_kustomizations.py builds it",
    "manifests/**/kustomization.yaml": "kustomization: test_kustomizations.py builds it",
    "jobs/*/job.yaml": "one-off Job: test_jobs.py",
    "jobs/*/*-job.yaml": "one-off Job: test_jobs.py",
    "jobs/profile-sweep/sweep.yaml": "settings of the sweep: here",
    "jobs/planner/planner.yaml": "settings of the planner: here",
    "manifests/overlays/*/planner.yaml": "settings of the planner: here",
    "jobs/reconcile-requests/requests.yaml": "settings of the reconciler: here",
    "manifests/overlays/*/requests.yaml": "settings of the reconciler: here",
    "manifests/overlays/argocd/application.yaml": "Application: test_kustomizations.py",
    "manifests/prometheus/*.yaml": "Prometheus: test_network_policies.py",
    "manifests/graphs/**/*.yaml": "graphs: test_graphs.py",
    "manifests/volume/*.yaml": "plain pod: test_access_pod.py",
    "manifests/crds/*.yaml": "definition of deployment requests: test_request_crd.py",
    "manifests/requests/*.yaml": "deployment requests: test_request_crd.py",
    "scripts/sla_planner/graphs/*/*.yaml": "graphs: test_graphs.py",
    "jobs/inject-config/disagg.yaml": "graphs: a copy of the base manifest",
    "jobs/*/*.yaml": "object",
    "manifests/base/*.yaml": "object",
    "manifests/components/*/objects/*.yaml": "object",
    "templates/**/*.yaml": "values of templates: tests/stages/test_render.py",
    "tests/**/*.yaml": "data of tests",
    ".pre-commit-config.yaml": "pre-commit",
}
OUTPUT = {".venv", ".venv-lock", ".git", "build", "dist", "demo-output", "e2e-artifacts"}
PLACES = [place for place in ROOT.iterdir() if place.is_dir() and place.name not in OUTPUT]
FILES = sorted(
    file.relative_to(ROOT) for files in (ROOT.glob("*.y*ml"), *(place.rglob("*.y*ml") for place in PLACES)) for file in files if file.is_file()
)


@functools.cache
def matching(pattern):
    return {found.relative_to(ROOT) for found in ROOT.glob(pattern)}


def kind_of(file):
    return next((kind for pattern, kind in KINDS.items() if file in matching(pattern)), None)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_it_is_of_a_known_kind(file):
    assert kind_of(file), f"{file}: say in KINDS what it is and what checks it"


@pytest.mark.parametrize("file", [file for file in FILES if kind_of(file) == "object"], ids=str)
def test_an_object_file_holds_one_object_and_no_namespace(file):
    (found,) = yaml.safe_load_all((ROOT / file).read_text())
    assert {"apiVersion", "kind", "metadata"} <= found.keys()
    assert "namespace" not in found["metadata"]


@pytest.mark.parametrize("file", [file for file in FILES if "settings of the planner" in str(kind_of(file))], ids=str)
def test_settings_of_the_planner_load(file):
    assert load(PlannerConfig, {"config": str(ROOT / file)}, {}).config.state == "configmap:sla-planner-status"


@pytest.mark.parametrize("file", [file for file in FILES if "settings of the reconciler" in str(kind_of(file))], ids=str)
def test_settings_of_the_reconciler_load(file):
    assert load(RequestsConfig, {"config": str(ROOT / file)}, {}).config.settings().hf_token_secret == "hf-token-secret"


def test_settings_of_the_sweep_load():
    assert load(SweepConfig, {"config": str(ROOT / "jobs/profile-sweep/sweep.yaml")}, {}).config.dgd


def test_every_object_file_is_listed_by_the_kustomization_beside_it():
    """One that is not would never be applied, and nobody would notice."""
    for file in FILES:
        if kind_of(file) == "object":
            assert file.name in yaml.safe_load((ROOT / file).with_name("kustomization.yaml").read_text())["resources"], file


def test_the_manifest_that_git_injects_is_the_base_manifest():
    assert (ROOT / "jobs/inject-config/disagg.yaml").read_bytes() == (ROOT / "scripts/sla_planner/graphs/vllm/disagg.yaml").read_bytes()


def test_one_off_jobs_are_found():
    assert len(ONE_OFF_JOBS) == 6
