"""What the tests of a sweep share: a small profile with laws that are written down, and simulated engines that are started in this process.

    TTFT = 5 + 0.02*isl ms          ITL = 4 + 0.25*batch + 0.00005*kv_tokens ms          KV capacity 16,000 tokens, all of it divided by the GPUs

Requests go through sockets to the real simulated engine; only its process is ours, which saves its start.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from tests.sweep.simulated_clock import SimulatedClock

from sla_planner.engines.backend import Evidence
from sla_planner.engines.backends import backend
from sla_planner.engines.readiness import checked_capacity, pages
from sla_planner.engines.simulated import serving
from sla_planner.engines.simulated.api import Prompts
from sla_planner.engines.simulated.faults import parse_fault
from sla_planner.engines.simulated.options import FleetOptions, Mode
from sla_planner.engines.simulated.serving import ServeOptions
from sla_planner.engines.simulated.timing import precise_event_loop
from sla_planner.model.batching import BatchingLaw
from sla_planner.model.engine import engine_of
from sla_planner.model.profile import DecodeMeasurement, DecodePoint, ParallelMapping, PrefillMeasurement, PrefillPoint, Profile
from sla_planner.model.sla import Sla
from sla_planner.sweep import measure
from sla_planner.sweep.points import EngineFacts, Point
from sla_planner.sweep.port import Capacity, Deployment, EngineIdentity, RunningEngine
from sla_planner.sweep.result import Goal, Progress
from sla_planner.sweep.runner import MappingRun, Options, Sweep
from sla_planner.traffic import held

GOAL = Goal(Sla(ttft_ms=40, itl_ms=6.2, attainment=0.9), isl_tokens=128, osl_tokens=16)
CONTEXT_LIMIT, KV_TOKENS = 1024, 16_000


def small_profile(*, tp: tuple[int, ...] = (1,), kv_tokens: int = KV_TOKENS) -> Profile:
    """On the laws of the module's head, exactly."""
    prefill, decode = [], []
    for gpus in tp:
        mapping = ParallelMapping(tp=gpus)
        ttft_ms = {isl: (5 + 0.02 * isl) / gpus for isl in (32, 64, 128, 256, 512, 1024)}
        prefill.append(PrefillMeasurement(mapping, tuple(PrefillPoint(isl, ms, isl / ms * 1000 / gpus) for isl, ms in ttft_ms.items())))
        points = []
        for context in (100, 300, 800):
            for batch in (1, 4, 12):
                itl_ms = (4 + 0.25 * batch + 5e-5 * batch * context) / gpus
                points.append(DecodePoint(batch * context / kv_tokens, context, itl_ms, batch / itl_ms * 1000 / gpus))
        decode.append(DecodeMeasurement(mapping, tuple(points), kv_tokens))
    return Profile(tuple(prefill), tuple(decode), ParallelMapping(tp=tp[0]), ParallelMapping(tp=tp[0]))


@dataclass
class Memory:
    """A checkpoint. `saved`: keys in order."""

    known_facts: dict[str, EngineFacts] = field(default_factory=dict)
    known_points: dict[str, Point] = field(default_factory=dict)
    saved: list[str] = field(default_factory=list)

    def facts(self, key: str) -> EngineFacts | None:
        return self.known_facts.get(key)

    def point(self, key: str) -> Point | None:
        return self.known_points.get(key)

    def save_facts(self, key: str, facts: EngineFacts) -> None:
        self.known_facts[key] = facts
        self.saved.append(key)

    def save_point(self, key: str, point: Point) -> None:
        assert key not in self.known_points, "measured twice"
        self.known_points[key] = point
        self.saved.append(key)


@dataclass
class Running:
    """A `RunningEngine` of this process."""

    engine: serving.RunningEngine
    deployment: Deployment
    model: str = "simulated"

    @property
    def url(self) -> str:
        return self.engine.url

    async def capacity(self) -> Capacity:
        kind = backend("simulated")
        return checked_capacity(kind, Evidence(pages=await pages(self.url, kind.pages)), self.deployment)

    async def ended(self, *, doubted: bool = False) -> str:
        if not self.engine.ended.done():
            return ""
        words = self.engine.ended.result()
        return f"exit code {words.code}: {words.message}"


