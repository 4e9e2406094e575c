"""How far a transfer is: on a terminal one line that is repainted, elsewhere a log line now and then; nothing for what is over at once.

    1.2 GB of 3.4 GB (35 %), 56 MB/s, 39 s left, 12 of 48 files

The rate is that of the last `WINDOW_S`. Sizes are decimal (1 MB = 1,000,000 bytes).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

WINDOW_S = 10.0
PAINT_S, TELL_S = 0.25, 10.0
_CLEAR = "\x1b[K"
_UNITS = ("kB", "MB", "GB", "TB")


class TransferProgress:
    """Implements the port of `download.py` and `upload.py`. `tell` takes log lines; `terminal` is painted on instead, where there is one."""

    def __init__(self, tell: Callable[[str], None], terminal: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._tell, self._terminal, self._clock = tell, terminal, clock
        self._total = self._files = self._done_files = self._done = self._moved = self._read = 0
        self._seen: deque[tuple[float, int]] = deque()
        self._shown_s: float | None = None
        self._painted = False

    @property
    def moved_bytes(self) -> int:
        """Sent and received since the beginning."""
        return self._moved

    def expect(self, total_bytes: int, files: int) -> None:
        self._total, self._files = total_bytes, files
        self._done = self._done_files = 0
        self._seen.clear()

    def kept(self, count: int) -> None:
        self._done += count

    def moved(self, count: int) -> None:
        self._done += count
        self._moved += count
        self._show()

    def read(self, count: int) -> None:
        self._read += count
        self._show()

    def file_done(self) -> None:
        self._done_files += 1

    def clear(self) -> None:
        """Take the painted line away."""
        if self._painted and self._terminal is not None:
            self._terminal.write(f"\r{_CLEAR}")
            self._terminal.flush()
            self._painted = False

    def line(self) -> str:
        """What there is to say now."""
        if not self._done:
            return f"comparing checksums, {size_text(self._read)} read"
        parts = [f"{size_text(self._done)} of {size_text(self._total)} ({100 * self._done // max(self._total, 1)} %)"]
        if (rate := self._rate()) > 0:
            parts += [f"{size_text(rate)}/s", f"{time_text((self._total - self._done) / rate)} left"]
        if self._files > 1:
            parts.append(f"{self._done_files} of {self._files} files")
        return ", ".join(parts)

    def _rate(self) -> float:
        if len(self._seen) < 2:
            return 0.0
        (first_s, first), (last_s, last) = self._seen[0], self._seen[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0

    def _show(self) -> None:
        now_s = self._clock()
        if not self._seen or now_s - self._seen[-1][0] >= PAINT_S:
            self._seen.append((now_s, self._moved))
            while self._seen[0][0] < now_s - WINDOW_S:
                self._seen.popleft()
        if self._shown_s is None:
            self._shown_s = now_s
        if now_s - self._shown_s < (TELL_S if self._terminal is None else PAINT_S):
            return
        self._shown_s = now_s
        if self._terminal is None:
            self._tell(self.line())
            return
        self._terminal.write(f"\r{self.line()}{_CLEAR}\r")
        self._terminal.flush()
        self._painted = True


def size_text(count: float) -> str:
    """`312 bytes`, `1.2 kB`, `34 MB`, `5.6 GB`."""
    if count < 1000:
        return f"{count:.0f} bytes"
    power = min(int(math.log10(count)) // 3, len(_UNITS))
    scaled = count / 1000**power
    return f"{scaled:.1f} {_UNITS[power - 1]}" if scaled < 9.95 else f"{scaled:.0f} {_UNITS[power - 1]}"


def time_text(seconds: float) -> str:
    """`8 s`, `3 min`, `2 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
