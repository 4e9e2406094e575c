"""How far a sweep is, while it runs.

On a terminal every point that was measured leaves a line, and below them one line is repainted: what is being done, how much is done, how long it
may still take. Elsewhere (a pipe, a CI log, TERM=dumb, an encoding without block characters) there are plain lines only: points, starts of engines,
and what went wrong. NO_COLOR (no-color.org) takes the colour, not the bar.

For programs that follow the log there is the same as data (`progress_fields`), in the words of a deployment request's `profilingPhase`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from types import TracebackType
from typing import TextIO

from sla_planner.report.sweep_wording import latency_text, rate_text
from sla_planner.report.terminal import CLEAR_LINE, HIDE_CURSOR, SHOW_CURSOR, STYLES, printable
from sla_planner.report.wording import clock
from sla_planner.sweep.points import Point, PrefillShape
from sla_planner.sweep.result import Progress

MOST_BAR, LEAST_BAR = 30, 6  # columns
LEAST_DOING = 12  # columns of what is being done, before the bar has to go
_MEASURING = re.compile(r": (prefill|decode) ISL \d+")
_STARTING = ": starting"
_LABEL = r"[A-Z]+\d[^\s:]*"  # of a mapping
_OF_A_MAPPING = re.compile(
    rf"(?P<verified>verifying )?(?P<mapping>{_LABEL}(?: \+ {_LABEL})?)(?: (?P<role>prefill|decode))?: (?:(?P<measured>prefill|decode) ISL)?"
)

INITIALIZING, PREFILL, DECODE = "Initializing", "SweepingPrefill", "SweepingDecode"
SELECTING, BUILDING, DONE = "SelectingConfig", "BuildingCurves", "Done"


class SweepProgress:
    """Shows each `Progress` it is called with on `stream`. A context manager: however the sweep ends, the cursor is back and the last line stays."""

    def __init__(self, stream: TextIO, environ: Mapping[str, str] = os.environ) -> None:
        self._stream = stream
        can_paint = (stream.encoding or "").lower().replace("-", "") == "utf8" and environ.get("TERM") != "dumb"
        self._repaints = stream.isatty() and can_paint
        self._colour = not environ.get("NO_COLOR")
        self._painted = False

    def __enter__(self) -> SweepProgress:
        if self._repaints:
            self._stream.write(HIDE_CURSOR)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._repaints:
            self._stream.write(("\n" if self._painted else "") + SHOW_CURSOR)
            self._stream.flush()

    def __call__(self, progress: Progress) -> None:
        if self._repaints:
            lasting = _lasting(progress)
            if lasting:
                self._stream.write(f"\r{self._painted_point(progress, lasting)}{CLEAR_LINE}\n")
            width = (os.get_terminal_size(self._stream.fileno()).columns or 80) - 1  # 0 where the terminal does not know
            # The cursor goes back to the first column, so that a log line written by others starts there.
            self._stream.write(f"\r{bar_line(progress, width, self._colour)}{CLEAR_LINE}\r")
            self._painted = True
        elif line := plain_line(progress):
            self._stream.write(line + "\n")
        self._stream.flush()

    def _painted_point(self, progress: Progress, line: str) -> str:
        style = "bad" if progress.point is None or progress.point.defects else "dim" if progress.reused else ""
        return f"\x1b[{STYLES[style]}m{line}\x1b[0m" if self._colour and style else line


def plain_line(progress: Progress) -> str:
    """One line of ASCII for logs; '' for what is not worth one: the announcement of a point whose result will be told."""
    if progress.point is None:
        return "" if _MEASURING.search(progress.doing) else _ascii(progress.doing)
    return _ascii(f"{point_line(progress.point, progress.reused)} ({_how_far(progress)})")


def progress_fields(progress: Progress) -> dict[str, object]:
    """`phase`; `mapping`, e.g. `decode TP:2`, '' for none; the `point`-th of `points` is measured next or now; `eta_s`, None: not known yet."""
    found = _OF_A_MAPPING.match(progress.doing)
    role, mapping, phase = "", "", INITIALIZING
    if progress.point is not None:
        role = "prefill" if isinstance(progress.point.shape, PrefillShape) else "decode"
        mapping = progress.point.mapping.label
    elif found:
        role, mapping = found["measured"] or found["role"] or "", found["mapping"]
    if found and found["verified"]:
        phase = BUILDING
    elif mapping:
        phase = DECODE if role == "decode" else PREFILL  # a mapping begins with prefill
    named = " ".join(filter(None, (role, re.sub(r"([A-Z])(\d)", r"\1:\2", mapping))))
    return phase_fields(phase, min(progress.done + 1, progress.expected), progress.expected, named, progress.remaining_s)


def phase_fields(phase: str, point: int = 0, points: int = 0, mapping: str = "", eta_s: float | None = None) -> dict[str, object]:
    """As `progress_fields`."""
    return {"phase": phase, "mapping": mapping, "point": point, "points": points, "eta_s": None if eta_s is None else round(eta_s, 1)}


def point_line(point: Point, reused: bool = False) -> str:
    """`TP2 decode ISL 3000 batch 48: ITL 12.3 ms, 3,903 tokens/s/GPU`; with `found again`, `failed` or `not trusted` where it is so."""
    told = [_seen(point)] if point.prefill or point.decode else []
    if reused:
        told.insert(0, "found again")
    if point.defects:
        told.append(f"{'not trusted' if point.prefill or point.decode else 'failed'}: {'; '.join(point.defects)}")
    return printable(f"{point.mapping.label} {point.shape.label}: {', '.join(told) or 'no answer'}")


def bar_line(progress: Progress, width: int, colour: bool) -> str:
    """At most `width` columns: what is being done, the bar, how far. The bar shrinks first, then what is done is cut, then how far."""
    told = f"{_how_far(progress)}, {clock(progress.elapsed_s)}"
    if len(told) + 2 + LEAST_DOING > width:
        told = f"{progress.done} of {progress.expected}"
    doing = printable(progress.doing)
    columns = min(MOST_BAR, width - len(told) - len(doing) - 4)
    if columns < LEAST_BAR:
        columns = LEAST_BAR if width - len(told) - LEAST_BAR - 4 >= LEAST_DOING else 0
    room = width - len(told) - (columns + 4 if columns else 2)
    doing = doing if len(doing) <= room else doing[: max(0, room - 1)] + "…" if room > 0 else ""
    share = min(1.0, progress.done / progress.expected) if progress.expected > 0 else 0.0
    filled = int(columns * share)
    done, left = "━" * filled, "─" * (columns - filled)
    if colour:
        done, left = f"\x1b[{STYLES['bold']}m{done}\x1b[0m" if done else "", f"\x1b[{STYLES['dim']}m{left}\x1b[0m" if left else ""
    parts = [part for part in (doing, done + left, told[: max(0, width)]) if part]
    return "  ".join(parts)


def time_left(seconds: float | None) -> str:
    """`about 3 min left`, `about 1 h 20 min left`, `less than a minute left`; '' when there is nothing to estimate from."""
    if seconds is None:
        return ""
    minutes = round(seconds / 60)
    if seconds < 60:
        return "less than a minute left"
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"about {minutes} min left"
    return f"about {hours} h {minutes} min left" if minutes else f"about {hours} h left"


def _lasting(progress: Progress) -> str:
    """What stays above the bar: points, and what went wrong; not that an engine is starting."""
    if progress.point is not None:
        return point_line(progress.point, progress.reused)
    if _MEASURING.search(progress.doing) or ": " not in progress.doing or progress.doing.endswith(_STARTING):
        return ""
    return printable(progress.doing)


def _how_far(progress: Progress) -> str:
    left = time_left(progress.remaining_s) if progress.done < progress.expected else ""
    return f"{progress.done} of {progress.expected}" + (f", {left}" if left else "")


def _seen(point: Point) -> str:
    if point.decode is not None:
        return f"ITL {latency_text(point.decode.mean_ms)}, {rate_text(point.throughput_per_gpu)}"
    if point.prefill is None or not point.prefill.ttft_ms:
        return "no answer"
    return f"TTFT {latency_text(point.prefill.typical_ms)}, {rate_text(point.throughput_per_gpu)}"


def _ascii(text: str) -> str:
    return printable(text).encode("ascii", "replace").decode("ascii")
