"""The cheapest setting of a policy that reaches the goal on this very traffic: every advantage that a user could not have, and few runs.

A setting is a pair, one part per role, and the roles hardly meet: prefill does not depend on decode at all, decode sees prefill only as the times at
which first tokens come. So each role is searched by itself and what is known of both is joined:

    ladders    a role's settings stand on ladders, the stingiest first: each is taken to keep about as many requests as the rung below, or more
    prefill    on the trace with answers of one token: the same prefill run, at half the time. On each ladder the lowest rung that reaches the goal by
               itself is found by halving, then rungs 1, 2, 4 ... above it are run until so few requests miss that more would not help
    decode     the same, on the whole trace, with a prefill that leaves half of the allowed misses over
    pairs      the requests inside of both parts' runs are joined; pairs that would reach the goal are run, the cheapest first, until one does
    polish     one rung down on either ladder, as long as that still reaches it

If no pair reaches the goal, the one that came nearest is what there is. Everything is deterministic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from sla_planner.simulate.contest import Contest, Entry, Knows
from sla_planner.simulate.policy import Policy, Workers
from sla_planner.simulate.run import RunResult, Scenario, run
from sla_planner.simulate.score import Score, inside, score, scored
from sla_planner.traffic.trace import Trace

S = TypeVar("S")

ENOUGH = 0.25  # of the allowed misses: a part that misses fewer need not be more generous
MOST_PAIRS, MOST_POLISH = 12, 8  # runs
HALF_WAY_RUNS = 15  # for the progress bar only


@dataclass(frozen=True, slots=True)
class Ladder(Generic[S]):
    """Settings of one role, the stingiest first. `guess`: the rung to begin with."""

    rungs: Sequence[S]
    guess: int


@dataclass(frozen=True, slots=True)
class Space(Generic[S]):
    """What may be set. `policy` makes a policy of a prefill and a decode setting; `start`, where given, the fleet that it starts with."""

    name: str
    prefill: Sequence[Ladder[S]]
    decode: Sequence[Ladder[S]]
    policy: Callable[[S, S], Policy]
    start: Callable[[S, S], Workers] | None = None
    knows: Knows = Knows.HINDSIGHT


_Rung = tuple[int, int]  # ladder, rung


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """One role's setting, run: which scored requests were inside, as bits, and the role's cost."""

    bits: npt.NDArray[np.uint8]
    attainment: float
    gpu_hours: float


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """A pair, run."""

    pair: tuple[_Rung, _Rung]
    policy: Policy
    score: Score
    result: RunResult


def cheapest(contest: Contest, space: Space[S]) -> Entry:
    """The entry of `space`'s cheapest pair that reaches the goal, or of the one that comes nearest."""
    search = _Search(contest, space)
    best = search.best()
    contest.progress(space.name, 1.0)
    return Entry(
        policy=space.name,
        knows=space.knows,
        settings=best.policy.settings,
        score=best.score,
        reached=best.score.attainment >= contest.goal,
        tried=search.tried,
        result=best.result,
    )


