"""v1alpha1: what Dynamo's guides write, in each of their spellings, and what of it cannot be followed."""

from __future__ import annotations

import pytest
import yaml
from tests.request.requests_written import ALLOWED, ALPHA, CONFIG, GONE, alpha, changed, fault, faults

from sla_planner.request.read import read
from sla_planner.request.spec import BaseManifest, EngineLimits, Method, ModelCache

# A request with a manifest of its own, as the quick start guide of Dynamo 0.6 has it: its keys and values, and the `aic:` block.
WITH_A_MANIFEST = """
apiVersion: nvidia.com/v1alpha1
kind: DynamoGraphDeploymentRequest
metadata: {name: deepseek-r1, namespace: llm}
spec:
  model: deepseek-ai/DeepSeek-R1
  backend: sglang
  profilingConfig:
    profilerImage: "nvcr.io/nvidia/ai-dynamo/sglang-runtime:0.6.1"
    configMapRef: {name: deepseek-r1-config, key: disagg.yaml}
    config:
      sla: {isl: 4000, osl: 500, ttft: 300, itl: 10}
      sweep: {use_ai_configurator: true}
      aic: {system: h200_sxm, model_name: DEEPSEEK_V3, backend_version: "0.20.0"}
  deploymentOverrides:
    workersImage: "nvcr.io/nvidia/ai-dynamo/sglang-runtime:0.6.1"
  autoApply: true
"""


def test_the_guides_request_with_a_manifest_of_its_own():
    request = read(yaml.safe_load(WITH_A_MANIFEST), ALLOWED)
    assert (request.model, request.backend, request.auto_apply) == ("deepseek-ai/DeepSeek-R1", "sglang", True)
    profiling = request.profiling
    assert profiling.method is Method.OFFLINE
    assert profiling.base == BaseManifest("deepseek-r1-config", "disagg.yaml")
    assert (profiling.limits.gpu_type, profiling.aic_model, profiling.aic_version) == ("h200_sxm", "deepseek-ai/DeepSeek-V3", "0.20.0")
    assert request.deploying.workers_image == profiling.image == "nvcr.io/nvidia/ai-dynamo/sglang-runtime:0.6.1"
    (note,) = request.notes  # two models of one shape
    assert "the profile is that of 'deepseek-ai/DeepSeek-V3', computed for 'deepseek-ai/DeepSeek-R1'" in note


def test_what_is_left_out():
    request = alpha()
    assert request.auto_apply is False
    assert request.profiling.method is Method.ONLINE
    assert (request.profiling.base, request.profiling.limits, request.profiling.discover_gpus) == (None, EngineLimits(), False)
    assert (request.graph_name, request.graph_namespace, request.deploying.with_planner) == ("sla-aic", "llm", True)


EVERYTHING = {
    "sla": {"isl": 3000, "osl": 150, "ttft": 200, "itl": 20},
    "deployment": {
        "namespace": "llm",
        "service_name": "frontend",
        "model": "Qwen/Qwen3-32B",
        "dgd_image": "runtime:1",
        "timeout": 900,
        "model_cache_pvc_name": "weights",
        "model_cache_pvc_path": "/models/qwen/",
        "model_cache_pvc_mount_path": "/weights",
    },
    "engine": {"backend": "trtllm", "max_context_length": 32768, "is_moe_model": False},
    "hardware": {
        "min_num_gpus_per_engine": 2,
        "max_num_gpus_per_engine": 8,
        "num_gpus_per_node": 8,
        "gpu_type": "h200_sxm",
        "enable_gpu_discovery": True,
    },
    "sweep": {
        "use_ai_configurator": True,
        "prefill_interpolation_granularity": 16,
        "decode_interpolation_granularity": 6,
        "dry_run": True,
        "pick_with_webui": True,
        "aic_system": "h200_sxm",
        "aic_hf_id": "Qwen/Qwen3-32B",
        "aic_backend": "trtllm",
        "aic_backend_version": "1.3.0rc20",
    },
    "planner": {"planner_min_endpoint": 2},
    "output_dir": "profiling_results",
}


