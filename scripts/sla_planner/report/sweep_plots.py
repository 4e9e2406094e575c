"""A sweep as pictures: which mapping and why, what the picked engines do over every load, and whether the profile holds in use.

    prefill_performance.png, decode_performance.png     latency against throughput per GPU of every candidate, and the promise
    selected_*_interpolation/*.png                       the picked engines: points, fitted curves, what was flagged (sweep_curves.py)
    verification.png                                     profile against measured, where the pick was verified

Latencies of candidates are at the promised percentile, because that is what decides. Importing this module without matplotlib raises UsageError:
import it where a picture is asked for.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

import numpy as np

from sla_planner.errors import ProfileError
from sla_planner.model.fitted import FittedDecode
from sla_planner.model.profile import DecodeMeasurement, DecodePoint, ParallelMapping
from sla_planner.model.selection import Candidate
from sla_planner.plan.decision import Role
from sla_planner.report.style import BLUE, INK, MISS, MUTED, WIDTH_IN, needs_matplotlib, png, styled
from sla_planner.report.sweep_canvas import GREY, RING_POINTS, SAME_CONTEXT, Labels, Look, about, canvas, headings, key, looks, promise_line, scale
from sla_planner.report.sweep_curves import decode_itl, decode_surface, decode_throughput, prefill_throughput, prefill_ttft
from sla_planner.report.sweep_wording import Side, decode_side, latency_text, percentile, prefill_side, rate_text
from sla_planner.report.wording import share_inside
from sla_planner.sweep.result import TOLERATED_DIFFERENCE, Comparison, SweepResult, Verification

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, MaxNLocator
except ImportError as missing:
    raise needs_matplotlib() from missing

VERIFICATION = "verification.png"
PREFILL_FOLDER, DECODE_FOLDER = "selected_prefill_interpolation", "selected_decode_interpolation"
_ROW_IN, _WORDS_IN = 0.42, 2.5  # one comparison of the verification, and the words beside its bar


def pictures(result: SweepResult) -> dict[str, bytes]:
    """Every picture of the sweep as PNG, by path relative to the results folder."""
    return {path: png(draw(result)) for path, draw in figures(result).items()}


def figures(result: SweepResult) -> dict[str, Callable[[SweepResult], Figure]]:
    """What is drawn for `result`, by path."""
    drawn: dict[str, Callable[[SweepResult], Figure]] = {
        "prefill_performance.png": prefill_performance,
        "decode_performance.png": decode_performance,
        f"{PREFILL_FOLDER}/prefill_ttft_interpolation.png": prefill_ttft,
        f"{PREFILL_FOLDER}/prefill_throughput_interpolation.png": prefill_throughput,
        f"{DECODE_FOLDER}/decode_itl_interpolation.png": decode_itl,
        f"{DECODE_FOLDER}/decode_throughput_interpolation.png": decode_throughput,
        f"{DECODE_FOLDER}/decode_tp{result.profile.selected_decode.gpus}.png": decode_surface,
    }
    return {**drawn, VERIFICATION: verification} if result.verification else drawn


def prefill_performance(result: SweepResult) -> Figure:
    """TTFT against prefill throughput per GPU: one marker per mapping, joined to what batching prompts does."""
    below = about(result.profile, "numbers: prompts at once, where more than one")
    goal = result.goal
    with styled():
        figure, ax = canvas(f"Prefill: TTFT and throughput of each mapping, {goal.isl_tokens:,} input tokens", below)
        side = prefill_side(result)
        _frame(ax, side, result)
        labels = _candidates(ax, side, result, lambda one: "" if one.concurrency <= 1 else f"{one.concurrency:g}")
        _finish(ax, side, result, labels)
    return figure


def decode_performance(result: SweepResult) -> Figure:
    """ITL against decode throughput per GPU: one curve per mapping over the batch."""
    goal = result.goal
    below = about(result.profile, "numbers: batch", f"lines: the fitted law at {goal.context_tokens:,.0f} tokens")
    with styled():
        figure, ax = canvas(f"Decode: ITL and throughput of each mapping, {goal.context_tokens:,.0f} tokens of context", below)
        side = decode_side(result)
        _frame(ax, side, result)
        labels = _candidates(ax, side, result, lambda one: f"{one.concurrency:g}")
        for measurement in result.profile.decode:
            labels.curves += _fitted_line(ax, measurement, side, result)
        _finish(ax, side, result, labels)
    return figure


def _frame(ax: Axes, side: Side, result: SweepResult) -> None:
    scale(ax, "x", [one.latency_ms for one in side.candidates], side.promised_ms)
    scale(ax, "y", [0.0, *(one.throughput_per_gpu for one in side.candidates)])
    ax.set_ylim(-0.03 * ax.get_ylim()[1], 1.04 * ax.get_ylim()[1])  # a ring around a point near zero is seen whole
    promise_line(ax, "x", side.latency, side.promised_ms)
    ax.set_xlabel(f"{side.latency}, {percentile(result)} (ms)")
    ax.set_ylabel(f"{side.role} throughput (tokens/s/GPU)")


def _candidates(ax: Axes, side: Side, result: SweepResult, told: Callable[[Candidate], str]) -> Labels:
    """The markers of every mapping, filled where the promise is kept, hollow and grey where it is missed."""
    labels = Labels()
    for mapping, look in looks(result.profile).items():
        own = sorted((one for one in side.candidates if one.mapping == mapping), key=lambda one: one.concurrency)
        if not own:
            continue
        if side.role is Role.PREFILL:
            ax.plot([one.latency_ms for one in own], [one.throughput_per_gpu for one in own], color=look.colour, linewidth=0.9, alpha=0.6)
        for one in own:
            kept = side.keeps(one)
            face, edge = (look.colour, "white") if kept else ("white", GREY)
            at = (one.latency_ms, one.throughput_per_gpu)
            ax.plot(*at, look.marker, color=face, markeredgecolor=edge, markeredgewidth=0.6 if kept else 1.1, markersize=5.5, zorder=4)
            labels.markers.append(at)
            if one != side.choice.nearest and told(one):
                labels.add(*at, told(one), INK if kept else MUTED, optional=True)
        if side.role is Role.PREFILL and own[0] != side.choice.nearest:
            labels.add(own[0].latency_ms, own[0].throughput_per_gpu, mapping.label, look.colour if side.keeps(own[0]) else MUTED, bold=True)
    return labels


def _finish(ax: Axes, side: Side, result: SweepResult, labels: Labels) -> None:
    """The pick with its ring and its words, the labels, the key."""
    near = side.choice.nearest
    at = (near.latency_ms, near.throughput_per_gpu)
    ring = INK if side.choice.picked else MISS
    ax.plot(*at, "o", color="none", markeredgecolor=ring, markeredgewidth=1.4, markersize=RING_POINTS, zorder=6)
    word = "picked" if side.choice.picked else "nearest"
    labels.add(
        *at,
        f"{word}: {_named(side, near)}\n{latency_text(near.latency_ms)}, {rate_text(near.throughput_per_gpu)}",
        ring,
        bold=True,
        marker_points=RING_POINTS,
    )
    labels.uprights.append(side.promised_ms)
    labels.place(ax)
    used = {one.mapping for one in side.candidates}
    handles = [_key_of(mapping, look) for mapping, look in looks(result.profile).items() if mapping in used]
    handles.append(Line2D([], [], linestyle="", marker="o", color="none", markeredgecolor=ring, markeredgewidth=1.4, markersize=8, label=word))
    if not all(side.keeps(one) for one in side.candidates):
        handles.append(Line2D([], [], linestyle="", marker="o", color="white", markeredgecolor=GREY, markersize=5.5, label="misses the SLA"))
    key(ax, handles)


def _named(side: Side, candidate: Candidate) -> str:
    """`TP4, batch 48`, `TP2, 4 at once`, `TP2`."""
    many = f", batch {candidate.concurrency:g}" if side.role is Role.DECODE else f", {candidate.concurrency:g} at once"
    return candidate.mapping.label + (many if side.role is Role.DECODE or candidate.concurrency > 1 else "")


def _key_of(mapping: ParallelMapping, look: Look) -> Line2D:
    gpus = f"{mapping.gpus} GPU{'' if mapping.gpus == 1 else 's'}"
    return Line2D([], [], color=look.colour, linewidth=1.0, marker=look.marker, markersize=5.5, markeredgewidth=0, label=f"{mapping.label}, {gpus}")


def _fitted_line(ax: Axes, measurement: DecodeMeasurement, side: Side, result: SweepResult) -> list[tuple[float, float]]:
    """The law at the goal's context, over the batches that were measured there; moved to the promised percentile, where the markers
    stand. Gives points along it."""
    context = result.goal.context_tokens
    batches = [one.concurrency for one in side.candidates if one.mapping == measurement.mapping]
    if not batches:
        return []
    batches += [
        b for p in measurement.points if not p.flags and (b := measurement.batch(p)) * context <= measurement.max_kv_tokens and _about(p, context)
    ]
    try:
        fitted = FittedDecode(measurement, measurement.mapping.gpus)
    except ProfileError:
        return []
    batch = np.geomspace(max(1.0, min(batches)), max(batches), 80)
    itl_ms = np.array([fitted.itl_ms(one, context) for one in batch])
    colour = looks(result.profile)[measurement.mapping].colour
    tail = float(np.median([one.latency_ms / one.typical_ms for one in side.candidates if one.mapping == measurement.mapping]))
    x, y = itl_ms * tail, batch / itl_ms * 1000 / measurement.mapping.gpus
    ax.plot(x, y, color=colour, linewidth=0.9, alpha=0.75)
    return list(zip(x.tolist(), y.tolist(), strict=True))[::3]


def _about(point: DecodePoint, context: float) -> bool:
    return context / SAME_CONTEXT <= point.context_tokens <= context * SAME_CONTEXT


def verification(result: SweepResult) -> Figure:
    """Profile against measured: one bar per latency, in percent of what the profile says, with the band that is tolerated."""
    assert result.verification is not None  # `figures` asks for it only then
    verified = result.verification
    compared = verified.comparisons
    height_in = 1.35 + _ROW_IN * max(1, len(compared))
    with styled():
        figure, ax = canvas("", "", height_in=height_in, key_in=0.15)
        names = [textwrap.fill(one.what, 30) for one in compared]
        _room_for_names(ax, names, height_in)
        headings(figure, _verification_title(verified), verified.how, height_in)
        for row, one in enumerate(compared):
            _bar(ax, row, one)
        most = max([1.3, *(1 + one.difference for one in compared)])
        ax.axvspan(1 - TOLERATED_DIFFERENCE, 1 + TOLERATED_DIFFERENCE, color="#009e73", alpha=0.12, linewidth=0)
        ax.axvline(1.0, color=INK, linewidth=1.0)
        wide_in = ax.get_position().width * WIDTH_IN
        ax.set_xlim(0, most * wide_in / (wide_in - _WORDS_IN))
        ax.set_ylim(len(compared) - 0.4, -0.6)
        ax.set_yticks(range(len(compared)), names)
        ax.tick_params(axis="y", labelcolor=INK, length=0)
        ax.grid(visible=False)
        ax.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share * 100:,.0f} %"))
        ax.set_xlabel("measured, in percent of what the profile says")
        band = f"profile ±{TOLERATED_DIFFERENCE * 100:.0f} %"
        ax.text(1.0, 1.01, band, transform=ax.get_xaxis_transform(), fontsize=6.8, ha="center", va="bottom", color="#00734f")
    return figure


def _verification_title(verified: Verification) -> str:
    if not verified.requests:
        return "Profile and reality"
    return f"Profile and reality: {share_inside(verified.inside, verified.requests)} of {verified.requests:,} requests inside TTFT and ITL"


def _room_for_names(ax: Axes, names: Sequence[str], height_in: float) -> None:
    longest = max((len(line) for name in names for line in name.splitlines()), default=0)
    left_in, foot_in, head_in = 0.3 + 0.056 * longest, 0.45, 0.72
    ax.set_position((left_in / WIDTH_IN, foot_in / height_in, (WIDTH_IN - left_in - 0.3) / WIDTH_IN, (height_in - foot_in - head_in) / height_in))


def _bar(ax: Axes, row: int, one: Comparison) -> None:
    off = one.off
    share = 1 + one.difference
    style = {"facecolor": "white", "edgecolor": MISS, "hatch": "//////"} if off else {"facecolor": BLUE, "alpha": 0.75}
    ax.barh(row, share, height=0.5, linewidth=0.8 if off else 0, zorder=2, **style)
    percent = round(one.difference * 100)
    told = f"{percent:+d} %" if percent else "±0 %"
    ax.annotate(
        f"{told}   profile {latency_text(one.profile_ms)}, measured {latency_text(one.measured_ms)}", (max(share, 1 + TOLERATED_DIFFERENCE), row),
        xytext=(6, 0), textcoords="offset points", va="center", fontsize=7.0, color=MISS if off else INK, fontweight="bold" if off else "normal",
    )  # fmt: skip