class _Search(Generic[S]):
    def __init__(self, contest: Contest, space: Space[S]) -> None:
        self.tried = 0
        self._contest = contest
        self._space = space
        self._sla = contest.plan.sla
        self._misses = 1 - contest.goal
        arrival_s = contest.scenario.trace.arrival_s
        self._scored = scored(contest.scenario)
        self._requests = int(self._scored.sum())
        self._answers_of_one = replace(contest.scenario, trace=Trace(arrival_s, contest.scenario.trace.isl_tokens, np.ones(len(arrival_s), np.int64)))
        self._prefill: dict[_Rung, _Part] = {}
        self._decode: dict[_Rung, _Part] = {}
        self._done: dict[tuple[_Rung, _Rung], Score] = {}
        self._best: _Run | None = None

    def best(self) -> _Run:
        for number, ladder in enumerate(self._space.prefill):
            self._climb(number, ladder, self._prefill_part)
        roomy = self._roomy_prefill()
        for number, ladder in enumerate(self._space.decode):
            self._climb(number, ladder, lambda rung: self._decode_part(roomy, rung))
        self._join()
        self._polish()
        assert self._best is not None
        return self._best

    # one role

    def _climb(self, number: int, ladder: Ladder[S], part: Callable[[_Rung], _Part]) -> None:
        """Runs the lowest rung that reaches the goal by itself, and what is worth knowing above it."""
        failing, reaching = -1, len(ladder.rungs)
        at, step = ladder.guess, 1
        while reaching - failing > 1:
            if part((number, at)).attainment >= self._contest.goal:
                reaching = at
            else:
                failing = at
            if failing < 0:
                at = max(reaching - step, 0)
            elif reaching == len(ladder.rungs):
                at = min(failing + step, reaching - 1)
            else:
                at = (failing + reaching) // 2
            step *= 2
        above, step = reaching, 1
        while above < len(ladder.rungs) - 1 and 1 - part((number, above)).attainment > ENOUGH * self._misses:
            above = min(above + step, len(ladder.rungs) - 1)
            step *= 2
            part((number, above))

    def _prefill_part(self, rung: _Rung) -> _Part:
        if rung not in self._prefill:
            idle_decode = self._space.decode[0].rungs[0]
            result = self._run(self._answers_of_one, self._of(self._space.prefill, rung), idle_decode)[1]
            self._prefill[rung] = self._part(inside(result, self._sla), result.gpu_hours_prefill)
        return self._prefill[rung]

    def _roomy_prefill(self) -> _Rung:
        """The cheapest prefill setting that leaves half of the allowed misses over, or the best one."""
        roomy = [rung for rung, part in self._prefill.items() if 1 - part.attainment <= self._misses / 2]
        if roomy:
            return min(roomy, key=lambda rung: self._prefill[rung].gpu_hours)
        return max(self._prefill, key=lambda rung: self._prefill[rung].attainment)

    def _decode_part(self, prefill: _Rung, rung: _Rung) -> _Part:
        if rung not in self._decode:
            self._run_pair(prefill, rung)
        return self._decode[rung]

    # both

    def _join(self) -> None:
        """Runs pairs that should reach the goal, the cheapest first, until the next one costs more than the best that did."""
        pairs = sorted((self._cost(pair), pair) for pair in product(self._prefill, self._decode))
        promising = [(cost, pair) for cost, pair in pairs if self._expected(pair) >= self._contest.goal]
        if not promising:
            promising = [max(pairs, key=lambda each: self._expected(each[1]))]
        runs = 0
        for cost, pair in promising:
            if runs == MOST_PAIRS or (self._reached() and cost >= self._best_hours()):
                return
            if pair not in self._done:
                self._run_pair(*pair)
                runs += 1

    def _polish(self) -> None:
        for _ in range(MOST_POLISH):
            if not self._reached() or self._best is None:
                return
            prefill, decode = self._best.pair
            lower = [((prefill[0], prefill[1] - 1), decode), (prefill, (decode[0], decode[1] - 1))]
            fresh = [pair for pair in lower if min(pair[0][1], pair[1][1]) >= 0 and pair not in self._done and self._hopeful(pair)]
            if not fresh:
                return
            self._run_pair(*fresh[0])

    def _hopeful(self, pair: tuple[_Rung, _Rung]) -> bool:
        """Whether nothing that is known of the parts forbids that the pair reaches the goal."""
        known_decode = self._decode.get(pair[1])
        return self._prefill_part(pair[0]).attainment >= self._contest.goal and (
            known_decode is None or known_decode.attainment >= self._contest.goal - self._misses / 10
        )

    def _cost(self, pair: tuple[_Rung, _Rung]) -> float:
        return self._prefill[pair[0]].gpu_hours + self._decode[pair[1]].gpu_hours

    def _expected(self, pair: tuple[_Rung, _Rung]) -> float:
        return int(np.bitwise_count(self._prefill[pair[0]].bits & self._decode[pair[1]].bits).sum()) / self._requests

    def _reached(self) -> bool:
        return self._best is not None and self._best.score.attainment >= self._contest.goal

    def _best_hours(self) -> float:
        return math.inf if self._best is None else self._best.score.gpu_hours

    # runs

    def _run_pair(self, prefill: _Rung, decode: _Rung) -> None:
        policy, result = self._run(self._contest.scenario, self._of(self._space.prefill, prefill), self._of(self._space.decode, decode))
        judged = score(self._contest.scenario, result, self._sla)
        self._done[prefill, decode] = judged
        in_time = inside(result, replace(self._sla, ttft_ms=math.inf))
        self._decode.setdefault(decode, self._part(in_time, result.gpu_hours_decode))
        if self._best is None or self._rank(judged) < self._rank(self._best.score):
            self._best = _Run((prefill, decode), policy, judged, result)

    def _rank(self, judged: Score) -> tuple[bool, float, float]:
        if judged.attainment >= self._contest.goal:
            return False, judged.gpu_hours, -judged.attainment
        return True, -judged.attainment, judged.gpu_hours

    def _run(self, scenario: Scenario, prefill: S, decode: S) -> tuple[Policy, RunResult]:
        policy = self._space.policy(prefill, decode)
        if self._space.start is not None:
            scenario = replace(scenario, start=self._space.start(prefill, decode))
        done, end_s = self.tried, max(scenario.end_s, 1.0)
        self.tried += 1

        def progress(at_s: float) -> None:
            self._contest.progress(self._space.name, _share(done + at_s / end_s))

        progress(0.0)
        return policy, run(scenario, policy, progress)

    def _of(self, ladders: Sequence[Ladder[S]], rung: _Rung) -> S:
        return ladders[rung[0]].rungs[rung[1]]

    def _part(self, kept: npt.NDArray[np.bool_], gpu_hours: float) -> _Part:
        judged = kept[self._scored]
        return _Part(np.packbits(judged), float(judged.mean()), gpu_hours)


def _share(runs: float) -> float:
    """Of a search whose length nobody knows: grows with every run and never quite arrives."""
    return runs / (runs + HALF_WAY_RUNS)
