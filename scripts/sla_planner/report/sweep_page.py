"""A sweep as one HTML file: the pick and how sure it is, then why, then everything that was measured.

Like the page of a run it opens from disk, needs no network and no script, prints, and escapes everything from outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sla_planner.model.profile import DecodeMeasurement, Flag, PrefillMeasurement
from sla_planner.report.markup import inline_png, render, unbroken
from sla_planner.report.sweep_wording import (
    Side,
    comparison_rows,
    cost_text,
    difference_text,
    flags_in_words,
    goal_text,
    headline,
    infeasible,
    latency_text,
    percentile,
    role_in_words,
    sides,
    verification_text,
)
from sla_planner.sweep.points import Point
from sla_planner.sweep.result import SweepResult, Verification

CAPTIONS = {
    "prefill_performance.png": "Prefill: what each mapping needs to the first token and how many input tokens a GPU then takes in per second. "
    "Left of the dashed line the promise is kept; the highest there is picked. A line joins what a mapping does with several prompts at once.",
    "decode_performance.png": "Decode: the time between tokens and the tokens that a GPU gives per second, as the batch grows along each curve. "
    "Left of the dashed line the promise is kept; the highest there is picked.",
    "verification.png": "The pick in use against what the profile says: within the green band the profile can be planned with.",
    "prefill_ttft_interpolation.png": "The picked prefill mapping over prompt length. The planner uses the fitted curve; "
    "crosses are points that no fit uses.",
    "prefill_throughput_interpolation.png": "The same as input tokens per second and GPU. Below the dashed line a prompt takes longer than promised.",
    "decode_itl_interpolation.png": "The picked decode mapping over the use of its KV cache, by context length. The planner uses the fitted law; "
    "where a curve is dotted, the promise is missed.",
    "decode_throughput_interpolation.png": "The same as tokens per second and GPU: what a fuller cache still brings.",
    "decode_tp": "The law of the picked decode mapping over both axes, with every point that it was fitted to; stems show the distance.",
}

VERIFIED = "verified in use"


def html(result: SweepResult, pictures: Mapping[str, bytes], facts: Iterable[tuple[str, str]]) -> str:
    """The page. `pictures` are PNGs by path (`sweep_plots.pictures`); those not given are left out. `facts`: name and value, for the end."""
    origin = result.profile.provenance
    verified = result.verification
    return render(
        "sweep.html.j2",
        title=", ".join(dict.fromkeys(part for part in ("Sweep", origin.model, origin.engine, origin.gpu) if part)),
        headline=unbroken(headline(result)),
        asked=unbroken(goal_text(result.goal)),
        feasible=result.feasible,
        way_out="" if result.feasible else infeasible(result)[1],
        rows=_summary(result),
        verification=None
        if verified is None
        else {
            "verdict": _in_use(result, verified),
            "off": _in_use(result, verified) != VERIFIED,
            "text": unbroken(verification_text(verified)),
            "how": verified.how,
            "rows": [
                (
                    one.what,
                    latency_text(one.profile_ms),
                    latency_text(one.measured_ms),
                    difference_text(one).removeprefix(f"{one.what}: "),
                    one.off,
                )
                for one in verified.comparisons
            ],
            "warnings": verified.warnings,
        },
        warnings=result.warnings,
        sides=[_side(side, result) for side in sides(result)],
        figures=[{"source": inline_png(png), "caption": _caption(path), "path": path} for path, png in _ordered(pictures)],
        prefill=[_prefill_points(measurement) for measurement in result.profile.prefill],
        decode=[_decode_points(measurement) for measurement in result.profile.decode],
        failed=[_failed(point) for point in result.points if point.prefill is None and point.decode is None],
        engines=_engines(result),
        left_out=result.left_out,
        facts=[*_origin(result), *facts],
    )


def _in_use(result: SweepResult, verified: Verification) -> str:
    if verified.inside < result.goal.promise.attainment * verified.requests or not verified.requests:
        return "in use the promise is missed" if verified.requests else "nothing was answered in use"
    if any(one.off for one in verified.comparisons):
        return "in use it differs from the profile"
    return VERIFIED


def _summary(result: SweepResult) -> list[dict[str, str]]:
    rows = []
    for side in sides(result):
        word = "picked" if side.choice.picked else "nearest"
        promised = f"promised {side.promised_ms:g} ms to {result.goal.promise.attainment * 100:g} %"
        rows.append({"label": f"{side.role.capitalize()}, {word}", "value": unbroken(role_in_words(side)), "note": unbroken(promised)})
    source = result.profile.provenance.source
    if result.cost.measured or result.cost.reused:
        rows.append({"label": "Cost", "value": "", "note": unbroken(cost_text(result.cost))})
    else:
        rows.append({"label": "Cost", "value": "", "note": f"nothing was measured: the profile is {source or 'computed'}"})
    return rows


def _side(side: Side, result: SweepResult) -> dict[str, Any]:
    told = percentile(result)
    rows = [{"cells": row, "chosen": candidate == side.choice.nearest} for row, candidate in zip(comparison_rows(side), side.best, strict=True)]
    others = sorted(side.candidates, key=lambda one: (one.mapping.gpus, one.mapping.label, one.concurrency))
    return {
        "role": side.role.value,
        "latency": f"{side.latency} {told} (ms)",
        "typical": f"{side.latency} typical (ms)",
        "rows": rows,
        "candidates": [
            (one.mapping.label, one.at, f"{one.latency_ms:,.2f}", f"{one.typical_ms:,.2f}", f"{one.throughput_per_gpu:,.1f}", side.keeps(one))
            for one in others
        ],
    }


def _ordered(pictures: Mapping[str, bytes]) -> list[tuple[str, bytes]]:
    """In the order of CAPTIONS."""
    place = {name: index for index, name in enumerate(CAPTIONS)}
    return sorted(pictures.items(), key=lambda item: place.get(_captioned(item[0]), len(place)))


def _captioned(path: str) -> str:
    name = path.rsplit("/", 1)[-1]
    return "decode_tp" if name.startswith("decode_tp") else name


def _caption(path: str) -> str:
    return CAPTIONS.get(_captioned(path), path)


def _prefill_points(measurement: PrefillMeasurement) -> dict[str, Any]:
    rows = [(1, point) for point in measurement.points] + [(point.concurrency, point) for point in measurement.batched]
    return {
        "mapping": measurement.mapping.label,
        "rows": [
            (
                f"{point.isl_tokens:,.0f}",
                f"{at_once:,}",
                f"{point.ttft_ms:,.2f}",
                f"{point.throughput_per_gpu:,.1f}",
                flags_in_words(point.flags, point.note),
            )
            for at_once, point in rows
        ],
        "flagged": _flagged([point.flags for _, point in rows]),
    }


def _decode_points(measurement: DecodeMeasurement) -> dict[str, Any]:
    return {
        "mapping": measurement.mapping.label,
        "rows": [
            (
                f"{point.context_tokens:,.0f}",
                f"{measurement.batch(point):,.0f}",
                f"{point.kv_usage * 100:.1f} %",
                f"{point.itl_ms:,.2f}",
                f"{point.throughput_per_gpu:,.1f}",
                flags_in_words(point.flags, point.note),
            )
            for point in measurement.points
        ],
        "flagged": _flagged([point.flags for point in measurement.points]),
    }


def _flagged(flags: Iterable[tuple[Flag, ...]]) -> str:
    every = list(flags)
    bad = sum(bool(one) for one in every)
    return f"{len(every):,} point{'' if len(every) == 1 else 's'}" + (f", {bad} of them flagged" if bad else "")


def _failed(point: Point) -> tuple[str, str, str]:
    return point.mapping.label, point.shape.label, "; ".join(point.defects) or "no answer"


def _engines(result: SweepResult) -> list[tuple[str, ...]]:
    by_size = sorted(result.facts.items(), key=lambda item: (item[0].gpus, item[0].label))
    return [
        (
            mapping.label,
            str(mapping.gpus),
            f"{facts.max_kv_tokens:,}",
            facts.kv_source,
            "not known" if facts.max_sequences is None else f"{facts.max_sequences:,}",
            f"{facts.start_s:,.0f} s",
            str(facts.prompt_form),
            f"{facts.tokens_per_event:.3g}",
        )
        for mapping, facts in by_size
    ]


def _origin(result: SweepResult) -> list[tuple[str, str]]:
    origin = result.profile.provenance
    named = (
        ("Profile", origin.source),
        ("Model", origin.model),
        ("Engine", origin.engine),
        ("GPU", origin.gpu),
        ("Image", origin.image),
        ("Made at", origin.measured_at),
    )
    return [(name, value) for name, value in named if value]
