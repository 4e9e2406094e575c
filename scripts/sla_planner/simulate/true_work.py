"""The work that a trace really brings, request by request and second by second: what only the future and no scrape tells.

The laws are the planner's own (`plan.work`), asked for one request at a time instead of for a mix: once on a grid of lengths, in between linear.
Prompts count with the tokens that are really computed, the engine with its real slowness.

    prefill   a prompt's worker-seconds, in the second in which it arrives
    decode    an answer's worker-seconds, spread evenly over the time that it takes at the ITL of a full worker: the mean of its gaps is what is
              promised, so a rush shorter than its answers is forgiven
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sla_planner.model.batching import MAX_BATCHED_TOKENS
from sla_planner.model.sla import Sla
from sla_planner.plan.work import LengthMix, RequestWork, Slowness, request_work
from sla_planner.simulate.fleet import new_core
from sla_planner.simulate.run import Scenario

PROMPT_POINTS, ANSWER_POINTS = 256, 24  # of the grids; between them the laws are very nearly linear
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class TrueWork:
    """Worker-seconds of each request (n,), and how long (s) its answer is under way on a full worker."""

    arrival_s: Floats
    prefill_s: Floats
    decode_s: Floats
    answer_s: Floats

    def prefill_load(self, bin_s: float, bins: int) -> Floats:
        """Busy prefill workers in each of the first `bins` bins of `bin_s`."""
        index = (self.arrival_s // bin_s).astype(np.int64)
        load: Floats = np.bincount(index, self.prefill_s, bins)[:bins] / bin_s
        return load

    def decode_load(self, bin_s: float, bins: int) -> Floats:
        """Full decode workers in each of the first `bins` bins of `bin_s`."""
        lasting = self.answer_s > 0
        began_s, answer_s = self.arrival_s[lasting], self.answer_s[lasting]
        rate = self.decode_s[lasting] / answer_s
        done = _since(began_s, rate, bin_s, bins) - _since(began_s + answer_s, rate, bin_s, bins)
        load: Floats = np.maximum(np.diff(done), 0.0) / bin_s
        return load


def true_work(scenario: Scenario, sla: Sla) -> TrueWork:
    """Of every request of `scenario`, under `sla`."""
    core = new_core(scenario.trace, scenario.engine, scenario.options)
    slowness = Slowness(scenario.options.slowness, scenario.options.slowness)

    def of(isl: float, osl: float) -> RequestWork:
        return request_work(scenario.engine, sla, LengthMix(((isl,), (1.0,)), ((osl,), (1.0,))), slowness)

    computed, isl, osl = (each.astype(np.float64) for each in (core.prefill_tokens, core.isl, core.osl))
    prompts = _lengths(computed, PROMPT_POINTS)
    prefill_s = np.interp(computed, prompts, [of(tokens, 1.0).prefill_s for tokens in prompts])
    rows, columns = _lengths(isl, ANSWER_POINTS), _lengths(osl, ANSWER_POINTS)
    works = [[of(row, column) for column in columns] for row in rows]
    per_token_s = np.array([[work.decode_s / column for work, column in zip(line, columns, strict=True)] for line in works])
    full_itl_s = np.array([[work.itl_target_ms / 1000 for work in line] for line in works])
    gaps = np.maximum(osl - 1, 0.0)  # the first token is prefill's
    place = _Place(isl, osl, rows, columns)
    return TrueWork(core.arrival_s, prefill_s, gaps * place.between(per_token_s), gaps * place.between(full_itl_s))


def _lengths(tokens: Floats, points: int) -> Floats:
    """Grid points from the shortest to the longest, evenly on a logarithmic scale, and both sides of the limit of a batch, where the law may leap."""
    low, high = float(tokens.min()), float(tokens.max())
    grid = np.geomspace(low, max(high, low + 1), points)
    leap = [edge for edge in (MAX_BATCHED_TOKENS, MAX_BATCHED_TOKENS + 1.0) if low < edge < high]
    return np.unique([low, *grid[1:-1], *leap, max(high, low + 1)])


class _Place:
    """Where each of n requests lies on a grid of prompt and answer lengths."""

    def __init__(self, isl: Floats, osl: Floats, rows: Floats, columns: Floats) -> None:
        self._row, self._down = _cell(isl, rows)
        self._column, self._right = _cell(osl, columns)

    def between(self, values: Floats) -> Floats:
        """Bilinear between the four corners of each request's cell."""
        row, column, down, right = self._row, self._column, self._down, self._right
        above = values[row, column] * (1 - right) + values[row, column + 1] * right
        below = values[row + 1, column] * (1 - right) + values[row + 1, column + 1] * right
        between: Floats = above * (1 - down) + below * down
        return between


def _cell(tokens: Floats, grid: Floats) -> tuple[npt.NDArray[np.int64], Floats]:
    cell = np.clip(np.searchsorted(grid, tokens, side="right") - 1, 0, len(grid) - 2)
    return cell, (tokens - grid[cell]) / (grid[cell + 1] - grid[cell])


def _since(began_s: Floats, rate: Floats, bin_s: float, bins: int) -> Floats:
    """At every edge of a bin (bins + 1,): the sum of rate * (time since it began) over what had begun."""
    index = np.minimum(began_s // bin_s, bins).astype(np.int64)
    edges_s = np.arange(bins + 1) * bin_s
    rates = np.concatenate([[0.0], np.cumsum(np.bincount(index, rate, bins + 1))[:bins]])
    moments = np.concatenate([[0.0], np.cumsum(np.bincount(index, rate * began_s, bins + 1))[:bins]])
    since: Floats = edges_s * rates - moments
    return since


def bins_of(scenario: Scenario, bin_s: float) -> int:
    """Bins of `bin_s` from the trace start to the end of the day."""
    return max(math.ceil(scenario.end_s / bin_s), 1)
