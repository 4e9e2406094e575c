"""Which point to measure next.

Both latency laws are linear in their coefficients (model/laws.py), so how well a set of points pins them down is known before anything is fitted. For
points x_i (rows of the design matrix, each divided by its latency, because errors are relative) the relative standard error of the law at x is

    se(x) = sigma * sqrt(x^T (X^T X)^-1 x)           sigma^2 = (2*PRIOR^2 + sum of squared relative residuals) / (2 + n - coefficients)

A few points that span the range come first; after that the candidate with the largest se is measured, until none is above `UNCERTAIN` or the budget
is spent. A clean engine needs no more than the first points; a noisy one, or one that does not follow the law, gets more where it matters.

    prefill   ISL: shortest, the goal's, longest, and the widest gap (on a logarithmic scale) filled
    decode    at the goal's context: one request, a few, and the batch at which the promise is about to break (the operating point); at the
              shortest context: the batch that uses up the promise there; at the longest: half of what fits without leaving it far behind

The operating point is found by aiming: the law of the points so far says at which batch ITL reaches AIM of the promise; what is measured there moves
the aim, at most AIMS times. A batch never goes beyond what the KV cache, the sequence limit and FAR_PAST of the promise allow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from sla_planner.model.engine import ItlLaw
from sla_planner.model.laws import fit_itl, fit_prefill
from sla_planner.sweep.points import DecodeShape, PrefillShape
from sla_planner.sweep.result import Goal

PRIOR = 0.02  # what a measurement repeats by
UNCERTAIN = 0.05  # relative standard error of the law that asks for another point
SHORTEST_ISL = 128  # below, fixed costs decide
FIRST_ISLS = 4
A_FEW = 8  # requests: enough to see what one more costs
AIM = 0.95  # of the promised ITL
HIT = 0.9  # of the promised ITL or more, and within it: close enough to the edge
AIMS = 3
STEP = 32  # times the largest batch measured so far, at most
FAR_PAST = 1.5  # of the promised ITL: a surface beyond that serves nobody
LONG_FILL = 0.5  # of what fits at the longest context: filling it is what a sweep's time goes to, and half of it shows the slope
MOST_REQUESTS = 2000  # at once; the reference profiler's cap, and about what one client process carries
KV_MARGIN = 0.97  # of the KV cache: blocks are rounded up
LEAST_TOKENS = 512  # that a held request may generate: a few windows
PROMPT_TOKENS_PER_STEP = 2048  # while a batch fills, the requests that already run generate a token every so many prompt tokens
QUEUE = 2  # prompts at once where the promise has no room for more


@dataclass(frozen=True, slots=True)
class Limits:
    """What one engine takes. `max_sequences`: None when not known."""

    max_context_tokens: int
    max_kv_tokens: int
    max_sequences: int | None = None

    def max_tokens(self, isl_tokens: int, batch: int) -> int:
        """Tokens that each of `batch` held requests is allowed to generate: enough to fill the batch and to measure a few windows."""
        room = self.max_context_tokens - isl_tokens
        return max(min(LEAST_TOKENS + batch * isl_tokens // PROMPT_TOKENS_PER_STEP, room), 1)

    def most_requests(self, isl_tokens: int) -> int:
        """Requests of `isl_tokens` that can be held at once, each with its `max_tokens`; 0 when not even one fits."""
        low, high = 0, min(MOST_REQUESTS, self.max_sequences or MOST_REQUESTS)
        while low < high:
            middle = (low + high + 1) // 2
            fits = middle * (isl_tokens + self.max_tokens(isl_tokens, middle)) <= KV_MARGIN * self.max_kv_tokens
            low, high = (middle, high) if fits else (low, middle - 1)
        return low


@dataclass(frozen=True, slots=True)
class PrefillKnown:
    """A clean point of the curve."""

    isl_tokens: float
    ttft_ms: float


@dataclass(frozen=True, slots=True)
class DecodeKnown:
    """A clean point of the surface. `shape` is what was asked for."""

    shape: DecodeShape
    batch: float
    context_tokens: float
    itl_ms: float


# ---- prefill ------------------------------------------------------------------------------------------------------------------------------


def longest_isl(limits: Limits) -> int:
    """The longest prompt worth measuring: it leaves room for an answer, and one fits the KV cache with it."""
    room = min(limits.max_context_tokens, int(KV_MARGIN * limits.max_kv_tokens))
    return max(room - LEAST_TOKENS, room // 2, 1)


def first_prefill(goal: Goal, limits: Limits) -> list[PrefillShape]:
    """Where the curve begins, ascending; fewer when the range is narrow."""
    longest = max(longest_isl(limits), goal.isl_tokens)
    isls = {min(SHORTEST_ISL, max(goal.isl_tokens // 2, 1)), goal.isl_tokens, longest}
    while len(isls) < FIRST_ISLS:
        left, right = max(pairwise(sorted(isls)), key=lambda pair: pair[1] / pair[0])
        middle = round(math.sqrt(left * right))
        if middle in isls:
            break
        isls.add(middle)
    return [PrefillShape(isl) for isl in sorted(isls)]


def next_prefill(known: Sequence[PrefillKnown]) -> PrefillShape | None:
    """The prompt length between two measured ones of which least is known, None when the curve is known well enough."""
    if len(known) < FIRST_ISLS - 1:
        return None
    isl = np.array([point.isl_tokens for point in known])
    ttft_ms = np.array([point.ttft_ms for point in known])
    law, _ = fit_prefill(isl, ttft_ms)
    middles = [round(math.sqrt(left * right)) for left, right in pairwise(sorted(set(isl.tolist()))) if right > 1.2 * left]
    candidates = np.array([float(middle) for middle in middles])
    if not len(candidates):
        return None
    columns, wanted = (np.column_stack([np.ones_like(at), at, at**2]) for at in (isl, candidates))
    at_known, at_wanted = (np.array([law.ttft_ms(float(x)) for x in at]) for at in (isl, candidates))
    error = _standard_errors(columns / at_known[:, None], ttft_ms / at_known - 1, wanted / at_wanted[:, None])
    worst = int(error.argmax())
    return PrefillShape(middles[worst]) if error[worst] > UNCERTAIN else None


def beside(shape: PrefillShape) -> PrefillShape:
    """A prompt of about the same length, to stand in for a point that is not trusted."""
    return PrefillShape(max(shape.isl_tokens * 15 // 16, 1), shape.concurrency)


def queued_prefill(goal: Goal, known: Sequence[PrefillKnown]) -> PrefillShape:
    """The goal's prompts several at once: as many as the promised TTFT should allow if they were served one after the other, at least QUEUE."""
    alone_ms = min((abs(point.isl_tokens - goal.isl_tokens), point.ttft_ms) for point in known)[1]
    return PrefillShape(goal.isl_tokens, max(QUEUE, min(int(AIM * goal.promise.ttft_ms / alone_ms), 8 * QUEUE)))


