"""What is known of an installation. Whatever could not be read is an `Unread` that says why; None is something that is not there.

Objects of Kubernetes are documents as the API sends them where checks look at many of their fields, else the few fields that matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sla_planner.preflight.rights import Right

Document = Mapping[str, Any]
PART_OF = "app.kubernetes.io/part-of"


@dataclass(frozen=True, slots=True)
class Unread:
    """`because`: `ana may not list nodes`. `unreachable`: nobody answered."""

    because: str
    unreachable: bool = False


@dataclass(frozen=True, slots=True)
class Wrong:
    """It was read, and cannot be used. In the words of whoever tried: what is wrong, and what to do."""

    what: str
    hint: str = ""


Documents = tuple[Document, ...] | Unread


# ---- the cluster ----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Operator:
    """A Deployment that looks like Dynamo's operator."""

    namespace: str
    name: str
    ready: bool


@dataclass(frozen=True, slots=True)
class GpuNode:
    """`product`: what the GPU is, by the node's label; '' without that label."""

    name: str
    allocatable: int
    free: int
    product: str = ""


@dataclass(frozen=True, slots=True)
class StorageClass:
    """`waits_for_pod`: it makes a volume when the first pod mounts it."""

    name: str
    default: bool
    waits_for_pod: bool


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """`version`: as the server tells it, `v1.36.3`. `clock_ahead_s`: this clock less the API server's.

    `graph_versions`, `request_versions`: of DynamoGraphDeployment and DynamoGraphDeploymentRequest, those that are served.
    `request_definition`: the CRD of the latter.
    """

    version: str | Unread = ""
    clock_ahead_s: float | Unread = 0.0
    graph_versions: tuple[str, ...] = ()
    request_versions: tuple[str, ...] = ()
    request_definition: Document | Unread | None = None
    operators: tuple[Operator, ...] | Unread = ()
    gpu_nodes: tuple[GpuNode, ...] | Unread = ()
    storage_classes: tuple[StorageClass, ...] | Unread = ()

    @property
    def requests_are_ours(self) -> bool:
        """Our definition carries our label; False also where it may not be seen."""
        definition = self.request_definition
        if not self.request_versions or definition is None or isinstance(definition, Unread):
            return False
        labels = (definition.get("metadata") or {}).get("labels") or {}
        return bool(labels.get(PART_OF) == "sla-planner")


# ---- the namespace --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Workload:
    """A CronJob or a Deployment of ours, or the planner of a graph, called after it.

    `runs`: it is not suspended, or has replicas. `pod`: the template of its pods.
    """

    kind: str
    name: str
    stage: str
    runs: bool
    pod: Document

    @property
    def account(self) -> str:
        """The ServiceAccount that its pods run as."""
        return str((self.pod.get("spec") or {}).get("serviceAccountName") or "default")


@dataclass(frozen=True, slots=True)
class PodTrouble:
    """What keeps a pod from running, in the words of the scheduler or the kubelet. `kind` as in `cluster/pod_trouble.py`.

    `known`: the pod is one of SLA Planner's or of a graph, by its labels.
    """

    pod: str
    kind: str
    what: str
    known: bool = True


@dataclass(frozen=True, slots=True)
class Refusal:
    """`of`: what wanted a pod and did not get one (`Job planner-29`); `said`: the API server's words."""

    of: str
    said: str


@dataclass(frozen=True, slots=True)
class Use:
    """A Secret or a ConfigMap that `by` names. `key` '' = the whole of it; `pulls`: images are pulled with it; `optional`: nothing waits for it."""

    name: str
    by: str
    key: str = ""
    pulls: bool = False
    optional: bool = False


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """A DynamoGraphDeployment. `age_s`: since it was made; `has_status`: somebody has looked at it; `trouble`: in the operator's words."""

    name: str
    age_s: float
    has_status: bool = True
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class NamespaceFacts:
    """`document` None: there is no such namespace. `graph_planners`: services of graphs that are planners of ours.

    `secrets`, `config_maps`: of those that are named, the keys. `deployed_into`: other namespaces that requests of this one are deployed into.
    """

    name: str
    document: Document | Unread | None = field(default_factory=dict)
    quotas: Documents = ()
    limit_ranges: Documents = ()
    claim_name: str = "dynamo-pvc"
    claim: Document | Unread | None = None
    workloads: tuple[Workload, ...] | Unread = ()
    graphs: tuple[GraphFacts, ...] | Unread = ()
    graph_planners: tuple[Workload, ...] = ()
    accounts: frozenset[str] | Unread = frozenset()
    secret_uses: tuple[Use, ...] = ()
    secrets: Mapping[str, frozenset[str] | Unread | None] = field(default_factory=dict)
    config_map_uses: tuple[Use, ...] = ()
    config_maps: Mapping[str, frozenset[str] | Unread | None] = field(default_factory=dict)
    pod_troubles: tuple[PodTrouble, ...] | Unread = ()
    refusals: tuple[Refusal, ...] | Unread = ()
    policies: Documents = ()
    autoscalers: Documents = ()
    scaled_objects: Documents = ()
    deployed_into: tuple[str, ...] | Unread = ()


