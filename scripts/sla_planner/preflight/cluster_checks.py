"""The cluster: its version and clock, Dynamo's resource definitions and their operator, GPUs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sla_planner.preflight.facts import Facts, RoleFacts, TargetFacts, Unread
from sla_planner.preflight.finding import Area, Check, Finding
from sla_planner.preflight.request_status import dropped_fields

OLDEST_MINOR, NEWEST_MINOR = 31, 37  # 1.31: podFailurePolicy of our Jobs is stable; 1.37: the newest that the manifests are checked against
CLOCK_LIMIT_S = 2.0
OPERATOR_PATIENCE_S = 120.0  # an operator that runs has written a status long before

RECONCILER = "reconcile-requests"
REQUEST_CLASS = "slaplanner.io/request-class: sla-planner"
REQUESTS_CRD = "dynamographdeploymentrequests.nvidia.com"
DYNAMO_GUIDE = "https://github.com/ai-dynamo/dynamo/tree/main/deploy"
VIEW = "kubectl apply -k YOUR_OVERLAY    # with the component manifests/components/preflight-view; or run preflight as somebody who may"

VERSION = Check("kubernetes-version", Area.CLUSTER)
CLOCK = Check("clock", Area.CLUSTER)
GRAPH_CRD = Check("graph-definition", Area.CLUSTER)
REQUEST_CRD = Check("request-definition", Area.CLUSTER)
OPERATOR = Check("operator", Area.CLUSTER)
GPUS = Check("gpus", Area.CLUSTER)
GPU_LABELS = Check("gpu-labels", Area.CLUSTER)
STATUS = Check("graph-status", Area.CLUSTER)


def check_version(facts: Facts) -> Iterator[Finding]:
    """Within the minors that this version is made for."""
    version = facts.cluster.version
    if isinstance(version, Unread):
        yield VERSION.unchecked("the version of Kubernetes", version.because)
        return
    found = re.match(r"v1\.(\d+)", version)
    if found is None:
        yield VERSION.unchecked("the version of Kubernetes", f"the API server calls it {version!r}")
    elif int(found[1]) < OLDEST_MINOR:
        why = "Jobs use podFailurePolicy as it is since 1.31: older ones retry what a retry cannot help, or refuse the manifests"
        yield VERSION.problem(
            f"Kubernetes {version} is older than 1.{OLDEST_MINOR}", why, "kubectl version    # then upgrade the control plane and the nodes"
        )
    elif int(found[1]) > NEWEST_MINOR:
        why = f"the manifests are checked against Kubernetes up to 1.{NEWEST_MINOR}; a field may be gone"
        yield VERSION.warning(f"Kubernetes {version} is newer than 1.{NEWEST_MINOR}", why, "kubectl apply -k . --dry-run=server --warnings-as-errors")
    else:
        yield VERSION.ok(f"Kubernetes {version}")


def check_clock(facts: Facts) -> Iterator[Finding]:
    """This clock against the API server's."""
    ahead_s = facts.cluster.clock_ahead_s
    if isinstance(ahead_s, Unread):
        yield CLOCK.unchecked("the clock", ahead_s.because)
    elif abs(ahead_s) > CLOCK_LIMIT_S:
        why = "decisions, Leases and metrics are told apart by their times"
        yield CLOCK.warning(
            f"this clock is {in_words(ahead_s)} the API server's", why, "timedatectl set-ntp true    # here, and on the control plane's nodes"
        )
    else:
        yield CLOCK.ok(f"this clock and the API server's differ by less than {CLOCK_LIMIT_S:g} s")


def in_words(ahead_s: float) -> str:
    """`12 s behind`; for clocks."""
    return f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'}"


def check_graph_definition(facts: Facts) -> Iterator[Finding]:
    """DynamoGraphDeployment, which a planner with a graph scales and a sweep makes engines of."""
    served = facts.cluster.graph_versions
    if served:
        yield GRAPH_CRD.ok(f"DynamoGraphDeployment is served at {' and '.join(served)}")
    elif wanting := [target.graph for target in facts.targets if target.graph]:
        why = f"the planner is told to scale the DynamoGraphDeployment {wanting[0]}, which this cluster cannot hold"
        fix = f"kubectl get crd    # install Dynamo's platform ({DYNAMO_GUIDE}), or scale plain workloads (prefill_target, decode_target)"
        yield GRAPH_CRD.problem("this cluster has no DynamoGraphDeployment", why, fix)
    else:
        yield GRAPH_CRD.ok("this cluster has no DynamoGraphDeployment, and no target needs one")


