"""A sweep's result as one JSON document, for scripts."""

from __future__ import annotations

from typing import Any

from sla_planner.sweep.result import SweepResult


def document(result: SweepResult) -> dict[str, Any]:
    """Plain JSON types. A side that keeps nothing has `kept` false and shows the nearest."""
    sides = {"prefill": result.prefill, "decode": result.decode}
    return {
        "feasible": result.feasible,
        **{
            phase: {
                "mapping": choice.nearest.mapping.label,
                "gpus": choice.nearest.mapping.gpus,
                "kept": choice.picked is not None,
                "latency_ms": choice.nearest.latency_ms,
                "throughput_per_gpu": choice.nearest.throughput_per_gpu,
                "at": choice.nearest.at,
            }
            for phase, choice in sides.items()
        },
        "verification": None
        if result.verification is None
        else {
            "requests": result.verification.requests,
            "inside": result.verification.inside,
            "failed": result.verification.failed,
            "comparisons": [
                {"what": one.what, "profile_ms": one.profile_ms, "measured_ms": one.measured_ms} for one in result.verification.comparisons
            ],
            "warnings": list(result.verification.warnings),
        },
        "cost": {
            "wall_s": result.cost.wall_s,
            "gpu_hours": result.cost.gpu_hours,
            "deployments": result.cost.deployments,
            "measured": result.cost.measured,
            "reused": result.cost.reused,
        },
        "left_out": dict(result.left_out),
        "warnings": list(result.warnings),
    }
