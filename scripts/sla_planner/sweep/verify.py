"""The pick in use: requests of the goal's ISL and OSL, end to end, against what the profile says.

First a few requests one after the other, then evenly spaced arrivals at a rate that the pick should carry. What the profile says of an engine that
does both phases in turns: a prefill of s seconds stops every running request, so at r requests per second a share r*s of the time goes to prefill,

    ITL = itl(n, context) / (1 - r*s),    n = r * OSL * ITL,                                 s = ttft(ISL)

and the rate is the highest whose ITL stays within LOAD of the promised one and whose r*s stays below BUSY. Near that rate the load takes many
lifetimes to settle, and few prompts fall into a short answer, so the profile is then asked for what really came: n requests in flight, and k prompts
that were prefilled between the first and the last token of a request,

    ITL = itl(n, context) + k*s / (OSL - 1)

A disaggregated pair loses no time to prefill (r*s = 0, k = 0). Nothing is queued at even spacing, so TTFT under this load is that of one request;
an engine that does both ends a decode step first, which takes half of itl(n) more. What TTFT and ITL become in real use depends on how bursty the
traffic is, which the planner accounts for.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from sla_planner.errors import PlannerError
from sla_planner.model.fitted import FittedDecode, FittedPrefill
from sla_planner.model.profile import ParallelMapping, Profile
from sla_planner.sweep.measure import REQUEST_TIMEOUT_S
from sla_planner.sweep.port import Deployment, Launcher, RunningEngine
from sla_planner.sweep.result import Comparison, Goal, Verification
from sla_planner.traffic import aiperf
from sla_planner.traffic.aiperf import AiperfResult, AiperfShape
from sla_planner.traffic.client import RequestRecord, Server, StreamingClient
from sla_planner.traffic.probe import probe
from sla_planner.traffic.prompt_form import PromptForm
from sla_planner.traffic.replay import Run, closed_loop, replay
from sla_planner.traffic.summary import keeps_itl, keeps_ttft
from sla_planner.traffic.trace import Trace

ALONE = 4  # requests one after the other
LOAD = 0.8  # of the promised ITL
BUSY = 0.5  # share of the time that prefill may take
LIFETIMES = 3.0  # of a request, that the load lasts, if MOST_REQUESTS are enough for it
LEAST_REQUESTS, MOST_REQUESTS = 12, 200


@dataclass(frozen=True, slots=True)
class Pick:
    """What is verified. `pair` starts both picks as one server; without it an engine of each pick does both phases. `aiperf_dir`: where aiperf leaves
    what it measures of the same engine, one request at a time; None: without it."""

    launcher: Launcher
    prefill: Deployment
    decode: Deployment
    pair: Launcher | None = None
    aiperf_dir: Path | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """Even arrivals, and what the profile says of them. `prefill_share`: of the decoding engine's time that goes to prefill."""

    rate_rps: float
    itl_ms: float
    in_flight: float
    prefill_share: float


async def verify(profile: Profile, goal: Goal, pick: Pick, form: PromptForm | None, tell: Callable[[str], None]) -> Verification:
    """Measure the picks of `profile`. Raises what the launcher raises."""
    check = _Check(profile, goal, form, tell, pick.aiperf_dir)
    if pick.pair is not None:
        return await check.server(pick.pair, pick.decode, profile.selected_prefill, pair=True)
    decode = await check.server(pick.launcher, pick.decode, pick.decode.mapping, pair=False)
    if pick.prefill.mapping == pick.decode.mapping:
        return decode
    # Two picks that nobody could join: TTFT is that of the prefill engine, ITL that of the decode engine.
    first = await check.prefill_alone(pick.launcher, pick.prefill)
    comparisons = (*first, *(comparison for comparison in decode.comparisons if "TTFT" not in comparison.what))
    separate = f"{pick.prefill.mapping.label} alone for TTFT, {pick.decode.mapping.label} alone for ITL: the transfer of KV between them is not in it"
    return Verification(
        f"{separate}; {decode.how}",
        decode.requests,
        decode.inside,
        decode.failed,
        comparisons,
        _warnings(comparisons, goal, decode.requests, decode.inside, decode.failed),
    )


