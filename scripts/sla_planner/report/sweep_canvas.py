"""What a sweep's pictures share: the frame, one look per mapping and per context, the promise as a line, flagged points as crosses, labels that keep
out of each other's way.

The key stands in a column right of the axes, so that it covers nothing, whether it names one mapping or eight.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from sla_planner.model.profile import DecodePoint, Flag, ParallelMapping, Profile
from sla_planner.report.style import DPI, INK, MISS, MUTED, ROUND, WIDTH_IN, needs_matplotlib, short_number
from sla_planner.report.sweep_wording import SHORT_FLAG_WORDS

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.colors import to_hex
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
    from matplotlib.transforms import Bbox
except ImportError as missing:
    raise needs_matplotlib() from missing

HEIGHT_IN = 4.0
KEY_IN = 1.9  # the column of the key
LEFT_IN, FOOT_IN, HEAD_IN = 0.62, 0.45, 0.62
BESIDE_PROMISE_IN = 0.5  # of the key, where the promise is told right of the axes
GREY = "#a9b1ba"  # what misses the promise
DASHED = (0, (4, 3))
# A colour and a marker each, so that a mapping is told by either; vermilion is the promise's.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#aa5f8d", "#56b4e9", "#7a5c00", "#24292f", "#8a7fd1")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
SAME_CONTEXT, MOST_CONTEXTS = 1.3, 8  # the longest over the shortest of one curve; how many curves can be told apart
FAR = 2.5  # a promise further off than this many times the data is told at the edge instead of flattening the data
LOG_RANGE = 15.0  # the largest latency over the smallest, from where on its axis is logarithmic
_AROUND = ((0, 1), (1, 0), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1), (-1, 0))
_REACHES = (0, 4, 9, 15, 22, 32, 44, 58, 74)  # of a label beyond the edge of its marker, in points
_NEAR = 3  # so many of them for a label that may be left out
_LEADER_POINTS = 12.0  # from where a line leads from the point to its label
_MARKER_POINTS, RING_POINTS = 5.0, 12.0
_HALO = [withStroke(linewidth=1.6, foreground="white")]


@dataclass(frozen=True, slots=True)
class Look:
    colour: str
    marker: str


def looks(profile: Profile) -> dict[ParallelMapping, Look]:
    """One per mapping, the same for prefill and decode; from the ninth on they repeat and the labels tell."""
    measured = {m.mapping for m in profile.prefill} | {m.mapping for m in profile.decode}
    mappings = sorted(measured, key=lambda mapping: (mapping.gpus, mapping.label))
    return {mapping: Look(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, mapping in enumerate(mappings)}


@dataclass(frozen=True, slots=True)
class Context:
    """Decode points of about the same context: what a window saw depends on how fast tokens came, so that one prompt length gives several."""

    tokens: float  # median
    points: tuple[DecodePoint, ...]  # by KV usage
    look: Look

    @property
    def label(self) -> str:
        same = self.points[-1].context_tokens == self.points[0].context_tokens
        return f"context {self.tokens:,.0f}" if same else f"context ~{float(f'{self.tokens:.2g}'):,.0f}"


def contexts_of(points: Sequence[DecodePoint]) -> list[Context]:
    """`points` by context, shortest first, dark to light; at most MOST_CONTEXTS groups."""
    ratio = SAME_CONTEXT
    while len(groups := _grouped(points, ratio)) > MOST_CONTEXTS:
        ratio *= 1.25
    shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.82, max(2, len(groups))))
    return [
        Context(
            median(p.context_tokens for p in group),
            tuple(sorted(group, key=lambda p: p.kv_usage)),
            Look(to_hex(shades[i]), MARKERS[i % len(MARKERS)]),
        )
        for i, group in enumerate(groups)
    ]


def _grouped(points: Sequence[DecodePoint], ratio: float) -> list[list[DecodePoint]]:
    groups: list[list[DecodePoint]] = []
    for point in sorted(points, key=lambda point: point.context_tokens):
        if groups and point.context_tokens <= ratio * groups[-1][0].context_tokens:
            groups[-1].append(point)
        else:
            groups.append([point])
    return groups


def canvas(title: str, below: str, height_in: float = HEIGHT_IN, key_in: float = KEY_IN) -> tuple[Figure, Axes]:
    """A figure with one axes: the title says what, the line below it for what. Called within `style.styled`."""
    figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, facecolor="white")
    headings(figure, title, below, height_in)
    right_in = key_in + 0.15 if key_in else 0.3
    width, height = (WIDTH_IN - LEFT_IN - right_in) / WIDTH_IN, (height_in - HEAD_IN - FOOT_IN) / height_in
    return figure, figure.add_axes((LEFT_IN / WIDTH_IN, FOOT_IN / height_in, width, height))


def headings(figure: Figure, title: str, below: str, height_in: float) -> None:
    """The two lines on top of every picture."""
    figure.text(0.08 / WIDTH_IN, 1 - 0.1 / height_in, title, fontsize=9.5, fontweight="bold", va="top")
    figure.text(0.08 / WIDTH_IN, 1 - 0.31 / height_in, below, fontsize=7.4, color=MUTED, va="top")


def key(ax: Axes, handles: Sequence[object] | None = None, title: str = "", *, right_in: float = 0.12) -> None:
    """The key in its column, `right_in` inches right of the axes."""
    shown = ax.get_legend_handles_labels()[0] if handles is None else handles
    corner = (1 + right_in / (ax.get_position().width * WIDTH_IN), 1.0)
    legend = ax.legend(handles=shown, loc="upper left", bbox_to_anchor=corner, labelspacing=0.75, title=title or None, alignment="left")
    legend.get_title().set(fontsize=6.8, color=MUTED)


def scale(ax: Axes, axis: str, values: Iterable[float], promised: float | None = None) -> None:
    """Limits and ticks of `axis` (x or y) around `values` and, unless it is far off, the promise. From zero; logarithmic only where the range of
    positive values demands it."""
    seen = [value for value in values if math.isfinite(value)]
    least, most = min(seen, default=0.0), max(seen, default=1.0)
    logarithmic = least > 0 and most > LOG_RANGE * least
    reach = 10.0 if logarithmic else FAR
    if promised is not None and most / reach <= promised <= most * reach:
        most, least = max(most, promised), min(least, promised)
    of_axis = ax.xaxis if axis == "x" else ax.yaxis
    limits = ax.set_xlim if axis == "x" else ax.set_ylim
    if logarithmic:
        (ax.set_xscale if axis == "x" else ax.set_yscale)("log")
        limits(least / 1.35, most * 1.35)
        of_axis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0) if most < 300 * least else (1.0,)))
        of_axis.set_minor_formatter(NullFormatter())
    else:
        limits(0.0, (most or 1.0) * 1.1)
        of_axis.set_major_locator(MaxNLocator(7 if axis == "x" else 6, steps=ROUND, min_n_ticks=3))
    of_axis.set_major_formatter(FuncFormatter(short_number))


def promise_line(ax: Axes, axis: str, name: str, promised_ms: float) -> None:
    """The promise across the axes, with what misses it in grey; an arrow at the edge where it is out of sight."""
    low, high = ax.get_xlim() if axis == "x" else ax.get_ylim()
    told = f"SLA: {name} {promised_ms:g} ms"
    if not low <= promised_ms <= high:
        beyond = promised_ms > high
        sign = ("→" if axis == "x" else "↑") if beyond else ("←" if axis == "x" else "↓")
        at = ((0.995 if beyond else 0.005), 1.01) if axis == "x" else (0.995, 1.01)
        ax.text(*at, f"{told} {sign}", transform=ax.transAxes, color=MISS, fontsize=6.8, ha="right" if at[0] > 0.5 else "left", va="bottom")
        return
    if axis == "x":
        ax.axvspan(promised_ms, high, color=GREY, alpha=0.13, linewidth=0)
        ax.axvline(promised_ms, color=MISS, linewidth=1.0, linestyle=DASHED)
        share = float(ax.transAxes.inverted().transform(ax.transData.transform((promised_ms, ax.get_ylim()[0])))[0])
        ax.text(promised_ms, 1.01, told, transform=ax.get_xaxis_transform(), color=MISS, fontsize=6.8, ha=_side(share), va="bottom")
    else:
        ax.axhspan(promised_ms, high, color=GREY, alpha=0.13, linewidth=0)
        ax.axhline(promised_ms, color=MISS, linewidth=1.0, linestyle=DASHED)
        ax.annotate(f"SLA\n{promised_ms:g} ms", (1.0, promised_ms), xycoords=ax.get_yaxis_transform(), xytext=(4, 0), textcoords="offset points",
                    fontsize=6.8, va="center", color=MISS, annotation_clip=False)  # fmt: skip


def vertical_mark(ax: Axes, at: float, told: str) -> None:
    """A thin line at `at` of the x axis with its words above the axes."""
    ax.axvline(at, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
    share = float(ax.transAxes.inverted().transform(ax.transData.transform((at, ax.get_ylim()[0])))[0])
    ax.text(at, 1.01, told, transform=ax.get_xaxis_transform(), color=INK, fontsize=6.8, ha=_side(share), va="bottom")


@dataclass(slots=True)
class Flagged:
    """Points that no fit uses: crosses, with the reason beside them while there are few enough to read."""

    x: list[float] = field(default_factory=list)
    y: list[float] = field(default_factory=list)
    flags: list[tuple[Flag, ...]] = field(default_factory=list)

    def add(self, x: float, y: float, flags: tuple[Flag, ...]) -> None:
        self.x.append(x)
        self.y.append(y)
        self.flags.append(flags)

    def draw(self, ax: Axes, labels: Labels, most_labelled: int = 10) -> None:
        if not self.x:
            return
        ax.plot(self.x, self.y, "x", color=MISS, markersize=5, markeredgewidth=1.3, zorder=5, label=f"flagged, not fitted ({len(self.x)})")
        if len(self.x) <= most_labelled:
            for x, y, flags in zip(self.x, self.y, self.flags, strict=True):
                labels.add(x, y, ", ".join(SHORT_FLAG_WORDS[flag] for flag in flags), MISS)


@dataclass(frozen=True, slots=True)
class _Wanted:
    x: float
    y: float
    text: str
    colour: str
    bold: bool
    optional: bool
    marker_points: float


@dataclass(slots=True)
class Labels:
    """Words beside points. `place` gives each the first spot around its point where it covers no other label, no marker and no upright line and
    stays inside; an optional label that finds none is left out, any other takes the least bad one."""

    wanted: list[_Wanted] = field(default_factory=list)
    markers: list[tuple[float, float]] = field(default_factory=list)
    curves: list[tuple[float, float]] = field(default_factory=list)  # points of lines, which a label that must be there goes out of the way of
    uprights: list[float] = field(default_factory=list)

    def add(
        self, x: float, y: float, text: str, colour: str = INK, *, bold: bool = False, optional: bool = False, marker_points: float = _MARKER_POINTS
    ) -> None:
        self.wanted.append(_Wanted(x, y, text, colour, bold, optional, marker_points))

    def place(self, ax: Axes) -> None:
        """Call when limits and scales are final."""
        half = _MARKER_POINTS / 2 * DPI / 72
        covered, drawn_through = (
            [Bbox.from_extents(px - half, py - half, px + half, py + half) for px, py in map(ax.transData.transform, at)]
            for at in (self.markers, self.curves)
        )
        inside = ax.get_window_extent()
        covered += [Bbox.from_extents(px - 1, inside.y0, px + 1, inside.y1) for px, _ in (ax.transData.transform((x, 1.0)) for x in self.uprights)]
        taken: list[Bbox] = []
        for label in sorted(self.wanted, key=lambda one: (one.optional, not one.bold)):
            weight, size = ("bold", 7.2) if label.bold else ("normal", 6.4)
            drawn = ax.annotate(label.text, (label.x, label.y), xytext=(0, 0), textcoords="offset points", ha="left", va="bottom", zorder=7,
                                fontsize=size, fontweight=weight, color=label.colour, path_effects=_HALO)  # fmt: skip
            reaches = _REACHES[:_NEAR] if label.optional else _REACHES
            extent = drawn.get_window_extent()
            spots = (_Spot.of(extent, label.marker_points / 2, reach, side) for reach in reaches for side in _AROUND)
            marks = covered if label.optional else [*covered, *drawn_through]
            cost, spot = _cheapest((spot.cost(inside, taken, marks), spot) for spot in spots)
            if cost >= 1 and label.bold:  # crowded: anywhere, and a line leads there
                cost, spot = _cheapest((spot.cost(inside, taken, marks), spot) for spot in _anywhere(ax, label, extent))
            if label.optional and cost >= 1:
                drawn.remove()
                continue
            drawn.set_position(spot.offset)
            if spot.reach > _LEADER_POINTS:
                _lead(ax, (label.x, label.y), spot, label.colour)
            taken.append(spot.box)


@dataclass(frozen=True, slots=True)
class _Spot:
    """Where a label may go: its offset from the point in points, its box in pixels."""

    offset: tuple[float, float]
    box: Bbox
    reach: float

    @classmethod
    def of(cls, extent: Bbox, radius: float, reach: float, side: tuple[int, int]) -> _Spot:
        """Of a label that now lies with its lower left corner on the point, whose marker has `radius` (points)."""
        unit, (along, up) = DPI / 72, side
        away = (radius + 1.5 + reach) * (0.75 if along and up else 1.0) * unit
        dx = along * away - (0.0 if along > 0 else extent.width if along < 0 else extent.width / 2)
        dy = up * away - (0.0 if up > 0 else extent.height if up < 0 else extent.height / 2)
        return cls((dx / unit, dy / unit), extent.translated(dx, dy), reach)

    def cost(self, inside: Bbox, labels: Sequence[Bbox], marks: Sequence[Bbox]) -> float:
        """0 for a free spot. Labels must not be covered; marks had better not be."""
        out = not (inside.x0 <= self.box.x0 and self.box.x1 <= inside.x1 and inside.y0 <= self.box.y0 and self.box.y1 <= inside.y1)
        return 4.0 * sum(self.box.overlaps(other) for other in labels) + sum(self.box.overlaps(mark) for mark in marks) + 6.0 * out


def _anywhere(ax: Axes, label: _Wanted, extent: Bbox) -> Iterator[_Spot]:
    """Spots on a grid over the axes, the nearest to the point first."""
    unit, inside = DPI / 72, ax.get_window_extent()
    px, py = ax.transData.transform((label.x, label.y))
    columns, rows = np.linspace(inside.x0 + 2, inside.x1 - extent.width - 2, 24), np.linspace(inside.y0 + 2, inside.y1 - extent.height - 2, 20)
    corners = [(x - px, y - py) for x in columns for y in rows]
    for dx, dy in sorted(corners, key=lambda at: math.hypot(at[0] + extent.width / 2, at[1] + extent.height / 2)):
        yield _Spot((dx / unit, dy / unit), extent.translated(dx, dy), math.hypot(dx, dy) / unit)


def _cheapest(spots: Iterable[tuple[float, _Spot]]) -> tuple[float, _Spot]:
    """The first that costs nothing, else the first of the least costly."""
    best: tuple[float, _Spot] | None = None
    for cost, spot in spots:
        if best is None or cost < best[0]:
            best = cost, spot
        if cost == 0:
            break
    assert best is not None  # there are spots
    return best


def _lead(ax: Axes, at: tuple[float, float], spot: _Spot, colour: str) -> None:
    """A thin line from the point to the nearest place of its label's box."""
    px, py = ax.transData.transform(at)
    near = (min(max(px, spot.box.x0), spot.box.x1), min(max(py, spot.box.y0), spot.box.y1))
    (x0, y0), (x1, y1) = at, ax.transData.inverted().transform(near)
    ax.plot([x0, x1], [y0, y1], color=colour, linewidth=0.6, zorder=3)


def _side(share: float) -> str:
    """Alignment of words above a line that stands at `share` of the axes' width."""
    return "left" if share < 0.25 else "right" if share > 0.75 else "center"


def about(profile: Profile, *more: str) -> str:
    """Of what: model, engine, GPU, then the rest."""
    origin = profile.provenance
    return ", ".join(dict.fromkeys(part for part in (textwrap.shorten(origin.model, 60), origin.engine, origin.gpu, *more) if part))
