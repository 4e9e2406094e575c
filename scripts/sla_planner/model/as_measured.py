"""What Dynamo 0.6's planner computes from a profile, number for number (its `perf_interpolation.py`), so that its decisions can be reproduced.

Prefill. TTFT and throughput by cubic splines over ISL, ISL clamped to the measured range.

Decode. ITL and throughput on a grid of 100 x 100 cells, KV usage 0..1 times context 0..largest measured, by cubic triangulation; cells outside
the convex hull get the value of the nearest point. A query answers with the nearest cell. The best throughput within an ITL scans one context's
cells from KV usage 1 down to 0 and takes the first that holds it; when none does, the cell at KV usage 0, here marked not reachable.

Nothing is corrected: every point is used, flagged or not; splines overshoot, so throughput may come out too low or even negative, and cells
far beyond any measured KV usage may be picked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sla_planner.errors import ProfileError
from sla_planner.model.engine import OperatingPoint
from sla_planner.model.profile import DecodeMeasurement, PrefillMeasurement

CELLS = 100
_FEWEST_POINTS = 4  # of a cubic spline, and of a triangulation that is more than one triangle
_HINT = 'measure more points, or use interpolation "fitted"'

Floats = NDArray[np.float64]


class AsMeasuredPrefill:
    """`PrefillModel` from all points of `measurement`. ProfileError when fewer than four were measured."""

    __slots__ = ("_throughput", "_ttft_ms", "gpus", "isl_range")

    def __init__(self, measurement: PrefillMeasurement, gpus: int) -> None:
        from scipy.interpolate import interp1d  # 0.3 s and 40 MB: only whoever asks for it pays

        points = measurement.points
        if len(points) < _FEWEST_POINTS:
            raise ProfileError(f"{len(points)} points, a cubic spline needs {_FEWEST_POINTS}", key=f"prefill {measurement.mapping.label}", hint=_HINT)
        isl = [point.isl_tokens for point in points]
        self.gpus = gpus
        self.isl_range = (isl[0], isl[-1])
        self._ttft_ms: Any = interp1d(isl, [point.ttft_ms for point in points], kind="cubic")
        self._throughput: Any = interp1d(isl, [point.throughput_per_gpu for point in points], kind="cubic")

    def ttft_ms(self, isl_tokens: float) -> float:
        return float(self._ttft_ms(self._clamped(isl_tokens)))

    def throughput_per_gpu(self, isl_tokens: float) -> float:
        return float(self._throughput(self._clamped(isl_tokens)))

    def in_range(self, isl_tokens: float) -> bool:
        return self.isl_range[0] <= isl_tokens <= self.isl_range[1]

    def _clamped(self, isl_tokens: float) -> float:
        return min(max(isl_tokens, self.isl_range[0]), self.isl_range[1])


class AsMeasuredDecode:
    """`DecodeModel` from all points of `measurement`. ProfileError when they do not span a surface."""

    __slots__ = ("_itl_ms", "_largest_context", "_most_kv", "_throughput", "context_range", "gpus", "max_kv_tokens")

    def __init__(self, measurement: DecodeMeasurement, gpus: int) -> None:
        points = measurement.points
        contexts = [point.context_tokens for point in points]
        self.gpus = gpus
        self.max_kv_tokens = measurement.max_kv_tokens
        self.context_range = (min(contexts), max(contexts))
        self._most_kv = max(point.kv_usage for point in points)
        self._itl_ms = _grid(measurement, np.array([point.itl_ms for point in points]))
        self._throughput = _grid(measurement, np.array([point.throughput_per_gpu for point in points]))

    def itl_ms(self, batch: float, context_tokens: float) -> float:
        kv_usage = batch * context_tokens / self.max_kv_tokens
        return float(self._itl_ms[self._row(context_tokens), _cell(kv_usage)])

    def best_throughput_per_gpu(self, itl_ms: float, context_tokens: float) -> OperatingPoint:
        row = self._row(context_tokens)
        holding = np.flatnonzero(self._itl_ms[row] <= itl_ms)
        column = int(holding[-1]) if len(holding) else 0
        return OperatingPoint(
            throughput_per_gpu=float(self._throughput[row, column]),
            itl_ms=float(self._itl_ms[row, column]),
            kv_usage=column / (CELLS - 1),
            reachable=len(holding) > 0,
        )

    def in_range(self, batch: float, context_tokens: float) -> bool:
        return self.context_range[0] <= context_tokens <= self.context_range[1] and batch * context_tokens / self.max_kv_tokens <= self._most_kv

    def _row(self, context_tokens: float) -> int:
        return _cell(context_tokens / self.context_range[1])


def _cell(share: float) -> int:
    """Index of the grid line nearest to `share` of the axis, halves to even."""
    return min(max(round(share * (CELLS - 1)), 0), CELLS - 1)


def _grid(measurement: DecodeMeasurement, values: Floats) -> Floats:
    """`values` of the points on the grid, [context, kv usage]."""
    from scipy.interpolate import griddata
    from scipy.spatial import QhullError

    at = (np.array([point.kv_usage for point in measurement.points]), np.array([point.context_tokens for point in measurement.points]))
    grid = np.meshgrid(np.linspace(0, 1, CELLS), np.linspace(0, at[1].max(), CELLS))
    try:
        surface: Floats = griddata(at, values, tuple(grid), method="cubic")
    except (QhullError, ValueError):
        message = f"{len(values)} points do not span a surface over KV usage and context"
        raise ProfileError(message, key=f"decode {measurement.mapping.label}", hint=_HINT) from None
    outside = np.isnan(surface)
    surface[outside] = griddata(at, values, (grid[0][outside], grid[1][outside]), method="nearest")
    return surface
