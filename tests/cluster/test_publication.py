"""The profile as a ConfigMap: whole, never beside something older."""

from __future__ import annotations

import pytest

from sla_planner.cluster import publication
from sla_planner.cluster.publication import Publication, publish
from sla_planner.errors import ForbiddenError, UsageError

from .api_stand_in import api_stand_in

TWINS = {"prefill_raw_data.json": "p", "decode_raw_data.json": "d"}
WHOLE = {"profile.json": "w" * 100}
MARKS = {"labels": {"slaplanner.io/run-id": "1"}, "annotations": {"slaplanner.io/profile-digest": "x"}}
ALL = Publication(TWINS, WHOLE, **MARKS)


@pytest.fixture
def cluster():
    with api_stand_in() as stand_in:
        yield stand_in


def test_it_is_made_with_all_that_fits(cluster):
    assert publish(cluster.api(), "data", ALL) == ("prefill_raw_data.json", "decode_raw_data.json", "profile.json")
    made = cluster.get("configmaps", "data")
    assert made["data"] == TWINS | WHOLE
    assert (made["metadata"]["labels"], made["metadata"]["annotations"]) == (MARKS["labels"], MARKS["annotations"])


def test_nothing_older_stays_beside_it_and_what_others_noted_does(cluster, monkeypatch):
    """The profile.json of an earlier sweep would be read instead of the twins of this one."""
    monkeypatch.setattr(publication, "MOST_BYTES", 120)
    owners = [{"kind": "Job", "name": "j", "uid": "u"}]
    metadata = {"name": "data", "labels": {"team": "chat", "slaplanner.io/run-id": "0"}, "annotations": {"note": "n"}, "ownerReferences": owners}
    cluster.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": WHOLE | {"other": "o"}, "binaryData": {"b": "AA=="}})
    assert publish(cluster.api(), "data", ALL) == tuple(TWINS)
    made = cluster.get("configmaps", "data")
    assert made["data"] == TWINS
    assert "binaryData" not in made
    assert made["metadata"]["labels"] == {"team": "chat", "slaplanner.io/run-id": "1"}
    assert made["metadata"]["annotations"] == {"note": "n", "slaplanner.io/profile-digest": "x"}
    assert made["metadata"]["ownerReferences"] == owners


def test_what_does_not_fit_at_all_leaves_no_older_one(cluster, monkeypatch):
    cluster.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "data"}, "data": TWINS})
    monkeypatch.setattr(publication, "MOST_BYTES", 10)
    with pytest.raises(UsageError, match="the profile has 43 bytes, a ConfigMap holds 10"):
        publish(cluster.api(), "data", Publication(TWINS, **MARKS))
    assert cluster.get("configmaps", "data") is None


def test_somebody_who_writes_at_the_same_moment_is_overwritten(cluster):
    cluster.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "data"}, "data": {}})
    cluster.fail(409, verb="update", resource="configmaps", times=2)
    publish(cluster.api(), "data", Publication(TWINS, **MARKS))
    assert cluster.get("configmaps", "data")["data"] == TWINS
    cluster.fail(409, verb="update", resource="configmaps", times=99)
    with pytest.raises(UsageError, match="changes all the time"):
        publish(cluster.api(), "data", Publication(TWINS, **MARKS))


def test_one_that_is_gone_is_not_made_anew_where_only_an_existing_one_is_wanted(cluster):
    with pytest.raises(UsageError, match="the ConfigMap data that the profile is for is gone from namespace here"):
        publish(cluster.api(), "data", Publication(TWINS, **MARKS), existing_only=True)
    assert cluster.names("configmaps") == []
    cluster.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "data"}, "data": {}})
    assert publish(cluster.api(), "data", Publication(TWINS, **MARKS), existing_only=True) == tuple(TWINS)


@pytest.mark.parametrize(("existing_only", "left"), [(True, []), (False, ["data"])])
def test_one_that_goes_between_reading_and_writing(cluster, existing_only, left):
    cluster.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "data"}, "data": {}})

    def goes(call):
        if call.verb == "update" and cluster.names("configmaps"):
            cluster.drop("configmaps", "data")

    cluster.failures.append(goes)
    if existing_only:
        with pytest.raises(UsageError, match="is gone from namespace here"):
            publish(cluster.api(), "data", Publication(TWINS, **MARKS), existing_only=True)
    else:
        publish(cluster.api(), "data", Publication(TWINS, **MARKS))
    assert cluster.names("configmaps") == left


def test_a_missing_right_is_told(cluster):
    cluster.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "data"}, "data": {}})
    cluster.deny("update", "configmaps")
    with pytest.raises(ForbiddenError, match="may not update configmaps in namespace here"):
        publish(cluster.api(), "data", Publication(TWINS, **MARKS))
