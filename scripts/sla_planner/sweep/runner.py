"""One deployment after another, or several at once; of each one point after another, each saved before the next begins.

    for every deployment:   facts (once), then  prefill first points -> uncertain ones -> several prompts at once
                                                decode staircase at the goal's context -> corners -> uncertain ones

What to measure follows from what was measured (design.py), and what was measured is looked up in the checkpoint first: a sweep that was killed takes
the same way again and measures only what is missing. The engine is started when the first point is missing, so a finished mapping starts none.

A mapping whose engine does not start, dies or answers nothing usable is left out with the reason; the others go on. Only when none is left does the
sweep end with the error of the last. Several engines run at once where each has GPUs of its own (side_by_side.py).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

from sla_planner.errors import EngineError, PlannerError, UnreachableError
from sla_planner.sweep import design
from sla_planner.sweep.capacity import implausible, unexplained
from sla_planner.sweep.checkpoint import Checkpoint, facts_key, point_key
from sla_planner.sweep.design import Limits
from sla_planner.sweep.known import Known
from sla_planner.sweep.measure import REQUEST_TIMEOUT_S, Clients, Measurer, capped, measured_again, unanswered
from sla_planner.sweep.points import DecodeShape, EngineFacts, Point, PrefillShape, Shape
from sla_planner.sweep.port import Capacity, Deployment, Launcher, Phase, RunningEngine
from sla_planner.sweep.result import Goal, Progress
from sla_planner.sweep.side_by_side import Turn, Turns, side_by_side
from sla_planner.sweep.started import StartedEngine
from sla_planner.traffic.client import Server
from sla_planner.traffic.probe import Probe, probe
from sla_planner.traffic.prompt_form import PromptForm

EXPECTED_PREFILL, EXPECTED_DECODE = 5, 5  # points of a clean engine
HOPELESS = 3  # points in a row without a single answer
STARTS = 2  # of an engine whose failure may pass
CORNERS, CORNER_AIMS = 2, 2
OVERFILL = 1.3  # of the KV cache, to see whether it is the limit
GIVEN = "given"  # where a KV capacity comes from that the user told


@dataclass(frozen=True, slots=True)
class Options:
    """How far a sweep goes. `max_kv_tokens`: instead of what the engine says; `kv_estimate`: tokens that an engine should hold, where it is known.
    `gpus_at_once`: engines run side by side on so many GPUs; None: one after the other."""

    max_context_tokens: int
    most_prefill_points: int = 8
    most_decode_points: int = 12
    prompt_form: PromptForm | None = None
    max_kv_tokens: int | None = None
    kv_estimate: Callable[[Deployment], int | None] = lambda _: None
    gpus_at_once: int | None = None
    seed: int | None = None  # of prompts: a fixed one sends the same prompts again, which an engine may have cached


@dataclass(frozen=True, slots=True)
class MappingRun:
    """What came of one deployment."""

    deployment: Deployment
    facts: EngineFacts
    points: tuple[Point, ...]
    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class Tally:
    """What a sweep has cost so far."""

    deployments: int = 0
    measured: int = 0
    reused: int = 0
    gpu_s: float = 0.0
    started_s: float = field(default_factory=time.monotonic)

    @property
    def wall_s(self) -> float:
        return time.monotonic() - self.started_s


class Sweep:
    """One sweep over `deployments`. After `run` (also one that was cancelled) `tally` and `left_out` say what happened."""

    def __init__(self, goal: Goal, options: Options, launcher: Launcher, checkpoint: Checkpoint, on_progress: Callable[[Progress], None]) -> None:
        self.goal, self.options, self.launcher, self.checkpoint = goal, options, launcher, checkpoint
        self.tally = Tally()
        self.left_out: list[tuple[str, str]] = []
        self.own_keys: set[str] = set()  # of points measured, not found
        self._on_progress = on_progress
        self.turns = Turns()
        self._expected: dict[Deployment, int] = {}  # points, of those that are not done
        self._done: dict[Deployment, int] = {}

    async def run(self, deployments: Sequence[Deployment]) -> list[MappingRun]:
        """Measure all of them. Raises the last deployment's error when none was usable."""
        self._expected = {deployment: _expected(deployment) for deployment in deployments}
        self._done = dict.fromkeys(deployments, 0)
        outcomes = await side_by_side(deployments, lambda deployment: deployment.mapping.gpus, self.options.gpus_at_once, self._outcome)
        failures = [(deployment, outcome) for deployment, outcome in zip(deployments, outcomes, strict=True) if isinstance(outcome, PlannerError)]
        self.left_out += [(deployment.label, _reason(deployment, failure)) for deployment, failure in failures]
        runs = [outcome for outcome in outcomes if isinstance(outcome, MappingRun)]
        if not runs and failures:
            raise failures[-1][1]
        return runs

    async def _outcome(self, deployment: Deployment) -> MappingRun | PlannerError:
        try:
            return await self._deployment(deployment)
        except (EngineError, UnreachableError) as error:
            self.tell(f"{deployment.label}: left out: {_reason(deployment, error)}")
            return error
        finally:
            del self._expected[deployment]

    async def _deployment(self, deployment: Deployment) -> MappingRun:
        for start in range(1, STARTS + 1):
            try:
                return await _Mapping(self, deployment).measured()
            except EngineError as error:
                if start == STARTS or error.exit_code != UnreachableError.exit_code:
                    raise
                self.tell(f"{deployment.label}: starting it again: {error.message.removeprefix(f'{deployment.label}: ')}")
        raise AssertionError

    def count(self, deployment: Deployment, *, reused: bool) -> None:
        """One more point of `deployment`."""
        self.tally.reused += reused
        self.tally.measured += not reused
        self._done[deployment] += 1

    def tell(self, doing: str, point: Point | None = None, *, reused: bool = False) -> None:
        """Progress to whoever watches."""
        done = self.tally.measured + self.tally.reused
        expected = done + sum(max(points - self._done[deployment], 0) for deployment, points in self._expected.items())
        remaining_s = (expected - done) * self.tally.wall_s / self.tally.measured if self.tally.measured else None
        self._on_progress(Progress(doing, done, expected, self.tally.wall_s, remaining_s, point, reused))


