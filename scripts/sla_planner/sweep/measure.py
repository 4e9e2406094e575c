"""How one point is measured.

Prefill, one prompt at a time: one request is thrown away (first shapes compile), then TTFT of at least `LEAST_REPEATS` requests, more while

    spread = sigma / median / sqrt(n)  >  STEADY        sigma = 1.4826 * median |TTFT - median|, which one late answer does not move;
                                                        below five answers, where that is mostly too small: range / its mean for normal errors

Prefill, several prompts at once: a closed loop, WAVES times the concurrency; the first wave arrives as a burst and the last waits for fewer and fewer
others, so both count for the throughput but not for TTFT.

Decode: requests are held in flight (traffic/held.py), KV is filled once per context, and batch after batch is measured over windows of WINDOW_STEPS
tokens until two windows agree within AGREE, MOST_WINDOWS at most. Nothing waits for answers to end, so a point costs its window and the prompts that
it adds.

What makes a point untrustworthy becomes a defect of the point, never an exception: failed requests, lengths other than asked, a batch that did not
all run, a client that was itself late. Every prompt is random, so no prefix cache answers in place of prefill.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np

from sla_planner.errors import EngineError
from sla_planner.model.profile import ParallelMapping
from sla_planner.sweep.points import DecodeSeen, DecodeShape, Point, PrefillSeen, PrefillShape, Shape
from sla_planner.traffic.client import RequestRecord, Server, StreamingClient
from sla_planner.traffic.held import BatchWindow, Growth, HeldBatch
from sla_planner.traffic.probe import calibrated, wrong_lengths
from sla_planner.traffic.prompt_form import PromptForm
from sla_planner.traffic.prompts import WORDS_OFF_SHARE, WORDS_OFF_TOKENS
from sla_planner.traffic.replay import closed_loop
from sla_planner.traffic.trace import Trace

LEAST_REPEATS, MOST_REPEATS = 5, 12
STEADY = 0.015
UNSTEADY = 0.05  # more than this after MOST_REPEATS, and the point is not trusted
LONG_S = 30.0  # enough of one prefill point, from two repeats on
WAVES = 4
WINDOW_STEPS, MOST_STEPS = 24, 96
WINDOW_S = 0.4  # a window of fast steps takes more of them
AGREE = 0.03
UNSETTLED = 0.1  # more than this between the last two of MOST_WINDOWS, and the point is not trusted
MOST_WINDOWS = 3
LATE_SHARE, LATE_MS = 0.25, 10.0  # of TTFT: a client this late measures itself
BEHIND_SHARE, BEHIND_EVENTS = 0.5, 1.5  # of ITL, and events waiting for each read: a client behind its engine has both
CACHED_SHARE = 0.05  # of the prompts' tokens
GROW_LIMIT_S = 900.0
WINDOW_LIMIT_S = 300.0
_MEAN_RANGE = {2: 1.128, 3: 1.693, 4: 2.059}  # of n normal values, in sigmas
REQUEST_TIMEOUT_S = 1800.0
_ONLY = "only "  # begins what is said of a batch that did not all run
_FAILED = "requests failed: "


class Clients:
    """A client per prompt length: one for all where token ids make every length exact, else one whose words were counted at that length."""

    def __init__(self, server: Server, *, seed: int | None, stack: AsyncExitStack) -> None:
        self._server, self._seed, self._stack = server, seed, stack
        self._by_isl: dict[int, StreamingClient] = {}

    async def of(self, isl_tokens: int) -> StreamingClient:
        """Raises as `traffic.probe.calibrated`."""
        exact = self._server.form is PromptForm.IDS
        key = 0 if exact else isl_tokens
        if key not in self._by_isl:
            server = self._server if exact else await calibrated(self._server, isl_tokens)
            # A length of its own gets prompts of its own: the same seed would send one prompt as the beginning of another.
            client = StreamingClient(server, seed=None if self._seed is None else self._seed + key)
            self._by_isl[key] = await self._stack.enter_async_context(client)
        return self._by_isl[key]


@dataclass(frozen=True, slots=True)
class Measurer:
    """Measures points on one running engine. `tokens_per_event`: as probed. One at a time."""

    clients: Clients
    mapping: ParallelMapping
    tokens_per_event: float = 1.0

    async def prefill(self, shape: PrefillShape) -> Point:
        """TTFT at one prompt length, alone or among `shape.concurrency`."""
        begun_s = time.perf_counter()
        try:
            client = await self.clients.of(shape.isl_tokens)
        except EngineError as error:
            return self._point(shape, begun_s, [str(error)])
        await client.send(shape.isl_tokens, 1)
        seen, defects = await (_alone(client, shape) if shape.concurrency == 1 else _queued(client, shape))
        return self._point(shape, begun_s, defects, prefill=seen)

    @contextlib.asynccontextmanager
    async def staircase(self, isl_tokens: int, max_tokens: int) -> AsyncIterator[Staircase]:
        """Decode points at one context; leaving it ends the held requests."""
        client = await self.clients.of(isl_tokens)
        async with HeldBatch(client, isl_tokens=isl_tokens, max_tokens=max_tokens, tokens_per_event=self.tokens_per_event) as held:
            yield Staircase(self, held, isl_tokens)

    def _point(
        self, shape: Shape, begun_s: float, defects: Sequence[str], prefill: PrefillSeen | None = None, decode: DecodeSeen | None = None
    ) -> Point:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return Point(self.mapping, shape, prefill, decode, tuple(dict.fromkeys(defects)), now, time.perf_counter() - begun_s)


@dataclass(slots=True)
class Staircase:
    """Steps up, batch by batch. `spent`: the held requests may generate no more; go on in a new staircase."""

    _measurer: Measurer
    _held: HeldBatch
    isl_tokens: int
    batch: int = 0
    spent: bool = field(default=False)

    async def at(self, batch: int) -> Point:
        """The point with `batch` requests in flight (more than before)."""
        begun_s = time.perf_counter()
        shape = DecodeShape(self.isl_tokens, batch)
        fresh = self.batch == 0
        growth = await self._held.grow(batch, limit_s=GROW_LIMIT_S)
        self.batch = batch
        if not fresh and _ended(growth, batch):  # they have little left from the steps before; in a new staircase all begin anew
            self.spent = True
            return self._measurer._point(shape, begun_s, _not_started(growth, batch))
        if not growth.running:
            self.spent = True
            return self._measurer._point(shape, begun_s, [*_not_started(growth, batch), "no request made progress"])
        windows = [await self._window(WINDOW_STEPS)]
        while len(windows) < MOST_WINDOWS and not _settled(windows) and not windows[-1].ended:
            windows.append(await self._window(_steps(windows[-1])))
        last = windows[-1] if not windows[-1].ended or len(windows) == 1 else windows[-2]
        self.spent = bool(windows[-1].ended)
        if not last.itl_ms or not last.window_s:
            return self._measurer._point(shape, begun_s, [*_not_started(growth, batch), f"no token within {WINDOW_LIMIT_S:g} s"])
        seen = DecodeSeen(last.running, last.context_tokens, last.itl_ms, last.tokens, last.window_s, last.client_lag_ms)
        defects = [*_not_started(_with_late_ones(growth, last), batch), *_behind(last)]
        if last.failed:
            defects.append(f"{len(last.failed)} of {batch} {_FAILED}{last.failed[-1]}")
        elif last.ended:
            defects.append(f"{last.ended} of {batch} requests ended while they were measured")
        elif not _settled(windows, within=UNSETTLED):
            means = " and ".join(f"{float(np.mean(window.itl_ms)):.4g}" for window in windows[-2:])
            defects.append(f"ITL does not settle: {means} ms in windows that follow each other")
        return self._measurer._point(shape, begun_s, defects, decode=seen)

    async def _window(self, steps: int) -> BatchWindow:
        return await self._held.window(steps=steps, limit_s=WINDOW_LIMIT_S)


async def _alone(client: StreamingClient, shape: PrefillShape) -> tuple[PrefillSeen | None, list[str]]:
    begun_s = time.perf_counter()
    records: list[RequestRecord] = []
    lag_ms = 0.0
    while not _enough(records, time.perf_counter() - begun_s):
        run = await closed_loop(client, _requests(shape.isl_tokens, 1), 1)
        records += run.records
        lag_ms = max(lag_ms, run.client_lag_ms)
    ttft_ms = _whole_ttft_ms(records)
    if not ttft_ms:
        return None, _failures(records)
    defects = [*_failures(records), *_wrong_lengths(records), *cached_prompts(records), *_late(lag_ms, float(np.median(ttft_ms)))]
    if (error := spread(ttft_ms)) > UNSTEADY:
        between = f"{min(ttft_ms):.4g} and {max(ttft_ms):.4g} ms"
        defects.append(f"TTFT of {len(ttft_ms)} requests lies between {between}: its median is known to {100 * error:.0f} % only")
    seen = PrefillSeen(_prompt_tokens(records, shape), tuple(ttft_ms), time.perf_counter() - begun_s, lag_ms)
    return seen, defects


async def _queued(client: StreamingClient, shape: PrefillShape) -> tuple[PrefillSeen | None, list[str]]:
    count = WAVES * shape.concurrency
    run = await closed_loop(client, _requests(shape.isl_tokens, count), shape.concurrency)
    by_end = sorted(run.records, key=lambda record: record.sent_s + (record.e2e_s or 0.0))
    ttft_ms = _whole_ttft_ms(by_end[shape.concurrency : count - shape.concurrency])
    if not ttft_ms:
        return None, _failures(run.records)
    defects = [
        *_failures(run.records),
        *_wrong_lengths(run.records),
        *cached_prompts(run.records),
        *_late(run.client_lag_ms, float(np.median(ttft_ms))),
    ]
    # Throughput is that of the whole run: the engine is busy to its end. `wall_s` is scaled to the requests that are kept.
    wall_s = run.wall_s * len(ttft_ms) / max(sum(not record.error for record in run.records), 1)
    return PrefillSeen(_prompt_tokens(run.records, shape), tuple(ttft_ms), wall_s, run.client_lag_ms), defects


def measured_again(first: Point, second: Point) -> Point:
    """The better of two tries at one shape, with the time of both."""
    better = second if len(second.defects) <= len(first.defects) else first
    return replace(better, took_s=first.took_s + second.took_s)


def capped(point: Point) -> bool:
    """Whether fewer requests ran than were sent though none failed: a limit of the engine, which another try would not move."""
    return any(defect.startswith(_ONLY) for defect in point.defects)


def unanswered(point: Point) -> bool:
    """Whether requests failed, or nothing came of them at all: the engine may have ended."""
    return (point.prefill is None and point.decode is None) or any(_FAILED in defect for defect in point.defects)


def _requests(isl_tokens: int, count: int) -> Trace:
    return Trace(np.zeros(count), np.full(count, isl_tokens), np.ones(count, dtype=np.int64))


def _whole_ttft_ms(records: Sequence[RequestRecord]) -> list[float]:
    return [record.ttft_ms for record in records if not record.error and record.ttft_ms is not None]


def _enough(records: Sequence[RequestRecord], took_s: float) -> bool:
    ttft_ms = _whole_ttft_ms(records)
    if len(records) >= MOST_REPEATS or len(ttft_ms) < len(records) >= LEAST_REPEATS + 1:
        return True
    if took_s > LONG_S:
        return len(records) >= 2
    return len(records) >= LEAST_REPEATS and len(ttft_ms) >= 2 and spread(ttft_ms) <= STEADY


def spread(values: Sequence[float]) -> float:
    """Relative standard error of their typical value, as the module's head says; at least two."""
    return _sigma(values) / float(np.median(values)) / math.sqrt(len(values))


