"""The door to the cluster: what is sent, what comes back, and what each refusal becomes."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes.config import ConfigException
from tests.cluster.api_stand_in import ApiStandIn, api_stand_in

from sla_planner.cluster.api import Conflict, KubernetesApi, NotFound, Selector, connect
from sla_planner.cluster.resources import CONFIG_MAPS, DEPLOYMENTS, PODS, Resource
from sla_planner.errors import ForbiddenError, UnreachableError, UsageError

WIDGETS = Resource("example.com", "v1", "widgets", "Widget")


@pytest.fixture
def cluster() -> Iterator[ApiStandIn]:
    with api_stand_in(WIDGETS) as stand_in:
        yield stand_in


def config_map(name: str, **labels: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": {"key": "one"}}


def test_objects_come_and_go(cluster: ApiStandIn) -> None:
    api = cluster.api()
    made = api.create(CONFIG_MAPS, config_map("a", role="x"))
    assert made["metadata"]["uid"]
    api.create(CONFIG_MAPS, config_map("b"))
    assert [each["metadata"]["name"] for each in api.all_of(CONFIG_MAPS, Selector("role=x"))] == ["a"]
    assert api.merge_patch(CONFIG_MAPS, "a", {"data": {"key": None, "other": "two"}})["data"] == {"other": "two"}
    assert api.delete(CONFIG_MAPS, "a") is True
    assert api.delete(CONFIG_MAPS, "a") is False
    with pytest.raises(NotFound, match='"a" not found'):
        api.get(CONFIG_MAPS, "a")


def test_items_of_a_list_can_be_sent_back(cluster: ApiStandIn) -> None:
    api = cluster.api()
    api.create(CONFIG_MAPS, config_map("a"))
    (found,) = api.all_of(CONFIG_MAPS)
    assert (found["apiVersion"], found["kind"]) == ("v1", "ConfigMap")
    found["data"]["key"] = "two"
    assert api.replace(CONFIG_MAPS, found)["data"]["key"] == "two"
    with pytest.raises(Conflict):
        api.replace(CONFIG_MAPS, found)  # read before the last write


def test_every_write_names_its_manager_and_dry_runs_write_nothing(cluster: ApiStandIn) -> None:
    api = cluster.api()
    api.create(CONFIG_MAPS, config_map("a"), dry_run=True)
    assert cluster.names("configmaps") == []
    api.create(CONFIG_MAPS, config_map("a"))
    api.apply(CONFIG_MAPS, config_map("a"))
    api.merge_patch(CONFIG_MAPS, "a", {})
    api.json_patch(CONFIG_MAPS, "a", [{"op": "test", "path": "/data/key", "value": "one"}])
    assert [call.query["fieldManager"] for call in cluster.writes()] == ["sla-planner"] * 5
    assert [call.content_type for call in cluster.writes()[2:]] == [
        "application/apply-patch+yaml",
        "application/merge-patch+json",
        "application/json-patch+json",
    ]


def test_a_test_that_fails_changes_nothing(cluster: ApiStandIn) -> None:
    api = cluster.api()
    api.create(CONFIG_MAPS, config_map("a"))
    operations = [{"op": "test", "path": "/data/key", "value": "no"}, {"op": "replace", "path": "/data/key", "value": "two"}]
    with pytest.raises(Conflict):
        api.json_patch(CONFIG_MAPS, "a", operations)
    assert api.get(CONFIG_MAPS, "a")["data"] == {"key": "one"}


def test_another_of_the_same_name_is_not_deleted(cluster: ApiStandIn) -> None:
    api = cluster.api()
    api.create(CONFIG_MAPS, config_map("a"))
    assert api.delete(CONFIG_MAPS, "a", uid="somebody-else") is False
    assert cluster.names("configmaps") == ["a"]


def test_a_missing_right_is_told_with_verb_resource_namespace_and_who(cluster: ApiStandIn) -> None:
    cluster.deny("patch", "deployments/scale")
    cluster.put({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "prefill"}, "spec": {"replicas": 1}})
    with pytest.raises(ForbiddenError) as caught:
        cluster.api().merge_patch(DEPLOYMENTS, "prefill", {"spec": {"replicas": 2}}, subresource="scale")
    assert caught.value.message == "system:serviceaccount:here:tester may not patch deployments/scale in namespace here"
    assert caught.value.exit_code == 2


def test_reads_are_repeated_and_writes_that_were_sent_are_not(cluster: ApiStandIn) -> None:
    api = cluster.api(patience_s=10)
    api.create(CONFIG_MAPS, config_map("a"))
    cluster.fail(500, verb="get", times=2)
    assert api.get(CONFIG_MAPS, "a")["data"] == {"key": "one"}
    cluster.fail(0, verb="get")  # the connection is cut
    assert api.get(CONFIG_MAPS, "a")
    cluster.fail(0, verb="create")
    before = len(cluster.writes())
    with pytest.raises(UnreachableError, match="does not answer"):
        api.create(CONFIG_MAPS, config_map("b"))
    assert len(cluster.writes()) == before + 1
    cluster.fail(429, verb="create")  # was refused before it was done
    assert api.create(CONFIG_MAPS, config_map("c"))


def test_a_server_that_has_just_come_back_may_refuse_for_a_while(cluster: ApiStandIn) -> None:
    api = cluster.api(patience_s=10)
    api.create(CONFIG_MAPS, config_map("a"))
    cluster.fail(503, verb="get")
    cluster.fail(403, verb="get", times=2)  # it answers again, and has not read all Roles yet
    assert api.get(CONFIG_MAPS, "a")
    cluster.fail(503, verb="get")
    cluster.fail(403, verb="create")
    assert api.get(CONFIG_MAPS, "a")
    assert api.create(CONFIG_MAPS, config_map("b"))
    impatient = cluster.api(patience_s=0)
    cluster.fail(503, verb="get")
    cluster.fail(403, verb="get")
    for _ in range(2):
        with pytest.raises(UnreachableError):
            impatient.get(CONFIG_MAPS, "a")
    cluster.fail(403, verb="get")  # of a server that was there all the time it is an answer
    with pytest.raises(ForbiddenError):
        cluster.api(patience_s=10).get(CONFIG_MAPS, "a")


def test_a_cluster_that_is_not_there_is_unreachable() -> None:
    with api_stand_in() as gone:
        api = gone.api()
    with pytest.raises(UnreachableError) as caught:
        api.get(CONFIG_MAPS, "a")
    assert gone.url in caught.value.message
    assert caught.value.exit_code == 4


def test_a_watch_begins_with_what_is_there_and_ends_in_time(cluster: ApiStandIn) -> None:
    api = cluster.api()
    api.create(CONFIG_MAPS, config_map("a", role="x"))
    seen: list[tuple[str, str]] = []
    first = threading.Event()

    def look() -> None:
        for kind, found in api.watch(CONFIG_MAPS, Selector("role=x"), timeout_s=20):
            seen.append((kind, found["metadata"]["name"]))
            first.set()
            if kind == "DELETED":
                return

    watcher = threading.Thread(target=look)
    watcher.start()
    assert first.wait(10)
    api.create(CONFIG_MAPS, config_map("ignored"))
    api.merge_patch(CONFIG_MAPS, "a", {"data": {"key": "two"}})
    api.delete(CONFIG_MAPS, "a")
    watcher.join(10)
    assert seen == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]
    assert [kind for kind, _ in api.watch(CONFIG_MAPS, timeout_s=1)] == ["ADDED"]  # "ignored"; and it came to an end


def test_kinds_are_known_or_asked_for(cluster: ApiStandIn) -> None:
    api = cluster.api()
    assert api.resource_of({"apiVersion": "apps/v1", "kind": "Deployment"}) is DEPLOYMENTS
    assert cluster.calls == []
    assert api.resource_of({"apiVersion": "example.com/v1", "kind": "Widget"}) == WIDGETS
    with pytest.raises(UsageError, match=r"this cluster knows no Gadget of example.com/v1; install its CRD"):
        api.resource_of({"apiVersion": "example.com/v1", "kind": "Gadget"})
    assert api.serves(WIDGETS)
    assert not api.serves(Resource("example.com", "v2", "widgets", "Widget"))


def test_logs_are_text(cluster: ApiStandIn) -> None:
    cluster.put({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "engine"}})
    cluster.logs["engine"] = "ready\n"
    assert cluster.api().pod_log("engine", tail_lines=5) == "ready\n"


def test_who_we_are_comes_from_the_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: ApiStandIn) -> None:
    file = tmp_path / "config"
    file.write_text(
        f"""{{apiVersion: v1, kind: Config, current-context: one,
        clusters: [{{name: c, cluster: {{server: "{cluster.url}"}}}}], users: [{{name: u, user: {{token: secret}}}}],
        contexts: [{{name: one, context: {{cluster: c, user: u, namespace: team}}}}, {{name: two, context: {{cluster: c, user: u}}}}]}}"""
    )
    monkeypatch.setenv("KUBECONFIG", str(file))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    api = connect()
    assert (api.namespace, api.authorization()) == ("team", "Bearer secret")
    api.create(CONFIG_MAPS, config_map("a"))
    assert cluster.names("configmaps", namespace="team") == ["a"]
    assert connect(namespace="other").namespace == "other"
    assert connect(context="two").namespace == "default"
    assert api.all_of(PODS) == []


@pytest.mark.parametrize(
    ("text", "context", "words"),
    [
        (None, None, "there is no kubeconfig .*config; run in a pod, or name the file with KUBECONFIG"),
        ("clusters: [", None, "is no YAML: .*; correct it"),
        ("{contexts: [{name: one}, {name: two}]}", None, "has no current context; there are: one, two; choose one: kubectl config use-context"),
        ("{current-context: x, contexts: [{name: one}]}", None, "the current context of .*, x, is not in it; there are: one; choose one"),
        ("{current-context: x}", None, "x, is not in it; it has none"),
        ("{current-context: one, contexts: [{name: one}]}", "two", "has no context two; there are: one; name one of them with --context"),
        (
            "{current-context: one, contexts: [{name: one, context: {cluster: c, user: u}}]}",
            None,
            "cannot be used: .*; correct it; kubectl config view",
        ),
        ("", None, "cannot be used: .*; correct it"),
    ],
)
def test_what_is_wrong_with_a_kubeconfig_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, context: str | None, words: str
) -> None:
    file = tmp_path / "config"
    if text is not None:
        file.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(file))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(UsageError) as caught:
        connect(context=context)
    assert re.match(f"no cluster to talk to: .*{words}", str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_pages_are_joined(cluster: ApiStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    api = cluster.api()
    asked: list[dict[str, str]] = []

    def page(_self: KubernetesApi, _method: str, _path: str, query: dict[str, str]) -> dict[str, object]:
        asked.append(dict(query))
        return {"metadata": {"continue": "more"} if len(asked) == 1 else {}, "items": [{"metadata": {"name": f"p{len(asked)}"}}]}

    monkeypatch.setattr(KubernetesApi, "_json", page)
    assert [each["metadata"]["name"] for each in api.all_of(PODS)] == ["p1", "p2"]
    assert asked[1]["continue"] == "more"


def test_what_is_no_api_server_is_unreachable(cluster: ApiStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "answer", lambda *_: (200, "<html>sign in</html>"))
    with pytest.raises(UnreachableError, match="answers, but not as a Kubernetes API does"):
        cluster.api().get(CONFIG_MAPS, "a")


def test_a_token_that_cannot_be_read_anew_is_told(cluster: ApiStandIn) -> None:
    def gone(_configuration: object) -> None:
        raise ConfigException("Service token file does not exist.")

    api = cluster.api()
    api.configuration.api_key["BearerToken"] = "bearer old"
    api.configuration.refresh_api_key_hook = gone
    with pytest.raises(ForbiddenError, match="who we are cannot be told: Service token file does not exist"):
        api.get(CONFIG_MAPS, "a")
