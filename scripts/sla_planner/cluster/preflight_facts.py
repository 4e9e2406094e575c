"""What preflight knows of a cluster and of a namespace in it. Reads only: lists and gets, no secret's value is kept.

What looks like Dynamo's operator is a Deployment with `dynamo` and `operator` in its name, or so labelled; what is ours carries the label
`app.kubernetes.io/name: sla-planner`, and is not made of a graph: its operator may give a service's labels to what it makes of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sla_planner.cluster.api import KubernetesApi, NotFound, Selector
from sla_planner.cluster.free_gpus import gpus_of_nodes
from sla_planner.cluster.gpu_discovery import PRODUCT
from sla_planner.cluster.pod_trouble import failed, keeps_from_running, when
from sla_planner.cluster.preflight_reader import Reader
from sla_planner.cluster.resources import (
    AUTOSCALERS,
    CONFIG_MAPS,
    DEFINITIONS,
    DEPLOYMENTS,
    EVENTS,
    GRAPHS_ALPHA,
    GRAPHS_BETA,
    LEASES,
    NAMESPACES,
    NODES,
    PODS,
    REQUESTS_ALPHA,
    REQUESTS_BETA,
    SERVICE_ACCOUNTS,
    VOLUME_CLAIMS,
    Object,
    Resource,
    labels_of,
    name_of,
)
from sla_planner.preflight.facts import (
    ClusterFacts,
    Documents,
    GpuNode,
    GraphFacts,
    LeaseFacts,
    NamespaceFacts,
    Operator,
    PodTrouble,
    Refusal,
    StorageClass,
    Unread,
    Workload,
)
from sla_planner.preflight.namespace_checks import accounts_of
from sla_planner.preflight.references import config_maps_named, secrets_named

GPU = "nvidia.com/gpu"
GRAPH_LABEL = "nvidia.com/dynamo-graph-deployment-name"
DEFAULT_CLAIM = "dynamo-pvc"
RECENTLY_S = 3600.0
MOST_TOLD = 5  # pods or refusals; the rest is of the same kind

STORAGE_CLASSES = Resource("storage.k8s.io", "v1", "storageclasses", "StorageClass", namespaced=False)
QUOTAS = Resource("", "v1", "resourcequotas", "ResourceQuota")
LIMIT_RANGES = Resource("", "v1", "limitranges", "LimitRange")
SECRETS = Resource("", "v1", "secrets", "Secret")
CRON_JOBS = Resource("batch", "v1", "cronjobs", "CronJob")
POLICIES = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
SCALED_OBJECTS = Resource("keda.sh", "v1alpha1", "scaledobjects", "ScaledObject")

_OURS = Selector(labels="app.kubernetes.io/name=sla-planner")
_NOT_OVER = Selector(fields="status.phase!=Succeeded,status.phase!=Failed")


def cluster_facts(reader: Reader) -> ClusterFacts:
    """Raises `UnreachableError` when the API server does not answer."""
    version, ahead_s = reader.version_and_clock()
    classes = reader.all_of(STORAGE_CLASSES)
    deployments = reader.all_of(DEPLOYMENTS, namespace="")
    return ClusterFacts(
        version=version,
        clock_ahead_s=ahead_s,
        graph_versions=_served(reader, (GRAPHS_ALPHA, GRAPHS_BETA)),
        request_versions=_served(reader, (REQUESTS_ALPHA, REQUESTS_BETA)),
        request_definition=reader.named(DEFINITIONS, REQUESTS_BETA.name),
        operators=deployments if isinstance(deployments, Unread) else tuple(_operator(each) for each in deployments if _looks_like_operator(each)),
        gpu_nodes=_gpu_nodes(reader),
        storage_classes=classes if isinstance(classes, Unread) else tuple(_storage_class(each) for each in classes),
    )


def namespace_facts(reader: Reader, *, claim: str | None) -> NamespaceFacts:
    """Of `reader.api.namespace`. `claim`: the PVC that is meant; None = the one that is mounted by what is installed."""
    api = reader.api
    ours, deployments = reader.all_of(CRON_JOBS, _OURS), _standing(reader.all_of(DEPLOYMENTS, _OURS))
    workloads, graphs = _workloads(ours, deployments), _graphs(reader)
    graph_planners = tuple(planner for each in _known(graphs) for planner in planners_of(each))
    accounts = _accounts(reader, (*(() if isinstance(workloads, Unread) else workloads), *graph_planners))
    documents = [*_known(graphs), *_known(ours), *_known(deployments), *_known(accounts)]
    secret_uses = tuple(dict.fromkeys(use for each in documents for use in secrets_named(each, name_of(each))))
    mounting = (*_known(ours), *_known(deployments), *_known(graphs))
    map_uses = tuple(dict.fromkeys(use for each in mounting for use in config_maps_named(each, name_of(each))))
    claim = claim or next(_claims_mounted((*_known(ours), *_known(deployments))), DEFAULT_CLAIM)
    return NamespaceFacts(
        name=api.namespace,
        document=reader.named(NAMESPACES, api.namespace),
        quotas=reader.all_of(QUOTAS),
        limit_ranges=reader.all_of(LIMIT_RANGES),
        claim_name=claim,
        claim=reader.named(VOLUME_CLAIMS, claim),
        workloads=workloads,
        graphs=graphs if isinstance(graphs, Unread) else tuple(_graph(each) for each in graphs),
        graph_planners=graph_planners,
        accounts=accounts if isinstance(accounts, Unread) else frozenset(each["metadata"]["name"] for each in accounts),
        secret_uses=secret_uses,
        secrets=_keys(reader, SECRETS, {use.name for use in secret_uses}),
        config_map_uses=map_uses,
        config_maps=_keys(reader, CONFIG_MAPS, {use.name for use in map_uses}),
        pod_troubles=_pod_troubles(reader),
        refusals=_refusals(reader),
        policies=reader.all_of(POLICIES),
        autoscalers=reader.all_of(AUTOSCALERS),
        scaled_objects=reader.all_of(SCALED_OBJECTS),
        deployed_into=_deployed_into(reader),
    )


def lease_facts(reader: Reader, name: str) -> LeaseFacts | Unread | None:
    """None when nobody has made it yet."""
    found = reader.named(LEASES, name)
    if found is None or isinstance(found, Unread):
        return found
    spec = found.get("spec") or {}
    return LeaseFacts(name, str(spec.get("holderIdentity") or ""), age_s(spec.get("renewTime")), float(spec.get("leaseDurationSeconds") or 0))


def age_s(stamp: Any) -> float:
    """Seconds since an RFC 3339 time, by this clock; 0 for what is none."""
    try:
        return max(time.time() - datetime.fromisoformat(str(stamp)).timestamp(), 0.0)
    except ValueError:
        return 0.0


def _known(found: Documents) -> tuple[Mapping[str, Any], ...]:
    return () if isinstance(found, Unread) else found


def _served(reader: Reader, resources: Iterable[Resource]) -> tuple[str, ...]:
    return tuple(each.version for each in resources if reader.told(lambda each=each: reader.api.serves(each)) is True)  # type: ignore[misc]


def _looks_like_operator(found: Object) -> bool:
    labels = labels_of(found)
    words = f"{found['metadata']['name']} {labels.get('app.kubernetes.io/name', '')}".lower()
    return "dynamo" in words and "operator" in words


def _operator(found: Object) -> Operator:
    return Operator(found["metadata"].get("namespace", ""), found["metadata"]["name"], bool((found.get("status") or {}).get("readyReplicas")))


def _storage_class(found: Object) -> StorageClass:
    annotations = found["metadata"].get("annotations") or {}
    default = annotations.get("storageclass.kubernetes.io/is-default-class") == "true"
    return StorageClass(found["metadata"]["name"], default, found.get("volumeBindingMode") == "WaitForFirstConsumer")


def _gpu_nodes(reader: Reader) -> tuple[GpuNode, ...] | Unread:
    nodes = reader.all_of(NODES)
    if isinstance(nodes, Unread):
        return nodes
    gpus = reader.told(lambda: gpus_of_nodes(reader.api, GPU))
    if isinstance(gpus, Unread):
        return gpus
    products = {each["metadata"]["name"]: labels_of(each).get(PRODUCT, "") for each in nodes}
    return tuple(GpuNode(each.name, each.allocatable, each.free, products.get(each.name, "")) for each in gpus)


def _claims_mounted(documents: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for each in documents:
        template = _cron_job(each).pod if each["kind"] == CRON_JOBS.kind else _deployment(each).pod
        volumes = (template.get("spec") or {}).get("volumes") or ()
        yield from (volume["persistentVolumeClaim"]["claimName"] for volume in volumes if "persistentVolumeClaim" in volume)


def _graphs(reader: Reader) -> Documents:
    """At the newest version that is served."""
    for resource in (GRAPHS_BETA, GRAPHS_ALPHA):
        found = reader.all_of(resource)
        if found:
            return found
    return ()


def _deployed_into(reader: Reader) -> tuple[str, ...] | Unread:
    requests = next((found for resource in (REQUESTS_BETA, REQUESTS_ALPHA) if (found := reader.all_of(resource))), ())
    if isinstance(requests, Unread):
        return requests
    named = (((each.get("spec") or {}).get("deploymentOverrides") or {}).get("namespace") for each in requests)
    return tuple(sorted({str(each) for each in named if each} - {reader.api.namespace}))


def _graph(found: Mapping[str, Any]) -> GraphFacts:
    status, metadata = found.get("status") or {}, found["metadata"]
    trouble = failed([dict(found)])
    has_status = bool(status.get("state") or status.get("conditions"))
    return GraphFacts(metadata["name"], age_s(metadata.get("creationTimestamp")), has_status, trouble.what if trouble else "")


def planners_of(graph: Mapping[str, Any]) -> Iterator[Workload]:
    """Its services whose arguments begin with our stage; in both versions the variables are given to the container."""
    spec = graph.get("spec") or {}
    for service in (spec.get("services") or {}).values():
        pod = dict(service.get("extraPodSpec") or {})
        main = pod.pop("mainContainer", None) or {}
        main = {**main, "env": [*(service.get("envs") or ()), *(main.get("env") or ())]}
        yield from _planner_in(graph, service, {"metadata": {"labels": service.get("labels") or {}}, "spec": {**pod, "containers": [main]}})
    for component in spec.get("components") or ():
        yield from _planner_in(graph, component, component.get("podTemplate") or {})


def _planner_in(graph: Mapping[str, Any], service: Mapping[str, Any], pod: Mapping[str, Any]) -> Iterator[Workload]:
    container: Mapping[str, Any] = next(iter((pod.get("spec") or {}).get("containers") or ()), {})
    if list(container.get("args") or ())[:1] == ["planner"]:
        yield Workload(str(graph["kind"]), graph["metadata"]["name"], "planner", bool(service.get("replicas", 1)), pod)


def _standing(deployments: Documents) -> Documents:
    """Those that no operator of Dynamo's has made of a graph."""
    return deployments if isinstance(deployments, Unread) else tuple(each for each in deployments if not _of_a_graph(each))


