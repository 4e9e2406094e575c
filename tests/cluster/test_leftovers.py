"""What a killed sweep leaves goes; what a living one has stays."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sla_planner.cluster.leftovers import HOLDER, Holder, record_of, remove_leftovers, this_sweep

from .api_stand_in import api_stand_in

DEPLOYMENT = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "engine"}}
SERVICE = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "engine"}}
MINE = Holder("new", "sweep-2", "uid-2")
NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def cluster():
    with api_stand_in() as stand_in:
        yield stand_in


def left(cluster, holder):
    """An engine of `holder`."""
    labels = {"slaplanner.io/engine": "engine"}
    made = [{**document, "metadata": {"name": "engine", "labels": labels}} for document in (DEPLOYMENT, SERVICE)]
    for document in (record_of("engine", (SERVICE, DEPLOYMENT), holder, "0.1.0"), *made):
        cluster.put(document)


def pod(cluster, name, uid, *, phase="Running", due=None):
    metadata = {"name": name, "uid": uid} | ({"deletionTimestamp": due.isoformat().replace("+00:00", "Z")} if due else {})
    cluster.put({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": {"phase": phase}})


def what_is_left(cluster):
    return cluster.names("configmaps") + cluster.names("deployments") + cluster.names("services")


def test_a_record_is_labelled_owned_by_the_pod_and_lists_what_there_will_be(cluster):
    pod(cluster, "sweep-1", "uid-1")
    holder = this_sweep(cluster.api(), Path("results"), {"POD_NAME": "sweep-1"})
    record = record_of("engine", (SERVICE, DEPLOYMENT), holder, "0.1.0")
    assert record["metadata"]["ownerReferences"] == [{"apiVersion": "v1", "kind": "Pod", "name": "sweep-1", "uid": "uid-1"}]
    assert record["metadata"]["labels"] == {
        "app.kubernetes.io/name": "sla-planner",
        "app.kubernetes.io/component": "profile-sweep",
        "app.kubernetes.io/part-of": "sla-planner",
        "app.kubernetes.io/version": "0.1.0",
        "app.kubernetes.io/managed-by": "sla-planner",
        "slaplanner.io/run-id": holder.run_id,
        "slaplanner.io/engine": "engine",
    }
    assert holder.run_id != this_sweep(cluster.api(), Path("results"), {"POD_NAME": "sweep-1"}).run_id


def test_outside_of_a_pod_nothing_owns_it(cluster, caplog):
    assert this_sweep(cluster.api(), Path("results"), {}).owners == []
    with caplog.at_level(logging.WARNING):
        assert this_sweep(cluster.api(), Path("results"), {"POD_NAME": "laptop"}).owners == []
    assert "There is no pod laptop" in caplog.text


@pytest.mark.parametrize("of", ["gone", "ended", "replaced", "overdue", "mine"])
def test_whose_sweep_is_over_goes(cluster, of):
    left(cluster, MINE if of == "mine" else Holder("old", "sweep-1", "uid-1"))
    if of == "ended":
        pod(cluster, "sweep-1", "uid-1", phase="Failed")
    elif of == "replaced":
        pod(cluster, "sweep-1", "uid-other")
    elif of == "overdue":
        pod(cluster, "sweep-1", "uid-1", due=NOW - timedelta(seconds=61))
    remove_leftovers(cluster.api(), MINE, NOW)
    assert what_is_left(cluster) == []


@pytest.mark.parametrize("of", ["running", "starting", "going"])
def test_whose_sweep_lives_stays(cluster, of):
    left(cluster, Holder("old", "sweep-1", "uid-1"))
    pod(cluster, "sweep-1", "uid-1", phase="Pending" if of == "starting" else "Running", due=NOW + timedelta(seconds=30) if of == "going" else None)
    remove_leftovers(cluster.api(), MINE, NOW)
    assert what_is_left(cluster) == ["engine", "engine", "engine"]
    assert not cluster.writes()


def test_of_this_machine_the_same_folder_goes_and_another_stays(cluster, tmp_path, caplog):
    left(cluster, this_sweep(cluster.api(), tmp_path / "other", {}))
    with caplog.at_level(logging.WARNING):
        remove_leftovers(cluster.api(), this_sweep(cluster.api(), tmp_path / "mine", {}), NOW)
    assert len(what_is_left(cluster)) == 3
    assert "kubectl delete configmap engine" in caplog.text
    remove_leftovers(cluster.api(), this_sweep(cluster.api(), tmp_path / "other", {}), NOW)
    assert what_is_left(cluster) == []


def test_other_objects_are_no_records(cluster):
    labels = {"app.kubernetes.io/component": "profile-sweep", "app.kubernetes.io/managed-by": "sla-planner"}
    cluster.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "planner-profile-data", "labels": labels}})
    remove_leftovers(cluster.api(), MINE, NOW)
    assert what_is_left(cluster) == ["planner-profile-data"]


def test_a_record_that_was_damaged_still_goes(cluster, caplog):
    record = record_of("engine", (), Holder("old", "sweep-1", "uid-1"), "0.1.0")
    cluster.put({**record, "data": {"objects": "{"}})
    with caplog.at_level(logging.WARNING):
        remove_leftovers(cluster.api(), MINE, NOW)
    assert what_is_left(cluster) == []
    assert "does not say what it is made of" in caplog.text


def test_one_that_cannot_be_removed_does_not_keep_the_others(cluster):
    left(cluster, Holder("old", "sweep-1", "uid-1"))
    cluster.deny("delete", "deployments")
    remove_leftovers(cluster.api(), MINE, NOW)
    assert what_is_left(cluster) == ["engine"]  # the cluster removes what its record owned


def test_one_of_the_same_name_that_was_not_made_for_it_stays(cluster):
    left(cluster, Holder("old", "sweep-1", "uid-1"))
    cluster.put(SERVICE)
    remove_leftovers(cluster.api(), MINE, NOW)
    assert what_is_left(cluster) == ["engine"]
    assert cluster.names("services") == ["engine"]


def test_who_holds_a_record_is_written_on_it():
    assert record_of("engine", (), MINE, "0.1.0")["metadata"]["annotations"] == {HOLDER: "pod/sweep-2/uid-2"}
