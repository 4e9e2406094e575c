"""What is told while policies run, against a clock that the test sets."""

from __future__ import annotations

import io

from sla_planner.report.simulation_progress import LOG_S, ComparisonProgress


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_lines_for_a_log_come_now_and_then_and_estimate_what_can_be_estimated() -> None:
    clock, stream = Clock(), io.StringIO()
    with ComparisonProgress(2, {"static"}, stream, {}, clock) as progress:
        progress.begin("slaplanner")
        progress("slaplanner", 0.1)  # too soon after the last line
        clock.now_s = 120.0
        progress("slaplanner", 0.25)
        clock.now_s += LOG_S / 2
        progress("slaplanner", 0.3)
        progress.begin("hpa")
        clock.now_s += 75.0
        progress("static", 0.5)
    assert stream.getvalue().splitlines() == [
        "slaplanner (1 of 2): begins",
        "slaplanner (1 of 2): 25 %, about 6 min left",
        "hpa (2 of 2): begins",
        "hpa (2 of 2): searching the settings of static, 01:15 so far",
    ]
