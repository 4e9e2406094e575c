"""How far load has been seen to rise within one start-up: the memory that the risk sizing insures against.

For every past interval j the memory knows the level l_j that the planner believed in and the loads x_{j+1}, x_{j+2}, ... that followed. What matters
for a decision now is what those rises would be *added to today's level*:

    keep     u_j = l + max(x_{j+1} .. x_{j+H}) - l_j           H = horizon in intervals: can the workers that run be kept?
             once with x as it is, at the share `BLIP`: one interval above what workers can do is missed, and not the whole horizon
             once with means of `LASTING` intervals, at the rest: what lasts is missed until new workers are ready
    launch   u_jk = l + x_{j+k} - l_j, k = H .. H+L            what a worker that is asked for now arrives in time for; L = one more start-up

Rises are absolute: clients switch on by amounts of their own, whatever the rest is doing (relative rises buy nonsense when busy and nothing when
quiet). Each u_j stands for w_j = max(0.2 q, q + rise of the request rate) requests per second and is weighted by how similar the level was:

    k_j = exp(-((l_j - l) / (0.15 (l + 0.5)))^2 / 2) + 0.02

Not the intervals are kept but what they sum to, in cells of (level, rise): how many, the sum of their rises, the sum of their rate rises. Cells are
`LEVEL_STEP` and `RISE_STEP` apart in ratio, finer than the kernel and than a worker, and the sums keep the means exact; so a year takes no more room
and no more time than a day. Everything fades with a time constant of `MEMORY_S`: what was seen days ago still counts, and last month does not.

Before anything has been seen, a prior stands in: `PRIOR_WEIGHT` intervals, after `PRIOR_JUMPS` of which load rose by `PRIOR_GROWTH` of itself and
`PRIOR_RISE` workers, so that a new deployment carries some insurance and sheds it as quiet hours are counted.

The kernel widths are those that did best on three recorded days of LLM traffic (ServeGen).
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MEMORY_S = 7 * 86_400.0
PRIOR_WEIGHT = 10.0
PRIOR_JUMPS = 2.0
PRIOR_RISE = 0.6
PRIOR_GROWTH = 0.1
KERNEL_WIDTH = 0.15
KERNEL_OFFSET = 0.5
KERNEL_FLOOR = 0.02
LEAST_RATE = 0.2  # a past fall of the request rate never makes today's requests worth less than this share
LEVEL_STEP = 1.08
RISE_STEP, RISE_UNIT = 1.15, 0.1  # rises below a tenth of a worker share a cell
RISE_CELLS = 2 * 70 + 1  # up to +-1,700 workers; larger ones share the last
LAUNCH_LAGS = 3
LASTING = 3
BLIP = 0.2

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Rises:
    """Possible loads one horizon from now, in ascending order: `load` worker-seconds/s, `rate_rps` requests/s at stake then, `weight`
    summing to 1; (n,) each."""

    load: npt.NDArray[np.float64]
    rate_rps: npt.NDArray[np.float64]
    weight: npt.NDArray[np.float64]

    def quantile(self, share: float) -> float:
        """The load that is not exceeded with probability `share`."""
        index = int(np.searchsorted(np.cumsum(self.weight), share - 1e-12))
        return float(self.load[min(index, len(self.load) - 1)])


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Cells by level (rows, `levels` their numbers, ascending) and rise: counts, sums of rises, sums of rate rises (rows, RISE_CELLS, 3)."""

    levels: npt.NDArray[np.int32]
    cells: Floats

    @classmethod
    def empty(cls) -> _Table:
        return cls(np.zeros(0, np.int32), np.zeros((0, RISE_CELLS, 3), np.float32))

    def with_rises(self, level: float, rises: list[float], rate_rise: float, faded: float) -> _Table:
        """Everything fades to the share `faded`, then one interval is added: `rises` share its weight."""
        number = _level_cell(level)
        row = int(np.searchsorted(self.levels, number))
        levels, cells = self.levels, self.cells * np.float32(faded)
        if row == len(levels) or levels[row] != number:
            levels = np.insert(levels, row, number)
            cells = np.insert(cells, row, 0.0, axis=0)
        for rise in rises:
            cells[row, _rise_cell(rise)] += np.array((1.0, rise, rate_rise), np.float32) / np.float32(len(rises))
        return _Table(levels, cells)

    def near(self, level: float) -> npt.NDArray[np.float64]:
        """(RISE_CELLS, 3): the cells of all levels, weighted by how similar they are to `level`."""
        distance = (_level_of(self.levels) - level) / (KERNEL_WIDTH * (level + KERNEL_OFFSET))
        weight = np.exp(-0.5 * distance**2) + KERNEL_FLOOR
        summed: npt.NDArray[np.float64] = (weight.astype(np.float32) @ self.cells.reshape(len(weight), 3 * RISE_CELLS)).astype(np.float64)
        return summed.reshape(RISE_CELLS, 3)


