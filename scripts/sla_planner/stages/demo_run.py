"""The demo's processes, traffic and live view.

First a short sweep finds out how fast the engine is (demo_sweep.py). Then recorded traffic is played `SPEED_UP` times as fast, thinned to `SCALE` of
its requests by day and to `DAY`'s share of that by night, because half an hour of recording holds no night. A worker starts in `STARTUP_S`, the
planner decides every `INTERVAL_S`: two minutes and half a minute at that speed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import click
import numpy as np

from sla_planner import __version__
from sla_planner.atomic import write_bytes, write_text
from sla_planner.cluster.virtual import open_virtual_target
from sla_planner.errors import InfeasibleError, InterruptedRun, UnreachableError, UsageError
from sla_planner.model.engine import engine_of
from sla_planner.model.sla import Sla
from sla_planner.plan.observation import WorkerCounts
from sla_planner.plan.peak import peak_fleet
from sla_planner.plan.record import Tick
from sla_planner.report.page import html
from sla_planner.report.plots import PICTURES, pictures
from sla_planner.report.run import Requests, RoleUse, Row, RunReport, WorkerSamples, changes
from sla_planner.report.terminal import LatencyNow, LiveState, LiveView, table
from sla_planner.report.wording import headline, summary
from sla_planner.stages.demo_sweep import SIZES, SLOWDOWN, picked_sizes, sweep_flags, write_engines
from sla_planner.store.profile_files import read_profile
from sla_planner.traffic.client import RequestRecord, Server, StreamingClient
from sla_planner.traffic.replay import Run, Watch, replay
from sla_planner.traffic.summary import keeps_itl, keeps_ttft
from sla_planner.traffic.trace import Trace, read_trace, sample_trace_path

SPEED_UP = 50.0
SCALE = 0.25
DAY = ((0.0, 0.2), (7.0, 0.2), (17.0, 1.0), (23.0, 1.0), (28.0, 0.2))  # (second of the demo, share of users awake)
PIECE = (540.0, 2540.0)  # seconds of the excerpt; what lies before them is what the planner remembers when it starts
STARTUP_S = 1.5
INTERVAL_S = 0.5
PROMISE = Sla(ttft_ms=1500.0, itl_ms=30.0, attainment=0.99)
FIRST_FLEET = (2, 2)  # what the night needs
MODEL = "llama-3.1-8b"
REPORT = "report.html"
ENGINES, RESULTS = "engines.json", "profiling_results"
SWEEPING = "First, profile-sweep: how fast is the engine on one GPU and on two? Under a minute."
START_LIMIT_S = 30.0
STOP_LIMIT_S = 10.0
SAMPLE_EVERY_S = 0.25
RECENT = 100  # requests that the live p99 is taken over
TITLE = "SLA Planner on recorded traffic"


def run(output_dir: Path, seed: int, *, sweep: bool) -> None:
    """Run the demo and write its report; without `sweep` on the profile that an earlier one left.

    Raises `InfeasibleError` when the promise was not kept or no worker went up or down.
    """
    recorded = read_trace(sample_trace_path())
    night = recorded.window(0.0, PIECE[0]).scaled(SCALE * DAY[0][1], seed=seed).sped_up(SPEED_UP)
    trace = recorded.window(*PIECE).scaled(SCALE, seed=seed).sped_up(SPEED_UP).shaped(DAY, seed=seed)
    work_dir = output_dir / "run"
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make {work_dir}: {error.strerror}", hint="choose another --output-dir") from None
    for own in (*PICTURES, REPORT):  # what an earlier run left must not pass for this one's; nothing else in the folder is ours
        (output_dir / own).unlink(missing_ok=True)
    if sweep:
        write_engines(work_dir / ENGINES)
    _write_trace(night, work_dir / "before.csv")
    demo = _Demo(work_dir, trace, seed, sweep)
    asyncio.run(demo.play())
    report = demo.report()
    _write(report, output_dir)
    click.echo(f"\n{headline(report)}\n")
    click.echo(table([(row.label, row.value, row.note) for row in summary(report)], ("what", "result", "compared")))
    click.echo(f"\nReport: {output_dir / REPORT}, of the sweep: {demo.profile / REPORT}")
    _judge(report)


def _write_trace(trace: Trace, path: Path) -> None:
    rows = zip(trace.arrival_s.tolist(), trace.isl_tokens.tolist(), trace.osl_tokens.tolist(), strict=True)
    write_text(path, "arrival_s,isl,osl\n" + "".join(f"{arrival_s:.3f},{isl},{osl}\n" for arrival_s, isl, osl in rows))


def _write(report: RunReport, output_dir: Path) -> None:
    drawn = pictures(report)
    for name, png in drawn.items():
        write_bytes(output_dir / name, png)
    write_text(output_dir / REPORT, html(report, drawn))


def _judge(report: RunReport) -> None:
    made = list(changes(report.ticks, report.start_s))
    ups, downs = sum(change.after > change.before for change in made), sum(change.after < change.before for change in made)
    if not report.kept:
        share = report.requests.inside_count / max(report.requests.count, 1)
        raise InfeasibleError(
            f"the promise was not kept: {share:.2%} of requests inside, {PROMISE.attainment:.0%} promised",
            hint="a busy machine delays the simulated engine too; see the report's last rows, or run it again",
        )
    if not (ups and downs):
        raise InfeasibleError(f"workers went up {ups} and down {downs} times; the demo shows both", hint="see the report")


@dataclass(slots=True)
class _Demo:
    """One run under way, and then what it left."""

    work_dir: Path
    trace: Trace
    seed: int
    sweep: bool
    ticks: list[Tick] = field(default_factory=list)
    records: list[RequestRecord] = field(default_factory=list)
    samples: list[tuple[float, ...]] = field(default_factory=list)
    recent: deque[RequestRecord] = field(default_factory=lambda: deque(maxlen=RECENT))
    start_s: float = 0.0
    duration_s: float = 0.0
    gpu_s: dict[str, float] = field(default_factory=dict)
    timing: dict[str, Any] = field(default_factory=dict)
    client_lag_ms: float = 0.0

    async def play(self) -> None:
        """All processes up, traffic through, all processes down; on any way out."""
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        if self.sweep:
            await self._sweep(stop)
        target = f"file:{self.work_dir / 'fleet.json'}"
        for old in ("fleet.json", "state.json"):
            (self.work_dir / old).unlink(missing_ok=True)
        open_virtual_target(target).apply(*FIRST_FLEET, now_s=time.time())
        async with self._process("engine-sim", *self._engine_flags(target)) as engine:
            url = await _ready_url(engine, self.work_dir / "engine-sim.log")
            async with self._process("planner", *self._planner_flags(target, url)) as planner, aiohttp.ClientSession(url) as session:
                reading = asyncio.create_task(self._read_ticks(planner))
                await self._first_tick(planner, stop)
                watching = asyncio.create_task(self._sample(session))
                result = await self._send(url, stop)
                self.duration_s = time.time() - self.start_s
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
                await _stop(planner)
                await reading
        if result.stopped:
            raise InterruptedRun("interrupted", hint="nothing is left running; no report was written")

    @property
    def profile(self) -> Path:
        """What the sweep leaves and the planner reads."""
        return self.work_dir / RESULTS

    async def _sweep(self, stop: asyncio.Event) -> None:
        """Measure the engine at every size, and pick."""
        click.echo(SWEEPING, err=True)
        flags = sweep_flags(self.work_dir / ENGINES, self.profile, MODEL, PROMISE)
        async with self._process("profile-sweep", *flags) as sweep:
            assert sweep.stdout is not None
            told, stopping = asyncio.create_task(sweep.stdout.read()), asyncio.create_task(stop.wait())
            await asyncio.wait((told, stopping), return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if stop.is_set():
                told.cancel()
                raise InterruptedRun("interrupted", hint="nothing is left running; no report was written")
            if await sweep.wait() != 0:
                raise UnreachableError("the sweep did not finish", hint="see the lines above")
            for line in (await told).decode().splitlines()[-2:]:
                click.echo(line)

    def _engine_flags(self, target: str) -> tuple[str, ...]:
        prefill, decode = FIRST_FLEET
        prefill_tp, decode_tp = picked_sizes(read_profile(self.profile))
        return (
            *("--port", "0", "--model", MODEL, "--profile", str(self.work_dir / ENGINES), "--virtual-target", target),
            *("--prefill-tp", str(prefill_tp), "--decode-tp", str(decode_tp), "--startup-s", f"{STARTUP_S:g}"),
            *("--prefill-workers", str(prefill), "--decode-workers", str(decode), "--seed", str(self.seed), "--log-format", "json"),
        )

    def _planner_flags(self, target: str, url: str) -> tuple[str, ...]:
        return (
            *("--scrape-url", f"{url}/metrics", "--model-name", MODEL, "--profile-results-dir", str(self.profile), "--virtual-target", target),
            *("--ttft", f"{PROMISE.ttft_ms:g}", "--itl", f"{PROMISE.itl_ms:g}", "--attainment", f"{PROMISE.attainment:g}"),
            *("--adjustment-interval", f"{INTERVAL_S:g}", "--startup-s", f"{STARTUP_S:g}", "--state", str(self.work_dir / "state.json")),
            *("--warmup-trace", str(self.work_dir / "before.csv"), "--log-format", "json"),
        )

    @asynccontextmanager
    async def _process(self, stage: str, *flags: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """One of our own stages, in its own process group so that Ctrl-C reaches only this one; gone when the block ends."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sla_planner", stage, *flags),
            stdout=asyncio.subprocess.DEVNULL if stage == "planner" else asyncio.subprocess.PIPE,
            stderr=self._stderr(stage),
            limit=2**24,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            await _stop(process)

    def _stderr(self, stage: str) -> Any:
        """The sweep shows its own progress, the planner's ticks are read, everything else goes to a log."""
        if stage == "profile-sweep":
            return None
        return asyncio.subprocess.PIPE if stage == "planner" else (self.work_dir / f"{stage}.log").open("wb")

    async def _read_ticks(self, planner: asyncio.subprocess.Process) -> None:
        """The planner's log, line by line: kept in a file, ticks taken out of it."""
        assert planner.stderr is not None
        with (self.work_dir / "planner.log").open("wb") as log:
            async for line in planner.stderr:
                log.write(line)
                with contextlib.suppress(ValueError):
                    document = json.loads(line)
                    if "tick" in document:
                        self.ticks.append(Tick.from_json(document["tick"]))

    async def _first_tick(self, planner: asyncio.subprocess.Process, stop: asyncio.Event) -> None:
        """The planner has looked once, so its first window begins before the traffic does."""
        deadline_s = time.monotonic() + START_LIMIT_S
        while not self.ticks and not stop.is_set():
            if planner.returncode is not None or time.monotonic() > deadline_s:
                raise UnreachableError("the planner did not start", hint=f"see {self.work_dir / 'planner.log'}")
            await asyncio.sleep(0.02)

    async def _send(self, url: str, stop: asyncio.Event) -> Run:
        self.start_s = time.time()
        with LiveView(sys.stderr) as view:
            watch = Watch(lambda _: self._show(view), SAMPLE_EVERY_S, stop, self._finished)
            async with StreamingClient(Server(url, MODEL), seed=self.seed) as client:
                result = await replay(client, self.trace, watch)
        self.records = list(result.records)
        self.client_lag_ms = result.client_lag_ms
        return result

    def _finished(self, record: RequestRecord) -> None:
        self.records.append(record)
        self.recent.append(record)

    async def _sample(self, session: aiohttp.ClientSession) -> None:
        """The fleet as it is, and what it has cost so far."""
        base: dict[str, float] | None = None
        while True:
            state = await _sim_state(session)
            base = base or state["gpu_seconds"]
            self.gpu_s = {role: spent - base[role] for role, spent in state["gpu_seconds"].items()}
            counts = [
                sum(worker["state"] == wanted for worker in state["workers"][role])
                for role in ("prefill", "decode")
                for wanted in ("ready", "starting")
            ]
            self.samples.append((time.time() - self.start_s, *counts))
            self.timing = state["timing"]
            await asyncio.sleep(SAMPLE_EVERY_S)

    def _show(self, view: LiveView) -> None:
        elapsed_s = time.time() - self.start_s
        seen = self.ticks[-1].observation if self.ticks else None
        view.show(
            LiveState(
                title=TITLE,
                promise=PROMISE,
                start_s=self.start_s,
                elapsed_s=elapsed_s,
                duration_s=max(self.trace.end_s, elapsed_s),
                load_rps=tuple(_rate(self.trace, elapsed_s)),
                ttft=_latency([record.ttft_ms for record in self.recent], [keeps_ttft(record, PROMISE) for record in self.records]),
                itl=_latency([record.itl_ms for record in self.recent], [keeps_itl(record, PROMISE) for record in self.records]),
                prefill=(seen and seen.prefill) or WorkerCounts(FIRST_FLEET[0]),
                decode=(seen and seen.decode) or WorkerCounts(FIRST_FLEET[1]),
                ticks=tuple(self.ticks),
            )
        )

    def report(self) -> RunReport:
        """The run as the report draws it."""
        engine = engine_of(read_profile(self.profile))
        trace = self.trace
        peak = peak_fleet(engine, PROMISE, trace.arrival_s, trace.isl_tokens, trace.osl_tokens, window_s=STARTUP_S + INTERVAL_S)
        columns = np.array(self.samples).T
        return RunReport(
            title=TITLE,
            promise=PROMISE,
            start_s=self.start_s,
            duration_s=self.duration_s,
            requests=Requests(
                arrival_s=np.array([record.scheduled_s for record in self.records]),
                isl_tokens=np.array([record.isl_tokens for record in self.records]),
                ttft_ms=np.array([record.ttft_ms for record in self.records], float),
                itl_ms=np.array([record.itl_ms for record in self.records], float),
                inside=np.array([keeps_ttft(record, PROMISE) and keeps_itl(record, PROMISE) for record in self.records], bool),
            ),
            ticks=tuple(tick for tick in self.ticks if tick.decision.at_s <= self.start_s + self.duration_s),
            prefill=RoleUse(self.gpu_s["prefill"], peak[0], engine.prefill.gpus),
            decode=RoleUse(self.gpu_s["decode"], peak[1], engine.decode.gpus),
            workers=WorkerSamples(columns[0], *(column.astype(int) for column in columns[1:])),
            rows=self._honesty(),
            facts=self._facts(),
        )

    def _honesty(self) -> tuple[Row, ...]:
        """Whether this machine kept up with what it was asked to simulate and to measure."""
        kept_up = "yes" if self.timing["keeps_up"] else "no"
        return (
            Row(
                "Simulated engine kept up",
                kept_up,
                f"{self.timing['late_share']:.1%} of steps late, median step error {self.timing['step_error_p50']:.1%}",
            ),
            Row("Client lag, p99", f"{self.client_lag_ms:.1f} ms"),
        )

    def _facts(self) -> tuple[tuple[str, str], ...]:
        minutes = (PIECE[1] - PIECE[0]) / 60
        played = (
            f"{minutes:.0f} minutes, {SPEED_UP:g} times as fast, thinned to {SCALE:.0%} of the requests by day and {SCALE * DAY[0][1]:.0%} by night"
        )
        slowed_down = f"slowed {SLOWDOWN:g} times so that a laptop can carry it"
        prefill_tp, decode_tp = picked_sizes(read_profile(self.profile))
        return (
            ("Version", f"sla-planner {__version__}"),
            ("Traffic", f"Azure LLM inference trace 2023, conversation (CC-BY 4.0): {played}"),
            ("Engine", f"simulated: Llama-3.1-8B FP8 on one H200 (measured profile, test data of NVIDIA Dynamo), {slowed_down}"),
            (
                "Profile",
                f"measured by profile-sweep over TP {', '.join(map(str, SIZES))}; picked TP {prefill_tp} for prefill, TP {decode_tp} for decode",
            ),
            ("Start-up of a worker", f"{STARTUP_S:g} s, decisions every {INTERVAL_S:g} s"),
            ("Peak-sized fleet", "constant, just large enough for the busiest moment of this traffic, which it knows in advance"),
            ("Reproduce", f"sla-planner demo --seed {self.seed}"),
        )