# ---- decode -------------------------------------------------------------------------------------------------------------------------------


def first_decode(goal: Goal, limits: Limits) -> list[DecodeShape]:
    """The first steps of the staircase at the goal's context, ascending."""
    most = limits.most_requests(goal.isl_tokens)
    return [DecodeShape(goal.isl_tokens, batch) for batch in sorted({1, min(A_FEW, most)}) if 1 <= batch <= most]


def next_aim(goal: Goal, limits: Limits, known: Sequence[DecodeKnown]) -> DecodeShape | None:
    """The batch at the goal's context that should use up the promised ITL; None when a measured one does, or none can."""
    promised_ms = goal.promise.itl_ms
    here = sorted((point for point in known if point.shape.isl_tokens == goal.isl_tokens), key=lambda point: point.batch)
    kept = [point for point in here if point.itl_ms <= promised_ms]
    broken = [point for point in here if point.itl_ms > promised_ms]
    most = min([limits.most_requests(goal.isl_tokens), *(point.shape.batch - 1 for point in broken)])
    if not kept or len(here) < 2 or kept[-1].itl_ms >= HIT * promised_ms:
        return None
    left, right = (kept[-1], broken[0]) if broken else here[-2:]
    slope = (right.itl_ms - left.itl_ms) / max(right.batch - left.batch, 1.0)
    # A slope from a few requests says little about hundreds: no step beyond STEP times what was seen.
    farthest = STEP * kept[-1].batch
    aimed = left.batch + (AIM * promised_ms - left.itl_ms) / slope if slope > 0 else farthest
    batch = int(min(aimed, farthest, most))
    return DecodeShape(goal.isl_tokens, batch) if batch > kept[-1].shape.batch else None


