"""What the cluster shows of one request at one moment. Filled by the stage, read by `lifecycle.step`.

Every field is a fact or "not known" (`None`, with the reason in `unknown`): nothing is guessed from an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

from sla_planner.request.spec import Object


class JobState(StrEnum):
    """Of the profiling Job."""

    WAITING = "waiting"  # no container of its pod has started
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a sweep is: it measures `mapping` (e.g. `prefill TP:2`), the `point`-th of `points` in all, and needs `eta_s` more (None: unknown)."""

    phase: str
    """One of v1beta1's: Initializing, SweepingPrefill, SweepingDecode, SelectingConfig, BuildingCurves, GeneratingDGD, Done."""
    mapping: str
    point: int
    points: int
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class JobSeen:
    """The Job of this request's name. `ours`: made for this very request (its uid). `verdict`: the sweep's last line; `exit_code`: of its container.

    `trouble`: why its pod does not start or run, in words, and `trouble_reason` (Unschedulable, FailedMount ...); `no_image`: an image is
    not pulled; `waiting_s`: how long that pod waits, for whatever.
    """

    name: str
    ours: bool
    state: JobState
    verdict: str = ""
    exit_code: int | None = None
    trouble: str = ""
    trouble_reason: str = ""
    no_image: bool = False
    waiting_s: float = 0.0
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class ProfileSeen:
    """What the sweep published: is the promise kept (`feasible`), by which mappings, in words. `files`: the data of the ConfigMap.

    `owners`: uids of who owns the ConfigMap.
    """

    config_map: str
    feasible: bool
    prefill: str
    decode: str
    digest: str
    files: Mapping[str, str]
    owners: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CopySeen:
    """The ConfigMap of the profile in the deployment's namespace. `owners`: uids."""

    ours: bool
    files: Mapping[str, str]
    owners: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GraphSeen:
    """The DynamoGraphDeployment of this request's name. `ours`: its labels name this request. `trouble`: of its pods, in words; '' = none."""

    name: str
    namespace: str
    uid: str
    ours: bool
    ready: bool
    state: str
    replicas: int = 0
    available_replicas: int = 0
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class GpusSeen:
    """GPUs of the cluster as its nodes tell them. `product`: as labelled; `system`: AI Configurator's name of it, '' where there is none."""

    largest_node: int
    total: int
    product: str = ""
    system: str = ""
    vram_mib: float | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """`unknown`: what could not be looked at -> why. `base`: text of the base manifest, None while it is not there, then `base_trouble` says why.

    `alone`: no other request that is
    alive in the namespace. `frozen`: the spec that was put by for profiling (None before). `held`: the data of this request's ConfigMaps, by their
    name. `in_the_way`: objects that have the names of this request's and are not its own. `shared_taken`: `planner-profile-data` is there and is
    somebody else's. `graph_api`: whether DynamoGraphDeployments are served.
    The Job is looked at before the profile, so that a Job that is done has published.
    `unknown` has the names of the fields here: job, profile, frozen, base, graph, graph_api, gpus, missing, held, copy.
    """

    alone: bool
    graph_api: bool
    base: str | None = None
    base_trouble: str = ""
    job: JobSeen | None = None
    profile: ProfileSeen | None = None
    graph: GraphSeen | None = None
    gpus: GpusSeen | None = None
    missing: tuple[str, ...] = ()
    """Objects that the request needs and that are not there, each with the remedy: the claim, ServiceAccounts."""
    in_the_way: tuple[str, ...] = ()
    """Each in words: `ConfigMap planner-profile-data-x`. A Job or a deployment of that kind is told by its `ours`."""
    shared_taken: bool = False
    copy: CopySeen | None = None
    """Only where the deployment goes to another namespace."""
    rights_missing: str = ""
    """Who may not do what in that namespace, as a sentence; '' where nothing is missing, or the cluster does not say."""
    frozen: Object | None = None
    held: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)


Status: TypeAlias = Mapping[str, Any]
"""The status as it is in the resource: fields of both versions side by side."""
