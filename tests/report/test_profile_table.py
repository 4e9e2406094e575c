"""The tables say what the profile says, in 100 columns, and the JSON object says the same."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sla_planner.model.gates import apply_gates
from sla_planner.model.profile import (
    BatchedPrefillPoint,
    DecodeMeasurement,
    DecodePoint,
    Flag,
    ParallelMapping,
    PrefillMeasurement,
    PrefillPoint,
    Profile,
    Provenance,
)
from sla_planner.report.profile_table import WIDTH, profile_json, profile_text
from sla_planner.report.sweep_wording import FLAG_RULES
from sla_planner.store.profile_files import read_profile, sample_profile_dir

TP1, TP2 = ParallelMapping(tp=1), ParallelMapping(tp=2)
LATE = "the client was 7 ms late: another process took its CPU; give the machine to the sweep alone and measure this point again"


def prefill(mapping: ParallelMapping = TP2) -> PrefillMeasurement:
    """TTFT = 10 ms + 10 ms per 1,000 tokens on two GPUs; the third point is twice as slow as that, the last batched one lost a half of its tokens."""
    points = [PrefillPoint(isl, 10 + isl / 100, isl / (10 + isl / 100) * 1000 / 2) for isl in (1000.0, 2000.0, 4000.0)]
    reported = PrefillPoint(3000.0, 80.0, 18750.0, (Flag.REPORTED,), LATE)
    batched = (BatchedPrefillPoint(2000.0, 4, 100.0, 40000.0), BatchedPrefillPoint(2000.0, 8, 200.0, 20000.0))
    return PrefillMeasurement(mapping, (points[0], points[1], reported, points[2]), batched)


def decode(mapping: ParallelMapping = TP1) -> DecodeMeasurement:
    """ITL = 5 ms + 0.1 ms per request + 0.05 ms per 1,000 KV tokens, 100,000 of them; at batch 20 of context 4000 only 16 requests run."""
    rows = [(1, 1000), (10, 1000), (40, 1000), (1, 4000), (10, 4000)]
    points = [DecodePoint(n * context / 1e5, context, itl, n / itl * 1000) for n, context in rows for itl in [5 + 0.1 * n + 5e-5 * n * context]]
    return DecodeMeasurement(mapping, (*points, DecodePoint(0.8, 4000, 10.0, 1600.0)), 100_000)


PROFILE = apply_gates(Profile((prefill(),), (decode(),), TP2, TP1, Provenance("measured", "llama", "vllm 0.9", "H200", "", "2025-06-01T12:00:00Z")))

TEXT = """\
Profile results/chat

source      measured
model       llama
engine      vllm 0.9
GPU         H200
measured at 2025-06-01T12:00:00Z
not stated  image
prefill     TP2 selected, 2 GPUs per worker
decode      TP1 selected, 1 GPU per worker
points      12, 3 flagged

Prefill TP2, selected: one prompt alone on an engine of 2 GPUs

  ISL  TTFT ms  tokens/s/GPU  law error %  flags     note
-----  -------  ------------  -----------  --------  ----
1,000    20.00        25,000         +0.0
2,000    30.00        33,333         +0.0
3,000    80.00        18,750        -50.0  reported     1
4,000    50.00        40,000         +0.0

note 1  the client was 7 ms late: another process took its CPU; give the machine to the sweep alone
        and measure this point again

TTFT = 10 ms + 10 ms per 1,000 tokens
law error 0.0 % on average, 0.0 % at most; fitted to 3 points, ISL 1,000 to 4,000

Prefill TP2, batched: several prompts in flight

  ISL  in flight  TTFT ms  tokens/s/GPU  Little  flags
-----  ---------  -------  ------------  ------  ------
2,000          4    100.0        40,000   1.000
2,000          8    200.0        20,000   0.500  little

Decode TP1, selected: an engine of 1 GPU with room for 100,000 KV tokens

