"""The guides: kustomizations in them build, files in commands exist, flags of our own commands parse, tables name what is there."""

from __future__ import annotations

import re
import shlex

import click
import pytest
import yaml
from tests.manifests.objects import COMPONENTS, OVERLAYS, ROOT, build, of_kind

from sla_planner.cli import group

READMES = [ROOT / "manifests/README.md", ROOT / "jobs/README.md", *sorted(ROOT.glob("jobs/*/README.md"))]
# What is run in a cluster, as it stands there, is not looked at here.
BLOCK = re.compile(r"(?<!<!-- cluster -->\n)^```(sh|bash|yml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MANIFESTS = (ROOT / "manifests/README.md").read_text()
PROGRAMS = {"kubectl", "envsubst", ".", "export", "sla-planner", "make", "pip", "curl"}


def blocks(*languages, begins=""):
    return [
        pytest.param(text, id=f"{readme.parent.name}: {text.splitlines()[0][:50]}")
        for readme in READMES
        for language, text in BLOCK.findall(readme.read_text())
        if language in languages and text.startswith(begins)
    ]


@pytest.mark.parametrize("text", blocks("sh", "bash"))
def test_commands(text):
    for line in text.splitlines():
        for command in line.split(" | "):
            program, *words = shlex.split(command, comments=True)
            assert program in PROGRAMS
            if program == "sla-planner":
                context = click.Context(group, info_name=program)
                name, stage, rest = group.resolve_command(context, words)
                stage.make_context(name, rest, parent=context)
            for word in words:
                if "/" in word and word.startswith(("jobs/", "manifests/", "tests/")):
                    assert (ROOT / word).exists(), word


@pytest.mark.parametrize("text", blocks("yml", begins="# my-cluster/"))
def test_kustomizations(text, tmp_path):
    """In a folder beside a copy of the repository, as the text says, with the base's settings."""
    (tmp_path / "sla-planner").symlink_to(ROOT)
    (tmp_path / "my-cluster").mkdir()
    (tmp_path / "my-cluster" / "kustomization.yaml").write_text(text)
    (tmp_path / "my-cluster" / "planner.yaml").write_text((ROOT / "jobs/planner/planner.yaml").read_text())
    objects = build.__wrapped__(tmp_path / "my-cluster")
    assert of_kind(objects, "CronJob")["planner"]["spec"]["suspend"] is False
    (claim,) = of_kind(objects, "PersistentVolumeClaim").values()
    assert (claim["spec"]["storageClassName"], claim["spec"]["resources"]["requests"]["storage"]) == ("fast", "200Gi")


def test_the_kustomization_of_a_namespace_that_requests_are_deployed_into(tmp_path):
    guide = (ROOT / "jobs/reconcile-requests/README.md").read_text()
    (text,) = re.findall(r"^```yml\n(# my-chat/.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    (tmp_path / "manifests").symlink_to(ROOT / "manifests")
    (tmp_path / "my-chat").mkdir()
    (tmp_path / "my-chat" / "kustomization.yaml").write_text(text)
    objects = build.__wrapped__(tmp_path / "my-chat")
    assert of_kind(objects, "RoleBinding")["reconcile-requests-target"]["subjects"][0]["namespace"] == "llm"
    assert "planner" in of_kind(objects, "ServiceAccount")


def test_the_tables_name_every_component_overlay_and_parameter():
    named = set(re.findall(r"^\| (`[^|]+) \|", MANIFESTS, re.MULTILINE))
    names = {name for cell in named for name in re.findall(r"`([^`]+)`", cell)}
    assert {file.name for file in COMPONENTS.iterdir()} <= names
    assert {file.name for file in OVERLAYS} <= names
    assert yaml.safe_load((ROOT / "manifests/base/sla-params.yaml").read_text())["data"].keys() <= names
    settings = {name.rpartition("-")[0] for name in of_kind(build(ROOT), "ConfigMap") if re.search(r"-config-\w+$", name)}
    assert settings <= names
