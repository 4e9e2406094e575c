"""Room for engines, by hand."""

from __future__ import annotations

import pytest

from sla_planner.cluster.free_gpus import NodeGpus, fits_now, gpus_of_nodes, never_fits
from sla_planner.errors import ForbiddenError

from .api_stand_in import api_stand_in

GPU = "nvidia.com/gpu"
TWO = (NodeGpus("a", 8, 3), NodeGpus("b", 4, 4))


def node(name, gpus, *, ready=True, cordoned=False):
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {"unschedulable": True} if cordoned else {},
        "status": {"allocatable": {"cpu": "8", **({GPU: str(gpus)} if gpus else {})}, "conditions": [{"type": "Ready", "status": str(ready)}]},
    }


def pod(name, node_name, gpus, *, init=0, phase="Running"):
    def container(amount):
        return {"resources": {"limits": {GPU: str(amount)}} if amount else {}}

    spec = {"nodeName": node_name, "containers": [container(gpus), container(0)], "initContainers": [container(init)]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec, "status": {"phase": phase}}


def test_free_is_what_pods_of_all_namespaces_leave():
    with api_stand_in() as cluster:
        for one in (node("a", 8), node("cpu", 0), node("gone", 8, ready=False), node("cordoned", 4, cordoned=True)):
            cluster.put(one, namespace="")
        cluster.put(pod("mine", "a", 2))
        cluster.put(pod("other", "a", 1, init=3), namespace="elsewhere")
        cluster.put(pod("over", "a", 4, phase="Succeeded"))
        cluster.put(pod("waiting", None, 4))
        assert gpus_of_nodes(cluster.api(), GPU) == (NodeGpus("a", 8, 3), NodeGpus("cordoned", 4, 0))


def test_nodes_that_may_not_be_listed():
    with api_stand_in() as cluster:
        cluster.deny("list", "nodes")
        with pytest.raises(ForbiddenError, match="may not list nodes"):
            gpus_of_nodes(cluster.api(), GPU)


@pytest.mark.parametrize(
    ("pods", "never", "now"),
    [
        ((4,), "", True),
        ((8,), "", False),
        ((16,), "it needs 16 GPUs on one node; the largest has 8", False),
        ((4, 4, 4), "", False),
        ((4, 3), "", True),
        ((8, 8), "it needs 2 pods of up to 8 GPUs; the 2 nodes have 12, at most 8 each", False),
    ],
)
def test_every_pod_needs_one_node(pods, never, now):
    assert (never_fits(TWO, pods), fits_now(TWO, pods)) == (never, now)


def test_a_cluster_without_gpus_says_so():
    assert never_fits((), (1,)) == "it needs 1 GPUs; no node has any"