@dataclass(frozen=True, slots=True)
class _Check:
    """What all measurements of one verification share."""

    profile: Profile
    goal: Goal
    form: PromptForm | None
    tell: Callable[[str], None]
    aiperf_dir: Path | None

    async def server(self, launcher: Launcher, deployment: Deployment, prefill_mapping: ParallelMapping, *, pair: bool) -> Verification:
        """One server that does both phases: requests alone, then under even load."""
        goal, decode = self.goal, deployment.mapping.label
        label = f"{prefill_mapping.label} + {decode}" if pair else decode
        load = even_load(self.profile, goal, prefill_mapping, pair=pair)
        self.tell(f"verifying {label}: starting")
        async with self._client(launcher, deployment) as (engine, client):
            self.tell(f"verifying {label}: one request at a time")
            alone = await closed_loop(client, _trace(goal, ALONE, 0.0), 1)
            second = await self._by_aiperf(engine, label)
            loaded = None
            if load is not None:
                count = _count(load, goal)
                self.tell(f"verifying {label}: {count} requests at {load.rate_rps:.3g} a second")
                loaded = await replay(client, _trace(goal, count, load.rate_rps))
        how = "the picked pair" if pair else f"one {decode} engine for both phases"
        verification = self._judged(prefill_mapping, alone, loaded, load, how)
        if isinstance(second, PlannerError):
            return replace(verification, warnings=(*verification.warnings, f"not measured by aiperf: {second}"))
        return verification if second is None else self._with_second(verification, prefill_mapping, second)

    async def _by_aiperf(self, engine: RunningEngine, label: str) -> AiperfResult | PlannerError | None:
        if self.aiperf_dir is None:
            return None
        self.tell(f"verifying {label}: one request at a time, by aiperf")
        goal = self.goal
        shape = AiperfShape(engine.url, engine.model, goal.isl_tokens, goal.osl_tokens, requests=ALONE, timeout_s=REQUEST_TIMEOUT_S)
        try:
            return await aiperf.measure(shape, self.aiperf_dir)
        except PlannerError as error:  # ours stands without it
            return error

    def _with_second(self, verification: Verification, prefill_mapping: ParallelMapping, second: AiperfResult) -> Verification:
        """`verification` with what aiperf says of single requests."""
        prefill, goal = _prefill(self.profile, prefill_mapping), self.goal
        ttft_ms = prefill.ttft_ms(goal.isl_tokens) if prefill else None
        found = [
            *_compared("TTFT of one request, by aiperf", ttft_ms, [second.ttft.mean_ms] if second.ttft else []),
            *_compared(
                "ITL of one request, by aiperf", _decode(self.profile).itl_ms(1, goal.context_tokens), [second.itl.mean_ms] if second.itl else []
            ),
        ]
        return replace(
            verification,
            comparisons=(*verification.comparisons, *found),
            warnings=(*verification.warnings, *_differences(found), *second.warnings),
        )

    async def prefill_alone(self, launcher: Launcher, deployment: Deployment) -> list[Comparison]:
        """TTFT of single requests on the prefill engine."""
        self.tell(f"verifying {deployment.mapping.label}: starting")
        async with self._client(launcher, deployment) as (_, client):
            run = await closed_loop(client, _trace(self.goal, ALONE, 0.0), 1)
        law = _prefill(self.profile, deployment.mapping)
        what = f"TTFT of one request, {deployment.mapping.label}"
        return _compared(what, law.ttft_ms(self.goal.isl_tokens), _ttft_ms(run.records)) if law else []

    @contextlib.asynccontextmanager
    async def _client(self, launcher: Launcher, deployment: Deployment) -> AsyncIterator[tuple[RunningEngine, StreamingClient]]:
        async with launcher.engine(deployment) as engine:
            server = Server(engine.url, engine.model, timeout_s=REQUEST_TIMEOUT_S)
            probed = await probe(server, isl_tokens=self.goal.isl_tokens, form=self.form)
            async with StreamingClient(probed.server, seed=None) as client:
                await client.send(self.goal.isl_tokens, self.goal.osl_tokens)  # the first of a shape may compile
                yield engine, client

    def _judged(self, prefill_mapping: ParallelMapping, alone: Run, loaded: Run | None, load: Load | None, how: str) -> Verification:
        goal = self.goal
        decode, prefill = _decode(self.profile), _prefill(self.profile, prefill_mapping)
        ttft_ms = prefill.ttft_ms(goal.isl_tokens) if prefill else None
        comparisons = [
            *_compared("TTFT of one request", ttft_ms, _ttft_ms(alone.records)),
            *_compared("ITL of one request", decode.itl_ms(1, goal.context_tokens), _itl_ms(alone.records)),
        ]
        records, at = list(alone.records), "one request at a time"
        if loaded is not None and load is not None:
            records, steady = list(loaded.records), _steady(loaded.records)
            at = f"{len(records)} requests at {load.rate_rps:.3g} a second, evenly spaced"
            in_flight = _in_flight(loaded.records, steady)
            step_ms = decode.itl_ms(max(in_flight, 1.0), goal.context_tokens)
            under_way_ms = step_ms / 2 if load.prefill_share else 0.0
            stalls_ms = _prefills_meanwhile(loaded.records, steady) * _prefill_ms(self.profile, goal, prefill_mapping) if load.prefill_share else 0.0
            itl_ms = step_ms + stalls_ms / (goal.osl_tokens - 1)
            comparisons += [
                *_compared(f"TTFT at {load.rate_rps:.3g} requests/s", ttft_ms and ttft_ms + under_way_ms, _ttft_ms(steady)),
                *_compared(f"ITL at {load.rate_rps:.3g} requests/s, {in_flight:.0f} in flight", itl_ms, _itl_ms(steady)),
            ]
        inside = sum(keeps_ttft(record, goal.promise) and keeps_itl(record, goal.promise) for record in records)
        failed = sum(bool(record.error) for record in records)
        return Verification(
            f"{how}; ISL {goal.isl_tokens}, OSL {goal.osl_tokens}; {at}",
            len(records),
            inside,
            failed,
            tuple(comparisons),
            _warnings(comparisons, goal, len(records), inside, failed),
        )


