"""Whole sweeps of simulated engines whose laws are known: started as processes, measured over HTTP, fitted, and compared with the law.

    one GPU    TTFT = 40 + 0.06*isl + 2e-6*isl^2 ms      ITL = 8 + 0.15*batch + 5e-5*kv_tokens ms      KV capacity 40,000 tokens

Two GPUs take half of each, with the same capacity; they are what is measured.
"""

import asyncio
import shlex
import sys
from statistics import fmean

import pytest

from sla_planner.engines.backends import backend
from sla_planner.engines.process import ProcessLauncher
from sla_planner.model.fitted import FittedDecode, FittedPrefill
from sla_planner.model.profile import (
    DecodeMeasurement,
    DecodePoint,
    Flag,
    ParallelMapping,
    PrefillMeasurement,
    PrefillPoint,
    Profile,
    Provenance,
)
from sla_planner.model.sla import Sla
from sla_planner.store.point_files import PointFiles
from sla_planner.store.profile_files import write_profile_json
from sla_planner.sweep.assemble import assembled, decode_measurement
from sla_planner.sweep.points import DecodeShape
from sla_planner.sweep.port import Deployment, Phase
from sla_planner.sweep.result import Goal
from sla_planner.sweep.runner import Options, Sweep

pytestmark = pytest.mark.e2e

GPUS = 2
KV_TOKENS = 40_000
GOAL = Goal(Sla(ttft_ms=100, itl_ms=6), isl_tokens=800, osl_tokens=100)
OPTIONS = Options(max_context_tokens=2048)
CLEAN_POINTS = 5  # of one phase
HTTP_MS = 8.0  # of a round trip on a busy machine; it is in a TTFT and not in the law


def ttft_ms(isl, gpus=GPUS):
    return (40 + 0.06 * isl + 2e-6 * isl**2) / gpus


def itl_ms(batch, context, gpus=GPUS):
    return (8 + 0.15 * batch + 5e-5 * batch * context) / gpus


@pytest.fixture(scope="module")
def engine_profile(tmp_path_factory):
    mappings = [ParallelMapping(tp=gpus) for gpus in (1, GPUS)]
    isls = (64, 128, 256, 512, 1024, 2048, 4096)
    shapes = [(batch, context) for context in (100, 500, 2000) for batch in (1, 5, 20)]
    curves = (PrefillMeasurement(m, tuple(PrefillPoint(isl, ttft_ms(isl, m.tp), 1000.0) for isl in isls)) for m in mappings)
    surfaces = (
        DecodeMeasurement(
            m, tuple(DecodePoint(b * c / KV_TOKENS, c, itl_ms(b, c, m.tp), 1000 * b / itl_ms(b, c, m.tp) / m.tp) for b, c in shapes), KV_TOKENS
        )
        for m in mappings
    )
    file = tmp_path_factory.mktemp("engine") / "profile.json"
    write_profile_json(Profile(tuple(curves), tuple(surfaces), mappings[0], mappings[0]), file)
    return file


@pytest.fixture
def swept(engine_profile, tmp_path):
    """Gives what a sweep of one engine with these flags finds."""

    def sweep(*flags, phase=Phase.BOTH):
        command = [sys.executable, "-m", "sla_planner", "engine-sim", "--mode", "agg", "--profile", str(engine_profile), *flags]
        launcher = ProcessLauncher(f"{shlex.join(command)} --tp {{tp}} --port {{port}}", backend("simulated"))
        with PointFiles(tmp_path / "points") as points:
            one = Sweep(GOAL, OPTIONS, launcher, points, lambda _: None)
            (run,) = asyncio.run(one.run([Deployment(ParallelMapping(tp=GPUS), phase)]))
        assert (one.tally.deployments, one.left_out) == (1, [])
        return run

    return sweep


def itl_errors(surface, most_batch=1000):
    """Inside the KV cache, up to 1.5 times the promise, over the contexts measured."""
    law = FittedDecode(surface, GPUS)
    least, most = law.context_range
    shapes = [
        (batch, context)
        for context in (least, (least * most) ** 0.5, most)
        for batch in (1, 2, 4, 8, 16, 32, 64)
        if batch <= most_batch and batch * context <= KV_TOKENS and itl_ms(batch, context) <= 1.5 * GOAL.promise.itl_ms
    ]
    return [abs(law.itl_ms(*shape) / itl_ms(*shape) - 1) for shape in shapes]


def ttft_errors(curve):
    """From 384 tokens on, and less the time that a round trip may take."""
    law = FittedPrefill(curve, GPUS)
    isls = [isl for isl in (384, 500, 700, 1000, 1500) if law.in_range(isl)]
    assert len(isls) == 5
    return [max(abs(law.ttft_ms(isl) - ttft_ms(isl)) - HTTP_MS, 0.0) / ttft_ms(isl) for isl in isls]


def few(points):
    """No more points than a clean phase needs, except where the machine was too busy for one of them; then no more than there may be."""
    distrusted = any(point.flags for point in points)
    return len(points) <= (OPTIONS.most_decode_points if distrusted else CLEAN_POINTS)


def test_ten_points_give_the_curves_of_a_clean_engine(swept):
    profile = assembled([swept()], GOAL, Provenance("measured")).profile
    curve, surface = profile.picked_prefill, profile.picked_decode
    assert surface.max_kv_tokens == KV_TOKENS
    assert fmean(itl_errors(surface)) < 0.04
    assert fmean(ttft_errors(curve)) < 0.04
    assert few([*curve.points, *curve.batched])
    assert few(surface.points)


def test_a_noisy_engine_gives_them_too(swept):
    profile = assembled([swept("--noise", "0.05")], GOAL, Provenance("measured")).profile
    assert fmean(itl_errors(profile.picked_decode)) < 0.06
    assert fmean(ttft_errors(profile.picked_prefill)) < 0.06


def test_a_sequence_limit_is_told_and_below_it_the_law_stands(swept):
    run = swept("--max-sequences", "8", phase=Phase.DECODE)
    told = {point.shape: point.defects for point in run.points}
    beyond = [shape for shape in told if shape.batch > 8]
    assert beyond
    for shape in beyond:
        assert any(f"only 8 of {shape.batch} requests ran, {shape.batch - 8} waited" in defect for defect in told[shape])
    assert told[DecodeShape(800, 8)] == ()
    surface = decode_measurement(run)
    flagged = [point for point in surface.points if Flag.REPORTED in point.flags]
    assert len(flagged) >= len(beyond)
    assert fmean(itl_errors(surface, most_batch=8)) < 0.04
