"""A run as pictures: load, workers, TTFT, ITL, and all of them under one time axis. The only place with matplotlib.

Importing this module without matplotlib raises UsageError: import it where a picture is asked for.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from sla_planner.plan.decision import Role
from sla_planner.report.run import Floats, RunReport, changes
from sla_planner.report.series import asked_steps, fleet_steps, rate, rolling, time_unit, window_s
from sla_planner.report.stacked import HEAD_IN, Stack, stacked
from sla_planner.report.style import BESIDE, BLUE, GREEN, INK, MISS, MUTED, ROUND, SAVED, WIDTH_IN, needs_matplotlib, png, short_number, styled
from sla_planner.report.wording import price, promised_share, result

try:
    import matplotlib  # noqa: F401
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
except ImportError as missing:
    raise needs_matplotlib() from missing

ROW_IN = 0.84  # one panel of the stacked picture
LOAD, TOKENS = "#8c96a3", "#aa5f8d"
COLOUR = {Role.PREFILL: BLUE, Role.DECODE: GREEN}


@dataclass(frozen=True, slots=True)
class Latency:
    """One of the two promised latencies: its name, the role that answers for it, what was measured and what was promised."""

    name: str
    role: Role
    value_ms: Floats
    promised_ms: float
    never: bool  # a missing value is a request that was never answered, not one without a gap to measure


def load_figure(report: RunReport) -> Figure:
    """Requests/s and input tokens/s over time."""
    return _figure(report, [_load_panel], row_in=2.5)


def workers_figure(report: RunReport) -> Figure:
    """Per role: ready and starting workers, what the planner asked for, and the fleet sized for the peak."""
    return _figure(report, [_prefill_panel, _decode_panel], row_in=1.9)


def ttft_figure(report: RunReport) -> Figure:
    """TTFT of every request with rolling p50 and p99, against the promise."""
    return _figure(report, [_ttft_panel], row_in=3.0)


def itl_figure(report: RunReport) -> Figure:
    """ITL of every request with rolling p50 and p99, against the promise."""
    return _figure(report, [_itl_panel], row_in=3.0)


def demo_figure(report: RunReport) -> Figure:
    """The whole run in one picture, headline on top."""
    panels = [_load_panel, _prefill_panel, _decode_panel, _ttft_panel, _itl_panel]
    return _figure(report, panels, row_in=ROW_IN, headline=True)


PICTURES: dict[str, Callable[[RunReport], Figure]] = {
    "load.png": load_figure,
    "workers.png": workers_figure,
    "ttft.png": ttft_figure,
    "itl.png": itl_figure,
    "demo.png": demo_figure,
}


def pictures(report: RunReport) -> dict[str, bytes]:
    """Every picture of the run as PNG, by file name."""
    return {name: png(draw(report)) for name, draw in PICTURES.items()}


def _figure(report: RunReport, panels: Sequence[Callable[[Axes, RunReport], None]], row_in: float, headline: bool = False) -> Figure:
    stack = Stack(report.duration_s, "the run", row_in, gap_in=0.34, head_in=0.76 if headline else HEAD_IN)
    figure = stacked([partial(_drawn, panel, report) for panel in panels], stack)
    if headline:
        with styled():
            _headline(figure, report, stack.height_in(len(panels)))
    return figure


def _drawn(panel: Callable[[Axes, RunReport], None], report: RunReport, ax: Axes) -> None:
    panel(ax, report)


def _headline(figure: Figure, report: RunReport, height_in: float) -> None:
    told = f"{result(report)} (promised {promised_share(report.promise.attainment)})"
    figure.text(0.08 / WIDTH_IN, 1 - 0.12 / height_in, told, fontsize=10.5, fontweight="bold", va="top")
    below = ". ".join(part for part in (price(report)[:1].upper() + price(report)[1:], textwrap.shorten(report.title, 70)) if part)
    figure.text(0.08 / WIDTH_IN, 1 - 0.335 / height_in, below, fontsize=7.8, color=MUTED, va="top")


def _load_panel(ax: Axes, report: RunReport) -> None:
    unit = time_unit(report.duration_s).seconds
    bin_s = window_s(report.duration_s, 90)
    arrived = report.requests.arrival_s
    edges, requests = rate(arrived, np.ones_like(arrived), report.duration_s, bin_s)
    _, tokens = rate(arrived, report.requests.isl_tokens.astype(float), report.duration_s, bin_s)
    ax.stairs(requests, edges / unit, fill=True, color=LOAD, alpha=0.45, linewidth=0, label="requests/s")
    right = ax.twinx()
    right.stairs(tokens, edges / unit, color=TOKENS, linewidth=1.1, baseline=None, label="input tokens/s")
    for side in (ax, right):
        side.set_ylim(bottom=0, top=max(1.0, side.dataLim.ymax * 1.08))
        side.yaxis.set_major_locator(MaxNLocator(4, steps=ROUND, integer=True, min_n_ticks=2))
        side.yaxis.set_major_formatter(FuncFormatter(short_number))
    right.grid(visible=False)
    right.tick_params(length=0, labelcolor=TOKENS)
    right.set_ylabel("input tokens/s", color=TOKENS)
    ax.set_ylabel("requests/s")
    ax.set_title("Load")
    _legend(ax, [*ax.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]])


def _prefill_panel(ax: Axes, report: RunReport) -> None:
    _workers_panel(ax, report, Role.PREFILL)


def _decode_panel(ax: Axes, report: RunReport) -> None:
    _workers_panel(ax, report, Role.DECODE)


def _workers_panel(ax: Axes, report: RunReport, role: Role) -> None:
    unit = time_unit(report.duration_s).seconds
    colour = COLOUR[role]
    fleet = fleet_steps(report, role)
    times, asked = asked_steps(report, role)
    there = fleet.ready + fleet.starting
    ax.fill_between(fleet.t_s / unit, fleet.ready, step="post", color=colour, alpha=0.55, linewidth=0, label="ready")
    ax.fill_between(
        fleet.t_s / unit, fleet.ready, there, step="post", facecolor="white", edgecolor=colour, hatch="//////", linewidth=0, label="starting"
    )
    ax.step(times / unit, asked, where="post", color=INK, linewidth=1.0, label="asked for by the planner")
    peak = report.use(role).peak_workers
    ax.fill_between(fleet.t_s / unit, there, np.maximum(there, peak), step="post", color=SAVED, linewidth=0, label="saved")
    ax.axhline(peak, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
    ax.annotate(f"{peak} for\nthe peak", (1.0, peak), xycoords=ax.get_yaxis_transform(), **BESIDE, color=MUTED)
    top = max(1.0, peak, *asked, *there) * 1.3
    ax.set_ylim(0, top)
    ax.yaxis.set_major_locator(MaxNLocator(4, steps=ROUND, integer=True, min_n_ticks=2))
    ax.set_ylabel("workers")
    ax.set_title(f"{role.capitalize()} workers")
    _mark_changes(ax, report, role, top)
    _legend(ax)


def _mark_changes(ax: Axes, report: RunReport, role: Role, top: float) -> None:
    """A thin line and an arrowhead where a decision changed this role: up for more workers, down for fewer."""
    unit = time_unit(report.duration_s).seconds
    made = [change for change in changes(report.ticks, report.start_s) if change.role is role]
    for marker, label, chosen in (
        ("^", "scale-up", [change for change in made if change.after > change.before]),
        ("v", "scale-down", [change for change in made if change.after < change.before]),
    ):
        at = np.array([change.at_s for change in chosen]) / unit
        ax.vlines(at, 0, top * 0.93, color=INK, linewidth=0.5, alpha=0.25)
        ax.plot(at, np.full(len(at), top * 0.94), marker, color=INK, markersize=3.2, markeredgewidth=0, label=label, clip_on=False)


def _ttft_panel(ax: Axes, report: RunReport) -> None:
    _latency_panel(ax, report, Latency("TTFT", Role.PREFILL, report.requests.ttft_ms, report.promise.ttft_ms, never=True))


def _itl_panel(ax: Axes, report: RunReport) -> None:
    _latency_panel(ax, report, Latency("ITL", Role.DECODE, report.requests.itl_ms, report.promise.itl_ms, never=False))


def _latency_panel(ax: Axes, report: RunReport, latency: Latency) -> None:
    unit = time_unit(report.duration_s).seconds
    measured = ~np.isnan(latency.value_ms)
    arrived, value_ms = report.requests.arrival_s[measured], latency.value_ms[measured]
    missed = value_ms > latency.promised_ms
    crowd = min(1.0, 1500 / max(1, len(value_ms)))  # 1 where every dot can be seen, towards 0 where they run into a cloud
    ax.plot(
        arrived[~missed] / unit, value_ms[~missed], ".", color=COLOUR[latency.role], alpha=0.03 + 0.57 * crowd, markersize=1.8 + 2.4 * crowd,
        markeredgewidth=0, label="request",
    )  # fmt: skip
    _quantile_lines(ax, report, latency, report.requests.arrival_s if latency.never else arrived)
    if missed.any():
        ax.plot(
            arrived[missed] / unit, value_ms[missed], "x", color=MISS, markersize=2.2 + 1.6 * crowd, markeredgewidth=0.6 + 0.5 * crowd,
            label=f"late ({np.count_nonzero(missed):,})",
        )  # fmt: skip
    if latency.never and not measured.all():
        lost = report.requests.arrival_s[~measured] / unit
        ax.plot(
            lost, np.full(len(lost), 0.96), "|", color=MISS, markersize=5, markeredgewidth=0.4 + 0.8 * crowd, transform=ax.get_xaxis_transform(),
            label=f"never answered ({len(lost):,})",
        )  # fmt: skip
    ax.axhline(latency.promised_ms, color=MISS, linewidth=1.0, linestyle=(0, (4, 3)))
    ax.annotate(f"promised\n{latency.promised_ms:g} ms", (1.0, latency.promised_ms), xycoords=ax.get_yaxis_transform(), **BESIDE, color=MISS)
    _latency_scale(ax, value_ms, latency.promised_ms)
    ax.set_ylabel(f"{latency.name} (ms)")
    ax.set_title(f"{latency.name} of every request")
    _legend(ax)


def _quantile_lines(ax: Axes, report: RunReport, latency: Latency, arrived: Floats) -> None:
    unit = time_unit(report.duration_s).seconds
    value_ms = latency.value_ms if latency.never else latency.value_ms[~np.isnan(latency.value_ms)]
    width_s = window_s(report.duration_s, 20)
    at_s = np.linspace(0, report.duration_s, 301)
    for quantile, style, label in ((0.5, "-", "p50"), (0.99, (0, (2.2, 1.2)), f"p99, over {_span(width_s)}")):
        line = rolling(arrived, value_ms, at_s, width_s, quantile)
        ax.plot(at_s / unit, np.where(np.isinf(line), np.nan, line), color=INK, linewidth=0.9, linestyle=style, label=label)


def _latency_scale(ax: Axes, value_ms: Floats, promised_ms: float) -> None:
    """Linear while the worst is near the promise; logarithmic when it is far off and would flatten everything else."""
    worst = float(value_ms.max(initial=promised_ms))
    if worst > 4 * promised_ms:
        least = float(value_ms[value_ms > 0].min(initial=promised_ms))
        ax.set_yscale("log")
        ax.set_ylim(least / 1.3, worst * 1.5)
        ax.yaxis.set_minor_formatter(NullFormatter())
    else:
        ax.set_ylim(0, worst * 1.12)
        ax.yaxis.set_major_locator(MaxNLocator(4, steps=ROUND, min_n_ticks=2))
    ax.yaxis.set_major_formatter(FuncFormatter(short_number))


def _legend(ax: Axes, handles: Sequence[object] | None = None) -> None:
    """One line above the panel, on the right of its title."""
    shown = ax.get_legend_handles_labels()[0] if handles is None else handles
    legend = ax.legend(handles=shown, loc="lower right", bbox_to_anchor=(1.0, 1.03), ncols=len(shown))
    for handle in legend.get_lines():  # a cloud's dots are too small and pale to be a key
        if handle.get_marker() == ".":
            handle.set(alpha=1.0, markersize=5)


def _span(seconds: float) -> str:
    unit = time_unit(seconds)
    return f"{seconds / unit.seconds:g} {unit.name}"
