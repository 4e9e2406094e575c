"""What policies made of the same traffic, as data, as a table for a terminal, and as one JSON document.

attainment       requests inside the promise / requests, without the first ten minutes
minutes inside   minutes in which the promised share of requests was inside / minutes with requests
ratio            GPU-hours / GPU-hours of the planner; a policy that misses the goal is cheap for a reason
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from sla_planner.model.sla import Sla
from sla_planner.report.run import Floats, Ints
from sla_planner.report.terminal import printable, table
from sla_planner.report.wording import promised_share

OURS = "slaplanner"
COLUMNS = 100
MOST_SETTINGS = 8  # that are told; the planner has more, and all are in the JSON document
DIGITS = 9  # significant ones in JSON


@dataclass(frozen=True, slots=True)
class Outcome:
    """One line of the table. Shares are 0..1; latencies of nobody are NaN. `settings` in plain JSON types. `ratio` None: there is nothing to compare
    with. `reached`: the goal was. `possible`: nobody told it the future. `tried`: runs that it took to find the settings. `causes`: why requests were
    missed, a line per latency, of a policy that says why it decides."""

    policy: str
    attainment: float
    gpu_hours: float
    gpu_hours_prefill: float
    gpu_hours_decode: float
    minutes_inside: float
    actions: int
    reached: bool
    ratio: float | None
    requests: int
    ttft_attainment: float
    itl_attainment: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    itl_p50_ms: float
    itl_p99_ms: float
    launches: int
    most_direction_changes_per_hour: int
    knows: str
    possible: bool
    tried: int
    settings: Mapping[str, Any]
    causes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Minutes:
    """One policy's traffic in equal slices of time: their starts (n,), TTFT and ITL of those that were answered (NaN in a slice without), and the
    share of requests outside the promise (0..1, NaN without requests)."""

    start_s: Floats
    ttft_p50_ms: Floats
    ttft_p99_ms: Floats
    itl_p50_ms: Floats
    itl_p99_ms: Floats
    missed: Floats


@dataclass(frozen=True, slots=True, eq=False)
class FleetCourse:
    """Workers over time, per decision, each until the next; columns of (t, 2) are prefill, decode. `need` (m, 2) per `need_s` (m,): workers that the
    work of that moment keeps busy without a pause, so that every fleet needs more than that."""

    at_s: Floats
    ready: Ints
    asked: Ints
    need_s: Floats
    need: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """What arrived, in equal slices: starts (n,), and per second."""

    start_s: Floats
    requests_per_s: Floats
    input_tokens_per_s: Floats
    output_tokens_per_s: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """One policy with what can be drawn of it; a bound that never ran has nothing."""

    outcome: Outcome
    course: FleetCourse | None = None
    minutes: Minutes | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Everything that is told. `traffic`: in words. `facts`: (what, value). `warnings`: what a reader must know before believing a number.

    What arrived before `judged_from_s` is not judged.
    """

    traffic: str
    promise: Sla
    goal: float
    duration_s: float
    judged_from_s: float
    policies: tuple[Shown, ...]
    load: Load | None = None
    facts: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        return tuple(shown.outcome for shown in self.policies)


def document(comparison: Comparison) -> dict[str, Any]:
    """As plain JSON: what is not a number is null, and numbers have nine digits, so that the same command prints the same bytes."""
    promise = comparison.promise
    told = {
        "policies": [asdict(outcome) for outcome in comparison.outcomes],
        "traffic": comparison.traffic,
        "duration_s": comparison.duration_s,
        "promise": {"ttft_ms": promise.ttft_ms, "itl_ms": promise.itl_ms, "attainment": promise.attainment},
        "goal": comparison.goal,
        "warnings": list(comparison.warnings),
    }
    plain: dict[str, Any] = _plain(told)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value if value is None else str(value)


def text(comparison: Comparison) -> str:
    """For people, at most a hundred columns wide: verdict, table, what each policy knew, why requests were missed, warnings."""
    parts = [
        _wrapped(f"{comparison.traffic}; promised to {promised_share(comparison.promise.attainment)}: {_promise(comparison.promise)}"),
        _wrapped(headline(comparison)),
        table([cells(outcome) for outcome in comparison.outcomes], _HEADERS),
        _wrapped(_LEGEND),
        "\n".join(_wrapped(knowledge(outcome), indent="  ") for outcome in comparison.outcomes),
        "\n".join(_wrapped(told, indent="  ") for told in reasons(comparison)),
        "\n".join(_wrapped(f"warning: {warning}", indent="  ") for warning in comparison.warnings),
    ]
    return "\n\n".join(part for part in parts if part)


