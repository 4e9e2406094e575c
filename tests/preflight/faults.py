"""Faults of installations: how each is planted in a clean one, which checks tell of it, and words of what they say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.preflight.installation import GRAPH, HERE, Installation, node, pod, stamp, status

Change = Callable[[Installation], object]


def spec(**changes) -> Callable[[dict], object]:
    return lambda found: found["spec"].update(changes)


def services(change: Callable[[dict], object]) -> Change:
    """Change both workers of the graph; their counts stay the planner's."""

    def edited(found):
        for name in ("prefill", "backend"):
            change(found["spec"]["services"][name])

    return lambda cluster: cluster.edit("dynamographdeployments", GRAPH, edited)


def settings(change: Callable[[str], str]) -> Change:
    """Change planner.yaml in its ConfigMap."""

    def edited(found):
        found["data"]["planner.yaml"] = change(found["data"]["planner.yaml"])

    return lambda cluster: cluster.edit(
        "configmaps", next(name for name in cluster.names("configmaps") if name.startswith("planner-config-")), edited
    )


def claim(phase: str, **of_spec) -> Change:
    def edited(found):
        found["spec"].update(of_spec)
        found["status"] = {"phase": phase}

    return lambda cluster: cluster.edit("persistentvolumeclaims", "dynamo-pvc", edited)


def storage_class(cluster: Installation, name: str, **more) -> None:
    cluster.put({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name, **more}}, namespace="")


def refused(note: str, of: str = "planner-7d9") -> Change:
    event = {
        **{"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "refused", "creationTimestamp": stamp(60)}},
        **{"reason": "FailedCreate", "type": "Warning", "note": note, "regarding": {"kind": "ReplicaSet", "name": of}},
    }
    return lambda cluster: cluster.put(event)


def role(name: str, change: Callable[[list], object]) -> Change:
    return lambda cluster: cluster.edit("roles", name, lambda found: change(found["rules"]))


def quota(hard: str, used: str, resource: str) -> Change:
    state = {"hard": {resource: hard}, "used": {resource: used}}
    found = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "team"}, "spec": {"hard": {resource: hard}}, "status": state}
    return lambda cluster: cluster.put(found)


def autoscaler_of(kind: str, name: str) -> Change:
    spec = {"scaleTargetRef": {"apiVersion": "v1", "kind": kind, "name": name}}
    return lambda cluster: cluster.put(
        {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "by-cpu"}, "spec": spec}
    )


