"""What each ServiceAccount may do: rights/*.txt is what `kubectl auth can-i --list` says, and here it is held to the Roles.

tests/e2e/test_rights.py holds it to a real API server.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from tests.manifests.objects import ROOT, build, of_kind, overlay, pod_template

LISTS = sorted(Path(__file__).with_name("rights").rglob("*.txt"))
ROW = re.compile(r"(?P<resources>\S+)\s+\[\]\s+\[(?P<names>.*?)\]\s+\[(?P<verbs>.+?)\]")
ROLE_FILES = sorted([*ROOT.glob("jobs/*/role.yaml"), *ROOT.glob("manifests/components/*/objects/*role.yaml")])

# Their ConfigMaps are called after requests that nobody knows yet.
OF_REQUESTS = [
    ROOT / "jobs/reconcile-requests/role.yaml",
    ROOT / "manifests/components/deployment-requests/objects/sweep-role.yaml",
    ROOT / "manifests/components/deployment-requests-target-namespace/objects/role.yaml",
]


def listed(file):
    """{(resource, name or '', verb)}"""
    rows = [ROW.fullmatch(line.strip()) for line in file.read_text().splitlines()[1:]]
    return {(row["resources"], name, verb) for row in rows for name in row["names"].split() or [""] for verb in row["verbs"].split()}


def granted(objects, account):
    roles = of_kind(objects, "Role")
    bound = [
        binding["roleRef"]["name"]
        for binding in of_kind(objects, "RoleBinding").values()
        if ("ServiceAccount", account) in [(subject["kind"], subject["name"]) for subject in binding["subjects"]]
    ]
    return {
        (qualified(resource, group), name, verb)
        for role in bound
        for rule in roles[role]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [""])
        for verb in rule["verbs"]
    }


def qualified(resource, group):
    """`deployments.apps/scale`, as kubectl writes it."""
    plural, slash, subresource = resource.partition("/")
    return (f"{plural}.{group}" if group else plural) + slash + subresource


@pytest.mark.parametrize("file", LISTS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_the_list_is_what_the_roles_grant(file):
    source = ROOT if file.parent.name == "rights" else ROOT / "manifests/overlays" / file.parent.name
    assert listed(file) == granted(build(source), file.stem)


def test_every_account_has_a_list():
    accounts = of_kind(build(ROOT), "ServiceAccount")
    assert {file.stem for file in LISTS if file.parent.name == "rights"} == accounts.keys()
    used = {pod_template(each)["spec"]["serviceAccountName"] for each in of_kind(build(ROOT), "CronJob").values()}
    assert used == accounts.keys()


def test_every_binding_binds_what_is_there(tmp_path):
    objects = overlay(tmp_path, "planner-deployment", "plain-workloads", "volume-access")
    for binding in of_kind(objects, "RoleBinding").values():
        assert binding["roleRef"]["name"] in of_kind(objects, "Role")
        assert all(subject["name"] in of_kind(objects, "ServiceAccount") for subject in binding["subjects"])


@pytest.mark.parametrize("file", ROLE_FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_rule_says_why_and_names_what_it_can(file):
    text = file.read_text()
    rules = yaml.safe_load(text)["rules"]
    assert len(rules) == text.count("  - apiGroups")
    before = None
    for line in text.splitlines():
        if line.startswith("  - apiGroups"):
            # A rule that goes on with what the one before it began shares its reason.
            assert before.startswith(("  # ", "    verbs:"))
        before = line
    assert text.count("\n  # ") >= 1
    for rule in rules:
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        assert not {"secrets", "roles", "rolebindings", "pods/attach"} & set(rule["resources"])
        if "serviceaccounts" in rule["resources"]:
            assert (rule["verbs"], bool(rule["resourceNames"])) == (["get"], True)
        assert not {"escalate", "bind", "impersonate", "deletecollection"} & set(rule["verbs"])
        if "configmaps" in rule["resources"] and {"update", "patch"} & set(rule["verbs"]) and file not in OF_REQUESTS:
            assert rule["resourceNames"]
        if "resourceNames" in rule:
            assert not {"create", "list", "watch"} & set(rule["verbs"])  # the API server knows no name then