def check_request_definition(facts: Facts) -> Iterator[Finding]:
    """DynamoGraphDeploymentRequest: ours, or that of an operator who works on requests too."""
    served, definition = facts.cluster.request_versions, facts.cluster.request_definition
    if not served:
        yield REQUEST_CRD.ok("this cluster has no DynamoGraphDeploymentRequest: a model is deployed by commands, not by one object")
        return
    versions = " and ".join(served)
    if definition is None or isinstance(definition, Unread):
        because = definition.because if isinstance(definition, Unread) else f"the definition {REQUESTS_CRD} is not there"
        what = f"whose DynamoGraphDeploymentRequest (at {versions}) this is, ours or an operator's"
        yield REQUEST_CRD.unchecked(what, because, f"kubectl get crd {REQUESTS_CRD} --show-labels")
    elif not facts.cluster.requests_are_ours and (dropped := dropped_fields(definition, served)):
        yield _cannot_be_followed(facts, served[-1], dropped)
    elif not facts.cluster.requests_are_ours:
        yield REQUEST_CRD.ok(
            f"DynamoGraphDeploymentRequest is served at {versions}, by an operator's own definition: "
            f"we take only requests with the annotation {REQUEST_CLASS}, the operator takes the others"
        )
    elif isinstance(facts.cluster.operators, Unread):
        what = f"whether an operator works on DynamoGraphDeploymentRequests (at {versions}, by our definition) too"
        yield REQUEST_CRD.unchecked(what, facts.cluster.operators.because, VIEW)
    elif facts.cluster.operators:
        first = facts.cluster.operators[0]
        what = f"DynamoGraphDeploymentRequest is our definition, and Dynamo's operator {first.namespace}/{first.name} is in this cluster"
        why = "a version of it that knows requests takes every one too: two sweeps, two deployments, one status"
        fix = "kubectl apply -k YOUR_OVERLAY    # without manifests/components/deployment-requests-crd; then put Dynamo's own definition back"
        yield REQUEST_CRD.warning(what, why, f"{fix}: {DYNAMO_GUIDE}")
    else:
        yield REQUEST_CRD.ok(f"DynamoGraphDeploymentRequest is served at {versions}, by our definition: every request is ours")


def _cannot_be_followed(facts: Facts, version: str, dropped: tuple[str, ...]) -> Finding:
    """A fault where somebody of ours works on requests; without, nobody writes those fields."""
    what = f"the definition of DynamoGraphDeploymentRequest is an operator's own, and {version} of it drops status.{', status.'.join(dropped)}"
    workloads, operators = facts.namespace.workloads, facts.cluster.operators
    workers = [] if isinstance(workloads, Unread) else [each for each in workloads if each.stage == RECONCILER]
    if not workers:
        return REQUEST_CRD.ok(f"{what}: the operator takes requests, we cannot")
    why = "we cannot see of a request how far it has come, so that none with our annotation can be followed"
    if not operators:
        return REQUEST_CRD.problem(what, why, "kubectl apply -k manifests/crds    # ours, since no operator is here that needs that one")
    return REQUEST_CRD.problem(what, why, f"{facts.kubectl} delete {workers[0].kind.lower()} {workers[0].name}    # requests are the operator's here")


def check_operator(facts: Facts) -> Iterator[Finding]:
    """Somebody has to turn graphs into pods. A name proves nothing, so a missing one is a problem only where graphs lie untouched."""
    operators, graphs = facts.cluster.operators, facts.namespace.graphs
    if not facts.cluster.graph_versions:
        return
    untouched = () if isinstance(graphs, Unread) else tuple(each for each in graphs if not each.has_status and each.age_s > OPERATOR_PATIENCE_S)
    if untouched:
        yield OPERATOR.problem(
            f"nobody has looked at {', '.join(each.name for each in untouched)}: no status after {untouched[0].age_s / 60:.0f} min",
            "without a running operator a DynamoGraphDeployment is text: no worker starts, no decision is carried out",
            "kubectl get deployments --all-namespaces | grep -i dynamo    # is it there, and ready?\nkubectl -n ITS_NAMESPACE logs deployment/NAME",
        )
    elif not isinstance(graphs, Unread) and any(each.has_status for each in graphs):
        yield OPERATOR.ok("an operator works on DynamoGraphDeployments: there is one with a status")
    elif isinstance(operators, Unread):
        yield OPERATOR.unchecked("whether an operator works on DynamoGraphDeployments", operators.because, VIEW)
    elif not operators:
        yield OPERATOR.warning(
            "no Deployment looks like Dynamo's operator, and no graph has a status that would prove one",
            "without a running operator a DynamoGraphDeployment is text: no worker starts",
            f"kubectl get deployments --all-namespaces | grep -i dynamo    # if it is not there: {DYNAMO_GUIDE}",
        )
    elif not any(each.ready for each in operators):
        first = operators[0]
        yield OPERATOR.problem(
            f"Dynamo's operator {first.namespace}/{first.name} has no ready pod",
            "nobody turns DynamoGraphDeployments into workers",
            f"kubectl -n {first.namespace} describe deployment/{first.name}\nkubectl -n {first.namespace} logs deployment/{first.name}",
        )
    else:
        names = ", ".join(f"{each.namespace}/{each.name}" for each in operators if each.ready)
        yield OPERATOR.ok(f"Dynamo's operator is ready: {names}")