def _sigma(values: Sequence[float]) -> float:
    if len(values) in _MEAN_RANGE:
        return (max(values) - min(values)) / _MEAN_RANGE[len(values)]
    return 1.4826 * float(np.median(np.abs(np.array(values) - np.median(values))))


def _prompt_tokens(records: Sequence[RequestRecord], shape: PrefillShape) -> float:
    counted = [record.prompt_tokens for record in records if record.prompt_tokens]
    return float(np.mean(counted)) if counted else float(shape.isl_tokens)


def _wrong_lengths(records: Sequence[RequestRecord]) -> list[str]:
    """A prompt of words is now and then a few tokens off; the point stands at the mean of what was counted, so that falsifies nothing."""

    def forgiven(record: RequestRecord) -> RequestRecord:
        counted = record.prompt_tokens or record.isl_tokens
        near = abs(counted - record.isl_tokens) <= max(WORDS_OFF_TOKENS, WORDS_OFF_SHARE * record.isl_tokens)
        return replace(record, isl_tokens=counted) if near else record

    return wrong_lengths([forgiven(record) for record in records])


def _failures(records: Sequence[RequestRecord]) -> list[str]:
    failed = [record for record in records if record.error]
    return [f"{len(failed)} of {len(records)} {_FAILED}{failed[-1].error}"] if failed else []


