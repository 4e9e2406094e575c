"""Objects that the rules of the DynamoGraphDeploymentRequest definition refuse, by the rule's message; and those that they must let pass."""

from __future__ import annotations

import copy
from typing import Any

Object = dict[str, Any]

ALPHA: Object = {
    "apiVersion": "nvidia.com/v1alpha1",
    "kind": "DynamoGraphDeploymentRequest",
    "metadata": {"name": "sla"},
    "spec": {
        "model": "Qwen/Qwen3-0.6B",
        "backend": "vllm",
        "profilingConfig": {
            "profilerImage": "sla-planner/profile-sweep:0.1.0",
            "config": {
                "sla": {"isl": 3000, "osl": 150, "ttft": 200, "itl": 20},
                "sweep": {"use_ai_configurator": True, "aic_system": "h200_sxm"},
                "planner": {"planner_min_endpoint": 2, "planner_no_operation": False},
            },
        },
    },
}
BETA: Object = {
    "apiVersion": "nvidia.com/v1beta1",
    "kind": "DynamoGraphDeploymentRequest",
    "metadata": {"name": "sla"},
    "spec": {
        "model": "Qwen/Qwen3-0.6B",
        "sla": {"ttft": 200, "itl": 20},
        "features": {"planner": {"min_endpoint": 2}},
        "overrides": {"dgd": {"spec": {"services": {"Frontend": {"replicas": 2}}}}},
    },
}
BEGUN = {"profilingJobName": "profile-sla", "state": "Profiling"}


def changed(request: Object, **spec: Any) -> Object:
    """With other values in its spec; None takes one away."""
    found = copy.deepcopy(request)
    found["spec"] = {key: value for key, value in {**found["spec"], **spec}.items() if value is not None}
    return found


def in_config(**sections: Any) -> Object:
    """v1alpha1 with other sections of the profiler's config."""
    found = copy.deepcopy(ALPHA)
    found["spec"]["profilingConfig"]["config"] |= sections
    return found


