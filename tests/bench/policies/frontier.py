"""The picture of what more attainment costs: the planner over its one knob as a line, the alternatives as points, one panel per recording.

Importing this without matplotlib raises UsageError.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from policies.runs import GOAL, Result
from sla_planner.report.style import BLUE, DPI, INK, MISS, MUTED, WIDTH_IN, needs_matplotlib, png, styled

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
except ImportError as missing:
    raise needs_matplotlib() from missing

SHARES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
MARKERS = ("s", "D", "^", "v", "P", "X", "*", "<", ">")
FEWEST_MISSES, MOST_MISSES = 0.0005, 0.6  # what lies beyond is drawn at the edge
NAME_WIDTH, NAME_HEIGHT = 0.12, 0.3  # room for a name: share of the width, logarithm of misses
_LINE: dict[str, Any] = {"color": BLUE, "marker": "o", "markersize": 3.5, "linewidth": 1.4, "zorder": 3}
_SMALL: dict[str, Any] = {"textcoords": "offset points", "fontsize": 6.2, "annotation_clip": False}


@dataclass(frozen=True, slots=True)
class Frontier:
    """One recording. `knob`: by factor on the price of a miss, rising. `others`: by policy."""

    name: str
    knob: Mapping[float, Result]
    others: Mapping[str, Result]


def picture(frontiers: Sequence[Frontier]) -> bytes:
    """A PNG."""
    with styled():
        figure = Figure(figsize=(WIDTH_IN, 0.1 + 2.75 * len(frontiers)), dpi=DPI, facecolor="white", layout="constrained")
        for row, frontier in enumerate(frontiers):
            _panel(figure.add_subplot(len(frontiers), 1, row + 1), frontier)
    return png(figure)


def _panel(ax: Axes, frontier: Frontier) -> None:
    knob, others = frontier.knob, frontier.others
    ax.plot([knob[factor]["gpu_hours"] for factor in knob], [_misses(knob[factor]) for factor in knob], **_LINE)
    for factor in (min(knob), 1.0, max(knob)):
        at = (knob[factor]["gpu_hours"], _misses(knob[factor]))
        ax.annotate(f"x{factor:g}", at, xytext=(0, 5), ha="center", color=BLUE, fontweight="bold" if factor == 1 else "normal", **_SMALL)
    _axes(ax, [*knob.values(), *others.values()])
    for (name, result), marker in zip(others.items(), cycle(MARKERS)):
        colour = INK if result["reached"] else MISS
        ax.plot(result["gpu_hours"], _misses(result), marker=marker, color=colour, markersize=4.5, linestyle="", zorder=2, clip_on=False)
        left = any(_in_the_way(ax, result, other) for other in [*others.values(), *knob.values()])
        ax.annotate(
            name, (result["gpu_hours"], _misses(result)), xytext=(-6 if left else 6, -2), ha="right" if left else "left", color=colour, **_SMALL
        )
    ax.axhline(1 - GOAL, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    ax.set_title(f"{frontier.name}: slaplanner at x{min(knob):g} .. x{max(knob):g} of its price of a miss (blue), and the alternatives")


def _in_the_way(ax: Axes, result: Result, other: Result) -> bool:
    """Whether `other` stands where the name of `result` would be, to the right of it."""
    low, high = ax.get_xlim()
    distance = (other["gpu_hours"] - result["gpu_hours"]) / (high - low)
    return 0 < distance < NAME_WIDTH and abs(math.log(_misses(other) / _misses(result))) < NAME_HEIGHT


def _axes(ax: Axes, results: Sequence[Result]) -> None:
    misses = [_misses(result) for result in results]
    spent = [result["gpu_hours"] for result in results]
    ax.set_yscale("log")
    ax.set_ylim(min(max(*misses, 0.02) * 1.6, 1.0), min(misses) / 1.7)  # few misses are at the top
    ax.yaxis.set_major_locator(FixedLocator([1 - share for share in SHARES]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda missed, _position: f"{round((1 - missed) * 100, 2):g} %"))
    room = 0.12 * (max(spent) - min(spent)) + 0.01 * max(spent)
    ax.set_xlim(max(min(spent) - room, 0), max(spent) + 1.4 * room)
    ax.xaxis.set_major_locator(MaxNLocator(8))
    ax.set_ylabel("requests inside")
    ax.set_xlabel("GPU-hours")


def _misses(result: Result) -> float:
    missed: float = 1 - result["attainment"]
    return min(max(missed, FEWEST_MISSES), MOST_MISSES)