def even_load(profile: Profile, goal: Goal, prefill_mapping: ParallelMapping, *, pair: bool) -> Load | None:
    """The highest rate of the module's head; None when not even one request in flight keeps the promised ITL."""
    decode, prefill_s = _decode(profile), _prefill_ms(profile, goal, prefill_mapping) / 1000
    low, high, best = 0.0, BUSY / prefill_s, None
    for _ in range(40):
        rate = (low + high) / 2
        load = _at(decode, goal, rate, 0.0 if pair else rate * prefill_s)
        if load is not None and load.itl_ms <= LOAD * goal.promise.itl_ms:
            low, best = rate, load
        else:
            high = rate
    return best if best is not None and best.in_flight >= 1 else None


def _at(decode: FittedDecode, goal: Goal, rate_rps: float, prefill_share: float) -> Load | None:
    """Fixed point of ITL and requests in flight; None when it runs away."""
    itl_ms = decode.itl_ms(1, goal.context_tokens)
    for _ in range(200):
        in_flight = rate_rps * goal.osl_tokens * itl_ms / 1000
        if in_flight * (goal.isl_tokens + goal.osl_tokens) > decode.max_kv_tokens:
            return None
        following = decode.itl_ms(max(in_flight, 1.0), goal.context_tokens) / (1 - prefill_share)
        if abs(following - itl_ms) < 1e-6 * itl_ms:
            return Load(rate_rps, following, in_flight, prefill_share)
        itl_ms = following
    return None


def _steady(records: Sequence[RequestRecord]) -> list[RequestRecord]:
    """Without the first and the last lifetime, in which fewer are in flight."""
    first_end = min((record.sent_s + (record.e2e_s or 0.0) for record in records), default=0.0)
    last_sent = max((record.sent_s for record in records), default=0.0)
    lifetime = median([record.e2e_s for record in records if record.e2e_s] or [0.0])
    middle = [record for record in records if first_end <= record.sent_s <= last_sent - lifetime]
    return middle or list(records)


