"""Each check on facts made by hand: found where the fault is, quiet where it is not. What faults look like in a cluster: tests/stages."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sla_planner.preflight.checks import exit_code_of, findings_of, verdict_of
from sla_planner.preflight.facts import (
    ClusterFacts,
    Facts,
    GpuNode,
    GraphFacts,
    LeaseFacts,
    NamespaceFacts,
    Operator,
    PlannerFacts,
    PodTrouble,
    ProfileFacts,
    Refusal,
    RightsFacts,
    RoleFacts,
    Scraped,
    Served,
    TargetFacts,
    TrafficFacts,
    Unread,
    Use,
    Workload,
    Wrong,
)
from sla_planner.preflight.finding import Area, Check, Severity
from sla_planner.preflight.namespace_checks import quantity
from sla_planner.preflight.rights import Right

PREFILL = RoleFacts("prefill", "deployment/in", "Deployment", "in", 2, owners=("sla-planner",), gpus=2, tp=2, model="org/llama")
DECODE = RoleFacts("decode", "deployment/out", "Deployment", "out", 3, owners=("sla-planner",), gpus=4, tp=4, model="/models/llama/")
TARGET = TargetFacts(
    name="chat",
    namespace="llm",
    url="http://127.0.0.1:9999",
    planner_url="http://prometheus:9090",
    interval_s=60.0,
    model="llama",
    traffic=TrafficFacts(0.1, (Scraped("web", "a:8000", every_s=15.0),), (Served("web", "a:8000", "Llama", "", 10.0, 10.0),)),
    roles=(PREFILL, DECODE),
    profile=ProfileFacts("/profile", "llama", 2, 2, 4, 4),
    last_decision_age_s=30.0,
)
POLICY = {
    "metadata": {"name": "planner"},
    "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": [{"protocol": "TCP", "port": 9090}]}]},
}
LIST_PODS, SCALE = Right("list", "", "pods"), Right("patch", "apps", "deployments/scale", "in")
CLEAN = Facts(
    cluster=ClusterFacts(
        version="v1.36.0", graph_versions=("v1alpha1",), gpu_nodes=(GpuNode("n", 8, 4, "H200"),), operators=(Operator("d", "o", True),)
    ),
    namespace=NamespaceFacts(
        name="llm",
        claim={"spec": {"accessModes": ["ReadWriteMany"]}, "status": {"phase": "Bound"}},
        workloads=(Workload("Deployment", "planner", "planner", True, {"spec": {"serviceAccountName": "planner"}}),),
        graphs=(GraphFacts("chat", 900.0),),
        accounts=frozenset({"planner", "profile-sweep", "inject-config", "download-results"}),
        secret_uses=(Use("pull", "graph", pulls=True), Use("hf-token-secret", "graph", key="HF_TOKEN")),
        secrets={"pull": frozenset({".dockerconfigjson"}), "hf-token-secret": frozenset({"HF_TOKEN"})},
        policies=(POLICY,),
    ),
    rights=RightsFacts({"planner": {LIST_PODS: True, SCALE: True}}, own={LIST_PODS: True}),
    planner=PlannerFacts("planner.yaml", state="memory", lease=LeaseFacts("planner", "planner-0", 3.0, 15.0)),
    targets=(TARGET,),
)


def cluster(**changes) -> Facts:
    return replace(CLEAN, cluster=replace(CLEAN.cluster, **changes))


def namespace(**changes) -> Facts:
    return replace(CLEAN, namespace=replace(CLEAN.namespace, **changes))


def target(**changes) -> Facts:
    return replace(CLEAN, targets=(replace(TARGET, **changes),))


def role(**changes) -> Facts:
    return target(roles=(replace(PREFILL, **changes), DECODE))


def traffic(**changes) -> Facts:
    return target(traffic=replace(TARGET.traffic, **changes))


def served(**changes) -> Facts:
    return traffic(served=(replace(TARGET.traffic.served[0], **changes),))


def planner(**changes) -> Facts:
    return replace(CLEAN, planner=replace(CLEAN.planner, **changes))


def workload(**changes) -> Facts:
    return namespace(workloads=(replace(CLEAN.namespace.workloads[0], **changes),))


def quota(resource, hard, used):
    return namespace(quotas=({"metadata": {"name": "q"}, "status": {"hard": {resource: hard}, "used": {resource: used}}},))


def scaler(kind, name):
    return {"metadata": {"name": "hpa"}, "spec": {"scaleTargetRef": {"kind": kind, "name": name}}}


def memory(least, most):
    limit = {"type": "Container", "min": {"memory": least}, "max": {"memory": most}}
    return namespace(limit_ranges=({"metadata": {"name": "l"}, "spec": {"limits": [limit]}},))


def policy(*rules):
    return namespace(policies=({"metadata": {"name": "deny"}, "spec": {"policyTypes": ["Egress"], "egress": list(rules)}},))


UNPUBLISHED = namespace(config_map_uses=(Use("planner-profile-data", "CronJob/x", optional=True),))
PROBLEM, WARNING, UNCHECKED = Severity.PROBLEM, Severity.WARNING, Severity.UNCHECKED


def told(facts):
    """What is neither fine nor unseen."""
    return {(each.check, each.severity) for each in findings_of(facts) if each.severity in (PROBLEM, WARNING)}


def test_a_clean_installation():
    findings = findings_of(CLEAN)
    assert {each.severity for each in findings} == {Severity.OK}
    assert exit_code_of(findings) == 0


@pytest.mark.parametrize(
    ("facts", "check", "severity"),
    [
        (cluster(version="v1.30.9"), "kubernetes-version", PROBLEM),
        (cluster(version="v1.38.0"), "kubernetes-version", WARNING),
        (cluster(clock_ahead_s=-2.1), "clock", WARNING),
        (replace(target(graph="chat"), cluster=replace(CLEAN.cluster, graph_versions=())), "graph-definition", PROBLEM),
        (replace(namespace(graphs=()), cluster=replace(CLEAN.cluster, operators=())), "operator", WARNING),
        (replace(namespace(graphs=()), cluster=replace(CLEAN.cluster, operators=(Operator("d", "o", False),))), "operator", PROBLEM),
        (namespace(graphs=(GraphFacts("chat", 121.0, has_status=False),)), "operator", PROBLEM),
        (namespace(graphs=(GraphFacts("chat", 900.0, trouble="failed"),)), "graph-status", PROBLEM),
        (cluster(gpu_nodes=()), "gpus", PROBLEM),
        (cluster(gpu_nodes=(GpuNode("n", 8, 0, "H200"),)), "gpus", WARNING),
        (cluster(gpu_nodes=(GpuNode("n", 3, 3, "H200"), GpuNode("m", 3, 3, "H200"))), "gpus", PROBLEM),
        (cluster(gpu_nodes=(GpuNode("n", 8, 4),)), "gpu-labels", WARNING),
        (cluster(gpu_nodes=(GpuNode("n", 8, 4, "H200"), GpuNode("m", 8, 4, "L4"))), "gpu-labels", WARNING),
        (namespace(document=None), "namespace", PROBLEM),
        (namespace(workloads=()), "installed", WARNING),
        (namespace(accounts=frozenset({"planner"})), "service-accounts", PROBLEM),
        (namespace(claim=None), "volume", PROBLEM),
        (namespace(claim={"spec": {"accessModes": ["ReadOnlyMany"]}, "status": {"phase": "Bound"}}), "volume-access-mode", PROBLEM),
        (quota("requests.nvidia.com/gpu", "8", "5"), "quota", WARNING),
        (quota("pods", "10", "10"), "quota", PROBLEM),
        (memory("129Mi", "1Gi"), "limit-range", PROBLEM),
        (memory("1Mi", "100Mi"), "limit-range", PROBLEM),
        (namespace(secrets={"hf-token-secret": frozenset({"HF_TOKEN"})}), "pull-secrets", PROBLEM),
        (namespace(secrets={"pull": frozenset()}), "model-token", PROBLEM),
        (namespace(secret_uses=(Use("keys", "graph"),)), "secrets", PROBLEM),
        (namespace(config_map_uses=(Use("settings", "CronJob/x"),)), "config-maps", PROBLEM),
        (replace(UNPUBLISHED, targets=()), "config-maps", WARNING),
        (namespace(refusals=(Refusal("Job x", "exceeded quota"),)), "refused-pods", PROBLEM),
        (namespace(pod_troubles=(PodTrouble("x", "image", "no such image"),)), "pods", PROBLEM),
        (namespace(pod_troubles=(PodTrouble("in-7d-x", "image", "no such image", known=False),)), "pods", PROBLEM),
        (namespace(pod_troubles=(PodTrouble("database", "crash", "it ended", known=False),)), "pods", WARNING),
        (replace(cluster(gpu_nodes=()), targets=()), "gpus", WARNING),
        (replace(CLEAN, rights=RightsFacts({"planner": {LIST_PODS: True, SCALE: False}})), "rights-of-planner", PROBLEM),
        (replace(CLEAN, rights=RightsFacts({"planner": {LIST_PODS: False, SCALE: False}})), "rights-of-planner", PROBLEM),
        (replace(CLEAN, rights=RightsFacts({"profile-sweep": {LIST_PODS: True}}, ({SCALE: False},))), "rights-of-profile-sweep", PROBLEM),
        (replace(CLEAN, rights=RightsFacts(own={LIST_PODS: False})), "own-rights", WARNING),
        (target(traffic=Unread("refused", unreachable=True)), "metrics", PROBLEM),
        (target(traffic=Wrong("no such file")), "metrics", PROBLEM),
        (traffic(clock_ahead_s=2.5), "metrics-clock", WARNING),
        (traffic(clock_ahead_s=61.0), "metrics-clock", PROBLEM),
        (traffic(servers=(), served=()), "scraped", PROBLEM),
        (traffic(servers=(Scraped("web", "a:8000", up=False),)), "scraped", PROBLEM),
        (traffic(servers=(Scraped("web", "a:8000"), Scraped("pods", "a:8000"))), "scraped-once", PROBLEM),
        (traffic(servers=(Scraped("web", "a:8000", every_s=61.0),)), "scrape-interval", WARNING),
        (served(model="qwen"), "model", PROBLEM),
        (target(dynamo_namespace="prod"), "model", PROBLEM),
        (served(streamed=0.0), "streaming", PROBLEM),
        (served(streamed=4.0), "streaming", WARNING),
        (target(roles=Wrong("no such graph")), "targets", PROBLEM),
        (role(paused_by="Deployment/in"), "paused", WARNING),
        (namespace(autoscalers=(scaler("Deployment", "in"),)), "other-autoscaler", PROBLEM),
        (namespace(scaled_objects=(scaler("Deployment", "out"),)), "other-autoscaler", PROBLEM),
        (role(owners=("kube-controller-manager",)), "other-autoscaler", PROBLEM),
        (role(owners=("sla-planner", "argocd-controller")), "gitops", PROBLEM),
        (target(roles=(replace(PREFILL, owners=("kubectl",)), DECODE), last_scaled=frozenset({"prefill"})), "other-writer", WARNING),
        (target(profile=Wrong("is empty")), "profile", PROBLEM),
        (role(gpus=4, tp=4), "profile-mapping", PROBLEM),
        (role(gpus=0, tp=1), "profile-mapping", PROBLEM),
        (role(model="org/qwen"), "profile-model", PROBLEM),
        (role(gpus=2, tp=4), "tensor-parallel", PROBLEM),
        (planner(settings=Wrong("unknown key")), "settings", PROBLEM),
        (workload(runs=False), "runs", WARNING),
        (namespace(workloads=(*CLEAN.namespace.workloads, replace(CLEAN.namespace.workloads[0], kind="CronJob"))), "runs", PROBLEM),
        (planner(state_found=False), "status", PROBLEM),
        (target(last_decision_age_s=181.0), "last-decision", PROBLEM),
        (planner(lease=LeaseFacts("planner", "planner-0", 31.0, 15.0)), "lease", WARNING),
        (policy(), "network-policy", WARNING),
        (policy({"ports": [{"protocol": "UDP", "port": 9090}]}), "network-policy", WARNING),
    ],
)
def test_a_fault_is_found(facts, check, severity):
    assert (check, severity) in told(facts)
    for each in findings_of(facts):
        assert each.severity is Severity.OK or (each.what and each.why)
        assert each.severity in (Severity.OK, UNCHECKED) or each.fix


@pytest.mark.parametrize(
    "facts",
    [
        cluster(version="v1.31.0"),
        cluster(clock_ahead_s=1.9),
        cluster(graph_versions=()),
        namespace(graphs=(GraphFacts("chat", 100.0, has_status=False),)),  # its operator may not have looked yet
        replace(CLEAN, cluster=replace(CLEAN.cluster, operators=())),  # a graph with a status proves one
        quota("requests.nvidia.com/gpu", "8", "4"),
        quota("limits.memory", "256Mi", "134217728"),
        memory("128Mi", "128Mi"),
        namespace(secret_uses=(Use("keys", "graph", optional=True),)),
        namespace(config_map_uses=(Use("other", "CronJob/x", optional=True),)),
        UNPUBLISHED,  # the target has its profile from elsewhere
        replace(CLEAN, rights=RightsFacts({"profile-sweep": {LIST_PODS: True}}, ({SCALE: False}, {LIST_PODS: True}))),
        traffic(clock_ahead_s=None),
        traffic(servers=(Scraped("web", "a:8000"), Scraped("web", "b:8000"))),
        served(requests=0.0, streamed=0.0),  # nobody has come yet
        served(streamed=6.0),
        target(model=""),
        namespace(autoscalers=(scaler("Deployment", "frontend"),)),
        role(owners=("kubectl",)),  # of the first apply
        target(roles=(replace(PREFILL, owners=("kubectl",)), DECODE), last_scaled=frozenset({"decode"})),
        role(gpus=0, tp=None, model=None),
        role(pods=2, gpus=2),
        target(last_decision_age_s=None),
        target(last_decision_age_s=179.0),
        planner(lease=LeaseFacts("planner", "", 900.0, 1.0)),  # given back
        planner(state=""),
        policy({}),
        policy({"ports": [{"port": 9000, "endPort": 9100}]}),
        policy({"ports": [{"port": "web"}]}),
        namespace(policies=()),
    ],
)
def test_what_is_no_fault_is_not_told(facts):
    assert told(facts) == set()


def test_of_a_keda_object_and_its_autoscaler_one_is_told():
    owned = scaler("Deployment", "in")
    owned["metadata"]["ownerReferences"] = [{"kind": "ScaledObject", "name": "k"}]
    found = [
        each
        for each in findings_of(namespace(autoscalers=(owned,), scaled_objects=(scaler("Deployment", "in"),)))
        if each.check == "other-autoscaler"
    ]
    assert [each.severity for each in found] == [PROBLEM]
    assert "KEDA" in found[0].what


def test_a_worker_over_several_nodes_needs_the_gpus_of_one_pod_on_one():
    one_pod = target(roles=(replace(PREFILL, gpus=16, pods=1), DECODE), profile=None)
    two_pods = target(roles=(replace(PREFILL, gpus=16, pods=2), DECODE), profile=None)
    assert ("gpus", PROBLEM) in told(one_pod)
    assert told(two_pods) == set()


@pytest.mark.parametrize(
    ("severities", "code"),
    [
        ([], 0),
        ([("warning", False)], 0),
        ([("problem", True)], 4),
        ([("problem", True), ("warning", False)], 4),
        ([("problem", True), ("problem", False)], 2),
    ],
)
def test_exit_codes(severities, code):
    check = Check("x", Area.CLUSTER)
    made = {"warning": lambda _: check.warning("w", "y", "f"), "problem": lambda unreachable: check.problem("p", "y", "f", unreachable=unreachable)}
    assert exit_code_of([made[kind](unreachable) for kind, unreachable in severities]) == code


def test_the_verdict_counts_the_gravest_first():
    check = Check("x", Area.CLUSTER)
    found = [check.ok("a"), check.problem("b", "y", "f"), check.problem("c", "y", "f"), check.warning("d", "y", "f"), check.unchecked("e", "y")]
    assert verdict_of(found) == "2 problems, 1 warning, 1 not checked, 1 ok"


def test_the_gravest_of_an_area_stands_last():
    found = findings_of(replace(namespace(claim=None, workloads=()), cluster=CLEAN.cluster))
    of_namespace = [each.severity for each in found if each.area is Area.NAMESPACE]
    assert of_namespace[-2:] == [WARNING, PROBLEM]
    assert [each.area for each in found] == sorted((each.area for each in found), key=list(Area).index)


@pytest.mark.parametrize(("text", "value"), [("1Ki", 1024), ("2Gi", 2 * 2**30), ("500m", 0.5), ("3k", 3000), ("7", 7), (4, 4), ("none", 0)])
def test_quantities(text, value):
    assert float(quantity(text)) == value


def fix_of(facts: Facts, check: str) -> str:
    (found,) = [each.fix for each in findings_of(facts) if each.check == check]
    return found


def test_of_two_planners_one_is_stopped_as_its_kind_is():
    first = CLEAN.namespace.workloads[0]
    assert fix_of(namespace(workloads=(first, replace(first, name="old"))), "runs").startswith("kubectl -n llm scale deployment old --replicas=0")
    periodic = replace(first, kind="CronJob", name="each-minute")
    command = """kubectl -n llm patch cronjob each-minute -p '{"spec":{"suspend":true}}'"""
    assert fix_of(namespace(workloads=(periodic, first)), "runs").startswith(command)


def test_who_works_on_requests_and_is_stopped_is_started_as_its_kind_is():
    ours = {"request_versions": ("v1beta1",), "request_definition": {"metadata": {"labels": {"app.kubernetes.io/part-of": "sla-planner"}}}}
    asleep = Workload("Deployment", "reconcile-requests", "reconcile-requests", False, {"spec": {}})
    found = replace(namespace(workloads=(*CLEAN.namespace.workloads, asleep)), cluster=replace(CLEAN.cluster, operators=(), **ours))
    assert fix_of(found, "requests") == "kubectl -n llm scale deployment reconcile-requests --replicas=1"