@dataclass(frozen=True, slots=True)
class RightsElsewhere:
    """Of who works on requests, in another namespace. `grant`: the command that gives them, for whoever may."""

    namespace: str
    granted: Mapping[Right, bool] | Unread
    grant: str


@dataclass(frozen=True, slots=True)
class RightsFacts:
    """By name of a ServiceAccount, what it may do of what its stage needs. `own`: of whoever runs this, what carries files to and from the volume.

    `sweep_ways`: the sweep works with any one of these sets. `reconciler_view`: of the cluster, for who works on requests;
    `deployed_into`: of other namespaces.
    """

    accounts: Mapping[str, Mapping[Right, bool] | Unread] = field(default_factory=dict)
    sweep_ways: tuple[Mapping[Right, bool], ...] = ()
    reconciler_view: Mapping[Right, bool] | Unread | None = None
    deployed_into: tuple[RightsElsewhere, ...] = ()
    own: Mapping[Right, bool] | Unread | None = None


# ---- a target -------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RoleFacts:
    """Where the count of one role is kept. `holder`: as kubectl is told it, `deployment/prefill`; `owners`: field managers that hold the count.

    `made`: the Deployment that Dynamo's operator makes of it. `pods`, `gpus`: of one worker, `gpus` 0 = not said. `tp`, `model`: as the engine is
    started, None where that is not seen.
    """

    role: str
    holder: str
    kind: str
    name: str
    replicas: int
    owners: tuple[str, ...] = ()
    paused_by: str = ""
    made: str = ""
    pods: int = 1
    gpus: int = 0
    tp: int | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class ProfileFacts:
    """`prefill_gpus`, `decode_gpus`, `..._tp`: of the mappings that the sweep picked."""

    place: str
    model: str
    prefill_tp: int
    prefill_gpus: int
    decode_tp: int
    decode_gpus: int


@dataclass(frozen=True, slots=True)
class Scraped:
    """A server that exports the metrics. `every_s`: how often it is scraped; None = read by the planner itself, or not known."""

    job: str
    instance: str
    up: bool = True
    every_s: float | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """What one server has counted for one model since it started. `streamed`: requests with a TTFT; None = that is not exported."""

    job: str
    instance: str
    model: str
    dynamo_namespace: str
    requests: float
    streamed: float | None


@dataclass(frozen=True, slots=True)
class TrafficFacts:
    """`clock_ahead_s`: this clock less Prometheus'; None for pages. `scraped`: how many servers of any kind are; `down`: some that cannot be.

    `counted`: the metrics count requests at all.
    """

    clock_ahead_s: float | None = None
    servers: tuple[Scraped, ...] = ()
    served: tuple[Served, ...] = ()
    scraped: int = 0
    down: tuple[str, ...] = ()
    counted: bool = True


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """One target of the planner's settings.

    `url`: where its metrics were looked at, a Prometheus or (`direct`) a page; `planner_url`: where the planner reads them, maybe under another name.
    `graph`: the DynamoGraphDeployment that is scaled, '' = none. `of`: the graph whose own planner has this target, '' = none's.
    `last_scaled`: the roles whose count the planner changed when it scaled last.
    """

    name: str
    namespace: str
    url: str = ""
    planner_url: str = ""
    direct: bool = False
    family: str = "dynamo"
    interval_s: float = 60.0
    model: str = ""
    dynamo_namespace: str = ""
    traffic: TrafficFacts | Unread | Wrong | None = None
    graph: str = ""
    of: str = ""
    roles: tuple[RoleFacts, ...] | Unread | Wrong = ()
    profile: ProfileFacts | Unread | Wrong | None = None
    last_decision_age_s: float | None = None
    last_scaled: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class LeaseFacts:
    """`quiet_s`: since its holder renewed it last; `duration_s`: after which another may take it."""

    name: str
    holder: str
    quiet_s: float
    duration_s: float


@dataclass(frozen=True, slots=True)
class PlannerFacts:
    """`source`: where the settings were read, in words; '' = no targets were given. `state`: the ConfigMap of its memory, '' = it has none there.

    `of`: the graph that it is a service of, '' = of none.
    """

    source: str = ""
    settings: Wrong | Unread | None = None
    state: str = ""
    state_found: bool | Unread = True
    lease: LeaseFacts | Unread | None = None
    of: str = ""

    @property
    def who(self) -> str:
        return f"the planner of graph {self.of}" if self.of else "the planner"


@dataclass(frozen=True, slots=True)
class Facts:
    """All of it. Commands of findings name files relative to the root of a checkout."""

    cluster: ClusterFacts
    namespace: NamespaceFacts
    rights: RightsFacts
    planner: PlannerFacts
    graph_planners: tuple[PlannerFacts, ...] = ()
    targets: tuple[TargetFacts, ...] = ()

    @property
    def planners(self) -> tuple[PlannerFacts, ...]:
        """The one that stands by itself, then those of graphs."""
        return (self.planner, *self.graph_planners)

    def targets_of(self, planner: PlannerFacts) -> tuple[TargetFacts, ...]:
        return tuple(each for each in self.targets if each.of == planner.of)

    @property
    def kubectl(self) -> str:
        """How every command begins."""
        return f"kubectl -n {self.namespace.name}"
