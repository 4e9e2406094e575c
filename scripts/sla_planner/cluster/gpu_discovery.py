"""Which GPUs a cluster has, as its nodes tell it: the labels of NVIDIA's GPU feature discovery, and what is allocatable.

    nvidia.com/gpu.product    NVIDIA-H200, NVIDIA-H100-80GB-HBM3, NVIDIA-A100-PCIE-40GB, also with -SHARED or -MIG-1g.10gb behind it
    nvidia.com/gpu.memory     MiB of one
    nvidia.com/gpu.count      of the node; what is allocatable counts more, since a device that is broken is not

A cluster may have several products: the one with the most GPUs is told. A product that is not known gets no name of
AI Configurator. Where nodes may not be listed, nothing is known, which is said and not guessed around.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from sla_planner.cluster.api import KubernetesApi
from sla_planner.cluster.free_gpus import is_ready
from sla_planner.cluster.resources import NODES, Object, labels_of
from sla_planner.request.seen import GpusSeen

RESOURCE = "nvidia.com/gpu"
PRODUCT, MEMORY, COUNT = (f"{RESOURCE}.{name}" for name in ("product", "memory", "count"))

# Word by word of the label, in capitals. The first that fits wins.
_SYSTEMS = (
    (r"GB300", "gb300"),
    (r"GB200", "gb200"),
    (r"B300", "b300_sxm"),
    (r"B200", "b200_sxm"),
    (r"H200", "h200_sxm"),
    (r"H100\b.*\b(PCIE|NVL)", "h100_pcie"),
    (r"H100", "h100_sxm"),
    (r"A100\b.*\bPCIE|A100-PCIE", "a100_pcie"),
    (r"A100", "a100_sxm"),
    (r"A30", "a30"),
    (r"L40S", "l40s"),
    (r"L4", "l4"),
    (r"RTX-PRO-6000.*SERVER", "rtx_pro_6000_server"),
)


def gpus_seen(api: KubernetesApi) -> GpusSeen:
    """Of all nodes that are ready and take pods; zeros where none has a GPU. Raises `ForbiddenError` where nodes may not be listed."""
    counts: dict[str, list[int]] = defaultdict(list)
    memory: dict[str, float] = {}
    for node in api.all_of(NODES):
        if (gpus := _gpus_of(node)) and _takes_pods(node):
            labels = labels_of(node)
            product = labels.get(PRODUCT, "")
            counts[product].append(gpus)
            if (mib := labels.get(MEMORY, "")).isdecimal():
                memory[product] = min(float(mib), memory.get(product, float("inf")))
    if not counts:
        return GpusSeen(largest_node=0, total=0)
    product = max(counts, key=lambda name: (sum(counts[name]), name))
    return GpusSeen(max(counts[product]), sum(counts[product]), product, system_of(product), memory.get(product))


def system_of(product: str) -> str:
    """AI Configurator's name of a product; '' for one that it may not know."""
    if "MIG-" in product:  # a slice is none of the GPUs that it has numbers of
        return ""
    found = product.upper().replace(" ", "-").replace("_", "-")
    return next((system for pattern, system in _SYSTEMS if re.search(rf"(?<![A-Z0-9])(?:{pattern})(?![0-9])", found)), "")


def _gpus_of(node: Object) -> int:
    """What is allocatable; before the device plugin has told it, what the label counts."""
    allocatable: dict[str, Any] = (node.get("status") or {}).get("allocatable") or {}
    text = str(allocatable[RESOURCE]) if RESOURCE in allocatable else labels_of(node).get(COUNT, "0")
    return int(text) if text.isdecimal() else 0


def _takes_pods(node: Object) -> bool:
    return is_ready(node) and not (node.get("spec") or {}).get("unschedulable")
