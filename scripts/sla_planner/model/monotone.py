"""A monotone curve through measured points.

1. Isotonic correction: the non-decreasing values with the least sum of squared changes, by pooling adjacent violators.
2. Piecewise cubic Hermite interpolation with the slopes of Fritsch and Carlson (SIAM J. Numer. Anal. 17, 1980; the weights are Fritsch and
   Butland's harmonic mean, 1984): monotone wherever the data are, no overshoot, continuous first derivative. On an interval of width h with
   secant slope s and end slopes d0, d1:

       y(u) = y0 + u*(d0 + u*((3s - 2*d0 - d1)/h + u*(d0 + d1 - 2s)/h^2)),   u = x - x0
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise


def isotonic(values: Sequence[float]) -> list[float]:
    """The non-decreasing sequence nearest to `values` (least squares, equal weights), same length."""
    pools: list[tuple[float, int]] = []  # mean, members
    for value in values:
        mean, members = value, 1
        while pools and pools[-1][0] > mean:
            earlier, count = pools.pop()
            mean = (earlier * count + mean * members) / (count + members)
            members += count
        pools.append((mean, members))
    return [mean for mean, members in pools for _ in range(members)]


class MonotoneCurve:
    """Non-decreasing, once differentiable curve through (x, isotonic(y)), evaluated in plain Python: one bisection and one cubic.

    `x`: at least one value, strictly increasing; `y`: as many. Outside [x[0], x[-1]] the nearest end value.
    """

    __slots__ = ("_cubics", "x", "y")

    def __init__(self, x: Sequence[float], y: Sequence[float]) -> None:
        self.x = tuple(float(value) for value in x)
        self.y = tuple(isotonic([float(value) for value in y]))
        slopes = _slopes(self.x, self.y)
        self._cubics = tuple(
            _cubic(x1 - x0, y0, y1, d0, d1)
            for x0, x1, y0, y1, d0, d1 in zip(self.x, self.x[1:], self.y, self.y[1:], slopes, slopes[1:], strict=False)
        )

    def __call__(self, at: float) -> float:
        if at <= self.x[0]:
            return self.y[0]
        if at >= self.x[-1]:
            return self.y[-1]
        index = bisect_right(self.x, at) - 1
        u = at - self.x[index]
        y0, d0, quadratic, cubic = self._cubics[index]
        return y0 + u * (d0 + u * (quadratic + u * cubic))


def _cubic(width: float, y0: float, y1: float, d0: float, d1: float) -> tuple[float, float, float, float]:
    secant = (y1 - y0) / width
    return y0, d0, (3 * secant - 2 * d0 - d1) / width, (d0 + d1 - 2 * secant) / width**2


def _slopes(x: tuple[float, ...], y: tuple[float, ...]) -> list[float]:
    """Slope at every point of non-decreasing data: 0 beside a flat piece, else a weighted harmonic mean of the secants."""
    widths = [right - left for left, right in pairwise(x)]
    secants = [(upper - lower) / width for lower, upper, width in zip(y, y[1:], widths, strict=False)]
    if len(secants) < 2:
        return secants * 2
    inner = [
        _harmonic(width0, width1, secant0, secant1)
        for width0, width1, secant0, secant1 in zip(widths, widths[1:], secants, secants[1:], strict=False)
    ]
    return [_end_slope(widths[0], widths[1], secants[0], secants[1]), *inner, _end_slope(widths[-1], widths[-2], secants[-1], secants[-2])]


def _harmonic(width0: float, width1: float, secant0: float, secant1: float) -> float:
    if secant0 <= 0 or secant1 <= 0:
        return 0.0
    weight0, weight1 = 2 * width1 + width0, width1 + 2 * width0
    return (weight0 + weight1) / (weight0 / secant0 + weight1 / secant1)


def _end_slope(width: float, next_width: float, secant: float, next_secant: float) -> float:
    """Three-point end formula, kept within [0, 3*secant] so that the first piece stays monotone."""
    slope = ((2 * width + next_width) * secant - width * next_secant) / (width + next_width)
    return min(max(slope, 0.0), 3 * secant)
