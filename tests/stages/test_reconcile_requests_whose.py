"""`reconcile-requests --once` with requests of others, with two of ours, and with those that are deleted."""

from __future__ import annotations

import copy

import pytest
from tests.stages.requests_place import GRAPHS, JOBS, MAPS, REQUESTS, begun, deployed, once, place

from sla_planner.errors import UsageError
from sla_planner.requests_config import RequestsConfig
from sla_planner.stages import reconcile_requests_one as stage


@pytest.fixture
def here(tmp_path, monkeypatch):
    with place(tmp_path, monkeypatch) as found:
        yield found


class TestWhose:
    def test_where_the_definition_is_another_operators_only_those_that_name_us(self, here, capsys):
        here.define({"app.kubernetes.io/managed-by": "dynamo-operator"})
        here.request("theirs")
        here.request("ours", annotations={"slaplanner.io/request-class": "sla-planner"})
        assert once() == 0
        assert here.status("theirs") == {}
        assert here.state("ours") == "Profiling/Profiling"
        assert "Only requests with the annotation slaplanner.io/request-class: sla-planner are taken" in capsys.readouterr().err

    def test_where_it_cannot_be_read_the_same(self, here):
        here.cluster.deny("get", "customresourcedefinitions")
        here.request("theirs")
        here.request("ours", annotations={"slaplanner.io/request-class": "sla-planner"})
        assert once() == 0
        assert (here.status("theirs"), here.state("ours")) == ({}, "Profiling/Profiling")

    def test_one_that_names_another_class_is_never_ours(self, here):
        here.request(annotations={"slaplanner.io/request-class": "dynamo"})
        assert once() == 0
        assert here.status() == {}


class TestDefinitionOfSomebodyElse:
    """What its schema does not have is dropped without a word: nothing is made that would not be remembered."""

    @pytest.mark.parametrize(
        "dropped", [{"state", "message", "progress", "deployment"}, {"phase", "message", "progress", "profilingJobName", "dgdName"}]
    )
    def test_a_request_that_cannot_be_followed_is_left_alone_and_told_so(self, here, capsys, dropped):
        here.cluster.pruned[REQUESTS] = dropped
        here.request(annotations={"slaplanner.io/request-class": "sla-planner"})
        for _ in range(2):
            assert once() == 2
        assert (here.status(), here.cluster.names(JOBS), here.cluster.names(MAPS)) == ({}, [], [])
        (event,) = [here.found("events", name) for name in here.cluster.names("events")]
        assert event["reason"] == "StatusNotKept"
        assert all(f"status.{field}" in event["note"] for field in dropped)
        assert "so this request cannot be followed; install ours (component deployment-requests-crd)" in capsys.readouterr().err
        here.cluster.pruned.clear()
        assert once() == 0
        assert here.state() == "Profiling/Profiling"

    def test_one_whose_schema_takes_other_values(self, here):
        here.request()
        here.cluster.failures.append(lambda call: 422 if call.resource == f"{REQUESTS}/status" and call.query.get("dryRun") else None)
        assert once() == 2
        assert (here.cluster.names(JOBS), here.events()) == ([], ["StatusNotKept"])

    def test_while_it_runs_it_is_told_once_and_not_looked_at_all_the_time(self, here):
        here.cluster.pruned[REQUESTS] = {"state"}
        here.request()
        reconciler = stage.open_reconciler(RequestsConfig())
        reconciler.survey()
        looks = [reconciler.look("chat") for _ in range(3)]
        assert [(look.again_now, look.again_s) for look in looks] == [(False, 300.0)] * 3
        assert [call.resource for call in here.cluster.writes() if "dryRun" not in call.query] == ["events"]


class TestTwo:
    def test_each_has_its_own_and_the_shared_copy_is_nobodys(self, here):
        here.request("one")
        here.request("two")
        assert once() == 0
        for name in ("one", "two"):
            here.profiled(name=name)
        assert once() == 0
        assert here.cluster.names(GRAPHS) == ["one", "two"]
        maps = ["dgdr-output-one", "dgdr-output-two", "planner-profile-data-one", "planner-profile-data-two"]
        assert here.cluster.names(MAPS) == maps
        assert here.word.read_text() == "one: Deploying; two: Deploying"

    def test_a_fault_of_ours_with_one_is_its_own(self, here, monkeypatch, capsys):
        step = stage.step
        monkeypatch.setattr(stage, "step", lambda case, now: 1 / 0 if case.about.name == "one" else step(case, now))
        here.request("one")
        here.request("two")
        assert once() == 4
        assert here.state("two") == "Profiling/Profiling"
        assert "one: a fault of ours" in capsys.readouterr().err

    def test_the_deployment_outlives_its_request_and_a_new_one_of_that_name_is_told_so(self, here):
        deployed(here)
        here.delete()
        assert here.cluster.names(MAPS) == ["planner-profile-data-chat"]  # the planner reads it
        here.request()
        assert once() == 0
        assert here.condition("Validation")[1] == "DeploymentConflict"
        here.cluster.drop(GRAPHS, "chat")
        here.cluster.drop(MAPS, "planner-profile-data-chat")
        assert once() == 0
        assert here.state() == "Profiling/Profiling"


class TestGone:
    """A request that is deleted takes along what only it owns, and nothing is made for it again."""

    @pytest.mark.parametrize("state", ["Pending", "Profiling", "Failed", "Ready"])
    def test_in_any_state(self, here, state):
        if state == "Pending":
            here.cluster.drop("nodes", "a", namespace="")
            here.request()
            assert once() == 0
        elif state == "Ready":
            deployed(here)
        else:
            begun(here)
            if state == "Failed":
                here.job_ends("Failed", code=2, message="no")
                assert once() == 0
        assert here.status()["state"] == state
        here.delete()
        assert once() == 0
        assert here.word.read_text() == "there are no requests"
        kept = ["planner-profile-data-chat"] if state == "Ready" else []
        assert (here.cluster.names(JOBS), here.cluster.names(MAPS), here.cluster.names(GRAPHS)) == ([], kept, ["chat"] if state == "Ready" else [])

    def test_a_sweep_that_ends_after_it_leaves_no_profile_behind(self, here):
        begun(here)
        job = here.found(JOBS, "profile-chat")
        here.delete()
        here.cluster.put(job)  # its pod is still ending
        with pytest.raises(UsageError, match="planner-profile-data-chat that the profile is for is gone"):
            here.publish()
        assert here.cluster.names(MAPS) == []

    def test_one_that_is_on_its_way_out_is_left_alone(self, here):
        here.request()
        here.cluster.change(REQUESTS, "chat", lambda found: found["metadata"].update(deletionTimestamp="2026-01-31T12:00:00Z"))
        assert once() == 0
        assert here.cluster.writes() == []

    def test_a_new_one_of_that_name_waits_until_the_old_ones_objects_are_gone(self, here):
        begun(here)
        old = copy.deepcopy(here.cluster.objects)
        here.delete()
        for key, found in old.items():  # the garbage collector is late
            if key[0] in (JOBS, MAPS):
                here.cluster.objects[key] = found
        here.request()
        assert once() == 0
        assert here.condition("Validation")[1] == "NameTaken"
        for name in ("dgdr-output-chat", "planner-profile-data-chat"):
            here.cluster.drop(MAPS, name)
        here.cluster.drop(JOBS, "profile-chat")
        assert once() == 0
        assert here.state() == "Profiling/Profiling"
