from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import struct
import termios
from dataclasses import replace

import pytest

from sla_planner.model.profile import ParallelMapping
from sla_planner.report.sweep_progress import SweepProgress, bar_line, plain_line, point_line, progress_fields, time_left
from sla_planner.request import seen
from sla_planner.request.progress import read_progress
from sla_planner.sweep.points import DecodeSeen, DecodeShape, Point, PrefillSeen, PrefillShape
from sla_planner.sweep.result import Progress

TP2 = ParallelMapping(tp=2)
# 48 streams at a mean gap of 12.3 ms: 7,806 tokens in the second, on two GPUs
DECODE = Point(TP2, DecodeShape(3000, 48), decode=DecodeSeen(48, 3075.0, (12.2, 12.4), 7806.0, 1.0))
NOW = Progress("TP2: decode ISL 3000 batch 48", 14, 40, 95.0, 170.0, DECODE)
ESCAPE = re.compile(r"\x1b\[[?\d;]*[a-zA-Z]")


def shown(environ, *seen, columns=100):
    """What a terminal of so many columns is sent."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    try:
        with os.fdopen(follower, "w", encoding="utf-8") as stream, SweepProgress(stream, environ) as view:
            for progress in seen:
                view(progress)
        # Closed: all that was written is there to read.
        sent = b""
        while chunk := _read(leader):
            sent += chunk
    finally:
        os.close(leader)
    return sent.decode().replace("\r\n", "\n")


def _read(descriptor):
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the other end is closed
        return b""


def test_a_point_is_one_plain_line():
    assert plain_line(NOW) == "TP2 decode ISL 3000 batch 48: ITL 12.3 ms, 3,903 tokens/s/GPU (14 of 40, about 3 min left)"


@pytest.mark.parametrize(
    ("doing", "point", "phase", "mapping"),
    [
        ("TP2: starting", None, "SweepingPrefill", "TP:2"),
        ("DEP16 decode: starting", None, "SweepingDecode", "decode DEP:16"),
        ("TP2-PP2: starting it again: TP9: no answer", None, "SweepingPrefill", "TP:2-PP:2"),
        ("TP2: prefill ISL 3000 x4", None, "SweepingPrefill", "prefill TP:2"),
        ("TP2: decode ISL 3000 batch 48", None, "SweepingDecode", "decode TP:2"),
        ("TP2: decode ISL 3000 batch 48", DECODE, "SweepingDecode", "decode TP:2"),
        ("verifying TP1 + TP2: 40 requests at 1.3 a second", None, "BuildingCurves", "TP:1 + TP:2"),
        ("verifying TP2: starting", None, "BuildingCurves", "TP:2"),
        ("somebody wrote this sentence: without a mapping", None, "Initializing", ""),
    ],
)
def test_the_same_as_data(doing, point, phase, mapping):
    told = progress_fields(replace(NOW, doing=doing, point=point))
    assert told == {"phase": phase, "mapping": mapping, "point": 15, "points": 40, "eta_s": 170.0}
    assert read_progress(json.dumps({"message": doing, "progress": told})) == seen.Progress(phase, mapping, 15, 40, 170.0)


def test_as_data_the_last_point_is_not_followed_by_another():
    told = progress_fields(replace(NOW, done=40, remaining_s=None))
    assert (told["point"], told["points"], told["eta_s"]) == (40, 40, None)


def test_a_prompt_alone_and_prompts_at_once():
    alone = Point(TP2, PrefillShape(3000), prefill=PrefillSeen(3000.0, (40.0, 50.0, 60.0), 9.0))
    assert point_line(alone) == "TP2 prefill ISL 3000: TTFT 50.0 ms, 30,000 tokens/s/GPU"  # 3000 tokens in 50 ms on 2 GPUs
    together = Point(TP2, PrefillShape(3000, 4), prefill=PrefillSeen(3000.0, (100.0, 100.0, 100.0, 100.0), 0.2))
    assert point_line(together) == "TP2 prefill ISL 3000 x4: TTFT 100 ms, 30,000 tokens/s/GPU"  # 12,000 tokens in 0.2 s on 2 GPUs
    ranks = replace(alone, mapping=ParallelMapping(dp=2, ep=2))
    assert point_line(ranks) == "DEP2 prefill ISL 3000: TTFT 50.0 ms, 60,000 tokens/s/GPU"  # a prompt on each of two ranks


def test_found_again_doubted_and_failed_are_said():
    assert point_line(DECODE, reused=True) == "TP2 decode ISL 3000 batch 48: found again, ITL 12.3 ms, 3,903 tokens/s/GPU"
    doubted = replace(DECODE, defects=("the client was late by 8 ms", "2 streams ended early"))
    assert point_line(doubted).endswith("tokens/s/GPU, not trusted: the client was late by 8 ms; 2 streams ended early")
    failed = Point(TP2, DecodeShape(3000, 48), defects=("HTTP 500",))
    assert point_line(failed) == "TP2 decode ISL 3000 batch 48: failed: HTTP 500"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0.0, "less than a minute left"),
        (59.0, "less than a minute left"),
        (60.0, "about 1 min left"),
        (170.0, "about 3 min left"),
        (3599.0, "about 1 h left"),
        (4800.0, "about 1 h 20 min left"),
    ],
)
def test_time_left(seconds, text):
    assert time_left(seconds) == text


def test_a_pipe_gets_points_starts_and_failures_but_no_announcements():
    stream = io.StringIO()
    with SweepProgress(stream, {}) as view:
        view(Progress("TP2: starting", 0, 40, 0.0, None))
        view(Progress("TP2: decode ISL 3000 batch 48", 13, 40, 90.0, 175.0))
        view(NOW)
        view(Progress("TP4: left out: CUDA out of memory – \x1b[31mred", 40, 40, 200.0, None))
    assert stream.getvalue().splitlines() == [
        "TP2: starting",
        "TP2 decode ISL 3000 batch 48: ITL 12.3 ms, 3,903 tokens/s/GPU (14 of 40, about 3 min left)",
        "TP4: left out: CUDA out of memory ? ?[31mred",
    ]


def test_a_finished_sweep_has_no_time_left():
    assert plain_line(replace(NOW, done=40, remaining_s=0.0)).endswith("(40 of 40)")


@pytest.mark.parametrize("colour", [True, False])
def test_the_bar_never_breaks_the_line(colour):
    for width in range(12, 140):
        line = bar_line(NOW, width, colour)
        assert len(ESCAPE.sub("", line)) <= width
        assert "14 of 40" in line
        assert ("\x1b" in line) <= colour


def test_the_bar_is_filled_by_what_is_done():
    wide = bar_line(replace(NOW, done=10), 140, False)
    assert (wide.count("━"), wide.count("─")) == (7, 23)
    assert wide == f"TP2: decode ISL 3000 batch 48  {'━' * 7}{'─' * 23}  10 of 40, about 3 min left, 01:35"
    assert "━" not in bar_line(replace(NOW, done=0, expected=0), 140, False)


def test_a_terminal_keeps_a_line_per_point_above_one_repainted_bar():
    sent = shown({}, replace(NOW, done=13, point=None), NOW, Progress("TP4: left out: no GPU", 14, 20, 96.0, 10.0))
    assert sent.startswith("\x1b[?25l")
    assert sent.endswith("\n\x1b[?25h")
    lines = sent.split("\n")
    assert len(lines) == 4  # a point, what was left out, the bar, and the end of the line
    assert "TP2 decode ISL 3000 batch 48: ITL 12.3 ms, 3,903 tokens/s/GPU" in lines[0]
    assert "TP4: left out: no GPU" in lines[1]
    assert "14 of 20, less than a minute left, 01:36" in lines[2]


def test_no_color_takes_the_colour_not_the_bar():
    sent = shown({"NO_COLOR": "1"}, replace(NOW, reused=True))
    assert "━" in sent
    assert not re.search(r"\x1b\[\d*m", sent)
    assert re.search(r"\x1b\[\d+m", shown({}, replace(NOW, reused=True)))


def test_a_dumb_terminal_gets_plain_lines():
    assert shown({"TERM": "dumb"}, NOW) == plain_line(NOW) + "\n"


def received(leader):
    """All that was written to the other end, which is closed."""
    parts = []
    with contextlib.suppress(OSError):  # Linux: EIO after the last byte
        while part := os.read(leader, 65536):
            parts.append(part)
    return b"".join(parts)


def _fails_in(view):
    with contextlib.suppress(RuntimeError), view:
        view(NOW)
        raise RuntimeError


def test_the_cursor_is_back_after_an_error():
    leader, follower = pty.openpty()
    try:
        with os.fdopen(follower, "w", encoding="utf-8") as stream:
            _fails_in(SweepProgress(stream, {}))
        assert received(leader).endswith(b"\x1b[?25h")
    finally:
        os.close(leader)
