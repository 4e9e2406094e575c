"""What a run showed.

    inside = TTFT <= promised TTFT and ITL <= promised ITL      (ITL is a request's mean; an answer of one token has none and keeps it)

A request that failed or did not finish is a miss: for its user the promise was broken, however fast its first token was. Percentiles are over all
requests that got far enough to have the latency, nearest rank: a value that was really seen.

A busy minute can hide a bad one in the total, so time is judged too: the run is cut into slices by arrival, and a slice is inside when at least the
promised share of its requests is. Slices without requests do not count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sla_planner.model.sla import Sla
from sla_planner.traffic.client import RequestRecord
from sla_planner.traffic.replay import UNFINISHED, Run

LONG_RUN_S = 300.0  # slices are minutes from here on, 10 s below
MIN_LAG_MS = 5.0  # ordinary jitter of a loop on a busy machine
LAG_OF_TTFT = 0.1  # more than this of the measured TTFT, and the client measures itself
LENGTH_TOLERANCE = 0.1
TEMPLATE_TOKENS = 50  # what a chat template may add to a prompt


@dataclass(frozen=True, slots=True)
class Percentiles:
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Summary:
    """One run against one promise. Counts are requests, rates per second of the run."""

    promise: Sla
    requests: int  # in the trace
    sent: int
    completed: int  # whole answers
    unfinished: int  # cut off when the run was stopped
    errors: dict[str, int]  # by kind, most frequent first; without the unfinished
    inside: int
    ttft_inside: int
    itl_inside: int
    slice_s: float
    slices: int
    slices_inside: int
    ttft_ms: Percentiles | None
    itl_ms: Percentiles | None
    e2e_ms: Percentiles | None  # whole answers
    wall_s: float
    offered_rps: float | None  # None when all requests were due at once
    completed_rps: float
    prompt_tokens_per_s: float
    completion_tokens_per_s: float
    client_lag_ms: float  # p99 of the client's event loop
    send_delay_ms: float  # p99 of sent - scheduled
    stopped: bool
    warnings: tuple[str, ...]

    def share(self, count: int) -> float:
        """`count` as a share (0..1) of the requests sent; 0 when none was."""
        return count / self.sent if self.sent else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; the shares beside their counts."""
        shares = {f"{name}_share": self.share(getattr(self, name)) for name in ("inside", "ttft_inside", "itl_inside")}
        return asdict(self) | shares


def keeps_ttft(record: RequestRecord, promise: Sla) -> bool:
    """Whether a whole answer began in time."""
    return not record.error and record.ttft_ms is not None and record.ttft_ms <= promise.ttft_ms


def keeps_itl(record: RequestRecord, promise: Sla) -> bool:
    """Whether a whole answer flowed as fast as promised."""
    return not record.error and (record.itl_ms is None or record.itl_ms <= promise.itl_ms)


def summarize(run: Run, promise: Sla) -> Summary:
    """Judge `run` by `promise`."""
    records = run.records
    whole = [record for record in records if not record.error]
    kinds = Counter(record.error_kind for record in records if record.error)
    unfinished = kinds.pop(UNFINISHED, 0)
    ttft_kept = [keeps_ttft(record, promise) for record in records]
    itl_kept = [keeps_itl(record, promise) for record in records]
    both = [ttft and itl for ttft, itl in zip(ttft_kept, itl_kept, strict=True)]
    slice_s = 60.0 if run.wall_s >= LONG_RUN_S else 10.0
    slices = _shares_by_slice(((record.scheduled_s, kept) for record, kept in zip(records, both, strict=True)), slice_s)
    span_s = records[-1].scheduled_s - records[0].scheduled_s if records else 0.0
    ttft_ms = _percentiles(record.ttft_ms for record in records)
    delay_ms = _percentiles((record.sent_s - record.scheduled_s) * 1e3 for record in records)
    return Summary(
        promise=promise,
        requests=run.requests,
        sent=len(records),
        completed=len(whole),
        unfinished=unfinished,
        errors=dict(kinds.most_common()),
        inside=sum(both),
        ttft_inside=sum(ttft_kept),
        itl_inside=sum(itl_kept),
        slice_s=slice_s,
        slices=len(slices),
        slices_inside=sum(share >= promise.attainment for share in slices),
        ttft_ms=ttft_ms,
        itl_ms=_percentiles(record.itl_ms for record in records),
        e2e_ms=_percentiles(record.e2e_s * 1e3 for record in whole if record.e2e_s is not None),
        wall_s=run.wall_s,
        offered_rps=(len(records) - 1) / span_s if span_s > 0 else None,
        completed_rps=len(whole) / run.wall_s,
        prompt_tokens_per_s=sum(record.prompt_tokens or 0 for record in whole) / run.wall_s,
        completion_tokens_per_s=sum(record.completion_tokens or 0 for record in whole) / run.wall_s,
        client_lag_ms=run.client_lag_ms,
        send_delay_ms=delay_ms.p99 if delay_ms else 0.0,
        stopped=run.stopped,
        warnings=(*_client_warnings(run.client_lag_ms, ttft_ms), *_length_warnings(whole)),
    )


def _percentiles(values: Iterable[float | None]) -> Percentiles | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Percentiles(*(float(value) for value in np.percentile(known, (50, 90, 95, 99, 100), method="inverted_cdf")))


def _shares_by_slice(arrivals: Iterable[tuple[float, bool]], slice_s: float) -> list[float]:
    sent: Counter[int] = Counter()
    kept: Counter[int] = Counter()
    for at_s, inside in arrivals:
        sent[int(at_s // slice_s)] += 1
        kept[int(at_s // slice_s)] += inside
    return [kept[index] / count for index, count in sent.items()]


def _client_warnings(lag_ms: float, ttft_ms: Percentiles | None) -> Iterator[str]:
    """The client as the limit."""
    if lag_ms > max(MIN_LAG_MS, LAG_OF_TTFT * ttft_ms.p50 if ttft_ms else 0.0):
        yield f"the client itself ran {lag_ms:.0f} ms late (p99), which is in the latencies: give it a free core, or send less from one process"


def _length_warnings(whole: Sequence[RequestRecord]) -> Iterator[str]:
    """Lengths that the server counted and that are not what was asked for: it measured other requests than these."""
    prompts = [(record.isl_tokens, record.prompt_tokens) for record in whole if record.prompt_tokens is not None]
    answers = [(record.osl_tokens, record.completion_tokens) for record in whole if record.completion_tokens is not None]
    for name, pairs, slack_tokens in (("prompt", prompts, TEMPLATE_TOKENS), ("answer", answers, 0)):
        if pairs:
            asked, counted = np.mean(pairs, axis=0)
            if abs(counted - asked) > LENGTH_TOLERANCE * asked + slack_tokens:
                yield f"the server counted {counted:,.0f} {name} tokens per request where {asked:,.0f} were asked for"
