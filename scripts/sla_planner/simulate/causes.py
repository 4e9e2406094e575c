"""Why requests were missed: for each latency a line with the ten minutes that lost most, what became of the traffic then, and what the planner said
of the role that makes that latency when the missed ones arrived.

    missed TTFT    no first token within the promise; prefill makes it
    missed ITL     TTFT kept, the mean gap not; decode makes it
    went from      arrivals and tokens per second: the mean of the ten minutes before, to the busiest minute of those that lost most

A latency that fewer than `LEAST` of the requests missed is not worth a line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sla_planner.model.sla import Sla
from sla_planner.plan.decision import Decision, Role
from sla_planner.simulate.run import RunResult, Scenario
from sla_planner.simulate.score import inside, scored, within_ttft
from sla_planner.traffic.trace import Trace

LEAST = 0.001
SPELL_S, MINUTE_S = 600.0, 60.0
TOLD_REASONS = 3

Mask = npt.NDArray[np.bool_]


def causes(scenario: Scenario, result: RunResult, sla: Sla, decisions: Sequence[Decision]) -> tuple[str, ...]:
    """One line per latency that at least `LEAST` of the scored requests missed. `decisions`: the planner's, all of them, in order."""
    judged = scored(scenario)
    late = judged & ~within_ttft(result, sla)
    slow = judged & ~late & ~inside(result, sla)
    return tuple(
        _cause(name, role, missed, scenario.trace, decisions, int(judged.sum()))
        for name, role, missed in (("TTFT", Role.PREFILL, late), ("ITL", Role.DECODE, slow))
        if missed.sum() >= max(LEAST * judged.sum(), 1)
    )


def _cause(name: str, role: Role, missed: Mask, trace: Trace, decisions: Sequence[Decision], judged: int) -> str:
    arrival_s = trace.arrival_s[missed]
    spells = np.bincount((arrival_s // SPELL_S).astype(np.int64))
    worst_s = float(spells.argmax()) * SPELL_S
    when = f"{spells.max() / len(arrival_s):.0%} of them in the ten minutes from {_clock(worst_s)}, when {_course(trace, worst_s, role)}"
    return f"{len(arrival_s) / judged:.2%} missed {name}, {when}; {role} said: {_said(role, arrival_s, decisions)}"


def _course(trace: Trace, began_s: float, role: Role) -> str:
    tokens, of = (trace.isl_tokens, "prompts") if role is Role.PREFILL else (trace.osl_tokens, "answers")
    before = (trace.arrival_s >= began_s - SPELL_S) & (trace.arrival_s < began_s)
    within = (trace.arrival_s >= began_s) & (trace.arrival_s < began_s + SPELL_S)
    minute = ((trace.arrival_s[within] - began_s) // MINUTE_S).astype(np.int64)
    before_s = max(min(began_s, SPELL_S), 1.0)
    rates = before.sum() / before_s, np.bincount(minute).max() / MINUTE_S
    flows = tokens[before].sum() / before_s / 1000, np.bincount(minute, tokens[within]).max() / MINUTE_S / 1000
    rate, flow = (" to ".join(map(_three_digits, pair)) for pair in (rates, flows))
    return f"arrivals went from {rate} requests/s and {of} from {flow} thousand tokens/s"


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _said(role: Role, arrival_s: npt.NDArray[np.float64], decisions: Sequence[Decision]) -> str:
    """The reasons in force when they arrived, the most frequent first."""
    ticks = np.searchsorted([decision.at_s for decision in decisions], arrival_s, side="right") - 1
    of_role = [decision.prefill if role is Role.PREFILL else decision.decode for decision in decisions]
    reasons = Counter(of_role[tick].reason.value if tick >= 0 else "nothing yet" for tick in ticks.tolist())
    return ", ".join(f"{reason} {count / len(arrival_s):.0%}" for reason, count in reasons.most_common(TOLD_REASONS))


def _clock(at_s: float) -> str:
    return f"{int(at_s // 3600)} h {int(at_s % 3600 // 60):02d} min"
