"""What tests of the stage share: a kubeconfig for an installation, and what preflight says of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from tests.manifests.objects import ROOT
from tests.preflight.faults import Fault
from tests.preflight.installation import HERE, Installation, installation

from sla_planner.cli import group, run

Finding = dict[str, str]
Look = Callable[..., tuple[int, list[Finding]]]


@contextmanager
def named_by_kubeconfig(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    """A clean installation that a process outside of it sees."""
    with installation() as found:
        context = {"name": "test", "context": {"cluster": "test", "user": "test", "namespace": HERE}}
        config = {
            **{"apiVersion": "v1", "kind": "Config", "current-context": "test", "contexts": [context]},
            "clusters": [{"name": "test", "cluster": {"server": found.url}}],
            "users": [{"name": "test", "user": {"token": "secret"}}],
        }
        (folder / "kubeconfig").write_text(json.dumps(config))
        monkeypatch.setenv("KUBECONFIG", str(folder / "kubeconfig"))
        monkeypatch.setattr("sla_planner.cluster.api.connect.__kwdefaults__", {"namespace": None, "context": None, "patience_s": 0.0})
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        yield found


def looker(capsys: pytest.CaptureFixture[str]) -> Look:
    """`look(*flags)`: the exit code and the findings."""

    def look(*flags: str) -> tuple[int, list[Finding]]:
        code = run(["preflight", "--json", *flags])
        out = capsys.readouterr().out
        return code, json.loads(out)["findings"] if out else []

    return look


def grave(findings: list[Finding]) -> list[Finding]:
    return [each for each in findings if each["severity"] in ("problem", "warning")]


def unseen(findings: list[Finding]) -> dict[str, str]:
    """Why, by check."""
    return {each["check"]: each["why"] for each in findings if each["severity"] == "not checked"}


def assert_can_be_typed(line: str) -> None:
    """A command or a remark; files that it names are there, and our own flags exist."""
    command = line.partition("    # ")[0]
    program, *words = command.split()
    assert program in ("kubectl", "sla-planner", "timedatectl", "curl", "#", "."), line
    for word in re.findall(r"(?:jobs|manifests)/[\w./-]+\w", line):
        assert (ROOT / word).exists(), line
    if program == "sla-planner":
        stage = group.get_command(click.Context(group), words[0])
        stage.make_context(words[0], words[1:])


def assert_named_alone(fault: Fault, code: int, findings: list[Finding]) -> None:
    """What `fault` plants is found, and nothing else; a person is told what it is, why it matters, and what to type."""
    told = grave(findings)
    assert {each["check"] for each in told} == set(fault.finds), told
    first = next(each for each in told if each["check"] == fault.finds[0])
    assert fault.what in first["what"]
    assert fault.fix in first["fix"]
    assert all(each["why"] and each["fix"] for each in told)
    assert code == fault.code
    assert ("problem" in {each["severity"] for each in told}) == (code == 2)
    for each in told:
        for line in each["fix"].splitlines():
            assert_can_be_typed(line)