def camel(value):
    if not isinstance(value, dict):
        return value
    return {key[:1] + key.title().replace("_", "")[1:]: camel(inner) for key, inner in value.items()}


def test_camel_case_is_read_as_snake_case():
    snake = read(changed(ALPHA, spec__profilingConfig__config=EVERYTHING), ALLOWED)
    document = changed(ALPHA, spec__profilingConfig__config=camel(EVERYTHING))
    assert "useAiConfigurator" in document["spec"]["profilingConfig"]["config"]["sweep"]
    other = read(document, ALLOWED)
    for field in ("model", "backend", "goal", "profiling", "deploying", "auto_apply"):
        assert getattr(snake, field) == getattr(other, field)


def test_every_key_of_the_profilers_config_gets_where_it_belongs():
    request = read(changed(ALPHA, spec__profilingConfig__config=EVERYTHING), ALLOWED)
    profiling, deploying = request.profiling, request.deploying
    assert profiling.limits == EngineLimits(2, 8, 8, gpu_type="h200_sxm")
    assert (profiling.prefill_points, profiling.decode_points, profiling.max_context_tokens, profiling.is_moe) == (16, 6, 32768, False)
    assert (profiling.start_limit_s, profiling.dry_run, profiling.discover_gpus) == (900.0, True, True)
    assert (profiling.aic_model, profiling.aic_version) == ("Qwen/Qwen3-32B", "1.3.0rc20")
    assert deploying.model_cache == ModelCache("weights", "models/qwen", "/weights")
    assert (deploying.workers_image, deploying.planner) == ("runtime:1", {"min_endpoint": 2})


def test_what_has_no_effect_is_told():
    notes = read(changed(ALPHA, spec__profilingConfig__config=EVERYTHING), ALLOWED).notes
    assert [note.partition(": ")[0].removeprefix(f"{CONFIG}.") for note in notes] == [
        "output_dir",
        "sweep.pick_with_webui",
        "deployment.service_name",
    ]


def test_the_section_of_the_model_cache():
    request = alpha(config__deployment={"modelCache": {"pvcName": "weights", "pvcPath": "qwen"}})
    assert request.deploying.model_cache == ModelCache("weights", "qwen", "/opt/model-cache")


@pytest.mark.parametrize(
    ("config", "path", "said"),
    [
        ({"sweep": {"use_ai_configurator": False, "useAiConfigurator": True}}, "sweep.useAiConfigurator", "use_ai_configurator is false; both mean"),
        (
            {"sweep": {"use_ai_configurator": True, "aic_system": "h200_sxm"}, "aic": {"system": "b200_sxm"}},
            "aic.system",
            '"b200_sxm", but spec.profilingConfig.config.sweep.aic_system is "h200_sxm"',
        ),
        ({"sweep": {"aic_hf_id": "a/b", "aic_model_name": "a/c"}}, "sweep.aic_model_name", "both mean the same"),
        ({"sweep": {"aic_hf_id": "a/b"}, "aic": {"modelName": "a/c"}}, "aic.modelName", "both mean the same"),
        ({"sweep": {"min_num_gpus": 2}, "hardware": {"min_num_gpus_per_engine": 4}}, "sweep.min_num_gpus", "min_num_gpus_per_engine is 4"),
        ({"sweep": {"use_ai_configurator": True, "aic_system": "h200_sxm"}, "hardware": {"gpu_type": "l40s"}}, "hardware.gpu_type", '"l40s", but'),
        ({"deployment": {"model": "other"}}, "deployment.model", "spec.model is 'Qwen/Qwen3-32B'; remove it"),
        ({"engine": {"backend": "vllm"}}, "engine.backend", "spec.backend is 'trtllm'; remove it"),
        ({"deployment": {"namespace": "other"}}, "deployment.namespace", "create the request in other"),
        ({"deployment": {"modelCache": {"pvcName": "a"}, "model_cache_pvc_name": "b"}}, "deployment.model_cache_pvc_name", '"b", but'),
    ],
)
def test_two_places_that_differ(config, path, said):
    config = {"sla": EVERYTHING["sla"], **config}
    assert said in fault(changed(ALPHA, spec__profilingConfig__config=config), f"{CONFIG}.{path}")


