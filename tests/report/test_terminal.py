from __future__ import annotations

import io
import os
import pty
import re
from dataclasses import replace

import pytest

from sla_planner.model.sla import Sla
from sla_planner.plan.decision import Reason
from sla_planner.plan.observation import WorkerCounts
from sla_planner.report.terminal import LatencyNow, LiveState, LiveView, frame, plain_line, sparkline, table


@pytest.fixture
def state(tiny):
    return LiveState(
        title="demo",
        promise=Sla(500.0, 50.0, 0.99),
        start_s=tiny.start_s,
        elapsed_s=9.5,
        duration_s=20.0,
        load_rps=(0.0, 2.0, 8.0, 4.0),
        ttft=LatencyNow(625.0, 994, 1000),
        itl=LatencyNow(25.0, 1000, 1000),
        prefill=WorkerCounts(1),
        decode=WorkerCounts(2, starting=1),
        ticks=tiny.ticks,
        saving=0.412,
    )


FRAME = """\
demo
load        4.0 req/s   ▂█▄
TTFT     p99 625 ms   of 500 ms  ██████████████████┃████··  99.4 % inside
ITL      p99 25 ms    of 50 ms   █████████·········┃······  100 % inside
prefill  ■                         1 ready; asked for 1
decode   ■■□                       2 ready, 1 starting; asked for 3
GPU time 41 % fewer GPU-seconds than a fleet sized for the peak
now      load-down: the grace period is over
changes  00:08 prefill 2 -> 1 (load-down) the grace period is over
         00:04 decode 2 -> 3 (load-up) load 0.8 -> 1.6
         00:04 prefill 1 -> 2 (load-up) load 0.8 -> 1.6
time     ━━━━━━━━━━━━━━━━━━━━───────────────────────  00:09 of 00:20, 00:11 left"""


def test_frame_at_80_columns(state):
    assert frame(state, 80, 24, colour=False) == FRAME


def test_a_low_terminal_keeps_the_latencies_and_the_time(state):
    assert frame(state, 80, 5, colour=False).split("\n") == [*FRAME.split("\n")[:4], FRAME.split("\n")[-1]]


@pytest.mark.parametrize("width", [20, 40, 60, 79, 200])
@pytest.mark.parametrize("height", [1, 4, 10, 50])
def test_a_frame_never_leaves_its_terminal(state, width, height):
    crowded = replace(state, title="a very long title " * 9, prefill=WorkerCounts(300), decode=WorkerCounts(40, 9, 2))
    lines = frame(crowded, width, height, colour=False).split("\n")
    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def test_colour_only_adds_colour(state):
    painted = frame(state, 80, 24, colour=True)
    assert re.sub(r"\x1b\[\d+m", "", painted).replace(" \n", "\n") != painted
    assert [line.rstrip() for line in re.sub(r"\x1b\[\d+m", "", painted).split("\n")] == FRAME.split("\n")
    assert "\x1b[33mp99 625 ms" in painted  # beyond the promise
    assert "\x1b[33mp99 25 ms" not in painted


def test_before_the_first_request_and_decision(state):
    fresh = replace(state, elapsed_s=0.0, load_rps=(), ttft=LatencyNow(None, 0, 0), itl=LatencyNow(None, 0, 0), ticks=(), saving=None)
    assert frame(fresh, 80, 24, colour=False) == (
        "demo\n"
        "load        0.0 req/s\n"
        "TTFT     p99 none     of 500 ms  ··················┃······  no requests yet\n"
        "ITL      p99 none     of 50 ms   ··················┃······  no requests yet\n"
        "prefill  ■                         1 ready; asked for 1\n"
        "decode   ■■□                       2 ready, 1 starting; asked for 3\n"
        "time     ───────────────────────────────────────────  00:00 of 00:20, 00:20 left"
    )


def test_a_name_cannot_drive_the_terminal(state):
    assert "\x1b" not in frame(replace(state, title="x\x1b[2Jy"), 80, 24, colour=False)
    assert table([("a\x1b[2Jb\nc",)], ("name",)).split("\n")[2] == "a?[2Jb?c"


