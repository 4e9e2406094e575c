"""A sweep in sentences: the pick, what is nearest when there is none, why the others were not taken, what it cost, what stands in doubt.

Rounding never flatters: a value to set is rounded up until it holds, a share inside is rounded down.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sla_planner.errors import ProfileError
from sla_planner.model.fitted import FittedPrefill
from sla_planner.model.gates import BATCHED_LITTLE_RANGE, LITTLE_RANGE, MONOTONE_TOLERANCE, OUTLIER_SHARE, OUTLIER_SIGMAS
from sla_planner.model.profile import Flag, ParallelMapping
from sla_planner.model.selection import TIE, Candidate, Choice, choose
from sla_planner.plan.decision import Role
from sla_planner.report.terminal import table
from sla_planner.report.wording import clock, promised_share, share_inside
from sla_planner.sweep.result import Comparison, Cost, Goal, SweepResult, Verification

FLAG_WORDS = {
    Flag.LITTLE: "some requests were queueing: fewer ran at once than it claims",
    Flag.NOT_MONOTONE: "faster than a smaller load, by more than measurements differ",
    Flag.OUTLIER: "far from the law that the other points follow",
    Flag.REPORTED: "not trusted by whoever measured it",
}
FLAG_RULES = {
    Flag.LITTLE: f"throughput x latency / requests in flight is not within {LITTLE_RANGE[0]:g} to {LITTLE_RANGE[1]:g} "
    f"(batched prefill: {BATCHED_LITTLE_RANGE[0]:g} to {BATCHED_LITTLE_RANGE[1]:g}): below, some were waiting; above, the numbers are not of one run",
    Flag.NOT_MONOTONE: f"more than {MONOTONE_TOLERANCE:.0%} faster than a point with less to do".replace("%", " %"),
    Flag.OUTLIER: f"more than {OUTLIER_SHARE:.0%} and {OUTLIER_SIGMAS:g} sigma off the law that the others follow".replace("%", " %"),
    Flag.REPORTED: "not trusted by whoever measured it; the note says why",
}
SHORT_FLAG_WORDS = {Flag.LITTLE: "queued", Flag.NOT_MONOTONE: "not monotone", Flag.OUTLIER: "outlier", Flag.REPORTED: "not trusted"}
_SHORTEST_ISL = 16
HEADROOM = 1.05  # of a value to set: what was measured once is not met again to the last percent


@dataclass(frozen=True, slots=True)
class Side:
    """Prefill or decode of a sweep: which latency decides, how much of it is promised, what there was to choose from and what was chosen."""

    role: Role
    latency: str  # TTFT or ITL
    promised_ms: float
    setting: str  # the flag that sets it
    choice: Choice
    candidates: tuple[Candidate, ...]

    def keeps(self, candidate: Candidate) -> bool:
        return candidate.latency_ms <= self.promised_ms

    @property
    def best(self) -> tuple[Candidate, ...]:
        """Of each mapping what it would be picked for, or what comes nearest; fewest GPUs first."""
        mappings = sorted(dict.fromkeys(candidate.mapping for candidate in self.candidates), key=lambda mapping: (mapping.gpus, mapping.label))
        of_mapping = ([c for c in self.candidates if c.mapping == mapping] for mapping in mappings)
        chosen = self.choice.nearest  # of its own mapping, whatever the candidates say
        return tuple(chosen if own[0].mapping == chosen.mapping else choose(own, self.promised_ms).nearest for own in of_mapping)


def prefill_side(result: SweepResult) -> Side:
    return Side(Role.PREFILL, "TTFT", result.goal.promise.ttft_ms, "--ttft", result.prefill, result.prefill_candidates)


def decode_side(result: SweepResult) -> Side:
    return Side(Role.DECODE, "ITL", result.goal.promise.itl_ms, "--itl", result.decode, result.decode_candidates)


def sides(result: SweepResult) -> tuple[Side, Side]:
    return prefill_side(result), decode_side(result)


def spelled(mapping: ParallelMapping) -> str:
    """`TP:4`, `DEP:8`, `TP:4-PP:2`."""
    return re.sub(r"([A-Z]+)(\d+)", r"\1:\2", mapping.label)


def computed(result: SweepResult) -> bool:
    """Whether the latencies come from a model of the engine and not from requests."""
    return result.profile.provenance.source.startswith("offline")


def percentile(result: SweepResult) -> str:
    """`p99`: the percentile that a promise to this share of requests is about; `computed` where there were no requests."""
    return "computed" if computed(result) else f"p{result.goal.promise.attainment * 100:g}"


def latency_text(value_ms: float) -> str:
    """`4.83 ms`, `48.4 ms`, `1,599 ms`."""
    digits = 2 if value_ms < 10 else 1 if value_ms < 100 else 0
    return f"{value_ms:,.{digits}f} ms"


def rate_text(throughput_per_gpu: float) -> str:
    """`15,505 tokens/s/GPU`; one decimal below a hundred."""
    return f"{throughput_per_gpu:,.{1 if throughput_per_gpu < 100 else 0}f} tokens/s/GPU"


def suggested_lines(result: SweepResult) -> list[str]:
    """The last lines of a sweep, one per role; the latency is the one at the promised percentile. `Nearest` where nothing keeps the promise."""
    lines = []
    for side in sides(result):
        word = "Suggested" if side.choice.picked else "Nearest"
        shown = side.choice.nearest
        lines.append(
            f"{word} {side.role} {spelled(shown.mapping)} "
            f"({side.latency} {shown.latency_ms:.2f} ms, throughput {shown.throughput_per_gpu:.2f} tokens/s/GPU)"
        )
    return lines


def infeasible(result: SweepResult) -> tuple[str, str]:
    """(message, hint) for `InfeasibleError`: the nearest achievable of each promise that nothing keeps, and what to change."""
    missed = [side for side in sides(result) if side.choice.picked is None]
    asked = " ".join(("no mapping keeps", f"{missed[0].latency} {missed[0].promised_ms:g} ms", goal_text(result.goal)))
    others = [f"nor {side.latency} {side.promised_ms:g} ms: {_nearest(side)}" for side in missed[1:]]
    return "; ".join([f"{asked}: {_nearest(missed[0])}", *others]), "; ".join(_way_out(side, result) for side in missed)


def headline(result: SweepResult) -> str:
    """The sweep in one sentence."""
    if not result.feasible:
        return "; ".join(_cannot(side) for side in sides(result) if side.choice.picked is None)
    prefill, decode = (side.choice.nearest.mapping for side in sides(result))
    where = f"prefill and decode on {prefill.label}" if prefill == decode else f"prefill on {prefill.label} and decode on {decode.label}"
    promise = result.goal.promise
    by = "" if not computed(result) else ", as computed and not measured" if not result.points else ", as computed and corrected by measured points"
    kept = f"TTFT {promise.ttft_ms:g} ms and ITL {promise.itl_ms:g} ms are kept by {where}{by}"
    used = result.verification
    if used is None or kept_in_use(result):
        return kept
    return f"{kept}; in use they were missed: {share_inside(used.inside, used.requests)} of {used.requests:,} requests inside"


def kept_in_use(result: SweepResult) -> bool:
    """Whether the pick kept the promise when it was verified."""
    verified = result.verification
    return verified is not None and verified.inside >= result.goal.promise.attainment * verified.requests


def goal_text(goal: Goal) -> str:
    """`for 99 % of requests of 3,000 tokens in and 150 out`."""
    return f"for {promised_share(goal.promise.attainment)} of requests of {goal.isl_tokens:,} tokens in and {goal.osl_tokens:,} out"


def cost_text(cost: Cost) -> str:
    """`38:12 and 0.9 GPU-hours for 64 points on 4 engines; 12 more were found again`."""
    points = _count(cost.measured, "point")
    engines = _count(cost.deployments, "engine start")
    again = f"; {cost.reused} more found again from an earlier run" if cost.reused else ""
    return f"{clock(cost.wall_s)} and {cost.gpu_hours:,.2f} GPU-hours: {points} measured with {engines}{again}"


def role_in_words(side: Side) -> str:
    """`TP4: TTFT 48.4 ms (p99), 15,505 tokens/s/GPU, ISL 3000` of the pick or the nearest."""
    shown = side.choice.nearest
    at = f", {shown.at}" if shown.at else ""
    return f"{shown.mapping.label}: {side.latency} {latency_text(shown.latency_ms)}, {rate_text(shown.throughput_per_gpu)}{at}"


def why(side: Side, candidate: Candidate) -> str:
    """Why `candidate` was picked or not, in words."""
    if candidate == side.choice.picked:
        return "picked"
    if not side.keeps(candidate):
        beyond = f"{side.latency} {_more(candidate.latency_ms / side.promised_ms)} the promised {side.promised_ms:g} ms"
        return f"nearest: {beyond}" if candidate == side.choice.nearest else beyond
    pick = side.choice.nearest
    less = 1 - candidate.throughput_per_gpu / pick.throughput_per_gpu
    if less > TIE:
        return f"{_percent(less)} less throughput per GPU than {_told_apart(pick, candidate)}"
    return f"as much throughput per GPU as {_told_apart(pick, candidate)}" + (", more GPUs" if candidate.mapping.gpus > pick.mapping.gpus else "")


def comparison_rows(side: Side) -> list[tuple[str, ...]]:
    """One row per mapping: mapping, GPUs, operating point, latency at the promised percentile, throughput per GPU, verdict."""
    return [
        (
            candidate.mapping.label,
            str(candidate.mapping.gpus),
            candidate.at,
            f"{candidate.latency_ms:,.2f}",
            f"{candidate.throughput_per_gpu:,.0f}",
            why(side, candidate),
        )
        for candidate in side.best
    ]


def comparison_table(result: SweepResult) -> str:
    """Both roles' mappings for a terminal."""
    told = percentile(result)
    return "\n\n".join(
        table(comparison_rows(side), [side.role.value, "GPUs", "at", f"{side.latency} {told} (ms)", "tokens/s/GPU", "verdict"])
        for side in sides(result)
    )