def test_both_spellings_with_the_same_value():
    assert alpha(config__sweep={"dry_run": True, "dryRun": True}).profiling.dry_run is True
    assert alpha(config__sweep={"min_num_gpus": 2}, config__hardware={"minNumGpusPerEngine": 2}).profiling.limits.min_gpus == 2
    assert alpha(config__sweep={"max_num_gpus": 4}).profiling.limits.max_gpus == 4


@pytest.mark.parametrize("missing", ["isl", "osl", "ttft", "itl"])
def test_no_promise_is_made_up(missing):
    assert "is missing" in fault(changed(ALPHA, **{f"config__sla__{missing}": GONE}), f"{CONFIG}.sla.{missing}")


@pytest.mark.parametrize("missing", ["spec.model", "spec.backend", "spec.profilingConfig.profilerImage", "spec.profilingConfig.config"])
def test_what_a_v1alpha1_request_must_have(missing):
    found = faults(changed(ALPHA, **{missing.replace(".", "__"): GONE}))
    assert list(found) == [missing]
    assert found[missing].hint == f"add {missing.rpartition('.')[2]}"


@pytest.mark.parametrize("backend", ["auto", "vLLM", 7, ["vllm"]])
def test_a_backend_that_is_none(backend):
    assert "is none of vllm, sglang, trtllm" in fault(changed(ALPHA, spec__backend=backend), "spec.backend")


@pytest.mark.parametrize(
    ("section", "values", "path", "said"),
    [
        ("engine", {"max_context_length": 3000}, "engine.max_context_length", "3000 + 150 = 3150 tokens does not fit 3000; raise it"),
        ("hardware", {"min_num_gpus_per_engine": 8, "max_num_gpus_per_engine": 4}, "hardware.min_num_gpus_per_engine", "at least 8 and at most 4"),
        ("hardware", {"max_num_gpus_per_engine": 0}, "hardware.max_num_gpus_per_engine", "1 or more, not 0"),
        ("hardware", {"num_gpus_per_nodes": 8}, "hardware.num_gpus_per_nodes", "did you mean num_gpus_per_node?"),
        ("hardware", {"numGpuPerNode": 8}, "hardware.numGpuPerNode", "did you mean numGpusPerNode?"),
        ("sweep", {"useAIConfigurator": True}, "sweep.useAIConfigurator", "did you mean useAiConfigurator?"),
        ("sweep", {"use-ai-configurator": True}, "sweep.use-ai-configurator", "did you mean use_ai_configurator?"),
        ("sweep", {"use_ai_configurator": "true"}, "sweep.use_ai_configurator", "without quotes"),
        ("sweep", {"prefill_interpolation_granularity": 2}, "sweep.prefill_interpolation_granularity", "4 or more, not 2"),
        ("sweep", {"decode_interpolation_granularity": 4}, "sweep.decode_interpolation_granularity", "5 or more"),
        ("sweep", {"use_ai_configurator": True}, "sweep.use_ai_configurator", "add aic_system, for example h200_sxm"),
        ("sweep", {"aic_backend_version": 0.2}, "sweep.aic_backend_version", 'put it in quotes: "0.2"'),
        ("sweep", {"aic_hf_id": "QWEN9_1B"}, "sweep.aic_hf_id", "no id of Hugging Face"),
        (
            "sweep",
            {"use_ai_configurator": True, "aic_system": "h200_sxm", "aic_backend": "vllm"},
            "sweep.aic_backend",
            "another engine than 'trtllm'",
        ),
        ("engine", {"config": "/workspace/disagg.yaml"}, "engine.config", "configMapRef"),
        ("deployment", {"timeout": 0}, "deployment.timeout", "above 0"),
        ("deployment", {"model_cache_pvc_path": "a"}, "deployment", "has a path and no claim"),
        ("deployment", {"model_cache_pvc_name": "w", "model_cache_pvc_path": "../a"}, "deployment", "leads out of the volume"),
        ("deployment", {"model_cache_pvc_name": "w", "model_cache_pvc_mount_path": "a"}, "deployment", "begins with /"),
        ("deployment", {"dgd_image": "https://a/b"}, "deployment.dgd_image", "without a scheme"),
        ("hardwares", {}, "hardwares", "did you mean hardware?"),
        ("planner", [1], "planner", "must be a mapping, not [1]"),
        ("sweep", "fast", "sweep", 'must be a mapping, not "fast"'),
    ],
)
def test_faults_of_the_profilers_config(section, values, path, said):
    assert said in fault(changed(ALPHA, **{f"config__{section}": values}), f"{CONFIG}.{path}")


