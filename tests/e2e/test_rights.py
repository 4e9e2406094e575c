"""`kubectl apply -k .` on a real API server: no warning, no change the second time, the rights that are listed and no other, all of it gone again."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.manifests.objects import CHOSEN, ONE_OFF_JOBS, ROOT, defaults, substituted

pytestmark = pytest.mark.cluster

OVERLAYS = ROOT / "manifests" / "overlays"
RIGHTS = ROOT / "tests" / "manifests" / "rights"
ROW = re.compile(r"(?P<resources>[^\s\[]*)\s*\[(?P<urls>.*?)\]\s+\[(?P<names>.*?)\]\s+\[(?P<verbs>.*?)\]")
EVERYTHING = "serviceaccounts,roles,rolebindings,configmaps,persistentvolumeclaims,cronjobs,jobs,networkpolicies,deployments,services,pods"


def rights(kubectl_says):
    """{(resource or URL, name or '', verb)} of the table that `kubectl auth can-i --list` prints."""
    rows = [ROW.fullmatch(line.strip()) for line in kubectl_says.splitlines()[1:]]
    return {
        (what, name, verb)
        for row in rows
        for what in [row["resources"], *row["urls"].split()]
        for name in row["names"].split() or [""]
        for verb in row["verbs"].split()
        if what
    }


def may(namespace, account):
    return rights(namespace.kubectl("auth", "can-i", "--list", f"--as=system:serviceaccount:{namespace.name}:{account}"))


def apply(namespace, folder):
    """Server warnings (Pod Security, deprecations) are errors."""
    return namespace.kubectl("apply", "-k", str(folder), "--warnings-as-errors")


def test_each_account_may_do_what_is_listed_and_nothing_else(namespace):
    apply(namespace, ROOT)
    anybody = may(namespace, "default")
    for file in RIGHTS.glob("*.txt"):
        assert may(namespace, file.stem) - anybody == rights(file.read_text()), file.stem


@pytest.mark.parametrize("file", sorted(RIGHTS.glob("*/*.txt")), ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_each_account_of_an_overlay_may_do_what_is_listed_and_nothing_else(namespace, file):
    built = subprocess.run(
        [Path(sys.executable).parent / "kubectl", "kustomize", OVERLAYS / file.parent.name], capture_output=True, text=True, check=True
    )
    documents = [text for text in built.stdout.split("\n---\n") if re.search(r"^kind: (ServiceAccount|Role|RoleBinding)$", text, re.MULTILINE)]
    namespace.apply(re.sub(r"^( *namespace:) llm$", rf"\g<1> {namespace.name}", "\n---\n".join(documents), flags=re.MULTILINE))
    assert may(namespace, file.stem) - may(namespace, "default") == rights(file.read_text())


def test_a_second_apply_changes_nothing(namespace):
    apply(namespace, ROOT)
    again = apply(namespace, ROOT)
    assert {line.rpartition(" ")[2] for line in again.splitlines()} == {"unchanged"}


def test_all_of_it_goes_again(namespace):
    before = namespace.kubectl("get", EVERYTHING, "-o", "name")
    apply(namespace, ROOT)
    namespace.kubectl("delete", "-k", str(ROOT))
    assert namespace.kubectl("get", EVERYTHING, "-o", "name") == before


@pytest.mark.parametrize("file", ONE_OFF_JOBS, ids=lambda file: str(file.relative_to(ROOT / "jobs")))
def test_a_one_off_job_is_taken_and_without_its_variables_refused(namespace, file):
    given = ["apply", "--dry-run=server", "--warnings-as-errors", "-f", "-"]
    taken = substituted(file.read_text(), {**defaults(), **CHOSEN, "NAMESPACE": namespace.name})
    assert "created" in namespace.kubectl(*given, input=taken)
    assert "image: Required value" in namespace.refused(*given, input=substituted(file.read_text(), {}))


def test_an_overlay_runs_in_a_restricted_namespace(namespace):
    """Warnings would come with the objects, not with the pods."""
    apply(namespace, OVERLAYS / "plain-deployments")