def corners(goal: Goal, limits: Limits, known: Sequence[DecodeKnown]) -> list[DecodeShape]:
    """The longest context with half of what is worth measuring, then the shortest with the batch that uses up the promise there.

    In this order: points at one context cannot tell what a request costs from what its KV costs, and the shortest context needs to know.
    """
    if not known:
        return []
    law, promised_ms, longest = _law(known), goal.promise.itl_ms, longest_isl(limits)
    short = min(SHORTEST_ISL, max(goal.isl_tokens // 2, 1))
    long = longest if longest > 1.2 * goal.isl_tokens else max(goal.isl_tokens // 4, 1)
    at_short = min(limits.most_requests(short), _batch_at(law, short, AIM * promised_ms))
    at_long = math.ceil(LONG_FILL * min(limits.most_requests(long), _batch_at(law, long, FAR_PAST * promised_ms)))
    found = {DecodeShape(short, at_short), DecodeShape(long, at_long)}
    return sorted((shape for shape in found if shape.batch >= 1 and shape.isl_tokens != goal.isl_tokens), key=lambda shape: -shape.isl_tokens)


def next_decode(goal: Goal, limits: Limits, known: Sequence[DecodeKnown]) -> DecodeShape | None:
    """The operating point of which least is known, None when the surface is known well enough."""
    if len(known) < 4:
        return None
    law = _law(known)
    candidates = []
    for isl in sorted({point.shape.isl_tokens for point in known} | {max(goal.isl_tokens // 2, 1)}):
        most = min(limits.most_requests(isl), _batch_at(law, isl, FAR_PAST * goal.promise.itl_ms))
        candidates += [DecodeShape(isl, batch) for batch in sorted({1, most // 4, most // 2, most}) if batch >= 1]
    measured = {point.shape for point in known}
    candidates = [shape for shape in candidates if not any(_close(shape, other) for other in measured)]
    if not candidates:
        return None
    batch = np.array([point.batch for point in known])
    kv = np.array([point.batch * point.context_tokens for point in known])
    itl_ms = np.array([point.itl_ms for point in known])
    wanted_batch = np.array([float(shape.batch) for shape in candidates])
    wanted_kv = np.array([float(shape.batch * shape.isl_tokens) for shape in candidates])
    at_known, at_wanted = law.c0_ms + law.c1_ms * batch + law.c2_ms * kv, law.c0_ms + law.c1_ms * wanted_batch + law.c2_ms * wanted_kv
    columns = np.column_stack([np.ones_like(batch), batch, kv]) / at_known[:, None]
    wanted = np.column_stack([np.ones_like(wanted_batch), wanted_batch, wanted_kv]) / at_wanted[:, None]
    error = _standard_errors(columns, itl_ms / at_known - 1, wanted)
    worst = int(error.argmax())
    return candidates[worst] if error[worst] > UNCERTAIN else None


def _law(known: Sequence[DecodeKnown]) -> ItlLaw:
    law, _ = fit_itl([p.batch for p in known], [p.batch * p.context_tokens for p in known], [p.itl_ms for p in known])
    return law


def _batch_at(law: ItlLaw, isl_tokens: int, itl_ms: float) -> int:
    """The batch at which ITL is `itl_ms`, at least 1. Where a step alone takes that long: the batch that doubles it."""
    per_request_ms = law.c1_ms + law.c2_ms * isl_tokens
    if per_request_ms <= 0:
        return MOST_REQUESTS
    return max(int(min((max(itl_ms, 2 * law.c0_ms) - law.c0_ms) / per_request_ms, MOST_REQUESTS)), 1)


def _close(shape: DecodeShape, other: DecodeShape) -> bool:
    return shape.isl_tokens == other.isl_tokens and abs(shape.batch - other.batch) <= 0.2 * other.batch


def _standard_errors(columns: np.ndarray, residuals: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """se(x) of the module's head for every row of `wanted`, shape (m,). Columns that no point can tell apart count as known."""
    count, coefficients = columns.shape
    norms = np.linalg.norm(columns, axis=0)
    columns, wanted = columns / norms, wanted / norms
    sigma = math.sqrt((2 * PRIOR**2 + float(residuals @ residuals)) / (2 + max(count - coefficients, 0)))
    inverse = np.linalg.pinv(columns.T @ columns, rcond=1e-12)
    errors: np.ndarray = sigma * np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", wanted, inverse, wanted), 0.0))
    return errors
