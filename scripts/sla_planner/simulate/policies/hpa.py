"""Two Horizontal Pod Autoscalers, one per role, that know nothing of each other: the algorithm of Kubernetes' controller (autoscaling/v2).

Every 15 s, from one metric per role:

    pods        ratio = mean over pods that report / target; within 10 % of 1: nothing.  Pods that do not report yet count as idle when the ratio is
                above 1, and those that run as on target when it is below; where that turns the ratio round, nothing.    ceil(ratio * pods counted)
    external    ratio = value / (target * replicas); within 10 % of 1: nothing.                                          ceil(value / target)
    stabilise   down to no less than the largest recommendation of the last 300 s; up at once
    pace        up by at most max(4 pods, 100 %) per 15 s; down as far as that
    limits      1 .. max_workers

Metrics of the roles: `UTILISATION` (busy share of prefill workers), `KV_USAGE` and `RUNNING` (requests per decode worker) are pods metrics, as a
Prometheus adapter serves them; `WAITING` (prompts in no batch yet) and `UNANSWERED` (requests without a first token) are external ones per worker, as
KEDA scales by queues.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sla_planner.plan.observation import WorkerCounts
from sla_planner.simulate.policy import Seen, Workers
from sla_planner.simulate.scrape import Scrape

SYNC_S = 15.0
TOLERANCE = 0.1
DOWN_STABILISATION_S = 300.0
UP_PODS, UP_SHARE = 4, 1.0  # per sync


class Metric(StrEnum):
    UTILISATION = "utilisation"
    WAITING = "waiting"
    UNANSWERED = "unanswered"
    KV_USAGE = "kv_usage"
    RUNNING = "running"


@dataclass(frozen=True, slots=True)
class Target:
    """Of one role: shares are 0..1, queues in requests per worker."""

    metric: Metric
    value: float


@dataclass(frozen=True, slots=True)
class Pods:
    """One role's pods as the controller counts them: `reporting` a metric, running but `silent`, `pending` (not placed)."""

    reporting: int
    silent: int = 0
    pending: int = 0

    @property
    def all(self) -> int:
        return self.reporting + self.silent + self.pending


def replicas_for_pods(mean: float, pods: Pods, target: float) -> int:
    """What a metric of pods asks for, `mean` over those that report."""
    if pods.reporting == 0:
        return pods.all
    ratio = mean / target
    up = ratio > 1
    if not pods.silent and not (up and pods.pending):
        return pods.all if _tolerated(ratio) else math.ceil(ratio * pods.reporting - 1e-9)
    assumed = 0.0 if up else pods.silent * target
    counted = pods.reporting + pods.silent + (pods.pending if up else 0)
    careful = (mean * pods.reporting + assumed) / counted / target
    if _tolerated(careful) or (careful > 1) != up:
        return pods.all
    replicas = math.ceil(careful * counted - 1e-9)
    return pods.all if (replicas < pods.all) == up else replicas


def replicas_for_total(total: float, current: int, target: float) -> int:
    """What an external metric asks for: `total` of everything, `target` per replica."""
    if current and _tolerated(total / (target * current)):
        return current
    return math.ceil(total / target - 1e-9)


def _tolerated(ratio: float) -> bool:
    return abs(ratio - 1) <= TOLERANCE + 1e-12


@dataclass(slots=True)
class Stabiliser:
    """The behaviour of one autoscaler: stabilisation, pace, limits."""

    max_workers: int
    min_workers: int = 1
    recommended: deque[tuple[float, int]] = field(default_factory=deque)

    def replicas(self, at_s: float, current: int, recommendation: int) -> int:
        """What the scale is set to at `at_s`."""
        self.recommended.append((at_s, recommendation))
        while self.recommended[0][0] <= at_s - DOWN_STABILISATION_S:
            self.recommended.popleft()
        kept = recommendation if recommendation >= current else min(current, max(value for _, value in self.recommended))
        fastest = max(current + UP_PODS, math.ceil(current * (1 + UP_SHARE)))
        return max(min(kept, fastest, self.max_workers), self.min_workers)


class Hpa:
    """Both autoscalers. `most`: the maxima of their objects."""

    interval_s = SYNC_S

    def __init__(self, prefill: Target, decode: Target, most: Workers, *, name: str = "hpa") -> None:
        self.name = name
        self._targets = (prefill, decode)
        self._stabilisers = (Stabiliser(most.prefill), Stabiliser(most.decode))

    @property
    def settings(self) -> Mapping[str, Any]:
        roles = zip(("prefill", "decode"), self._targets, self._stabilisers, strict=True)
        return {role: {"metric": target.metric.value, "target": target.value, "max": behaviour.max_workers} for role, target, behaviour in roles}

    def decide(self, seen: Seen) -> Workers:
        prefill, decode = (self._replicas(role, seen) for role in (0, 1))
        return Workers(prefill, decode)

    def _replicas(self, role: int, seen: Seen) -> int:
        counts = (seen.prefill, seen.decode)[role]
        scrape = seen.newest
        if scrape is None:  # no metric: the controller leaves the scale alone
            return counts.total
        recommendation = recommended(self._targets[role], scrape, counts)
        return self._stabilisers[role].replicas(seen.at_s, counts.total, recommendation)


def recommended(target: Target, scrape: Scrape, counts: WorkerCounts) -> int:
    """What `target` asks for, before stabilisation."""
    engines = scrape.engines
    match target.metric:
        case Metric.WAITING:
            return replicas_for_total(engines.waiting_prefill, counts.total, target.value)
        case Metric.UNANSWERED:
            return replicas_for_total(scrape.started - scrape.first_tokens, counts.total, target.value)
        case Metric.UTILISATION:
            return replicas_for_pods(engines.prefill_busy / max(counts.ready, 1), _pods(counts, counts.ready), target.value)
        case Metric.KV_USAGE | Metric.RUNNING:
            values = engines.kv_usage if target.metric is Metric.KV_USAGE else engines.running
            return replicas_for_pods(float(values.mean()) if len(values) else 0.0, _pods(counts, len(values)), target.value)


def _pods(counts: WorkerCounts, reporting: int) -> Pods:
    heard = min(reporting, counts.ready)
    return Pods(heard, counts.coming - heard, counts.unschedulable)
