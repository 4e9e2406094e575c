"""How far load has been seen to rise within one start-up: the memory that the risk sizing insures against.

For every past interval j the memory knows the level l_j that the planner believed in and the loads x_{j+1}, x_{j+2}, ... that followed. What matters
for a decision now is what those rises would be *added to today's level*:

    keep     u_j = l + max(x_{j+1} .. x_{j+H}) - l_j           H = horizon in intervals: can the workers that run be kept?
    launch   u_jk = l + x_{j+k} - l_j, k = H .. H+L            what a worker that is asked for now arrives in time for; L = one more start-up

Rises are absolute: clients switch on by amounts of their own, whatever the rest is doing (relative rises buy nonsense when busy and nothing when
quiet). Each u_j stands for w_j = max(0.2 q, q + rise of the request rate) requests per second and is weighted by how similar the level was:

    k_j = exp(-((l_j - l) / (0.15 (l + 0.5)))^2 / 2) + 0.02

The last `FULL_S` seconds are kept interval by interval. Older ones are folded, `FOLD_S` seconds at a time, into two entries: the highest rise,
weight 1, and the mean of the others, weight n - 1; `FOLDED_DAYS` days of them are kept. Before anything has been seen, a prior stands in:
`PRIOR_WEIGHT` intervals, after `PRIOR_JUMPS` of which load rose by `PRIOR_GROWTH` of itself and `PRIOR_RISE` workers, so that a new deployment
carries some insurance and sheds it as quiet hours are counted.

The kernel widths are those that did best on three recorded days of LLM traffic (ServeGen).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FULL_S = 86_400.0
FOLD_S = 600.0
FOLDED_DAYS = 7
PRIOR_WEIGHT = 10.0
PRIOR_JUMPS = 2.0
PRIOR_RISE = 0.6
PRIOR_GROWTH = 0.1
KERNEL_WIDTH = 0.15
KERNEL_FLOOR = 0.02
LEAST_RATE = 0.2  # a past fall of the request rate never makes today's requests worth less than this share

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Rises:
    """Possible loads one horizon from now. `load` has one row per remembered interval and one column per lag (`keep` has one);
    `rate_rps` requests/s are at stake in each row; `weight` sums to 1."""

    load: npt.NDArray[np.float64]
    rate_rps: npt.NDArray[np.float64]
    weight: npt.NDArray[np.float64]

    def quantile(self, share: float) -> float:
        """The load that is not exceeded with probability `share`."""
        worst = self.load.max(axis=1)
        order = np.argsort(worst)
        index = int(np.searchsorted(np.cumsum(self.weight[order]), share))
        return float(worst[order][min(index, len(worst) - 1)])


@dataclass(frozen=True, slots=True, eq=False)
class JumpMemory:
    """Loads, levels and request rates, newest last, one entry per interval; and the folded past (`level, rise, rate_rise, weight` per row)."""

    load: Floats
    level: Floats
    rate: Floats
    folded: Floats

    @classmethod
    def empty(cls) -> JumpMemory:
        none = np.zeros(0, np.float32)
        return cls(none, none, none, np.zeros((0, 4), np.float32))

    def remember(self, load: float, level: float, rate_rps: float, *, interval_s: float, horizon: int) -> JumpMemory:
        """The memory with one more interval; what has become older than `FULL_S` is folded. `horizon` in intervals."""
        grown = JumpMemory(_appended(self.load, load), _appended(self.level, level), _appended(self.rate, rate_rps), self.folded)
        fold, full = max(int(FOLD_S / interval_s), 1), max(int(FULL_S / interval_s), 1)
        if len(grown.load) < full + fold + horizon:
            return grown
        return grown._fold(fold, horizon, keep=int(FOLDED_DAYS * FULL_S / (fold * interval_s)) * (2 if fold > 1 else 1))

    def _fold(self, count: int, horizon: int, *, keep: int) -> JumpMemory:
        rise = self._window_max(self.load, horizon)[:count] - self.level[:count]
        rate_rise = self._window_mean(self.rate, horizon)[:count] - self.rate[:count]
        worst = int(np.argmax(rise))
        rest = np.arange(count) != worst
        rows = [[self.level[worst], rise[worst], rate_rise[worst], 1.0]]
        if count > 1:
            rows.append([self.level[:count][rest].mean(), rise[rest].mean(), rate_rise[rest].mean(), count - 1.0])
        folded = np.concatenate([self.folded, np.array(rows, np.float32)])[-keep:]
        return JumpMemory(self.load[count:], self.level[count:], self.rate[count:], folded)

    def keep(self, level: float, rate_rps: float, horizon: int) -> Rises:
        """Highest load within the horizon, one row per remembered interval."""
        count = max(len(self.load) - horizon, 0)
        rise = self._window_max(self.load, horizon)[:count] - self.level[:count]
        return self._rises(level, rate_rps, rise[:, None], self._rate_rise(horizon, count))

    def launch(self, level: float, rate_rps: float, horizon: int) -> Rises:
        """Load that a worker launched now can meet: one column each for the beginning, the middle and the end of the start-up after this one."""
        lags = [horizon + share * (horizon - 1) // 2 for share in (0, 1, 2)]
        count = max(len(self.load) - lags[-1], 0)
        later = np.stack([self.load[lag : lag + count] for lag in lags], axis=1)
        return self._rises(level, rate_rps, later - self.level[:count, None], self._rate_rise(horizon, count))

    def _rises(self, level: float, rate_rps: float, rise: Floats, rate_rise: Floats) -> Rises:
        """`rise` (rows x lags) and `rate_rise` (rows) of the newest past, plus the folded past and the prior."""
        lags = rise.shape[1]
        folded = self.folded
        all_levels = np.concatenate([self.level[: len(rise)], folded[:, 0]]).astype(np.float64)
        all_rises = np.concatenate([rise, np.repeat(folded[:, 1:2], lags, axis=1)]).astype(np.float64)
        all_rates = np.concatenate([rate_rise, folded[:, 2]]).astype(np.float64)
        counts = np.concatenate([np.ones(len(rise)), folded[:, 3].astype(np.float64)])
        distance = (all_levels - level) / (KERNEL_WIDTH * (level + 0.5))
        weight = (np.exp(-0.5 * distance**2) + KERNEL_FLOOR) * counts
        prior_load = level * (1 + PRIOR_GROWTH) + PRIOR_RISE
        return Rises(
            load=np.concatenate([level + all_rises, np.full((1, lags), level), np.full((1, lags), prior_load)]),
            rate_rps=np.concatenate([np.maximum(LEAST_RATE * rate_rps, rate_rps + all_rates), [rate_rps, rate_rps]]),
            weight=np.concatenate([weight, [PRIOR_WEIGHT - PRIOR_JUMPS, PRIOR_JUMPS]]) / (weight.sum() + PRIOR_WEIGHT),
        )

    def _rate_rise(self, horizon: int, count: int) -> Floats:
        return self._window_mean(self.rate, horizon)[:count] - self.rate[:count]

    @staticmethod
    def _window_max(series: Floats, horizon: int) -> Floats:
        """max(series[j+1 .. j+horizon]) for every j that has so many successors; by doubling: two windows side by side are one twice as wide."""
        if len(series) <= horizon:
            return np.zeros(0, np.float32)
        highest, width = series[1:], 1
        while width < horizon:
            step = min(width, horizon - width)
            highest = np.maximum(highest[:-step], highest[step:])
            width += step
        return highest

    @staticmethod
    def _window_mean(series: Floats, horizon: int) -> Floats:
        if len(series) <= horizon:
            return np.zeros(0, np.float32)
        total = np.concatenate([[0.0], np.cumsum(series[1:], dtype=np.float64)])
        result: Floats = ((total[horizon:] - total[:-horizon]) / horizon).astype(np.float32)
        return result

    def to_json(self) -> dict[str, str]:
        """Arrays as base64 of little-endian float32."""
        return {name: base64.b64encode(getattr(self, name).astype("<f4").tobytes()).decode() for name in ("load", "level", "rate", "folded")}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> JumpMemory:
        """The inverse of `to_json`. Raises KeyError or ValueError when `document` is not a memory."""
        load, level, rate, folded = (
            np.frombuffer(base64.b64decode(document[name], validate=True), "<f4") for name in ("load", "level", "rate", "folded")
        )
        if not len(load) == len(level) == len(rate):
            raise ValueError(f"{len(load)} loads, {len(level)} levels and {len(rate)} rates: one of each per interval expected")
        return cls(load, level, rate, folded.reshape(-1, 4))


def _appended(series: Floats, value: float) -> Floats:
    return np.append(series, np.float32(value))
