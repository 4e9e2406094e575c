"""Offline profiles by the real library: its own published numbers in our terms, every refusal as one line, nothing else on the terminal.

The numbers were taken from aiconfigurator-core 0.12.0 by other means than our code (its own static run), h200_sxm, vllm 0.24.0.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sla_planner.engines.ai_configurator import OfflineProfile, OfflineRequest, offline_profile
from sla_planner.engines.ai_configurator_library import load
from sla_planner.engines.ai_configurator_systems import SYSTEMS
from sla_planner.errors import UsageError
from sla_planner.model.calibrated import calibrated
from sla_planner.model.engine import engine_of
from sla_planner.model.gates import apply_gates, little_ratio
from sla_planner.model.profile import ParallelMapping, Profile
from sla_planner.model.validation import checked
from sla_planner.store.profile_files import read_profile, sample_profile_dir

TP1, TP2, TP4, TP8 = DENSE = tuple(ParallelMapping(tp=tp) for tp in (1, 2, 4, 8))
TEP8, DEP8 = ParallelMapping(tp=8, ep=8), ParallelMapping(dp=8, ep=8)
QWEN = OfflineRequest("Qwen/Qwen3-32B", "h200_sxm", "vllm", DENSE, DENSE)
DEEPSEEK = OfflineRequest("deepseek-ai/DeepSeek-V3", "h200_sxm", "vllm", (TEP8, DEP8), (TEP8, DEP8), isl_tokens=(2048,), context_tokens=(3000,))

TTFT_MS = {TP1: (23.30, 196.25), TP2: (15.11, 107.82), TP4: (10.95, 67.47), TP8: (9.03, 45.21)}  # at ISL 100, 2109
BATCHES = (1, 4, 8, 16, 32, 64, 128, 256)
ITL_MS = {TP1: (18.41, 20.31, 20.64, 23.28, 26.01, 32.42, 44.62, 74.94), TP4: (7.07, 7.16, 7.31, 8.05, 9.34, 11.07, 14.82, 23.86)}
KV_TOKENS = {TP1: 249_864, TP2: 751_550, TP4: 1_755_323, TP8: 3_760_597}


@pytest.fixture(scope="module")
def qwen() -> OfflineProfile:
    return offline_profile(replace(QWEN, isl_tokens=(2109, 100), context_tokens=(3000, 20_000), batches=BATCHES))


def refused(request: OfflineRequest) -> str:
    with pytest.raises(UsageError) as error:
        offline_profile(request)
    assert "\n" not in str(error.value)
    return str(error.value)


class TestDense:
    def test_ttft_of_every_mapping(self, qwen: OfflineProfile) -> None:
        found = {m.mapping: tuple(point.ttft_ms for point in m.points) for m in qwen.profile.prefill}
        assert found.keys() == TTFT_MS.keys()
        for mapping, expected in TTFT_MS.items():
            assert found[mapping] == pytest.approx(expected, rel=0.01)

    def test_prefill_throughput_is_of_one_prompt_over_all_gpus(self, qwen: OfflineProfile) -> None:
        tp4 = qwen.profile.prefill[2].points[1]
        assert tp4.isl_tokens == 2109
        assert tp4.throughput_per_gpu == pytest.approx(2109 / 0.06747 / 4, rel=0.01)

    def test_decode_at_context_3000(self, qwen: OfflineProfile) -> None:
        for measurement in qwen.profile.decode:
            if measurement.mapping in ITL_MS:
                fit = [batch for batch in BATCHES if batch * 3000 <= measurement.max_kv_tokens]
                row = {round(measurement.batch(point)): point.itl_ms for point in measurement.points if point.context_tokens == 3000}
                assert list(row) == fit
                assert list(row.values()) == pytest.approx(ITL_MS[measurement.mapping][: len(fit)], rel=0.01)
        tp8 = qwen.profile.decode[3].points
        assert (tp8[0].itl_ms, tp8[7].itl_ms) == pytest.approx((5.11, 14.52), rel=0.01)

    def test_kv_capacity_and_nothing_beyond_it(self, qwen: OfflineProfile) -> None:
        assert {m.mapping: m.max_kv_tokens for m in qwen.profile.decode} == pytest.approx(KV_TOKENS, rel=0.01)
        assert max(point.kv_usage for m in qwen.profile.decode for point in m.points) <= 1
        at_20k = [round(qwen.profile.decode[0].batch(point)) for point in qwen.profile.decode[0].points if point.context_tokens == 20_000]
        assert at_20k == [1, 4, 8]  # 16 would be 320 000 tokens of 249 864

    def test_every_point_obeys_littles_law_and_the_profile_is_valid(self, qwen: OfflineProfile) -> None:
        assert checked(qwen.profile) == qwen.profile
        for measurement in qwen.profile.decode:
            assert [little_ratio(measurement, point) for point in measurement.points] == pytest.approx([1] * len(measurement.points))

    def test_says_where_it_comes_from(self, qwen: OfflineProfile) -> None:
        provenance = qwen.profile.provenance
        assert provenance.source == "offline: AI Configurator 0.12.0, vllm 0.24.0, h200_sxm"
        assert (provenance.model, provenance.engine, provenance.gpu) == ("Qwen/Qwen3-32B", "vllm 0.24.0", "h200_sxm")
        assert not qwen.left_out
        assert not qwen.notes

    def test_a_grid_of_its_own_reaches_every_edge_and_can_be_fitted(self) -> None:
        profile = offline_profile(replace(QWEN, prefill=(TP2,), decode=(TP2,))).profile
        isl = [point.isl_tokens for point in profile.prefill[0].points]
        assert (len(isl), isl[0], isl[-1]) == (16, 128, 40_960)  # the model's longest context
        surface = profile.decode[0]
        for context in {point.context_tokens for point in surface.points}:
            batches = [surface.batch(point) for point in surface.points if point.context_tokens == context]
            most = min(surface.max_kv_tokens // context, 1024)
            assert (round(batches[0]), round(batches[-1])) == (1, most)
        engine = engine_of(profile)
        assert engine.prefill.ttft_ms(2109) == pytest.approx(107.82, rel=0.03)
        assert engine.decode.itl_ms(64, 3000) == pytest.approx(17.82, rel=0.15)

    def test_a_version_may_be_named(self) -> None:
        named = offline_profile(replace(QWEN, backend_version="0.24.0", prefill=(TP4,), decode=(TP4,), isl_tokens=(100,), context_tokens=(3000,)))
        assert named.profile.prefill[0].points[0].ttft_ms == pytest.approx(10.95, rel=0.01)

    def test_a_model_from_its_config_alone(self, tmp_path: Path) -> None:
        """A dense model of Qwen3-32B's shape under another name: the same times."""
        package = Path(importlib.import_module("aiconfigurator_core").__file__ or "").parent
        config = json.loads((package / "model_configs" / "Qwen--Qwen3-32B_config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config))
        profile = offline_profile(
            replace(QWEN, model=str(tmp_path), prefill=(TP1,), decode=(TP1,), isl_tokens=(100,), context_tokens=(3000,))
        ).profile
        assert profile.prefill[0].points[0].ttft_ms == pytest.approx(23.30, rel=0.01)


class TestMixtureOfExperts:
    def test_attention_over_all_gpus_and_copied(self) -> None:
        result = offline_profile(replace(DEEPSEEK, batches=(1, 8, 12, 256)))
        tep, dep = result.profile.prefill
        assert (tep.points[0].ttft_ms, dep.points[0].ttft_ms) == pytest.approx((139, 613), rel=0.01)
        assert tep.points[0].throughput_per_gpu == pytest.approx(2048 / 0.139 / 8, rel=0.01)
        assert dep.points[0].throughput_per_gpu == pytest.approx(8 * 2048 / 0.613 / 8, rel=0.01)  # one prompt on each of eight ranks
        assert [m.max_kv_tokens for m in result.profile.decode] == pytest.approx([1_127_011, 8 * 630_721], rel=0.01)
        tep_decode, dep_decode = result.profile.decode
        assert [round(tep_decode.batch(point)) for point in tep_decode.points] == [1, 8, 12, 256]
        # 1 and 8 requests are one per rank, 12 are two on the fullest, 256 are 32
        assert [round(dep_decode.batch(point)) for point in dep_decode.points] == [8, 16, 256]
        assert [point.itl_ms for point in dep_decode.points] == pytest.approx([22.07, 25.68, 42.94], rel=0.01)
        assert dep_decode.points[2].throughput_per_gpu == pytest.approx(32 / 0.04294, rel=0.01)

    def test_missing_tables_are_made_up_for_by_bfloat16_and_said(self) -> None:
        result = offline_profile(replace(DEEPSEEK, backend="sglang"))
        assert [m.points[0].ttft_ms for m in result.profile.prefill] == pytest.approx([117, 591], rel=0.01)
        assert (
            result.profile.provenance.source
            == "offline: AI Configurator 0.12.0, sglang 0.5.14, h200_sxm, KV cache in bfloat16, attention in bfloat16"
        )
        assert any("bfloat16" in note for note in result.notes)
        # 70 272 bytes a token in bfloat16, 35 136 in the model's own FP8: the capacity is that of the types that were timed
        assert result.profile.decode[0].max_kv_tokens == pytest.approx(543_534, rel=0.01)

    def test_what_does_not_fit_is_left_out_with_the_reason(self) -> None:
        result = offline_profile(replace(DEEPSEEK, prefill=(ParallelMapping(tp=4, ep=4), TEP8)))
        assert [m.mapping for m in result.profile.prefill] == [TEP8]
        (label, reason), *rest = result.left_out
        assert label == "TEP4"
        assert "185 GB" in reason  # of weights, on a GPU of 151 GB
        assert not rest


class TestKvCacheType:
    """A checkpoint in FP8 makes the library assume a KV cache in FP8; engines keep it in bfloat16 unless they are told."""

    def test_the_assumption_is_noted_and_can_be_set(self) -> None:
        fp8 = replace(QWEN, model="Qwen/Qwen3-32B-FP8", prefill=(TP8,), decode=(TP8,), isl_tokens=(100,), context_tokens=(3000,))
        assumed, said = offline_profile(fp8), offline_profile(replace(fp8, kv_cache_type="bfloat16"))
        assert any(note.startswith("KV cache of 8 bits a value") for note in assumed.notes)
        assert not said.notes
        assert said.profile.decode[0].max_kv_tokens == pytest.approx(assumed.profile.decode[0].max_kv_tokens / 2, rel=0.001)
        assert said.profile.provenance.source.endswith("h200_sxm, KV cache in bfloat16, attention in bfloat16")

    def test_a_type_that_is_none(self) -> None:
        assert refused(replace(QWEN, kv_cache_type="fp4")) == "'fp4' is no type of a KV cache; one of bfloat16, int8, fp8"


def test_against_a_real_engine_before_and_after_six_measured_points(tmp_path: Path) -> None:
    """Llama-3.1-8B in FP8 on an H200, as NVIDIA measured it: latencies come out low, KV capacity right, and six points put most of it right."""
    configs = Path(importlib.import_module("aiconfigurator_core").__file__ or "").parent / "model_configs"
    (tmp_path / "config.json").write_text((configs / "meta-llama--Meta-Llama-3.1-8B_config.json").read_text())
    (tmp_path / "hf_quant_config.json").write_text((configs / "nvidia--Llama-3.1-70B-Instruct-FP8_hf_quant_config.json").read_text())
    request = OfflineRequest(str(tmp_path), "h200_sxm", "vllm", (TP1,), (TP1,), max_context_tokens=16_384, kv_cache_type="bfloat16")
    offline, sample = offline_profile(request).profile, apply_gates(read_profile(sample_profile_dir()))
    surface, prompts = sample.picked_decode, sample.picked_prefill
    assert offline.decode[0].max_kv_tokens == pytest.approx(surface.max_kv_tokens, rel=0.02)

    corners = ((350, 1), (350, 525), (2997, 145), (8291, 1), (8291, 109), (13585, 34))
    chosen = tuple(point for point in surface.points if (round(point.context_tokens), round(surface.batch(point))) in corners)
    measured = replace(sample, prefill=(replace(prompts, points=prompts.points[::4]),), decode=(replace(surface, points=chosen),))
    rest = [point for point in surface.points if not point.flags and point not in chosen]

    def error(profile: Profile) -> float:
        decode = engine_of(profile).decode
        return sum(abs(decode.itl_ms(surface.batch(point), point.context_tokens) / point.itl_ms - 1) for point in rest) / len(rest)

    before, after = error(offline), error(calibrated(offline, measured))
    assert before > 0.12
    assert after < 0.06


class TestLeftOut:
    def test_a_mapping_that_cannot_hold_one_context(self) -> None:
        result = offline_profile(replace(QWEN, max_context_tokens=300_000, isl_tokens=(100,), context_tokens=(3000,)))
        assert [m.mapping for m in result.profile.decode] == [TP2, TP4, TP8]
        assert result.left_out == (("TP1", "its KV cache holds 249864 tokens, less than one context of 300000"),)

    def test_mappings_that_the_model_or_the_library_does_not_allow(self) -> None:
        odd = (ParallelMapping(tp=3), ParallelMapping(pp=2), ParallelMapping(dp=2), ParallelMapping(tp=2, ep=2))
        result = offline_profile(replace(QWEN, prefill=(*odd, TP4), decode=(TP4,)))
        reasons = dict(result.left_out)
        assert "64" in reasons["TP3"]
        assert "pipeline" in reasons["TP1-PP2"]
        assert "no experts" in reasons["TP1-DP2"]
        assert "no experts" in reasons["TEP2"]
        assert [m.mapping for m in result.profile.prefill] == [TP4]

    def test_batches_that_do_not_fit_leave_only_decode_out(self) -> None:
        asked = replace(QWEN, prefill=(TP1, TP2), decode=(TP1, TP2), context_tokens=(3000,), isl_tokens=(100,), batches=(128,))
        result = offline_profile(asked)
        assert result.left_out == (("TP1 decode", "none of the batches asked for fits its KV cache"),)
        assert [m.mapping for m in result.profile.prefill] == [TP1, TP2]

    def test_few_heads_per_gpu_are_noted(self) -> None:
        result = offline_profile(replace(QWEN, model="Qwen/Qwen3-0.6B", prefill=(TP4, TP8), decode=(TP4,)))
        assert len(result.notes) == 1
        assert result.notes[0].startswith("TP8: 2 attention heads per GPU")


class TestRefused:
    def test_a_typo_names_the_nearest(self) -> None:
        assert "'Qwen/Qwen3-23B'" in (message := refused(replace(QWEN, model="Qwen/Qwen3-23B")))
        assert "did you mean Qwen/Qwen3-32B" in message
        assert "'h200'; did you mean h200_sxm?" in refused(replace(QWEN, system="h200"))
        assert "'vlm'; did you mean vllm?" in refused(replace(QWEN, backend="vlm"))
        assert "vllm 0.23.0 for h200_sxm; it has 0.24.0" in refused(replace(QWEN, backend_version="0.23.0"))

    def test_a_gpu_without_tables(self) -> None:
        assert "a100_sxm" in refused(replace(QWEN, system="l4"))
        assert refused(replace(QWEN, system="b60", backend="sglang")).endswith("it has vllm")

    def test_a_folder_that_is_no_model(self, tmp_path: Path) -> None:
        assert "config.json not found" in refused(replace(QWEN, model=str(tmp_path)))
        (tmp_path / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}')
        assert str(tmp_path) in refused(replace(QWEN, model=str(tmp_path)))
        (tmp_path / "config.json").write_text("{")
        assert "cannot model" in refused(replace(QWEN, model=str(tmp_path), system="h100_sxm"))

    def test_nothing_left(self) -> None:
        assert "64 should be divisible by tp_size 3" in refused(replace(QWEN, prefill=(ParallelMapping(tp=3),)))
        assert "less than one context of 5000000" in refused(replace(QWEN, max_context_tokens=5_000_000))
        assert "fp4" in refused(replace(DEEPSEEK, model="nvidia/Qwen3-235B-A22B-NVFP4")).lower()
        assert "none was asked for" in refused(replace(QWEN, decode=()))

    @pytest.mark.parametrize(
        ("wrong", "named"),
        [
            ({"memory_fraction": 90.0}, "90"),
            ({"memory_fraction": float("nan")}, "nan"),
            ({"isl_tokens": (0,)}, "prompt length of 0"),
            ({"context_tokens": (50_000,)}, "context of 50000"),
            ({"batches": (4, 0)}, "batch of 0"),
            ({"max_context_tokens": -1}, "-1"),
        ],
    )
    def test_values_that_cannot_be(self, wrong: dict[str, object], named: str) -> None:
        assert named in refused(replace(QWEN, **wrong))  # type: ignore[arg-type]

    def test_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for package in ("aisimulate_core", "aiconfigurator_core"):
            monkeypatch.setitem(sys.modules, package, None)
        assert 'pip install "aiconfigurator-core==0.12.*"' in refused(QWEN)


def test_the_successor_is_taken_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same modules under the successor's name."""
    offline_profile(replace(QWEN, prefill=(TP4,), decode=(TP4,)))
    for name, module in list(sys.modules.items()):
        if name == "aiconfigurator_core" or name.startswith("aiconfigurator_core."):
            monkeypatch.setitem(sys.modules, name.replace("aiconfigurator_core", "aisimulate_core"), module)
    result = offline_profile(replace(QWEN, prefill=(TP4,), decode=(TP4,)))
    assert result.profile.provenance.source == "offline: AI Simulate, vllm 0.24.0, h200_sxm"


def test_the_terminal_stays_clean() -> None:
    """A process of its own: the library is imported, loads tables that it warns about (twice, for want of FP8), and does not know a model."""
    code = """
from sla_planner.engines.ai_configurator import OfflineRequest, offline_profile
from sla_planner.errors import UsageError
from sla_planner.model.profile import ParallelMapping
tep8 = (ParallelMapping(tp=8, ep=8),)
result = offline_profile(OfflineRequest("deepseek-ai/DeepSeek-V3", "h200_sxm", "trtllm", tep8, tep8, isl_tokens=(2048,)))
print(round(result.profile.prefill[0].points[0].ttft_ms), len(result.notes))
try:
    offline_profile(OfflineRequest("nobody/nothing", "h200_sxm", "trtllm", tep8, tep8))
except UsageError:
    print("one line")
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "97 1\none line\n", "")


def test_the_systems_that_are_listed_are_those_with_tables():
    library = load()
    database = library.database
    named = {path.stem for folder in database.get_systems_paths() for path in Path(folder).glob("*.yaml")}
    with_tables = {name for name in named if any(database.get_version_slots(name, backend) for backend in ("vllm", "sglang", "trtllm"))}
    assert with_tables == SYSTEMS
