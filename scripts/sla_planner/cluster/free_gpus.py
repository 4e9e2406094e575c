"""How many GPUs a cluster has and how many are free, where its nodes and all pods may be listed.

    allocatable    of every node that is Ready, cordoned or not
    free           of those that take pods: allocatable less what pods on them ask for, also pods of other namespaces

An engine of several pods fits where each pod fits after the others have been placed, the largest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sla_planner.cluster.api import KubernetesApi, Selector
from sla_planner.cluster.resources import NODES, PODS, Object

_NOT_OVER = Selector(fields="status.phase!=Succeeded,status.phase!=Failed")


@dataclass(frozen=True, slots=True)
class NodeGpus:
    """`free` is 0 on a node that takes no pods."""

    name: str
    allocatable: int
    free: int


def gpus_of_nodes(api: KubernetesApi, resource: str) -> tuple[NodeGpus, ...]:
    """Of nodes that have any. Raises `ForbiddenError` where they may not be listed."""
    nodes = api.all_of(NODES)
    used: dict[str, int] = {}
    for pod in api.all_of(PODS, _NOT_OVER, namespace=""):
        if node := (pod.get("spec") or {}).get("nodeName"):
            used[node] = used.get(node, 0) + _asked_for(pod, resource)
    found = []
    for node in nodes:
        name, allocatable = node["metadata"]["name"], _whole((node.get("status") or {}).get("allocatable"), resource)
        if allocatable and is_ready(node):
            takes_pods = not (node.get("spec") or {}).get("unschedulable")
            found.append(NodeGpus(name, allocatable, max(allocatable - used.get(name, 0), 0) if takes_pods else 0))
    return tuple(found)


def never_fits(nodes: Sequence[NodeGpus], pods: Sequence[int]) -> str:
    """'' where pods of so many GPUs fit the nodes when nothing else runs there; else why not, in words."""
    if not _left([node.allocatable for node in nodes], pods):
        return ""
    largest = max((node.allocatable for node in nodes), default=0)
    if len(pods) > 1:
        total = sum(node.allocatable for node in nodes)
        return f"it needs {len(pods)} pods of up to {max(pods)} GPUs; the {len(nodes)} nodes have {total}, at most {largest} each"
    return f"it needs {pods[0]} GPUs on one node; the largest has {largest}" if largest else f"it needs {pods[0]} GPUs; no node has any"


def fits_now(nodes: Sequence[NodeGpus], pods: Sequence[int]) -> bool:
    return not _left([node.free for node in nodes], pods)


def _left(free: list[int], pods: Sequence[int]) -> list[int]:
    """The pods that find no place; each goes where it leaves least."""
    left = []
    for gpus in sorted(pods, reverse=True):
        at = min((index for index, amount in enumerate(free) if amount >= gpus), key=lambda index: free[index], default=None)
        if at is None:
            left.append(gpus)
        else:
            free[at] -= gpus
    return left


def _asked_for(pod: Object, resource: str) -> int:
    """What the scheduler counts: the sum of the containers, or the largest init container."""
    spec = pod["spec"]
    main = sum(_of_container(one, resource) for one in spec.get("containers") or ())
    return max(main, *(_of_container(one, resource) for one in spec.get("initContainers") or ()), 0)


def _of_container(container: Object, resource: str) -> int:
    resources = container.get("resources") or {}
    return _whole(resources.get("requests"), resource) or _whole(resources.get("limits"), resource)


def _whole(amounts: Object | None, resource: str) -> int:
    """GPUs are whole numbers; anything else counts as none."""
    text = str((amounts or {}).get(resource, "0"))
    return int(text) if text.isdecimal() else 0


def is_ready(node: Object) -> bool:
    """Whether its kubelet says so."""
    conditions = (node.get("status") or {}).get("conditions") or ()
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)
