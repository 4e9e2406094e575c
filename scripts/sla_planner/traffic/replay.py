"""Sending a trace.

Open loop (`replay`): request i leaves at origin + arrival_s[i], whatever became of the ones before; users do not wait for each other. A slow server
therefore builds a queue instead of slowing the load down. Closed loop (`closed_loop`): a fixed number of requests in flight, the next one leaves when
one ends; the arrival times do not count. That is how an operating point of an engine is held still while it is measured.

One process sends and times everything on one event loop, so a loop that runs late falsifies both. It is measured all the time (`loop_lag`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field

from sla_planner.traffic.client import RequestRecord, StreamingClient
from sla_planner.traffic.loop_lag import LoopLag
from sla_planner.traffic.trace import Trace

UNFINISHED = "unfinished"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, `elapsed_s` after it began."""

    elapsed_s: float
    requests: int  # of the whole trace
    sent: int
    finished: int  # with or without an error
    failed: int


@dataclass(frozen=True, slots=True)
class Watch:
    """How a run is followed and ended. `on_progress` is called every `every_s` and once at the end, `on_record` for every request that ends;
    setting `stop` ends the run with what it has."""

    on_progress: Callable[[Progress], None] = lambda _: None
    every_s: float = 2.0
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    on_record: Callable[[RequestRecord], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Run:
    """What a run gave. `records`: one per request that was sent, in the trace's order; those cut off by `stop` have the error `unfinished`."""

    records: tuple[RequestRecord, ...]
    requests: int  # of the whole trace
    wall_s: float
    client_lag_ms: float  # p99 of the event loop's lag
    stopped: bool


async def replay(client: StreamingClient, trace: Trace, watch: Watch | None = None) -> Run:
    """Send `trace` at its own pace and wait for all answers."""
    run = _Run(client, trace, watch or Watch())
    return await run.until_done(run.at_their_time())


async def closed_loop(client: StreamingClient, trace: Trace, concurrency: int, watch: Watch | None = None) -> Run:
    """Send the requests of `trace` in order, `concurrency` at a time."""
    run = _Run(client, trace, watch or Watch())
    pending = iter(range(len(trace)))
    return await run.until_done(*(run.one_after_another(pending) for _ in range(concurrency)))


class _Run:
    """One run under way: what was sent, what came back, how late the loop was."""

    def __init__(self, client: StreamingClient, trace: Trace, watch: Watch) -> None:
        self._client, self._trace, self._watch = client, trace, watch
        self._sent: dict[int, RequestRecord] = {}  # in flight or done, as it stands
        self._finished = 0
        self._failed = 0
        self._lag = LoopLag()
        self._origin_s = time.perf_counter()

    async def at_their_time(self) -> None:
        async with asyncio.TaskGroup() as answers:
            for index, due_s in enumerate(self._trace.arrival_s.tolist()):
                await asyncio.sleep(max(due_s - self._now_s(), 0.0))
                answers.create_task(self._send(index, due_s))

    async def one_after_another(self, pending: Iterator[int]) -> None:
        for index in pending:
            await self._send(index, self._now_s())

    async def until_done(self, *senders: Coroutine[None, None, None]) -> Run:
        sending = asyncio.gather(*senders)
        stopping = asyncio.ensure_future(self._watch.stop.wait())
        watching = asyncio.gather(self._lag.measure(), self._report())
        try:
            await asyncio.wait((sending, stopping), return_when=asyncio.FIRST_COMPLETED)
            stopped = not sending.done()
        finally:
            for task in (sending, stopping, watching):
                task.cancel()
            await asyncio.gather(sending, stopping, watching, return_exceptions=True)
        if not stopped:
            sending.result()
        self._watch.on_progress(self._progress())
        return Run(
            records=tuple(self._sent[index] for index in sorted(self._sent)),
            requests=len(self._trace),
            wall_s=self._now_s(),
            client_lag_ms=self._lag.p99_ms,
            stopped=stopped,
        )

    async def _send(self, index: int, due_s: float) -> None:
        isl_tokens, osl_tokens = int(self._trace.isl_tokens[index]), int(self._trace.osl_tokens[index])
        self._sent[index] = RequestRecord(due_s, self._now_s(), isl_tokens, osl_tokens, error=f"{UNFINISHED}: the run was stopped")
        record = await self._client.send(isl_tokens, osl_tokens, scheduled_s=due_s, origin_s=self._origin_s)
        self._sent[index] = record
        self._finished += 1
        self._failed += record.error != ""
        self._watch.on_record(record)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(self._watch.every_s)
            self._watch.on_progress(self._progress())

    def _progress(self) -> Progress:
        return Progress(self._now_s(), len(self._trace), len(self._sent), self._finished, self._failed)

    def _now_s(self) -> float:
        return time.perf_counter() - self._origin_s
