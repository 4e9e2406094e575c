"""How the GPU budget is shared: exact integer arithmetic, in two steps.

1. Where to go. Among all (p, d) with  min_r <= r <= max_r,  r <= max(need_r, min_r)  and  p*g_p + d*g_d <= B,  take the one with

       the largest  min(p/need_p, d/need_d)        what limits throughput is the scarcer role
       then the largest  p/need_p + d/need_d       spend what is left
       then the largest  d                         on a tie decode: short of decode, TTFT and ITL both suffer

   (ratios count up to 1). For each p the best d is the largest that fits, so the search is one loop over p.

2. What to ask for now. GPUs of workers that still run are free only after they left, so a role that gives GPUs up shrinks at once and the other one
   grows into what is free, not into what is promised:  sum over roles of max(running_r, granted_r)*g_r <= B,  unless what runs already exceeds B;
   then no role grows. Calling again with the new running counts reaches the result of step 1.

The reference (Dynamo 0.6, planner_core.py) rounds a proportional share to the nearest worker and exceeds its budget in a third of the clamped cases.
"""

from __future__ import annotations

from dataclasses import dataclass

from sla_planner.errors import UsageError
from sla_planner.plan.decision import Reason
from sla_planner.plan.settings import RoleLimits

UNLIMITED = -1
MOST_WORKERS = 2**31 - 1  # what `replicas` of a Kubernetes object can hold


@dataclass(frozen=True, slots=True)
class Fitted:
    """Workers granted per role, and what keeps a role from its need (None: it gets what it needs).

    FLOOR: more than needed, the configured minimum. CEILING: fewer, the configured maximum. BUDGET: fewer, GPUs are short.
    `awaited_gpus`: GPUs that a growing role will get once workers of the other role have left.
    """

    prefill: int
    decode: int
    prefill_limited_by: Reason | None = None
    decode_limited_by: Reason | None = None
    awaited_gpus: int = 0


def check_limits(prefill: RoleLimits, decode: RoleLimits, max_gpu_budget: int) -> None:
    """Raises UsageError when no pair of worker counts satisfies the limits."""
    for name, limits in (("prefill", prefill), ("decode", decode)):
        if limits.gpus_per_worker < 1:
            raise UsageError(f"{name}: {limits.gpus_per_worker} GPUs per worker", hint="a worker needs at least 1 GPU")
        if limits.min_workers < 0:
            raise UsageError(f"{name}: minimum of {limits.min_workers} workers", hint="the minimum is 0 or more")
        if limits.max_workers is not None and limits.max_workers < limits.min_workers:
            raise UsageError(
                f"{name}: maximum of {limits.max_workers} workers is below the minimum of {limits.min_workers}",
                hint="raise the maximum or lower the minimum",
            )
    least = prefill.min_workers * prefill.gpus_per_worker + decode.min_workers * decode.gpus_per_worker
    if max_gpu_budget != UNLIMITED and max_gpu_budget < least:
        raise UsageError(
            f"GPU budget {max_gpu_budget} is below the {least} GPUs of the minimum worker counts",
            hint=f"set it to at least {least}, or to -1 for no limit",
        )


def fit(need: tuple[int, int], limits: tuple[RoleLimits, RoleLimits], max_gpu_budget: int, running: tuple[int, int]) -> Fitted:
    """The workers to ask for now, as (prefill, decode) like every pair here.

    `need`: what the sizing wants. `running`: workers that hold their GPUs, starting ones included. `max_gpu_budget`: -1 = no limit.
    Raises UsageError for limits that nothing satisfies (`check_limits`).
    """
    check_limits(*limits, max_gpu_budget)
    wanted = (_within(need[0], limits[0]), _within(need[1], limits[1]))
    if max_gpu_budget == UNLIMITED:
        granted, awaited_gpus = wanted, 0
    else:
        target = _share(need, wanted, limits, max_gpu_budget)
        granted = _granted_now(target, limits, max_gpu_budget, running)
        awaited_gpus = sum((t - g) * limit.gpus_per_worker for t, g, limit in zip(target, granted, limits, strict=True))
    return Fitted(
        prefill=granted[0],
        decode=granted[1],
        prefill_limited_by=_limited_by(need[0], wanted[0], granted[0]),
        decode_limited_by=_limited_by(need[1], wanted[1], granted[1]),
        awaited_gpus=awaited_gpus,
    )


def _within(need: int, limits: RoleLimits) -> int:
    raised = max(need, limits.min_workers)
    return min(raised, MOST_WORKERS if limits.max_workers is None else limits.max_workers)


def _share(need: tuple[int, int], wanted: tuple[int, int], limits: tuple[RoleLimits, RoleLimits], budget: int) -> tuple[int, int]:
    """Step 1. Ratios are compared as integers: both are multiplied by need_p * need_d."""
    prefill, decode = limits
    need_p, need_d = max(need[0], 1), max(need[1], 1)

    def merit(pair: tuple[int, int]) -> tuple[int, int, int]:
        served_p = (min(pair[0], need_p) if need[0] > 0 else 1) * need_d
        served_d = (min(pair[1], need_d) if need[1] > 0 else 1) * need_p
        return min(served_p, served_d), served_p + served_d, pair[1]

    most_prefill = (budget - decode.min_workers * decode.gpus_per_worker) // prefill.gpus_per_worker
    return max(
        (
            (p, min(wanted[1], (budget - p * prefill.gpus_per_worker) // decode.gpus_per_worker))
            for p in range(prefill.min_workers, min(wanted[0], most_prefill) + 1)
        ),
        key=merit,
    )


def _granted_now(target: tuple[int, int], limits: tuple[RoleLimits, RoleLimits], budget: int, running: tuple[int, int]) -> tuple[int, int]:
    """Step 2. A role grows into the budget less the GPUs that the other role holds now or is about to get."""
    held = [max(t, r) * limit.gpus_per_worker for t, r, limit in zip(target, running, limits, strict=True)]
    room = ((budget - held[1]) // limits[0].gpus_per_worker, (budget - held[0]) // limits[1].gpus_per_worker)
    return (min(target[0], max(running[0], room[0])), min(target[1], max(running[1], room[1])))


def _limited_by(need: int, wanted: int, granted: int) -> Reason | None:
    if granted < wanted:
        return Reason.BUDGET
    if granted < need:
        return Reason.CEILING
    return Reason.FLOOR if granted > need else None
