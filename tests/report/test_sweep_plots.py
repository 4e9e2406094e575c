from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from matplotlib import image
from matplotlib.colors import to_hex

from sla_planner.model.fitted import FittedDecode
from sla_planner.model.profile import DecodeMeasurement, DecodePoint, Flag, ParallelMapping, PrefillMeasurement
from sla_planner.report import sweep_curves, sweep_plots
from sla_planner.report.style import INK, MISS, styled
from sla_planner.report.sweep_canvas import GREY, MARKERS, contexts_of, looks

COMMON = [
    "prefill_performance.png",
    "decode_performance.png",
    "selected_prefill_interpolation/prefill_ttft_interpolation.png",
    "selected_prefill_interpolation/prefill_throughput_interpolation.png",
    "selected_decode_interpolation/decode_itl_interpolation.png",
    "selected_decode_interpolation/decode_throughput_interpolation.png",
]


def words(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts if text.get_text()]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def crosses(ax):
    return [(x, y) for line in ax.lines if line.get_marker() == "x" for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]


def drawn_small(result):
    """Every picture, rendered with few dots: whatever fails then would fail at full size."""
    for draw in sweep_plots.figures(result).values():
        with styled():
            draw(result).savefig(io.BytesIO(), format="png", dpi=30)


def test_every_picture_is_1600_pixels_wide_and_shows_something(sweep):
    drawn = sweep_plots.pictures(sweep)
    assert list(drawn) == [*COMMON, "selected_decode_interpolation/decode_tp4.png", "verification.png"]
    for name, png in drawn.items():
        pixels = image.imread(io.BytesIO(png))
        height, width = pixels.shape[:2]
        assert width == 1600, name
        assert 400 < height < 1500, name
        assert 0.004 < np.mean(pixels[..., :3].min(axis=2) < 0.7) < 0.6, name  # ink on a light ground


def test_the_surface_is_named_after_the_gpus_of_the_pick_and_no_verification_is_no_picture(make_sweep):
    mappings = (ParallelMapping(), ParallelMapping(dp=8, ep=8))
    result = make_sweep(mappings=mappings, verified=False, itl_ms=4.0)
    assert result.decode.nearest.mapping.label == "DEP8"
    assert list(sweep_plots.figures(result)) == [*COMMON, "selected_decode_interpolation/decode_tp8.png"]


@pytest.mark.parametrize(
    "asked",
    [
        {"mappings": (ParallelMapping(tp=2),), "contexts": (3000,)},
        {"mappings": tuple(ParallelMapping(tp=n) for n in range(1, 12)), "contexts": (200, 16000)},
        pytest.param({"ttft_ms": 0.5, "itl_ms": 0.01}, marks=pytest.mark.e2e),
        pytest.param({"ttft_ms": 90_000.0, "itl_ms": 5_000.0, "raw": False}, marks=pytest.mark.e2e),
    ],
    ids=["one mapping, one context", "more mappings than colours", "far too strict", "far too loose, offline"],
)
def test_unusual_sweeps_can_be_drawn(make_sweep, asked):
    drawn_small(make_sweep(**asked))


def test_the_pick_has_a_ring_and_its_words(sweep):
    (ax,) = sweep_plots.decode_performance(sweep).axes
    pick = sweep.decode.picked
    (ring,) = [line for line in ax.lines if line.get_markersize() == 12]
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (pick.latency_ms, pick.throughput_per_gpu)
    assert ring.get_markeredgecolor() == INK
    assert f"picked: TP4, batch 102\n{pick.latency_ms:.2f} ms, {pick.throughput_per_gpu:,.0f} tokens/s/GPU" in words(ax.figure)
    assert legend(ax) == ["TP1, 1 GPU", "TP2, 2 GPUs", "TP4, 4 GPUs", "TP8, 8 GPUs", "picked", "misses the SLA"]
    assert "SLA: ITL 8 ms" in words(ax.figure)


def test_without_a_pick_the_nearest_is_marked_as_such(impossible):
    (ax,) = sweep_plots.prefill_performance(impossible).axes
    (ring,) = [line for line in ax.lines if line.get_markersize() == 12]
    assert ring.get_markeredgecolor() == MISS
    assert ring.get_xdata()[0] == min(one.latency_ms for one in impossible.prefill_candidates)
    assert any(text.startswith("nearest: TP8\n") for text in words(ax.figure))
    assert not any("picked" in text for text in [*words(ax.figure), *legend(ax)])


