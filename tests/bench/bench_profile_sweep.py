"""What a sweep costs, and how true its curves are, beside the grid of the reference profiler (Dynamo 0.6's profile_sla).

    python tests/bench/bench_profile_sweep.py [--quick]

Both measure the same simulated engines, whose laws are known: the shipped profile slowed, over tensor parallelism by law, with a small KV cache, so
that one core carries the streams. Both use this package's client and start engines the same way (about a second each; real ones take minutes), and
neither gets anything added to its wall time. The machine's load is printed: lateness of client or engine is an error of both.

    ours       `Sweep` over all mappings, without and with noise of the engine's steps
    reference  per TP a prefill deployment (one point) and a decode deployment (6 concurrencies at the goal's lengths); then, on the picks deployed
               anew, 17 prompt lengths, and 6 contexts x 6 concurrencies with OSL 500. A prefill point is the last of 4 requests with OSL 5, a decode
               point the second of two closed waves with all output tokens, ITL = mean over its requests, throughput = tokens / the whole wave.

In the reference's favour: its second wave finds its prompts in a prefix cache, which the simulated engine lacks, so its decode engines answer any
number of prompts in the fixed cost of one, in the first wave too; the three requests before each wave are left out, and so is starting its client.

Errors are |curve - law| / law. TTFT: PROMPTS prompt lengths from 384 tokens to the longest that was measured; ITL: batches x contexts between the
measured ones, within the KV cache, as far as ITL is within 1.5 times the promise; throughput/GPU likewise (prompt / TTFT, batch / ITL; of the
reference its own column). The reference's curves answer twice: by its own interpolation and, to tell measuring from interpolating, by the law fitted
to its points. They exist for its picks only, ours for every mapping.

It fails when a promise on accuracy or on the number of points is broken, never because of wall time; with --quick, which has short answers for the
reference and runs wherever tests run, only at twice the promised errors.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import TypeVar

import numpy as np

from sla_planner.engines.backends import backend
from sla_planner.engines.process import ProcessLauncher
from sla_planner.model.engine import engine_of
from sla_planner.model.fitted import FittedDecode, FittedPrefill
from sla_planner.model.profile import (
    DecodeMeasurement,
    DecodePoint,
    ParallelMapping,
    PrefillMeasurement,
    PrefillPoint,
    Profile,
    Provenance,
    slowed,
)
from sla_planner.model.sla import Sla
from sla_planner.model.tensor_parallel import over_tensor_parallel
from sla_planner.store.point_files import PointFiles
from sla_planner.store.profile_files import read_profile, sample_profile_dir, write_profile_json
from sla_planner.sweep.assemble import assembled
from sla_planner.sweep.port import Deployment, Phase
from sla_planner.sweep.result import Goal
from sla_planner.sweep.runner import Options, Sweep
from sla_planner.traffic.client import Server, StreamingClient
from sla_planner.traffic.replay import Run, closed_loop
from sla_planner.traffic.trace import Trace

SLOWED_PREFILL, SLOWED_DECODE = 4.0, 2.0  # an HTTP round trip must stay small beside a TTFT
KV_TOKENS = 48_000  # whatever the size
MAX_CONTEXT_TOKENS = 4096
GOAL = Goal(Sla(ttft_ms=250, itl_ms=12), isl_tokens=1000, osl_tokens=150)
NOISE = 0.05
MEAN_ERROR, MEAN_ERROR_NOISY, POINTS_PER_MAPPING = 0.04, 0.06, 10  # promised
MOST_POINTS_PER_MAPPING = 21  # what the options of a sweep allow where an engine is noisy, or the machine was too busy for a point

SHORTEST_ISL = 384
PROMPTS, CONTEXTS = 24, 6
BATCHES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96)
FAR_PAST = 1.5
APART = 128  # a prompt length that is printed apart: there the HTTP round trip counts

Shape = TypeVar("Shape")
Point = TypeVar("Point")


@dataclass(frozen=True, slots=True)
class Grid:
    """The reference's. `osl_tokens`: of the decode interpolation. `noisy`: mappings that ours also measures with noise; `leniency`: times the
    promised errors, where the run fails."""

    sizes: tuple[int, ...] = (1, 2, 4, 8)
    prompts: int = 16  # steps: one more point
    steps: int = 6  # of context, and of concurrency
    osl_tokens: int = 500
    goal_osl_tokens: int = GOAL.osl_tokens
    noisy: int = 4
    leniency: float = 1.0


QUICK = Grid(sizes=(1, 2), prompts=8, steps=3, osl_tokens=150, goal_osl_tokens=75, noisy=1, leniency=2.0)


@dataclass(slots=True)
class Spent:
    """What a procedure cost."""

    deployments: int = 0
    points: int = 0
    wall_s: float = 0.0
    gpu_s: float = 0.0
    client_lag_ms: float = 0.0  # the worst p99 of a run
    distrusted: int = 0  # of the points


@dataclass(slots=True)
class Errors:
    """Relative errors of one phase of one mapping."""

    label: str
    latency: list[float] = field(default_factory=list)
    throughput: list[float] = field(default_factory=list)
    note: str = ""

    @property
    def row(self) -> str:
        columns = (f"{fmean(errors):.1%} | {max(errors):.1%}" for errors in (self.latency, self.throughput))
        return f"| {self.label} | {' | '.join(columns)} | {self.note} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="two sizes, a grid of half the steps, short answers")
    grid = QUICK if parser.parse_args().quick else Grid()
    with tempfile.TemporaryDirectory() as folder:
        broken = asyncio.run(compared(grid, Path(folder)))
    if broken:
        sys.exit("\n".join(f"broken promise: {line}" for line in broken))


async def compared(grid: Grid, folder: Path) -> list[str]:
    """Run and print everything; which promises are broken."""
    engines = Engines(grid.sizes, folder)
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; TP {', '.join(map(str, grid.sizes))}\n", flush=True)
    print("| curves | mean latency error | max | mean throughput error | max | |\n|---|---|---|---|---|---|")
    spent: dict[str, Spent] = {}
    broken = []
    for name, noise, promised, mappings in (
        ("ours", 0.0, MEAN_ERROR, engines.mappings),
        (f"ours, noise {NOISE:g}", NOISE, MEAN_ERROR_NOISY, engines.mappings[: grid.noisy]),
    ):
        profile, spent[name] = await ours(engines.launcher(noise=noise), mappings, folder / name)
        prefill, decode = prefill_errors(name, profile, engines.truth), decode_errors(name, profile, engines.truth)
        whole = [_together(f"{name}, all: TTFT", prefill), _together(f"{name}, all: ITL", decode)]
        print(*(row.row for row in (*prefill, *decode, *whole)), sep="\n", flush=True)
        broken += _broken(spent[name], len(mappings), whole, promised * grid.leniency, noisy=noise > 0)
    reference = Reference(engines, grid)
    profile = await reference.profile()
    spent["reference"] = reference.spent
    print(*(row.row for row in reference_errors(profile, engines.truth)), sep="\n")
    print("\n| | deployments | points | wall s | GPU-hours | client late by ms (worst p99) |\n|---|---|---|---|---|---|")
    for name, cost in spent.items():
        print(f"| {name} | {cost.deployments} | {cost.points} | {cost.wall_s:.0f} | {cost.gpu_s / 3600:.3f} | {cost.client_lag_ms:.1f} |")
    clean, theirs = spent["ours"], spent["reference"]
    print(
        f"\nreference / ours: wall {theirs.wall_s / clean.wall_s:.1f}, GPU-hours {theirs.gpu_s / clean.gpu_s:.1f}, "
        f"deployments {theirs.deployments / clean.deployments:.1f}, points {theirs.points / clean.points:.1f}"
    )
    return broken


def _together(label: str, rows: Sequence[Errors]) -> Errors:
    return Errors(label, [error for row in rows for error in row.latency], [error for row in rows for error in row.throughput])


def _broken(spent: Spent, mappings: int, rows: Sequence[Errors], promised: float, *, noisy: bool) -> list[str]:
    lines = [f"{row.label}: mean error {fmean(row.latency):.1%}, limit {promised:.0%}" for row in rows if fmean(row.latency) > promised]
    most = MOST_POINTS_PER_MAPPING if noisy or spent.distrusted else POINTS_PER_MAPPING
    if spent.points > most * mappings or spent.deployments > mappings:
        lines.append(f"{spent.points} points from {spent.deployments} deployments, limit {most * mappings} from {mappings}")
    return lines


# ---- the engines --------------------------------------------------------------------------------------------------------------------------


class Engines:
    """Simulated engines with known laws, and what starts them."""

    def __init__(self, sizes: Sequence[int], folder: Path) -> None:
        one = read_profile(sample_profile_dir())
        one = replace(slowed(one, SLOWED_PREFILL), decode=slowed(one, SLOWED_DECODE).decode)
        profile = over_tensor_parallel(one, sizes)
        profile = replace(profile, decode=tuple(_of_capacity(surface, KV_TOKENS) for surface in profile.decode))
        cached = replace(profile, prefill=tuple(_of_fixed_cost(curve) for curve in profile.prefill))
        self._file, self._cached_file = folder / "engine.json", folder / "cached.json"
        write_profile_json(profile, self._file)
        write_profile_json(cached, self._cached_file)
        self.truth = read_profile(self._file)
        self.mappings = [surface.mapping for surface in profile.decode]

    def launcher(self, *, noise: float = 0.0, cached: bool = False) -> ProcessLauncher:
        """`cached`: prompts cost as if a prefix cache had them."""
        command = [sys.executable, "-m", "sla_planner", "engine-sim", "--mode", "agg", "--profile", str(self._cached_file if cached else self._file)]
        command += ["--noise", f"{noise}", *(["--max-batched-tokens", "10000000"] if cached else [])]
        return ProcessLauncher(f"{shlex.join(command)} --tp {{tp}} --port {{port}}", backend("simulated"))


def _of_capacity(surface: DecodeMeasurement, max_kv_tokens: int) -> DecodeMeasurement:
    held = [(point, point.kv_usage * surface.max_kv_tokens / max_kv_tokens) for point in surface.points]
    return DecodeMeasurement(surface.mapping, tuple(replace(point, kv_usage=usage) for point, usage in held if usage <= 1), max_kv_tokens)


def _of_fixed_cost(curve: PrefillMeasurement) -> PrefillMeasurement:
    fixed_ms = FittedPrefill(curve, curve.mapping.gpus).law.overhead_ms
    return replace(curve, points=tuple(replace(point, ttft_ms=fixed_ms) for point in curve.points))


# ---- ours ---------------------------------------------------------------------------------------------------------------------------------


async def ours(launcher: ProcessLauncher, mappings: Sequence[ParallelMapping], folder: Path) -> tuple[Profile, Spent]:
    with PointFiles(folder) as points:
        sweep = Sweep(GOAL, Options(max_context_tokens=MAX_CONTEXT_TOKENS), launcher, points, lambda _: None)
        runs = await sweep.run([Deployment(mapping) for mapping in mappings])
    measured = [point for run in runs for point in run.points]
    lag_ms = max(seen.client_lag_ms for point in measured if (seen := point.prefill or point.decode))
    tally = sweep.tally
    spent = Spent(tally.deployments, tally.measured, tally.wall_s, tally.gpu_s, lag_ms, sum(bool(point.defects) for point in measured))
    return assembled(runs, GOAL, Provenance("measured")).profile, spent


# ---- the reference ------------------------------------------------------------------------------------------------------------------------


class Reference:
    """Its procedure, one deployment after another. `spent`: so far."""

    def __init__(self, engines: Engines, grid: Grid) -> None:
        self._engines, self._grid = engines, grid
        self.spent = Spent()

    async def profile(self) -> Profile:
        """The interpolation data of its picks."""
        began_s = time.monotonic()
        prefill, decode = [], []
        for mapping in self._engines.mappings:
            prefill.append((mapping, (await self._prompts(mapping, [GOAL.isl_tokens]))[0]))
        for mapping in self._engines.mappings:
            decode += [(mapping, point) for point in await self._waves(mapping, [GOAL.isl_tokens], self._grid.goal_osl_tokens)]
        of_prefill = _best([(m, p.ttft_ms <= GOAL.promise.ttft_ms, p.throughput_per_gpu) for m, p in prefill])
        of_decode = _best([(m, p.itl_ms <= GOAL.promise.itl_ms, p.throughput_per_gpu) for m, p in decode])
        longest = MAX_CONTEXT_TOKENS - 512
        isls = range(100, longest, (longest - 100) // self._grid.prompts)
        curve = await self._prompts(of_prefill, isls)
        room = MAX_CONTEXT_TOKENS - self._grid.osl_tokens
        surface = await self._waves(of_decode, range(100, room, room // self._grid.steps), self._grid.osl_tokens)
        self.spent.wall_s = time.monotonic() - began_s
        return Profile(
            (PrefillMeasurement(of_prefill, tuple(curve)),),
            (DecodeMeasurement(of_decode, tuple(surface), KV_TOKENS),),
            of_prefill,
            of_decode,
        )

    async def _prompts(self, mapping: ParallelMapping, isls: Iterable[int]) -> list[PrefillPoint]:
        async def point(client: StreamingClient, isl: int) -> PrefillPoint:
            await closed_loop(client, _requests(isl, 5, 3), 1)
            run = self._checked(await closed_loop(client, _requests(isl, 5, 1), 1))
            ttft_ms = run.records[0].ttft_ms
            assert ttft_ms is not None
            return PrefillPoint(isl, ttft_ms, isl / ttft_ms * 1000 / mapping.gpus)

        return await self._deployed(Deployment(mapping, Phase.PREFILL), point, list(isls))

    async def _waves(self, mapping: ParallelMapping, isls: Iterable[int], osl: int) -> list[DecodePoint]:
        async def point(client: StreamingClient, shape: tuple[int, int]) -> DecodePoint:
            isl, together = shape
            for _ in range(2):
                run = self._checked(await closed_loop(client, _requests(isl, osl, together), together))
            context = isl + osl / 2
            itl_ms = fmean(record.itl_ms for record in run.records if record.itl_ms is not None)
            return DecodePoint(context * together / KV_TOKENS, context, itl_ms, osl * together / run.wall_s / mapping.gpus)

        shapes = [(isl, together) for isl in isls for together in _evenly(KV_TOKENS // (isl + osl), self._grid.steps)]
        return await self._deployed(Deployment(mapping, Phase.DECODE), point, shapes)

    async def _deployed(
        self, deployment: Deployment, point: Callable[[StreamingClient, Shape], Awaitable[Point]], shapes: Sequence[Shape]
    ) -> list[Point]:
        began_s = time.monotonic()
        launcher = self._engines.launcher(cached=deployment.phase is Phase.DECODE)
        async with launcher.engine(deployment) as engine, StreamingClient(Server(engine.url, engine.model), seed=0) as client:
            points = [await point(client, shape) for shape in shapes]
        self.spent.deployments += 1
        self.spent.points += len(points)
        self.spent.gpu_s += (time.monotonic() - began_s) * deployment.mapping.gpus
        return points

    def _checked(self, run: Run) -> Run:
        failed = [record.error for record in run.records if record.error]
        if failed:
            sys.exit(f"{len(failed)} of {len(run.records)} requests of the reference failed: {failed[0]}")
        self.spent.client_lag_ms = max(self.spent.client_lag_ms, run.client_lag_ms)
        return run


def _requests(isl: int, osl: int, count: int) -> Trace:
    return Trace(np.zeros(count), np.full(count, isl), np.full(count, osl))


def _evenly(most: int, steps: int) -> list[int]:
    return sorted({round(value) for value in np.linspace(1, most, steps)}) if most >= steps else list(range(1, most + 1))


def _best(found: Sequence[tuple[ParallelMapping, bool, float]]) -> ParallelMapping:
    """Of those that keep the promise (of all, when none does) the one with the highest throughput per GPU."""
    return max([each for each in found if each[1]] or found, key=lambda each: each[2])[0]


# ---- errors -------------------------------------------------------------------------------------------------------------------------------


def prefill_errors(name: str, profile: Profile, truth: Profile) -> list[Errors]:
    rows = []
    laws = {curve.mapping: FittedPrefill(curve, curve.mapping.gpus) for curve in truth.prefill}
    for curve in profile.prefill:
        law, fitted = laws[curve.mapping], FittedPrefill(curve, curve.mapping.gpus)
        rows.append(_prefill(f"{name}, {curve.mapping.label}: TTFT", fitted.ttft_ms, fitted.throughput_per_gpu, law, fitted.isl_range))
        rows[-1].note = f"{rows[-1].note}; {_points(curve.points)}"
    return rows


def decode_errors(name: str, profile: Profile, truth: Profile) -> list[Errors]:
    rows = []
    laws = {surface.mapping: FittedDecode(surface, surface.mapping.gpus) for surface in truth.decode}
    for surface in profile.decode:
        law, fitted = laws[surface.mapping], FittedDecode(surface, surface.mapping.gpus)
        row = Errors(f"{name}, {surface.mapping.label}: ITL", note=_points(surface.points))
        for batch, context in _operating_points(law, fitted.context_range):
            itl_ms, lawful_ms = fitted.itl_ms(batch, context), law.itl_ms(batch, context)
            row.latency.append(_error(itl_ms, lawful_ms))
            row.throughput.append(_error(1 / itl_ms, 1 / lawful_ms))
        rows.append(row)
    return rows


def reference_errors(profile: Profile, truth: Profile) -> list[Errors]:
    """By its own interpolation, then by the law fitted to its points."""
    own, curve, surface = engine_of(profile, "as_measured"), profile.picked_prefill, profile.picked_decode
    law = FittedPrefill(next(each for each in truth.prefill if each.mapping == curve.mapping), curve.mapping.gpus)
    isl_range = (curve.points[0].isl_tokens, curve.points[-1].isl_tokens)
    prefill = _prefill(f"reference, {curve.mapping.label}: TTFT", own.prefill.ttft_ms, own.prefill.throughput_per_gpu, law, isl_range)
    prefill.note = f"{prefill.note}; {_points(curve.points)}"
    lawful = FittedDecode(next(each for each in truth.decode if each.mapping == surface.mapping), surface.mapping.gpus)
    decode = Errors(f"reference, {surface.mapping.label}: ITL", note=f"throughput at its points; {_points(surface.points)}")
    for batch, context in _operating_points(lawful, (surface.points[0].context_tokens, surface.points[-1].context_tokens)):
        decode.latency.append(_error(own.decode.itl_ms(batch, context), lawful.itl_ms(batch, context)))
    for point in surface.points:
        running = surface.batch(point)
        itl_ms = lawful.itl_ms(running, point.context_tokens)
        if itl_ms <= FAR_PAST * GOAL.promise.itl_ms:
            decode.throughput.append(_error(point.throughput_per_gpu, running / itl_ms * 1000 / surface.mapping.gpus))
    return [prefill, decode, *prefill_errors("reference, fitted", profile, truth), *decode_errors("reference, fitted", profile, truth)]


def _prefill(
    label: str, ttft_ms: Callable[[float], float], throughput: Callable[[float], float], law: FittedPrefill, isl_range: tuple[float, float]
) -> Errors:
    row, late_ms = Errors(label), []
    for isl in np.geomspace(max(SHORTEST_ISL, isl_range[0]), isl_range[1], PROMPTS).tolist():
        row.latency.append(_error(ttft_ms(isl), law.ttft_ms(isl)))
        row.throughput.append(_error(throughput(isl), law.throughput_per_gpu(isl)))
        late_ms.append(ttft_ms(isl) - law.ttft_ms(isl))
    apart_ms = law.ttft_ms(APART)
    row.note = f"{fmean(late_ms):+.1f} ms; ISL {APART}: {_error(ttft_ms(APART), apart_ms):.1%} of {apart_ms:.0f} ms"
    return row


def _operating_points(law: FittedDecode, contexts: tuple[float, float]) -> list[tuple[int, float]]:
    return [
        (batch, context)
        for context in np.geomspace(*contexts, CONTEXTS).tolist()
        for batch in BATCHES
        if batch * context <= law.max_kv_tokens and law.itl_ms(batch, context) <= FAR_PAST * GOAL.promise.itl_ms
    ]


def _points(points: Sequence[PrefillPoint] | Sequence[DecodePoint]) -> str:
    flagged = sum(bool(point.flags) for point in points)
    return f"{len(points)} points" + (f", {flagged} flagged" if flagged else "")


def _error(value: float, truth: float) -> float:
    return abs(value - truth) / truth


if __name__ == "__main__":
    main()
