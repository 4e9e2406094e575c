"""The adaptive level of a noisy series: an EWMA that follows slowly while values scatter as usual, and at once when they jump.

    z = (x - l) / sqrt(v * (l + 0.2))                 innovation in units of the usual scatter; downward ones count half: z/2
    g = 0.2 + 0.8 * clip((|z| - 1.5) / 1.5, 0, 1)     0.2 up to z = 1.5, 1 from z = 3 on (downward: from 3 to 6)
    l <- l + max(g, 1/n) * (x - l)                    n values seen, this one included: the mean while there are few
    v <- v + max(0.1, 1/n) * (min(e, 9 v) - v)        e = (x - l)^2 / (l + 0.2) with the old l;  v >= 0.01

v is the variance per unit of level (a count's variance grows with its mean, so one v holds at every level). A surprise counts with at most three
times the usual scatter, or one jump would hide the next. The first value is the level; v starts at 0.1, worth one value.

The gain and its ramp did best on three recorded days of LLM traffic (ServeGen); the recursion of v, its bound and its start are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

GAIN = 0.2
RAMP_FROM, RAMP_TO = 1.5, 3.0
DOWNWARD = 0.5
OFFSET = 0.2  # keeps the scatter finite at level 0
VARIANCE_GAIN = 0.1
VARIANCE_START = 0.1
VARIANCE_FLOOR = 0.01


@dataclass(frozen=True, slots=True)
class AdaptiveLevel:
    """`level` and `variance` (per unit of level) after `count` values. Values are >= 0, in any one unit."""

    level: float = 0.0
    variance: float = VARIANCE_START
    count: int = 0

    @property
    def scatter(self) -> float:
        """The usual distance of a value from the level, in the values' unit."""
        return math.sqrt(self.variance * (self.level + OFFSET))

    def observe(self, x: float) -> AdaptiveLevel:
        """The level after one more value."""
        if self.count == 0:
            return AdaptiveLevel(x, self.variance, 1)
        n = self.count + 1
        z = (x - self.level) / self.scatter
        surprise = z if z > 0 else -z * DOWNWARD
        ramp = min(max((surprise - RAMP_FROM) / (RAMP_TO - RAMP_FROM), 0.0), 1.0)
        gain = max(GAIN + (1.0 - GAIN) * ramp, 1.0 / n)
        squared = min((x - self.level) ** 2 / (self.level + OFFSET), RAMP_TO**2 * self.variance)
        variance = self.variance + max(VARIANCE_GAIN, 1.0 / n) * (squared - self.variance)
        return AdaptiveLevel(self.level + gain * (x - self.level), max(variance, VARIANCE_FLOOR), n)