@pytest.mark.parametrize("draw", [sweep_plots.prefill_performance, sweep_plots.decode_performance])
def test_what_misses_the_promise_is_grey_and_hollow(sweep, draw):
    (ax,) = draw(sweep).axes
    candidates, promised = (
        (sweep.prefill_candidates, sweep.goal.promise.ttft_ms)
        if draw is sweep_plots.prefill_performance
        else (sweep.decode_candidates, sweep.goal.promise.itl_ms)
    )
    markers = {(line.get_xdata()[0], line.get_ydata()[0]): line for line in ax.lines if line.get_marker() in MARKERS and line.get_markersize() != 12}
    assert len(markers) == len(candidates)
    for one in candidates:
        line = markers[one.latency_ms, one.throughput_per_gpu]
        kept = one.latency_ms <= promised
        assert (line.get_color() == looks(sweep.profile)[one.mapping].colour) is kept
        assert (line.get_markeredgecolor() == GREY) is not kept


def test_a_mapping_looks_the_same_in_both_pictures_and_unlike_the_others(sweep):
    seen = looks(sweep.profile)
    assert len({(look.colour, look.marker) for look in seen.values()}) == 4
    assert MISS not in {look.colour for look in seen.values()}


def test_a_promise_far_off_does_not_flatten_the_data(make_sweep):
    (ax,) = sweep_plots.prefill_performance(make_sweep(ttft_ms=90_000.0)).axes
    assert ax.get_xlim()[1] < 500
    assert "SLA: TTFT 90000 ms →" in words(ax.figure)


def test_the_curve_shows_points_spread_flags_and_the_goal(sweep):
    (ax,) = sweep_curves.prefill_ttft(sweep).axes
    points = sweep.profile.picked_prefill.points
    flagged = [point for point in points if point.flags]
    assert crosses(ax) == [(point.isl_tokens, point.ttft_ms) for point in flagged]
    assert len(flagged) == 1
    assert "outlier" in words(ax.figure)
    assert {"asked for: ISL 3,000", "SLA\n50 ms"} <= set(words(ax.figure))
    (measured,) = [line for line in ax.lines if line.get_label() == "measured"]
    assert len(measured.get_xdata()) == len(points) - 1
    (spread,) = [one for one in ax.collections if one.get_label().startswith("slowest")]
    lowest, highest = np.array([segment[:, 1] for segment in spread.get_segments()]).T
    assert len(lowest) == len(points) - 1
    for point, low, high in zip((p for p in points if not p.flags), lowest, highest, strict=True):
        assert low <= point.ttft_ms <= high
        assert low < high


def test_the_promise_over_prompt_length_is_a_line_through_the_origin(sweep):
    """isl / 50 ms on 2 GPUs: 10 tokens/s/GPU per token of the prompt."""
    (ax,) = sweep_curves.prefill_throughput(sweep).axes
    (line,) = [one for one in ax.lines if one.get_label().startswith("SLA")]
    assert np.allclose(np.array(line.get_ydata()) / np.array(line.get_xdata()), 10.0)


def test_an_offline_profile_has_points_without_a_spread(make_sweep):
    (ax,) = sweep_curves.prefill_ttft(make_sweep(raw=False)).axes
    assert legend(ax) == ["fitted curve", "point", "flagged, not fitted (1)"]
    assert "offline" in ax.figure.texts[1].get_text()