def _rate(trace: Trace, elapsed_s: float) -> list[float]:
    """Requests per second, second by second, up to now."""
    edges = np.arange(0.0, max(elapsed_s, 1.0) + 1e-9, 1.0)
    counts: list[float] = np.histogram(trace.arrival_s, edges)[0].astype(float).tolist()
    return counts


def _latency(recent_ms: list[float | None], kept: list[bool]) -> LatencyNow:
    known = [value for value in recent_ms if value is not None]
    return LatencyNow(float(np.percentile(known, 99)) if known else None, sum(kept), len(kept))


async def _ready_url(engine: asyncio.subprocess.Process, log: Path) -> str:
    """The address in the line that engine-sim prints when it serves."""
    assert engine.stdout is not None
    try:
        line = (await asyncio.wait_for(engine.stdout.readline(), START_LIMIT_S)).decode()
    except TimeoutError:
        line = ""
    found = re.search(r"http://\S+", line)
    if found is None:
        raise UnreachableError("engine-sim did not start", hint=f"see {log}")
    return found[0]


async def _sim_state(session: aiohttp.ClientSession) -> dict[str, Any]:
    async with session.get("/sim/state") as response:
        state: dict[str, Any] = await response.json()
        return state


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Ask it to end; make it, if it does not."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_LIMIT_S)
    except TimeoutError:
        process.kill()
        await process.wait()