class _Mapping:
    """One deployment being measured."""

    def __init__(self, sweep: Sweep, deployment: Deployment) -> None:
        self.sweep, self.deployment = sweep, deployment
        self.identity = sweep.launcher.identity(deployment)
        self.known = Known()
        self.warnings: list[str] = []
        self._engine: StartedEngine | None = None
        self._turn = Turn(sweep.turns, self._quiet)
        self._stack = AsyncExitStack()
        self._started_s: float | None = None
        self._hopeless = 0

    async def measured(self) -> MappingRun:
        try:
            async with self._stack:
                facts = await self._facts()
                if self.deployment.phase is not Phase.DECODE:
                    await self._prefill(facts)
                if self.deployment.phase is not Phase.PREFILL:
                    await self._decode(facts)
                    self._explain_limit(facts)
        finally:
            if self._started_s is not None:
                self.sweep.tally.gpu_s += (time.monotonic() - self._started_s) * self.deployment.mapping.gpus
        return MappingRun(self.deployment, facts, tuple(self.known.points), tuple(self.warnings))

    # the engine

    async def _running(self) -> StartedEngine:
        """The engine, started now if it was not needed before."""
        if self._engine is None:
            self.sweep.tell(f"{self.deployment.label}: starting")
            self._started_s = began_s = time.monotonic()
            self.sweep.tally.deployments += 1
            running = await self._stack.enter_async_context(self.sweep.launcher.engine(self.deployment))
            start_s = time.monotonic() - began_s
            await self._stack.enter_async_context(self._turn.held())
            options = self.sweep.options
            try:
                server = Server(running.url, running.model, timeout_s=REQUEST_TIMEOUT_S)
                probed = await probe(server, isl_tokens=self.sweep.goal.isl_tokens, form=options.prompt_form)
            except PlannerError:
                await self._check_alive("its first requests", running, doubted=True)
                raise
            self._check_answers(probed)
            clients = Clients(probed.server, seed=options.seed, stack=self._stack)
            measurer = Measurer(clients, self.deployment.mapping, probed.tokens_per_event)
            self._engine = StartedEngine(running, probed, measurer, start_s, self._stack)
        return self._engine

    def _check_answers(self, probed: Probe) -> None:
        if not probed.reports_usage:
            hint = "have the server report usage when stream_options.include_usage is set"
            raise EngineError(f"{self.deployment.label}: the server does not report its token counts", hint=hint)
        if not probed.exact_osl:
            self.warnings.append(f"{self.deployment.label}: answers end before the tokens that were asked for, in spite of ignore_eos and min_tokens")

    async def _facts(self) -> EngineFacts:
        """From the checkpoint, or of the engine. A KV capacity that the user gives counts whatever was read; one that cannot be is never kept."""
        key = facts_key(self.identity, self.deployment, self.sweep.options.prompt_form)
        given = self.sweep.options.max_kv_tokens
        facts = self.sweep.checkpoint.facts(key)
        known = facts if facts is not None and (facts.kv_source != GIVEN or given is not None) else None
        facts = known or await self._asked(await self._running(), given)
        if given is not None:
            facts = replace(facts, max_kv_tokens=given, kv_source=GIVEN)
        else:
            self._check_plausible(facts)
        if known is None:
            self.sweep.checkpoint.save_facts(key, facts)
        return facts

    async def _asked(self, engine: StartedEngine, given: int | None) -> EngineFacts:
        try:
            capacity = await engine.running.capacity()
        except PlannerError:
            await self._check_alive("its first requests", doubted=True)
            if given is None:
                raise
            capacity = Capacity(given, GIVEN)
        read, probed = (capacity.max_kv_tokens, capacity.source, capacity.max_sequences), engine.probed
        return EngineFacts(engine.running.model, *read, probed.prompt_form, probed.tokens_per_event, engine.start_s)

    def _check_plausible(self, facts: EngineFacts) -> None:
        options, capacity = self.sweep.options, Capacity(facts.max_kv_tokens, facts.kv_source)
        wrong = implausible(capacity, max_context_tokens=options.max_context_tokens, estimate_tokens=options.kv_estimate(self.deployment))
        if wrong:
            raise EngineError(f"{self.deployment.label}: {wrong}", hint="give the KV capacity with --max-kv-tokens, or look at the engine's log")

    # points

    async def _prefill(self, facts: EngineFacts) -> None:
        goal, limits = self.sweep.goal, self._limits(facts)
        for shape in design.first_prefill(goal, limits):
            await self._prefill_point(shape)
        for doubted in [point.shape for point in self.known.points if point.defects and isinstance(point.shape, PrefillShape)]:
            if len(self.known.tried(PrefillShape)) < self.sweep.options.most_prefill_points:
                await self._prefill_point(design.beside(doubted))
        while len(self.known.tried(PrefillShape)) < self.sweep.options.most_prefill_points:
            following = design.next_prefill(self.known.prefill())
            if following is None or following in self.known.tried(PrefillShape):
                break
            await self._prefill_point(following)
        if known := self.known.prefill():
            await self._prefill_point(design.queued_prefill(goal, known))

    async def _decode(self, facts: EngineFacts) -> None:
        goal, most = self.sweep.goal, self.sweep.options.most_decode_points
        for _ in range(2):  # an engine that runs fewer than the first steps shows it at the first step
            for shape in design.first_decode(goal, self._limits(facts)):
                if shape not in self.known.tried(DecodeShape):
                    await self._decode_point(shape, facts)
        for _ in range(design.AIMS):
            aimed = design.next_aim(goal, self._limits(facts), self.known.decode())
            if aimed is None or aimed in self.known.tried(DecodeShape) or self.known.surface_points() >= most - CORNERS:
                break
            await self._decode_point(aimed, facts)
        await self._check_capacity(facts)
        # A corner that showed a limit of the engine is aimed at anew, below the limit.
        for _ in range(CORNERS * CORNER_AIMS):
            known, tried = self.known.decode(), self.known.tried(DecodeShape)
            corners = [shape for shape in design.corners(goal, self._limits(facts), known) if shape not in tried]
            missing = [shape for shape in corners if all(point.shape.isl_tokens != shape.isl_tokens for point in known)]
            if not missing or self.known.surface_points() >= most:
                break
            await self._decode_point(missing[0], facts)
        while self.known.surface_points() < most:
            following = design.next_decode(goal, self._limits(facts), self.known.decode())
            if following is None or following in self.known.tried(DecodeShape):
                break
            await self._decode_point(following, facts)

    async def _prefill_point(self, shape: PrefillShape) -> None:
        async def measure() -> Point:
            return await (await self._running()).measurer.prefill(shape)

        await self._point(shape, measure)

    async def _decode_point(self, shape: DecodeShape, facts: EngineFacts) -> None:
        async def measure() -> Point:
            engine, limits = await self._running(), self._limits(facts)
            max_tokens = limits.max_tokens(shape.isl_tokens, max(limits.most_requests(shape.isl_tokens), shape.batch))
            try:
                staircase = await engine.staircase(shape, max_tokens)
            except EngineError as error:  # no prompt of this length could be made
                return Point(self.deployment.mapping, shape, defects=(str(error),))
            return await staircase.at(shape.batch)

        await self._point(shape, measure)

    async def _point(self, shape: Shape, measure: Callable[[], Awaitable[Point]]) -> None:
        """The point from the checkpoint, or measured, a second time if the first is not trusted, and saved."""
        key = point_key(self.identity, self.deployment, shape, self.sweep.options.prompt_form)
        label = f"{self.deployment.mapping.label}: {shape.label}"
        point = self.sweep.checkpoint.point(key)
        if point is not None:
            self.known.points.append(point)
            if key not in self.sweep.own_keys:  # else measured on this engine before it was started again, and told
                self.sweep.count(self.deployment, reused=True)
                self.sweep.tell(label, point, reused=True)
            return
        await self._running()
        await self._turn.give_way()
        self.sweep.tell(label)
        point = await self._tried(shape, measure)
        self.sweep.checkpoint.save_point(key, point)
        self.sweep.own_keys.add(key)
        self.sweep.count(self.deployment, reused=False)
        self.known.points.append(point)
        self.sweep.tell(label, point)

    async def _tried(self, shape: Shape, measure: Callable[[], Awaitable[Point]]) -> Point:
        point = await measure()
        await self._check_alive(shape.label, doubted=unanswered(point))
        if point.defects and (self._turn.among_others or not capped(point)):
            async with self._turn.alone():
                again = await measure()
            await self._check_alive(shape.label, doubted=unanswered(again))
            point = measured_again(point, again)
        empty = point.prefill is None and point.decode is None
        self._hopeless = self._hopeless + 1 if empty else 0
        if self._hopeless >= HOPELESS:
            raise EngineError(
                f"{self.deployment.label}: {HOPELESS} points in a row without an answer: {point.defects[-1]}", hint="see the engine's log"
            )
        return point

    async def _check_alive(self, during: str, running: RunningEngine | None = None, *, doubted: bool = False) -> None:
        running = self._engine.running if self._engine else running
        ended = await running.ended(doubted=doubted) if running else ""
        if ended:
            raise EngineError(f"{self.deployment.label}: the engine ended during {during}: {ended}", hint="see the engine's log", retry=True)

    async def _quiet(self) -> None:
        if self._engine is not None:
            await self._engine.end_staircase()

    async def _check_capacity(self, facts: EngineFacts) -> None:
        """A KV capacity below the truth hides batches that the engine could run: where the cache seems to be the limit, a third more must wait."""
        goal, limits = self.sweep.goal, self._limits(facts)
        most = limits.most_requests(goal.isl_tokens)
        here = [point for point in self.known.decode() if point.shape == DecodeShape(goal.isl_tokens, most)]
        if not here or facts.kv_source == GIVEN or most in (limits.max_sequences, design.MOST_REQUESTS):
            return
        beyond = DecodeShape(goal.isl_tokens, int(facts.max_kv_tokens / here[0].context_tokens * OVERFILL) + 1)
        held_tokens = await self._held_tokens(beyond, limits.max_tokens(goal.isl_tokens, most))
        if held_tokens > facts.max_kv_tokens * (1 + (OVERFILL - 1) / 2):
            raise EngineError(
                f"{self.deployment.label}: the KV capacity was read as {facts.max_kv_tokens:,} tokens ({facts.kv_source}), but the engine held "
                f"{held_tokens:,.0f} at once",
                hint="give the true capacity with --max-kv-tokens",
            )

    def _explain_limit(self, facts: EngineFacts) -> None:
        """A KV capacity above the truth shows as batches that do not all run."""
        shown = [point.decode for point in self.known.points if point.decode and capped(point)]
        if not shown or facts.kv_source == GIVEN:
            return
        held_tokens = max(seen.running * seen.context_tokens for seen in shown)
        if why := unexplained(facts, min(seen.running for seen in shown), held_tokens):
            self.warnings.append(f"{self.deployment.label}: {why}")

    async def _held_tokens(self, shape: DecodeShape, max_tokens: int) -> float:
        """How many KV tokens `shape.batch` requests hold at once: those that had to wait hold none. Saved, but none of the mapping's points."""
        key = point_key(self.identity, self.deployment, shape, self.sweep.options.prompt_form)
        point = self.sweep.checkpoint.point(key)
        if point is None:
            engine = await self._running()
            await self._turn.give_way()
            point = await (await engine.staircase(shape, max_tokens)).at(shape.batch)
            await engine.end_staircase()
            await self._check_alive(shape.label, doubted=unanswered(point))
            self.sweep.checkpoint.save_point(key, point)
        return point.decode.running * point.decode.context_tokens if point.decode else 0.0

    def _limits(self, facts: EngineFacts) -> Limits:
        return self.known.limits(facts, self.sweep.options.max_context_tokens)


def _expected(deployment: Deployment) -> int:
    prefill = EXPECTED_PREFILL if deployment.phase is not Phase.DECODE else 0
    return prefill + (EXPECTED_DECODE if deployment.phase is not Phase.PREFILL else 0)


def _reason(deployment: Deployment, error: PlannerError) -> str:
    return str(error).removeprefix(f"{deployment.label}: ")
