"""Requests in a namespace: the version that is asked for, whose they are, and the status as a patch."""

from __future__ import annotations

import pytest

from sla_planner.cluster.api import Conflict, NotFound
from sla_planner.cluster.requests import Requests, difference
from sla_planner.cluster.resources import DEFINITIONS, REQUESTS_ALPHA, REQUESTS_BETA
from sla_planner.errors import UsageError

from .api_stand_in import api_stand_in

NAME = "dynamographdeploymentrequests.nvidia.com"
OURS = {"app.kubernetes.io/part-of": "sla-planner"}


@pytest.fixture
def cluster():
    with api_stand_in(REQUESTS_ALPHA, REQUESTS_BETA, DEFINITIONS) as stand_in:
        yield stand_in


def define(cluster, labels):
    cluster.put({"apiVersion": DEFINITIONS.api_version, "kind": DEFINITIONS.kind, "metadata": {"name": NAME, "labels": labels}}, namespace="")


def request(cluster, name="chat", **more):
    return cluster.put({"apiVersion": REQUESTS_ALPHA.api_version, "kind": REQUESTS_ALPHA.kind, "metadata": {"name": name}, "spec": {}, **more})


def annotated(value):
    return {"metadata": {"annotations": {"slaplanner.io/request-class": value}}}


def test_the_newer_version_where_both_are_served():
    with api_stand_in(REQUESTS_ALPHA, REQUESTS_BETA) as both, api_stand_in(REQUESTS_ALPHA) as old:
        assert Requests(both.api()).resource == REQUESTS_BETA
        assert Requests(old.api()).resource == REQUESTS_ALPHA


def test_a_definition_that_goes_and_comes_back(cluster):
    requests = Requests(cluster.api())
    assert requests.all() == []
    cluster.kinds = [kind for kind in cluster.kinds if kind.plural != REQUESTS_BETA.plural]
    with pytest.raises(NotFound):
        requests.all()
    with pytest.raises(UsageError, match="kubectl apply -k manifests/crds"):
        requests.all()
    cluster.kinds.append(REQUESTS_ALPHA)
    assert requests.all() == []


@pytest.mark.parametrize(
    ("labels", "plain", "named", "other"),
    [(OURS, True, True, False), ({}, False, True, False), (None, False, True, False)],
    ids=["our definition", "another's definition", "no definition to be read"],
)
def test_whose_a_request_is(cluster, labels, plain, named, other):
    if labels is not None:
        define(cluster, labels)
    requests = Requests(cluster.api())
    assert not requests.is_ours({"metadata": {}})  # before anybody has looked
    requests.look_whose()
    assert requests.is_ours({"metadata": {}}) == plain
    assert requests.is_ours(annotated("sla-planner")) == named
    assert requests.is_ours(annotated("dynamo")) == other
    assert bool(requests.unowned) != plain


def test_a_status_is_written_on_the_version_that_was_read(cluster):
    found = request(cluster, status={"phase": "Pending", "progress": {"point": 1}, "kept": [1]})
    requests = Requests(cluster.api())
    requests.write_status(found, {"phase": "Profiling", "kept": [1]})
    assert cluster.get(REQUESTS_BETA.plural, "chat")["status"] == {"phase": "Profiling", "kept": [1]}
    (call,) = cluster.writes()
    assert (call.resource, call.body["status"]) == (f"{REQUESTS_BETA.plural}/status", {"phase": "Profiling", "progress": None})
    with pytest.raises(Conflict):
        requests.write_status(found, {"phase": "Failed"})


@pytest.mark.parametrize(
    ("before", "after", "patch"),
    [
        ({}, {"a": 1}, {"a": 1}),
        ({"a": 1}, {}, {"a": None}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "d": 3}}, {"a": {"c": None, "d": 3}}),
        ({"a": {"b": 1}}, {"a": 2}, {"a": 2}),
        ({"a": 2}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": [1, 2]}, {"a": [2]}, {"a": [2]}),
        ({"a": 1}, {"a": 1}, {}),
    ],
)
def test_a_patch_has_what_changes_and_null_for_what_goes(before, after, patch):
    assert difference(before, after) == patch
