from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sla_planner.report import wording
from sla_planner.report.run import Requests, RoleUse, Row


@pytest.mark.parametrize(
    ("inside", "count", "text"), [(994, 1000, "99.4 %"), (9996, 10000, "99.9 %"), (5, 5, "100 %"), (0, 3, "0.0 %"), (2, 3, "66.6 %")]
)
def test_a_share_is_never_rounded_up(inside, count, text):
    assert wording.share_inside(inside, count) == text


@pytest.mark.parametrize(
    ("saving", "text"),
    [
        (0.41, "41 % fewer GPU-hours than a fleet sized for the peak"),
        (0.419, "41 % fewer GPU-hours than a fleet sized for the peak"),
        (-0.021, "3 % more GPU-hours than a fleet sized for the peak"),
        (0.004, "as many GPU-hours as a fleet sized for the peak"),
    ],
)
def test_a_saving_is_never_flattered(saving, text):
    assert wording.compared(saving, "GPU-hours") == text


@pytest.mark.parametrize(("value", "text"), [(4.83, "4.8 ms"), (480.4, "480 ms"), (12_345.0, "12,345 ms"), (float("inf"), "never")])
def test_milliseconds(value, text):
    assert wording.milliseconds(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(45, "00:45"), (725.9, "12:05"), (86_399, "23:59:59"), (3600, "1:00:00")])
def test_clock(seconds, text):
    assert wording.clock(seconds) == text


def test_gpu_time_turns_to_hours_when_the_largest_beside_it_is_long():
    assert wording.gpu_time(1210, 30_000) == "1,210 GPU-seconds"
    assert wording.gpu_time(1800, 36_000) == "0.5 GPU-hours"


def test_headline(tiny):
    expected = "50.0 % of 4 requests inside TTFT 500 ms and ITL 50 ms; 34 % fewer GPU-seconds than a fleet sized for the peak"
    assert wording.headline(tiny) == expected


def test_headline_of_a_run_without_requests_or_fleet(tiny):
    none = np.empty(0)
    empty = replace(tiny, requests=Requests(none, none.astype(int), none, none, none.astype(bool)))
    assert wording.headline(empty) == "No requests arrived; 34 % fewer GPU-seconds than a fleet sized for the peak"
    assert wording.headline(replace(empty, prefill=RoleUse(0, 0), decode=RoleUse(0, 0))) == "No requests arrived"
    assert wording.summary(empty)[0] == Row("Requests", "0")


def test_summary(tiny):
    assert wording.summary(replace(tiny, rows=(Row("Cost", "1"),))) == (
        Row("Requests inside the promise", "50.0 %", "2 of 4; promised 50 %: kept"),
        Row("TTFT, p50 / p99", "480 ms / never", "promised 500 ms"),  # one of four was never answered
        Row("ITL, p50 / p99", "30 ms / 40 ms", "promised 50 ms"),
        Row("GPU time, prefill", "14 GPU-seconds", "sized for the peak: 20 GPU-seconds (2 workers x 1 GPU)"),
        Row("GPU time, decode", "52 GPU-seconds", "sized for the peak: 80 GPU-seconds (4 workers x 2 GPU)"),
        Row("GPU time, both", "66 GPU-seconds", "34 % fewer GPU-seconds than a fleet sized for the peak"),
        Row("Scaling, prefill", "1 up, 1 down", "in 3 decisions"),
        Row("Scaling, decode", "1 up, 0 down", "in 3 decisions"),
        Row("Cost", "1"),
    )


def test_outcome(tick):
    assert wording.outcome(tick(0.0, (1, 1), (2, 2))) == "No scaling needed (prefill=1, decode=2)"
    assert wording.outcome(tick(0.0, (1, 3), (2, 2))) == "prefill 1 -> 3"
    assert wording.outcome(tick(0.0, (1, 3), (2, 1))) == "prefill 1 -> 3, decode 2 -> 1"
