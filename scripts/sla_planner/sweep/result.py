"""What a sweep gives, as data: files, pages and log lines are made from it elsewhere; and how it tells how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sla_planner.model.profile import ParallelMapping, Profile
from sla_planner.model.selection import Candidate, Choice
from sla_planner.model.sla import Sla
from sla_planner.sweep.points import EngineFacts, Point

TOLERATED_DIFFERENCE = 0.15  # between profile and reality


@dataclass(frozen=True, slots=True)
class Goal:
    """What is asked for: the promise, for requests of this shape."""

    promise: Sla
    isl_tokens: int
    osl_tokens: int

    @property
    def context_tokens(self) -> float:
        """Of a request half way through its answer."""
        return self.isl_tokens + self.osl_tokens / 2


@dataclass(frozen=True, slots=True)
class Comparison:
    """One latency as the profile says and as it was measured on the deployed engines. `what`: `TTFT of one request`, `ITL at 24 in flight` ..."""

    what: str
    profile_ms: float
    measured_ms: float

    @property
    def difference(self) -> float:
        """Measured over profile, less 1: 0.2 = a fifth slower than the profile says."""
        return self.measured_ms / self.profile_ms - 1

    @property
    def off(self) -> bool:
        """Whether profile and reality differ by more than is tolerated."""
        return abs(self.difference) > TOLERATED_DIFFERENCE


@dataclass(frozen=True, slots=True)
class Verification:
    """The pick in use: `requests` of the goal's shape end to end, `inside` of them within TTFT and ITL. `how`: which engines and load, in words."""

    how: str
    requests: int
    inside: int
    failed: int
    comparisons: tuple[Comparison, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cost:
    """What the sweep cost. `reused` points came from an earlier run."""

    wall_s: float
    gpu_hours: float
    deployments: int
    measured: int
    reused: int


@dataclass(frozen=True, slots=True)
class SweepResult:
    """`profile`: gated; its selected mappings are the picks, or the nearest where nothing keeps the promise. `left_out`: mapping or label -> why."""

    goal: Goal
    profile: Profile
    prefill: Choice
    decode: Choice
    prefill_candidates: tuple[Candidate, ...]
    decode_candidates: tuple[Candidate, ...]
    points: tuple[Point, ...]
    facts: Mapping[ParallelMapping, EngineFacts]
    cost: Cost
    left_out: tuple[tuple[str, str], ...] = ()
    verification: Verification | None = None
    warnings: tuple[str, ...] = ()
    may_grow: bool = False  # engines of more GPUs were not allowed, and could be

    @property
    def feasible(self) -> bool:
        return self.prefill.picked is not None and self.decode.picked is not None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a sweep is. `done` of `expected` points (expected may still change); `remaining_s`: None before there is anything to estimate from."""

    doing: str  # `TP4: starting`, `TP4: decode ISL 3000 batch 48`
    done: int
    expected: int
    elapsed_s: float
    remaining_s: float | None
    point: Point | None = None  # just measured or found again
    reused: bool = False
