"""A profile as tables for a terminal, and the same as one JSON object. Pure text and data; every line of a table fits into 100 columns.

    law error %   100 * (law - measured) / measured, as in laws.py; the law is fitted to the points without a flag
    Little        requests that made progress / requests in flight (gates.py); 1 when nothing waits

Notes of points are sentences, so a table holds their numbers and they stand below it.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sla_planner.errors import ProfileError
from sla_planner.model.fitted import FittedDecode, FittedPrefill
from sla_planner.model.gates import (
    batched_little_ratio,
    little_ratio,
)
from sla_planner.model.laws import FitQuality
from sla_planner.model.profile import (
    BatchedPrefillPoint,
    DecodeMeasurement,
    DecodePoint,
    Flag,
    PrefillMeasurement,
    PrefillPoint,
    Profile,
)
from sla_planner.report.sweep_wording import FLAG_RULES
from sla_planner.report.terminal import table

WIDTH = 100
_ROUNDING = 1e-9
_UNFLAGGED = "No point is flagged."
_LEGEND = (
    ("law error %", "what the fitted law says against what was measured; - where the law is too fast. Flagged points have no say in the law."),
    ("Little", "requests that made progress over requests in flight; 1 when nothing waits."),
)

Point = PrefillPoint | BatchedPrefillPoint | DecodePoint


@dataclass(frozen=True, slots=True)
class _Law:
    """The law of one mapping, or in `missing` why there is none."""

    prefill: FittedPrefill | None = None
    decode: FittedDecode | None = None
    missing: str = ""

    def ttft_error(self, point: PrefillPoint) -> float | None:
        """Law over measured, less 1."""
        return self.prefill.law.ttft_ms(point.isl_tokens) / point.ttft_ms - 1 if self.prefill else None

    def itl_error(self, batch: float, point: DecodePoint) -> float | None:
        """Law over measured, less 1."""
        return self.decode.itl_ms(batch, point.context_tokens) / point.itl_ms - 1 if self.decode else None


def profile_text(profile: Profile, place: str) -> str:
    """The gated `profile`, read from `place`, for people. No line end after the last line."""
    parts = [_header(profile, place)]
    for prefill in profile.prefill:
        parts.append(_prefill_part(prefill, prefill.mapping == profile.selected_prefill))
        if prefill.batched:
            parts.append(_batched_part(prefill))
    parts += [_decode_part(decode, decode.mapping == profile.selected_decode) for decode in profile.decode]
    return "\n\n".join([*parts, _flags_part(profile), "\n".join(_items(_LEGEND))])


def profile_json(profile: Profile, place: str) -> dict[str, Any]:
    """What `profile_text` shows, by name: errors of the law are shares, a law that cannot be fitted is null and `no_law` says why."""
    counts = _counts(profile)
    return {
        "place": place,
        "provenance": asdict(profile.provenance),
        "selected": {"prefill": profile.selected_prefill.label, "decode": profile.selected_decode.label},
        "points": len(list(_points(profile))),
        "flagged_points": _flagged(profile),
        "flags": {flag.value: {"points": count, "meaning": FLAG_RULES[flag]} for flag, count in counts.items()},
        "prefill": [_prefill_json(measurement) for measurement in profile.prefill],
        "decode": [_decode_json(measurement) for measurement in profile.decode],
    }


def _header(profile: Profile, place: str) -> str:
    told = asdict(profile.provenance)
    names = {"source": "source", "model": "model", "engine": "engine", "gpu": "GPU", "image": "image", "measured_at": "measured at"}
    rows = [(name, _clean(told[key])) for key, name in names.items() if told[key]]
    unknown = [name for key, name in names.items() if not told[key]]
    if unknown:
        rows.append(("not stated", ", ".join(unknown)))
    rows += [
        ("prefill", f"{profile.selected_prefill.label} selected{_of(len(profile.prefill))}, {_gpus(profile.selected_prefill.gpus)} per worker"),
        ("decode", f"{profile.selected_decode.label} selected{_of(len(profile.decode))}, {_gpus(profile.selected_decode.gpus)} per worker"),
        ("points", f"{len(list(_points(profile))):,}, {_flagged(profile) or 'none'} flagged"),
    ]
    return "\n".join([f"Profile {_clean(place)}", "", *(f"{name:<12}{value}" for name, value in rows)])


def _prefill_part(measurement: PrefillMeasurement, selected: bool) -> str:
    law = _law_of(measurement)
    columns: dict[str, Sequence[str]] = {
        "ISL": [_tokens(point.isl_tokens) for point in measurement.points],
        "TTFT ms": _ms([point.ttft_ms for point in measurement.points]),
        "tokens/s/GPU": [_rate(point.throughput_per_gpu) for point in measurement.points],
        "law error %": [_percent(law.ttft_error(point)) for point in measurement.points],
    }
    where = f"one prompt alone on an engine of {_gpus(measurement.mapping.gpus)}"
    title = f"Prefill {measurement.mapping.label}{', selected' if selected else ''}: {where}"
    return "\n".join([title, "", *_rows(columns, measurement.points), "", *_prefill_law(law)])


def _batched_part(measurement: PrefillMeasurement) -> str:
    columns: dict[str, Sequence[str]] = {
        "ISL": [_tokens(point.isl_tokens) for point in measurement.batched],
        "in flight": [f"{point.concurrency:,}" for point in measurement.batched],
        "TTFT ms": _ms([point.ttft_ms for point in measurement.batched]),
        "tokens/s/GPU": [_rate(point.throughput_per_gpu) for point in measurement.batched],
        "Little": [f"{batched_little_ratio(measurement, point):.3f}" for point in measurement.batched],
    }
    return "\n".join([f"Prefill {measurement.mapping.label}, batched: several prompts in flight", "", *_rows(columns, measurement.batched)])


def _decode_part(measurement: DecodeMeasurement, selected: bool) -> str:
    law = _law_of(measurement)
    columns: dict[str, Sequence[str]] = {
        "context": [_tokens(point.context_tokens) for point in measurement.points],
        "batch": [_batch(measurement.batch(point)) for point in measurement.points],
        "KV %": [f"{100 * point.kv_usage:.2f}" for point in measurement.points],
        "ITL ms": _ms([point.itl_ms for point in measurement.points]),
        "tokens/s/GPU": [_rate(point.throughput_per_gpu) for point in measurement.points],
        "Little": [f"{little_ratio(measurement, point):.3f}" for point in measurement.points],
        "law error %": [_percent(law.itl_error(measurement.batch(point), point)) for point in measurement.points],
    }
    where = f"an engine of {_gpus(measurement.mapping.gpus)} with room for {measurement.max_kv_tokens:,} KV tokens"
    title = f"Decode {measurement.mapping.label}{', selected' if selected else ''}: {where}"
    return "\n".join([title, "", *_rows(columns, measurement.points), "", *_decode_law(law)])


def _rows(columns: dict[str, Sequence[str]], points: Sequence[Point]) -> list[str]:
    """The table, with a column of flags and one of notes where there are any, and the notes below it."""
    notes = list(dict.fromkeys(_clean(point.note) for point in points if point.note))
    shown = dict(columns)
    if any(point.flags for point in points):
        shown["flags"] = [", ".join(point.flags) for point in points]
    if notes:
        shown["note"] = [str(notes.index(_clean(point.note)) + 1) if point.note else "" for point in points]
    lines = table(list(zip(*shown.values(), strict=True)), list(shown)).split("\n")
    if notes:
        lines += ["", *_items([(f"note {number}", note) for number, note in enumerate(notes, 1)])]
    return lines


def _prefill_law(law: _Law) -> list[str]:
    fitted = law.prefill
    if fitted is None:
        return textwrap.wrap(f"No law: {law.missing}", WIDTH)
    found = fitted.law
    terms = (
        (found.overhead_ms, "ms"),
        (found.linear_ms * 1e3, "ms per 1,000 tokens"),
        (found.quadratic_ms * 1e6, "ms per (1,000 tokens)^2"),
    )
    return [f"TTFT = {_sum(terms)}", f"{_quality(fitted.quality)}, ISL {_range(fitted.isl_range)}"]


def _decode_law(law: _Law) -> list[str]:
    fitted = law.decode
    if fitted is None:
        return textwrap.wrap(f"No law: {law.missing}", WIDTH)
    found = fitted.law
    terms = ((found.c0_ms, "ms"), (found.c1_ms, "ms per request"), (found.c2_ms * 1e3, "ms per 1,000 KV tokens"))
    return [f"ITL = {_sum(terms)}", f"{_quality(fitted.quality)}, context {_range(fitted.context_range)}"]


def _flags_part(profile: Profile) -> str:
    counts = _counts(profile)
    if not counts:
        return _UNFLAGGED
    shown = [(flag.value, f"{count:,} {_plural('point', count)}: {FLAG_RULES[flag]}") for flag, count in counts.items()]
    return "\n".join([f"{_flagged(profile):,} of {len(list(_points(profile))):,} points are flagged and left out of every fit.", *_items(shown)])


def _items(items: Sequence[tuple[str, str]]) -> list[str]:
    """Name and sentence, wrapped with the sentences below each other."""
    indent = max(len(name) for name, _ in items) + 2
    lines = []
    for name, text in items:
        lines += textwrap.wrap(text, WIDTH, initial_indent=name.ljust(indent), subsequent_indent=" " * indent)
    return lines


def _prefill_json(measurement: PrefillMeasurement) -> dict[str, Any]:
    law = _law_of(measurement)
    batched = [asdict(point) | {"little": batched_little_ratio(measurement, point)} for point in measurement.batched]
    return {
        **_mapping_json(measurement),
        "points": [asdict(point) | {"law_error": law.ttft_error(point)} for point in measurement.points],
        "batched": batched,
        "law": asdict(law.prefill.law) | asdict(law.prefill.quality) | {"isl_range": law.prefill.isl_range} if law.prefill else None,
        "no_law": law.missing,
    }


def _decode_json(measurement: DecodeMeasurement) -> dict[str, Any]:
    law = _law_of(measurement)
    points = [
        asdict(point) | {"batch": batch, "little": little_ratio(measurement, point), "law_error": law.itl_error(batch, point)}
        for point, batch in ((point, measurement.batch(point)) for point in measurement.points)
    ]
    return {
        **_mapping_json(measurement),
        "max_kv_tokens": measurement.max_kv_tokens,
        "points": points,
        "law": asdict(law.decode.law) | asdict(law.decode.quality) | {"context_range": law.decode.context_range} if law.decode else None,
        "no_law": law.missing,
    }


def _mapping_json(measurement: PrefillMeasurement | DecodeMeasurement) -> dict[str, Any]:
    return {"label": measurement.mapping.label, "gpus": measurement.mapping.gpus, "mapping": asdict(measurement.mapping)}


def _law_of(measurement: PrefillMeasurement | DecodeMeasurement) -> _Law:
    try:
        if isinstance(measurement, PrefillMeasurement):
            return _Law(prefill=FittedPrefill(measurement, measurement.mapping.gpus))
        return _Law(decode=FittedDecode(measurement, measurement.mapping.gpus))
    except ProfileError as error:
        return _Law(missing=f"{error.message}; {error.hint}")


def _points(profile: Profile) -> Iterator[Point]:
    for prefill in profile.prefill:
        yield from prefill.points
        yield from prefill.batched
    for decode in profile.decode:
        yield from decode.points


def _flagged(profile: Profile) -> int:
    return sum(bool(point.flags) for point in _points(profile))


def _counts(profile: Profile) -> dict[Flag, int]:
    found = Counter(flag for point in _points(profile) for flag in point.flags)
    return {flag: found[flag] for flag in Flag if found[flag]}


def _quality(quality: FitQuality) -> str:
    mean, most = 100 * quality.mean_relative_error, 100 * quality.max_relative_error
    return f"law error {mean:.1f} % on average, {most:.1f} % at most; fitted to {quality.points} {_plural('point', quality.points)}"


def _sum(terms: Sequence[tuple[float, str]]) -> str:
    """`16.5 ms + 15.2 ms per 1,000 tokens`; terms of nothing, or of rounding, left out."""
    least = _ROUNDING * max(value for value, _ in terms)
    return " + ".join(f"{_three(value)} {unit}" for value, unit in terms if value > least) or "0 ms"


def _three(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _range(ends: tuple[float, float]) -> str:
    return f"{_tokens(ends[0])} to {_tokens(ends[1])}"


def _tokens(value: float) -> str:
    return f"{value:,.0f}"


def _batch(value: float) -> str:
    """Requests are whole; a batch of a mean, that is not, keeps a decimal."""
    return f"{value:,.0f}" if abs(value - round(value)) < 0.05 else f"{value:,.1f}"


def _ms(values: Sequence[float]) -> list[str]:
    """A column, with no more decimals than its largest value needs."""
    decimals = 2 if max(values) < 100 else 1
    return [f"{value:,.{decimals}f}" for value in values]


def _rate(value: float) -> str:
    return f"{value:,.1f}" if value < 10 else f"{value:,.0f}"


def _percent(share: float | None) -> str:
    """Signed; empty where there is no law. Never `-0.0`."""
    return "" if share is None else f"{round(100 * share, 1) + 0.0:+.1f}"


def _gpus(count: int) -> str:
    return f"{count} {_plural('GPU', count)}"


def _of(mappings: int) -> str:
    return f" of {mappings} mappings" if mappings > 1 else ""


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"


def _clean(text: str) -> str:
    """One line of printable characters: the file may come from anyone."""
    return "".join(sign if sign.isprintable() else "?" for sign in " ".join(text.split()))
