"""A run as one HTML file: opens from disk or an artifact store, needs no network and no script, prints, and reads on a phone.

Everything from outside (names, explanations, facts) is escaped by the template engine; the page also forbids itself every source but its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sla_planner.plan.decision import Role
from sla_planner.plan.observation import Kind, Quantity, WorkerCounts
from sla_planner.plan.record import Tick
from sla_planner.report.markup import inline_png, render, unbroken
from sla_planner.report.run import RunReport, changes, of_role
from sla_planner.report.wording import clock, milliseconds, outcome, price, promised_share, result, summary

CAPTIONS = {
    "load.png": "What arrived: requests per second as the grey area, input tokens per second as the line.",
    "workers.png": "Workers of each role: ready (filled) and starting (hatched) against what the planner asked for; up to the dashed line, "
    "a fleet sized for the peak, is what was not used; above it, what a backlog or caution called for. Arrowheads mark the decisions.",
    "ttft.png": "Time to first token, one dot per request: what lies above the dashed promise came late and is a cross.",
    "itl.png": "Time between tokens, mean of each request: what lies above the dashed promise was slow and is a cross.",
}


def html(report: RunReport, pictures: Mapping[str, bytes]) -> str:
    """The page. `pictures` are PNGs by the names in CAPTIONS (`plots.pictures`); those not given are left out."""
    return render(
        "run.html.j2",
        title=report.title,
        result=unbroken(result(report)),
        price=unbroken(price(report)),
        kept=report.kept,
        promised=promised_share(report.promise.attainment),
        verdicts=list(dict.fromkeys(verdict for tick in report.ticks for verdict in tick.decision.verdicts)),
        rows=summary(report),
        figures=[{"source": inline_png(pictures[name]), "caption": caption} for name, caption in CAPTIONS.items() if name in pictures],
        changes=[
            {
                "at": clock(change.at_s),
                "role": change.role.value,
                "before": change.before,
                "after": change.after,
                "reason": change.reason.value,
                "explanation": change.explanation,
            }
            for change in changes(report.ticks, report.start_s)
        ],
        ticks=[_tick_row(tick, report.start_s) for tick in report.ticks],
        facts=report.facts,
    )


def _tick_row(tick: Tick, start_s: float) -> dict[str, Any]:
    seen = tick.observation
    return {
        "at": clock(tick.decision.at_s - start_s),
        "load": _quantity(seen.traffic.request_rate_rps, lambda value: f"{value:,.1f} req/s"),
        "ttft": _quantity(seen.traffic.ttft_ms, milliseconds),
        "itl": _quantity(seen.traffic.itl_ms, milliseconds),
        "prefill": _workers(seen.prefill),
        "decode": _workers(seen.decode),
        "outcome": outcome(tick),
        "reasons": [
            {"role": role.value, "code": of_role(tick.decision, role).reason.value, "explanation": of_role(tick.decision, role).explanation}
            for role in Role
        ],
    }


def _quantity(quantity: Quantity, text: Callable[[float], str]) -> str:
    return text(quantity.value) if quantity.kind is Kind.VALUE else quantity.kind.value


def _workers(workers: WorkerCounts | None) -> str:
    if workers is None:
        return "unknown"
    parts = [str(workers.ready)]
    if workers.starting:
        parts.append(f"{workers.starting} starting")
    if workers.unschedulable:
        parts.append(f"{workers.unschedulable} unschedulable")
    return ", ".join(parts)
