"""What a request asks for, the same for both versions of the resource.

A request has one of two shapes, told apart by `spec.profilingConfig`: with it v1alpha1, without it v1beta1. What the version of the resource
calls otherwise, or leaves to defaults, is settled here: whoever reads a `Request` never asks which shape it had.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypeAlias

from sla_planner.sweep.result import Goal

Object: TypeAlias = Mapping[str, Any]

NAME_LABEL = "dgdr.nvidia.com/name"
NAMESPACE_LABEL = "dgdr.nvidia.com/namespace"
UID_LABEL = "slaplanner.io/request-uid"
CLASS_ANNOTATION = "slaplanner.io/request-class"
OUR_CLASS = "sla-planner"


class Method(StrEnum):
    """How the profile is made: engines are measured, or AI Configurator computes it."""

    ONLINE = "online"
    OFFLINE = "offline"


@dataclass(frozen=True, slots=True)
class BaseManifest:
    """Where the DynamoGraphDeployment lies that mappings are applied to."""

    config_map: str
    key: str


@dataclass(frozen=True, slots=True)
class ModelCache:
    """A volume that holds the weights: claim, the folder on it, where workers see it."""

    claim: str
    path: str
    mount_path: str


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """GPUs of one engine and of a node; None: from the cluster's nodes where they may be read, else the sweep's defaults."""

    min_gpus: int | None = None
    max_gpus: int | None = None
    gpus_per_node: int | None = None
    total_gpus: int | None = None
    gpu_type: str | None = None
    """AI Configurator's name of the GPU, e.g. h200_sxm."""
    vram_mib: float | None = None


@dataclass(frozen=True, slots=True)
class Profiling:
    """How the profile is made, and with what. `image` None: the reconciler's own. `resources`, `tolerations`: the Job's, as Kubernetes has them."""

    method: Method
    image: str | None = None
    base: BaseManifest | None = None
    output_claim: str | None = None
    limits: EngineLimits = EngineLimits()
    discover_gpus: bool = False
    prefill_points: int | None = None
    decode_points: int | None = None
    max_context_tokens: int | None = None
    is_moe: bool | None = None
    start_limit_s: float | None = None
    """How long one engine may take to start."""
    dry_run: bool = False
    aic_model: str | None = None
    aic_version: str | None = None
    resources: Object | None = None
    tolerations: tuple[Object, ...] = ()
    job_patch: Object | None = None
    """Merged over the Job's spec (v1beta1 `overrides.profilingJob`)."""


@dataclass(frozen=True, slots=True)
class Deploying:
    """How the generated deployment is called and dressed. `name` None: the request's own. `graph_patch`: merged over what is generated."""

    name: str | None = None
    namespace: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    workers_image: str | None = None
    model_cache: ModelCache | None = None
    planner: Mapping[str, Any] = field(default_factory=dict)
    """Planner settings by their name without dashes, e.g. {"adjustment_interval": 60}."""
    with_planner: bool = True
    trust_remote_code: bool = False
    graph_patch: Object | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `spec`: as it was written. `auto_apply`: deploy without asking. `notes`: what has no effect here, a sentence each."""

    name: str
    namespace: str
    uid: str
    generation: int
    shape: Literal["v1alpha1", "v1beta1"]
    model: str
    backend: Literal["vllm", "sglang", "trtllm"]
    goal: Goal
    profiling: Profiling
    deploying: Deploying
    auto_apply: bool
    spec: Object
    annotations: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def graph_name(self) -> str:
        """Of the DynamoGraphDeployment that is generated."""
        return self.deploying.name or self.name

    @property
    def graph_namespace(self) -> str:
        """Where it goes."""
        return self.deploying.namespace or self.namespace

    @property
    def elsewhere(self) -> bool:
        """Whether that is another namespace than the request's: nothing there can be owned by the request, or mount what is in the request's."""
        return self.graph_namespace != self.namespace


@dataclass(frozen=True, slots=True)
class About:
    """What is known of every request, also of one that cannot be read. `spec`: as it is written now."""

    name: str
    namespace: str
    uid: str
    generation: int
    spec: Object


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with what was written. `path`: e.g. spec.profilingConfig.config.sla.ttft; `message`: with the value; `hint`: what to do."""

    path: str
    message: str
    hint: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}; {self.hint}"