def scaled_object(cluster: Installation) -> None:
    reference = {"kind": "DynamoGraphDeployment", "name": GRAPH}
    cluster.put({"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "by-queue"}, "spec": {"scaleTargetRef": reference}})


def scaled_by(manager: str) -> Change:
    def plant(cluster: Installation) -> None:
        cluster.edit("configmaps", "sla-planner-status", lambda found: found["data"].update({"default.status.json": status(scaled=True)}))
        for service, writer in (("backend", "sla-planner"), ("prefill", manager)):
            change = lambda found, name=service: found["spec"]["services"][name].update(replicas=5)  # noqa: E731
            cluster.change("dynamographdeployments", GRAPH, change, namespace=HERE, manager=writer)

    return plant


def second_planner(cluster: Installation) -> None:
    found = cluster.get("cronjobs", "download-results")
    found["metadata"]["name"] = "planner"
    found["metadata"]["labels"]["app.kubernetes.io/component"] = "planner"
    found["spec"]["suspend"] = False
    found["spec"]["jobTemplate"]["spec"]["template"] = cluster.get("deployments", "planner")["spec"]["template"]
    cluster.put(found)


def our_requests_beside_an_operator(cluster: Installation) -> None:
    cluster.serve_requests({"app.kubernetes.io/part-of": "sla-planner"})


def untouched_graph(cluster: Installation) -> None:
    def edited(found):
        found.pop("status")
        found["metadata"]["creationTimestamp"] = stamp(600)

    cluster.edit("dynamographdeployments", GRAPH, edited)


def no_operator(cluster: Installation) -> None:
    cluster.edit("dynamographdeployments", GRAPH, lambda found: (found.pop("status"), found["metadata"].update(creationTimestamp=stamp(10))))
    cluster.uninstall("deployments", namespace="dynamo-system")


def broken_operator(cluster: Installation) -> None:
    cluster.edit("dynamographdeployments", GRAPH, lambda found: (found.pop("status"), found["metadata"].update(creationTimestamp=stamp(10))))
    name = "dynamo-platform-operator-controller-manager"
    cluster.edit("deployments", name, lambda found: found.pop("status"), namespace="dynamo-system")


def failed_graph(cluster: Installation) -> None:
    condition = {"type": "Ready", "status": "False", "message": "no such backend"}
    cluster.edit("dynamographdeployments", GRAPH, lambda found: found.update(status={"state": "failed", "conditions": [condition]}))


def busy_nodes(cluster: Installation) -> None:
    for name in ("gpu-1", "gpu-2"):
        holder = pod(f"holder-{name}")
        holder["spec"] = {"nodeName": name, "containers": [{"resources": {"requests": {"nvidia.com/gpu": "8"}}}]}
        holder["status"] = {"phase": "Running"}
        cluster.put(holder, namespace="elsewhere")


def nodes_without_gpus(cluster: Installation) -> None:
    for name in ("gpu-1", "gpu-2"):
        cluster.put(node(name, gpus=0), namespace="")


def large_workers(cluster: Installation) -> None:
    services(lambda worker: worker.update(resources={"limits": {"gpu": "16"}}))(cluster)
    cluster.prometheus.requests = 0


def started_with(tp: int, gpus: int) -> Change:
    def edited(worker):
        arguments = worker["extraPodSpec"]["mainContainer"]["args"]
        arguments[arguments.index("--tensor-parallel-size") + 1] = str(tp)
        worker["resources"]["limits"]["gpu"] = str(gpus)

    return services(edited)


def other_model(worker):
    arguments = worker["extraPodSpec"]["mainContainer"]["args"]
    arguments[arguments.index("--model") + 1] = "Qwen/Qwen3-32B"


def on(prometheus: str, value: object) -> Change:
    return lambda cluster: setattr(cluster.prometheus, prometheus, value)


@dataclass(frozen=True)
class Fault:
    """`finds`: the checks that tell of it, and no other. `what`, `fix`: words of the first of them."""

    plant: Change
    finds: tuple[str, ...]
    what: str
    fix: str
    code: int = 2


def problem(plant: Change, check: str, what: str, fix: str, *more: str) -> Fault:
    return Fault(plant, (check, *more), what, fix)


def warning(plant: Change, check: str, what: str, fix: str, *also: str) -> Fault:
    return Fault(plant, (check, *also), what, fix, 0)


K = f"kubectl -n {HERE}"
FAULTS = {
    # the cluster
    "an old Kubernetes": problem(lambda it: setattr(it, "version", "v1.29.4"), "kubernetes-version", "v1.29.4 is older than 1.31", "kubectl version"),
    "a Kubernetes that nobody has tried": warning(lambda it: setattr(it, "version", "v1.44.0"), "kubernetes-version", "newer", "kubectl apply -k ."),
    "a wrong clock": warning(lambda it: setattr(it, "clock_ahead_s", 40.0), "clock", "this clock is 40 s behind the API server's", "timedatectl"),
    "no definition of graphs": problem(
        lambda it: it.unserve("dynamographdeployments"), "graph-definition", "this cluster has no DynamoGraphDeployment", "kubectl get crd", "targets"
    ),
    "an operator that is asleep": problem(untouched_graph, "operator", f"nobody has looked at {GRAPH}", "kubectl get deployments --all-namespaces"),
    "no operator": warning(no_operator, "operator", "no Deployment looks like Dynamo's operator", "kubectl get deployments --all-namespaces"),
    "an operator without a pod": problem(
        broken_operator, "operator", "has no ready pod", "kubectl -n dynamo-system describe deployment/dynamo-platform"
    ),
    "our definition of requests beside an operator": warning(
        our_requests_beside_an_operator,
        *("request-definition", "Dynamo's operator dynamo-system/dynamo-platform", "kubectl apply -k YOUR_OVERLAY", "requests"),
    ),
    "a graph that the operator gave up": problem(failed_graph, "graph-status", "no such backend", f"{K} describe dynamographdeployment {GRAPH}"),
    "no GPUs": problem(nodes_without_gpus, "gpus", "no ready node has allocatable nvidia.com/gpu", "kubectl get nodes"),
    "all GPUs in use": warning(busy_nodes, "gpus", "all 16 GPUs of 2 nodes are in use", "kubectl get pods --all-namespaces"),
    "workers larger than any node": problem(
        large_workers, "gpus", "needs 16 GPUs, the largest node has 8", f"{K} edit dynamographdeployment/{GRAPH}", "gpus", "profile-mapping"
    ),
    "GPUs without a label": warning(
        lambda it: it.put(node("gpu-1", product=""), namespace=""), "gpu-labels", "gpu-1 (1 of 2)", "kubectl label node gpu-1 nvidia.com/gpu.product="
    ),
    "two kinds of GPUs": warning(
        lambda it: it.put(node("gpu-1", product="NVIDIA-L40S"), namespace=""), "gpu-labels", "NVIDIA-H200, NVIDIA-L40S", "kubectl get nodes"
    ),
    # the namespace
    "a quota that is used up": warning(quota("8", "8", "requests.nvidia.com/gpu"), "quota", "8 of 8 are used", f"{K} edit resourcequota team"),
    "a quota on memory": problem(quota("1Gi", "960Mi", "limits.memory"), "quota", "too little limits.memory", f"{K} edit resourcequota team"),
    "a LimitRange above our pods": problem(
        lambda it: it.put(
            {
                **{"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "large"}},
                "spec": {"limits": [{"type": "Container", "min": {"memory": "256Mi"}}]},
            }
        ),
        *("limit-range", "wants at least 256Mi memory", f"{K} edit limitrange large"),
    ),
    "no volume": problem(
        lambda it: it.drop("persistentvolumeclaims", "dynamo-pvc"), "volume", "there is no PersistentVolumeClaim", "kubectl apply -k ."
    ),
    "a volume of no class": problem(
        claim("Pending", storageClassName="fast"), "volume", "the storage class fast, which does not exist", f"{K} delete pvc"
    ),
    "a volume without a default class": problem(claim("Pending"), "volume", "the cluster has no default one", "kubectl patch storageclass"),
    "a volume that nobody makes": problem(
        lambda it: (claim("Pending", storageClassName="slow")(it), storage_class(it, "slow")),
        "volume",
        "is not bound",
        f"{K} describe pvc dynamo-pvc",
    ),
    "a lost volume": problem(claim("Lost"), "volume", "is lost", f"{K} delete pvc dynamo-pvc"),
    "a volume that cannot be written": problem(
        claim("Bound", accessModes=["ReadOnlyMany"]), "volume-access-mode", "has the access mode ReadOnlyMany", f"{K} delete pvc dynamo-pvc"
    ),
    "a volume for one pod": warning(claim("Bound", accessModes=["ReadWriteOncePod"]), "volume-access-mode", "ReadWriteOncePod", f"{K} delete pvc"),
    "no account": problem(
        lambda it: it.drop("serviceaccounts", "planner"),
        "service-accounts",
        "there is no ServiceAccount planner",
        f"{K} apply -f jobs/planner/service",
    ),
    "no pull secret": problem(
        services(lambda worker: worker["extraPodSpec"].update(imagePullSecrets=[{"name": "nvcr"}])),
        *("pull-secrets", f"DynamoGraphDeployment/{GRAPH} names the Secret nvcr, which is not there", f"{K} create secret docker-registry nvcr"),
    ),
    "no token": warning(
        lambda it: it.drop("secrets", "hf-token-secret"), "model-token", "hf-token-secret, which is not there", f"{K} create secret generic"
    ),
    "a token under another key": problem(
        lambda it: it.edit("secrets", "hf-token-secret", lambda found: found.update(data={"token": "aGY="})),
        *("model-token", "has no key HF_TOKEN", f"{K} patch secret hf-token-secret"),
    ),
    "no Secret that workers need": problem(
        services(lambda worker: worker.update(envFromSecret="engine-keys")),
        "secrets",
        "names the Secret engine-keys",
        f"{K} create secret generic engine-keys",
    ),
    "no ConfigMap of a job": problem(
        lambda it: it.drop("configmaps", next(name for name in it.names("configmaps") if name.startswith("sweep-config-"))),
        *("config-maps", "CronJob/profile-sweep mounts the ConfigMap sweep-config-", f"kubectl apply -k . -n {HERE}"),
    ),
    "no profile yet": problem(
        lambda it: it.drop("configmaps", "planner-profile-data"),
        "config-maps",
        "planner-profile-data, which is not there yet",
        f"{K} create job sweep-1",
        "profile",
    ),
    "Pod Security refuses": problem(
        refused('pods "x" is forbidden: violates PodSecurity "restricted:latest"'),
        "refused-pods",
        "violates PodSecurity",
        f"kubectl label namespace {HERE}",
    ),
    "a quota refuses": problem(refused("exceeded quota: team, requested: pods=1"), "refused-pods", "exceeded quota", f"{K} describe resourcequota"),
    "an account is missing to a pod": problem(refused('serviceaccount "x" not found'), "refused-pods", "not found", f"kubectl apply -k . -n {HERE}"),
    "an image that cannot be pulled": problem(
        lambda it: it.put(pod("engine-0", waiting="ErrImagePull", message="manifest unknown")),
        "pods",
        "manifest unknown",
        f"{K} describe pod engine-0",
    ),
    "a pod that finds no node": problem(
        lambda it: it.put(pod("engine-0", unplaced="0/2 nodes are available: 2 node(s) had untolerated taint")),
        "pods",
        "untolerated",
        f"{K} describe pod",
    ),
    # rights
    "a verb is missing": problem(
        role("planner", lambda rules: rules[4].update(verbs=["get"])),
        *("rights-of-planner", f"planner may not patch dynamographdeployments.nvidia.com {GRAPH}", f"{K} create role planner-more-1 --verb=patch"),
    ),
    "a right of the Lease is missing": problem(
        lambda it: it.drop("rolebindings", "planner-lease"), "rights-of-planner", "create leases.coordination.k8s.io", f"{K} create role planner-more"
    ),
    "no Role is bound": problem(
        lambda it: it.uninstall("rolebindings"),
        "rights-of-planner",
        "may do nothing",
        f"{K} apply -f jobs/planner/role.yaml",
        "rights-of-profile-sweep",
    ),
    "the sweep may not clean up": problem(
        role("profile-sweep", lambda rules: rules[6].update(verbs=["create", "get"])),
        *(
            "rights-of-profile-sweep",
            "may not delete dynamographdeployments.nvidia.com",
            "--verb=delete --resource=dynamographdeployments.nvidia.com",
        ),
    ),
    # metrics
    "Prometheus with another clock": warning(on("ahead_s", -10.0), "metrics-clock", "10 s ahead of Prometheus'", "timedatectl"),
    "Prometheus in another time": problem(on("ahead_s", 90.0), "metrics-clock", "90 s behind Prometheus'", "timedatectl"),
    "the frontend is not scraped": problem(on("up", {}), "scraped", "which scrapes 9 servers, none of them the frontend", "kubectl get podmonitors"),
    "the frontend cannot be scraped": problem(
        lambda it: (on("up", {})(it), on("lost", [{"job": "frontend", "instance": "10.0.0.7:8000"}])(it)),
        *("scraped", "which cannot scrape 10.0.0.7:8000 (job frontend)", f"{K} get pods,networkpolicies"),
    ),
    "one frontend of two is lost": problem(
        on("up", {("frontend", "10.0.0.7:8000"): 1, ("frontend", "10.0.0.8:8000"): 0}), "scraped", "10.0.0.8:8000", f"{K} get pods,networkpolicies"
    ),
    "the frontend is scraped twice": problem(
        on("up", {("frontend", "10.0.0.7:8000"): 1, ("annotations", "10.0.0.7:8000"): 1}),
        "scraped-once",
        "by 2 jobs",
        "kubectl get podmonitors,service",
    ),
    "scraped too rarely": warning(on("every_s", 60.0), "scrape-interval", "every 60 s, the planner decides every 30 s", "kubectl get podmonitors"),
    "another model": problem(
        settings(lambda text: text + "model_name: llama\n"), "model", "no metrics of the model llama", "curl http://FRONTEND:8000/v1/models"
    ),
    "another Dynamo namespace": problem(
        lambda it: (settings(lambda text: text + "namespace: prod\n")(it), on("labels", {"model": "m", "dynamo_namespace": "here-prod"})(it)),
        *("model", "no metrics of the Dynamo namespace prod; there are: here-prod", "kubectl get podmonitors"),
    ),
    "nobody streams": problem(on("first_tokens", 0), "streaming", "120 requests, none of them streaming", '"stream":true'),
    "few stream": warning(on("first_tokens", 12), "streaming", "only 12 of 120 requests stream", '"stream":true'),
    # what is scaled
    "no such graph": problem(
        lambda it: (settings(lambda text: text.replace(f"graph_deployment: {GRAPH}", "graph_deployment: chat"))(it), role("planner", name_chat)(it)),
        *("targets", '"chat" not found', f"{K} get dynamographdeployments"),
    ),
    "a graph of one role": problem(
        lambda it: it.edit("dynamographdeployments", GRAPH, lambda found: found["spec"]["services"].pop("prefill")),
        *("targets", "one service of workers", f"{K} get dynamographdeployments"),
    ),
    "a forgotten pause": warning(
        lambda it: it.edit("dynamographdeployments", GRAPH, lambda found: found["metadata"].update(annotations={"slaplanner.io/paused": "true"})),
        *("paused", "carries the annotation slaplanner.io/paused", f"{K} annotate dynamographdeployment {GRAPH} slaplanner.io/paused-"),
    ),
    "an HPA on the same replicas": problem(
        autoscaler_of("DynamoGraphDeployment", GRAPH), "other-autoscaler", "HorizontalPodAutoscaler by-cpu scales", f"{K} delete hpa by-cpu"
    ),
    "an HPA on what the operator makes": problem(
        autoscaler_of("Deployment", f"{GRAPH}-prefill"), "other-autoscaler", "HorizontalPodAutoscaler by-cpu scales", f"{K} delete hpa by-cpu"
    ),
    "KEDA on the same replicas": problem(scaled_object, "other-autoscaler", "KEDA ScaledObject by-queue scales", f"{K} delete scaledobject by-queue"),
    "Argo CD on the same replicas": problem(
        scaled_by("argocd-controller"), "gitops", "argocd-controller holds the replicas", "kubectl -n here get dynamo"
    ),
    "somebody else's hand": warning(
        scaled_by("kubectl-edit"), "other-writer", "kubectl-edit has set the replicas", f"{K} get dynamographdeployment/{GRAPH}"
    ),
    "an engine that is not the profile's": problem(
        started_with(2, 2), "profile-mapping", "a prefill worker of", f"{K} create job sweep-1", "profile-mapping"
    ),
    "an engine that cannot start": problem(
        started_with(2, 1), "tensor-parallel", "started with TP 2 and has 1 GPU", f"{K} edit dynamographdeployment"
    ),
    "the profile of another model": problem(
        services(other_model),
        "profile-model",
        "serves Qwen/Qwen3-32B for prefill, the profile is of Qwen/Qwen3-0.6B",
        f"{K} create job sweep-1",
        "profile-model",
    ),
    "a damaged profile": problem(
        lambda it: it.edit("configmaps", "planner-profile-data", lambda found: found.update(data={"profile.json": "{"})),
        "profile",
        "cannot be used",
        f"{K} create job sweep-1",
    ),
    # the planner
    "settings that do not load": problem(settings(lambda text: text + "tpot: 3\n"), "settings", "unknown key", "kubectl apply -k YOUR_OVERLAY"),
    "nobody plans": warning(
        lambda it: it.edit("deployments", "planner", spec(replicas=0)),
        "runs",
        "the planner is installed, and scaled to zero",
        f"{K} scale deployment planner",
    ),
    "two planners": problem(second_planner, "runs", "two planners run: CronJob planner and Deployment planner", f"{K} patch cronjob planner"),
    "no memory": problem(
        lambda it: it.drop("configmaps", "sla-planner-status"),
        "status",
        "there is no ConfigMap sla-planner-status",
        f"{K} apply -f jobs/planner/status.yaml",
    ),
    "no decision for long": problem(
        lambda it: it.edit("configmaps", "sla-planner-status", lambda found: found.update(data={"default.status.json": status(age_s=3600)})),
        *("last-decision", "is 60 min old", f"{K} logs --selector"),
    ),
    "a Lease of the dead": warning(
        lambda it: it.edit("leases", "planner", spec(renewTime=stamp(300))), "lease", "s ago, and it lasts 15 s", f"{K} get deployment planner"
    ),
    "a policy that cuts Prometheus off": warning(
        lambda it: it.edit("networkpolicies", "planner", lambda found: found["spec"]["egress"].pop(2)),
        *("network-policy", "no network policy lets the planner connect to port", f"{K} patch networkpolicy planner"),
    ),
}


def name_chat(rules):
    rules[4]["resourceNames"] = ["chat"]
