"""The Job that makes a request's profile: one container that runs `sla-planner profile-sweep`.

    online    engines are derived from the manifest in the request's ConfigMap (/config/disagg.yaml), started in this namespace and measured
    offline   AI Configurator computes; no engine is started

It is the Job of `jobs/profile-sweep/job.yaml` but for what a request says; a test compares the two. The command is given, not left to the image, so
that an image that is no profiler of ours fails at once, in words. What a user lays over it is merged last (`made_patch.py`).
"""

from __future__ import annotations

from typing import Any

from sla_planner.model.sla import Sla
from sla_planner.request.made_marks import labels, owners
from sla_planner.request.made_names import BASE_KEY, job_name, output_name, profile_name
from sla_planner.request.made_patch import patched
from sla_planner.request.makers import GPU_TYPE_UNKNOWN, CannotBeMadeError
from sla_planner.request.seen import GpusSeen
from sla_planner.request.settings import Settings
from sla_planner.request.spec import Method, Object, Request

COMPONENT = "profile-sweep"
CONTAINER = "profiler"
CONFIG_DIR, DATA_DIR = "/config", "/data"
MIB_PER_GIB = 1024
NODE_GPUS = 8  # where nobody says otherwise, as the sweep has it
_SWITCH = True  # of a flag without value

_FAILURES = [
    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},  # the node was drained
    {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [75]}},  # interrupted, progress saved
    {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2, 3]}},  # a person must change something; the promise cannot be kept
]


def results_dir(request: Request) -> str:
    """In the Job's container: where pictures, manifests, logs and the profile are written."""
    return f"{DATA_DIR}/profiling_results/{request.name}"


def profiling_job(request: Request, settings: Settings, gpus: GpusSeen | None) -> dict[str, Any]:
    """The Job of `request`. `gpus`: for what the request leaves open; None where nodes may not be read. Raises `CannotBeMadeError`."""
    spec: dict[str, Any] = {
        "backoffLimit": 2,
        "activeDeadlineSeconds": settings.job_deadline_s,
        "ttlSecondsAfterFinished": settings.job_kept_s,
        "podFailurePolicy": {"rules": _FAILURES},
        "template": {"metadata": {"labels": labels(request, settings, COMPONENT)}, "spec": _pod(request, settings, gpus)},
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(request),
            "namespace": request.namespace,
            "labels": labels(request, settings, COMPONENT),
            "ownerReferences": owners(request),
        },
        "spec": patched(spec, request.profiling.job_patch) if request.profiling.job_patch else spec,
    }


def sweep_arguments(request: Request, gpus: GpusSeen | None) -> list[str]:
    """Of `sla-planner`. What the request leaves open and the nodes do not tell is left to the sweep's defaults."""
    profiling, goal, limits = request.profiling, request.goal, request.profiling.limits
    offline = profiling.method is Method.OFFLINE
    vram_mib = limits.vram_mib or (gpus.vram_mib if gpus else None)
    flags: list[tuple[str, object]] = [
        *(_offline(request, gpus) if offline else _online(request)),
        ("--backend", request.backend),
        ("--model", request.model),
        ("--isl", goal.isl_tokens),
        ("--osl", goal.osl_tokens),
        ("--ttft", goal.promise.ttft_ms),
        ("--itl", goal.promise.itl_ms),
        ("--attainment", goal.promise.attainment if goal.promise.attainment != Sla().attainment else None),
        ("--min-num-gpus", limits.min_gpus),
        ("--max-num-gpus", limits.max_gpus),
        ("--num-gpus-per-node", node_gpus(request, gpus)),
        ("--max-gpus", limits.total_gpus),
        ("--vram-gib", vram_mib / MIB_PER_GIB if vram_mib else None),
        (f"--{'' if profiling.is_moe else 'no-'}is-moe-model", None if profiling.is_moe is None else _SWITCH),
        ("--max-context-length", profiling.max_context_tokens),
        ("--prefill-interpolation-granularity", profiling.prefill_points),
        ("--decode-interpolation-granularity", profiling.decode_points),
        ("--ready-limit-s", None if offline else profiling.start_limit_s),
        ("--output-dir", results_dir(request)),
        ("--publish-configmap", profile_name(request)),
        ("--publish-existing-only", _SWITCH),
        ("--log-format", "json"),
        ("--dry-run", _SWITCH if profiling.dry_run else None),
    ]
    given = ((flag, value) for flag, value in flags if value is not None)
    return [COMPONENT, *(text for flag, value in given for text in ((flag,) if value is _SWITCH else (flag, written(value))))]


