"""Requests that stay in flight while one operating point of an engine after another is measured: the KV cache is filled once, then the batch grows.

A window, cut after `SETTLING_STEPS` tokens of the median stream have passed:

    reference  = the stream with the median number of events
    (A, B]     = from its first event in the window to its last
    tokens     = tokens_per_event * events of all streams in (A, B]          throughput = tokens / (B - A)
    ITL of one = its last event - its first, over the events after the first, / tokens_per_event

Both ends lie on events of one stream, so the window is a whole number of steps: in a batch that steps together every stream has exactly that many
events in it, whatever its place in the order of arrival. Tokens and ITL are counted independently: their product over the batch is 1 only if all ran.

300 streams share a core with the clock, so an event is a line beginning with `data:`, counted in bytes; text is looked for only until a stream's
first token. An opening event that carries the role of a chat is no token; the events that close a stream lie in a window only if it ended there.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType

from sla_planner.traffic.client import StreamingClient, has_text, one_line, reported_fault
from sla_planner.traffic.loop_lag import LoopLag

SETTLING_STEPS = 2
LEAST_GAPS = 3
POLL_S = 0.004
# A first token is overdue after so many times the longest wait for one so far, if it is QUIET_S long and the others have made QUIET_TOKENS meanwhile,
# or however long it is if they have made MANY_TOKENS: a fast engine must be found out before their answers end and make room.
QUIET_TIMES = 3.0
QUIET_S = 2.0
QUIET_TOKENS = 16
MANY_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Growth:
    """`running`: in flight with a first token; `waiting`: without one; `failed`: what went wrong with each that failed during this growth."""

    running: int
    waiting: int
    failed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BatchWindow:
    """One window. `itl_ms`: mean gap of each stream that made two events or more; `tokens`: of all streams within `window_s`; `running`: streams that
    made any; `context_tokens`: prompt and tokens so far at mid-window, mean of the running; `steps`: tokens of the median stream; `ended`: streams
    that finished or failed meanwhile (`max_tokens` is too small), `failed`: what went wrong with those that did not finish; `events_per_read`: more
    than the server sends at once when the client lags behind it.
    """

    running: int
    context_tokens: float
    itl_ms: tuple[float, ...]
    tokens: float
    window_s: float
    steps: float
    ended: int
    failed: tuple[str, ...]
    client_lag_ms: float
    events_per_read: float = 1.0

    @property
    def stalled(self) -> bool:
        """No token came at all."""
        return self.running == 0


class HeldBatch:
    """Streams of one prompt length on one client. Use as an async context manager: leaving it ends them all. `max_tokens`: of each answer, more than
    all windows together; `tokens_per_event`: as probed. Raises nothing of its own: what goes wrong is in `Growth` and `BatchWindow`."""

    def __init__(self, client: StreamingClient, *, isl_tokens: int, max_tokens: int, tokens_per_event: float = 1.0) -> None:
        self._client = client
        self._isl_tokens, self._max_tokens = isl_tokens, max_tokens
        self._tokens_per_event = tokens_per_event
        self._streams: list[_HeldStream] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._longest_wait_s = 0.0  # for a first token, so far

    async def __aenter__(self) -> HeldBatch:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        # A cancelled request closes its socket in the next turn of the loop: an engine that is asked now must not still hold the KV of these.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for fault in ended:
            if isinstance(fault, Exception):
                raise fault

    async def grow(self, to: int, *, limit_s: float) -> Growth:
        """Start streams until `to` are in flight, and return when each has its first token, when `limit_s` has passed, when one has failed, or when
        the rest is evidently queued: no first token came for a while, and those that run went on."""
        self._streams = [stream for stream in self._streams if not stream.over]
        begun_s = self._client.clock()
        for _ in range(to - len(self._streams)):
            self._start()
        arrivals = _Arrivals(self._streams, begun_s, self._longest_wait_s)
        while True:
            now_s = self._client.clock()
            queued = arrivals.queued(now_s, self._tokens_per_event)
            self._longest_wait_s = arrivals.longest_wait_s
            failed = tuple(stream.error for stream in self._streams if stream.error)
            if failed or queued or not arrivals.waiting or now_s - begun_s > limit_s:
                return Growth(sum(stream.running for stream in self._streams), arrivals.waiting, failed)
            await asyncio.sleep(POLL_S)

    async def window(self, *, steps: int, limit_s: float) -> BatchWindow:
        """Measure until the median stream has made `steps` tokens (at least `LEAST_GAPS` events), all streams have ended, or `limit_s` has passed."""
        deadline_s = self._client.clock() + limit_s
        streams = [stream for stream in self._streams if not stream.over]
        lag = LoopLag(self._client.clock)
        measuring = asyncio.create_task(lag.measure())
        try:
            await self._until_made(streams, SETTLING_STEPS, deadline_s)
            await self._until_made(streams, max(steps, LEAST_GAPS * self._tokens_per_event), deadline_s)
        finally:
            measuring.cancel()
            await asyncio.wait([measuring])
        return _cut(streams, self._isl_tokens, self._tokens_per_event, lag.p99_ms)

    async def _until_made(self, streams: Sequence[_HeldStream], tokens: float, deadline_s: float) -> None:
        """Mark anew, and wait until the median of the running streams has made `tokens` since its first event."""
        for stream in streams:
            stream.mark_anew()
        events = math.ceil(tokens / self._tokens_per_event)
        while self._client.clock() < deadline_s:
            running = [stream for stream in streams if stream.running]
            if not running and all(stream.over for stream in streams):
                return
            if running and _median(running, lambda stream: stream.made).made >= events:
                return
            await asyncio.sleep(POLL_S)

    def _start(self) -> None:
        stream = _HeldStream()
        self._streams.append(stream)
        task = asyncio.create_task(self._hold(stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _hold(self, stream: _HeldStream) -> None:
        try:
            error = await self._client.stream(self._isl_tokens, self._max_tokens, stream)
            stream.error = stream.error or error or ("" if stream.first_s is not None else "no text: the stream carried no token")
        finally:
            stream.over = True


class _HeldStream:
    """One stream. `events`: since its first token; `made`: events in the present window after its first one there; `marks`: (time, events)."""

    __slots__ = ("_rest", "error", "events", "first_s", "made", "marks", "over")

    def __init__(self) -> None:
        self.error = ""
        self.over = False
        self.events = self.made = 0
        self.first_s: float | None = None
        self.marks: list[tuple[float, int]] = []
        self._rest = b""

    @property
    def running(self) -> bool:
        return self.first_s is not None and not self.over

    def feed(self, block: bytes, now_s: float) -> None:
        data = self._rest + block
        cut = data.rfind(b"\n") + 1
        lines, self._rest = data[:cut], data[cut:]
        events = lines.count(b"\ndata:") + lines.startswith(b"data:")
        if not events:
            return
        if b'"error"' in lines and (fault := reported_fault(lines)):
            self.error = f"engine error: {one_line(fault)}"
        if self.first_s is None:
            # A token may have no text (half a character, a special one); but then it is not the event that opens the stream.
            opening = not has_text(lines) and not self.events
            self.events = events
            if opening:
                return
            self.first_s = now_s
        else:
            self.events += events
        if self.marks:
            self.made += events
        self.marks.append((now_s, events))

    def mark_anew(self) -> None:
        self.marks = []
        self.made = 0


class _Arrivals:
    """First tokens of streams that were started together, and whether those that are missing are queued behind a limit of the engine."""

    def __init__(self, streams: Sequence[_HeldStream], begun_s: float, longest_wait_s: float) -> None:
        self.longest_wait_s = longest_wait_s
        self._streams = streams
        self._latest_s = begun_s
        self._missing = [stream for stream in streams if stream.first_s is None]
        self._events_then: dict[_HeldStream, int] = {}
        self._remember()

    @property
    def waiting(self) -> int:
        """Streams in flight without a first token."""
        return sum(not stream.over for stream in self._missing)

    def queued(self, now_s: float, tokens_per_event: float) -> bool:
        arrived = sorted(stream.first_s for stream in self._missing if stream.first_s is not None)
        if arrived:
            for first_s in arrived:
                self.longest_wait_s = max(self.longest_wait_s, first_s - self._latest_s)
                self._latest_s = max(first_s, self._latest_s)
            self._missing = [stream for stream in self._missing if stream.first_s is None]
            self._remember()
        running = [stream for stream in self._events_then if stream.running]
        quiet_s = now_s - self._latest_s
        if not running or quiet_s < QUIET_TIMES * self.longest_wait_s:
            return False
        tokens = self._since(_median(running, self._since)) * tokens_per_event
        return tokens >= (QUIET_TOKENS if quiet_s >= QUIET_S else MANY_TOKENS)

    def _remember(self) -> None:
        self._events_then = {stream: stream.events for stream in self._streams if stream.running}

    def _since(self, stream: _HeldStream) -> int:
        return stream.events - self._events_then[stream]


def _median(streams: Iterable[_HeldStream], value: Callable[[_HeldStream], int]) -> _HeldStream:
    """The lower median: at least half of the streams have its value or more."""
    ordered = sorted(streams, key=value)
    return ordered[(len(ordered) - 1) // 2]


def _cut(streams: Sequence[_HeldStream], isl_tokens: int, tokens_per_event: float, client_lag_ms: float) -> BatchWindow:
    """The window that the marks of `streams` hold, as the module's head says."""
    ended = sum(stream.over for stream in streams)
    failed = tuple(stream.error for stream in streams if stream.error)
    marked = [stream for stream in streams if stream.marks]
    if not marked:
        return BatchWindow(0, 0.0, (), 0.0, 0.0, 0.0, ended, failed, client_lag_ms)
    reference = _median(marked, lambda stream: stream.made)
    start_s, end_s = reference.marks[0][0], reference.marks[-1][0]
    inside = {stream: sum(events for at_s, events in stream.marks if start_s < at_s <= end_s) for stream in marked}
    half = sum(inside.values()) / 2
    before = sum(stream.events - sum(events for at_s, events in stream.marks if at_s > start_s) for stream in marked)
    return BatchWindow(
        running=len(marked),
        context_tokens=isl_tokens + tokens_per_event * (before + half) / len(marked),
        itl_ms=tuple(_gap_s(stream) / tokens_per_event * 1e3 for stream in marked if stream.made),
        tokens=tokens_per_event * sum(inside.values()),
        window_s=end_s - start_s,
        steps=tokens_per_event * reference.made,
        ended=ended,
        failed=failed,
        client_lag_ms=client_lag_ms,
        events_per_read=sum(stream.made for stream in marked) / max(sum(len(stream.marks) - 1 for stream in marked), 1),
    )


def _gap_s(stream: _HeldStream) -> float:
    return (stream.marks[-1][0] - stream.marks[0][0]) / stream.made
