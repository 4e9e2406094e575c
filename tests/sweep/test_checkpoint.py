"""Keys of what was measured: everything that determines a result changes the key, nothing else does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sla_planner.engines.backends import backend
from sla_planner.engines.process import ProcessLauncher
from sla_planner.model.profile import ParallelMapping
from sla_planner.sweep import checkpoint
from sla_planner.sweep.checkpoint import facts_key, point_key
from sla_planner.sweep.points import DecodeShape, PrefillShape
from sla_planner.sweep.port import Deployment, EngineIdentity, Phase
from sla_planner.traffic.prompt_form import PromptForm

ENGINE = EngineIdentity("vllm", "llama", "vllm serve llama --tensor-parallel-size 2 --port {port}", image="vllm/vllm-openai:v0.32")
TP2 = Deployment(ParallelMapping(tp=2))
SHAPE = DecodeShape(3000, 48)


def test_the_same_engine_and_shape_are_found_again():
    again = EngineIdentity(ENGINE.backend, ENGINE.model, ENGINE.source, ENGINE.image)
    assert point_key(again, Deployment(ParallelMapping(tp=2)), DecodeShape(3000, 48)) == point_key(ENGINE, TP2, SHAPE)
    assert facts_key(again, TP2) == facts_key(ENGINE, TP2)


@pytest.mark.parametrize(
    "changed",
    [
        {"backend": "sglang"},
        {"model": "qwen"},
        {"image": "vllm/vllm-openai:v0.33"},
        {"source": ENGINE.source + " --enable-chunked-prefill"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_another_engine_is_measured_anew(changed):
    other = replace(ENGINE, **changed)
    assert point_key(other, TP2, SHAPE) != point_key(ENGINE, TP2, SHAPE)
    assert facts_key(other, TP2) != facts_key(ENGINE, TP2)


def test_every_mapping_phase_and_shape_has_a_key_of_its_own():
    mappings = [ParallelMapping(tp=4), ParallelMapping(tp=2), ParallelMapping(tp=2, pp=2), ParallelMapping(dp=4, ep=4), ParallelMapping(tp=4, ep=4)]
    deployments = [Deployment(mapping, phase) for mapping in mappings for phase in Phase]
    shapes = [DecodeShape(3000, 4), DecodeShape(3000, 1), DecodeShape(4, 3000), PrefillShape(3000, 4), PrefillShape(3000), PrefillShape(3001)]
    keys = [point_key(ENGINE, deployment, shape) for deployment in deployments for shape in shapes]
    keys += [facts_key(ENGINE, deployment) for deployment in deployments]
    assert len(set(keys)) == len(deployments) * (len(shapes) + 1)


def test_a_new_way_of_measuring_finds_nothing_of_before(monkeypatch):
    before = point_key(ENGINE, TP2, SHAPE)
    monkeypatch.setattr(checkpoint, "METHOD", checkpoint.METHOD + 1)
    assert point_key(ENGINE, TP2, SHAPE) != before


def test_the_key_outlives_a_restart():
    """Neither the port nor the process is in it: it is the same number in every process."""
    assert point_key(ENGINE, TP2, SHAPE) == "0b3b481135f462dda18c8d7bbb26fadb"


def test_what_varies_from_start_to_start_is_not_part_of_a_launchers_identity(tmp_path):
    def identity(command, **options):
        return ProcessLauncher(command, backend("simulated"), **options).identity(TP2)

    command = "sla-planner engine-sim --tp {tp} --port {port}"
    here = identity(command)
    assert identity(command, log_dir=tmp_path, ready_limit_s=1.0, gpus_per_node=4) == here
    assert identity(command + " --seed 1") != here
    assert "--tp 2" in here.source
    assert "{port}" in here.source


def test_another_form_of_prompts_is_another_key():
    keys = {point_key(ENGINE, TP2, SHAPE, form) for form in (None, *PromptForm)} | {facts_key(ENGINE, TP2, form) for form in (None, *PromptForm)}
    assert len(keys) == 8