def cached_prompts(records: Sequence[RequestRecord]) -> list[str]:
    """Random prompts share nothing but what the server puts before each: a template, a start token."""
    cached = sum(record.cached_tokens or 0 for record in records)
    prompts = sum(record.prompt_tokens or 0 for record in records if record.cached_tokens is not None)
    if cached <= CACHED_SHARE * prompts:
        return []
    return [f"{cached} of {prompts} prompt tokens came from the engine's prefix cache: their prefill was not measured"]


def _late(lag_ms: float, latency_ms: float) -> list[str]:
    if lag_ms <= max(LATE_MS, LATE_SHARE * latency_ms):
        return []
    return [f"the client itself ran {lag_ms:.0f} ms late (p99), too much for a latency of {latency_ms:.3g} ms: give it a free core"]


def _behind(window: BatchWindow) -> list[str]:
    """A mean over a window survives a late read; a client that reads slower than the engine sends does not."""
    itl_ms = float(np.mean(window.itl_ms))
    if window.client_lag_ms <= max(LATE_MS, BEHIND_SHARE * itl_ms) or window.events_per_read <= BEHIND_EVENTS:
        return []
    late = f"{window.client_lag_ms:.0f} ms late (p99), {window.events_per_read:.1f} events a read"
    return [f"the client fell behind the engine, {late}: give it a free core"]