def test_decode_curves_are_the_law_solid_within_the_promise_and_dotted_beyond(sweep):
    (ax,) = sweep_curves.decode_itl(sweep).axes
    measurement = sweep.profile.picked_decode
    fitted = FittedDecode(measurement, 4)
    contexts = contexts_of(measurement.points)
    for context in contexts:
        curves = [line for line in ax.lines if line.get_color() == context.look.colour and line.get_marker() == "None" and len(line.get_xdata())]
        for curve in curves:
            usage, itl_ms = np.array(curve.get_xdata()) / 100, np.array(curve.get_ydata())
            batch = usage * measurement.max_kv_tokens / context.tokens
            assert np.allclose(itl_ms, [fitted.itl_ms(one, context.tokens) for one in batch])
            assert np.all(itl_ms <= 8.0) if curve.get_linestyle() == "-" else np.all(itl_ms > 8.0)
        assert curves
    flagged = [point for point in measurement.points if point.flags]
    assert sorted(crosses(ax)) == sorted((100 * point.kv_usage, point.itl_ms) for point in flagged)
    assert {"queued", "not trusted"} <= set(words(ax.figure))
    assert legend(ax)[-2:] == ["flagged, not fitted (2)", "ITL above 8 ms"]


def test_points_of_about_one_context_are_one_curve():
    def point(context, usage):
        return DecodePoint(usage, context, 5.0, 100.0)

    exact = contexts_of([point(1000.0, 0.5), point(1000.0, 0.1)])
    assert [(one.label, [p.kv_usage for p in one.points]) for one in exact] == [("context 1,000", [0.1, 0.5])]
    near = contexts_of([point(3075.0, 0.5), point(3260.0, 0.1), point(300.0, 0.1)])
    assert [one.label for one in near] == ["context 300", "context ~3,200"]
    assert len(contexts_of([point(200.0 * 1.4**step, 0.1) for step in range(20)])) <= 8


def test_a_mapping_with_too_few_points_to_fit_is_drawn_without_a_line(sweep):
    mapping = sweep.profile.selected_decode
    lonely = DecodeMeasurement(mapping, sweep.profile.picked_decode.points[:1], 4_000_000)
    short = PrefillMeasurement(sweep.profile.selected_prefill, sweep.profile.picked_prefill.points[:1])
    profile = replace(sweep.profile, prefill=(short,), decode=(lonely,))
    drawn_small(replace(sweep, profile=profile))


def test_all_points_flagged_can_be_drawn(sweep):
    measurement = sweep.profile.picked_decode
    bad = replace(measurement, points=tuple(replace(point, flags=(Flag.REPORTED,)) for point in measurement.points))
    result = replace(sweep, profile=replace(sweep.profile, decode=(bad,)))
    (ax,) = sweep_curves.decode_itl(result).axes
    assert len(crosses(ax)) == len(bad.points)
    assert "not trusted" not in words(ax.figure)  # too many to be read
    assert sweep_plots.png(sweep_curves.decode_surface(result)).startswith(b"\x89PNG")


def test_the_surface_carries_the_points_and_the_promise(sweep):
    (ax,) = sweep_curves.decode_surface(sweep).axes
    points = sweep.profile.picked_decode.points
    shown = {line.get_label(): len(line.get_data_3d()[0]) for line in ax.lines}
    kept = sum(not point.flags and point.itl_ms <= 8.0 for point in points)
    beyond = sum(not point.flags and point.itl_ms > 8.0 for point in points)
    assert (shown["measured, within the SLA"], shown["measured, beyond it"], shown["flagged, not fitted (2)"]) == (kept, beyond, 2)
    assert "SLA: ITL 8 ms" in shown
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_zlabel()) == ("KV cache in use (%)", "context (tokens)", "ITL (ms)")


def test_verification_hatches_what_leaves_the_band(sweep):
    (ax,) = sweep_plots.verification(sweep).axes
    bars = [bar for bar in ax.patches if bar.get_y() < 4 and bar.get_height() == 0.5]
    assert [round(bar.get_width(), 3) for bar in bars] == [1.06, 0.975, 1.229, 1.11]
    assert [bool(bar.get_hatch()) for bar in bars] == [False, False, True, False]
    assert to_hex(bars[2].get_edgecolor()) == MISS
    assert [label.get_text() for label in ax.get_yticklabels()] == [one.what for one in sweep.verification.comparisons]
    assert any(text.startswith("+23 %   profile ") for text in words(ax.figure))


def test_verification_without_a_comparison_can_be_drawn(sweep):
    empty = replace(sweep, verification=replace(sweep.verification, comparisons=(), requests=0, inside=0))
    assert sweep_plots.png(sweep_plots.verification(empty)).startswith(b"\x89PNG")
