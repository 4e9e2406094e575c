"""`reconcile-requests` where something is missing that is not the request's fault: rights, the resource, the API server, its turn; and dry runs."""

from __future__ import annotations

import pytest
from tests.stages.requests_place import GRAPHS, JOBS, MAPS, REQUESTS, begun, deployed, once, place

from sla_planner.cli import run


@pytest.fixture
def here(tmp_path, monkeypatch):
    with place(tmp_path, monkeypatch) as found:
        yield found


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--no-such-flag=1", "--planner-arg: No such option"),
        ("--grace-s=long", "--planner-arg: flag --grace-s"),
        ("--min-endpoint=0", "--planner-arg: flag --min-endpoint"),
        ("--attainment=2", "--planner-arg: flag --attainment"),
    ],
)
def test_flags_that_no_planner_takes_are_told_at_the_start(here, capsys, argument, words):
    here.request()
    assert once("--planner-arg", argument) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
    assert here.cluster.calls == []


class TestRights:
    """Missing one at a time: one line that names who may not do what, in the request where it can be written, else in the log."""

    @pytest.mark.parametrize(("verb", "resource"), [("create", MAPS), ("create", JOBS)])
    def test_what_is_refused_before_the_job_is_told_and_taken_up_when_it_is_granted(self, here, capsys, verb, resource):
        here.cluster.deny(verb, resource)
        here.request()
        for _ in range(2):
            assert once() == 2
            assert f"may not {verb} {resource} in namespace here" in here.status()["message"]
            assert capsys.readouterr().err.rstrip().splitlines()[-1].startswith("error: request chat: ")
        assert here.events().count("Refused") == 1
        here.cluster.denied.clear()
        assert once() == 0
        assert here.state() == "Profiling/Profiling"

    @pytest.mark.parametrize(("verb", "resource"), [("create", GRAPHS), ("patch", MAPS)])
    def test_what_is_refused_after_profiling(self, here, verb, resource):
        begun(here)
        here.profiled()
        here.cluster.deny(verb, resource)
        assert once() == 2
        assert f"may not {verb} {resource}" in here.status()["message"]
        assert here.cluster.names(GRAPHS) == []
        here.cluster.denied.clear()
        assert once() == 0
        assert here.state() == "Deploying/Deploying"

    @pytest.mark.parametrize(("verb", "resource"), [("get", JOBS), ("get", MAPS)])
    def test_what_cannot_be_seen_is_waited_for(self, here, verb, resource):
        here.cluster.deny(verb, resource)
        here.request()
        assert once() == 0
        assert here.condition("Validation")[:2] == ("Unknown", "CannotBeSeen")
        assert f"may not {verb}" in here.condition("Validation")[2]
        assert here.cluster.names(JOBS) == []

    def test_a_deployment_that_cannot_be_seen_is_not_one_that_is_gone(self, here):
        deployed(here)
        here.cluster.deny("get", GRAPHS)
        assert once() == 0
        assert here.state() == "Ready/Deployed"
        assert "may not get dynamographdeployments" in here.status()["message"]

    @pytest.mark.parametrize(
        ("verb", "resource"),
        [
            ("list", "nodes"),
            ("get", "persistentvolumeclaims"),
            ("get", "serviceaccounts"),
            ("list", "pods"),
            ("get", "pods/log"),
            ("create", "events"),
        ],
    )
    def test_what_only_makes_it_know_less_stops_nothing(self, here, verb, resource):
        here.cluster.deny(verb, resource)
        deployed(here, profiling={"outputPVC": "results"} if resource == "persistentvolumeclaims" else {})
        assert here.cluster.names("events") == [] if resource == "events" else here.events()

    def test_without_the_right_to_write_the_status_nothing_is_started(self, here, capsys):
        here.cluster.deny("patch", f"{REQUESTS}/status")
        here.request()
        for _ in range(2):
            assert once() == 2
            assert f"may not patch {REQUESTS}/status" in capsys.readouterr().err.splitlines()[-1]
        assert (here.cluster.names(JOBS), here.cluster.names(MAPS)) == ([], [])

    def test_without_the_right_to_list_requests_it_says_so(self, here, capsys):
        here.cluster.deny("list", REQUESTS)
        assert once() == 2
        assert f"may not list {REQUESTS}" in capsys.readouterr().err.splitlines()[-1]


class TestOtherwise:
    def test_a_cluster_without_the_resource(self, here, capsys):
        here.cluster.kinds = [kind for kind in here.cluster.kinds if kind.plural != REQUESTS]
        assert once() == 2
        error = "error: this cluster has no DynamoGraphDeploymentRequest; install it: kubectl apply -k manifests/crds"
        assert capsys.readouterr().err.splitlines()[-1] == error

    def test_a_cluster_that_is_away(self, here, capsys, monkeypatch):
        here.cluster.fail(503, times=1000)
        assert once() == 4
        assert "answers HTTP 503" in capsys.readouterr().err.splitlines()[-1]

    def test_a_status_that_somebody_writes_meanwhile_is_looked_at_again(self, here):
        here.request()
        hit = []

        def meanwhile(call):
            if call.resource == f"{REQUESTS}/status" and not hit:
                hit.append(call)
                here.cluster.change(REQUESTS, "chat", lambda found: found["metadata"].setdefault("labels", {}).update(seen="yes"))

        here.cluster.failures.append(meanwhile)
        assert once() == 0
        assert here.state() == "Profiling/Profiling"
        assert hit
        assert here.found(REQUESTS, "chat")["metadata"]["labels"] == {"seen": "yes"}

    def test_dry_run_says_what_would_be_done_and_writes_nothing(self, here, capsys):
        here.request()
        assert run(["reconcile-requests", "--dry-run"]) == 0
        said = capsys.readouterr().out
        assert "chat: would create ConfigMap/planner-profile-data-chat for the profile, and Job/profile-chat, which profiles" in said
        assert "chat: would tell ProfilingJobCreated: " in said
        assert here.cluster.writes() == []

    def test_another_that_holds_the_lease_acts_and_this_one_does_nothing(self, here, monkeypatch):
        monkeypatch.setattr("sla_planner.stages.reconcile_requests_run.TAKE_OVER_S", 0.2)
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "one-acts"}}
        here.cluster.put({**lease, "spec": {"holderIdentity": "another", "leaseDurationSeconds": 15}})
        here.request()
        assert once("--lease", "one-acts") == 0
        assert here.status() == {}
        assert here.word.read_text() == "nothing is done: lease one-acts is held by another"
        here.cluster.put(lease)  # as it is installed
        assert once("--lease", "one-acts") == 0
        assert here.state() == "Profiling/Profiling"
        assert here.found("leases", "one-acts")["spec"]["holderIdentity"] == ""

    def test_a_lease_that_may_not_be_had_is_an_error(self, here, capsys):
        here.cluster.deny("get", "leases")
        assert once("--lease", "one-acts") == 2
        assert "lease one-acts cannot be had" in capsys.readouterr().err.splitlines()[-1]
