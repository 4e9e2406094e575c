"""The planner's memory in a ConfigMap: whole, made when missing, never another planner's."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from tests.cluster.api_stand_in import ApiStandIn, api_stand_in

from sla_planner.cluster.state_config_map import StateConfigMap
from sla_planner.cluster.state_store import StateTaken
from sla_planner.errors import ForbiddenError, UnreachableError, UsageError

NAME = "sla-planner-status"


@pytest.fixture
def cluster() -> Iterator[ApiStandIn]:
    with api_stand_in() as stand_in:
        yield stand_in


def state(cluster: ApiStandIn, target: str = "chat") -> StateConfigMap:
    return StateConfigMap(cluster.api(), NAME, target)


def data(cluster: ApiStandIn) -> dict[str, str]:
    return dict((cluster.get("configmaps", NAME) or {}).get("data") or {})


def test_what_was_written_is_read_by_the_next_run(cluster: ApiStandIn) -> None:
    first = state(cluster)
    assert first.read() == (None, "")
    for document in ({"a": [1, None, "ä"], "status": {"conditions": []}}, {"a": 2, "status": {"b": 1}}):
        first.write(document)
        assert state(cluster).read() == (document, "")
    assert set(data(cluster)) == {"chat.state.json", "chat.status.json"}
    assert json.loads(data(cluster)["chat.status.json"]) == {"b": 1}
    assert data(cluster)["chat.state.json"] == '{"a":2}'


def test_a_map_that_was_installed_empty_is_filled(cluster: ApiStandIn) -> None:
    cluster.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME}})
    one = state(cluster)
    assert one.read() == (None, "")
    one.write({"a": 1})
    assert [call.verb for call in cluster.writes()] == ["patch"]
    assert state(cluster).read()[0] == {"a": 1, "status": {}}


def test_one_that_is_missing_is_made_and_labelled(cluster: ApiStandIn) -> None:
    state(cluster).write({"a": 1})
    labels = (cluster.get("configmaps", NAME) or {})["metadata"]["labels"]
    assert labels["app.kubernetes.io/managed-by"] == "sla-planner"
    assert labels["app.kubernetes.io/component"] == "planner"


def test_one_that_is_deleted_while_we_run_is_made_again(cluster: ApiStandIn) -> None:
    one = state(cluster)
    one.write({"a": 1})
    cluster.drop("configmaps", NAME)
    one.write({"a": 2})
    assert state(cluster).read()[0] == {"a": 2, "status": {}}


def test_targets_share_a_map_without_seeing_each_other(cluster: ApiStandIn) -> None:
    chat, code = state(cluster, "chat"), state(cluster, "code")
    for number in range(3):
        chat.write({"chat": number})
        code.write({"code": number})
    assert state(cluster, "chat").read()[0] == {"chat": 2, "status": {}}
    assert state(cluster, "code").read()[0] == {"code": 2, "status": {}}


def test_another_planner_of_the_same_target_is_not_overwritten(cluster: ApiStandIn) -> None:
    one, other = state(cluster), state(cluster)
    one.write({"a": 1})
    other.read()
    other.write({"a": 2})
    with pytest.raises(StateTaken, match=r"another planner writes the state in configmap sla-planner-status, chat.state.json; let only one act"):
        one.write({"a": 3})
    assert state(cluster).read()[0] == {"a": 2, "status": {}}
    one.read()
    one.write({"a": 4})
    assert state(cluster).read()[0] == {"a": 4, "status": {}}


def test_a_write_whose_answer_was_lost_is_ours(cluster: ApiStandIn) -> None:
    one = state(cluster)
    one.write({"a": 1})

    def lose_the_answer(call):  # type: ignore[no-untyped-def]
        if call.verb == "patch":
            cluster.failures.clear()
            cluster.change("configmaps", NAME, lambda found: found["data"].update(call.body["data"]))
            return 0
        return None

    cluster.failures.append(lose_the_answer)
    with pytest.raises(UnreachableError):
        one.write({"a": 2})
    one.write({"a": 3})
    assert state(cluster).read()[0] == {"a": 3, "status": {}}


@pytest.mark.parametrize(
    ("content", "why"), [("{", "is not JSON (Expecting"), ("", "is not JSON"), ("[1]", "is not a JSON object"), ("[" * 100_000, "is not JSON")]
)
def test_what_cannot_be_used_is_set_aside_under_another_key(cluster: ApiStandIn, content: str, why: str) -> None:
    cluster.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME}, "data": {"chat.state.json": content, "mine": "x"}})
    one = state(cluster)
    document, complaint = one.read()
    assert document is None
    assert complaint.startswith(f"state in configmap {NAME}, chat.state.json {why}")
    assert complaint.endswith("; kept as chat.state.bad, starting afresh")
    assert data(cluster) == {"chat.state.bad": content, "mine": "x"}
    one.write({"a": 1})
    assert data(cluster)["chat.state.bad"] == content


@pytest.mark.parametrize("status", ["{", "", "[" * 100_000])
def test_a_damaged_status_costs_only_itself(cluster: ApiStandIn, status: str) -> None:
    cluster.put(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": NAME},
            "data": {"chat.state.json": '{"a":1}', "chat.status.json": status},
        }
    )
    assert state(cluster).read() == ({"a": 1, "status": {}}, "")


@pytest.mark.parametrize(("verb", "step"), [("get", "read"), ("patch", "write"), ("create", "write")])
def test_a_right_that_is_missing_is_named(cluster: ApiStandIn, verb: str, step: str) -> None:
    one = state(cluster)
    if verb == "patch":
        one.write({"a": 1})
    cluster.deny(verb, "configmaps")
    with pytest.raises(ForbiddenError, match=f"may not {verb} configmaps in namespace here"):
        one.read() if step == "read" else one.write({"a": 2})


def test_a_state_that_no_map_can_hold_is_refused(cluster: ApiStandIn) -> None:
    with pytest.raises(UsageError, match="the state has 1000008 bytes, more than a ConfigMap holds; use --state FILE on a volume"):
        state(cluster).write({"a": "x" * 1_000_000})
    assert cluster.writes() == []


def test_a_map_that_never_holds_still_is_given_up(cluster: ApiStandIn) -> None:
    one = state(cluster)
    one.write({"a": 1})
    cluster.fail(409, verb="patch", times=1000)
    with pytest.raises(UnreachableError, match="changes faster than it can be written"):
        one.write({"a": 2})
