"""How far a comparison is: one repainted line on a terminal, a plain line every few seconds elsewhere.

The estimate is of what runs: what its part so far has taken, for the rest of it. A search has none: nobody knows how many runs it will take.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Container, Mapping
from types import TracebackType
from typing import TextIO

from sla_planner.report.sweep_progress import time_left
from sla_planner.report.terminal import CLEAR_LINE, printable
from sla_planner.report.wording import clock as minutes

TERMINAL_S, LOG_S = 0.1, 5.0  # between two lines
LEAST_SHARE = 0.02  # below, a guess is not worth telling


class ComparisonProgress:
    """Told with `begin` which of `policies` is next, then called with (what runs, share 0..1 of it); `searches` are those that run many times. A
    context manager: nothing of the repainted line is left behind. `clock`: monotonic seconds."""

    def __init__(
        self,
        policies: int,
        searches: Container[str],
        stream: TextIO,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policies = policies
        self._searches = searches
        self._stream = stream
        self._repaints = stream.isatty() and environ.get("TERM") != "dumb"
        self._clock = clock
        self._policy, self._number = "", 0
        self._begun_s = self._told_s = clock()

    def __enter__(self) -> ComparisonProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._repaints:
            self._stream.write(CLEAR_LINE)
            self._stream.flush()

    def begin(self, policy: str) -> None:
        self._policy, self._number = policy, self._number + 1
        self._begun_s = self._clock()
        self._tell("begins")

    def __call__(self, what: str, share: float) -> None:
        now_s = self._clock()
        if now_s - self._told_s < (TERMINAL_S if self._repaints else LOG_S):
            return
        since_s = now_s - self._begun_s
        if what in self._searches:
            self._tell(f"searching the settings of {what}, {minutes(since_s)} so far")
            return
        left = time_left(since_s / share * (1 - share)) if LEAST_SHARE <= share < 1 else ""
        self._tell(f"{min(share, 1.0) * 100:.0f} %" + (f", {left}" if left else ""))

    def _tell(self, how_far: str) -> None:
        self._told_s = self._clock()
        line = printable(f"{self._policy} ({self._number} of {self._policies}): {how_far}")
        if self._repaints:
            width = (os.get_terminal_size(self._stream.fileno()).columns or 80) - 1
            self._stream.write(f"\r{line[:width]}{CLEAR_LINE}\r")
        else:
            self._stream.write(line + "\n")
        self._stream.flush()
