"""v1beta1: its defaults, and what of it cannot be followed."""

from __future__ import annotations

import pytest
from tests.request.requests_written import BETA, beta, changed, fault, faults

from sla_planner.model.sla import Sla
from sla_planner.request.spec import EngineLimits, Method, ModelCache
from sla_planner.sweep.result import Goal


def test_a_model_is_enough():
    request = beta()
    assert (request.shape, request.model, request.backend, request.auto_apply) == ("v1beta1", "Qwen/Qwen3-32B", "vllm", True)
    assert request.goal == Goal(Sla(2000.0, 30.0), 4000, 1000)
    assert request.profiling.method is Method.OFFLINE
    assert request.profiling.discover_gpus is True
    assert (request.profiling.image, request.profiling.base) == (None, None)
    assert [note.partition(": ")[0] for note in request.notes] == ["spec.backend", "spec.features.planner"]
    assert "vllm" in request.notes[0]


def test_without_a_model():
    assert fault(changed(BETA, spec={"backend": "vllm"}), "spec.model") == "is missing: what is to be served; add model"


def test_every_key_gets_where_it_belongs():
    request = beta(
        spec__backend="sglang",
        spec__image="profiler:1",
        spec__modelCache={"pvcName": "weights", "pvcModelPath": "qwen", "pvcMountPath": "/w"},
        spec__hardware={"gpuSku": "h100_sxm", "vramMb": 81559, "totalGpus": 16, "numGpusPerNode": 8, "interconnect": "nvlink", "rdma": True},
        spec__workload={"isl": 2000, "osl": 200},
        spec__sla={"ttft": 300, "itl": 25},
        spec__searchStrategy="thorough",
        spec__autoApply=False,
        spec__features={"planner": {"min_endpoint": 2, "no_operation": True}, "kvRouter": {"enabled": False}, "mocker": {"enabled": False}},
        spec__overrides={"profilingJob": {"backoffLimit": 1}, "trustRemoteCode": True, "dgd": {"spec": {}}},
    )
    profiling, deploying = request.profiling, request.deploying
    assert (request.backend, request.auto_apply, request.goal) == ("sglang", False, Goal(Sla(300.0, 25.0), 2000, 200))
    assert (profiling.method, profiling.image, profiling.job_patch) == (Method.ONLINE, "profiler:1", {"backoffLimit": 1})
    assert profiling.limits == EngineLimits(gpus_per_node=8, total_gpus=16, gpu_type="h100_sxm", vram_mib=81559.0)
    assert deploying.model_cache == ModelCache("weights", "qwen", "/w")
    assert (deploying.planner, deploying.with_planner) == ({"min_endpoint": 2, "no_operation": True}, True)
    assert (deploying.trust_remote_code, deploying.graph_patch) == (True, {"spec": {}})
    assert [note.partition(": ")[0] for note in request.notes] == ["spec.hardware.interconnect", "spec.hardware.rdma"]


@pytest.mark.parametrize("enabled", [True, False])
def test_the_planner_can_be_left_out(enabled):
    assert beta(spec__features={"planner": {"enabled": enabled}}).deploying.with_planner is enabled
    assert beta(spec__features={"planner": {"enabled": enabled}}).deploying.planner == {}


def test_one_latency_alone():
    assert beta(spec__sla={"ttft": 300}).goal.promise == Sla(300.0, 30.0)


@pytest.mark.parametrize(
    ("spec", "path", "said"),
    [
        ({"sla": {"e2eLatency": 5000}}, "sla.e2eLatency", "5000 cannot be followed: the promise is made of ttft and itl"),
        ({"sla": {"optimizationType": "throughput"}}, "sla.optimizationType", "cheapest mapping"),
        ({"workload": {"concurrency": 32}}, "workload.concurrency", "32 cannot be followed"),
        ({"workload": {"requestRate": 2.5}}, "workload.requestRate", "remove it"),
        ({"features": {"mocker": {"enabled": True}}}, "features.mocker.enabled", "mocked engine"),
        ({"features": {"kvRouter": {"enabled": True}}}, "features.kvRouter.enabled", "overrides.dgd"),
        ({"features": {"router": {}}}, "features.router", "did you mean kvRouter?"),
        ({"features": {"planner": {"min_endpoints": 1}}}, "features.planner.min_endpoints", "did you mean min_endpoint?"),
        ({"features": {"planner": {"enabled": "yes"}}}, "features.planner.enabled", "true or false"),
        ({"features": {"planner": True}}, "features.planner", "must be a mapping"),
        ({"runtimeVersionOverride": "1.2.0"}, "runtimeVersionOverride", "overrides.dgd"),
        ({"backend": "tgi"}, "backend", "none of auto, vllm, sglang, trtllm"),
        ({"searchStrategy": "fast"}, "searchStrategy", "none of rapid, thorough"),
        ({"hardware": {"totalGpus": 0}}, "hardware.totalGpus", "1 or more"),
        ({"hardware": {"vramMb": "80Gi"}}, "hardware.vramMb", "above 0"),
        ({"hardware": {"gpuSKU": "t4"}}, "hardware.gpuSKU", "did you mean gpuSku?"),
        ({"modelCache": {"pvcModelPath": "a"}}, "modelCache", "no claim"),
        ({"overrides": {"dgd": "a"}}, "overrides.dgd", "must be a mapping"),
        ({"overrides": {"profilingJobs": {}}}, "overrides.profilingJobs", "did you mean profilingJob?"),
        ({"autoApply": "false"}, "autoApply", "without quotes"),
        ({"deploymentOverrides": {"name": "a"}}, "deploymentOverrides", "there is no such key"),
        ({"model": ""}, "model", 'not ""'),
    ],
)
def test_faults(spec, path, said):
    assert said in fault(changed(BETA, **{f"spec__{key}": value for key, value in spec.items()}), f"spec.{path}")


def test_what_the_operators_definition_fills_in_is_no_contradiction():
    assert beta(spec__modelCache={"pvcMountPath": "/opt/model-cache"}).deploying.model_cache is None


def test_off_is_the_same_as_not_there():
    assert not faults(changed(BETA, spec__features={"mocker": {"enabled": False}, "kvRouter": {}}))


def test_the_name_of_the_request_is_that_of_the_deployment():
    assert "Services" in fault(changed(BETA, metadata__name="7b"), "metadata.name")


def test_a_name_or_a_namespace_in_what_is_laid_over_the_deployment_is_told_to_have_no_effect():
    request = beta(spec__overrides={"dgd": {"metadata": {"name": "qwen", "namespace": "chat", "labels": {"a": "b"}}}})
    (note,) = (each for each in request.notes if "overrides.dgd" in each)
    assert note.startswith("spec.overrides.dgd.metadata.namespace: without effect")
    assert request.graph_namespace == "llm"
