"""A schedule that knows every request: need per bin from the true work (`true_work`), ordered one start-up earlier.

    need(bin)    ceil(a load + b sqrt(load)), at least 1           a, b per role, fitted in hindsight (`hindsight`)
    asked(t)     the largest need of all bins from t to t + start-up

so that a worker is ready when its bin begins, and one that will be needed again within a start-up stays. Not proven to be the best schedule: what
it costs is an upper bound of what the best one would. It reckons with the mean start-up of the cluster.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sla_planner.simulate.policy import Seen, Workers

BIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Margin:
    """Workers for a load: a * load + b * sqrt(load)."""

    a: float
    b: float


class Clairvoyant:
    """Follows a schedule made beforehand: `prefill`, `decode` are workers to have asked for in each bin of `BIN_S`."""

    name = "clairvoyant"
    interval_s = BIN_S

    def __init__(self, prefill: npt.NDArray[np.int64], decode: npt.NDArray[np.int64], margins: tuple[Margin, Margin]) -> None:
        self._prefill = prefill
        self._decode = decode
        self._margins = margins

    @property
    def settings(self) -> Mapping[str, Any]:
        prefill, decode = self._margins
        return {"prefill": asdict(prefill), "decode": asdict(decode)}

    def decide(self, seen: Seen) -> Workers:
        last = len(self._prefill) - 1
        now = min(round(seen.at_s / BIN_S), last)
        return Workers(int(self._prefill[now]), int(self._decode[now]))


def schedule(load: npt.NDArray[np.float64], margin: Margin, startup_s: float) -> npt.NDArray[np.int64]:
    """Workers to have asked for at the beginning of each bin, for `load` busy workers in each."""
    need = np.maximum(np.ceil(margin.a * load + margin.b * np.sqrt(load) - 1e-9), 1).astype(np.int64)
    ahead = math.ceil(startup_s / BIN_S - 1e-9)
    padded = np.concatenate([need, np.ones(ahead, np.int64)])
    largest: npt.NDArray[np.int64] = np.lib.stride_tricks.sliding_window_view(padded, ahead + 1).max(axis=1)
    return largest
