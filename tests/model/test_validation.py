"""Every way a profile can be wrong ends in one ProfileError that names the key and the value; whatever is let through gives a usable engine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from sla_planner.errors import ProfileError
from sla_planner.model.engine import engine_of
from sla_planner.model.gates import apply_gates
from sla_planner.model.profile import BatchedPrefillPoint, DecodePoint, Flag, ParallelMapping, PrefillPoint, Profile, Provenance
from sla_planner.model.validation import MOST_POINTS, checked, profile_from_arrays

Columns = dict[str, Any]


def prefill() -> Columns:
    """TTFT = 10 + isl/100 ms on one GPU."""
    return {"prefill_isl": [500, 1000, 2000], "prefill_ttft": [15.0, 20.0, 30.0], "prefill_thpt_per_gpu": [33333.3, 50000.0, 66666.7]}


def decode() -> Columns:
    """Batches 1, 10, 40 at context 1000 and 1, 10, 20 at context 4000, on one GPU."""
    return {
        "x_kv_usage": [0.01, 0.1, 0.4, 0.04, 0.4, 0.8],
        "y_context_length": [1000.0] * 3 + [4000.0] * 3,
        "z_itl": [5.0, 8.0, 16.0, 5.5, 10.0, 16.0],
        "z_thpt_per_gpu": [200.0, 1250.0, 2500.0, 181.8, 1000.0, 1250.0],
        "max_kv_tokens": [100000],
    }


def read(change: Callable[[Columns, Columns], object] = lambda _prefill, _decode: None) -> Profile:
    columns = prefill(), decode()
    change(*columns)
    return profile_from_arrays(*columns, Provenance())


def put(key: str, value: Any) -> Callable[[Columns, Columns], object]:
    return lambda prefill, decode: (prefill if key in prefill else decode).update({key: value})


def scaled(key: str, factor: float) -> Callable[[Columns, Columns], object]:
    return lambda prefill, decode: put(key, [factor * value for value in {**prefill, **decode}[key]])(prefill, decode)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, d: p.pop("prefill_ttft"), "prefill_ttft: missing; found prefill_isl, prefill_thpt_per_gpu"),
        (lambda p, d: d.clear(), "x_kv_usage: missing; found no keys"),
        (lambda p, d: d.pop("max_kv_tokens"), "max_kv_tokens: missing"),
        (put("prefill_ttft", [15.0, 20.0]), "prefill_ttft: 2 values, but prefill_isl has 3"),
        (lambda p, d: p.update({key: [] for key in p}), f"prefill_isl: 0 values, 1 to {MOST_POINTS} are usable"),
        (lambda p, d: p.update(dict.fromkeys(p, [1.0] * (MOST_POINTS + 1))), f"{MOST_POINTS + 1} values"),
        (put("prefill_ttft", [15.0, math.nan, 30.0]), "prefill_ttft: nan at position 1 is no measurement"),
        (put("z_itl", [5.0, 8.0, math.inf, 5.5, 10.0, 16.0]), "z_itl: inf at position 2 is no measurement"),
        (put("z_thpt_per_gpu", [200.0, 1250.0, 2500.0, 181.8, -1000.0, 1250.0]), "z_thpt_per_gpu: -1000 at position 4"),
        (put("prefill_isl", [0, 1000, 2000]), "prefill_isl: 0 at position 0 is no measurement"),
        (put("prefill_isl", [[500, 1000], [2000, 3000]]), "prefill_isl: 2 dimensions"),
        (put("prefill_isl", [[500], [1000, 2000]]), "prefill_isl: lists of different lengths"),
        (put("prefill_isl", ["500", "1000", "2000"]), "prefill_isl: '500' is not a number"),
        (put("prefill_isl", [500, None, 2000]), "prefill_isl: 'None' is not a number"),
        (put("prefill_isl", 500), "prefill_isl: 0 dimensions"),
        (put("prefill_isl", [500, 10**400, 2000]), "'an integer this long' is not a number"),
        (put("prefill_isl", [500, 500, 2000]), "prefill TP1 isl_tokens: two different measurements at 500 tokens: 15 and 20 ms; keep one"),
        (put("x_kv_usage", [0.01, 0.01, 0.4, 0.04, 0.4, 0.8]), "two different measurements at KV usage 0.01, context 1000: 5 and 8 ms"),
        (put("x_kv_usage", [0.01, 0.1, 0.4, 0.04, 0.4, 1.2]), "x_kv_usage: KV usage must lie in 0..1, found 1.2 at position 5"),
        (scaled("x_kv_usage", 100), "x_kv_usage: KV usage must lie in 0..1, found 80 at position 5; .*not percent"),
        (scaled("prefill_ttft", 0.001), "prefill_ttft: .*the TTFT looks like seconds; TTFT is in milliseconds"),
        (scaled("prefill_ttft", 1000), "prefill_ttft: .*the TTFT looks like microseconds"),
        (scaled("z_itl", 0.001), "z_itl: .*the ITL looks like seconds"),
        (scaled("z_itl", 1000), "z_itl: .*the ITL looks like microseconds"),
        (put("max_kv_tokens", [3999]), "max_kv_tokens: a KV capacity of 3999 tokens cannot hold one context of 4000 tokens"),
        (put("max_kv_tokens", [10000]), "x_kv_usage: KV usage 0.01 of 10000 tokens at context 1000 is 0.1 requests"),
        (put("max_kv_tokens", []), "max_kv_tokens: one whole number of tokens is needed, found []"),
        (put("max_kv_tokens", [0]), "max_kv_tokens: 0 is no KV capacity"),
        (put("max_kv_tokens", [1.5]), r"found \[1.5\]"),
        (put("max_kv_tokens", [math.nan]), "one whole number"),
        (put("max_kv_tokens", [1, 2]), "one whole number"),
        (put("max_kv_tokens", "many"), "max_kv_tokens: 'many' is not a number"),
        (put("max_kv_tokens", {}), "max_kv_tokens: '{}' is not a number"),
    ],
)
def test_what_is_wrong_is_named(change: Callable[[Columns, Columns], object], message: str) -> None:
    with pytest.raises(ProfileError, match=message.replace("[]", r"\[\]")) as caught:
        read(change)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_a_misread_kv_size_that_only_prefill_gives_away() -> None:
    """A published profile has 8224 KV tokens for an engine that took prompts of 16 k: its decode points fit, its prompts do not."""
    curve = {"prefill_isl": [500, 1000, 16000], "prefill_ttft": [15.0, 20.0, 170.0], "prefill_thpt_per_gpu": [33333.3, 50000.0, 94117.6]}
    surface = {
        "x_kv_usage": [350 / 8224, 7 * 350 / 8224],
        "y_context_length": [350.0, 350.0],
        "z_itl": [5.0, 7.0],
        "z_thpt_per_gpu": [200.0, 1000.0],
        "max_kv_tokens": [8224],
    }
    with pytest.raises(ProfileError, match="max_kv_tokens: a KV capacity of 8224 tokens cannot hold one prompt of 16000 tokens"):
        profile_from_arrays(curve, surface, Provenance())


def test_order_and_exact_duplicates_do_not_matter() -> None:
    shuffled = read(
        lambda p, d: (
            p.update({key: [values[2], values[0], values[1], values[0]] for key, values in p.items()}),
            d.update({key: values[::-1] + values[:1] for key, values in d.items() if key != "max_kv_tokens"}),
        )
    )
    assert shuffled == read()
    assert [point.isl_tokens for point in shuffled.picked_prefill.points] == [500, 1000, 2000]


@pytest.mark.parametrize("capacity", [100000, [100000], np.array([100000]), np.array(100000), 100000.0])
def test_kv_capacity_alone_or_as_an_array_of_one(capacity: Any) -> None:
    assert read(put("max_kv_tokens", capacity)).picked_decode.max_kv_tokens == 100000


def test_gpus_follow_from_the_numbers() -> None:
    """TP4: throughput per GPU is a quarter. Where the share fits no number of GPUs, one is assumed and the gates will speak."""
    profile = read(lambda p, d: (scaled("prefill_thpt_per_gpu", 0.25)(p, d), scaled("z_thpt_per_gpu", 0.24)(p, d)))
    assert (profile.selected_prefill.gpus, profile.selected_decode.gpus) == (4, 4)
    assert [read(scaled("z_thpt_per_gpu", share)).selected_decode.gpus for share in (0.7, 1 / 3, 0.11, 1 / 16)] == [1, 3, 1, 16]


def test_a_profile_that_contradicts_itself() -> None:
    profile = read()
    tp2 = ParallelMapping(tp=2)
    with pytest.raises(ProfileError, match="prefill: TP2 is selected but not measured"):
        checked(replace(profile, selected_prefill=tp2))
    with pytest.raises(ProfileError, match="decode: a mapping is listed twice"):
        checked(replace(profile, decode=profile.decode * 2))
    nothing = ParallelMapping(tp=0)
    with pytest.raises(ProfileError, match="decode: TP0 is no parallel mapping"):
        checked(replace(profile, decode=(replace(profile.decode[0], mapping=nothing),), selected_decode=nothing))
    with pytest.raises(ProfileError, match="prefill TP1 isl_tokens: 0 values"):
        checked(replace(profile, prefill=(replace(profile.prefill[0], points=()),)))
    with pytest.raises(ProfileError, match="decode TP1 itl_ms: nan at position 0"):
        checked(replace(profile, decode=(replace(profile.decode[0], points=(DecodePoint(0.1, 1000, math.nan, 1.0),)),)))


BATCHED = BatchedPrefillPoint(1000, 4, 50.0, 80000.0)  # 4 prompts of 1000 tokens every 50 ms


def with_batched(*points: BatchedPrefillPoint) -> Profile:
    profile = read()
    return replace(profile, prefill=(replace(profile.prefill[0], batched=points),))


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ((replace(BATCHED, ttft_ms=math.nan),), "prefill TP1 batched ttft_ms: nan at position 0 is no measurement"),
        ((BATCHED, replace(BATCHED, concurrency=8, throughput_per_gpu=0.0)), "prefill TP1 batched throughput_per_gpu: 0 at position 1"),
        ((replace(BATCHED, isl_tokens=-1000),), "prefill TP1 batched isl_tokens: -1000 at position 0"),
        ((replace(BATCHED, concurrency=0),), "prefill TP1 batched concurrency: 0 at position 0 is no measurement"),
        ((replace(BATCHED, concurrency=0.5),), "prefill TP1 batched concurrency: 0.5 prompts at once at position 0; at least one is in flight"),
        ((replace(BATCHED, concurrency=10**400),), "prefill TP1 batched concurrency: 'an integer this long' is not a number"),
        ((replace(BATCHED, ttft_ms=0.05),), "prefill TP1 batched ttft_ms: .* the TTFT looks like seconds; TTFT is in milliseconds"),
        ((BATCHED, replace(BATCHED, ttft_ms=55.0)), "prefill TP1 batched isl_tokens: two .* at 1000 tokens, 4 at once: 50 and 55 ms; keep one"),
    ],
)
def test_a_batched_point_that_is_wrong_is_named(points: tuple[BatchedPrefillPoint, ...], message: str) -> None:
    with pytest.raises(ProfileError, match=message) as caught:
        checked(with_batched(*points))
    assert caught.value.hint


def test_batched_points_in_order() -> None:
    shuffled = [replace(BATCHED, isl_tokens=isl, concurrency=n, ttft_ms=isl * n / 80) for isl, n in ((2000, 2), (1000, 16), (1000, 4), (2000, 2))]
    points = checked(with_batched(*shuffled)).prefill[0].batched
    assert [(point.isl_tokens, point.concurrency) for point in points] == [(1000, 4), (1000, 16), (2000, 2)]
    assert checked(with_batched()).prefill[0].batched == ()


def test_flags_survive() -> None:
    profile = read()
    points = tuple(replace(point, flags=(Flag.REPORTED,)) for point in profile.prefill[0].points)
    flagged = replace(profile, prefill=(replace(profile.prefill[0], points=points[::-1]),))
    assert checked(flagged).prefill[0].points == points


NUMBERS = st.one_of(st.floats(), st.floats(1e-3, 1e6), st.integers(-5, 10**20), st.sampled_from([0.5, 1.0, 1000.0]))
ARRAYS = st.one_of(
    st.lists(NUMBERS, max_size=6), st.lists(st.one_of(NUMBERS, st.none(), st.text(max_size=3)), max_size=6), NUMBERS, st.text(max_size=3)
)


@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(prefill(), ARRAYS)),
    st.fixed_dictionaries({}, optional=dict.fromkeys(decode(), ARRAYS)),
    st.booleans(),
)
@settings(deadline=None, max_examples=100)
def test_any_columns_are_refused_or_usable(strange_prefill: Columns, strange_decode: Columns, only_one: bool) -> None:
    """Some columns of a good profile are replaced by anything at all."""
    try:
        profile = profile_from_arrays({**prefill(), **strange_prefill}, {**decode(), **({} if only_one else strange_decode)}, Provenance())
        engine = engine_of(apply_gates(profile))
    except ProfileError:
        event("refused")
        return
    event("usable")
    assert_usable(profile, engine)


@st.composite
def consistent(draw: st.DrawFn) -> tuple[Columns, Columns]:
    """Columns that pass the checks and obey no law: latencies of any size, throughputs that go with them within 4 %."""
    size = draw(st.integers(2, 12))

    def powers(low: float, high: float) -> Any:
        return 10 ** np.array(draw(st.lists(st.floats(low, high), min_size=size, max_size=size)))

    digits = draw(st.integers(3, 11))
    capacity, slack = 10**digits, powers(-0.018, 0.018)
    isl, ttft_ms, context, itl_ms = powers(0, digits), powers(-5, 10), powers(0, digits - 0.01), powers(-5, 10)
    usage = np.minimum(context / capacity * powers(0, digits), 1.0)
    batch = usage * capacity / context
    return (
        {"prefill_isl": isl, "prefill_ttft": ttft_ms, "prefill_thpt_per_gpu": np.clip(slack * isl / ttft_ms * 1000, 1e-6, 1e12)},
        {
            "x_kv_usage": usage,
            "y_context_length": context,
            "z_itl": itl_ms,
            "z_thpt_per_gpu": np.clip(slack * batch / itl_ms * 1000, 1e-6, 1e12),
            "max_kv_tokens": capacity,
        },
    )


@given(consistent())
@settings(deadline=None, max_examples=80)
def test_any_consistent_columns_are_refused_or_usable(columns: tuple[Columns, Columns]) -> None:
    try:
        profile = profile_from_arrays(*columns, Provenance())
        engine = engine_of(apply_gates(profile))
    except ProfileError:
        event("refused")
        return
    event("usable")
    assert_usable(profile, engine)


def assert_usable(profile: Profile, engine: Any) -> None:
    points: list[PrefillPoint] = list(profile.picked_prefill.points)
    for isl in (1.0, points[0].isl_tokens, points[-1].isl_tokens * 2):
        assert 0 < engine.prefill.ttft_ms(isl) < math.inf
        assert 0 < engine.prefill.throughput_per_gpu(isl) < math.inf
    for context in (1.0, profile.picked_decode.points[-1].context_tokens * 2):
        best = engine.decode.best_throughput_per_gpu(20.0, context)
        assert 0 < best.throughput_per_gpu < math.inf
        assert 0 < best.itl_ms < math.inf
        assert isinstance(engine.decode.in_range(10.0, context), bool)
