"""The picked engines over every load: measured points with their spread, the fitted curves that the planner will use, and what was flagged.

Curves are drawn where measured points carry them and no further; on the decode pictures they are dotted where the ITL promise is missed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sla_planner.errors import ProfileError
from sla_planner.model.fitted import FittedDecode, FittedPrefill
from sla_planner.model.profile import DecodeMeasurement, DecodePoint, PrefillMeasurement, PrefillPoint
from sla_planner.report.style import BLUE, DPI, INK, MISS, MUTED, WIDTH_IN, needs_matplotlib, short_number, styled
from sla_planner.report.sweep_canvas import Flagged, Labels, about, canvas, context_looks, headings, key, promise_line, scale, vertical_mark
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
    key(ax)


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
        for point, seen in spread.items():
            if not point.flags:
                colour = context_looks(_contexts(measurement))[point.context_tokens].colour
                ax.vlines(100 * point.kv_usage, min(seen), max(seen), color=colour, linewidth=2.2, alpha=0.35)
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
    for context, look in context_looks(_contexts(measurement)).items():
        points = [point for point in measurement.points if point.context_tokens == context]
        clean = [point for point in points if not point.flags]
        ax.plot([100 * point.kv_usage for point in clean], [value(point) for point in clean], look.marker, color=look.colour, markersize=4.5,
                markeredgecolor="white", markeredgewidth=0.5, zorder=4)  # fmt: skip
        for point in points:
            labels.markers.append((100 * point.kv_usage, value(point)))
            if point.flags:
                flagged.add(100 * point.kv_usage, value(point), point.flags)
        if fitted is not None and clean:
            usage, itl_ms = _curve(fitted, clean, context)
            shown = of_fit(usage * measurement.max_kv_tokens / context, itl_ms)
            kept = itl_ms <= promised_ms
            ax.plot(100 * usage[kept], shown[kept], color=look.colour, linewidth=1.2)
            ax.plot(100 * usage[~kept], shown[~kept], color=look.colour, linewidth=1.2, linestyle=(0, (1, 1.3)))
            beyond = beyond or not kept.all()
        end = value(clean[-1]) if clean else 0.0
        shown_as = Line2D([], [], color=look.colour, linewidth=1.2, marker=look.marker, markersize=4.5, markeredgewidth=0)
        shown_as.set_label(f"context {context:,.0f}")
        handles.append((end, shown_as))
    flagged.draw(ax, labels)
    labels.place(ax)
    shown_keys = [handle for _, handle in sorted(handles, key=lambda one: -one[0])]
    extra = list(ax.get_legend_handles_labels()[0])
    if beyond:
        extra.append(Line2D([], [], color=MUTED, linewidth=1.2, linestyle=(0, (1, 1.3)), label=f"ITL above {promised_ms:g} ms"))
    key(ax, [*shown_keys, *extra], title="points; fitted lines" if fitted else "points; too few to fit")


def _curve(fitted: FittedDecode, clean: Sequence[DecodePoint], context: float) -> tuple[Floats, Floats]:
    usage = np.linspace(clean[0].kv_usage, clean[-1].kv_usage, _STEPS)
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
        ax: Axes3D = figure.add_axes((0.0, -0.03, 0.86, 0.97), projection="3d", computed_zorder=False)
        contexts = _contexts(measurement)
        fitted = _fit_decode(measurement)
        if fitted is not None:
            _surface(ax, fitted, measurement, contexts, promised_ms)
        _stems(ax, fitted, measurement, promised_ms)
        _surface_axes(ax, measurement, contexts)
        legend = ax.legend(loc="upper left", bbox_to_anchor=(0.965, 0.86), labelspacing=0.75)
        legend.set_zorder(20)
    return figure


def _surface(ax: Axes3D, fitted: FittedDecode, measurement: DecodeMeasurement, contexts: Sequence[float], promised_ms: float) -> None:
    """Over the measured contexts, up to the KV usage measured at each; a single context has a curve only."""
    most = {context: max(point.kv_usage for point in measurement.points if point.context_tokens == context) for context in contexts}
    if len(contexts) == 1:
        usage = np.linspace(0, most[contexts[0]], _SURFACE)
        along = [fitted.itl_ms(one * fitted.max_kv_tokens / contexts[0], contexts[0]) for one in usage]
        ax.plot(100 * usage, np.full_like(usage, contexts[0]), along, color=BLUE, linewidth=1.4, label="fitted law", zorder=3)
        return
    context = np.linspace(contexts[0], contexts[-1], _SURFACE)[:, None]
    reach = np.interp(context[:, 0], contexts, [most[one] for one in contexts])[:, None]
    usage = np.linspace(0, 1, _SURFACE)[None, :] * reach
    held = usage * fitted.max_kv_tokens
    itl_ms = fitted.law.c0_ms + fitted.law.c1_ms * held / context + fitted.law.c2_ms * held
    context = np.broadcast_to(context, usage.shape)
    look: dict[str, Any] = {"cmap": "viridis", "alpha": 0.55, "linewidth": 0.25, "edgecolor": "white", "antialiased": True, "zorder": 1}
    ax.plot_surface(100 * usage, context, itl_ms, rstride=3, cstride=3, **look)
    if itl_ms.min() < promised_ms < itl_ms.max():
        _promise_on_surface(ax, fitted, context[:, 0], reach[:, 0], promised_ms)


def _promise_on_surface(ax: Axes3D, fitted: FittedDecode, context: Floats, reach: Floats, promised_ms: float) -> None:
    """Where the law reaches the promise: (promise - c0) / (c1/context + c2) tokens held."""
    held = (promised_ms - fitted.law.c0_ms) / np.maximum(fitted.law.c1_ms / context + fitted.law.c2_ms, 1e-12)
    usage = held / fitted.max_kv_tokens
    usage[usage > reach] = np.nan
    ax.plot(100 * usage, context, np.full_like(context, promised_ms), color=MISS, linewidth=1.6, label=f"SLA: ITL {promised_ms:g} ms", zorder=4)


def _stems(ax: Axes3D, fitted: FittedDecode | None, measurement: DecodeMeasurement, promised_ms: float) -> None:
    """Measured points; a stem shows how far each is from the law."""
    clean = [point for point in measurement.points if not point.flags]
    for kept, face, told in ((True, INK, "measured, within the SLA"), (False, "white", "measured, beyond it")):
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


def _surface_axes(ax: Axes3D, measurement: DecodeMeasurement, contexts: Sequence[float]) -> None:
    ax.view_init(elev=24, azim=-124)
    ax.set_box_aspect((1.3, 1.3, 0.85), zoom=1.06)
    ax.set_xlim(0, 100 * max(point.kv_usage for point in measurement.points))
    ax.set_ylim(*((0.9 * contexts[0], 1.1 * contexts[0]) if len(contexts) == 1 else (contexts[0], contexts[-1])))
    ax.set_zlim(0, max(point.itl_ms for point in measurement.points) * 1.05)
    ax.set_xlabel("KV cache in use (%)", labelpad=2)
    ax.set_ylabel("context (tokens)", labelpad=4)
    ax.set_zlabel("ITL (ms)", labelpad=1)
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(FuncFormatter(short_number))
        axis.set_pane_color((0.97, 0.975, 0.98, 1.0))
        axis._axinfo["grid"].update(color="#dfe4e9", linewidth=0.6)
    ax.tick_params(pad=0)


def _contexts(measurement: DecodeMeasurement) -> list[float]:
    return sorted({point.context_tokens for point in measurement.points})


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
