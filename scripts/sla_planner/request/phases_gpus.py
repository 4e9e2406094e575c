"""GPUs of the cluster against what a request wants of them: what keeps it from beginning, and what is only to be known."""

from __future__ import annotations

from sla_planner.request.profiling_job import NODE_GPUS
from sla_planner.request.seen import GpusSeen, Seen
from sla_planner.request.spec import Method, Request
from sla_planner.request.status import one_line


def gpus_missing(request: Request, seen: Seen) -> str:
    """Whether an engine is wanted that all nodes together cannot hold: one may go over several. Who says how many GPUs a node has may have nodes that
    come when they are needed.
    """
    gpus, limits = seen.gpus, request.profiling.limits
    if gpus is None or limits.gpus_per_node is not None or request.profiling.method is Method.OFFLINE:
        return ""
    least = _least_gpus(request)
    if least <= gpus.total:
        return ""
    lower = f"lower {_hardware(request)}.min_num_gpus_per_engine, " if request.shape == "v1alpha1" and least > 1 else ""
    ways = f"add nodes with GPUs, {lower}or set {_per_node(request)} where such nodes come when they are needed"
    return f"an engine needs {least} GPU{'s' if least > 1 else ''} and {_has(gpus)}; {ways}"


def nodes_unread(seen: Seen) -> str:
    """Why GPUs of nodes are not known, where that is so; else ''."""
    return f"the nodes cannot be read: {one_line(seen.unknown['gpus'])}" if "gpus" in seen.unknown else ""


def gpu_notes(request: Request, seen: Seen) -> tuple[str, ...]:
    """What is said of nodes and is not so now; or that they were to be asked, and cannot be."""
    gpus, per_node = seen.gpus, request.profiling.limits.gpus_per_node
    if per_node is None and request.profiling.discover_gpus and (why := nodes_unread(seen)):
        return (f"{why}; so a node is taken to have {NODE_GPUS} GPUs: set {_per_node(request)} where it has not",)
    if gpus is None or per_node is None or request.profiling.method is Method.OFFLINE:
        return ()
    if _least_gpus(request) <= gpus.total and per_node <= gpus.largest_node:
        return ()
    return (f"{_per_node(request)} is {per_node} and {_has(gpus)} now, so engines may have to wait for nodes",)


def _least_gpus(request: Request) -> int:
    return request.profiling.limits.min_gpus or 1


def _has(gpus: GpusSeen) -> str:
    return f"the nodes have {gpus.total} in all, the largest {gpus.largest_node}" if gpus.total else "no node has any"


def _hardware(request: Request) -> str:
    return "spec.profilingConfig.config.hardware" if request.shape == "v1alpha1" else "spec.hardware"


def _per_node(request: Request) -> str:
    return f"{_hardware(request)}.{'num_gpus_per_node' if request.shape == 'v1alpha1' else 'numGpusPerNode'}"