@pytest.mark.parametrize(
    "where",
    [
        {"spec__enableGpuDiscovery": True},
        {"config__hardware": {"enable_gpu_discovery": True}},
        {"spec__enableGpuDiscovery": False, "config__hardware": {"enable_gpu_discovery": True}},  # as the operator's definition fills it in
    ],
)
def test_discovery_stands_in_for_the_name_of_the_gpu(where):
    request = alpha(config__sweep={"use_ai_configurator": True}, **where)
    assert (request.profiling.discover_gpus, request.profiling.limits.gpu_type) == (True, None)


def test_the_type_of_the_gpu_stands_in_for_the_system():
    assert alpha(config__sweep={"use_ai_configurator": True}, config__hardware={"gpu_type": "h200_sxm"}).profiling.limits.gpu_type == "h200_sxm"


def test_settings_of_ai_configurator_are_told_to_have_no_effect_where_engines_are_measured():
    request = alpha(config__sweep={"use_ai_configurator": False, "aic_system": "h200_sxm", "aic_backend": "vllm"})
    assert request.profiling.aic_model is None
    assert ["AI Configurator" in note for note in request.notes] == [True]


def test_the_manifests_path_is_allowed_where_the_manifest_is():
    reference = {"spec__profilingConfig__configMapRef": {"name": "base"}}
    request = alpha(config__engine={"config": "/config/disagg.yaml"}, **reference)
    assert request.profiling.base == BaseManifest("base", "disagg.yaml")
    assert fault(changed(ALPHA, spec__profilingConfig__configMapRef={"key": "a"}), "spec.profilingConfig.configMapRef.name")
    assert "no name of an object" in fault(
        changed(ALPHA, spec__profilingConfig__configMapRef={"name": "A b"}), "spec.profilingConfig.configMapRef.name"
    )


def test_mocked_engines_are_refused():
    assert "mocked engine" in fault(changed(ALPHA, spec__useMocker=True), "spec.useMocker")
    assert not faults(changed(ALPHA, spec__useMocker=False))


def test_a_key_of_v1beta1_is_unknown_here():
    assert "there is no such key" in fault(changed(ALPHA, spec__searchStrategy="rapid"), "spec.searchStrategy")


# ---- the Job and the deployment -----------------------------------------------------------------------------------------------------------


def test_resources_and_tolerations_are_handed_on():
    tolerations = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}, {"operator": "Exists"}]
    resources = {"requests": {"cpu": 16, "memory": "10Gi"}, "limits": {"memory": "10Gi", "ephemeral-storage": "1.5G"}}
    request = alpha(spec__profilingConfig__tolerations=tolerations, spec__profilingConfig__resources=resources)
    assert request.profiling.tolerations == tuple(tolerations)
    assert request.profiling.resources == {"requests": {"cpu": "16", "memory": "10Gi"}, "limits": {"memory": "10Gi", "ephemeral-storage": "1.5G"}}