context  batch   KV %  ITL ms  tokens/s/GPU  Little  law error %  flags
-------  -----  -----  ------  ------------  ------  -----------  ------
  1,000      1   1.00    5.15           194   1.000         +0.0
  1,000     10  10.00    6.50         1,538   1.000         +0.0
  1,000     40  40.00   11.00         3,636   1.000         +0.0
  4,000      1   4.00    5.30           189   1.000         +0.0
  4,000     10  40.00    8.00         1,250   1.000         +0.0
  4,000     20  80.00   10.00         1,600   0.800        +10.0  little

ITL = 5 ms + 0.1 ms per request + 0.05 ms per 1,000 KV tokens
law error 0.0 % on average, 0.0 % at most; fitted to 5 points, context 1,000 to 4,000

3 of 12 points are flagged and left out of every fit.
little    2 points: throughput x latency / requests in flight is not within 0.95 to 1.05 (batched
          prefill: 0.9 to 1.1): below, some were waiting; above, the numbers are not of one run
reported  1 point: not trusted by whoever measured it; the note says why

law error %  what the fitted law says against what was measured; - where the law is too fast.
             Flagged points have no say in the law.
Little       requests that made progress over requests in flight; 1 when nothing waits."""


def test_a_profile_as_text() -> None:
    """Law error: the law says 40 ms where 80 were reported, and 11 ms where the queueing batch had 10."""
    assert profile_text(PROFILE, "results/chat") == TEXT


def test_the_same_as_json() -> None:
    told = json.loads(json.dumps(profile_json(PROFILE, "results/chat"), allow_nan=False))
    assert (told["place"], told["provenance"]["engine"], told["selected"]) == ("results/chat", "vllm 0.9", {"prefill": "TP2", "decode": "TP1"})
    assert (told["points"], told["flagged_points"]) == (12, 3)
    assert {flag: seen["points"] for flag, seen in told["flags"].items()} == {"little": 2, "reported": 1}
    (curve,), (surface,) = told["prefill"], told["decode"]
    assert (curve["label"], curve["gpus"], curve["mapping"]["tp"]) == ("TP2", 2, 2)
    assert [point["law_error"] for point in curve["points"]] == pytest.approx([0, 0, -0.5, 0], abs=1e-9)
    assert (curve["points"][2]["flags"], curve["points"][2]["note"]) == (["reported"], LATE)
    assert [(point["concurrency"], point["little"], point["flags"]) for point in curve["batched"]] == [(4, 1.0, []), (8, 0.5, ["little"])]
    assert (curve["law"]["overhead_ms"], curve["law"]["points"], curve["law"]["isl_range"]) == (pytest.approx(10), 3, [1000, 4000])
    last = surface["points"][-1]
    assert (last["batch"], last["little"], last["law_error"]) == pytest.approx((20, 0.8, 0.1))
    assert (surface["law"]["c1_ms"], surface["law"]["c2_ms"]) == pytest.approx((0.1, 5e-5))
    assert (surface["max_kv_tokens"], surface["no_law"]) == (100_000, "")


def test_the_shipped_profile() -> None:
    profile = read_profile(sample_profile_dir())
    lines = profile_text(profile, "sample").split("\n")
    assert "not stated  model, engine, GPU, image, measured at" in lines
    assert sum(line.endswith("  little") for line in lines) == 5
    assert "5 of 58 points are flagged and left out of every fit." in lines
    assert "    350  1,049  38.85   46.65        19,288   0.858        +19.6  little" in lines
    assert max(map(len, lines)) <= WIDTH
    assert not any("note" in line for line in lines[4:])


def test_every_mapping_has_its_tables() -> None:
    both = replace(PROFILE, prefill=(replace(prefill(TP1), batched=()), *PROFILE.prefill), decode=(*PROFILE.decode, decode(TP2)))
    lines = profile_text(both, "x").split("\n")
    titles = [line.split(":")[0] for line in lines if line.startswith(("Prefill", "Decode"))]
    assert titles == ["Prefill TP1", "Prefill TP2, selected", "Prefill TP2, batched", "Decode TP1, selected", "Decode TP2"]
    assert "prefill     TP2 selected of 2 mappings, 2 GPUs per worker" in lines


def test_a_mapping_without_a_law_is_shown_all_the_same() -> None:
    flagged = tuple(replace(point, flags=(Flag.REPORTED,)) for point in prefill().points[:2])
    few = replace(PROFILE, prefill=(replace(prefill(), points=(*flagged, prefill().points[3]), batched=()),))
    lines = profile_text(few, "x").split("\n")
    assert "1,000    20.00        25,000               reported" in lines
    assert "No law: the 1 usable of 3 points have 1 different prompt lengths, a fit needs 2; measure more prompt" in lines
    curve = profile_json(few, "x")["prefill"][0]
    assert (curve["law"], curve["points"][0]["law_error"]) == (None, None)
    assert curve["no_law"].startswith("the 1 usable of 3 points")


def test_a_clean_profile_says_so() -> None:
    clean = replace(PROFILE, prefill=(replace(prefill(), points=(*prefill().points[:2], prefill().points[3]), batched=()),))
    clean = replace(clean, decode=(replace(decode(), points=decode().points[:5]),))
    lines = profile_text(clean, "x").split("\n")
    assert "points      8, none flagged" in lines
    assert "No point is flagged." in lines
    assert not any("flags" in line for line in lines)


def test_one_note_of_many_points_is_told_once() -> None:
    measurement = prefill()
    noted = [replace(point, note=note) for point, note in zip(measurement.points, ["b", "", "a\nb", "b"], strict=True)]
    lines = profile_text(replace(PROFILE, prefill=(replace(measurement, points=tuple(noted)),)), "x").split("\n")
    assert [line for line in lines if line.startswith("note")] == ["note 1  b", "note 2  a b"]
    assert [line.split()[-1] for line in lines if line.startswith(("1,000", "2,000", "3,000", "4,000")) and "  " in line][:4:3] == ["1", "1"]


def test_nothing_in_a_file_moves_the_cursor() -> None:
    evil = replace(PROFILE, provenance=Provenance(model="\x1b[2Jllama\nsource      forged"))
    measurement = replace(prefill(), points=tuple(replace(point, note="\x1b[31mred\r") for point in prefill().points))
    text = profile_text(replace(evil, prefill=(measurement,)), "a\x07b")
    assert text.startswith("Profile a?b\n")
    assert "model       ?[2Jllama source forged" in text
    assert "note 1  ?[31mred" in text
    assert all(sign.isprintable() or sign == "\n" for sign in text)


def test_the_largest_numbers_fit_the_width() -> None:
    worst = (Flag.LITTLE, Flag.REPORTED)
    points = tuple(DecodePoint(usage, 1_048_576.0, 123_456.7, 1_234_567.0 * usage, worst, f"note {usage}") for usage in (0.5, 0.25, 1.0))
    curve = tuple(PrefillPoint(isl, 1_234_567.8, 1_234_567.0, worst, "note") for isl in (1_000_000.5, 1_048_576.0))
    batched = tuple(BatchedPrefillPoint(isl, 1024, 1_234_567.8, 1_234_567.0, worst, "note") for isl in (1_000_000.5, 1_048_576.0))
    huge = Profile(
        (PrefillMeasurement(TP1, curve, batched),),
        (DecodeMeasurement(TP1, points, 10**9),),
        TP1,
        TP1,
        Provenance("offline", image="image@" + "0" * 99),
    )
    lines = profile_text(huge, "x").split("\n")
    assert max(len(line) for line in lines if not line.startswith("image")) <= WIDTH


def test_every_flag_has_a_meaning() -> None:
    assert list(FLAG_RULES) == list(Flag)
