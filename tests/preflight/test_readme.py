"""The README of preflight names every check that there is, and no other."""

from __future__ import annotations

import re

from tests.manifests.objects import ROOT

from sla_planner.preflight import cluster_checks, namespace_checks, planner_checks, rights_checks, target_checks, traffic_checks
from sla_planner.preflight.finding import Check

MODULES = (cluster_checks, namespace_checks, planner_checks, rights_checks, target_checks, traffic_checks)
OF_ACCOUNTS = {f"rights-of-{account}" for account in ("planner", "profile-sweep", "reconcile-requests")}


def test_the_table_names_every_check():
    checks = {value.name for module in MODULES for value in vars(module).values() if isinstance(value, Check)}
    text = (ROOT / "jobs/preflight/README.md").read_text()
    rows = re.findall(r"^\| (`[^|]+) \|", text[text.index("## What it finds") :], re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`([^`]+)`", row)} == checks | OF_ACCOUNTS