def verification_text(verification: Verification) -> str:
    """How the pick did in use, and how far the profile was off at worst."""
    kept = (
        f"{share_inside(verification.inside, verification.requests)} of {verification.requests:,} requests inside"
        if verification.requests
        else "no requests"
    )
    failed = f", {verification.failed:,} failed" if verification.failed else ""
    worst = max(verification.comparisons, key=lambda one: abs(one.difference), default=None)
    off = f"; {difference_text(worst)}" if worst else ""
    return f"{kept}{failed}{off}"


def difference_text(comparison: Comparison) -> str:
    """`TTFT of one request: 12 % slower than the profile says`."""
    percent = round(abs(comparison.difference) * 100)
    if percent == 0:
        return f"{comparison.what}: as the profile says"
    return f"{comparison.what}: {percent} % {'slower' if comparison.difference > 0 else 'faster'} than the profile says"


def flags_in_words(flags: Sequence[Flag], note: str = "") -> str:
    """Why a point is not used; '' for one that is."""
    told = [FLAG_WORDS[flag] for flag in flags if not (flag is Flag.REPORTED and note)]
    return "; ".join([note, *told] if note else told)


def _nearest(side: Side) -> str:
    near = side.choice.nearest
    at = f" ({near.at})" if near.at else ""
    return f"the nearest is {latency_text(near.latency_ms)} with {near.mapping.label}{at}"