def node_gpus(request: Request, gpus: GpusSeen | None) -> int | None:
    """GPUs of one node: as the request says, else of the largest that is seen; None: not known, the sweep takes `NODE_GPUS`."""
    return request.profiling.limits.gpus_per_node or (gpus.largest_node if gpus else None) or None


def written(value: object) -> str:
    """`200` for 200.0, `0.5` for 0.5."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _online(request: Request) -> list[tuple[str, object]]:
    return [("--dgd", f"{CONFIG_DIR}/{BASE_KEY}"), ("--image", request.deploying.workers_image)]


def _offline(request: Request, gpus: GpusSeen | None) -> list[tuple[str, object]]:
    profiling = request.profiling
    system = profiling.limits.gpu_type or (gpus.system if gpus else "")
    if not system:
        what = "AI Configurator needs to know the GPU, and no node tells it"
        field = "spec.profilingConfig.config.sweep.aic_system" if request.shape == "v1alpha1" else "spec.hardware.gpuSku"
        raise CannotBeMadeError(GPU_TYPE_UNKNOWN, f"{what}; set {field}, e.g. h200_sxm")
    return [
        ("--use-ai-configurator", _SWITCH),
        ("--aic-system", system),
        ("--aic-hf-id", profiling.aic_model),
        ("--aic-backend-version", profiling.aic_version),
    ]


def _pod(request: Request, settings: Settings, gpus: GpusSeen | None) -> dict[str, Any]:
    profiling = request.profiling
    claim = {"persistentVolumeClaim": {"claimName": profiling.output_claim}}
    data = claim if profiling.output_claim else {"emptyDir": {"sizeLimit": "5Gi"}}
    pod: dict[str, Any] = {
        "serviceAccountName": settings.sweep_service_account,
        "automountServiceAccountToken": True,  # it starts the engines that it measures, and publishes the profile
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 120,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(request, settings, gpus)],
        "volumes": [
            {"name": "config", "configMap": {"name": output_name(request), "items": [{"key": BASE_KEY, "path": BASE_KEY}]}},
            {"name": "data", **data},
            {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
        ],
    }
    if settings.pull_secrets:
        pod["imagePullSecrets"] = [{"name": secret} for secret in settings.pull_secrets]
    if profiling.tolerations:
        pod["tolerations"] = [dict(toleration) for toleration in profiling.tolerations]
    return pod


def _container(request: Request, settings: Settings, gpus: GpusSeen | None) -> dict[str, Any]:
    return {
        "name": CONTAINER,
        "image": request.profiling.image or settings.profiler_image,
        "command": ["sla-planner"],
        "args": sweep_arguments(request, gpus),
        "env": _environment(settings),
        "resources": request.profiling.resources or settings.job_resources,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_DIR, "readOnly": True},
            {"name": "data", "mountPath": DATA_DIR},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }


def _environment(settings: Settings) -> list[Object]:
    token = {"name": settings.hf_token_secret, "key": settings.hf_token_key, "optional": True}
    return [
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        {"name": "OPENBLAS_NUM_THREADS", "value": "1"},
        {"name": "OMP_NUM_THREADS", "value": "1"},
        *([{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": token}}] if settings.hf_token_secret else []),
    ]
