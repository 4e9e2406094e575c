"""What a follower of the sweep's log makes of it, however it was cut."""

import json

import pytest

from sla_planner.request.progress import read_progress
from sla_planner.request.seen import Progress


def line(**fields):
    return json.dumps({"time": "2026-01-31T12:00:00.123Z", "level": "INFO", "message": "progress of something", **fields})


TOLD = {"phase": "SweepingDecode", "mapping": "decode TP:2", "point": 7, "points": 20, "eta_s": 83.4}


def test_the_last_line_that_tells_it_holds():
    tail = "\n".join(
        [
            't": "progress"}',
            line(progress=TOLD | {"point": 6}),
            line(progress=TOLD),
            line(),
            "Traceback (most recent call last):",
            '{"progress": {"ph',
        ]
    )
    assert read_progress(tail) == Progress("SweepingDecode", "decode TP:2", 7, 20, 83.4)


@pytest.mark.parametrize(
    "tail",
    [
        "",
        "no progress here",
        line(),
        line(progress=None),
        line(progress="half"),
        line(progress={}),
        line(progress=TOLD | {"phase": "Dancing"}),
        "[1]",
    ],
)
def test_nothing_told_is_nothing(tail):
    assert read_progress(tail) is None


def test_what_is_missing_or_odd_is_not_known():
    assert read_progress(line(progress={"phase": "Done"})) == Progress("Done", "", 0, 0, None)
    odd = {"phase": "SweepingPrefill", "mapping": 5, "point": -1, "points": True, "eta_s": "soon", "later": 1}
    assert read_progress(line(progress=odd)) == Progress("SweepingPrefill", "", 0, 0, None)


def test_an_estimate_that_is_no_number_of_seconds_is_not_known():
    for eta_s in ("NaN", "-3", "Infinity", "true", "null"):
        assert read_progress('{"progress": {"phase": "Done", "eta_s": ' + eta_s + "}}").eta_s is None
