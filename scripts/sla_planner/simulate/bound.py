"""The fluid lower bound: the work of the trace, served by fractions of workers that are always full, start at once and never wait.

    GPU-hours = sum over requests of  prefill_s * GPUs + decode_s * GPUs,      the dearest 1 - goal of the requests left out

with the work of `true_work`: prompts at the throughput of full batches, answers at that of decode workers at the promised ITL. No fleet of whole
workers that keeps the promise costs less.
"""

from __future__ import annotations

import math

import numpy as np

from sla_planner.simulate.contest import Contest, Entry, Knows
from sla_planner.simulate.score import Score
from sla_planner.simulate.true_work import true_work

NAME = "fluid-bound"


def fluid_bound(contest: Contest) -> Entry:
    """An entry that never ran: no result, and NaN for whatever only a run can tell."""
    scenario = contest.scenario
    work = true_work(scenario, contest.plan.sla)
    prefill_s = work.prefill_s * scenario.engine.prefill.gpus
    decode_s = work.decode_s * scenario.engine.decode.gpus
    served = math.ceil(len(prefill_s) * contest.goal - 1e-9)
    cheapest = np.argsort(prefill_s + decode_s, kind="stable")[:served]
    prefill, decode = float(prefill_s[cheapest].sum()) / 3600, float(decode_s[cheapest].sum()) / 3600
    contest.progress(NAME, 1.0)
    score = Score(
        requests=len(prefill_s),
        attainment=served / len(prefill_s),
        ttft_attainment=math.nan,
        itl_attainment=math.nan,
        minutes_inside=math.nan,
        gpu_hours=prefill + decode,
        gpu_hours_prefill=prefill,
        gpu_hours_decode=decode,
        ttft_p50_ms=math.nan,
        ttft_p99_ms=math.nan,
        itl_p50_ms=math.nan,
        itl_p99_ms=math.nan,
        actions=0,
        launches=0,
        most_direction_changes_per_hour=0,
    )
    return Entry(policy=NAME, knows=Knows.FUTURE, settings={}, score=score, reached=True, tried=0)
