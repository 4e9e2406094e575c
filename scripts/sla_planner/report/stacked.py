"""Panels under each other with one time axis. Margins are in inches, so that panels line up from picture to picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sla_planner.report.series import time_unit
from sla_planner.report.style import DPI, WIDTH_IN, needs_matplotlib, styled

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ImportError as missing:
    raise needs_matplotlib() from missing

HEAD_IN, FOOT_IN = 0.3, 0.42


@dataclass(frozen=True, slots=True)
class Stack:
    """`duration_s` of the axis and what `began` at its zero; inches of a panel's height, between panels, and above the first."""

    duration_s: float
    began: str
    row_in: float
    gap_in: float
    head_in: float = HEAD_IN

    def height_in(self, panels: int) -> float:
        return self.head_in + FOOT_IN + panels * self.row_in + (panels - 1) * self.gap_in


def stacked(panels: Sequence[Callable[[Axes], None]], stack: Stack) -> Figure:
    """Each panel draws on axes of its own; the time axis is named below the last."""
    height_in = stack.height_in(len(panels))
    unit = time_unit(stack.duration_s)
    with styled():
        figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, facecolor="white")
        grid = figure.add_gridspec(
            len(panels),
            1,
            left=0.62 / WIDTH_IN,
            right=1 - 0.72 / WIDTH_IN,
            top=1 - stack.head_in / height_in,
            bottom=FOOT_IN / height_in,
            hspace=stack.gap_in / stack.row_in,
        )
        axes = [figure.add_subplot(grid[row]) for row in range(len(panels))]
        for ax, panel in zip(axes, panels, strict=True):
            panel(ax)
            ax.set_xlim(0, stack.duration_s / unit.seconds)
            ax.xaxis.set_major_locator(MaxNLocator(9, steps=[1, 2, 3, 4, 6, 10] if unit.name == "h" else [1, 2, 5, 10]))
            ax.tick_params(length=2.5, labelbottom=ax is axes[-1])
        axes[-1].set_xlabel(f"time since {stack.began} began ({unit.name})")
        figure.align_ylabels(axes)
    return figure
