"""Recorded traffic: when each request arrived, how long its prompt was, how long its answer.

    CSV, CSV.gz   header arrival_s,isl,osl (further columns are ignored); seconds from the trace start, tokens, tokens
    JSONL[.gz]    Mooncake's: {"timestamp": ms, "input_length": tokens, "output_length": tokens, ...}

Changing the load (`scaled`, k times): every request is copied floor(k) times, and once more with probability k - floor(k). Copies get independent
uniform jitter of 0..15 s, so that k tenants with the same minute-scale rush are imitated and not k synchronised clients. Below 1 the same rule thins
the trace, without jitter. `sped_up` compresses time instead: ramps become that many times steeper, which makes it a stress test.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sla_planner.errors import TraceError

MAX_LENGTH_TOKENS = 10_000_000  # beyond any context window: a wrong column
MAX_ARRIVAL_S = 366 * 86_400.0  # beyond a year: an epoch or another unit
MAX_REQUESTS = 50_000_000  # 1.2 GB of arrays
JITTER_S = 15.0

_COLUMNS = ("arrival_s", "isl", "osl")
_MOONCAKE_KEYS = ("timestamp", "input_length", "output_length")


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """At least one request, sorted by arrival. `arrival_s` (n,) float, seconds; `isl_tokens`, `osl_tokens` (n,) int, each >= 1. Read-only.

    Raises TraceError when the arrays are not that.
    """

    arrival_s: NDArray[np.float64]
    isl_tokens: NDArray[np.int64]
    osl_tokens: NDArray[np.int64]

    def __post_init__(self) -> None:
        arrays = _checked(self.arrival_s, self.isl_tokens, self.osl_tokens, place=lambda index: f"request {index}")
        for name, array in zip(("arrival_s", "isl_tokens", "osl_tokens"), arrays, strict=True):
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def end_s(self) -> float:
        """Arrival of the last request, seconds from the trace start."""
        return float(self.arrival_s[-1])

    def window(self, start_s: float = 0.0, end_s: float = math.inf) -> Trace:
        """The requests with start_s <= arrival < end_s, with `start_s` as the new zero. Raises TraceError when there are none."""
        first, last = np.searchsorted(self.arrival_s, (start_s, end_s))
        if not last > first or start_s < 0:
            until = "" if end_s == math.inf else f" and before {end_s:g} s"
            raise TraceError(
                f"no request arrives after {start_s:g} s{until}",
                hint=f"the trace holds {len(self)} requests from {self.arrival_s[0]:g} s to {self.end_s:g} s",
            )
        return Trace(self.arrival_s[first:last] - start_s, self.isl_tokens[first:last], self.osl_tokens[first:last])

    def scaled(self, k: float, *, seed: int) -> Trace:
        """`k` times the load (see the head of this module). Raises TraceError for a bad `k` and when thinning leaves nothing."""
        if not 0 < k < math.inf or len(self) * k > MAX_REQUESTS:
            raise TraceError(f"cannot scale {len(self)} requests by {k:g}", hint=f"give a factor above 0 that leaves at most {MAX_REQUESTS} requests")
        rng = np.random.default_rng(seed)
        copies = math.floor(k) + (rng.random(len(self)) < k - math.floor(k))
        index = np.repeat(np.arange(len(self)), copies)
        if not len(index):
            raise TraceError(f"scaling {len(self)} requests by {k:g} leaves none", hint="give a larger factor or a longer trace")
        arrival_s = self.arrival_s[index]
        if k > 1:
            arrival_s = arrival_s + rng.uniform(0.0, JITTER_S, len(index))
        order = np.argsort(arrival_s, kind="stable")
        index = index[order]
        return Trace(arrival_s[order], self.isl_tokens[index], self.osl_tokens[index])

    def shaped(self, shape: Sequence[tuple[float, float]], *, seed: int) -> Trace:
        """Thinned to a course of the day: at `arrival_s` a request is kept with the share (0..1) that `shape`, (second, share) in rising order, has
        there, linear in between. Raises TraceError when nothing is left."""
        seconds, shares = zip(*shape, strict=True)
        kept = np.random.default_rng(seed).random(len(self)) < np.interp(self.arrival_s, seconds, shares)
        if not kept.any():
            raise TraceError(f"thinning {len(self)} requests to a shape leaves none", hint="give larger shares or a longer trace")
        return Trace(self.arrival_s[kept], self.isl_tokens[kept], self.osl_tokens[kept])

    def sped_up(self, x: float) -> Trace:
        """The same requests in 1/x of the time."""
        if not 0 < x < math.inf:
            raise TraceError(f"cannot speed a trace up by {x:g}", hint="give a finite factor above 0; 2 plays it in half the time")
        return Trace(self.arrival_s / x, self.isl_tokens, self.osl_tokens)


def sample_trace_path() -> Path:
    """The shipped excerpt of a recorded conversation service: 44 minutes with a lull, a rush and a lull (`sample/README.md`)."""
    return Path(__file__).parent.parent / "sample" / "azure2023_conv_excerpt.csv.gz"


def read_trace(path: Path) -> Trace:
    """Read `.csv`, `.csv.gz`, `.jsonl` or `.jsonl.gz`. Raises TraceError naming file, line and value for whatever is wrong with it."""
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    readers = {"csv": _csv_rows, "jsonl": _jsonl_rows}
    if kind not in readers:
        raise TraceError(f"{path}: unknown trace format", hint="give a .csv, .csv.gz, .jsonl or .jsonl.gz file")
    text = _text(path)
    if kind == "csv" and (plain := _plain_csv(text)) is not None:
        return plain
    rows = list(readers[kind](text, str(path)))
    if not rows:
        raise TraceError(f"{path}: holds no request", hint="give a trace with at least one line of data")
    lines, *columns = zip(*rows, strict=True)
    return Trace(*_checked(*columns, place=lambda index: f"{path}: line {lines[index]}"))


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        if path.name.lower().endswith(".gz"):
            content = gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise TraceError(f"{path}: not a whole gzip file ({error})", hint="fetch it again, or drop .gz from the name of a plain file") from error
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error}", hint="give a trace file that can be read") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise TraceError(
            f"{path}: line {line}: byte {content[error.start]:#04x} is not UTF-8", hint="save the file as UTF-8; a gzip file's name ends in .gz"
        ) from error


def _plain_csv(text: str) -> Trace | None:
    """A file of plain numbers, five times as fast as line by line. None for whatever is not that: the reader of lines knows why, and where."""
    header, _, body = text.partition("\n")
    names = [name.strip() for name in header.split(",")]
    if not body or any(name not in names for name in _COLUMNS):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of an empty body
            columns = np.loadtxt(
                io.StringIO(body), delimiter=",", comments=None, usecols=[names.index(name) for name in _COLUMNS], ndmin=2, unpack=True
            )
        return Trace(*columns)
    except (ValueError, UserWarning, TraceError):
        return None


_Row = tuple[int, float, float, float]  # line, arrival, ISL, OSL


def _csv_rows(text: str, path: str) -> Iterator[_Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if missing := [name for name in _COLUMNS if name not in header]:
            raise TraceError(f"{path}: line 1: no column {', '.join(missing)} in {','.join(header)[:80]!r}", hint=f"start with {','.join(_COLUMNS)}")
        at, isl, osl = (header.index(name) for name in _COLUMNS)
        width = max(at, isl, osl) + 1
        for cells in reader:
            if not cells:
                continue
            if len(cells) < width:
                raise TraceError(
                    f"{path}: line {reader.line_num}: {len(cells)} of {len(header)} columns", hint="complete the line; a cut-off file ends like this"
                )
            line = reader.line_num
            yield line, _number(cells[at], "arrival_s", path, line), _number(cells[isl], "isl", path, line), _number(cells[osl], "osl", path, line)
    except csv.Error as error:
        raise TraceError(f"{path}: line {reader.line_num}: not CSV ({error})", hint="separate plain numbers with commas") from error


def _jsonl_rows(text: str, path: str) -> Iterator[_Row]:
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            request = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise TraceError(f"{path}: line {line}: not JSON: {content[:60]!r}", hint="give one JSON object per line") from error
        if not isinstance(request, dict):
            raise TraceError(f"{path}: line {line}: not a JSON object: {content[:60]!r}", hint="give one JSON object per line")
        if missing := [key for key in _MOONCAKE_KEYS if key not in request]:
            raise TraceError(f"{path}: line {line}: no key {', '.join(missing)}", hint=f"every line needs {', '.join(_MOONCAKE_KEYS)}")
        timestamp_ms, isl, osl = (_number(request[key], key, path, line) for key in _MOONCAKE_KEYS)
        yield line, timestamp_ms / 1e3, isl, osl


def _number(value: object, name: str, path: str, line: int) -> float:
    try:
        if not isinstance(value, bool):
            return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        pass
    raise TraceError(f"{path}: line {line}: {name} is not a number: {repr(value)[:40]}", hint="every request needs its arrival, ISL and OSL")


def _checked(
    arrival_s: ArrayLike, isl: ArrayLike, osl: ArrayLike, *, place: Callable[[int], str]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """The three columns as arrays of their own, or TraceError at `place(index)` of the first bad request."""
    arrivals, *lengths = (np.array(column, dtype=np.float64) for column in (arrival_s, isl, osl))
    if arrivals.ndim != 1 or not len(arrivals) or any(column.shape != arrivals.shape for column in lengths):
        raise TraceError("a trace needs three columns of the same length with at least one request", hint="give one arrival, ISL and OSL per request")
    for bad, column, fault, hint in _faults(arrivals, *lengths):
        if bad.any():
            index = int(bad.argmax())
            raise TraceError(f"{place(index)}: {fault}: {column[index]:.12g}", hint=hint)
    return arrivals, lengths[0].astype(np.int64), lengths[1].astype(np.int64)


_Floats = NDArray[np.float64]


def _faults(arrival_s: _Floats, isl: _Floats, osl: _Floats) -> Iterator[tuple[NDArray[np.bool_], _Floats, str, str]]:
    """Rules in order: (which requests break it, the column, what is wrong, remedy). A rule may rely on the ones before."""
    yield ~np.isfinite(arrival_s), arrival_s, "arrival_s is not finite", "drop the request or repair its arrival"
    yield arrival_s < 0, arrival_s, "arrival_s is negative", "count seconds from the start of the trace"
    yield arrival_s > MAX_ARRIVAL_S, arrival_s, "arrival_s is more than a year", "count seconds from the start of the trace, not from 1970"
    yield np.diff(arrival_s, prepend=arrival_s[0]) < 0, arrival_s, "arrival_s is earlier than the request before", "sort the requests by arrival"
    for name, length in (("isl", isl), ("osl", osl)):
        yield ~np.isfinite(length), length, f"{name} is not finite", "drop the request or repair its length"
        yield length < 1, length, f"{name} is below one token", "drop requests without a prompt or an answer"
        yield length > MAX_LENGTH_TOKENS, length, f"{name} is beyond any context window", "check the column order: arrival_s, isl, osl"
        yield length != np.floor(length), length, f"{name} is not a whole number of tokens", "check the column order: arrival_s, isl, osl"
