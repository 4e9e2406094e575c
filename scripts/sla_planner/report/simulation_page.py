"""A comparison as one HTML file: like the page of a run it opens from disk, needs no network and no script, prints, and escapes names.

On top the sentence and the table, then what it rests on, then what happened.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sla_planner.report.markup import inline_png, render, unbroken
from sla_planner.report.simulation import OURS, Comparison, Shown, cells, headline, knowledge, reasons

CAPTIONS = {
    "cost.png": "GPU-hours from launch to exit, start-up and drain included. A hatched bar misses the goal.",
    "load.png": "What arrived: requests per second as the area, tokens per second as lines.",
}
OVER_TIME = " ".join(
    (
        "Workers: ready (filled), asked for (black), and how many the work of that moment would keep busy without a pause (red).",
        "A fleet needs more than that, by as much as its traffic jumps within a start-up.",
        "TTFT and ITL: median and p99 of the requests that arrived in each slice of time, against the promise.",
        "At the bottom the share of requests outside the promise; what is shaded is not judged.",
    )
)


def html(comparison: Comparison, pictures: Mapping[str, bytes]) -> str:
    """The page. `pictures` are PNGs by the names of `simulation_plots.pictures`; those not given are left out."""
    ours = next((outcome for outcome in comparison.outcomes if outcome.policy == OURS), comparison.outcomes[0])
    return render(
        "simulation.html.j2",
        title=f"Simulated: {comparison.traffic}",
        headline=unbroken(headline(comparison)),
        goal=f"{comparison.goal * 100:g} %",
        kept=ours.reached,
        whose=ours.policy,
        warnings=comparison.warnings,
        rows=[{"cells": cells(outcome), "ours": outcome is ours, "missed": not outcome.reached} for outcome in comparison.outcomes],
        knowledge=[knowledge(outcome) for outcome in comparison.outcomes],
        reasons=reasons(comparison),
        figures=[{"source": inline_png(pictures[name]), "caption": caption} for name, caption in CAPTIONS.items() if name in pictures],
        over_time=OVER_TIME,
        policies=[_over_time(shown, pictures, opened=shown.outcome is ours) for shown in comparison.policies if _name(shown) in pictures],
        facts=comparison.facts,
    )


def _name(shown: Shown) -> str:
    return f"{shown.outcome.policy}.png"


def _over_time(shown: Shown, pictures: Mapping[str, bytes], *, opened: bool) -> dict[str, Any]:
    return {"policy": shown.outcome.policy, "source": inline_png(pictures[_name(shown)]), "open": opened}
