"""Reading a cluster in which some reads fail: what is told, what is raised, what is sent."""

from __future__ import annotations

import pytest
from tests.preflight.installation import HERE, installation

from sla_planner.cluster.preflight_facts import cluster_facts, namespace_facts
from sla_planner.cluster.preflight_reader import MOST_SILENCES, Reader
from sla_planner.cluster.preflight_rights import account_may, own_rights
from sla_planner.cluster.resources import DEPLOYMENTS, NODES, PODS
from sla_planner.errors import ForbiddenError, UnreachableError
from sla_planner.preflight.facts import Unread
from sla_planner.preflight.rights import Right


@pytest.fixture
def cluster():
    with installation() as found:
        yield found


@pytest.fixture
def reader(cluster):
    return Reader(cluster.api())


def test_what_is_there_and_what_is_not(reader):
    assert reader.named(DEPLOYMENTS, "planner")["metadata"]["name"] == "planner"
    assert reader.named(DEPLOYMENTS, "nothing") is None
    assert reader.all_of(PODS) == ()


def test_a_missing_right_is_told_in_the_servers_words(cluster, reader):
    cluster.deny("list", "nodes")
    found = reader.all_of(NODES)
    assert isinstance(found, Unread)
    assert "may not list nodes" in found.because
    assert not found.unreachable


def test_a_server_that_goes_on_not_answering_is_gone(cluster, reader):
    cluster.fail(503, verb="list", resource="pods", times=99)
    for _ in range(MOST_SILENCES):
        assert reader.all_of(PODS).unreachable
    with pytest.raises(UnreachableError):
        reader.all_of(PODS)


@pytest.mark.parametrize("ahead_s", [-300.0, 0.0, 45.0])
def test_the_clock_is_read_off_the_date_of_an_answer(cluster, reader, ahead_s):
    cluster.clock_ahead_s = -ahead_s
    version, found_s = reader.version_and_clock()
    assert version == cluster.version
    assert found_s == pytest.approx(ahead_s, abs=1.5)


@pytest.mark.parametrize(("status", "error"), [(401, ForbiddenError), (500, UnreachableError)])
def test_who_is_not_known_or_not_answered_goes_no_further(cluster, reader, status, error):
    cluster.version_status = status
    with pytest.raises(error):
        reader.version_and_clock()


def test_nobody_there(cluster, reader):
    reader.api.configuration.host = "http://127.0.0.1:1"
    with pytest.raises(UnreachableError, match="does not answer"):
        reader.version_and_clock()


def test_rights_are_asked_one_by_one(cluster, reader):
    patch, delete = (Right(verb, "nvidia.com", "dynamographdeployments", "vllm-disagg") for verb in ("patch", "delete"))
    assert account_may(reader, "planner", [patch, delete]) == {patch: True, delete: False}
    assert account_may(reader, "nobody", [patch]) == {patch: False}
    assert own_rights(reader, [patch]) == {patch: True}


def test_an_operator_is_known_by_its_name_or_its_label(cluster, reader):
    for name, labels in (("controller", {"app.kubernetes.io/name": "dynamo-operator"}), ("dynamo-frontend", {}), ("gpu-operator", {})):
        found = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "labels": labels},
            "spec": {"selector": {}, "template": {}},
        }
        cluster.put(found, namespace="elsewhere")
    found = cluster_facts(reader).operators
    assert {(each.name, each.ready) for each in found} == {("dynamo-platform-operator-controller-manager", True), ("controller", False)}


@pytest.mark.parametrize(("asked", "claim"), [(None, "profiles"), ("mine", "mine")])
def test_the_volume_is_the_one_that_is_mounted_unless_it_is_named(cluster, reader, asked, claim):
    def mounts(found):
        volumes = found["spec"]["jobTemplate"]["spec"]["template"]["spec"]["volumes"]
        next(each for each in volumes if "persistentVolumeClaim" in each)["persistentVolumeClaim"]["claimName"] = "profiles"

    for name in ("download-results", "inject-config", "profile-sweep"):
        cluster.edit("cronjobs", name, mounts)
    assert namespace_facts(reader, claim=asked).claim_name == claim


def test_no_value_of_a_secret_is_kept(cluster, reader):
    cluster.put({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hf-token-secret"}, "data": {"HF_TOKEN": "c2VjcmV0"}}, namespace=HERE)
    assert "c2VjcmV0" not in repr(namespace_facts(reader, claim=None))