@dataclass(frozen=True, slots=True, eq=False)
class JumpMemory:
    """`recent` (k, 3): load, level and request rate of the last intervals, newest last, which have not seen a whole horizon yet. `blips`, `lasting`:
    the two rises of `keep`; `launched`: those of `launch`."""

    recent: Floats
    blips: _Table
    lasting: _Table
    launched: _Table

    @classmethod
    def empty(cls) -> JumpMemory:
        return cls(np.zeros((0, 3), np.float32), _Table.empty(), _Table.empty(), _Table.empty())

    def remember(self, load: float, level: float, rate_rps: float, *, interval_s: float, horizon: int) -> JumpMemory:
        """The memory with one more interval. `horizon` in intervals."""
        recent = np.concatenate([self.recent, np.array([[load, level, rate_rps]], np.float32)])[-2 * horizon - 1 :]
        blips, lasting, launched, faded = self.blips, self.lasting, self.launched, math.exp(-interval_s / MEMORY_S)
        if len(recent) > horizon:
            began, since = recent[-1 - horizon], recent[-horizon:]
            level_then, rate_rise = float(began[1]), float(since[:, 2].mean() - began[2])
            blips = blips.with_rises(level_then, [_highest(since[:, 0], 1) - level_then], rate_rise, faded)
            lasting = lasting.with_rises(level_then, [_highest(since[:, 0], LASTING) - level_then], rate_rise, faded)
        if len(recent) > 2 * horizon - 1:
            began = recent[-2 * horizon]
            later = [recent[-2 * horizon + lag] for lag in _launch_lags(horizon)]
            rate_rise = float(recent[-2 * horizon + 1 : len(recent) - horizon + 1, 2].mean() - began[2])
            launched = launched.with_rises(float(began[1]), [float(each[0] - began[1]) for each in later], rate_rise, faded)
        return JumpMemory(recent, blips, lasting, launched)

    def keep(self, level: float, rate_rps: float) -> Rises:
        """Highest load within the horizon."""
        return _rises(BLIP * self.blips.near(level) + (1 - BLIP) * self.lasting.near(level), level, rate_rps)

    def launch(self, level: float, rate_rps: float) -> Rises:
        """Load that a worker launched now can meet: at the beginning, in the middle and at the end of the start-up after this one."""
        return _rises(self.launched.near(level), level, rate_rps)

    def to_json(self) -> dict[str, Any]:
        """Arrays as base64 of little-endian float32; of the tables only the cells that hold something."""
        return {"recent": _packed(self.recent), **{name: _table_to_json(getattr(self, name)) for name in _TABLES}}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> JumpMemory:
        """The inverse of `to_json`. Raises KeyError, TypeError or ValueError when `document` is not a memory."""
        return cls(_unpacked(document["recent"], 3), *(_table_from_json(document[name]) for name in _TABLES))


_TABLES = ("blips", "lasting", "launched")


def _highest(loads: Floats, intervals: int) -> float:
    """The highest mean of so many successive intervals, or of all where there are fewer."""
    width = min(intervals, len(loads))
    return float(np.convolve(loads, np.full(width, 1 / width), "valid").max())


def _launch_lags(horizon: int) -> list[int]:
    return [horizon + share * (horizon - 1) // 2 for share in range(LAUNCH_LAGS)]


def _rises(near: npt.NDArray[np.float64], level: float, rate_rps: float) -> Rises:
    """`near` (RISE_CELLS, 3): cells, as `_Table.near` gives them."""
    filled = near[:, 0] > 0
    count = near[filled, 0]
    load = level + near[filled, 1] / count
    rate = np.maximum(LEAST_RATE * rate_rps, rate_rps + near[filled, 2] / count)
    all_loads = np.concatenate([load, [level, level * (1 + PRIOR_GROWTH) + PRIOR_RISE]])
    order = np.argsort(all_loads, kind="stable")
    weight = np.concatenate([count, [PRIOR_WEIGHT - PRIOR_JUMPS, PRIOR_JUMPS]]) / (count.sum() + PRIOR_WEIGHT)
    return Rises(all_loads[order], np.concatenate([rate, [rate_rps, rate_rps]])[order], weight[order])


def _level_cell(level: float) -> int:
    return round(math.log(max(level, 0.0) / KERNEL_OFFSET + 1) / math.log(LEVEL_STEP))


def _level_of(cell: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    level: npt.NDArray[np.float64] = KERNEL_OFFSET * (LEVEL_STEP ** cell.astype(np.float64) - 1)
    return level


def _rise_cell(rise: float) -> int:
    middle = RISE_CELLS // 2
    distance = round(math.log(abs(rise) / RISE_UNIT + 1) / math.log(RISE_STEP))
    return middle + (1 if rise > 0 else -1) * min(distance, middle)


def _packed(array: npt.NDArray[Any]) -> str:
    return base64.b64encode(array.astype("<f4").tobytes()).decode()


def _unpacked(text: str, width: int) -> Floats:
    numbers: Floats = np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32).reshape(-1, width)
    if not np.isfinite(numbers).all():
        raise ValueError("a memory holds finite numbers only")
    return numbers


def _table_to_json(table: _Table) -> str:
    rows, columns = np.nonzero(table.cells[:, :, 0])
    return _packed(np.column_stack([table.levels[rows], columns, table.cells[rows, columns]]))


def _table_from_json(text: str) -> _Table:
    entries = _unpacked(text, 5)
    numbers, rises = entries[:, 0].astype(np.int32), entries[:, 1].astype(np.int32)
    if len(entries) and not (numbers.min() >= 0 and rises.min() >= 0 and rises.max() < RISE_CELLS and entries[:, 2].min() >= 0):
        raise ValueError(f"levels and counts >= 0 and rises 0 .. {RISE_CELLS - 1} expected")
    levels, rows = np.unique(numbers, return_inverse=True)
    cells = np.zeros((len(levels), RISE_CELLS, 3), np.float32)
    cells[rows, rises] = entries[:, 2:]
    return _Table(levels, cells)
