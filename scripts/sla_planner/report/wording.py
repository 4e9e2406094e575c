"""Numbers as people read them. Rounding never flatters: a share inside and a saving are rounded down, so 99.96 % is not called 100 %."""

from __future__ import annotations

import math

import numpy as np

from sla_planner.plan.decision import Role
from sla_planner.plan.record import Carried, Tick
from sla_planner.report.run import Floats, Row, RunReport, changes

GPU_HOURS_FROM_S = 36_000.0  # below ten GPU-hours a person counts seconds


def share_inside(inside: int, count: int) -> str:
    """`99.4 %`, rounded down to a tenth."""
    tenths = inside * 1000 // count
    return "100 %" if tenths == 1000 else f"{tenths / 10:.1f} %"


def promised_share(attainment: float) -> str:
    return f"{attainment * 100:g} %"


def milliseconds(value: float) -> str:
    """`480 ms`; one decimal below ten; `never` for infinity."""
    if math.isinf(value):
        return "never"
    return f"{value:,.1f} ms" if value < 10 else f"{value:,.0f} ms"


def clock(seconds: float) -> str:
    """`00:45`, `12:05`, `23:59:45`: minutes and seconds, hours in front where there are any."""
    whole = int(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes:02d}:{whole % 60:02d}"


def gpu_time(gpu_s: float, scale_of_s: float) -> str:
    """`210 GPU-seconds`, or GPU-hours when `scale_of_s`, the largest number told beside it, is over ten hours."""
    return f"{gpu_s:,.0f} GPU-seconds" if scale_of_s < GPU_HOURS_FROM_S else f"{gpu_s / 3600:,.1f} GPU-hours"


def gpu_unit(scale_of_s: float) -> str:
    return "GPU-seconds" if scale_of_s < GPU_HOURS_FROM_S else "GPU-hours"


def compared(saving: float, unit: str) -> str:
    """`41 % fewer GPU-seconds than a fleet sized for the peak`."""
    percent = math.floor(saving * 100 + 1e-9)
    if percent == 0:
        return f"as many {unit} as a fleet sized for the peak"
    return f"{abs(percent)} % {'fewer' if percent > 0 else 'more'} {unit} than a fleet sized for the peak"


def result(report: RunReport) -> str:
    """First half of the headline: what became of the promise."""
    promise, requests = report.promise, report.requests
    if requests.count == 0:
        return "No requests arrived"
    share = share_inside(requests.inside_count, requests.count)
    return f"{share} of {requests.count:,} requests inside TTFT {promise.ttft_ms:g} ms and ITL {promise.itl_ms:g} ms"


def price(report: RunReport) -> str:
    """Second half of the headline: what it cost. Empty when there is no fleet to compare with."""
    return "" if report.saving is None else compared(report.saving, gpu_unit(_largest_gpu_s(report)))


def headline(report: RunReport) -> str:
    """The run in one sentence."""
    return "; ".join(part for part in (result(report), price(report)) if part)


def summary(report: RunReport) -> tuple[Row, ...]:
    """The run as rows: promise, latencies, GPU time per role against the peak-sized fleet, scaling per role, then the caller's own."""
    return (*_promise_rows(report), *_gpu_rows(report), *_scaling_rows(report), *report.rows)


def _promise_rows(report: RunReport) -> tuple[Row, ...]:
    promise, requests = report.promise, report.requests
    if requests.count == 0:
        return (Row("Requests", "0"),)
    verdict = "kept" if report.kept else "missed"
    return (
        Row(
            "Requests inside the promise",
            share_inside(requests.inside_count, requests.count),
            f"{requests.inside_count:,} of {requests.count:,}; promised {promised_share(promise.attainment)}: {verdict}",
        ),
        Row("TTFT, p50 / p99", _quantiles(np.where(np.isnan(requests.ttft_ms), np.inf, requests.ttft_ms)), f"promised {promise.ttft_ms:g} ms"),
        Row("ITL, p50 / p99", _quantiles(requests.itl_ms[~np.isnan(requests.itl_ms)]), f"promised {promise.itl_ms:g} ms"),
    )


def _quantiles(value_ms: Floats) -> str:
    if len(value_ms) == 0:
        return "none"
    return " / ".join(milliseconds(float(np.quantile(value_ms, q, method="inverted_cdf"))) for q in (0.5, 0.99))


def _gpu_rows(report: RunReport) -> tuple[Row, ...]:
    scale = _largest_gpu_s(report)
    rows = []
    for role in Role:
        use = report.use(role)
        fleet = f"{use.peak_workers} worker{'' if use.peak_workers == 1 else 's'} x {use.gpus_per_worker} GPU"
        rows.append(Row(f"GPU time, {role}", gpu_time(use.gpu_s, scale), f"sized for the peak: {gpu_time(report.peak_gpu_s(role), scale)} ({fleet})"))
    used = report.prefill.gpu_s + report.decode.gpu_s
    return (*rows, Row("GPU time, both", gpu_time(used, scale), price(report)))


def _scaling_rows(report: RunReport) -> tuple[Row, ...]:
    made = list(changes(report.ticks, report.start_s))
    rows = []
    for role in Role:
        up = sum(change.role is role and change.after > change.before for change in made)
        down = sum(change.role is role and change.after < change.before for change in made)
        rows.append(Row(f"Scaling, {role}", f"{up} up, {down} down", f"in {len(report.ticks):,} decisions"))
    return tuple(rows)


def _largest_gpu_s(report: RunReport) -> float:
    return max(report.prefill.gpu_s + report.decode.gpu_s, sum(report.peak_gpu_s(role) for role in Role))


def outcome(tick: Tick) -> str:
    """What the tick did, as the planner's log says it."""
    prefill, decode = tick.decision.prefill, tick.decision.decode
    if not tick.decision.act:
        return f"No scaling needed (prefill={prefill.current}, decode={decode.current})"
    change = ", ".join(f"{made.role} {made.current} -> {made.desired}" for made in (prefill, decode) if made.changed)
    return change if tick.carried is Carried.APPLIED else f"{change} ({tick.carried}: not carried out)"
