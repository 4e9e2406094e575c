"""The picked engines over every load: measured points with their spread, the fitted curves that the planner will use, and what was flagged.

Curves are drawn where measured points carry them and no further; on the decode pictures they are dotted where the ITL promise is missed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sla_planner.errors import ProfileError
from sla_planner.model.fitted import FittedDecode, FittedPrefill
from sla_planner.model.profile import DecodeMeasurement, DecodePoint, PrefillMeasurement, PrefillPoint
from sla_planner.report.style import BLUE, DPI, INK, MISS, MUTED, ROUND, WIDTH_IN, needs_matplotlib, short_number, styled
from sla_planner.report.sweep_canvas import (
    BESIDE_PROMISE_IN,
    SAME_CONTEXT,
    Flagged,
    Labels,
    about,
    canvas,
    contexts_of,
    headings,
    key,
    promise_line,
    scale,
    vertical_mark,
)
from sla_planner.sweep.points import DecodeSeen, PrefillSeen, PrefillShape
from sla_planner.sweep.result import SweepResult

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, MaxNLocator
    from mpl_toolkits.mplot3d import Axes3D
except ImportError as missing:
    raise needs_matplotlib() from missing

_SAME = 0.02  # a raw point belongs to a profile point when load and length agree to this share
_STEPS = 160
DOTTED = (0, (1, 1.3))
_SURFACE = 48  # cells along each axis
Floats = NDArray[np.float64]
P = TypeVar("P")
S = TypeVar("S")


def prefill_ttft(result: SweepResult) -> Figure:
    """TTFT over prompt length of the picked prefill mapping."""
    measurement = result.profile.picked_prefill
    with styled():
        figure, ax = canvas(f"Prefill {measurement.mapping.label}: TTFT over input length", _origin(result, "one prompt at a time"))
        promised_ms = result.goal.promise.ttft_ms
        fitted = _fit_prefill(measurement)
        spread = {point: seen.ttft_ms for point, seen in _seen_prefill(result, measurement).items()}
        values = [point.ttft_ms for point in measurement.points] + [value for one in spread.values() for value in one]
        _prefill_frame(ax, result, measurement, values, promised_ms, "TTFT (ms)")
        promise_line(ax, "y", "TTFT", promised_ms)
        curve = None if fitted is None else fitted.ttft_ms
        _prefill_points(ax, measurement, lambda point: point.ttft_ms, spread, (fitted, curve))
    return figure


def prefill_throughput(result: SweepResult) -> Figure:
    """Throughput per GPU over prompt length of the picked prefill mapping."""
    measurement = result.profile.picked_prefill
    per_gpu = measurement.mapping.dp * 1000 / measurement.mapping.gpus
    with styled():
        figure, ax = canvas(f"Prefill {measurement.mapping.label}: throughput over input length", _origin(result, "one prompt at a time"))
        fitted = _fit_prefill(measurement)
        seen = _seen_prefill(result, measurement)
        spread = {point: tuple(one.isl_tokens * per_gpu / ttft_ms for ttft_ms in one.ttft_ms) for point, one in seen.items()}
        values = [point.throughput_per_gpu for point in measurement.points] + [value for one in spread.values() for value in one]
        _prefill_frame(ax, result, measurement, values, None, "prefill throughput (tokens/s/GPU)")
        promised_ms, (_, right), top = result.goal.promise.ttft_ms, ax.get_xlim(), ax.get_ylim()[1]
        isl = np.linspace(max(1.0, ax.get_xlim()[0]), right, _STEPS)
        slowest = isl * per_gpu / promised_ms
        if slowest[0] < top:
            ax.plot(isl, slowest, color=MISS, linewidth=1.0, linestyle=(0, (4, 3)), label=f"SLA: TTFT {promised_ms:g} ms;\nbelow it is missed")
        curve = None if fitted is None else fitted.throughput_per_gpu
        _prefill_points(ax, measurement, lambda point: point.throughput_per_gpu, spread, (fitted, curve))
    return figure


def _origin(result: SweepResult, load: str) -> str:
    """What the points are of, and where they come from when nothing was measured."""
    return about(result.profile, load, "" if result.points else result.profile.provenance.source)


def _prefill_frame(
    ax: Axes, result: SweepResult, measurement: PrefillMeasurement, values: Sequence[float], promised: float | None, name: str
) -> None:
    isl = [point.isl_tokens for point in measurement.points]
    goal = result.goal.isl_tokens
    scale(ax, "x", [0.0, *isl, goal])
    ax.set_xlim(0, max(*isl, goal) * 1.04)
    scale(ax, "y", [0.0, *values], promised)
    ax.set_xlabel("input length, ISL (tokens)")
    ax.set_ylabel(name)
    vertical_mark(ax, goal, f"asked for: ISL {goal:,}")


def _prefill_points(
    ax: Axes,
    measurement: PrefillMeasurement,
    value: Callable[[PrefillPoint], float],
    spread: dict[PrefillPoint, tuple[float, ...]],
    fit: tuple[FittedPrefill | None, Callable[[float], float] | None],
) -> None:
    fitted, curve = fit
    if fitted is not None and curve is not None:
        isl = np.linspace(*fitted.isl_range, _STEPS)
        ax.plot(isl, [curve(one) for one in isl], color=BLUE, linewidth=1.2, alpha=0.8, label="fitted curve")
    labels, flagged = Labels(), Flagged()
    clean = [point for point in measurement.points if not point.flags]
    for point in measurement.points:
        labels.markers.append((point.isl_tokens, value(point)))
        if point.flags:
            flagged.add(point.isl_tokens, value(point), point.flags)
    shown = [(point, spread[point]) for point in clean if point in spread]
    if shown:
        ax.vlines([point.isl_tokens for point, _ in shown], [min(seen) for _, seen in shown], [max(seen) for _, seen in shown],
                  color=BLUE, linewidth=2.2, alpha=0.35, label="slowest to fastest\nrequest")  # fmt: skip
    ax.plot([point.isl_tokens for point in clean], [value(point) for point in clean], "o", color=BLUE, markersize=4.5, markeredgecolor="white",
            markeredgewidth=0.5, label="measured" if spread else "point")  # fmt: skip
    flagged.draw(ax, labels)
    labels.place(ax)
    key(ax, right_in=BESIDE_PROMISE_IN)


def decode_itl(result: SweepResult) -> Figure:
    """ITL over KV usage of the picked decode mapping, one curve per context."""
    with styled():
        figure, ax = _decode_canvas(result, "ITL")
        measurement = result.profile.picked_decode
        spread = {point: seen.itl_ms for point, seen in _seen_decode(result, measurement).items()}
        values = [point.itl_ms for point in measurement.points] + [value for one in spread.values() for value in one]
        promised_ms = result.goal.promise.itl_ms
        scale(ax, "y", [0.0, *values], promised_ms)
        ax.set_ylabel("ITL (ms)")
        promise_line(ax, "y", "ITL", promised_ms)
        for context in contexts_of(measurement.points):
            for point in context.points:
                if point in spread and not point.flags:
                    ax.vlines(100 * point.kv_usage, min(spread[point]), max(spread[point]), color=context.look.colour, linewidth=2.2, alpha=0.35)
        _decode_curves(ax, result, lambda point: point.itl_ms, lambda _batch, itl_ms: itl_ms)
    return figure


def decode_throughput(result: SweepResult) -> Figure:
    """Throughput per GPU over KV usage of the picked decode mapping, one curve per context."""
    with styled():
        figure, ax = _decode_canvas(result, "throughput")
        measurement = result.profile.picked_decode
        values = [point.throughput_per_gpu for point in measurement.points]
        scale(ax, "y", [0.0, *values])
        ax.set_ylabel("decode throughput (tokens/s/GPU)")
        gpus = measurement.mapping.gpus
        _decode_curves(ax, result, lambda point: point.throughput_per_gpu, lambda batch, itl_ms: batch / itl_ms * 1000 / gpus)
    return figure


def _decode_canvas(result: SweepResult, what: str) -> tuple[Figure, Axes]:
    measurement = result.profile.picked_decode
    figure, ax = canvas(
        f"Decode {measurement.mapping.label}: {what} over KV cache usage, one curve per context length", _origin(result, "batch held in flight")
    )
    usage = [100 * point.kv_usage for point in measurement.points]
    scale(ax, "x", [0.0, *usage])
    ax.set_xlim(0, max(usage) * 1.06)
    ax.set_xlabel(f"KV cache in use (% of {measurement.max_kv_tokens:,} tokens)")
    return figure, ax


def _decode_curves(ax: Axes, result: SweepResult, value: Callable[[DecodePoint], float], of_fit: Callable[[Floats, Floats], Floats]) -> None:
    """Per context the measured points and the fitted curve: solid while the promise is kept, dotted beyond. The key is in the order of its ends."""
    measurement, promised_ms = result.profile.picked_decode, result.goal.promise.itl_ms
    fitted = _fit_decode(measurement)
    labels, flagged = Labels(), Flagged()
    handles: list[tuple[float, Line2D]] = []
    beyond = False
    for context in contexts_of(measurement.points):
        look, clean = context.look, [point for point in context.points if not point.flags]
        ax.plot([100 * point.kv_usage for point in clean], [value(point) for point in clean], look.marker, color=look.colour, markersize=4.5,
                markeredgecolor="white", markeredgewidth=0.5, zorder=4)  # fmt: skip
        for point in context.points:
            labels.markers.append((100 * point.kv_usage, value(point)))
            if point.flags:
                flagged.add(100 * point.kv_usage, value(point), point.flags)
        if fitted is not None and clean:
            usage, itl_ms = _curve(fitted, clean, context.tokens)
            shown = of_fit(usage * measurement.max_kv_tokens / context.tokens, itl_ms)
            kept = itl_ms <= promised_ms
            ax.plot(100 * usage[kept], shown[kept], color=look.colour, linewidth=1.2)
            ax.plot(100 * usage[~kept], shown[~kept], color=look.colour, linewidth=1.2, linestyle=DOTTED)
            beyond = beyond or not kept.all()
        shown_as = Line2D([], [], color=look.colour, linewidth=1.2, marker=look.marker, markersize=4.5, markeredgewidth=0, label=context.label)
        handles.append((value(clean[-1]) if clean else 0.0, shown_as))
    flagged.draw(ax, labels)
    labels.place(ax)
    shown_keys = [handle for _, handle in sorted(handles, key=lambda one: -one[0])]
    extra = list(ax.get_legend_handles_labels()[0])
    if beyond:
        extra.append(Line2D([], [], color=MUTED, linewidth=1.2, linestyle=DOTTED, label=f"ITL above {promised_ms:g} ms"))
    key(ax, [*shown_keys, *extra], title="points; fitted lines" if fitted else "points; too few to fit", right_in=BESIDE_PROMISE_IN)


def _curve(fitted: FittedDecode, clean: Sequence[DecodePoint], context: float) -> tuple[Floats, Floats]:
    """(KV usage, ITL) from one request to the fullest cache measured."""
    usage = np.linspace(min(context / fitted.max_kv_tokens, clean[0].kv_usage), clean[-1].kv_usage, _STEPS)
    batch = usage * fitted.max_kv_tokens / context
    return usage, np.array([fitted.itl_ms(one, context) for one in batch])


def decode_surface(result: SweepResult) -> Figure:
    """The ITL law over KV usage and context as a surface, with the measured points on their stems."""
    measurement = result.profile.picked_decode
    height_in, promised_ms = 5.0, result.goal.promise.itl_ms
    with styled():
        figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, facecolor="white")
        headings(
            figure,
            f"Decode {measurement.mapping.label}: ITL over KV cache usage and context length",
            _origin(result, "batch held in flight"),
            height_in,
        )
        ax: Axes3D = figure.add_axes((-0.03, -0.03, 0.86, 0.97), projection="3d", computed_zorder=False)
        fitted = _fit_decode(measurement)
        if fitted is not None:
            _surface(ax, fitted, [point for point in measurement.points if not point.flags], promised_ms)
        _stems(ax, fitted, measurement, result)
        _surface_axes(ax, measurement)
        legend = ax.legend(loc="upper left", bbox_to_anchor=(1.0, 0.86), labelspacing=0.75)
        legend.set_zorder(20)
    return figure


def _surface(ax: Axes3D, fitted: FittedDecode, clean: Sequence[DecodePoint], promised_ms: float) -> None:
    """Over the measured contexts, up to the KV usage that points enclose; about one context has a curve only."""
    if len(contexts_of(clean)) == 1:
        typical = median(point.context_tokens for point in clean)
        held, along = _curve(fitted, sorted(clean, key=lambda point: point.kv_usage), typical)
        ax.plot(100 * held, np.full_like(held, typical), along, color=BLUE, linewidth=1.4, label="fitted law", zorder=3)
        return
    edge = _upper_edge(clean)
    context = np.linspace(edge[0][0], edge[-1][0], _SURFACE)[:, None]
    reach = np.interp(context[:, 0], [at for at, _ in edge], [most for _, most in edge])[:, None]
    usage = np.linspace(0, 1, _SURFACE)[None, :] * reach
    kv_tokens = usage * fitted.max_kv_tokens
    itl_ms = fitted.law.c0_ms + fitted.law.c1_ms * kv_tokens / context + fitted.law.c2_ms * kv_tokens
    context = np.broadcast_to(context, usage.shape)
    look: dict[str, Any] = {"cmap": "viridis", "alpha": 0.55, "linewidth": 0.25, "edgecolor": "white", "antialiased": True, "zorder": 1}
    ax.plot_surface(100 * usage, context, itl_ms, rstride=3, cstride=3, **look)
    if itl_ms.min() < promised_ms < itl_ms.max():
        _promise_on_surface(ax, fitted, context[:, 0], reach[:, 0], promised_ms)


def _upper_edge(points: Sequence[DecodePoint]) -> list[tuple[float, float]]:
    """The upper side of the convex hull of (context, KV usage)."""
    edge: list[tuple[float, float]] = []
    for x, y in sorted((point.context_tokens, point.kv_usage) for point in points):
        if edge and edge[-1][0] == x:
            edge.pop()
        while len(edge) > 1 and (edge[-1][1] - edge[-2][1]) * (x - edge[-2][0]) <= (y - edge[-2][1]) * (edge[-1][0] - edge[-2][0]):
            edge.pop()
        edge.append((x, y))
    return edge


def _promise_on_surface(ax: Axes3D, fitted: FittedDecode, context: Floats, reach: Floats, promised_ms: float) -> None:
    """Where the law reaches the promise: (promise - c0) / (c1/context + c2) tokens held."""
    held = (promised_ms - fitted.law.c0_ms) / np.maximum(fitted.law.c1_ms / context + fitted.law.c2_ms, 1e-12)
    usage = held / fitted.max_kv_tokens
    usage[usage > reach] = np.nan
    ax.plot(100 * usage, context, np.full_like(context, promised_ms), color=MISS, linewidth=1.6, label=f"SLA: ITL {promised_ms:g} ms", zorder=4)


def _stems(ax: Axes3D, fitted: FittedDecode | None, measurement: DecodeMeasurement, result: SweepResult) -> None:
    """The points; a stem shows how far each is from the law."""
    clean = [point for point in measurement.points if not point.flags]
    word, promised_ms = "measured" if result.points else "point", result.goal.promise.itl_ms
    for kept, face, told in ((True, INK, f"{word}, within the SLA"), (False, "white", f"{word}, beyond it")):
        own = [point for point in clean if (point.itl_ms <= promised_ms) is kept]
        if own:
            ax.plot([100 * p.kv_usage for p in own], [p.context_tokens for p in own], [p.itl_ms for p in own], "o", color=face, markeredgecolor=INK,
                    markeredgewidth=0.7, markersize=3.6, label=told, zorder=6)  # fmt: skip
    if fitted is not None:
        for point in clean:
            law_ms = fitted.itl_ms(measurement.batch(point), point.context_tokens)
            ax.plot([100 * point.kv_usage] * 2, [point.context_tokens] * 2, [law_ms, point.itl_ms], color=INK, linewidth=0.7, zorder=5)
    bad = [point for point in measurement.points if point.flags]
    if bad:
        ax.plot([100 * p.kv_usage for p in bad], [p.context_tokens for p in bad], [p.itl_ms for p in bad], "x", color=MISS, markersize=5,
                markeredgewidth=1.3, label=f"flagged, not fitted ({len(bad)})", zorder=7)  # fmt: skip


def _surface_axes(ax: Axes3D, measurement: DecodeMeasurement) -> None:
    ax.view_init(elev=24, azim=-124)
    ax.set_box_aspect((1.3, 1.3, 0.85), zoom=1.06)
    ax.set_xlim(0, 100 * max(point.kv_usage for point in measurement.points))
    shortest, *_, longest = sorted([point.context_tokens for point in measurement.points] * 2)
    ax.set_ylim(*((0.8 * shortest, 1.2 * longest) if longest < SAME_CONTEXT * shortest else (shortest, longest)))
    ax.set_zlim(0, max(point.itl_ms for point in measurement.points) * 1.05)
    ax.set_xlabel("KV cache in use (%)", labelpad=2)
    ax.set_ylabel("context (tokens)", labelpad=4)
    ax.set_zlabel("ITL (ms)", labelpad=1)
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.set_major_locator(MaxNLocator(5, steps=ROUND))
        axis.set_major_formatter(FuncFormatter(short_number))
        axis.set_pane_color((0.97, 0.975, 0.98, 1.0))
        axis._axinfo["grid"].update(color="#dfe4e9", linewidth=0.6)
    ax.tick_params(pad=0)


def _fit_prefill(measurement: PrefillMeasurement) -> FittedPrefill | None:
    try:
        return FittedPrefill(measurement, measurement.mapping.gpus)
    except ProfileError:
        return None


def _fit_decode(measurement: DecodeMeasurement) -> FittedDecode | None:
    try:
        return FittedDecode(measurement, measurement.mapping.gpus)
    except ProfileError:
        return None


def _seen_prefill(result: SweepResult, measurement: PrefillMeasurement) -> dict[PrefillPoint, PrefillSeen]:
    """The requests behind each point, as far as they are there."""
    alone = [
        raw for raw in result.points if raw.mapping == measurement.mapping and isinstance(raw.shape, PrefillShape) and raw.shape.concurrency == 1
    ]
    seen = [raw.prefill for raw in alone if raw.prefill and raw.prefill.ttft_ms]

    def apart(one: PrefillSeen, point: PrefillPoint) -> float:
        return abs(one.isl_tokens / point.isl_tokens - 1)

    return _matched(measurement.points, seen, apart)


def _seen_decode(result: SweepResult, measurement: DecodeMeasurement) -> dict[DecodePoint, DecodeSeen]:
    seen = [raw.decode for raw in result.points if raw.mapping == measurement.mapping and raw.decode and raw.decode.itl_ms]

    def apart(one: DecodeSeen, point: DecodePoint) -> float:
        return max(abs(one.context_tokens / point.context_tokens - 1), abs(one.running / measurement.batch(point) - 1))

    return _matched(measurement.points, seen, apart)


def _matched(points: Sequence[P], seen: Sequence[S], apart: Callable[[S, P], float]) -> dict[P, S]:
    """To each point the closest of what was seen, if it is close enough to be the same."""
    closest = {point: min(seen, key=lambda one: apart(one, point)) for point in points} if seen else {}
    return {point: one for point, one in closest.items() if apart(one, point) <= _SAME}