def headline(comparison: Comparison) -> str:
    """The comparison in one sentence."""
    ours = next((outcome for outcome in comparison.outcomes if outcome.policy == OURS), None)
    first = ours or comparison.outcomes[0]
    told = (
        f"{first.policy}: {percent(first.attainment, digits=2)} % of {first.requests:,} requests inside {_promise(comparison.promise)}, "
        f"for {gpu_hours(first.gpu_hours)} GPU-hours"
    )
    if not first.reached:
        return f"{told}: short of {promised_share(comparison.goal)}"
    others = [outcome for outcome in comparison.outcomes if outcome is not first and outcome.reached and outcome.possible and outcome.gpu_hours > 0]
    if ours is None or not others:
        return told
    return f"{told}; {', '.join(_against(ours, other) for other in others)}"


def _against(ours: Outcome, other: Outcome) -> str:
    change = round((ours.gpu_hours / other.gpu_hours - 1) * 100)
    if change == 0:
        return f"as many as {other.policy}"
    return f"{abs(change)} % {'fewer' if change < 0 else 'more'} than {other.policy}"


def gpu_hours(value: float) -> str:
    """`286`, `28.6`, `2.86`: three digits or more."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.1f}" if value >= 10 else f"{value:.2f}"


def percent(share: float, digits: int) -> str:
    """Rounded down, so that 98.999 % is not called 99; '' for what is not known."""
    shift = 10**digits
    return "" if math.isnan(share) else f"{math.floor(share * 100 * shift + 1e-6) / shift:.{digits}f}"


_HEADERS = ("policy", "GPU-h", "P", "D", "inside", "min in", "TTFT", "p99", "ITL", "p99", "actions", "ratio")
_LEGEND = " ".join(
    (
        "GPU-h: GPU-hours, of prefill (P) and of decode (D).",
        "inside: % of requests inside the promise; min in: % of minutes in which enough were.",
        "TTFT, ITL: median and p99 in ms.",
        "actions: decisions that changed something.",
        "ratio: GPU-hours as a multiple of slaplanner's.",
    )
)


def cells(outcome: Outcome) -> tuple[str, ...]:
    return (
        outcome.policy if outcome.reached else f"{outcome.policy}*",
        *(gpu_hours(value) for value in (outcome.gpu_hours, outcome.gpu_hours_prefill, outcome.gpu_hours_decode)),
        percent(outcome.attainment, digits=2),
        percent(outcome.minutes_inside, digits=1),
        *(_latency(value) for value in (outcome.ttft_p50_ms, outcome.ttft_p99_ms, outcome.itl_p50_ms, outcome.itl_p99_ms)),
        str(outcome.actions),
        "" if outcome.ratio is None else f"{outcome.ratio:.2f}",
    )


def _latency(value_ms: float) -> str:
    if math.isnan(value_ms):
        return ""
    if math.isinf(value_ms):
        return "never"
    return f"{value_ms:.1f}" if value_ms < 100 else f"{value_ms:.0f}"


def knowledge(outcome: Outcome) -> str:
    """What its numbers rest on, in one line."""
    missed = "" if outcome.reached else "* misses the goal; "
    searched = f" ({outcome.tried} runs)" if outcome.tried > 1 else ""
    return f"{outcome.policy}: {missed}knows {outcome.knows}{searched}{_settings(outcome)}"


def reasons(comparison: Comparison) -> list[str]:
    """Why requests were missed, a line each."""
    return [f"{outcome.policy}: {cause}" for outcome in comparison.outcomes for cause in outcome.causes]


def _settings(outcome: Outcome) -> str:
    """`: prefill=7, decode=5`; '' of none, and of many."""
    if not outcome.settings or len(outcome.settings) > MOST_SETTINGS:
        return ""
    return ": " + ", ".join(f"{name}={_setting(value)}" for name, value in outcome.settings.items())


def _setting(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({', '.join(f'{name}={_setting(inner)}' for name, inner in value.items() if inner is not None)})"
    if isinstance(value, list | tuple):
        return "/".join(map(_setting, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _promise(promise: Sla) -> str:
    return f"TTFT {promise.ttft_ms:g} ms and ITL {promise.itl_ms:g} ms"


def _wrapped(told: str, indent: str = "") -> str:
    return "\n".join(textwrap.wrap(printable(told), COLUMNS, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False))


def compared(policies: Sequence[Shown]) -> tuple[Shown, ...]:
    """With the ratio of each to the planner, where it took part."""
    ours = next((shown.outcome.gpu_hours for shown in policies if shown.outcome.policy == OURS), 0.0)
    return tuple(replace(shown, outcome=replace(shown.outcome, ratio=shown.outcome.gpu_hours / ours if ours else None)) for shown in policies)
