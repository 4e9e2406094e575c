from __future__ import annotations

import importlib.util
import io
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib import image

from sla_planner.errors import UsageError
from sla_planner.report import plots
from sla_planner.report.run import Requests


def labels(figure):
    return [(ax.get_xlabel(), ax.get_ylabel()) for ax in figure.axes]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_every_picture_is_1600_pixels_wide_and_shows_something(run):
    drawn = plots.pictures(run)
    assert list(drawn) == ["load.png", "workers.png", "ttft.png", "itl.png", "demo.png"]
    for name, png in drawn.items():
        pixels = image.imread(io.BytesIO(png))
        height, width = pixels.shape[:2]
        assert width == 1600, name
        assert 500 < height < 1500, name
        assert 0.005 < np.mean(pixels[..., :3].min(axis=2) < 0.7) < 0.6, name  # ink on a light ground


def test_the_demo_picture_stacks_everything_over_one_time_axis(run):
    figure = plots.demo_figure(run)
    assert labels(figure) == [
        ("", "requests/s"),
        ("", "workers"),
        ("", "workers"),
        ("", "TTFT (ms)"),
        ("time since the run began (s)", "ITL (ms)"),
        ("", "input tokens/s"),
    ]
    assert {ax.get_xlim() for ax in figure.axes} == {(0.0, 45.0)}


def test_the_demo_picture_says_the_result(tiny):
    said = [text.get_text() for text in plots.demo_figure(tiny).texts]
    assert said == [
        "50.0 % of 4 requests inside TTFT 500 ms and ITL 50 ms (promised 50 %)",
        "34 % fewer GPU-seconds than a fleet sized for the peak. tiny",
    ]


def test_load_is_requests_and_tokens_per_second(tiny):
    left, right = plots.load_figure(tiny).axes
    assert left.patches[0].get_data().values.sum() * 0.5 == 4  # bins of half a second
    assert right.patches[0].get_data().values.sum() * 0.5 == 1000


def test_workers_show_the_peak_and_mark_each_change(tiny):
    prefill, _ = plots.workers_figure(tiny).axes
    assert "2 for\nthe peak" in [text.get_text() for text in prefill.texts]
    marks = {line.get_label(): list(line.get_xdata()) for line in prefill.lines}
    assert marks["scale-up"] == [4.0]
    assert marks["scale-down"] == [8.0]
    assert legend(prefill) == ["ready", "starting", "asked for by the planner", "saved", "scale-up", "scale-down"]


def test_late_and_unanswered_requests_are_told_apart(tiny):
    (ax,) = plots.ttft_figure(tiny).axes
    points = {line.get_label(): list(line.get_xdata()) for line in ax.lines}
    assert points["request"] == [0.5, 2.0]
    assert points["late (1)"] == [6.0]
    assert points["never answered (1)"] == [9.0]
    assert "promised\n500 ms" in [text.get_text() for text in ax.texts]


def test_a_request_without_an_itl_is_no_miss(tiny):
    (ax,) = plots.itl_figure(tiny).axes
    assert legend(ax) == ["request", "p50", "p99, over 0.5 s"]


@pytest.mark.parametrize(("worst_ms", "scale"), [(1900.0, "linear"), (9000.0, "log")])
def test_the_scale_turns_logarithmic_when_the_worst_is_far_off(tiny, worst_ms, scale):
    requests = replace(tiny.requests, ttft_ms=np.array([120.0, 480.0, worst_ms, np.nan]))
    (ax,) = plots.ttft_figure(replace(tiny, requests=requests)).axes
    assert ax.get_yscale() == scale
    assert ax.get_ylim()[1] > worst_ms


def test_an_empty_run_and_a_strange_title_can_be_drawn(tiny):
    none = np.empty(0)
    requests = Requests(none, none.astype(int), none, none, none.astype(bool))
    empty = replace(tiny, requests=requests, ticks=(), title="a $bill$ for \N{CJK UNIFIED IDEOGRAPH-65E5}")
    assert plots.png(plots.demo_figure(empty)).startswith(b"\x89PNG")


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    spec = importlib.util.find_spec("sla_planner.report.plots")
    with pytest.raises(UsageError) as caught:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert str(caught.value) == "pictures need matplotlib, which is not installed; pip install matplotlib"