def _of_a_graph(found: Mapping[str, Any]) -> bool:
    owners = found["metadata"].get("ownerReferences") or ()
    return GRAPH_LABEL in labels_of(found) or any(str(each.get("apiVersion", "")).startswith("nvidia.com/") for each in owners)


def _workloads(cron_jobs: Documents, deployments: Documents) -> tuple[Workload, ...] | Unread:
    if isinstance(cron_jobs, Unread):
        return cron_jobs
    if isinstance(deployments, Unread):
        return deployments
    return (*(_cron_job(each) for each in cron_jobs), *(_deployment(each) for each in deployments))


def _accounts(reader: Reader, workloads: Sequence[Workload]) -> Documents:
    """Of our stages and of what is installed, those that are there; by name, so that no list of all needs to be allowed."""
    found = [reader.named(SERVICE_ACCOUNTS, name) for name in accounts_of(workloads)]
    unread = next((each for each in found if isinstance(each, Unread)), None)
    return unread or tuple(each for each in found if each is not None and not isinstance(each, Unread))


def _cron_job(found: Mapping[str, Any]) -> Workload:
    spec = found["spec"]
    return Workload("CronJob", found["metadata"]["name"], _stage(found), not spec.get("suspend"), spec["jobTemplate"]["spec"]["template"])