@dataclass
class Engines:
    """A `Launcher`. `failing`: the errors of the next starts, by label; `started` and `running`: labels."""

    profile: Profile
    mode: str = Mode.AGG
    prompts: str = Prompts.IDS
    faults: tuple[str, ...] = ()
    max_sequences: int = 1024
    fleet: dict[str, Any] = field(default_factory=dict)
    failing: dict[str, list[Exception]] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    running: list[Running] = field(default_factory=list)
    source: str = "in process"

    def identity(self, deployment: Deployment) -> EngineIdentity:
        return EngineIdentity("simulated", "", self.source)

    def manifest(self, deployment: Deployment) -> tuple[str, str]:
        return deployment.label, ""

    @contextlib.asynccontextmanager
    async def engine(self, deployment: Deployment) -> AsyncIterator[RunningEngine]:
        self.started.append(deployment.label)
        if errors := self.failing.get(deployment.label):
            raise errors.pop(0)
        mapping = deployment.mapping
        law = BatchingLaw(engine_of(replace(self.profile, selected_prefill=mapping, selected_decode=mapping)), max_sequences=self.max_sequences)
        options = ServeOptions(
            FleetOptions(law, mode=Mode(self.mode), **self.fleet),
            "simulated",
            port=0,
            faults=tuple(parse_fault(fault) for fault in self.faults),
            prompts=Prompts(self.prompts),
        )
        async with serving.running(options) as engine:
            running = Running(engine, deployment)
            self.running.append(running)
            try:
                yield running
            finally:
                self.running.remove(running)


@dataclass
class Swept:
    """What a sweep did. `told`: its progress."""

    sweep: Sweep
    told: list[Progress] = field(default_factory=list)
    runs: list[MappingRun] = field(default_factory=list)

    @property
    def points(self) -> dict[str, Point]:
        """By label of their shape, of all runs."""
        return {f"{run.deployment.label} {point.shape.label}": point for run in self.runs for point in run.points}


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short windows: for tests of what is done, not of how exactly."""
    if "engines" not in request.fixturenames:
        return
    monkeypatch.setattr(measure, "WINDOW_S", 0.1)
    monkeypatch.setattr(measure, "WINDOW_STEPS", 12)
    monkeypatch.setattr(held, "QUIET_S", 0.5)


@pytest.fixture
def goal() -> Goal:
    return GOAL


@pytest.fixture
def profile_with() -> Callable[..., Profile]:
    return small_profile


@pytest.fixture
def engines() -> Callable[..., Engines]:
    """A launcher of engines with the small profile, or another one."""
    return lambda profile=None, **options: Engines(profile or small_profile(), **options)


@pytest.fixture
def checkpoint() -> Memory:
    return Memory()


@pytest.fixture
def in_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Runs a coroutine on a loop whose timers are good enough for an engine: by a simulated clock where the engine is on the same loop."""
    loop_factory = precise_event_loop
    if "engines" in request.fixturenames:
        clock = SimulatedClock()
        clock.rule(monkeypatch)
        loop_factory = clock.loop

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(coroutine)

    return run


@pytest.fixture
def swept(in_loop: Callable[..., Any], checkpoint: Memory) -> Callable[..., Swept]:
    """`swept(launcher, *mappings)`: a sweep, run to its end. `watch` is told every step; what the sweep raises is raised."""

    def run(
        launcher: Any,
        *deployments: Deployment,
        goal: Goal = GOAL,
        memory: Any = checkpoint,
        watch: Callable[[Progress], None] = lambda _: None,
        seen: Callable[[Swept], None] = lambda _: None,
        **options: Any,
    ) -> Swept:
        settings = {"max_context_tokens": CONTEXT_LIMIT, "most_prefill_points": 4, "most_decode_points": 5} | options
        told: list[Progress] = []

        def tell(progress: Progress) -> None:
            told.append(progress)
            watch(progress)

        done = Swept(Sweep(goal, Options(**settings), launcher, memory, tell), told)
        seen(done)
        done.runs = in_loop(done.sweep.run(deployments or [Deployment(ParallelMapping())]))
        return done

    return run
