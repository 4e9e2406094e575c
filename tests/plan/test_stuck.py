from __future__ import annotations

from sla_planner.plan.decision import Role
from sla_planner.plan.observation import WorkerCounts
from sla_planner.plan.stuck import Starting, stuck_verdict, without

STARTUP_S = 30.0  # patience 90 s


def looked(*starting: int, step_s: float = 15.0) -> tuple[Starting, float]:
    seen = Starting()
    for look, count in enumerate(starting):
        seen = seen.after(WorkerCounts(2, count), look * step_s, STARTUP_S)
    return seen, (len(starting) - 1) * step_s


def stuck(*starting: int) -> int:
    seen, at_s = looked(*starting)
    return seen.stuck(at_s, STARTUP_S)


def test_a_worker_that_starts_for_three_start_ups_is_stuck():
    assert stuck(1, 1, 1, 1, 1, 1) == 0  # 75 s
    assert stuck(1, 1, 1, 1, 1, 1, 1) == 1  # 90 s


def test_others_that_start_meanwhile_are_not():
    assert stuck(1, 3, 3, 1, 1, 2, 2) == 1
    assert stuck(2, 2, 2, 2, 2, 2, 5) == 2


def test_a_pause_shows_that_all_came_up():
    assert stuck(1, 1, 1, 0, 1, 1, 1, 1) == 0


def test_what_was_before_is_forgotten():
    assert stuck(*[5] * 10, *[1] * 7) == 1
    assert len(looked(*[1] * 1000)[0].looks) == 7


def test_a_clock_set_back_blames_nobody():
    seen, _ = looked(*[1] * 7)
    assert seen.after(WorkerCounts(2, 1), 10.0, STARTUP_S).stuck(10.0, STARTUP_S) == 0


def test_it_is_said_and_not_counted_on():
    assert without(WorkerCounts(2, 3, 1), 2) == WorkerCounts(2, 1, 1)
    assert stuck_verdict(Role.DECODE, 2, 120.0) == "2 decode workers have not become ready within 360 s: not counted on, see the events of the pods"
    assert stuck_verdict(Role.PREFILL, 0, 120.0) == ""