def _in_flight(records: Sequence[RequestRecord], steady: Sequence[RequestRecord]) -> float:
    """Requests between their first and their last token, mean over the time in which the `steady` ones live."""
    begin_s = min(record.sent_s for record in steady)
    end_s = max(record.sent_s + (record.e2e_s or 0.0) for record in steady)
    lives = ((record.sent_s + record.ttft_ms / 1000, record.sent_s + record.e2e_s) for record in records if record.ttft_ms and record.e2e_s)
    return sum(max(min(end, end_s) - max(start, begin_s), 0.0) for start, end in lives) / max(end_s - begin_s, 1e-9)


def _prefills_meanwhile(records: Sequence[RequestRecord], steady: Sequence[RequestRecord]) -> float:
    """Other requests' first tokens between the first and the last token of one, mean of the `steady` ones."""
    firsts = np.sort([record.sent_s + record.ttft_ms / 1000 for record in records if record.ttft_ms is not None])
    lives = [(record.sent_s + record.ttft_ms / 1000, record.sent_s + record.e2e_s) for record in steady if record.ttft_ms and record.e2e_s]
    counts = [np.searchsorted(firsts, end, "right") - np.searchsorted(firsts, start, "right") for start, end in lives]
    return float(np.mean(counts)) if counts else 0.0


def _warnings(comparisons: Sequence[Comparison], goal: Goal, requests: int, inside: int, failed: int) -> tuple[str, ...]:
    found = _differences(comparisons)
    if failed:
        found.append(f"{failed} of {requests} requests failed")
    if inside < goal.promise.attainment * requests:
        found.append(f"{inside} of {requests} requests kept the promise, {goal.promise.attainment:.0%} are promised".replace("%", " %"))
    return tuple(found)


def _differences(comparisons: Sequence[Comparison]) -> list[str]:
    return [
        f"{comparison.what}: {comparison.measured_ms:.4g} ms measured, {comparison.profile_ms:.4g} ms by the profile, "
        f"{100 * abs(comparison.difference):.0f} % {'slower' if comparison.difference > 0 else 'faster'}"
        for comparison in comparisons
        if comparison.off
    ]


def _compared(what: str, profile_ms: float | None, measured_ms: Sequence[float]) -> list[Comparison]:
    return [Comparison(what, profile_ms, median(measured_ms))] if measured_ms and profile_ms is not None else []


def _prefill(profile: Profile, mapping: ParallelMapping) -> FittedPrefill | None:
    """None for a mapping whose prefill was not measured."""
    return next((FittedPrefill(curve, mapping.gpus) for curve in profile.prefill if curve.mapping == mapping), None)


def _prefill_ms(profile: Profile, goal: Goal, mapping: ParallelMapping) -> float:
    """How long a prompt stops the engine; where its mapping was not measured for prefill, as long as it would stop the picked one."""
    law = _prefill(profile, mapping) or FittedPrefill(profile.picked_prefill, profile.selected_prefill.gpus)
    return law.ttft_ms(goal.isl_tokens)


def _decode(profile: Profile) -> FittedDecode:
    return FittedDecode(profile.picked_decode, profile.picked_decode.mapping.gpus)


def _count(load: Load, goal: Goal) -> int:
    lifetime_s = goal.osl_tokens * load.itl_ms / 1000
    return int(min(max(LIFETIMES * lifetime_s * load.rate_rps, LEAST_REQUESTS), MOST_REQUESTS))


def _trace(goal: Goal, count: int, rate_rps: float) -> Trace:
    arrival_s = np.arange(count) / rate_rps if rate_rps else np.zeros(count)
    return Trace(arrival_s, np.full(count, goal.isl_tokens), np.full(count, goal.osl_tokens))


def _ttft_ms(records: Sequence[RequestRecord]) -> list[float]:
    return [record.ttft_ms for record in records if not record.error and record.ttft_ms is not None]


def _itl_ms(records: Sequence[RequestRecord]) -> list[float]:
    return [record.itl_ms for record in records if not record.error and record.itl_ms is not None]
