"""Computed profiles through the stage: no GPU, no engine; and computed ones put right by an engine that is measured."""

import json
import subprocess
import sys

import pytest

from sla_planner.model.fitted import FittedDecode
from sla_planner.model.tensor_parallel import over_tensor_parallel
from sla_planner.request.progress import read_progress
from sla_planner.store.profile_files import read_profile, sample_profile_dir, write_profile_json

pytestmark = pytest.mark.e2e

COMPUTED = ("--use-ai-configurator", "--aic-system", "h200_sxm", "--log-format", "human")
LLAMA = "meta-llama/Meta-Llama-3.1-8B"


def sweep(folder, *flags):
    command = [sys.executable, "-m", "sla_planner", "profile-sweep", *COMPUTED, "--output-dir", folder, *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def decode_of(profile, label):
    return next(FittedDecode(surface, surface.mapping.gpus) for surface in profile.decode if surface.mapping.label == label)


def test_a_dense_model_in_one_process(tmp_path):
    ended = sweep(tmp_path, "--model", "Qwen/Qwen3-32B", "--ttft", "500", "--itl", "30")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-2].startswith("Suggested prefill TP:1 (TTFT ")
    assert "as computed and not measured" in ended.stdout
    assert "TTFT computed (ms)" in ended.stdout
    profile = read_profile(tmp_path)
    assert [curve.mapping.label for curve in profile.prefill] == ["TP1", "TP2", "TP4", "TP8"]
    assert profile.provenance.source.startswith("offline: AI Configurator 0.12.")
    # AI Configurator 0.12.0, vllm 0.24.0 on h200_sxm: a step of 32 requests at context 3000 takes 26.01 ms at TP1.
    assert decode_of(profile, "TP1").itl_ms(32, 3000) == pytest.approx(26.01, rel=0.15)
    assert (tmp_path / "selected_decode_interpolation" / f"decode_tp{profile.selected_decode.gpus}.png").stat().st_size > 10_000
    assert "not measured" in (tmp_path / "report.html").read_text()


def test_a_mixture_of_experts_is_known_as_one(tmp_path):
    ended = sweep(tmp_path, "--model", "deepseek-ai/DeepSeek-V3", "--max-num-gpus", "8", "--json")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert (found["prefill"]["mapping"], found["decode"]["mapping"]) == ("TEP8", "DEP8")
    assert set(found["left_out"]) >= {"TP1", "DEP4"}


def test_its_log_tells_the_phases(tmp_path):
    ended = sweep(tmp_path, "--model", "Qwen/Qwen3-32B", "--max-num-gpus", "2", "--log-format", "json")
    phases = [progress.phase for line in ended.stderr.splitlines() if (progress := read_progress(line))]
    assert phases == ["Initializing", "SelectingConfig", "BuildingCurves", "Done"]


def test_a_promise_that_nothing_keeps_names_the_nearest(tmp_path):
    ended = sweep(tmp_path, "--model", "Qwen/Qwen3-32B", "--itl", "2")
    assert ended.returncode == 3
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("error: no mapping keeps ITL 2 ms")
    assert "--itl" in last
    assert ended.stdout.splitlines()[-1].startswith("Nearest decode TP:8")
    assert (tmp_path / "profile.json").exists()


@pytest.mark.parametrize(
    ("flags", "hint"),
    [(("--model", "Qwen/Qwen3-32b"), "Qwen/Qwen3-32B"), (("--model", "Qwen/Qwen3-32B", "--aic-backend-version", "0.1"), "0.24.0")],
)
def test_a_slip_of_the_pen_is_one_line_with_the_nearest(tmp_path, flags, hint):
    ended = sweep(tmp_path, *flags)
    assert ended.returncode == 2
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert hint in last


def test_an_engine_that_can_be_started_puts_the_computed_profile_right(tmp_path):
    """The engine is the H200 profile as measured; AI Configurator computes another version of the same model, 13 % off."""
    truth = over_tensor_parallel(read_profile(sample_profile_dir()), (1, 2))
    write_profile_json(truth, tmp_path / "truth.json")
    engine = f"{sys.executable} -m sla_planner engine-sim --mode agg --profile {tmp_path / 'truth.json'} --tp {{tp}} --port {{port}}"
    ended = sweep(
        tmp_path / "results",
        *("--aic-hf-id", LLAMA, "--engine-command", engine, "--max-num-gpus", "2", "--no-verify"),
        *("--isl", "500", "--osl", "50", "--ttft", "200", "--itl", "8", "--max-context-length", "2048"),
    )
    assert ended.returncode == 0, ended.stderr
    assert "as computed and corrected by measured points" in ended.stdout
    profile = read_profile(tmp_path / "results")
    assert "calibrated with" in profile.provenance.source
    assert {surface.mapping.label for surface in profile.decode} == {"TP1", "TP2"}
    measured = {path.name.partition("-")[0].upper() for path in (tmp_path / "results" / "points").glob("tp*.json")}
    assert {profile.selected_prefill.label, profile.selected_decode.label} <= measured  # also where the correction moved the pick
    for label in ("TP1", "TP2"):
        for batch, context in ((1, 500), (16, 500), (32, 1200)):
            true_ms = decode_of(truth, label).itl_ms(batch, context)
            assert decode_of(profile, label).itl_ms(batch, context) == pytest.approx(true_ms, rel=0.1)


def test_what_cannot_be_started_is_not_picked(tmp_path):
    """The engine knows one GPU alone; AI Configurator would pick more for a step this short."""
    engine = f"{sys.executable} -m sla_planner engine-sim --mode agg --tp {{tp}} --port {{port}}"
    ended = sweep(
        tmp_path / "results",
        *("--aic-hf-id", LLAMA, "--engine-command", engine, "--max-num-gpus", "2", "--no-verify", "--json"),
        *("--isl", "500", "--osl", "50", "--ttft", "200", "--itl", "4.6", "--max-context-length", "2048"),
    )
    assert ended.returncode in (0, 3), ended.stderr  # TP1 comes within a percent of the promise
    assert "--max-num-gpus" not in ended.stderr.splitlines()[-1]  # allowing more would not help
    found = json.loads(ended.stdout)
    assert (found["prefill"]["mapping"], found["decode"]["mapping"]) == ("TP1", "TP1")
    assert "no TP2" in found["left_out"]["TP2"]
