"""From numbers to a profile, or a ProfileError that names the key and the value. No plan is ever made from garbage.

Every column must be one-dimensional, finite, positive and as long as its sisters. Because a wrong unit passes all of that, both roles are then
held against what ties their columns together (Dynamo's own formulas):

    prefill   throughput_per_gpu = isl / ttft_ms * 1000 / gpus          decode   throughput_per_gpu = batch / itl_ms * 1000 / gpus

so the share  throughput_per_gpu * latency_ms / (1000 * tokens in work)  is 1/gpus, or less where requests queued. A thousandth of that is a
latency in seconds, a thousand times it a latency in microseconds. Arrays that do not name their mapping tell their GPU count the same way.
Batched prefill points have `concurrency * isl` tokens in work; otherwise they are held against the same.

KV capacity must hold the longest context and the longest prompt measured, and every decode point at least one request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sla_planner.errors import ProfileError
from sla_planner.model.profile import (
    BatchedPrefillPoint,
    DecodeMeasurement,
    DecodePoint,
    ParallelMapping,
    PrefillMeasurement,
    PrefillPoint,
    Profile,
    Provenance,
)

PREFILL_KEYS = ("prefill_isl", "prefill_ttft", "prefill_thpt_per_gpu")
DECODE_KEYS = ("x_kv_usage", "y_context_length", "z_itl", "z_thpt_per_gpu")
MAX_KV_KEY = "max_kv_tokens"
_POINT_KEYS = ("isl_tokens", "ttft_ms", "throughput_per_gpu"), ("kv_usage", "context_tokens", "itl_ms", "throughput_per_gpu")
_BATCHED_KEYS = ("isl_tokens", "ttft_ms", "throughput_per_gpu", "concurrency")

MOST_POINTS = 2000  # of one curve or surface; a sweep measures tens
_SMALLEST, _LARGEST = 1e-6, 1e12  # outside, a value is corrupt whatever its unit
_IN_SECONDS, _IN_MICROSECONDS = 0.003, 30.0  # the share of every engine of up to _MOST_GPUS lies between
_LEAST_BATCH = 0.5  # one request, less rounding
_MOST_GPUS = 300  # of one engine
_GPU_COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64, 128, 256)  # far enough apart to be told by a share
_SAME_GPUS = 0.05  # a share this near 1/n means n GPUs

Floats = NDArray[np.float64]


def profile_from_arrays(prefill: Mapping[str, Any], decode: Mapping[str, Any], provenance: Provenance) -> Profile:
    """A profile of one mapping per role from arrays under Dynamo's keys: PREFILL_KEYS, and DECODE_KEYS with MAX_KV_KEY.

    The mapping is tensor parallelism over as many GPUs as the columns imply (1 where they do not say). Errors as `checked`.
    """
    prefill_columns = [_column(prefill, key) for key in PREFILL_KEYS]
    decode_columns = [_column(decode, key) for key in DECODE_KEYS]
    max_kv_tokens = _max_kv_tokens(decode)
    _check_prefill(prefill_columns, PREFILL_KEYS)
    _check_decode(decode_columns, DECODE_KEYS, max_kv_tokens, MAX_KV_KEY)
    prefill_mapping = ParallelMapping(tp=_implied_gpus(_prefill_share(prefill_columns)))
    decode_mapping = ParallelMapping(tp=_implied_gpus(_decode_share(decode_columns, max_kv_tokens)))
    points = tuple(PrefillPoint(*row) for row in np.column_stack(prefill_columns).tolist())
    surface = tuple(DecodePoint(*row) for row in np.column_stack(decode_columns).tolist())
    return checked(
        Profile(
            (PrefillMeasurement(prefill_mapping, points),),
            (DecodeMeasurement(decode_mapping, surface, max_kv_tokens),),
            prefill_mapping,
            decode_mapping,
            provenance,
        )
    )


def checked(profile: Profile) -> Profile:
    """`profile` with points in order and exact duplicates dropped. Raises ProfileError naming the role, the mapping, the key and the value."""
    _check_mappings("prefill", profile.selected_prefill, [measurement.mapping for measurement in profile.prefill])
    _check_mappings("decode", profile.selected_decode, [measurement.mapping for measurement in profile.decode])
    prefill = tuple(_checked_prefill(measurement) for measurement in profile.prefill)
    decode = tuple(_checked_decode(measurement) for measurement in profile.decode)
    result = replace(profile, prefill=prefill, decode=decode)
    longest, capacity = result.picked_prefill.points[-1].isl_tokens, result.picked_decode.max_kv_tokens
    if capacity < longest:
        raise ProfileError(
            f"a KV capacity of {capacity} tokens cannot hold one prompt of {longest:.0f} tokens, which prefill was measured with",
            key=MAX_KV_KEY,
            hint="the KV size was probably misread from the engine's log: correct it or profile again",
        )
    return result


def _check_mappings(role: str, selected: ParallelMapping, measured: Sequence[ParallelMapping]) -> None:
    for mapping in measured:
        if min(mapping.tp, mapping.pp, mapping.dp, mapping.ep) < 1 or mapping.gpus > _MOST_GPUS:
            raise ProfileError(f"{mapping.label} is no parallel mapping", key=role, hint=f"1 to {_MOST_GPUS} GPUs, no dimension below 1")
    if len(set(measured)) < len(measured):
        raise ProfileError("a mapping is listed twice", key=role, hint="merge its points into one measurement")
    if selected not in measured:
        raise ProfileError(f"{selected.label} is selected but not measured", key=role, hint="select one of the mappings in the file")


def _checked_prefill(measurement: PrefillMeasurement) -> PrefillMeasurement:
    place = f"prefill {measurement.mapping.label} "
    keys = [place + key for key in _POINT_KEYS[0]]
    columns = [_floats([getattr(point, key) for point in measurement.points], place + key) for key in _POINT_KEYS[0]]
    _check_prefill(columns, keys)
    points = sorted(dict.fromkeys(measurement.points), key=lambda point: point.isl_tokens)
    for left, right in pairwise(points):
        if left.isl_tokens == right.isl_tokens:
            raise _contradiction(keys[0], f"{left.isl_tokens:g} tokens", left.ttft_ms, right.ttft_ms)
    return replace(measurement, points=tuple(points), batched=_checked_batched(measurement.batched, place + "batched "))


def _checked_batched(batched: Sequence[BatchedPrefillPoint], place: str) -> tuple[BatchedPrefillPoint, ...]:
    """By prompt length, then concurrency. There may be none."""
    if not batched:
        return ()
    keys = [place + key for key in _BATCHED_KEYS]
    columns = [_floats([getattr(point, key) for point in batched], place + key) for key in _BATCHED_KEYS]
    _check_columns(columns, keys)
    isl, ttft_ms, throughput, concurrency = columns
    if concurrency.min() < 1:
        raise ProfileError(
            f"{concurrency.min():g} prompts at once at position {int(concurrency.argmin())}", key=keys[3], hint="at least one is in flight"
        )
    _check_unit(_prefill_share((isl * concurrency, ttft_ms, throughput)), keys[1], "TTFT")
    points = sorted(dict.fromkeys(batched), key=lambda point: (point.isl_tokens, point.concurrency))
    for left, right in pairwise(points):
        if (left.isl_tokens, left.concurrency) == (right.isl_tokens, right.concurrency):
            raise _contradiction(keys[0], f"{left.isl_tokens:g} tokens, {left.concurrency} at once", left.ttft_ms, right.ttft_ms)
    return tuple(points)


def _checked_decode(measurement: DecodeMeasurement) -> DecodeMeasurement:
    place = f"decode {measurement.mapping.label} "
    keys = [place + key for key in _POINT_KEYS[1]]
    columns = [_floats([getattr(point, key) for point in measurement.points], place + key) for key in _POINT_KEYS[1]]
    _check_decode(columns, keys, measurement.max_kv_tokens, place + MAX_KV_KEY)
    points = sorted(dict.fromkeys(measurement.points), key=lambda point: (point.context_tokens, point.kv_usage))
    for left, right in pairwise(points):
        if (left.context_tokens, left.kv_usage) == (right.context_tokens, right.kv_usage):
            at = f"KV usage {left.kv_usage:g}, context {left.context_tokens:g}"
            raise _contradiction(keys[0], at, left.itl_ms, right.itl_ms)
    return replace(measurement, points=tuple(points))


def _check_prefill(columns: Sequence[Floats], keys: Sequence[str]) -> None:
    _check_columns(columns, keys)
    _check_unit(_prefill_share(columns), keys[1], "TTFT")


def _check_decode(columns: Sequence[Floats], keys: Sequence[str], max_kv_tokens: int, max_kv_key: str) -> None:
    _check_columns(columns, keys)
    if not 1 <= max_kv_tokens <= _LARGEST:
        raise ProfileError(f"{str(max_kv_tokens)[:20]} is no KV capacity", key=max_kv_key, hint="give the tokens that one engine's KV cache holds")
    kv_usage, context = columns[0], columns[1]
    if kv_usage.max() > 1:
        raise ProfileError(
            f"KV usage must lie in 0..1, found {kv_usage.max():g} at position {int(kv_usage.argmax())}",
            key=keys[0],
            hint="it is a share of the KV capacity, not percent and not tokens",
        )
    if max_kv_tokens < context.max():
        raise ProfileError(
            f"a KV capacity of {max_kv_tokens} tokens cannot hold one context of {context.max():g} tokens",
            key=max_kv_key,
            hint="the KV size was probably misread from the engine's log: correct it or profile again",
        )
    batch = kv_usage * max_kv_tokens / context
    if batch.min() < _LEAST_BATCH:
        raise ProfileError(
            f"KV usage {kv_usage[batch.argmin()]:g} of {max_kv_tokens} tokens at context {context[batch.argmin()]:g} is {batch.min():.2g} requests",
            key=keys[0],
            hint=f"a decode point holds at least one request: check the KV usage and {MAX_KV_KEY}",
        )
    _check_unit(_decode_share(columns, max_kv_tokens), keys[2], "ITL")


def _check_columns(columns: Sequence[Floats], keys: Sequence[str]) -> None:
    for column, key in zip(columns, keys, strict=True):
        if len(column) != len(columns[0]):
            raise ProfileError(f"{len(column)} values, but {keys[0]} has {len(columns[0])}", key=key, hint="the file is damaged: profile again")
        if not 1 <= len(column) <= MOST_POINTS:
            raise ProfileError(f"{len(column)} values, 1 to {MOST_POINTS} are usable", key=key, hint="profile again")
        wrong = ~((column >= _SMALLEST) & (column <= _LARGEST))  # also true for NaN
        if wrong.any():
            position = int(wrong.argmax())
            raise ProfileError(f"{column[position]:g} at position {position} is no measurement", key=key, hint="values are finite and above zero")


def _check_unit(share: Floats, key: str, what: str) -> None:
    middle = float(np.median(share))
    if middle < _IN_SECONDS:
        unit = "seconds"
    elif middle > _IN_MICROSECONDS:
        unit = "microseconds"
    else:
        return
    raise ProfileError(
        f"throughput * {what} / tokens is {middle:.3g} of what the columns must give together: the {what} looks like {unit}",
        key=key,
        hint=f"{what} is in milliseconds, throughput in tokens/s/GPU",
    )


def _prefill_share(columns: Sequence[Floats]) -> Floats:
    isl, ttft_ms, throughput = columns
    return throughput * ttft_ms / (1000 * isl)


def _decode_share(columns: Sequence[Floats], max_kv_tokens: int) -> Floats:
    kv_usage, context, itl_ms, throughput = columns
    return throughput * itl_ms / (1000 * (kv_usage * max_kv_tokens / context))


def _implied_gpus(share: Floats) -> int:
    """GPUs of one engine: n where the share is 1/n. The upper quartile, because queueing only lowers it."""
    typical = float(np.quantile(share, 0.75))
    gpus = min(_GPU_COUNTS, key=lambda count: abs(typical * count - 1))
    return gpus if abs(typical * gpus - 1) <= _SAME_GPUS else 1


def _column(arrays: Mapping[str, Any], key: str) -> Floats:
    if key not in arrays:
        raise ProfileError("missing", key=key, hint=f"found {_listed(arrays)}")
    return _floats(arrays[key], key)


def _floats(values: Any, key: str) -> Floats:
    hint = "a plain list of numbers is needed: the file is damaged, profile again"
    try:
        column = np.asarray(values)
    except ValueError:
        raise ProfileError("lists of different lengths", key=key, hint=hint) from None
    if column.ndim != 1:
        raise ProfileError(f"{column.ndim} dimensions", key=key, hint=hint)
    if column.dtype.kind not in "iuf" and column.size:
        odd = next((value for value in values if not isinstance(value, int | float | np.number)), "an integer this long")
        raise ProfileError(f"{str(odd)[:40]!r} is not a number", key=key, hint=hint)
    with np.errstate(over="ignore"):  # infinite then, and refused with the others
        return column.astype(np.float64)


def _max_kv_tokens(arrays: Mapping[str, Any]) -> int:
    """One whole number, alone or as an array of one."""
    if MAX_KV_KEY not in arrays:
        raise ProfileError("missing", key=MAX_KV_KEY, hint=f"found {_listed(arrays)}")
    value = arrays[MAX_KV_KEY]
    values = _floats(value if isinstance(value, list) else np.atleast_1d(value), MAX_KV_KEY)
    if len(values) != 1 or not float(values[0]).is_integer():
        raise ProfileError(f"one whole number of tokens is needed, found {values[:3].tolist()}", key=MAX_KV_KEY, hint="correct it or profile again")
    return int(values[0])


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(sorted(keys)) or "no keys"


def _contradiction(key: str, at: str, first_ms: float, second_ms: float) -> ProfileError:
    return ProfileError(f"two different measurements at {at}: {first_ms:g} and {second_ms:g} ms", key=key, hint="keep one of them")
