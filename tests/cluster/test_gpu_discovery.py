"""GPUs of a cluster from labels and allocatable, by hand."""

from __future__ import annotations

import pytest

from sla_planner.cluster.gpu_discovery import gpus_seen, system_of
from sla_planner.errors import ForbiddenError
from sla_planner.request.seen import GpusSeen

from .api_stand_in import api_stand_in


def node(name, allocatable, *, product="", memory="", count="", ready=True, cordoned=False):
    given = {"nvidia.com/gpu.product": product, "nvidia.com/gpu.memory": memory, "nvidia.com/gpu.count": count}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {key: value for key, value in given.items() if value}},
        "spec": {"unschedulable": True} if cordoned else {},
        "status": {
            "allocatable": {"cpu": "8"} | ({} if allocatable is None else {"nvidia.com/gpu": str(allocatable)}),
            "conditions": [{"type": "Ready", "status": str(ready)}],
        },
    }


def seen(*nodes):
    with api_stand_in() as cluster:
        for one in nodes:
            cluster.put(one, namespace="")
        return gpus_seen(cluster.api())


def test_one_product():
    found = seen(
        node("a", 8, product="NVIDIA-H200", memory="143771", count="8"),
        node("b", 7, product="NVIDIA-H200", memory="143770", count="8"),  # one device is broken
        node("cpu", None),
    )
    assert found == GpusSeen(8, 15, "NVIDIA-H200", "h200_sxm", 143770.0)


def test_of_several_products_the_one_with_the_most():
    found = seen(node("a", 8, product="NVIDIA-L4"), *(node(f"h{index}", 4, product="NVIDIA-H100-80GB-HBM3") for index in range(3)))
    assert (found.largest_node, found.total, found.product) == (4, 12, "NVIDIA-H100-80GB-HBM3")


def test_nodes_that_take_no_pods_do_not_count():
    found = seen(node("down", 8, ready=False), node("cordoned", 8, cordoned=True), node("small", 2))
    assert (found.largest_node, found.total) == (2, 2)


def test_a_cluster_without_labels_still_counts_and_one_without_gpus_has_none():
    assert seen(node("a", 4)) == GpusSeen(4, 4)
    assert seen(node("a", 0), node("b", None)) == GpusSeen(0, 0)


def test_the_label_counts_until_the_device_plugin_does():
    assert seen(node("a", None, count="8")).total == 8
    assert seen(node("a", 0, count="8")).total == 0


def test_without_the_right_it_is_not_known():
    with api_stand_in() as cluster:
        cluster.deny("list", "nodes")
        with pytest.raises(ForbiddenError, match="may not list nodes"):
            gpus_seen(cluster.api())


@pytest.mark.parametrize(
    ("product", "system"),
    [
        ("NVIDIA-GB200", "gb200"),
        ("NVIDIA-B200", "b200_sxm"),
        ("NVIDIA-H200", "h200_sxm"),
        ("NVIDIA-H200-SHARED", "h200_sxm"),
        ("NVIDIA-H100-80GB-HBM3", "h100_sxm"),
        ("NVIDIA-H100-PCIe", "h100_pcie"),
        ("NVIDIA-H100-NVL", "h100_pcie"),
        ("NVIDIA-A100-SXM4-80GB", "a100_sxm"),
        ("NVIDIA-A100-PCIE-40GB", "a100_pcie"),
        ("NVIDIA-A100-80GB-PCIe", "a100_pcie"),
        ("NVIDIA-A30", "a30"),
        ("NVIDIA-L40S", "l40s"),
        ("NVIDIA-L4", "l4"),
        ("NVIDIA-L40", ""),
        ("NVIDIA-H100-80GB-HBM3-MIG-1g.10gb", ""),
        ("NVIDIA-GeForce-RTX-4090", ""),
        ("Tesla-T4", ""),
        ("", ""),
    ],
)
def test_the_name_that_ai_configurator_has_for_it(product, system):
    assert system_of(product) == system
