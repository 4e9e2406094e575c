"""What is said while files move."""

from __future__ import annotations

import io

import pytest

from sla_planner.volume.progress import TransferProgress, size_text, time_text


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


def at_56_mb_a_second(progress, clock, seconds):
    for _ in range(seconds):
        clock.now_s += 1
        progress.moved(56_000_000)


def test_how_far_how_fast_and_how_long(clock):
    progress = TransferProgress(lambda _: None, clock=clock)
    progress.expect(3_400_000_000, 48)
    for _ in range(12):
        progress.file_done()
    progress.kept(528_000_000)
    at_56_mb_a_second(progress, clock, 12)
    assert progress.line() == "1.2 GB of 3.4 GB (35 %), 56 MB/s, 39 s left, 12 of 48 files"
    assert progress.moved_bytes == 672_000_000


def test_the_rate_is_that_of_the_last_seconds(clock):
    progress = TransferProgress(lambda _: None, clock=clock)
    progress.expect(10**10, 1)
    at_56_mb_a_second(progress, clock, 30)
    for _ in range(20):
        clock.now_s += 1
        progress.moved(1_000_000)
    assert "1.0 MB/s" in progress.line()


def test_a_log_gets_a_line_now_and_then(clock):
    told = []
    progress = TransferProgress(told.append, clock=clock)
    progress.expect(10**10, 2)
    at_56_mb_a_second(progress, clock, 35)
    assert len(told) == 3
    assert told[-1].endswith("56 MB/s, 2 min left, 0 of 2 files")


def test_what_is_over_at_once_is_not_talked_about(clock):
    told = []
    progress = TransferProgress(told.append, clock=clock)
    clock.now_s += 60  # until the pod was there
    progress.read(100)
    progress.expect(10, 1)
    progress.moved(10)
    assert told == []


def test_a_terminal_gets_one_line(clock):
    terminal = io.StringIO()
    progress = TransferProgress(lambda _: None, terminal, clock)
    progress.read(2_000_000)
    clock.now_s += 1
    progress.read(3_000_000)
    clock.now_s += 0.1
    progress.read(1)
    progress.clear()
    progress.clear()
    assert terminal.getvalue() == "\rcomparing checksums, 5.0 MB read\x1b[K\r\r\x1b[K"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (9_940, "9.9 kB"),
        (9_960, "10 kB"),
        (34_000_000, "34 MB"),
        (5.6e9, "5.6 GB"),
        (3e15, "3000 TB"),
    ],
)
def test_sizes(count, text):
    assert size_text(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(8.4, "8 s"), (89, "89 s"), (180, "3 min"), (7500, "2 h 5 min"), (3590, "1 h 0 min")])
def test_times(seconds, text):
    assert time_text(seconds) == text