@pytest.mark.parametrize(
    ("values", "path", "said"),
    [
        ({"tolerations": {"key": "a"}}, "tolerations", "must be a list"),
        ({"tolerations": ["a"]}, "tolerations[0]", "must be a mapping"),
        ({"tolerations": [{"operator": "Exist", "key": "a"}]}, "tolerations[0].operator", "did you mean Exists?"),
        ({"tolerations": [{"key": "a", "effect": "NoExcute"}]}, "tolerations[0].effect", "did you mean NoExecute?"),
        ({"tolerations": [{"value": "a"}]}, "tolerations[0].key", "operator: Exists"),
        ({"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}, "tolerations[0].value", "operator: Equal"),
        ({"tolerations": [{"key": "a", "tolerationSeconds": 3}]}, "tolerations[0].tolerationSeconds", "effect: NoExecute"),
        ({"tolerations": [{"key": "a", "effekt": "NoExecute"}]}, "tolerations[0].effekt", "did you mean effect?"),
        ({"resources": {"limit": {}}}, "resources.limit", "did you mean limits?"),
        ({"resources": {"limits": {"memory": "10 GB"}}}, "resources.limits.memory", '"10 GB" is no amount'),
        ({"resources": {"limits": {"cpu": -1}}}, "resources.limits.cpu", "-1 is no amount"),
        ({"resources": {"limits": "all"}}, "resources.limits", "must be a mapping"),
        ({"outputPVC": "Dynamo_PVC"}, "outputPVC", "no name of an object"),
        ({"profilerImage": "my image"}, "profilerImage", "is no image"),
        ({"nodeSelector": {}}, "nodeSelector", "there is no such key"),
    ],
)
def test_faults_of_what_the_job_is_given(values, path, said):
    changes = {f"spec__profilingConfig__{key}": value for key, value in values.items()}
    assert said in fault(changed(ALPHA, **changes), f"spec.profilingConfig.{path}")


def test_the_deployment_is_called_and_dressed():
    overrides = {
        "name": "trtllm-disagg",
        "namespace": "llm",
        "labels": {"team": "search", "example.com/tier": ""},
        "annotations": {"example.com/why": "a sentence, with a comma"},
        "workersImage": "registry:5000/runtime@sha256:abc",
    }
    deploying = alpha(spec__deploymentOverrides=overrides).deploying
    assert (deploying.name, deploying.namespace, deploying.workers_image) == ("trtllm-disagg", "llm", "registry:5000/runtime@sha256:abc")
    assert (deploying.labels, deploying.annotations) == (overrides["labels"], overrides["annotations"])


@pytest.mark.parametrize(("namespace", "elsewhere"), [(None, False), ("llm", False), ("chat", True)])
def test_where_the_deployment_goes(namespace, elsewhere):
    request = alpha(spec__deploymentOverrides={"namespace": namespace} if namespace else {})
    assert (request.namespace, request.graph_namespace, request.elsewhere) == ("llm", namespace or "llm", elsewhere)


@pytest.mark.parametrize(
    ("values", "path", "said"),
    [
        ({"namespace": "No"}, "namespace", "no name of a namespace"),
        ({"labels": {"a b": "c"}}, "labels.a b", "is no key"),
        ({"labels": {"a": "b c"}}, "labels.a", "make it an annotation"),
        ({"labels": {"a": "x" * 64}}, "labels.a", "at most 63"),
        ({"labels": {"a": True}}, "labels.a", 'put it in quotes: "true"'),
        ({"labels": {"dgdr.nvidia.com/name": "a"}}, "labels.dgdr.nvidia.com/name", "the deployment is found again"),
        ({"annotations": {"Bad_Domain/x": "a"}}, "annotations.Bad_Domain/x", "is no key"),
        ({"annotations": {"slaplanner.io/request-uid": "a"}}, "annotations.slaplanner.io/request-uid", "remove it"),
        ({"annotations": ["a"]}, "annotations", "must be a mapping"),
        ({"lables": {}}, "lables", "did you mean labels?"),
        ({"workersImage": 1}, "workersImage", "must be a text"),
    ],
)
def test_faults_of_how_the_deployment_is_dressed(values, path, said):
    assert said in fault(changed(ALPHA, spec__deploymentOverrides=values), f"spec.deploymentOverrides.{path}")
