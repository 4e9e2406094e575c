"""Engines on the stand-in of the API, whose controllers the test plays."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace

import pytest

from sla_planner.cluster import host as module
from sla_planner.cluster.api import KubernetesApi
from sla_planner.cluster.host import HostOptions, KubernetesHost
from sla_planner.cluster.host_rights import check_rights, rights_of
from sla_planner.cluster.host_service import url_of
from sla_planner.cluster.leftovers import Holder
from sla_planner.cluster.resources import ACCESS_REVIEWS, DEPLOYMENTS, GRAPHS_ALPHA, KNOWN, PODS, SERVICES, Resource
from sla_planner.errors import EngineError, ForbiddenError, UsageError
from sla_planner.sweep.host import Manifests

from .api_stand_in import api_stand_in

WHO_AM_I = Resource("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", namespaced=False)
HOLDER = Holder("1a2b3c", "sweep-1", "uid-1")


def manifests(name, *, port=None, gpus=()):
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"port": 8000}]}}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": {"app": name}}, "spec": {}}
    return Manifests(name, (service, deployment), f"slaplanner.io/engine={name}", name, port, gpus)


def pod(name, *, labels=None, state=None, restarts=0, uid=None):
    state = state or {"running": {}}
    status = {"name": "main", "state": state, "restartCount": restarts, "ready": "running" in state}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels or {}} | ({"uid": uid} if uid else {}),
        "spec": {"containers": [{"name": "main", "ports": [{"containerPort": 9090}]}]},
        "status": {"phase": "Running", "podIP": "10.0.0.7", "containerStatuses": [status], "conditions": [{"type": "Ready", "status": "True"}]},
    }


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setattr(module, "_ASK_EVERY_S", 0.01)
    with api_stand_in() as stand_in:
        yield stand_in


@pytest.fixture
def host(cluster):
    return KubernetesHost(cluster.api(), HOLDER)


def started(host, cluster, **more):
    """An engine with one running pod."""
    name = host.new_name("tp1")
    engine = host.start(manifests(name, **more))
    cluster.put(pod(f"{name}-x", labels={"slaplanner.io/engine": name}))
    return engine, name


# making and removing


def test_everything_that_is_made_is_labelled_and_owned(host, cluster):
    _, name = started(host, cluster)
    assert name == "sweep-1a2b3c-tp1"
    record = cluster.get("configmaps", name)
    assert record["metadata"]["ownerReferences"][0]["kind"] == "Pod"
    for plural in ("services", "deployments"):
        metadata = cluster.get(plural, name)["metadata"]
        assert metadata["ownerReferences"] == [{"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": record["metadata"]["uid"]}]
        assert metadata["labels"].items() >= record["metadata"]["labels"].items()
    assert cluster.get("deployments", name)["metadata"]["labels"]["app"] == name
    verbs = [(call.verb, call.resource) for call in cluster.writes()]
    assert verbs == [("create", "configmaps"), ("create", "services"), ("create", "deployments")]  # the record first


def test_names_are_new_valid_and_short(host):
    names = [host.new_name(stem) for stem in ("tp1", "tp1", "TP16-PP2-DP4-EP8 prefill", "tp16-pp2-dp4-ep8-prefill-and-more")]
    assert names[:2] == ["sweep-1a2b3c-tp1", "sweep-1a2b3c-tp1-2"]
    assert len(set(names)) == 4
    assert all(len(name) <= 40 and name == name.lower() and name.replace("-", "").isalnum() and name[-1] != "-" for name in names)


def test_the_namespace_and_the_name_fit_one_label(cluster):
    host = KubernetesHost(cluster.api("a-namespace-of-" + "x" * 30), HOLDER)
    names = [host.new_name(stem) for stem in ("tp1", "tp1", "tp16-pp2")]
    assert names == ["sweep-1a2b3c-t", "sweep-1a2b3c-t-2", "sweep-1a2b3c-t-3"]
    assert all(len(f"{host.api.namespace}-{name}") <= 63 for name in names)


def test_an_engine_is_gone_when_its_pods_are(host, cluster):
    engine, name = started(host, cluster)
    removing = threading.Thread(target=lambda: engine.remove(wait=True))
    removing.start()
    assert cluster.wait(lambda: not cluster.names("deployments") and not cluster.names("services"))
    assert removing.is_alive()
    assert cluster.names("configmaps") == [name]  # until its pods are gone a killed sweep is still recorded
    cluster.drop("pods", f"{name}-x")
    removing.join(20)
    assert not removing.is_alive()
    assert cluster.names("configmaps") == []


def test_in_a_hurry_nothing_is_waited_for(host, cluster):
    engine, name = started(host, cluster)
    engine.remove(wait=False)
    assert cluster.names("deployments") + cluster.names("services") + cluster.names("configmaps") == []
    assert cluster.names("pods") == [f"{name}-x"]


def test_what_the_cluster_refuses_is_told_and_nothing_is_left(host, cluster):
    cluster.fail(422, verb="create", resource="deployments")
    with pytest.raises(EngineError, match=r"the cluster refuses the engine: .*as a test asked"):
        host.start(manifests("engine"))
    assert cluster.names("services") + cluster.names("configmaps") == []


def test_a_missing_right_ends_the_sweep_and_nothing_is_left(host, cluster):
    cluster.deny("create", "deployments")
    with pytest.raises(ForbiddenError, match="may not create deployments in namespace here"):
        host.start(manifests("engine"))
    assert cluster.names("services") + cluster.names("configmaps") == []


def test_an_answer_that_was_lost_is_no_second_engine(host, cluster):
    """The Deployment is made, and the connection breaks before we know: it is found, and taken for what it is."""
    lost = []

    def lose(call):
        if (call.verb, call.resource) == ("create", "deployments") and not lost:
            lost.append(call.name)
            cluster.put(call.body)
            return 0
        return None

    cluster.failures.append(lose)
    host.start(manifests("engine"))
    assert lost
    assert cluster.names("deployments") == ["engine"]


def test_one_of_the_same_name_that_is_not_ours_is_left_alone(host, cluster):
    cluster.put({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "engine"}})
    with pytest.raises(EngineError, match="already exists"):
        host.start(manifests("engine"))
    assert cluster.names("services") == ["engine"]
    assert cluster.names("configmaps") == []


def test_an_api_server_that_comes_back_costs_nothing(host, cluster):
    cluster.fail(0, verb="create", times=2)
    engine, name = started(host, cluster)
    cluster.drop("pods", f"{name}-x")
    cluster.fail(0, verb="delete", times=3)
    engine.remove(wait=True)
    assert cluster.names("deployments") + cluster.names("services") + cluster.names("configmaps") == []


def test_one_that_does_not_come_back_leaves_the_engine_to_the_next_sweep(host, cluster, monkeypatch, caplog):
    engine, _ = started(host, cluster)
    monkeypatch.setattr(module, "PATIENCE_S", 0.0)
    cluster.fail(0, verb="delete", times=10**6)
    with caplog.at_level(logging.WARNING):
        engine.remove(wait=True)
    assert "may be left; the next sweep removes it" in caplog.text


# looking


def test_the_service_gives_the_url_and_the_pods_their_addresses(host, cluster):
    engine, name = started(host, cluster)
    assert engine.look().url == ""
    cluster.change("services", name, lambda service: service["spec"].update(clusterIP="10.96.0.9"))
    outlook = engine.look()
    assert (outlook.url, outlook.trouble, outlook.addresses) == ("http://10.96.0.9:8000", None, ("http://10.0.0.7:9090",))


def test_a_service_of_another_name_is_found(host, cluster):
    engine = host.start(replace(manifests("engine"), documents=(manifests("engine").documents[1],), service="engine-frontend"))
    assert engine.look().url == ""
    cluster.put({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "engine-worker"}, "spec": {"clusterIP": "10.96.0.1"}})
    ports = [{"name": "metrics", "port": 9090}, {"name": "http", "port": 8080}]
    spec = {"clusterIP": "10.96.0.2", "ports": ports}
    cluster.put({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "engine-0-frontend"}, "spec": spec})
    assert engine.look().url == "http://10.96.0.2:8080"


@pytest.mark.parametrize(
    ("spec", "port", "url"),
    [
        ({"clusterIP": "10.96.0.1", "ports": [{"port": 8080}]}, None, "http://10.96.0.1:8080"),
        ({"clusterIP": "10.96.0.1", "ports": [{"port": 8080}]}, 9000, "http://10.96.0.1:9000"),
        ({"clusterIP": "10.96.0.1", "ports": [{"port": 1}, {"port": 8000}]}, None, "http://10.96.0.1:8000"),
        ({"clusterIP": "10.96.0.1", "ports": [{"port": 8000}, {"port": 1, "name": "http-api"}]}, None, "http://10.96.0.1:1"),
        ({"clusterIP": "fd00::1", "ports": [{"port": 8000}]}, None, "http://[fd00::1]:8000"),
        ({"clusterIP": "None", "ports": [{"port": 8000}]}, None, "http://front.here.svc:8000"),
        ({"type": "ExternalName", "externalName": "x"}, None, "http://front.here.svc:8000"),
        ({}, None, ""),
    ],
)
def test_the_port_that_is_plainly_meant(spec, port, url):
    assert url_of({"metadata": {"name": "front"}, "spec": spec}, "here", port) == url


def test_nobody_who_makes_pods_is_told_and_quota_is(host, cluster):
    engine = host.start(manifests("engine"))
    assert engine.look().trouble.kind == "silent"
    cluster.put(
        {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": "e"},
            "reason": "FailedCreate",
            "note": "exceeded quota",
            "regarding": {"name": "engine-7f"},
        }
    )
    assert engine.look().trouble.what == "no pod is let in: exceeded quota"
    cluster.deny("list", "events")
    assert engine.look().trouble.kind == "silent"


def test_pods_are_found_by_name_where_the_label_is_missing(host, cluster):
    engine = host.start(manifests("engine"))
    cluster.put(pod("engine-0", state={"waiting": {"reason": "InvalidImageName"}}))
    cluster.put(pod("engines-0", state={"running": {}}))
    assert engine.look().trouble.kind == "image"


# after it answered


def test_its_end_is_told_with_the_log_and_not_while_nobody_answers(host, cluster):
    engine, name = started(host, cluster)
    engine.settled()
    assert engine.ended() is None
    cluster.logs[f"{name}-x"] = "fatal: xid 79"
    ended = pod(f"{name}-x", labels={"slaplanner.io/engine": name}, restarts=1, uid=cluster.get("pods", f"{name}-x")["metadata"]["uid"])
    cluster.put(ended)
    cluster.fail(0, verb="list", times=1)
    assert engine.ended() is None
    trouble = engine.ended()
    assert (trouble.crashed, trouble.log, trouble.retry) == (True, "fatal: xid 79", True)


def test_logs_are_kept_when_their_pod_is_gone(host, cluster):
    engine, name = started(host, cluster)
    cluster.logs[f"{name}-x"] = "KV cache size: 100 tokens\n"
    assert engine.log() == f"==> {name}-x main <==\nKV cache size: 100 tokens\n"
    cluster.drop("pods", f"{name}-x")
    assert "KV cache size: 100 tokens" in engine.log()
    cluster.fail(0, verb="list", times=10)
    assert "KV cache size: 100 tokens" in engine.log()


# before the first start


def test_a_kind_that_the_cluster_does_not_have(cluster):
    cluster.kinds = [kind for kind in KNOWN if kind != GRAPHS_ALPHA]
    host = KubernetesHost(cluster.api(), HOLDER)
    graph = {"apiVersion": "nvidia.com/v1alpha1", "kind": "DynamoGraphDeployment", "metadata": {"name": "any"}}
    with pytest.raises(UsageError) as caught:
        host.prepare(replace(manifests("any"), documents=(graph,)))
    assert str(caught.value).startswith("this cluster has no DynamoGraphDeployment (nvidia.com/v1alpha1); install the Dynamo platform")


def test_outside_of_the_cluster_it_is_said_what_that_takes(cluster, caplog):
    with caplog.at_level(logging.WARNING):
        KubernetesHost(cluster.api(), HOLDER).prepare(manifests("any"))
        assert caplog.text == ""
        KubernetesHost(cluster.api(), Holder("1a2b3c", place="laptop/results")).prepare(manifests("any"))
    assert "the addresses of its Services have to be reachable from here" in caplog.text


def granting(cluster, *missing):
    """Answers access reviews."""
    cluster.kinds = [*cluster.kinds, ACCESS_REVIEWS, WHO_AM_I]

    def create(self, resource, body, **more):
        if resource.kind == ACCESS_REVIEWS.kind:
            asked = body["spec"]["resourceAttributes"]
            return {"status": {"allowed": (asked["verb"], asked["resource"], asked["subresource"]) not in missing}}
        if resource.kind == WHO_AM_I.kind:
            return {"status": {"userInfo": {"username": "system:serviceaccount:here:profile-sweep"}}}
        return KubernetesApi.create(self, resource, body, **more)

    api = cluster.api()
    api.create = create.__get__(api)
    return api


def test_rights_that_are_missing_are_all_told_before_anything_is_started(cluster):
    rights = rights_of([DEPLOYMENTS, SERVICES])
    check_rights(granting(cluster), rights)
    with pytest.raises(ForbiddenError) as caught:
        check_rights(granting(cluster, ("get", "pods", "log"), ("delete", "deployments", ""), ("create", "deployments", "")), rights)
    assert caught.value.message == (
        "system:serviceaccount:here:profile-sweep may not get pods/log, create and delete deployments.apps in namespace here"
    )


def test_a_cluster_that_does_not_tell_rights_is_believed(cluster):
    check_rights(cluster.api(), rights_of([PODS]))


# room


def test_what_no_node_can_hold_is_not_started(cluster, caplog):
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}}
    node["status"] = {"allocatable": {"nvidia.com/gpu": "4"}, "conditions": [{"type": "Ready", "status": "True"}]}
    cluster.put(node, namespace="")
    with pytest.raises(EngineError, match="it needs 8 GPUs on one node; the largest has 4; lower --max-num-gpus, or give --autoscaled"):
        KubernetesHost(cluster.api(), HOLDER).start(manifests("engine", gpus=(8,)))
    assert not cluster.writes()
    with caplog.at_level(logging.INFO):
        KubernetesHost(cluster.api(), HOLDER, HostOptions(autoscaled=True)).start(manifests("engine", gpus=(8,)))
    assert cluster.names("deployments") == ["engine"]
    assert "engine: 8 GPUs are needed, 4 are free now" in caplog.text


def test_where_nodes_may_not_be_listed_it_is_said_once(host, cluster, caplog):
    cluster.deny("list", "nodes")
    with caplog.at_level(logging.INFO):
        host.start(manifests("one", gpus=(8,)))
        host.start(manifests("two", gpus=(8,)))
    assert caplog.text.count("Free GPUs are not counted before an engine is started") == 1