# message -> what cannot be created
CREATED: dict[str, list[Object]] = {
    "a request with profilingConfig (v1alpha1) needs a backend: vllm, sglang or trtllm": [
        changed(ALPHA, backend=None),
        changed(ALPHA, backend="auto"),
    ],
    "belong to v1beta1: with profilingConfig (v1alpha1) say it in profilingConfig.config": [
        changed(ALPHA, sla={"ttft": 200}),
        changed(ALPHA, overrides={"dgd": {}}),
        changed(ALPHA, searchStrategy="rapid"),
    ],
    "belong to v1alpha1, and so to a request with profilingConfig; in v1beta1 use overrides": [
        changed(BETA, deploymentOverrides={"name": "other"}),
        changed(BETA, enableGpuDiscovery=True),
    ],
    "metadata.name may have 55 characters": [ALPHA | {"metadata": {"name": "n" * 56}}],
    "a v1alpha1 request needs spec.profilingConfig; without it write apiVersion: nvidia.com/v1beta1": [
        BETA | {"apiVersion": "nvidia.com/v1alpha1"},
    ],
}
# message -> (what is there, with profiling begun; what it cannot be changed into)
CHANGED: dict[str, list[tuple[Object, Object]]] = {
    "spec cannot be changed once profiling has begun: delete the request and create another one": [
        (ALPHA, changed(ALPHA, autoApply=True)),
        (ALPHA, changed(ALPHA, model="other")),
        (ALPHA, in_config(sla={"isl": 3000, "osl": 150, "ttft": 201, "itl": 20})),
        (ALPHA, in_config(sweep={"useAiConfigurator": True, "aic_system": "h200_sxm"})),  # as many keys as before, with the same values
        (ALPHA, in_config(planner={"planner_min_endpoint": 3, "planner_no_operation": False})),
        (ALPHA, in_config(planner={"planner_max_gpu_budget": 2, "planner_no_operation": False})),
        (BETA, changed(BETA, sla={"ttft": 200})),
        (BETA, changed(BETA, features={"planner": {"max_gpu_budget": 2}})),
        (BETA, changed(BETA, overrides={"dgd": {"spec": {"services": {"Frontend": {"replicas": 3}}}}})),
        (BETA, changed(BETA, overrides={"dgd": {"spec": {"services": {"Planner": {"replicas": 2}}}}})),
    ]
}
# What the schema refuses: words of the API server
MISTYPED: dict[str, Object] = {
    "spec.model": changed(BETA, model=None),
    "spec.backend": changed(ALPHA, backend="tgi"),
    "spec.profilingConfig.profilerImage": changed(ALPHA, profilingConfig={"config": {}}),
    "spec.profilingConfig.config": changed(ALPHA, profilingConfig={"profilerImage": "a"}),
    "spec.profilingConfig.configMapRef.name": changed(ALPHA, profilingConfig={**ALPHA["spec"]["profilingConfig"], "configMapRef": {"key": "a"}}),
    "spec.profilingConfig.config.sla.ttft": in_config(sla={"ttft": 0}),
    "spec.profilingConfig.config.sla.itl": in_config(sla={"itl": "20"}),
    "spec.profilingConfig.config.sla.isl": in_config(sla={"isl": 1.5}),
    "spec.profilingConfig.config.sla.osl": in_config(sla={"osl": 1}),
    "spec.profilingConfig.config.sweep.useAiConfigurator": in_config(sweep={"useAiConfigurator": "true"}),
    "spec.profilingConfig.config.hardware.minNumGpusPerEngine": in_config(hardware={"minNumGpusPerEngine": 0}),
    "spec.sla.ttft": changed(BETA, sla={"ttft": -1}),
    "spec.workload.isl": changed(BETA, workload={"isl": 0}),
    "spec.hardware.gpuSku": changed(BETA, hardware={"gpuSku": "h300"}),
    "spec.searchStrategy": changed(BETA, searchStrategy="fast"),
    "spec.modelCache.pvcName": changed(BETA, modelCache={"pvcModelPath": "a"}),
}
ACCEPTED: list[Object] = [
    ALPHA,
    BETA,
    changed(BETA, sla=None, features=None, overrides=None),
    ALPHA | {"apiVersion": "nvidia.com/v1beta1"},  # as a backup has it, which is read in the preferred version
    ALPHA | {"metadata": {"name": "n" * 55}},
    changed(
        ALPHA,
        deploymentOverrides={"name": "a", "labels": {"b": "c"}, "annotations": {"d": "e"}, "workersImage": "f"},
        enableGpuDiscovery=True,
        useMocker=False,
        autoApply=True,
        profilingConfig={
            **ALPHA["spec"]["profilingConfig"],
            "outputPVC": "dynamo-pvc",
            "configMapRef": {"name": "base"},
            "resources": {"requests": {"cpu": 16, "memory": "10Gi"}},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        },
    ),
]
# A status as it is written, every field of it.
STATUS: Object = {
    "observedGeneration": 1,
    "state": "Ready",
    "phase": "Deployed",
    "profilingPhase": "SweepingPrefill",
    "message": "in words",
    "backend": "vllm",
    "profilingJobName": "profile-sla",
    "progress": {"mapping": "prefill TP:2", "point": 3, "points": 8, "etaSeconds": 250},
    "profilingResults": "configmap/planner-profile-data-sla",
    "generatedDeployment": {
        "apiVersion": "nvidia.com/v1alpha1",
        "kind": "DynamoGraphDeployment",
        "spec": {"services": {"Frontend": {"replicas": 1}}},
    },
    "dgdName": "sla",
    "deployment": {"name": "sla", "namespace": "llm", "state": "successful", "created": True},
    "deploymentInfo": {"replicas": 2, "availableReplicas": 2},
    "conditions": [
        {
            "type": kind,
            "status": "True",
            "reason": "Done",
            "message": "in words",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
            "observedGeneration": 1,
        }
        for kind in ("Validation", "Profiling", "SpecGenerated", "DeploymentReady", "Succeeded")
    ],
}
