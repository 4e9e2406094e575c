"""A comparison as pictures: what arrived, what every policy cost, and for each policy its workers, its latencies and its misses over time.

    load.png        requests and tokens per second
    cost.png        GPU-hours of each policy, prefill and decode, with the share of requests inside
    <policy>.png    workers ready and asked for against the work; TTFT and ITL per slice of time; where the misses are

Importing this module without matplotlib raises UsageError: import it where a picture is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from sla_planner.plan.decision import Role
from sla_planner.report.run import Floats
from sla_planner.report.series import time_unit
from sla_planner.report.simulation import Comparison, FleetCourse, Load, Minutes, Shown, gpu_hours, percent
from sla_planner.report.stacked import Stack, stacked
from sla_planner.report.style import BESIDE, BLUE, DPI, GREEN, INK, MISS, MUTED, ROUND, SAVED, WIDTH_IN, needs_matplotlib, png, short_number, styled
from sla_planner.report.wording import promised_share

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
except ImportError as missing:
    raise needs_matplotlib() from missing

LOAD, INPUT, OUTPUT = "#8c96a3", "#aa5f8d", "#b8860b"
COLOUR = {Role.PREFILL: BLUE, Role.DECODE: GREEN}
COST, ARRIVED = "cost.png", "load.png"
GAP_IN = 0.36
_BAR_IN, _NAME_IN = 0.3, 1.35  # one policy in the picture of costs, and the room for its name
_FAR_OFF = 4.0  # times the promise: beyond it a latency is drawn on a logarithmic scale

Panel = Callable[[Axes], None]


@dataclass(frozen=True, slots=True)
class _Latency:
    name: str
    colour: str
    p50_ms: Floats
    p99_ms: Floats
    promised_ms: float


def pictures(comparison: Comparison) -> dict[str, bytes]:
    """PNGs by file name, in the order in which they are shown."""
    drawn = {COST: png(cost_figure(comparison))}
    if comparison.load is not None:
        drawn[ARRIVED] = png(load_figure(comparison.load, comparison.duration_s))
    for shown in comparison.policies:
        if shown.course is not None and shown.minutes is not None:
            drawn[picture_of(shown)] = png(policy_figure(shown, comparison))
    return drawn


def picture_of(shown: Shown) -> str:
    """The file that shows this policy over time."""
    return f"{shown.outcome.policy}.png"


def cost_figure(comparison: Comparison) -> Figure:
    """A bar per policy; hatched where the goal is missed."""
    outcomes = comparison.outcomes
    height_in = 0.75 + _BAR_IN * len(outcomes)
    with styled():
        figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, facecolor="white")
        ax = figure.add_axes((_NAME_IN / WIDTH_IN, 0.4 / height_in, 1 - (_NAME_IN + 0.15) / WIDTH_IN, 1 - 0.75 / height_in))
        most = max(outcome.gpu_hours for outcome in outcomes) or 1.0
        for row, outcome in enumerate(outcomes):
            hatch = None if outcome.reached else "//////"
            left = 0.0
            for hours, colour in ((outcome.gpu_hours_prefill, BLUE), (outcome.gpu_hours_decode, GREEN)):
                look = {"color": colour, "alpha": 0.75} if outcome.reached else {"facecolor": "white", "edgecolor": colour, "hatch": hatch}
                ax.barh(row, hours, left=left, height=0.62, linewidth=0, **look)
                left += hours
            kept = f"{percent(outcome.attainment, digits=2)} % inside" + ("" if outcome.reached else ", misses the goal")
            colour = INK if outcome.reached else MISS
            ax.annotate(f"{gpu_hours(outcome.gpu_hours)}   {kept}", (outcome.gpu_hours, row), **BESIDE, color=colour)
        ax.set_yticks(range(len(outcomes)), [outcome.policy for outcome in outcomes])
        ax.tick_params(axis="y", length=0, labelcolor=INK)
        ax.set_ylim(len(outcomes) - 0.5, -0.5)
        ax.set_xlim(0, most * 1.42)
        ax.grid(visible=False, axis="y")
        ax.grid(visible=True, axis="x")
        ax.xaxis.set_major_locator(MaxNLocator(6, steps=ROUND))
        ax.set_xlabel("GPU-hours")
        ax.set_title("What it costs")
        keys = [ax.barh([0], [0], color=colour, alpha=0.75, label=label) for label, colour in (("prefill", BLUE), ("decode", GREEN))]
        ax.legend(handles=keys, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
    return figure


def load_figure(load: Load, duration_s: float) -> Figure:
    """Requests per second as an area; tokens per second, in and out, as lines."""
    panel = partial(_load_panel, load=load, end_s=duration_s, unit_s=time_unit(duration_s).seconds)
    return stacked([panel], Stack(duration_s, "the traffic", row_in=2.3, gap_in=GAP_IN))


def policy_figure(shown: Shown, comparison: Comparison) -> Figure:
    """Everything about one policy under one time axis."""
    course, minutes, promise = shown.course, shown.minutes, comparison.promise
    assert course is not None
    assert minutes is not None
    unit_s = time_unit(comparison.duration_s).seconds
    ttft = _Latency("TTFT", BLUE, minutes.ttft_p50_ms, minutes.ttft_p99_ms, promise.ttft_ms)
    itl = _Latency("ITL", GREEN, minutes.itl_p50_ms, minutes.itl_p99_ms, promise.itl_ms)
    panels: list[Panel] = [
        *(partial(_workers_panel, course=course, role=role, end_s=comparison.duration_s, unit_s=unit_s) for role in Role),
        *(partial(_latency_panel, latency=latency, start_s=minutes.start_s, end_s=comparison.duration_s, unit_s=unit_s) for latency in (ttft, itl)),
        partial(_misses_panel, minutes=minutes, comparison=comparison, unit_s=unit_s),
    ]
    return stacked(panels, Stack(comparison.duration_s, "the traffic", row_in=1.15, gap_in=GAP_IN))


def _load_panel(ax: Axes, load: Load, end_s: float, unit_s: float) -> None:
    at = np.append(load.start_s, end_s) / unit_s
    ax.fill_between(at, _held(load.requests_per_s), step="post", color=LOAD, alpha=0.45, linewidth=0, label="requests/s")
    right = ax.twinx()
    for values, colour, label in ((load.input_tokens_per_s, INPUT, "input tokens/s"), (load.output_tokens_per_s, OUTPUT, "output tokens/s")):
        right.step(at, _held(values), where="post", color=colour, linewidth=0.8, label=label)
    for side, top in ((ax, load.requests_per_s), (right, np.append(load.input_tokens_per_s, load.output_tokens_per_s))):
        side.set_ylim(0, max(float(top.max(initial=0.0)) * 1.08, 1e-9))
        side.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND, min_n_ticks=2))
        side.yaxis.set_major_formatter(FuncFormatter(short_number))
    right.grid(visible=False)
    right.tick_params(length=0)
    right.set_ylabel("tokens/s")
    ax.set_ylabel("requests/s")
    ax.set_title("Load")
    _legend(ax, [*ax.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]])


def _workers_panel(ax: Axes, course: FleetCourse, role: Role, end_s: float, unit_s: float) -> None:
    column = 0 if role is Role.PREFILL else 1
    at = np.append(course.at_s, end_s) / unit_s
    ready, asked = _held(course.ready[:, column]), _held(course.asked[:, column])
    ax.fill_between(at, ready, step="post", color=COLOUR[role], alpha=0.45, linewidth=0, label="ready")
    ax.step(at, asked, where="post", color=INK, linewidth=0.7, label="asked for")
    ax.plot(course.need_s / unit_s, course.need[:, column], color=MISS, linewidth=0.7, label="kept busy by the work")
    ax.set_ylim(0, max(1.0, float(asked.max()), float(ready.max()), float(course.need[:, column].max(initial=0.0))) * 1.12)
    ax.yaxis.set_major_locator(MaxNLocator(4, steps=ROUND, integer=True, min_n_ticks=2))
    ax.set_ylabel("workers")
    ax.set_title(f"{role.capitalize()} workers")
    _legend(ax)


def _latency_panel(ax: Axes, latency: _Latency, start_s: Floats, end_s: float, unit_s: float) -> None:
    at = np.append(start_s, end_s) / unit_s
    p50, p99 = (_held(np.where(np.isinf(values), np.nan, values)) for values in (latency.p50_ms, latency.p99_ms))
    ax.fill_between(at, p50, p99, step="post", color=latency.colour, alpha=0.25, linewidth=0)
    ax.step(at, p99, where="post", color=latency.colour, linewidth=0.8, label="p99")
    ax.step(at, p50, where="post", color=INK, linewidth=0.7, label="p50")
    never = np.isinf(latency.p99_ms)
    if never.any():
        look: dict[str, Any] = {"color": MISS, "markersize": 4, "markeredgewidth": 0.6, "label": "more than 1 % never answered"}
        ax.plot(start_s[never] / unit_s, np.full(int(never.sum()), 0.96), "|", transform=ax.get_xaxis_transform(), **look)
    ax.axhline(latency.promised_ms, color=MISS, linewidth=1.0, linestyle=(0, (4, 3)))
    ax.annotate(f"promised\n{latency.promised_ms:g} ms", (1.0, latency.promised_ms), xycoords=ax.get_yaxis_transform(), **BESIDE, color=MISS)
    _latency_scale(ax, np.append(p50, p99), latency.promised_ms)
    ax.set_ylabel(f"{latency.name} (ms)")
    ax.set_title(latency.name)
    _legend(ax)


def _latency_scale(ax: Axes, value_ms: Floats, promised_ms: float) -> None:
    """Linear while the worst is near the promise; logarithmic when it is far off and would flatten everything else."""
    known = value_ms[np.isfinite(value_ms) & (value_ms > 0)]
    worst = max(float(known.max(initial=0.0)), promised_ms)
    if worst > _FAR_OFF * promised_ms:
        ax.set_yscale("log")
        ax.set_ylim(float(known.min()) / 1.3, worst * 1.5)
        ax.yaxis.set_minor_formatter(NullFormatter())
    else:
        ax.set_ylim(0, worst * 1.12)
        ax.yaxis.set_major_locator(MaxNLocator(4, steps=ROUND, min_n_ticks=2))
    ax.yaxis.set_major_formatter(FuncFormatter(short_number))


def _misses_panel(ax: Axes, minutes: Minutes, comparison: Comparison, unit_s: float) -> None:
    missed = np.nan_to_num(minutes.missed) * 100
    allowed = (1 - comparison.goal) * 100
    if comparison.judged_from_s:
        ax.axvspan(0, comparison.judged_from_s / unit_s, color=SAVED, linewidth=0, label="not judged")
    at = np.append(minutes.start_s, comparison.duration_s) / unit_s
    ax.fill_between(at, _held(missed), step="post", color=MISS, linewidth=0, label="outside the promise")
    ax.axhline(allowed, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
    ax.annotate(f"allowed by\n{promised_share(comparison.goal)}", (1.0, allowed), xycoords=ax.get_yaxis_transform(), **BESIDE, color=MUTED)
    ax.set_ylim(0, max(float(missed.max(initial=0.0)) * 1.12, 5 * allowed))
    ax.yaxis.set_major_locator(MaxNLocator(4, steps=ROUND, min_n_ticks=2))
    ax.set_ylabel("requests (%)")
    ax.set_title("Where the misses are")
    _legend(ax)


def _held(values: npt.NDArray[Any]) -> Floats:
    """The last value once more: it holds to the end."""
    return np.append(values, values[-1:]).astype(np.float64)


def _legend(ax: Axes, handles: Sequence[object] | None = None) -> None:
    """One line above the panel, on the right of its title."""
    shown = ax.get_legend_handles_labels()[0] if handles is None else handles
    ax.legend(handles=shown, loc="lower right", bbox_to_anchor=(1.0, 1.03), ncols=len(shown))
