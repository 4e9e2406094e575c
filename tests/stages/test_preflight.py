"""`preflight` on a clean installation, and with faults planted in it one by one: each is named alone, with the command that puts it right."""

from __future__ import annotations

import pytest
from tests.preflight.faults import FAULTS
from tests.preflight.looking import assert_named_alone, grave, looker, named_by_kubeconfig, unseen


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    with named_by_kubeconfig(tmp_path, monkeypatch) as found:
        yield found


@pytest.fixture
def preflight(capsys):
    return looker(capsys)


def test_a_clean_installation_has_nothing_wrong(cluster, preflight):
    code, findings = preflight()
    assert (code, grave(findings), unseen(findings)) == (0, [], {})
    assert len({each["check"] for each in findings}) > 30
    assert cluster.writes() == []


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named_alone_with_its_fix(cluster, preflight, name):
    fault = FAULTS[name]
    fault.plant(cluster)
    assert_named_alone(fault, *preflight())


def test_there_are_more_than_twenty():
    assert len(FAULTS) >= 20
