"""What the planner sees in one interval. Every quantity is a value, idle, or unknown; these three are never confused.

* value    a number that was measured in the window.
* idle     measured, and there was nothing to measure it on: no request arrived (a rate is then the *value* 0), so a mean latency does not exist.
* unknown  it could not be measured: no answer from Prometheus, no such series, too few samples. Never read as zero; the planner holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    VALUE = "value"
    IDLE = "idle"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Quantity:
    """One observed number. `value` is meaningful only when `kind` is VALUE; `why` says why it is idle or unknown."""

    kind: Kind
    value: float = 0.0
    why: str = ""

    @classmethod
    def of(cls, value: float) -> Quantity:
        return cls(Kind.VALUE, float(value))

    @classmethod
    def idle(cls, why: str = "no requests in the window") -> Quantity:
        return cls(Kind.IDLE, 0.0, why)

    @classmethod
    def unknown(cls, why: str) -> Quantity:
        return cls(Kind.UNKNOWN, 0.0, why)

    @property
    def known(self) -> bool:
        """A number was measured."""
        return self.kind is Kind.VALUE

    def or_else(self, default: float) -> float:
        return self.value if self.known else default


@dataclass(frozen=True, slots=True)
class LengthHistogram:
    """Requests of the window by length: `requests[i]` of them had at most `upper_tokens[i]` tokens and more than the edge before.

    Counts per bucket, not cumulative; the last edge may be infinite. `total_tokens` is the exact sum of lengths (the histogram's `_sum`).
    """

    upper_tokens: tuple[float, ...]
    requests: tuple[float, ...]
    total_tokens: float


@dataclass(frozen=True, slots=True)
class TrafficWindow:
    """Traffic of one model over the window that ended at `at_s` (epoch seconds) and really lasted `window_s`.

    `request_rate_rps` is offered load: requests *started* per second where the frontend counts them, else completions plus the change of
    requests in flight. Latency means and lengths are over requests that finished in the window. `*_attained` is the share (0..1) of requests
    within the target, read from histogram buckets.
    """

    at_s: float
    window_s: float
    request_rate_rps: Quantity
    isl_tokens: Quantity
    osl_tokens: Quantity
    ttft_ms: Quantity
    itl_ms: Quantity
    request_duration_s: Quantity
    completed_requests: Quantity
    in_flight_requests: Quantity
    ttft_attained: Quantity
    itl_attained: Quantity
    queued_prefill_requests: Quantity  # waiting for prefill, all workers
    running_decode_requests: Quantity  # in decode batches, all workers
    kv_usage: Quantity  # mean over decode workers, 0..1
    isl_lengths: LengthHistogram | None = None
    osl_lengths: LengthHistogram | None = None
    answered: bool = True  # the source was there; what it does not tell is unknown all the same


@dataclass(frozen=True, slots=True)
class WorkerCounts:
    """Workers of one role: serving, on their way, and asked for but not placeable. `total` is what the last decision asked for."""

    ready: int
    starting: int = 0
    unschedulable: int = 0

    @property
    def total(self) -> int:
        return self.ready + self.starting + self.unschedulable

    @property
    def coming(self) -> int:
        """Capacity to count on: ready now or ready within a start-up."""
        return self.ready + self.starting


def ready_workers(workers: WorkerCounts | None) -> int:
    """Workers that serve; none of an unknown fleet can be counted on."""
    return 0 if workers is None else workers.ready


@dataclass(frozen=True, slots=True)
class Observation:
    """One tick's input: traffic, and the fleet (None = the target could not be read: unknown)."""

    traffic: TrafficWindow
    prefill: WorkerCounts | None
    decode: WorkerCounts | None


def unknown_traffic(at_s: float, window_s: float, why: str, *, answered: bool = True) -> TrafficWindow:
    """A window in which nothing could be measured. `answered`: although its source was there."""
    unknown = Quantity.unknown(why)
    return TrafficWindow(
        at_s=at_s,
        window_s=window_s,
        request_rate_rps=unknown,
        isl_tokens=unknown,
        osl_tokens=unknown,
        ttft_ms=unknown,
        itl_ms=unknown,
        request_duration_s=unknown,
        completed_requests=unknown,
        in_flight_requests=unknown,
        ttft_attained=unknown,
        itl_attained=unknown,
        queued_prefill_requests=unknown,
        running_decode_requests=unknown,
        kv_usage=unknown,
        answered=answered,
    )