def _deployment(found: Mapping[str, Any]) -> Workload:
    return Workload("Deployment", found["metadata"]["name"], _stage(found), bool(found["spec"].get("replicas", 1)), found["spec"]["template"])


def _stage(found: Mapping[str, Any]) -> str:
    return labels_of(found).get("app.kubernetes.io/component", "")


def _keys(reader: Reader, resource: Resource, names: Iterable[str]) -> dict[str, frozenset[str] | Unread | None]:
    keys: dict[str, frozenset[str] | Unread | None] = {}
    for name in sorted(names):
        found = reader.named(resource, name)
        keys[name] = (
            found if found is None or isinstance(found, Unread) else frozenset({**(found.get("data") or {}), **(found.get("binaryData") or {})})
        )
    return keys


class _Clues:
    """Events and logs of pods; nothing where they may not be read."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def events(self, pod: str) -> list[Object]:
        found = self._reader.all_of(EVENTS, Selector(fields=f"regarding.name={pod}"))
        return [] if isinstance(found, Unread) else list(found)

    def container_log(self, pod: str, container: str, *, previous: bool) -> str:
        return _log(self._reader, self._reader.api, pod, container, previous=previous)


def _log(reader: Reader, api: KubernetesApi, pod: str, container: str, *, previous: bool) -> str:
    try:
        found = reader.told(lambda: api.pod_log(pod, container, tail_lines=5, previous=previous))
    except NotFound:
        return ""
    return "" if isinstance(found, Unread) else found


def _pod_troubles(reader: Reader) -> tuple[PodTrouble, ...] | Unread:
    """Of pods that have had the time to start."""
    pods = reader.all_of(PODS, _NOT_OVER)
    if isinstance(pods, Unread):
        return pods
    clues, found = _Clues(reader), []
    for pod in pods:
        trouble = keeps_from_running([pod], clues, gpu_wait_s=0.0)
        if trouble and trouble.patience_s <= age_s(pod["metadata"].get("creationTimestamp")):
            labels = labels_of(pod)
            known = labels.get("app.kubernetes.io/name") == "sla-planner" or GRAPH_LABEL in labels
            found.append(PodTrouble(pod["metadata"]["name"], trouble.kind, trouble.what, known))
    return tuple(found[:MOST_TOLD])


def _refusals(reader: Reader) -> tuple[Refusal, ...] | Unread:
    """Of the last hour, the newest of each maker that has no pod since."""
    events, pods = reader.all_of(EVENTS, Selector(fields="reason=FailedCreate")), reader.all_of(PODS)
    if isinstance(events, Unread):
        return events
    made = [pod["metadata"]["name"] for pod in _known(pods)]
    newest: dict[str, Refusal] = {}
    for event in sorted(events, key=when, reverse=True):
        maker = event.get("regarding") or {}
        name = str(maker.get("name", "?"))
        if age_s(when(event)) <= RECENTLY_S and not any(each.startswith(f"{name}-") for each in made):
            newest.setdefault(name, Refusal(f"{maker.get('kind', 'object')} {name}", " ".join(str(event.get("note", "")).split())[:300]))
    return tuple(newest.values())[:MOST_TOLD]
