"""Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from policies.runs import GOAL, Result, Task

OURS = "slaplanner"
ASK_WHY = 0.98  # below it, a reader is told what the planner was at while requests were missed
AGAINST = ("static", "hpa", "dynamo06-headroom", "clairvoyant")


def policy_table(task: Task, results: Mapping[str, Result]) -> str:
    """One recording, one promise, one start-up: a line per policy. `task`: any of them."""
    recording = task.recording
    ours = results.get(OURS)
    rows = []
    for name, result in results.items():
        ratio = f"{result['gpu_hours'] / ours['gpu_hours']:.2f}" if ours else ""
        rows.append([name, *_cost(result), *_kept(result), str(result["actions"]), ratio, _knew(result)])
    heads = ("policy", "GPU-hours", "prefill", "decode", "requests inside", "minutes inside", "actions", "/ slaplanner", "knew")
    promise = f"--ttft {recording.promise.ttft_ms:g} --itl {recording.promise.itl_ms:g} --attainment {GOAL:g} --startup-s {task.startup_s:g}"
    command = f"sla-planner simulate {recording.told()} {promise} --profile sample --policy {','.join(results)}"
    title = f"{recording.name} x{recording.scale:g}, TTFT {recording.promise.ttft_ms:g} ms, ITL {recording.promise.itl_ms:g} ms, "
    return f"### {title}start-up {task.startup_s:g} s\n\n{table(heads, rows)}\n\n    {command}\n"


def cell_table(days: Mapping[str, Mapping[str, Result]]) -> str:
    """One start-up and promise: a line per policy, a column per day, and how many times another's GPU-hours the planner takes (geometric mean)."""
    policies = list(next(iter(days.values())))
    rows = []
    for policy in policies:
        pairs = [(day[OURS], day[policy]) for day in days.values() if OURS in day]
        rows.append([policy, *(_told(day[policy]) for day in days.values()), "" if policy == OURS or not pairs else _mean_ratio(pairs)])
    return table(("GPU-hours (requests / minutes inside)", *days, "planner costs"), rows)


def summary(cells: Mapping[str, Sequence[Mapping[str, Result]]], names: Sequence[str]) -> str:
    """A line per start-up and promise: the planner on each of the days `names`, and geometric means of its GPU-hours against the alternatives', over
    the days on which both reached the goal."""
    rows = []
    for cell, days in cells.items():
        rows.append(
            [
                cell,
                *(_told(day[OURS]) for day in days),
                *(_mean_ratio([(day[OURS], day[other]) for day in days if other in day]) for other in AGAINST),
            ]
        )
    return table(("start-up, promise", *names, *(f"/ {other}" for other in AGAINST)), rows)


def _mean_ratio(pairs: Sequence[tuple[Result, Result]]) -> str:
    both = [ours["gpu_hours"] / other["gpu_hours"] for ours, other in pairs if ours["reached"] and other["reached"]]
    if not both:
        return "-"
    return f"{geometric_mean(both):.2f}" + (f" ({len(both)} of {len(pairs)})" if len(both) < len(pairs) else "")


def _told(result: Result) -> str:
    """`192.2 (99.22 / 96.15 %)`: GPU-hours, requests and minutes inside; `short` where that is less than the goal."""
    shares = " / ".join(share(result[name]).removesuffix(" %") for name in ("attainment", "minutes_inside"))
    return f"{hours(result['gpu_hours'])} ({shares} %){'' if result['reached'] else ' short'}"


def change_table(what: str, results: Mapping[str, Result]) -> str:
    """A line per change, the first one unchanged; below it, why less than 98 % were inside, where that is so."""
    base = next(iter(results.values()))
    rows = []
    for name, result in results.items():
        points = f"{(result['attainment'] - base['attainment']) * 100:+.2f}"
        cost = f"{result['gpu_hours'] / base['gpu_hours'] - 1:+.1%}"
        kept = " ".join(["", *(f"({share(day)})" for day in result["by_day"])])
        rows.append(
            [name, share(result["attainment"]) + kept, hours(result["gpu_hours"]), points, cost, str(result["most_direction_changes_per_hour"])]
        )
    whys = [f"* {name}: {result['why']}" for name, result in results.items() if result["attainment"] < ASK_WHY]
    return "\n\n".join(filter(None, (table((what, "requests inside", "GPU-hours", "points", "cost", "most turns/h"), rows), "\n".join(whys))))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def share(value: float) -> str:
    """`99.12 %`; never rounded up to the goal."""
    return "-" if math.isnan(value) else f"{math.floor(value * 10_000 + 1e-6) / 100:.2f} %"


def hours(value: float) -> str:
    return f"{value:.1f}"


def _cost(result: Result) -> list[str]:
    return [hours(result[name]) for name in ("gpu_hours", "gpu_hours_prefill", "gpu_hours_decode")]


def _kept(result: Result) -> list[str]:
    short = "" if result["reached"] else " (short)"
    return [share(result["attainment"]) + short, share(result["minutes_inside"])]


def _knew(result: Result) -> str:
    tried = f" ({result['tried']} runs)" if result["tried"] > 1 else ""
    return f"{result['knows']}{tried}"
