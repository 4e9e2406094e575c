"""The run as it happens, in a terminal, and tables for when it is over. Plain ANSI; `frame` and `table` are pure.

On a terminal the picture is repainted in place. Elsewhere (a pipe, a CI log, TERM=dumb, an encoding without block characters) every tick
prints one plain line. NO_COLOR (no-color.org) takes the colour, not the picture.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TextIO

from sla_planner.model.sla import Sla
from sla_planner.plan.decision import Role
from sla_planner.plan.observation import WorkerCounts
from sla_planner.plan.record import Carried, Tick
from sla_planner.report.run import changes, of_role
from sla_planner.report.wording import clock, compared, milliseconds, outcome, share_inside

BLOCKS = " ▁▂▃▄▅▆▇█"
QUIET_S = 2.0
LABEL = 9  # columns of the row labels
BAR = 24  # columns of a latency bar and of the workers' boxes, where the terminal is wide enough
BESIDE_BAR = 50  # columns that the text around a bar takes
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
CLEAR_LINE, CLEAR_BELOW = "\x1b[K", "\x1b[J"
STYLES = {"bold": "1", "dim": "2", "good": "32", "bad": "33", "prefill": "34", "decode": "36"}
NUMBER = re.compile(r"[+-]?[\d,]*\.?\d+( ?%)?")


@dataclass(frozen=True, slots=True)
class LatencyNow:
    """One latency: its p99 over the last moments (None = nothing to measure) and the requests so far, inside its target and in all."""

    p99_ms: float | None
    inside: int
    count: int


@dataclass(frozen=True, slots=True)
class LiveState:
    """What the live view shows at one moment. `load_rps`: one number per equal stretch of time, oldest first. `saving` as in RunReport, so far."""

    title: str
    promise: Sla
    start_s: float
    elapsed_s: float
    duration_s: float
    load_rps: tuple[float, ...]
    ttft: LatencyNow
    itl: LatencyNow
    prefill: WorkerCounts
    decode: WorkerCounts
    ticks: tuple[Tick, ...] = ()
    saving: float | None = None


def table(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    """Columns aligned with two spaces between; a column of numbers stands right. No trailing blanks, no line end after the last row."""
    cells = [[printable(cell) for cell in row] for row in (headers, *rows)]
    columns = list(zip(*cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [len(column) > 1 and all(NUMBER.fullmatch(cell) or not cell for cell in column[1:]) for column in columns]
    lines = [[cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True)] for row in cells]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(line).rstrip() for line in lines)


def sparkline(values: Sequence[float], width: int) -> str:
    """The last `width` values as blocks, the highest of them as a full one; zero is blank, anything above zero is seen."""
    shown = values[-width:] if width > 0 else ()
    top = max(shown, default=0.0)
    return "".join(" " if value <= 0 else BLOCKS[max(1, round(value / top * 8))] for value in shown)


def frame(state: LiveState, width: int, height: int, colour: bool) -> str:
    """At most `height` lines of at most `width` columns. What matters most stands first; the latest changes fill what height is left."""
    paint = _Paint(width, colour)
    lines = [
        _heading(state, paint),
        _load(state, paint),
        _latency("TTFT", state.ttft, state.promise.ttft_ms, paint),
        _latency("ITL", state.itl, state.promise.itl_ms, paint),
        _workers(Role.PREFILL, state.prefill, state.ticks, paint),
        _workers(Role.DECODE, state.decode, state.ticks, paint),
    ]
    if state.saving is not None:
        lines.append(paint.row(("GPU time", ""), (compared(state.saving, "GPU-seconds"), "")))
    if state.ticks:
        lines.append(_why(state, paint))
    made = list(changes(state.ticks, state.start_s))
    room = max(0, height - len(lines) - 1)
    for index, change in enumerate(reversed(made[-room:] if room else [])):
        words = f"{clock(change.at_s)} {change.role} {change.before} -> {change.after} ({change.reason}) {change.explanation}"
        lines.append(paint.row(("changes" if index == 0 else "", ""), (words, "dim" if index else "")))
    lines.append(_progress(state, paint))
    return "\n".join(lines if len(lines) <= height else [*lines[: height - 1], lines[-1]])


def plain_line(state: LiveState) -> str:
    """The moment in one line of ASCII, for logs; with the reasons where something changed."""
    parts = [
        clock(state.elapsed_s),
        f"load {state.load_rps[-1] if state.load_rps else 0.0:.1f} req/s",
        *(f"{name} p99 {_p99(now)}" for name, now in (("TTFT", state.ttft), ("ITL", state.itl))),
    ]
    if state.ticks:
        last = state.ticks[-1]
        parts.append(outcome(last))
        parts += [_reasons(last)] if last.decision.act else []
    return printable("  ".join(parts)).encode("ascii", "replace").decode("ascii")


class LiveView:
    """Shows states on `stream` as they come. A context manager: however the run ends, the cursor is back and the last picture stays.

    A signal counts as an end only where it is raised as an exception, as SIGINT is.
    """

    def __init__(self, stream: TextIO, environ: Mapping[str, str] = os.environ) -> None:
        self._stream = stream
        can_paint = (stream.encoding or "").lower().replace("-", "") == "utf8" and environ.get("TERM") != "dumb"
        self._repaints = stream.isatty() and can_paint
        self._colour = not environ.get("NO_COLOR")
        self._painted_lines = 0
        self._told_at_s: float | None = None

    def __enter__(self) -> LiveView:
        if self._repaints:
            self._stream.write(HIDE_CURSOR)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._repaints:
            self._stream.write(SHOW_CURSOR)
            self._stream.flush()

    def show(self, state: LiveState) -> None:
        """Repaints; without a terminal prints a line for every tick that changed something, and every `QUIET_S` in between."""
        if self._repaints:
            size = os.get_terminal_size(self._stream.fileno())  # 0 where the terminal does not know
            self._repaint(frame(state, (size.columns or 80) - 1, (size.lines or 24) - 1, self._colour))
        elif state.ticks and self._worth_a_line(state.ticks[-1]):
            self._told_at_s = state.ticks[-1].decision.at_s
            self._stream.write(plain_line(state) + "\n")
        self._stream.flush()

    def _worth_a_line(self, tick: Tick) -> bool:
        if self._told_at_s is None:
            return True
        since_s = tick.decision.at_s - self._told_at_s
        return since_s >= QUIET_S or (since_s > 0 and tick.decision.act and tick.carried is Carried.APPLIED)

    def _repaint(self, picture: str) -> None:
        lines = picture.split("\n")
        back = f"\x1b[{self._painted_lines}F" if self._painted_lines else ""
        self._stream.write(back + "".join(f"{line}{CLEAR_LINE}\n" for line in lines) + CLEAR_BELOW)
        self._painted_lines = len(lines)


@dataclass(frozen=True, slots=True)
class _Paint:
    width: int
    colour: bool

    @property
    def bar(self) -> int:
        return max(0, min(BAR, self.width - BESIDE_BAR))

    def row(self, *spans: tuple[str, str]) -> str:
        """Spans of (text, style) joined and cut to the width; the first is the label and padded to its column."""
        left = self.width
        painted = []
        for index, (text, style) in enumerate(spans):
            clean = printable(text)
            shown = clean.ljust(LABEL) if index == 0 else clean
            if len(shown) > left:
                shown = shown[: max(0, left - 1)] + "…" if left else ""
            left -= len(shown)
            painted.append(f"\x1b[{STYLES[style]}m{shown}\x1b[0m" if self.colour and style and shown else shown)
        return "".join(painted).rstrip()


def _heading(state: LiveState, paint: _Paint) -> str:
    return paint.row((state.title, "bold"))


def _load(state: LiveState, paint: _Paint) -> str:
    now = f"{state.load_rps[-1] if state.load_rps else 0.0:6.1f} req/s  "
    return paint.row(("load", ""), (now, ""), (sparkline(state.load_rps, paint.width - LABEL - len(now)), "dim"))


def _latency(name: str, now: LatencyNow, promised_ms: float, paint: _Paint) -> str:
    kept = now.p99_ms is None or now.p99_ms <= promised_ms
    verdict = share_inside(now.inside, now.count) + " inside" if now.count else "no requests yet"
    return paint.row(
        (name, ""),
        (f"{'p99 ' + _p99(now):<13}", "" if kept else "bad"),
        (f"of {promised_ms:g} ms".ljust(11), ""),
        (_bar(now.p99_ms, promised_ms, paint.bar), "good" if kept else "bad"),
        (verdict, ""),
    )


def _p99(now: LatencyNow) -> str:
    return "none" if now.p99_ms is None else milliseconds(now.p99_ms)


def _bar(value_ms: float | None, promised_ms: float, columns: int) -> str:
    """Filled up to the value; the promise is the upright at three quarters, so that a value beyond it is seen too."""
    mark = columns * 3 // 4
    if mark == 0:
        return ""
    filled = 0 if value_ms is None else int(min(value_ms / promised_ms * mark, columns))
    cells = ["█" if cell < filled else "·" for cell in range(columns)]
    return "".join([*cells[:mark], "┃", *cells[mark:], "  "])


def _workers(role: Role, workers: WorkerCounts, ticks: Sequence[Tick], paint: _Paint) -> str:
    asked = of_role(ticks[-1].decision, role).desired if ticks else workers.total
    told = [f"{workers.ready} ready"]
    if workers.starting:
        told.append(f"{workers.starting} starting")
    if workers.unschedulable:
        told.append(f"{workers.unschedulable} unschedulable")
    boxes = "■" * workers.ready + "□" * workers.starting + "×" * workers.unschedulable
    shown = boxes if len(boxes) <= paint.bar else boxes[: max(0, paint.bar - 1)] + "…"
    return paint.row((role.value, ""), (f"{shown:<{paint.bar}}  ", role.value), (f"{', '.join(told)}; asked for {asked}", ""))


def _why(state: LiveState, paint: _Paint) -> str:
    return paint.row(("now", ""), (_reasons(state.ticks[-1]), ""))


def _reasons(tick: Tick) -> str:
    """Both roles' reasons; said once where they are the same."""
    prefill, decode = tick.decision.prefill, tick.decision.decode
    if (prefill.reason, prefill.explanation) == (decode.reason, decode.explanation):
        return f"{prefill.reason}: {prefill.explanation}"
    return f"prefill {prefill.reason}: {prefill.explanation}; decode {decode.reason}: {decode.explanation}"


def _progress(state: LiveState, paint: _Paint) -> str:
    left_s = max(0.0, state.duration_s - int(state.elapsed_s))  # whole seconds on both sides, so that what is shown adds up
    told = f"  {clock(state.elapsed_s)} of {clock(state.duration_s)}, {clock(left_s)} left"
    room = max(0, paint.width - LABEL - len(told))
    share = min(1.0, state.elapsed_s / state.duration_s) if state.duration_s > 0 else 1.0
    filled = int(room * share)
    return paint.row(("time", ""), ("━" * filled, "bold"), ("─" * (room - filled), "dim"), (told, ""))


def printable(text: str) -> str:
    """Control characters, which could move the cursor or recolour the terminal, are shown as `?`."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)