def _cannot(side: Side) -> str:
    near = side.choice.nearest
    return f"{side.latency} {side.promised_ms:g} ms cannot be met: the nearest is {latency_text(near.latency_ms)} on {near.mapping.label}"


def _way_out(side: Side, result: SweepResult) -> str:
    """A looser promise always helps; the rest is named where the measurements say that it would."""
    near = side.choice.nearest
    ways = [f"set {side.setting} {enough(HEADROOM * near.latency_ms):g}"]
    if near.typical_ms <= side.promised_ms:
        ways.append(f"promise it to fewer requests (--attainment; the median is {latency_text(near.typical_ms)})")
    if result.may_grow and near.mapping.gpus == max(candidate.mapping.gpus for candidate in side.candidates):
        ways.append(f"allow more than {_count(near.mapping.gpus, 'GPU')} per engine (--max-num-gpus)")
    if side.role is Role.PREFILL and (shorter := _isl_that_holds(side, result)):
        ways.append(f"ask for prompts of at most {shorter} tokens (--isl)")
    return ", or ".join(ways)


def enough(value_ms: float) -> float:
    """`value_ms` rounded up to two digits: 48.37 -> 49, 4.83 -> 4.9, 1599 -> 1600."""
    step = 10.0 ** (math.floor(math.log10(value_ms)) - 1)
    rounded = math.ceil(value_ms / step) * step
    return float(f"{rounded:.6g}")


def _isl_that_holds(side: Side, result: SweepResult) -> int | None:
    """The longest prompt, rounded down to two digits, whose TTFT on the nearest mapping would hold by the measured curve, as far as it reaches."""
    near = side.choice.nearest
    measurement = next((m for m in result.profile.prefill if m.mapping == near.mapping), None)
    if measurement is None:
        return None
    try:
        curve = FittedPrefill(measurement, near.mapping.gpus)
    except ProfileError:
        return None
    at_goal = curve.ttft_ms(result.goal.isl_tokens)
    tail = max(1.0, near.latency_ms / at_goal)  # the promise is about a percentile, the curve about the typical request
    low, high = max(curve.isl_range[0], _SHORTEST_ISL), float(result.goal.isl_tokens)
    if low >= high or curve.ttft_ms(low) * tail > side.promised_ms:
        return None
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if curve.ttft_ms(middle) * tail <= side.promised_ms else (low, middle)
    step = 10 ** max(0, math.floor(math.log10(low)) - 1)
    return int(low // step * step)


def _told_apart(pick: Candidate, candidate: Candidate) -> str:
    return f"{pick.mapping.label} {pick.at}".strip() if pick.mapping == candidate.mapping else pick.mapping.label


def _more(ratio: float) -> str:
    return f"{ratio:.1f} times" if ratio >= 2 else f"{_percent(ratio - 1)} above"


def _percent(share: float) -> str:
    percent = share * 100
    return f"{percent:.1f} %" if percent < 1 else f"{percent:.0f} %"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
