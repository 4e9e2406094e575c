"""How far load has been seen to rise within one start-up: the memory that the risk sizing insures against.

For every past interval j the memory knows the level l_j that the planner believed in and the loads x_{j+1}, x_{j+2}, ... that followed. What matters
for a decision now is what those rises would be *added to today's level*:

    keep     u_j = l + max(x_{j+1} .. x_{j+H}) - l_j           H = horizon in intervals: can the workers that run be kept?
             once with x as it is, at a share of `BLIP` / H: one interval above what workers can do is missed, and what waited then, not the horizon
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
from collections.abc import Mapping, Sequence
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
LEVEL_CELLS = 300  # up to 5e9 workers; higher levels share the last
LAUNCH_LAGS = 3
LASTING = 3
BLIP = 1.8

Floats = npt.NDArray[np.float32]
_LEVELS = KERNEL_OFFSET * (LEVEL_STEP ** np.arange(LEVEL_CELLS) - 1)  # of level cells


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
class _Cells:
    """What past intervals sum to, by kind (`_KINDS`), level (rows; `levels` their numbers, ascending) and rise. `sums` (kinds, rows, RISE_CELLS, 3):
    counts, sums of rises, sums of rate rises."""

    levels: npt.NDArray[np.int32]
    sums: Floats

    @classmethod
    def empty(cls) -> _Cells:
        return cls(np.zeros(0, np.int32), np.zeros((len(_KINDS), 0, RISE_CELLS, 3), np.float32))

    def faded(self, share: float) -> _Cells:
        """Everything that was seen counts `share` times as much."""
        return _Cells(self.levels, self.sums * np.float32(share))

    def with_rises(self, level: float, rises: Mapping[int, Sequence[float]], rate_rise: float) -> _Cells:
        """One more interval: by kind its rises, which share its weight. `sums` are added to in place: only for cells that nobody else has."""
        number = _level_cell(level)
        row = int(self.levels.searchsorted(number))
        cells = self
        if row == len(self.levels) or self.levels[row] != number:
            cells = _Cells(np.insert(self.levels, row, number), np.insert(self.sums, row, 0.0, axis=1))
        for kind, each in rises.items():
            for rise in each:
                cells.sums[kind, row, _rise_cell(rise)] += np.array((1.0, rise, rate_rise), np.float32) / np.float32(len(each))
        return cells

    def near(self, level: float, kinds: Mapping[int, float]) -> npt.NDArray[np.float64]:
        """(RISE_CELLS, 3): the cells of all levels, weighted by how similar they are to `level`, of successive `kinds` in shares."""
        distance = (_LEVELS[self.levels] - level) / (KERNEL_WIDTH * (level + KERNEL_OFFSET))
        weight = np.exp(-0.5 * distance * distance) + KERNEL_FLOOR
        weights = np.concatenate([share * weight for share in kinds.values()]).astype(np.float32)
        rows = self.sums[min(kinds) : max(kinds) + 1].reshape(len(weights), 3 * RISE_CELLS)
        return (weights @ rows).astype(np.float64).reshape(RISE_CELLS, 3)


@dataclass(frozen=True, slots=True, eq=False)
class JumpMemory:
    """`recent`: load, level and request rate of the last intervals, newest last, which have not seen a whole horizon yet. `cells`: of those that
    have; blips and what lasts are the two rises of `keep`."""

    recent: tuple[tuple[float, float, float], ...]
    cells: _Cells

    @classmethod
    def empty(cls) -> JumpMemory:
        return cls((), _Cells.empty())

    def remember(self, load: float, level: float, rate_rps: float, *, interval_s: float, horizon: int) -> JumpMemory:
        """The memory with one more interval. `horizon` in intervals."""
        recent = (*self.recent, (load, level, rate_rps))[-2 * horizon - 1 :]
        if len(recent) <= horizon:
            return JumpMemory(recent, self.cells)
        cells = self.cells.faded(math.exp(-interval_s / MEMORY_S))
        (_, level_then, rate_then), since = recent[-1 - horizon], [load for load, _, _ in recent[-horizon:]]
        highest = {_BLIPS: [_highest(since, 1) - level_then], _LASTING: [_highest(since, LASTING) - level_then]}
        cells = cells.with_rises(level_then, highest, _mean_rate(recent[-horizon:]) - rate_then)
        if len(recent) > 2 * horizon - 1:
            _, level_then, rate_then = recent[-2 * horizon]
            later = [recent[-2 * horizon + lag][0] - level_then for lag in _launch_lags(horizon)]
            rate_rise = _mean_rate(recent[-2 * horizon + 1 : len(recent) - horizon + 1]) - rate_then
            cells = cells.with_rises(level_then, {_LAUNCHED: later}, rate_rise)
        return JumpMemory(recent, cells)

    def keep(self, level: float, rate_rps: float, *, horizon: int) -> Rises:
        """Highest load within the horizon, which is that of `remember`."""
        blips = min(BLIP / horizon, 1.0)
        return _rises(self.cells.near(level, {_BLIPS: blips, _LASTING: 1 - blips}), level, rate_rps)

    def launch(self, level: float, rate_rps: float) -> Rises:
        """Load that a worker launched now can meet: at the beginning, in the middle and at the end of the start-up after this one."""
        return _rises(self.cells.near(level, {_LAUNCHED: 1.0}), level, rate_rps)

    def to_json(self) -> dict[str, Any]:
        """Numbers as base64 of little-endian floats; of the cells only those that hold something."""
        recent = np.array(self.recent, np.float64).reshape(-1, 3)
        return {"recent": _packed(recent, _RECENT), **{name: _kind_to_json(self.cells, kind) for kind, name in enumerate(_KINDS)}}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> JumpMemory:
        """The inverse of `to_json`. Raises KeyError, TypeError or ValueError when `document` is not a memory."""
        recent = tuple((load, level, rate) for load, level, rate in _unpacked(document["recent"], _RECENT, 3).tolist())
        return cls(recent, _cells_from_json([document[name] for name in _KINDS]))


_KINDS = ("blips", "lasting", "launched")
_BLIPS, _LASTING, _LAUNCHED = range(len(_KINDS))
_RECENT, _SUMS = "<f8", "<f4"


def _highest(loads: Sequence[float], intervals: int) -> float:
    """The highest mean of so many successive intervals, or of all where there are fewer."""
    width = min(intervals, len(loads))
    return max(sum(loads[first : first + width]) for first in range(len(loads) - width + 1)) / width


def _mean_rate(intervals: Sequence[tuple[float, float, float]]) -> float:
    return sum(rate for _, _, rate in intervals) / len(intervals)


def _launch_lags(horizon: int) -> list[int]:
    return [horizon + share * (horizon - 1) // 2 for share in range(LAUNCH_LAGS)]


def _rises(near: npt.NDArray[np.float64], level: float, rate_rps: float) -> Rises:
    """`near` (RISE_CELLS, 3): cells, as `_Table.near` gives them."""
    count, rises, rate_rises = near[np.flatnonzero(near[:, 0] > 0)].T
    load = level + rises / count
    rate = np.maximum(LEAST_RATE * rate_rps, rate_rps + rate_rises / count)
    all_loads = np.concatenate([load, [level, level * (1 + PRIOR_GROWTH) + PRIOR_RISE]])
    order = all_loads.argsort(kind="stable")
    weight = np.concatenate([count, [PRIOR_WEIGHT - PRIOR_JUMPS, PRIOR_JUMPS]]) / (count.sum() + PRIOR_WEIGHT)
    return Rises(all_loads[order], np.concatenate([rate, [rate_rps, rate_rps]])[order], weight[order])


def _level_cell(level: float) -> int:
    return min(round(math.log(max(level, 0.0) / KERNEL_OFFSET + 1) / math.log(LEVEL_STEP)), LEVEL_CELLS - 1)


def _rise_cell(rise: float) -> int:
    middle = RISE_CELLS // 2
    distance = round(math.log(abs(rise) / RISE_UNIT + 1) / math.log(RISE_STEP))
    return middle + (1 if rise > 0 else -1) * min(distance, middle)


def _packed(array: npt.NDArray[Any], kind: str) -> str:
    return base64.b64encode(array.astype(kind).tobytes()).decode()


def _unpacked(text: str, kind: str, width: int) -> npt.NDArray[Any]:
    numbers: npt.NDArray[Any] = np.frombuffer(base64.b64decode(text, validate=True), kind).reshape(-1, width)
    if not np.isfinite(numbers).all():
        raise ValueError("a memory holds finite numbers only")
    return numbers


def _kind_to_json(cells: _Cells, kind: int) -> str:
    sums = cells.sums[kind]
    rows, columns = np.nonzero(sums[:, :, 0])
    return _packed(np.column_stack([cells.levels[rows], columns, sums[rows, columns]]), _SUMS)


def _cells_from_json(texts: Sequence[str]) -> _Cells:
    kinds = [_unpacked(text, _SUMS, 5) for text in texts]
    for entries in kinds:
        numbers, rises, counts = entries[:, 0], entries[:, 1], entries[:, 2]
        if len(entries) and not (
            0 <= numbers.min() <= numbers.max() < LEVEL_CELLS and 0 <= rises.min() <= rises.max() < RISE_CELLS and counts.min() >= 0
        ):
            raise ValueError(f"levels 0 .. {LEVEL_CELLS - 1}, rises 0 .. {RISE_CELLS - 1} and counts >= 0 expected")
    levels = np.unique(np.concatenate([entries[:, 0] for entries in kinds])).astype(np.int32)
    sums = np.zeros((len(kinds), len(levels), RISE_CELLS, 3), np.float32)
    for kind, entries in enumerate(kinds):
        sums[kind, np.searchsorted(levels, entries[:, 0]), entries[:, 1].astype(np.int32)] = entries[:, 2:]
    return _Cells(levels, sums)
