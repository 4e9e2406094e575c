"""The traffic of a comparison: a file or a Prometheus' memory, a piece of it, copied or thinned, faster or not; and what a reader must know of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from sla_planner.config_words import masked
from sla_planner.engines.metric_names import metric_family
from sla_planner.metrics.prometheus import PrometheusAccess
from sla_planner.metrics.traffic_history import Period, TrafficHistory, drawn_trace, read_history, total_gap_s
from sla_planner.report.wording import clock
from sla_planner.simulate_config import SAMPLE, SimulateConfig
from sla_planner.traffic.trace import Trace, read_trace, sample_trace_path

LONG_GAP_S = 3600.0
TOLD_GAPS = 3
WHOLE = 0.98  # of what was asked for: less is told


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """`words`: what it is. `duration_s`: up to here GPU-hours are counted; None = to the last arrival."""

    trace: Trace
    words: str
    duration_s: float | None = None
    warnings: tuple[str, ...] = ()


def traffic_of(config: SimulateConfig, progress: Callable[[float], None]) -> Traffic:
    """`progress` hears the share (0..1) of a Prometheus' history that was read.

    Raises `TraceError`, `UsageError`, and `UnreachableError` for a Prometheus that does not answer.
    """
    recorded = _from_file(config) if config.trace is not None else _from_prometheus(config, progress)
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
    return Traffic(trace, ", ".join(words), duration_s, recorded.warnings)


def _from_file(config: SimulateConfig) -> Traffic:
    assert config.trace is not None
    shipped = config.trace == Path(SAMPLE) and not config.trace.exists()
    trace = read_trace(sample_trace_path() if shipped else config.trace)
    return Traffic(trace, "the shipped sample" if shipped else config.trace.name, warnings=_silences(trace))


def _from_prometheus(config: SimulateConfig, progress: Callable[[float], None]) -> Traffic:
    assert config.from_prometheus is not None
    access = PrometheusAccess(
        config.from_prometheus,
        config.prometheus_timeout_s,
        config.prometheus_bearer_token_file,
        config.prometheus_ca_file,
        config.prometheus_tls_verify,
    )
    period = Period(time.time() // config.step_s * config.step_s, config.step_s, max(math.ceil(config.last / config.step_s), 1))
    family = metric_family(config.metrics)
    history = read_history(access, family, period, model=config.model_name, namespace=config.namespace, progress=progress)
    end_s = history.start_s + history.duration_s
    words = f"what {masked(config.from_prometheus)} counted from {_moment(history.start_s)} to {_moment(end_s)}"
    return Traffic(drawn_trace(history, seed=config.seed), words, history.duration_s, tuple(_doubts(config, history)))


def _doubts(config: SimulateConfig, history: TrafficHistory) -> Iterator[str]:
    """Where the traffic is not what really arrived."""
    yield (
        "Prometheus remembers counts and histograms, not requests: so many arrive in each step as were counted, but when within its "
        f"{config.step_s:g} s, and with which prompt and answer lengths of that step, is drawn; the wait for a first token of a real rush may differ"
    )
    if history.duration_s < WHOLE * config.last:
        yield f"Prometheus remembers {span(history.duration_s)} of the {span(config.last)} asked for"
    for gap in history.gaps[:TOLD_GAPS]:
        times = f"from {_moment(gap.start_s)} to {_moment(gap.end_s)}"
        if gap.spread:
            yield f"no sample of {gap.server or 'a frontend'} {times}: what it counted meanwhile is spread evenly"
        else:
            yield f"no sample of any frontend {times}: simulated as silence"
    if len(history.gaps) > TOLD_GAPS:
        more = len(history.gaps) - TOLD_GAPS
        yield f"{more} more gap{'s' if more > 1 else ''}; all together there were gaps for {span(total_gap_s(history.gaps))}"


def _moment(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%MZ")


def span(seconds: float) -> str:
    """`2.5 d`, `3.0 h`, `12 min`."""
    if seconds >= 2 * 86_400:
        return f"{seconds / 86_400:.1f} d"
    return f"{seconds / 3600:.1f} h" if seconds >= 2 * 3600 else f"{seconds / 60:.0f} min"


def _silences(trace: Trace) -> tuple[str, ...]:
    """A word about times without a request: night, or a recording that stopped?"""
    pauses_s = np.diff(trace.arrival_s, prepend=0.0)
    long = np.flatnonzero(pauses_s > LONG_GAP_S)
    if not len(long):
        return ()
    begun = [trace.arrival_s[index] - pauses_s[index] for index in long[:TOLD_GAPS]]
    told = [f"{clock(start_s)} to {clock(trace.arrival_s[index])}" for start_s, index in zip(begun, long, strict=False)]
    more = f" and {len(long) - TOLD_GAPS} more" if len(long) > TOLD_GAPS else ""
    return (f"no request for longer than an hour: {', '.join(told)}{more}; was the recording interrupted? It is simulated as silence",)
