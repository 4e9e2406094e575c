"""The traffic of a comparison: a file or a Prometheus' memory, a piece of it, copied or thinned, faster or not; and what a reader must know of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sla_planner.report.wording import clock
from sla_planner.simulate_config import SAMPLE, SimulateConfig
from sla_planner.traffic.trace import Trace, read_trace, sample_trace_path

LONG_GAP_S = 3600.0
TOLD_GAPS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """`words`: what it is. `duration_s`: up to here GPU-hours are counted; None = to the last arrival. `drawn`: arrivals or lengths are not recorded
    ones."""

    trace: Trace
    words: str
    duration_s: float | None = None
    warnings: tuple[str, ...] = ()
    drawn: bool = False


def traffic_of(config: SimulateConfig) -> Traffic:
    """Raises `TraceError`, `UsageError`, and `UnreachableError` for a Prometheus that does not answer."""
    recorded = _from_file(config)
    trace, words, duration_s = recorded.trace, [recorded.words], recorded.duration_s
    if config.start_s or config.duration_s:
        end_s = math.inf if config.duration_s is None else config.start_s + config.duration_s
        trace = trace.window(config.start_s, end_s)
        until_s = min(end_s, duration_s or recorded.trace.end_s)
        words.append(f"{clock(config.start_s)} to {clock(until_s)}")
        duration_s = until_s - config.start_s if duration_s else None
    if config.scale != 1:
        words.append(f"{config.scale:g} times the load")
        trace = trace.scaled(config.scale, seed=config.seed)
    if config.speed_up != 1:
        words.append(f"{config.speed_up:g} times as fast")
        trace = trace.sped_up(config.speed_up)
        duration_s = duration_s / config.speed_up if duration_s else None
    return Traffic(trace, ", ".join(words), duration_s, (*recorded.warnings, *_gaps(trace)), recorded.drawn)


def _from_file(config: SimulateConfig) -> Traffic:
    assert config.trace is not None
    shipped = config.trace == Path(SAMPLE) and not config.trace.exists()
    return Traffic(read_trace(sample_trace_path() if shipped else config.trace), "the shipped sample" if shipped else config.trace.name)


def _gaps(trace: Trace) -> tuple[str, ...]:
    """A word about times without a request: night, or a recording that stopped?"""
    pauses_s = np.diff(trace.arrival_s, prepend=0.0)
    long = np.flatnonzero(pauses_s > LONG_GAP_S)
    if not len(long):
        return ()
    begun = [trace.arrival_s[index] - pauses_s[index] for index in long[:TOLD_GAPS]]
    told = [f"{clock(start_s)} to {clock(trace.arrival_s[index])}" for start_s, index in zip(begun, long, strict=False)]
    more = f" and {len(long) - TOLD_GAPS} more" if len(long) > TOLD_GAPS else ""
    return (f"no request for longer than an hour: {', '.join(told)}{more}; was the recording interrupted? It is simulated as silence",)
