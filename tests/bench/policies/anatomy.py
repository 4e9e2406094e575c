"""Where the planner's GPU-hours go on one recording, role by role, and what a worker that could do either job would save at most.

work         what the requests take, on fractions of workers that come and go at once (`simulate.true_work`)
whole        on whole workers at the utilisation that keeps the promise (`BUSY`), at least one, in each interval
foresight    the most of that within the next start-up: somebody who knows no more than that and is never late
insurance    what the planner had above it;  shortage: what it had below
held         of what it had: workers that it would have let go, but for the grace period and the limit on turns
either role  at most: in each interval the fewer of the two roles' workers above `whole`, since one spare would have done for both
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from policies.runs import Task, contest_of
from policies.tables import hours, table
from sla_planner.plan.decision import Role
from sla_planner.simulate.policies.planner import Planner
from sla_planner.simulate.run import run
from sla_planner.simulate.true_work import true_work

BUSY = {Role.PREFILL: 0.9, Role.DECODE: 1.0}  # at more, static fleets lose several percent of the requests


@dataclass(frozen=True, slots=True)
class Anatomy:
    """GPU-hours of one role."""

    work: float
    whole: float
    foresight: float
    had: float
    insurance: float
    shortage: float
    held: float


def anatomy(task: Task) -> tuple[dict[Role, Anatomy], float]:
    """Of each role, and the GPU-hours that workers for either role would save at most."""
    contest = contest_of(task)
    scenario, bin_s = contest.scenario, contest.plan.interval_s
    planner = Planner(contest.plan, scenario.engine, remember=True)
    asked = run(scenario, planner).course.asked[1:]
    work, bins, ahead = true_work(scenario, contest.plan.sla), len(asked), math.ceil(task.startup_s / bin_s) + 1
    loads = {Role.PREFILL: work.prefill_load(bin_s, bins), Role.DECODE: work.decode_load(bin_s, bins)}
    roles, spare = {}, []
    for column, (role, load) in enumerate(loads.items()):
        gpu_h = bin_s / 3600 * (scenario.engine.prefill.gpus if role is Role.PREFILL else scenario.engine.decode.gpus)
        whole = np.maximum(np.ceil(load / BUSY[role]), 1)
        padded = np.append(whole, np.zeros(ahead - 1))
        foresight = np.lib.stride_tricks.sliding_window_view(padded, ahead).max(axis=1)
        had = asked[:, column]
        decided = [decision.prefill if role is Role.PREFILL else decision.decode for decision in planner.decisions]
        held = sum(max(each.desired - each.need, 0) for each in decided)
        sums = load.sum(), whole.sum(), foresight.sum(), had.sum(), np.maximum(had - foresight, 0).sum(), np.maximum(foresight - had, 0).sum(), held
        roles[role] = Anatomy(*(float(each) * gpu_h for each in sums))
        spare.append(np.maximum(had - whole, 0) * gpu_h)
    return roles, float(np.minimum(*spare).sum())


def anatomy_table(recordings: dict[str, dict[Role, Anatomy]]) -> str:
    """A column per recording and role."""
    columns = {f"{name} {role}": each for name, roles in recordings.items() for role, each in roles.items()}
    names = {
        "work": "the work alone",
        "whole": "on whole workers",
        "foresight": "the most of it within the next start-up",
        "had": "slaplanner",
        "insurance": "... above that",
        "shortage": "... below that",
        "held": "... held by grace and turns",
    }
    rows = [[words, *(hours(getattr(each, name)) for each in columns.values())] for name, words in names.items()]
    return table(("GPU-hours", *columns), rows)