@pytest.mark.parametrize(
    ("values", "width", "text"),
    [((0, 1, 4, 8), 10, " ▁▄█"), ((9, 1, 2), 2, "▄█"), ((0.001, 8), 9, "▁█"), ((0, 0), 5, "  "), ((), 5, ""), ((1,), 0, "")],
)
def test_sparkline(values, width, text):
    assert sparkline(values, width) == text


def test_plain_line(state, tick):
    busy = replace(state, ticks=(tick(9.0, (1, 2), (2, 2), Reason.LOAD_UP, "load 0.8 → 1.6"),))
    assert plain_line(busy) == "00:09  load 4.0 req/s  TTFT p99 625 ms  ITL p99 25 ms  prefill 1 -> 2  load-up: load 0.8 ? 1.6"


def test_reasons_that_differ_are_told_per_role(state, tick):
    both = tick(9.0, (1, 2), (2, 2))
    split = replace(both, decision=replace(both.decision, decode=replace(both.decision.decode, reason=Reason.GRACE, explanation="30 s left")))
    assert plain_line(replace(state, ticks=(split,))).endswith("prefill 1 -> 2  prefill steady: the need equals what runs; decode grace: 30 s left")


def test_without_a_terminal_each_tick_prints_one_line(state):
    stream = io.StringIO()
    with LiveView(stream, {}) as view:
        view.show(replace(state, ticks=()))
        view.show(replace(state, ticks=state.ticks[:1]))
        view.show(replace(state, ticks=state.ticks[:1], elapsed_s=9.9))
        view.show(state)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert "No scaling needed (prefill=1, decode=2)" in lines[0]
    assert "prefill 2 -> 1" in lines[1]


def _show_twice_and_fail(view, state):
    with view:
        view.show(state)
        view.show(state)
        raise KeyboardInterrupt


def _on_a_terminal(state, environ, encoding="utf-8"):
    """What `LiveView` writes to a real pseudo-terminal while a state is shown twice and the run is then interrupted."""
    reader, writer = pty.openpty()
    with open(writer, "w", encoding=encoding) as stream:  # noqa: PTH123 (a descriptor, not a path)
        with pytest.raises(KeyboardInterrupt):
            _show_twice_and_fail(LiveView(stream, environ), state)
        stream.write("end")
        stream.flush()
        written = ""
        while not written.endswith("end"):
            written += os.read(reader, 65536).decode()
    os.close(reader)
    return written.removesuffix("end")


def test_a_terminal_is_repainted_in_place_and_gets_its_cursor_back(state):
    written = _on_a_terminal(state, {"TERM": "xterm"})
    assert written.startswith("\x1b[?25l")
    assert written.endswith("\x1b[?25h")
    assert written.count("\x1b[12F") == 1  # twelve lines, painted over once
    assert "\x1b[33m" in written


def test_no_color_takes_the_colour_and_leaves_the_picture(state):
    written = _on_a_terminal(state, {"TERM": "xterm", "NO_COLOR": "1"})
    assert not re.search(r"\x1b\[\d+m", written)
    assert "━" in written


@pytest.mark.parametrize(("environ", "encoding"), [({"TERM": "dumb"}, "utf-8"), ({"TERM": "xterm"}, "ascii")])
def test_a_terminal_that_cannot_paint_gets_plain_lines(state, environ, encoding):
    assert "\x1b" not in _on_a_terminal(state, environ, encoding)


def test_table_sets_numbers_right_and_words_left():
    assert table([("mean", "1,204", "3.5 %"), ("risk", "7", "")], ("policy", "requests", "saved")) == (
        "policy  requests  saved\n"
        "------  --------  -----\n"
        "mean       1,204  3.5 %\n"
        "risk           7"
    )  # fmt: skip
    assert table([], ("a", "b")) == "a  b\n-  -"


def test_quiet_ticks_share_a_line_and_changes_have_their_own(state, tick):
    stream = io.StringIO()
    quiet = [tick(at_s / 2, (1, 1), (2, 2)) for at_s in range(8)]  # two a second
    with LiveView(stream) as view:
        for one in (*quiet, tick(4.5, (1, 2), (2, 2)), tick(5.0, (2, 2), (2, 2))):
            view.show(replace(state, ticks=(one,)))
    told = ["prefill 1 -> 2" in line for line in stream.getvalue().splitlines()]
    assert told == [False, False, True]
