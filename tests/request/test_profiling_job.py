"""The profiling Job: that of `jobs/profile-sweep` but for what a request says, and a command line that the program takes."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml

from sla_planner.cli import group
from sla_planner.config import load
from sla_planner.request.makers import CannotBeMadeError
from sla_planner.request.profiling_job import profiling_job
from sla_planner.request.seen import GpusSeen
from sla_planner.request.spec import EngineLimits
from sla_planner.sweep_config import SweepConfig

from .samples import ALL, MOE, OFFLINE, ONLINE, ROOT, SETTINGS, beta, request_of

H200S = GpusSeen(largest_node=4, total=12, product="NVIDIA-H200", system="h200_sxm", vram_mib=143771.0)
Document = dict[str, Any]


def job(document: Document, settings: Any = SETTINGS, gpus: GpusSeen | None = None, **profiling: Any) -> Document:
    request = request_of(document)
    if profiling:
        request = dataclasses.replace(request, profiling=dataclasses.replace(request.profiling, **profiling))
    return profiling_job(request, settings, gpus)


def pod(made: Document) -> Document:
    found: Document = made["spec"]["template"]["spec"]
    return found


def container(made: Document) -> Document:
    (found,) = pod(made)["containers"]
    return dict(found)


def sweep(made: Document) -> SweepConfig:
    """What the program would run with."""
    context = click.Context(group, info_name="sla-planner")
    name, stage, rest = group.resolve_command(context, list(container(made)["args"]))
    assert (name, container(made)["command"]) == ("profile-sweep", ["sla-planner"])
    assert stage is not None
    return load(SweepConfig, stage.make_context(name, rest, parent=context).params, {}).config


def config(**sections: Any) -> Document:
    """The online sample with more in `profilingConfig.config`."""
    found = ONLINE.document
    for name, values in sections.items():
        found["spec"]["profilingConfig"]["config"].setdefault(name, {}).update(values)
    return found


def test_it_is_the_job_that_is_applied_by_hand_but_for_what_a_request_says() -> None:
    by_hand: Document = yaml.safe_load((ROOT / "jobs" / "profile-sweep" / "job.yaml").read_text())
    by_hand["spec"]["template"]["spec"]["volumes"][0] = {"name": "data", "persistentVolumeClaim": {"claimName": "dynamo-pvc"}}
    made = job(ONLINE.document, output_claim="dynamo-pvc")
    for found in (by_hand, made):
        del found["metadata"], found["spec"]["template"]["metadata"]
    (ours,), (theirs,) = pod(made)["containers"], pod(by_hand)["containers"]
    for key in ("name", "image", "args"):
        del ours[key], theirs[key]
    assert ours.pop("command") == ["sla-planner"]
    assert ours["volumeMounts"].pop(0) == {"name": "config", "mountPath": "/config", "readOnly": True}
    assert pod(made)["volumes"].pop(0)["configMap"]["name"] == "dgdr-output-sla-online"
    assert made == by_hand


@pytest.mark.parametrize("sample", ALL, ids=lambda sample: sample.name)
@pytest.mark.parametrize("minor", ["1.35", "1.37"])
def test_kubernetes_takes_it(sample: Any, minor: str) -> None:
    kubernetes_validate.validate(job(sample.document, gpus=H200S), minor, strict=True)


def test_it_belongs_to_its_request() -> None:
    made = job(ONLINE.document)
    assert made["metadata"]["name"] == "profile-sla-online"
    assert made["metadata"]["namespace"] == "chat"
    owner = {"apiVersion": "nvidia.com/v1alpha1", "kind": "DynamoGraphDeploymentRequest", "name": "sla-online", "uid": "6f1c", "controller": True}
    assert made["metadata"]["ownerReferences"] == [owner]
    for labels in (made["metadata"]["labels"], made["spec"]["template"]["metadata"]["labels"]):
        assert labels["dgdr.nvidia.com/name"] == "sla-online"
        assert labels["slaplanner.io/request-uid"] == "6f1c"
        assert labels["app.kubernetes.io/component"] == "profile-sweep"  # as network policies and monitors select it


def test_the_same_request_gives_the_same_job() -> None:
    assert job(MOE.document, gpus=H200S) == job(copy.deepcopy(MOE.document), gpus=H200S)


def test_online_measures_the_manifest_of_the_request() -> None:
    found = sweep(job(ONLINE.document))
    assert (str(found.dgd), found.use_ai_configurator, found.backend, found.model) == ("/config/disagg.yaml", False, "vllm", "Qwen/Qwen3-0.6B")
    assert (found.isl, found.osl, found.ttft, found.itl, found.attainment) == (3000, 150, 200, 20, 0.99)
    assert found.image == "nvcr.io/nvidia/ai-dynamo/vllm-runtime:1.6.1"
    assert found.publish_configmap == "planner-profile-data-sla-online"
    assert str(found.output_dir) == "/data/profiling_results/sla-online"
    assert found.log_format == "json"
    assert (found.min_num_gpus, found.max_num_gpus, found.num_gpus_per_node, found.max_gpus) == (None, 8, 8, None)
    assert found.is_moe_model is None


def test_offline_starts_no_engine() -> None:
    found = sweep(job(OFFLINE.document))
    assert (found.dgd, found.source, found.use_ai_configurator) == (None, None, True)
    assert (found.aic_system, found.aic_hf_id, found.aic_backend_version, found.backend) == ("h200_sxm", "Qwen/Qwen3-32B", None, "trtllm")


def test_all_that_a_request_may_say_of_the_sweep_arrives() -> None:
    document = config(
        engine={"max_context_length": 16384, "is_moe_model": False},
        hardware={"min_num_gpus_per_engine": 2, "max_num_gpus_per_engine": 4, "num_gpus_per_node": 4},
        sweep={"prefill_interpolation_granularity": 16, "decode_interpolation_granularity": 6, "dry_run": True},
        deployment={"timeout": 600.5},
        planner={"attainment": 0.95},
    )
    found = sweep(job(document))
    assert (found.max_context_length, found.is_moe_model, found.ready_limit_s, found.dry_run) == (16384, False, 600.5, True)
    assert (found.min_num_gpus, found.max_num_gpus, found.num_gpus_per_node) == (2, 4, 4)
    assert (found.prefill_interpolation_granularity, found.decode_interpolation_granularity) == (16, 6)
    assert found.attainment == 0.95
    moe = sweep(job(MOE.document))
    assert (moe.is_moe_model, moe.min_num_gpus, moe.max_num_gpus, moe.backend) == (True, 8, 32, "sglang")


def test_what_nodes_tell_fills_what_a_request_leaves_open() -> None:
    found = sweep(job(ONLINE.document, gpus=H200S))
    assert found.num_gpus_per_node == 4
    assert found.vram_gib == pytest.approx(140.4, abs=0.05)
    assert found.max_gpus is None  # others use them too
    told = sweep(job(ONLINE.document, gpus=H200S, limits=EngineLimits(gpus_per_node=2, total_gpus=4, vram_mib=81920.0)))
    assert (told.num_gpus_per_node, told.max_gpus, told.vram_gib) == (2, 4, 80.0)


def test_nodes_without_gpus_tell_nothing() -> None:
    assert sweep(job(ONLINE.document, gpus=GpusSeen(0, 0))).num_gpus_per_node == 8


def test_the_gpu_of_a_computed_profile_is_named_or_seen() -> None:
    rapid = beta()
    assert sweep(job(rapid, gpus=H200S)).aic_system == "h200_sxm"
    assert sweep(job(beta(hardware={"gpuSku": "h100_sxm"}), gpus=H200S)).aic_system == "h100_sxm"
    for unknown in (None, GpusSeen(8, 8, "Some-GPU")):
        with pytest.raises(CannotBeMadeError, match=r"set spec\.hardware\.gpuSku, e\.g\. h200_sxm") as error:
            job(rapid, gpus=unknown)
        assert error.value.reason == "GPUTypeUnknown"


def test_image_resources_and_tolerations_are_the_requests() -> None:
    document = ONLINE.document
    tolerations = [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    resources = {"requests": {"cpu": "4", "memory": "8Gi"}}
    document["spec"]["profilingConfig"] |= {"profilerImage": "mine:1", "resources": resources, "tolerations": tolerations, "outputPVC": "mine"}
    made = job(document)
    assert (container(made)["image"], container(made)["resources"], pod(made)["tolerations"]) == ("mine:1", resources, tolerations)
    assert pod(made)["volumes"][1] == {"name": "data", "persistentVolumeClaim": {"claimName": "mine"}}


def test_without_a_claim_the_results_go_with_the_pod() -> None:
    assert "emptyDir" in pod(job(ONLINE.document))["volumes"][1]


def test_no_secret_is_named_that_nobody_asked_for() -> None:
    plain = job(ONLINE.document)
    assert "imagePullSecrets" not in pod(plain)
    assert "HF_TOKEN" not in {each["name"] for each in container(plain)["env"]}
    settings = dataclasses.replace(SETTINGS, pull_secrets=("ours", "theirs"), hf_token_secret="token", hf_token_key="key")
    dressed = job(ONLINE.document, settings)
    assert pod(dressed)["imagePullSecrets"] == [{"name": "ours"}, {"name": "theirs"}]
    token = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "token", "key": "key", "optional": True}}}
    assert token in container(dressed)["env"]


def test_the_installers_settings() -> None:
    settings = dataclasses.replace(SETTINGS, sweep_service_account="mine", job_deadline_s=60, job_kept_s=30)
    made = job(beta(searchStrategy="thorough"), settings)
    assert pod(made)["serviceAccountName"] == "mine"
    assert (made["spec"]["activeDeadlineSeconds"], made["spec"]["ttlSecondsAfterFinished"]) == (60, 30)
    assert container(made)["image"] == SETTINGS.profiler_image


def test_what_the_user_lays_over_it_comes_last() -> None:
    over = {
        "backoffLimit": 0,
        "ttlSecondsAfterFinished": None,
        "template": {
            "spec": {
                "nodeSelector": {"pool": "cpu"},
                "containers": [
                    {"name": "profiler", "resources": {"limits": {"memory": "9Gi"}}, "env": [{"name": "A", "value": "b"}]},
                    {"name": "beside", "image": "x"},
                ],
            }
        },
    }
    plain = job(beta(searchStrategy="thorough"))
    made = job(beta(searchStrategy="thorough", overrides={"profilingJob": over}))
    assert made["spec"]["backoffLimit"] == 0
    assert "ttlSecondsAfterFinished" not in made["spec"]
    assert pod(made)["nodeSelector"] == {"pool": "cpu"}
    profiler, beside = pod(made)["containers"]
    assert beside == {"name": "beside", "image": "x"}
    assert profiler["args"] == container(plain)["args"]
    assert profiler["resources"] == {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "9Gi"}}
    assert profiler["env"] == [*container(plain)["env"], {"name": "A", "value": "b"}]
    assert job(beta(searchStrategy="thorough")) == plain  # nothing of it stays