def check_graph_status(facts: Facts) -> Iterator[Finding]:
    """What the operator says of graphs that it cannot bring up."""
    graphs = facts.namespace.graphs
    if isinstance(graphs, Unread):
        yield STATUS.unchecked("DynamoGraphDeployments", graphs.because)
        return
    for each in graphs:
        if each.trouble:
            fix = f"{facts.kubectl} describe dynamographdeployment {each.name}"
            yield STATUS.problem(f"{each.name}: {each.trouble}", "the operator has given up on it: its workers do not serve", fix)
    if graphs and not any(each.trouble for each in graphs):
        yield STATUS.ok(f"the operator has no trouble with {', '.join(each.name for each in graphs)}")


def check_gpus(facts: Facts) -> Iterator[Finding]:
    """That there are any, that some are free, and that one worker of each role finds a node that is large enough."""
    nodes = facts.cluster.gpu_nodes
    if isinstance(nodes, Unread):
        yield GPUS.unchecked("GPUs of the cluster", nodes.because, VIEW)
        return
    largest = max((node.allocatable for node in nodes), default=0)
    total, free = sum(node.allocatable for node in nodes), sum(node.free for node in nodes)
    needs = list(_pod_gpus(facts.targets))
    if not nodes:
        if facts.targets and not needs:
            yield GPUS.ok("no node has a GPU, and no worker asks for one")
            return
        why = "workers that ask for nvidia.com/gpu stay Pending"
        show = "kubectl get nodes -o custom-columns=NAME:.metadata.name,GPUS:.status.allocatable.nvidia\\.com/gpu"
        fix = f"{show}    # none? install NVIDIA's GPU operator, or its device plugin"
        yield (GPUS.problem if needs else GPUS.warning)("no ready node has allocatable nvidia.com/gpu", why, fix)
        return
    for target, role, gpus in needs:
        if gpus > largest:
            holder = role.holder
            yield GPUS.problem(
                f"target {target}: a pod of a {role.role} worker of {holder} needs {gpus} GPUs, the largest node has {largest}",
                "it can never be placed",
                f"{facts.kubectl} edit {holder}    # fewer GPUs in a pod, or more pods in a worker",
            )
    if free == 0:
        why = "another worker stays Pending until one is given back, so that the planner cannot scale up"
        fix = "kubectl get pods --all-namespaces --field-selector status.phase=Running -o wide    # who holds them; or add a node"
        yield GPUS.warning(f"all {total} GPUs of {len(nodes)} nodes are in use", why, fix)
    else:
        yield GPUS.ok(f"{free} of {total} GPUs are free, on {len(nodes)} nodes of at most {largest}")


def _pod_gpus(targets: tuple[TargetFacts, ...]) -> Iterator[tuple[str, RoleFacts, int]]:
    """(target, role, GPUs of one pod) of workers that ask for any."""
    for target in targets:
        if isinstance(target.roles, tuple):
            for role in target.roles:
                if role.gpus:
                    yield target.name, role, -(-role.gpus // max(role.pods, 1))


def check_gpu_labels(facts: Facts) -> Iterator[Finding]:
    """By which what a GPU is can be found out."""
    nodes = facts.cluster.gpu_nodes
    if isinstance(nodes, Unread) or not nodes:
        return
    bare = [node.name for node in nodes if not node.product]
    kinds = sorted({node.product for node in nodes if node.product})
    if bare:
        why = "requests that do not name their hardware cannot find it out, and a profile cannot be compared with the GPU that it is used on"
        fix = f"kubectl label node {bare[0]} nvidia.com/gpu.product=NVIDIA-H200    # what it is; GPU feature discovery does it for all nodes"
        what = f"nodes with GPUs and no label nvidia.com/gpu.product: {', '.join(bare[:3])} ({len(bare)} of {len(nodes)})"
        yield GPU_LABELS.warning(what, why, fix)
    elif len(kinds) > 1:
        why = "a profile is of one kind of GPU; workers on another are slower or faster than the planner thinks"
        fix = f"kubectl get nodes -L nvidia.com/gpu.product    # then pin the workers: nodeSelector {{nvidia.com/gpu.product: {kinds[0]}}}"
        yield GPU_LABELS.warning(f"nodes have different GPUs: {', '.join(kinds)}", why, fix)
    else:
        yield GPU_LABELS.ok(f"all GPUs are {kinds[0]}")


CHECKS = (
    check_version,
    check_clock,
    check_graph_definition,
    check_request_definition,
    check_operator,
    check_graph_status,
    check_gpus,
    check_gpu_labels,
)