def _not_started(growth: Growth, batch: int) -> list[str]:
    if growth.failed:  # then nobody waited long enough to tell a queue
        return [f"{len(growth.failed)} of {batch} {_FAILED}{growth.failed[-1]}"]
    if growth.waiting:
        return [f"{_ONLY}{growth.running} of {batch} requests ran, {growth.waiting} waited: the engine's sequence limit or its KV cache was reached"]
    if ended := _ended(growth, batch):
        return [f"{ended} of {batch} requests ended before the last one began: the engine starts few at once, or slowly"]
    return []


def _with_late_ones(growth: Growth, window: BatchWindow) -> Growth:
    """Requests that were given up as queued and began all the same: so many streams take a client a while to open."""
    late = min(max(window.running - growth.running, 0), growth.waiting)
    return replace(growth, running=growth.running + late, waiting=growth.waiting - late)


def _ended(growth: Growth, batch: int) -> int:
    """Requests whose answers were whole before all had begun."""
    return max(batch - growth.running - growth.waiting - len(growth.failed), 0)


def _settled(windows: Sequence[BatchWindow], within: float = AGREE) -> bool:
    """Whether the last window says what the one before it said."""
    last = windows[-1]
    if not last.itl_ms:
        return True
    if len(windows) == 1:
        return False
    before = float(np.mean(windows[-2].itl_ms)) if windows[-2].itl_ms else 0.0
    return abs(float(np.mean(last.itl_ms)) - before) <= within * before


def _steps(window: BatchWindow) -> int:
    """Steps of the next window, from how fast the last ones were."""
    itl_s = float(np.mean(window.itl_ms)) / 1000 if window.itl_ms else WINDOW_S
    return min(max(WINDOW_STEPS, int(WINDOW_S / max(itl_s, 1e-6))), MOST_STEPS)
