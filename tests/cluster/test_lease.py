"""Of several planners one acts. Time is the test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.cluster.api_stand_in import ApiStandIn, api_stand_in

from sla_planner.cluster.lease import DURATION_S, RENEW_LIMIT_S, Leadership


class Clock:
    now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cluster() -> Iterator[ApiStandIn]:
    with api_stand_in() as stand_in:
        yield stand_in


def planner(cluster: ApiStandIn, name: str, clock: Clock) -> Leadership:
    return Leadership(cluster.api(), "planner", identity=name, clock=clock)


def spec(cluster: ApiStandIn) -> dict:  # type: ignore[type-arg]
    found = cluster.get("leases", "planner")
    assert found is not None
    return dict(found["spec"])


def test_the_first_one_takes_it_and_the_second_stands_by(cluster: ApiStandIn, clock: Clock) -> None:
    first, second = planner(cluster, "a", clock), planner(cluster, "b", clock)
    for each in (first, second):
        assert not each.held
        each.attempt()
    assert (first.held, second.held) == (True, False)
    assert second.words == "lease planner is held by a"
    assert (spec(cluster)["holderIdentity"], spec(cluster)["leaseDurationSeconds"], spec(cluster)["leaseTransitions"]) == ("a", DURATION_S, 0)


def test_one_that_is_renewed_is_never_taken(cluster: ApiStandIn, clock: Clock) -> None:
    first, second = planner(cluster, "a", clock), planner(cluster, "b", clock)
    for _ in range(20):
        first.attempt()
        second.attempt()
        clock.now_s += 2
    assert (first.held, second.held) == (True, False)


def test_one_that_is_no_longer_renewed_is_taken_after_its_duration(cluster: ApiStandIn, clock: Clock) -> None:
    first, second = planner(cluster, "a", clock), planner(cluster, "b", clock)
    first.attempt()
    second.attempt()
    clock.now_s += DURATION_S - 0.1
    second.attempt()
    assert not second.held
    assert not first.held, "the one that could not renew has long stopped acting"
    clock.now_s += 0.1
    second.attempt()
    assert second.held
    assert spec(cluster)["leaseTransitions"] == 1
    first.attempt()
    assert not first.held
    assert first.words == "lease planner is held by b"


def test_the_duration_runs_from_when_we_saw_it_change_whatever_its_clock_says(cluster: ApiStandIn, clock: Clock) -> None:
    lease = {"holderIdentity": "a", "leaseDurationSeconds": DURATION_S, "renewTime": "1999-01-01T00:00:00.000000Z"}
    cluster.put({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "planner"}, "spec": lease})
    late = planner(cluster, "b", clock)
    late.attempt()
    assert not late.held
    clock.now_s += DURATION_S
    late.attempt()
    assert late.held


def test_who_gives_it_back_need_not_be_waited_for(cluster: ApiStandIn, clock: Clock) -> None:
    first, second = planner(cluster, "a", clock), planner(cluster, "b", clock)
    first.attempt()
    second.attempt()
    first.release()
    assert not first.held
    second.attempt()
    assert second.held


def test_releasing_what_is_somebody_elses_changes_nothing(cluster: ApiStandIn, clock: Clock) -> None:
    first, second = planner(cluster, "a", clock), planner(cluster, "b", clock)
    first.attempt()
    second.attempt()
    clock.now_s += DURATION_S
    second.attempt()
    first.release()
    assert spec(cluster)["holderIdentity"] == "b"


def test_of_two_that_try_at_once_one_wins(cluster: ApiStandIn, clock: Clock) -> None:
    first, second = planner(cluster, "a", clock), planner(cluster, "b", clock)
    asked = []

    def rival(call):  # type: ignore[no-untyped-def]
        if call.verb == "create" and not asked:
            asked.append(call)
            second.attempt()

    cluster.failures.append(rival)
    first.attempt()
    assert (first.held, second.held) == (False, True)


def test_the_next_container_of_a_pod_goes_on_at_once(cluster: ApiStandIn, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    planner(cluster, "planner-5d4f", clock).attempt()
    monkeypatch.setenv("POD_NAME", "planner-5d4f")
    again = Leadership(cluster.api(), "planner", clock=clock)
    again.attempt()
    assert again.held


def test_a_lost_api_server_costs_the_lease_in_time(cluster: ApiStandIn, clock: Clock) -> None:
    first = planner(cluster, "a", clock)
    first.attempt()
    cluster.fail(503, times=1000)
    clock.now_s += RENEW_LIMIT_S - 1
    first.attempt()
    assert first.held
    clock.now_s += 1
    first.attempt()
    assert not first.held
    assert "lease planner cannot be had: the Kubernetes API" in first.words
    first.release()  # never raises


def test_a_right_that_is_missing_is_told(cluster: ApiStandIn, clock: Clock) -> None:
    cluster.deny("create", "leases")
    one = planner(cluster, "a", clock)
    one.attempt()
    assert "may not create leases in namespace here" in one.words


def test_it_is_kept_in_the_background_until_it_is_released(cluster: ApiStandIn) -> None:
    one = Leadership(cluster.api(), "planner", identity="a")
    one.start()
    assert one.held
    before = spec(cluster)["renewTime"]
    assert cluster.wait(lambda: spec(cluster)["renewTime"] != before)
    one.release()
    assert spec(cluster)["holderIdentity"] == ""


def test_it_goes_with_the_config_map_that_is_installed(cluster: ApiStandIn, clock: Clock) -> None:
    found = cluster.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "status"}})
    Leadership(cluster.api(), "planner", identity="a", clock=clock, config_map="status").attempt()
    lease = cluster.get("leases", "planner")
    assert lease is not None
    assert [(owner["kind"], owner["uid"]) for owner in lease["metadata"]["ownerReferences"]] == [("ConfigMap", found["metadata"]["uid"])]


def test_it_can_be_had_where_that_is_not_there(cluster: ApiStandIn, clock: Clock) -> None:
    one = Leadership(cluster.api(), "planner", identity="a", clock=clock, config_map="status")
    one.attempt()
    assert one.held
