"""How far a comparison is: one repainted line on a terminal, a plain line every few seconds elsewhere.

The estimate is of the policy that runs: what its part so far has taken, for the rest of it. How long the others will take is not known.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TextIO

from sla_planner.report.sweep_progress import time_left
from sla_planner.report.terminal import CLEAR_LINE, printable

TERMINAL_S, LOG_S = 0.1, 5.0  # between two lines
LEAST_SHARE = 0.02  # below, a guess is not worth telling


class ComparisonProgress:
    """Hears (policy, share 0..1 of it). A context manager: nothing of the line is left behind. `clock`: monotonic seconds."""

    def __init__(self, policies: int, stream: TextIO, environ: Mapping[str, str] = os.environ, clock: Callable[[], float] = time.monotonic) -> None:
        self._policies = policies
        self._stream = stream
        self._repaints = stream.isatty() and environ.get("TERM") != "dumb"
        self._clock = clock
        self._begun: dict[str, float] = {}
        self._told_s = clock()

    def __enter__(self) -> ComparisonProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._repaints:
            self._stream.write(CLEAR_LINE)
            self._stream.flush()

    def __call__(self, policy: str, share: float) -> None:
        now_s = self._clock()
        begins = policy not in self._begun
        since_s = now_s - self._begun.setdefault(policy, now_s)
        if not begins and now_s - self._told_s < (TERMINAL_S if self._repaints else LOG_S):
            return
        self._told_s = now_s
        line = printable(f"{policy} ({len(self._begun)} of {self._policies}): {self._how_far(share, since_s)}")
        if self._repaints:
            width = (os.get_terminal_size(self._stream.fileno()).columns or 80) - 1
            self._stream.write(f"\r{line[:width]}{CLEAR_LINE}\r")
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

    @staticmethod
    def _how_far(share: float, since_s: float) -> str:
        if share <= 0:
            return "begins"
        left = time_left(since_s / share * (1 - share)) if LEAST_SHARE <= share < 1 else ""
        return f"{min(share, 1.0):.0%}" + (f", {left}" if left else "")
