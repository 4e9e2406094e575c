"""The picture of what more attainment costs: the planner over its one knob as a line, the alternatives as points, one panel per recording.

Importing this without matplotlib raises UsageError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Frontier:
    """One recording. `knob`: by factor on the price of a miss, rising. `others`: by policy."""

    name: str
    knob: Mapping[float, Result]
    others: Mapping[str, Result]


def picture(frontiers: Sequence[Frontier]) -> bytes:
    """A PNG."""
    height_in = 0.35 + 2.75 * len(frontiers)
    with styled():
        figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, facecolor="white", layout="constrained")
        for row, frontier in enumerate(frontiers):
            _panel(figure.add_subplot(len(frontiers), 1, row + 1), frontier)
        names = list(frontiers[0].others)  # the same in all
        marks = [figure.axes[0].plot([], [], marker=_marker(name, names), linestyle="", color=MUTED, label=name)[0] for name in names]
        line = figure.axes[0].plot([], [], marker="o", color=BLUE, label="slaplanner, price of a miss x0.25 .. x8")[0]
        figure.legend(handles=[line, *marks], loc="outside upper left", ncols=5)
    return png(figure)


def _panel(ax: Axes, frontier: Frontier) -> None:
    ours = list(frontier.knob.values())
    spent = [result["gpu_hours"] for result in ours]
    ax.plot(spent, [_misses(result) for result in ours], color=BLUE, marker="o", markersize=3.5, linewidth=1.4, zorder=3)
    for factor, result in frontier.knob.items():
        weight = "bold" if factor == 1 else "normal"
        where = {"xytext": (-4, 5), "textcoords": "offset points", "ha": "right", "fontsize": 6.2, "color": BLUE, "fontweight": weight}
        ax.annotate(f"x{factor:g}", (result["gpu_hours"], _misses(result)), **where)
    for name, result in frontier.others.items():
        colour = INK if result["reached"] else MISS
        ax.plot(result["gpu_hours"], _misses(result), marker=_marker(name, list(frontier.others)), color=colour, markersize=5, linestyle="", zorder=2)
        ax.annotate(name, (result["gpu_hours"], _misses(result)), xytext=(6, -2), textcoords="offset points", fontsize=6.2, color=colour)
    ax.axhline(1 - GOAL, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    _axes(ax, [*ours, *frontier.others.values()])
    ax.set_title(frontier.name)


def _axes(ax: Axes, results: Sequence[Result]) -> None:
    misses = [_misses(result) for result in results]
    most = max(result["gpu_hours"] for result in results)
    ax.set_yscale("log")
    ax.set_ylim(min(max(*misses, 0.02) * 1.6, 1.0), min(misses) / 1.7)  # few misses are at the top
    ax.yaxis.set_major_locator(FixedLocator([1 - share for share in SHARES]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda missed, _position: f"{round((1 - missed) * 100, 2):g} %"))
    ax.set_xlim(0, most * 1.15)
    ax.xaxis.set_major_locator(MaxNLocator(8))
    ax.set_ylabel("requests inside")
    ax.set_xlabel("GPU-hours")


def _misses(result: Result) -> float:
    return min(max(1 - result["attainment"], FEWEST_MISSES), MOST_MISSES)


def _marker(name: str, names: Sequence[str]) -> str:
    return MARKERS[list(names).index(name) % len(MARKERS)]
