"""Workers that have no place: waited for, given back, tried again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sla_planner.model.engine import engine_of
from sla_planner.model.sla import Sla
from sla_planner.plan.decision import Reason
from sla_planner.plan.observation import Observation, WorkerCounts
from sla_planner.plan.planner import decide
from sla_planner.plan.room import LONGEST_S, Room, Sight, room_seen, within_room
from sla_planner.plan.settings import PlanSettings, RoleLimits, Sizing
from sla_planner.plan.state import new_state, state_from_json, state_to_json
from sla_planner.store.profile_files import read_profile, sample_profile_dir

LIMIT_S = 300.0
FOUR = WorkerCounts(4)
NOTHING = Room()


def looks(*sights: tuple[float, WorkerCounts], other: WorkerCounts = FOUR, room: Room = NOTHING, gpus: int = 1, other_gpus: int = 1) -> Room:
    for at_s, counts in sights:
        room = room_seen(room, Sight(counts, other, gpus, other_gpus, at_s), LIMIT_S)
    return room


def test_a_worker_is_waited_for_until_the_limit() -> None:
    room = looks((1000.0, WorkerCounts(2, 0, 1)), (1299.0, WorkerCounts(2, 0, 1)))
    assert room.waiting_since_s == 1000.0
    assert not room.closed(1299.0)
    given_back = looks((1300.0, WorkerCounts(2, 0, 1)), room=room)
    assert given_back.closed(1300.0)
    assert (given_back.most, given_back.attempts) == (2, 1)


def test_one_that_is_placed_in_time_is_forgotten() -> None:
    assert looks((1000.0, WorkerCounts(2, 0, 1)), (1290.0, WorkerCounts(2, 1))) == Room()


def test_each_attempt_in_vain_waits_twice_as_long_up_to_an_hour() -> None:
    room, at_s, pauses = Room(), 0.0, []
    for _ in range(6):
        room = looks((at_s, WorkerCounts(2, 0, 1)), (at_s + LIMIT_S, WorkerCounts(2, 0, 1)), room=room)
        room = looks((at_s + LIMIT_S + 15, WorkerCounts(2)), room=room)  # it was given back
        pauses.append(room.until_s - (at_s + LIMIT_S))
        at_s = room.until_s
        assert not room.closed(at_s)
    assert pauses == [300.0, 600.0, 1200.0, 2400.0, LONGEST_S, LONGEST_S]


def test_an_attempt_that_succeeds_forgets_all() -> None:
    room = looks((0.0, WorkerCounts(2, 0, 1)), (300.0, WorkerCounts(2, 0, 1)), (600.0, WorkerCounts(2)), (615.0, WorkerCounts(2, 1)))
    assert room == Room()


def test_room_that_the_other_role_leaves_is_used_at_once() -> None:
    room = looks((0.0, WorkerCounts(2, 0, 1)), (300.0, WorkerCounts(2, 0, 1)), other=WorkerCounts(4), gpus=2)
    assert looks((315.0, WorkerCounts(2)), room=room, other=WorkerCounts(3), gpus=2).closed(315.0), "one GPU is not enough"
    assert not looks((315.0, WorkerCounts(2)), room=room, other=WorkerCounts(2), gpus=2).closed(315.0)


def test_a_write_that_failed_is_no_second_attempt() -> None:
    room = looks(*((at_s, WorkerCounts(2, 0, 1)) for at_s in (0.0, 300.0, 315.0, 330.0)))
    assert room.attempts == 1


def test_a_clock_that_was_set_back_closes_nothing_for_long() -> None:
    room = looks((1e6, WorkerCounts(2, 0, 1)), (1e6 + 300, WorkerCounts(2, 0, 1)))
    assert not room.closed(1e6 - 7200)
    assert looks((5.0, WorkerCounts(2, 0, 1)), room=room).waiting_since_s == 5.0


@pytest.mark.parametrize(("most", "least", "limit", "expected"), [(2, 1, None, 2), (0, 1, None, 1), (2, 3, None, 3), (4, 1, 3, 3), (2, 1, 3, 2)])
def test_never_below_the_minimum_and_never_above_the_maximum(most: int, least: int, limit: int | None, expected: int) -> None:
    room = Room(most=most, until_s=100.0)
    assert within_room(RoleLimits(least, limit), room, 50.0).max_workers == expected
    assert within_room(RoleLimits(least, limit), room, 100.0).max_workers == limit


class Cluster:
    """A fleet that obeys at once, as far as it has room: `room` GPUs for both roles, one GPU a worker, prefill first."""

    def __init__(self, window, room: int, **changes) -> None:  # type: ignore[no-untyped-def]
        self.engine = engine_of(read_profile(sample_profile_dir()))
        self.settings = replace(PlanSettings(sla=Sla(500, 10), sizing=Sizing.MEAN, interval_s=60, startup_s=60), **changes)
        self.window, self.room = window, room
        self.state = new_state(self.settings)
        self.asked, self.at_s = (1, 1), 0.0

    def counts(self) -> tuple[WorkerCounts, WorkerCounts]:
        prefill = min(self.asked[0], self.room)
        decode = min(self.asked[1], self.room - prefill)
        return WorkerCounts(prefill, 0, self.asked[0] - prefill), WorkerCounts(decode, 0, self.asked[1] - decode)

    def tick(self, rate_rps: float):  # type: ignore[no-untyped-def]
        self.at_s += self.settings.interval_s
        traffic = self.window(
            self.at_s, self.settings.interval_s, request_rate_rps=rate_rps, isl_tokens=3000, osl_tokens=300, completed_requests=rate_rps * 60
        )
        decision, self.state = decide(self.settings, self.engine, self.state, Observation(traffic, *self.counts()))
        self.state = state_from_json(state_to_json(self.state, self.settings, self.engine), self.settings, self.engine)[0]  # as from run to run
        self.asked = (decision.prefill.desired, decision.decode.desired)
        return decision


def test_what_has_no_place_is_given_back_and_asked_for_again_later(window) -> None:  # type: ignore[no-untyped-def]
    cluster = Cluster(window, room=5)
    asked = []
    for _ in range(20):
        decision = cluster.tick(45)  # which needs 3 and 4
        asked.append(cluster.asked)
    assert asked[0] == (3, 4)
    assert asked[5] == (3, 4), "five minutes are waited for"
    assert asked[6] == (3, 2)
    again = asked.index((3, 4), 6)
    assert asked[6:again] == [(3, 2)] * (again - 6)
    assert again - 6 == 5, "five minutes more"
    assert decision.decode.reason is Reason.NO_ROOM
    assert decision.prefill.reason is not Reason.NO_ROOM


def test_every_interval_says_what_a_person_must_hear(window) -> None:  # type: ignore[no-untyped-def]
    cluster = Cluster(window, room=5)
    said = [cluster.tick(45).verdicts for _ in range(9)]
    assert said[0] == ()
    assert said[1] == ("2 decode workers cannot be placed for 0 s now; given back after 300 s",)
    assert said[5] == ("2 decode workers cannot be placed for 240 s now; given back after 300 s",)
    assert said[6] == ("2 decode workers cannot be placed for 300 s now; given back",)
    assert said[7] == ("the cluster has had room for 2 decode workers; more are asked for in 240 s",)


def test_scaling_down_goes_on_and_so_does_the_other_role(window) -> None:  # type: ignore[no-untyped-def]
    cluster = Cluster(window, room=5)
    for _ in range(3):
        cluster.tick(45)
    assert cluster.counts()[1].unschedulable == 2
    decision = cluster.tick(1)
    assert (decision.prefill.desired, decision.decode.desired) == (1, 1)
    for _ in range(10):
        decision = cluster.tick(20)
    assert (decision.prefill.desired, decision.decode.desired) == (2, 2)


def test_the_configured_minimum_stays_and_is_said(window) -> None:  # type: ignore[no-untyped-def]
    cluster = Cluster(window, room=4, decode=RoleLimits(min_workers=3))
    for _ in range(8):
        decision = cluster.tick(45)
    assert decision.decode.desired == 3
    assert decision.verdicts == ("2 decode workers cannot be placed for 360 s now; kept, as the configured minimum",)


def test_room_is_also_watched_while_traffic_is_unknown(window) -> None:  # type: ignore[no-untyped-def]
    cluster = Cluster(window, room=5)
    for _ in range(2):
        cluster.tick(45)
    cluster.window = lambda at_s, interval_s, **_: window(at_s, interval_s)
    for _ in range(4):
        assert not cluster.tick(45).act
    cluster.window = window
    assert cluster.tick(45).decode.desired == 2


@given(
    looked=st.lists(st.tuples(st.floats(0, 1e5), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)), max_size=30),
    least=st.integers(0, 4),
)
def test_whatever_is_seen_the_limits_hold_together(looked: list[tuple[float, int, int, int]], least: int) -> None:
    room = Room()
    for at_s, ready, starting, homeless in looked:
        room = looks((at_s, WorkerCounts(ready, starting, homeless)), room=room)
        limits = within_room(RoleLimits(least, None), room, at_s)
        assert limits.max_workers is None or limits.max_workers >= limits.min_workers == least
        assert room.until_s <= at_s + LONGEST_S or not room.closed(at_s)
