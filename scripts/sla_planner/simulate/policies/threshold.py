"""Thresholds on queue and KV use, one worker at a time: how llm-d's workload-variant autoscaler and KEDA triggers on the same metrics decide.

Per role, every `loop_s`, from what each ready worker has left of its limit:

    spare        limit - use, mean over workers           queue: prompts that wait, per worker;  KV: share of the cache in use
    up           + 1 when spare < trigger of any signal, unless a worker still starts
    down         - 1 when the others, with the leaver's share on top, would all have spare >= trigger; not while one starts, and no sooner than
                 `HOLD_S` after the last change
    limits       1 .. max_workers

llm-d's defaults are a KV limit of 0.80 with trigger 0.10, a queue limit of 5 with trigger 3, and a loop of 60 s. A prefill worker is judged by its
queue alone: its cache is empty between batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sla_planner.plan.observation import WorkerCounts
from sla_planner.simulate.policy import Seen, Workers

TICK_S = 15.0
HOLD_S = 300.0
CUSTOMARY_LOOP_S = 60.0
CUSTOMARY_KV, CUSTOMARY_QUEUE = (0.80, 0.10), (5.0, 3.0)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Of one role. `queue`, `kv`: (limit, trigger); `kv` None where the cache does not count."""

    queue: tuple[float, float] = CUSTOMARY_QUEUE
    kv: tuple[float, float] | None = None
    loop_s: float = CUSTOMARY_LOOP_S


@dataclass(frozen=True, slots=True)
class Use:
    """What one role's workers are used for now: waiting requests of all, mean KV use (0..1)."""

    waiting: float
    kv: float = 0.0


@dataclass(slots=True)
class OneByOne:
    """The memory of one role's loop."""

    thresholds: Thresholds
    most: int
    looked_s: float = field(default=float("-inf"))
    changed_s: float = field(default=float("-inf"))

    def workers(self, at_s: float, counts: WorkerCounts, use: Use) -> int:
        """How many to ask for at `at_s`."""
        current = counts.total
        if at_s < self.looked_s + self.thresholds.loop_s - 1e-9:
            return current
        self.looked_s = at_s
        if counts.ready < current or counts.ready == 0:
            return current
        wanted = current
        if not self._spare(use, current, current):
            wanted = min(current + 1, self.most)
        elif current > 1 and self._spare(use, current, current - 1) and at_s >= self.changed_s + HOLD_S:
            wanted = current - 1
        if wanted != current:
            self.changed_s = at_s
        return wanted

    def _spare(self, use: Use, now: int, after: int) -> bool:
        """Whether `after` workers would have enough left of every limit, when the load of `now` is shared among them."""
        limit, trigger = self.thresholds.queue
        if limit - use.waiting / after < trigger:
            return False
        if self.thresholds.kv is None:
            return True
        limit, trigger = self.thresholds.kv
        return limit - use.kv * now / after >= trigger


class Threshold:
    """Both roles' loops. `most`: no role grows beyond it."""

    interval_s = TICK_S

    def __init__(self, prefill: Thresholds, decode: Thresholds, most: Workers, *, name: str = "threshold") -> None:
        self.name = name
        self._prefill = OneByOne(prefill, most.prefill)
        self._decode = OneByOne(decode, most.decode)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {role: {**asdict(loop.thresholds), "max": loop.most} for role, loop in (("prefill", self._prefill), ("decode", self._decode))}

    def decide(self, seen: Seen) -> Workers:
        scrape = seen.newest
        if scrape is None:
            return seen.asked
        engines = scrape.engines
        kv = float(engines.kv_usage.mean()) if len(engines.kv_usage) else 0.0
        prefill = self._prefill.workers(seen.at_s, seen.prefill, Use(engines.waiting_prefill))
        return Workers(prefill, self._decode.workers(seen.at_s, seen.decode, Use(engines.waiting_decode, kv)))
