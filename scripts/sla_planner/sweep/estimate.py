"""What a sweep will cost, told before it starts. An estimate: nothing has been measured yet, and points that are found again cost nothing.

    one deployment   start + points                                 GPU-hours = its GPUs * that time
    prefill point    PREFILL_REPEATS prompts at the promised TTFT
    decode point     filling the cache, then WINDOW_TOKENS at the promised ITL: the staircase ends soon above the promise
    verification     the picked pair once more: at most the largest prefill and the largest decode mapping

Deployments follow each other, so wall times add up; with `gpus_at_once` they overlap as `side_by_side` starts them. Points
are counted at their upper bound; an engine that follows the laws needs half of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sla_planner.model.profile import ParallelMapping
from sla_planner.sweep.port import Deployment, Phase
from sla_planner.sweep.result import Goal
from sla_planner.sweep.space import SearchSpace

START_S = 240.0
PREFILL_REPEATS = 6
FILL_S = 6.0  # mean over the points of a staircase, which fills the cache once per context
WINDOW_TOKENS = 64
VERIFY_S = 90.0
LEAST_POINT_S = 0.5


@dataclass(frozen=True, slots=True)
class EstimateOptions:
    """`known_start_s`: start times of an earlier run; `start_s` for all others. `prefill_points`, `decode_points`: upper bounds per mapping.
    `gpus_at_once`: engines run side by side on so many GPUs; None: one after the other."""

    start_s: float = START_S
    known_start_s: Mapping[ParallelMapping, float] = field(default_factory=dict)
    prefill_points: int = 8
    batched_points: int = 1
    decode_points: int = 12
    separate_phases: bool = False
    verify: bool = True
    gpus_at_once: int | None = None


@dataclass(frozen=True, slots=True)
class DeploymentEstimate:
    """One engine from its start to its end."""

    label: str
    gpus: int
    points: int
    wall_s: float

    @property
    def gpu_hours(self) -> float:
        return self.gpus * self.wall_s / 3600


@dataclass(frozen=True, slots=True)
class Estimate:
    """`parts`: per deployment in the order of the sweep; `verification` is None when there is none. `deployments` counts `parts` alone."""

    parts: tuple[DeploymentEstimate, ...]
    verification: DeploymentEstimate | None
    start_s: float
    gpus_at_once: int | None = None

    @property
    def deployments(self) -> int:
        return len(self.parts)

    @property
    def points(self) -> int:
        return sum(part.points for part in self.parts)

    @property
    def wall_s(self) -> float:
        return _makespan_s(self.parts, self.gpus_at_once) + (self.verification.wall_s if self.verification else 0.0)

    @property
    def gpu_hours(self) -> float:
        return sum(part.gpu_hours for part in self._all)

    def lines(self) -> tuple[str, ...]:
        """For a person: the sum, then one line per deployment."""
        starting = f", taking {self.start_s:g} s for an engine to start (--expected-start-s)" if self.start_s else ""
        told = [
            f"Estimate: {_counted(self.deployments, 'deployment')}, at most {_counted(self.points, 'point')}, about {_duration(self.wall_s)} "
            f"and {self.gpu_hours:.1f} GPU-hours{starting}"
        ]
        for part in self._all:
            points = f"{_counted(part.points, 'point')}, " if part.points else ""
            told.append(f"  {part.label}: {points}about {_duration(part.wall_s)}, {part.gpu_hours:.1f} GPU-hours")
        return tuple(told)

    @property
    def _all(self) -> tuple[DeploymentEstimate, ...]:
        return (*self.parts, self.verification) if self.verification else self.parts


def estimate(space: SearchSpace, goal: Goal, options: EstimateOptions) -> Estimate:
    """What measuring `space` for `goal` will cost."""
    parts = tuple(_of(deployment, goal, options) for deployment in space.deployments(separate_phases=options.separate_phases))
    verification = _verification(space, options) if options.verify else None
    return Estimate(parts, verification, options.start_s, options.gpus_at_once)


def _of(deployment: Deployment, goal: Goal, options: EstimateOptions) -> DeploymentEstimate:
    prefill = options.prefill_points + options.batched_points if deployment.phase is not Phase.DECODE else 0
    decode = options.decode_points if deployment.phase is not Phase.PREFILL else 0
    prefill_s = max(PREFILL_REPEATS * goal.promise.ttft_ms / 1000, LEAST_POINT_S)
    decode_s = FILL_S + max(WINDOW_TOKENS * goal.promise.itl_ms / 1000, LEAST_POINT_S)
    wall_s = _start_s(deployment.mapping, options) + prefill * prefill_s + decode * decode_s
    return DeploymentEstimate(deployment.label, deployment.mapping.gpus, prefill + decode, wall_s)


def _verification(space: SearchSpace, options: EstimateOptions) -> DeploymentEstimate:
    """Where there is one mapping to pick, one engine is both."""
    prefill, decode = (max(mappings, key=lambda mapping: mapping.gpus) for mappings in (space.prefill, space.decode))
    engines = [prefill] if len({*space.prefill, *space.decode}) == 1 else [prefill, decode]
    start_s = max(_start_s(mapping, options) for mapping in engines)
    pick = " + ".join(mapping.label for mapping in engines)
    at_most = "at most " if len(engines) > 1 else ""
    return DeploymentEstimate(f"verification of the pick, {at_most}{pick}", sum(mapping.gpus for mapping in engines), 0, start_s + VERIFY_S)


def _makespan_s(parts: tuple[DeploymentEstimate, ...], most_gpus: int | None) -> float:
    """From the first start to the last end, each started as soon as its GPUs are free."""
    now_s, waiting = 0.0, list(parts)
    running: list[tuple[float, DeploymentEstimate]] = []
    while waiting or running:
        for part in tuple(waiting):
            if not running or (most_gpus is not None and part.gpus + sum(other.gpus for _, other in running) <= most_gpus):
                waiting.remove(part)
                running.append((now_s + part.wall_s, part))
        now_s = min(end_s for end_s, _ in running)
        running = [(end_s, part) for end_s, part in running if end_s > now_s]
    return now_s


def _start_s(mapping: ParallelMapping, options: EstimateOptions) -> float:
    return options.known_start_s.get(mapping, options.start_s)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
