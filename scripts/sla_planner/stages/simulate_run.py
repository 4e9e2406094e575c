"""Traffic, cluster and promise put together; every policy run on them; the result told."""

from __future__ import annotations

import difflib
import json
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import click

from sla_planner import __version__
from sla_planner.config import Loaded
from sla_planner.errors import UsageError
from sla_planner.logs import setup
from sla_planner.model.engine import Engine
from sla_planner.plan.peak import peak_fleet
from sla_planner.plan.planner import warm_up
from sla_planner.plan.settings import PlanSettings, RoleLimits
from sla_planner.report.simulation import OURS, Comparison, Outcome, Shown, document, ratio_of, text
from sla_planner.report.simulation_progress import ComparisonProgress
from sla_planner.simulate.compiled import COMPILES
from sla_planner.simulate.contest import Contest, Contestant, Entry, Knows
from sla_planner.simulate.policies.planner import Planner
from sla_planner.simulate.policies.static import Static
from sla_planner.simulate.policy import Workers
from sla_planner.simulate.run import Scenario
from sla_planner.simulate.run import run as simulate
from sla_planner.simulate.score import WARM_UP_S, score
from sla_planner.simulate_config import SimulateConfig
from sla_planner.stages.planner_basis import basis_of, warm_up_windows
from sla_planner.stages.simulate_traffic import Traffic, traffic_of
from sla_planner.traffic.trace import Trace

START_FROM_S = 600.0  # of the traffic: what the first fleet is sized for
NO_NUMBA = "numba is not installed: the simulation runs as plain Python, about 100 times slower; pip install sla-planner[fast]"

log = logging.getLogger(__name__)


def run(loaded: Loaded[SimulateConfig]) -> None:
    """Print the table or the JSON document, and write the report where one is asked for. Everything else goes to stderr."""
    config = loaded.config
    setup(config.log_format)
    for line in loaded.describe(defaults=False):
        log.info("%s", line)
    chosen = _chosen(config)
    basis = basis_of(config)
    _check_output(config.output_dir)
    if not COMPILES:
        log.warning(NO_NUMBA)
    traffic = traffic_of(config)
    log.info("%s requests over %.1f h: %s", f"{len(traffic.trace):,}", traffic.trace.end_s / 3600, traffic.words)
    start = Workers(*(config.first_workers or _first_fleet(traffic.trace, basis.engine, basis.settings)))
    scenario = Scenario(traffic.trace, basis.engine, start, config.options, traffic.duration_s)
    with ComparisonProgress(len(chosen), sys.stderr) as progress:
        contest = Contest(scenario, basis.settings, config.goal or config.attainment, progress)
        entries = []
        for name, contestant in chosen.items():
            progress(name, 0.0)
            entries.append(contestant(contest))
    comparison = _comparison(config, traffic, contest, entries)
    click.echo(json.dumps(document(comparison)) if config.json_output else text(comparison))


def _chosen(config: SimulateConfig) -> dict[str, Contestant]:
    """By name, in the order asked for. Raises `UsageError` for an unknown one."""
    known: Mapping[str, Contestant] = {OURS: _planner(config), "static": _static}
    for name in config.policy:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UsageError(f"unknown policy {name!r}", hint=f"{hint}known: {', '.join(known)}")
    return {name: known[name] for name in config.policy}


def _planner(config: SimulateConfig) -> Contestant:
    """The planner as it is set, restarted and warmed up as asked for."""

    def enter(contest: Contest) -> Entry:
        planner = Planner(contest.plan, contest.scenario.engine, restart_every_s=config.restart_every)
        if config.warmup_trace is not None:
            planner.state = warm_up(contest.plan, contest.scenario.engine, planner.state, warm_up_windows(config, basis_of(config)))
        end_s = contest.scenario.end_s
        result = simulate(contest.scenario, planner, lambda at_s: contest.progress(OURS, at_s / end_s))
        scored = score(contest.scenario, result, contest.plan.sla)
        return Entry(OURS, Knows.PAST, planner.settings, scored, scored.attainment >= contest.goal, result=result)

    return enter


def _static(contest: Contest) -> Entry:
    policy = Static(contest.scenario.start)
    result = simulate(contest.scenario, policy)
    scored = score(contest.scenario, result, contest.plan.sla)
    return Entry("static", Knows.PAST, policy.settings, scored, scored.attainment >= contest.goal, result=result)


def _first_fleet(trace: Trace, engine: Engine, settings: PlanSettings) -> tuple[int, int]:
    """Prefill, decode: what the first minutes need at their busiest."""
    first = trace.arrival_s < max(START_FROM_S, trace.arrival_s[0] + 1)
    arrays = (column[first] for column in (trace.arrival_s, trace.isl_tokens, trace.osl_tokens))
    prefill, decode = peak_fleet(engine, settings.sla, *arrays, window_s=settings.horizon_s)
    return _bounded(prefill, settings.prefill), _bounded(decode, settings.decode)


def _bounded(count: int, limits: RoleLimits) -> int:
    return max(count if limits.max_workers is None else min(count, limits.max_workers), limits.min_workers, 1)


def _check_output(folder: Path | None) -> None:
    """Before a long run, not after it."""
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make {folder}: {error.strerror}", hint="choose another --output-dir") from None
    if not os.access(folder, os.W_OK):
        raise UsageError(f"cannot write to {folder}", hint="choose another --output-dir")


def _comparison(config: SimulateConfig, traffic: Traffic, contest: Contest, entries: list[Entry]) -> Comparison:
    hours = [(entry.policy, entry.score.gpu_hours) for entry in entries]
    start, duration_s = contest.scenario.start, contest.scenario.end_s
    facts = (
        ("Version", f"sla-planner {__version__}"),
        ("Traffic", f"{len(traffic.trace):,} requests over {duration_s / 3600:.2f} h: {traffic.words}"),
        ("Profile", str(config.profile_results_dir)),
        ("Begins with", f"{start.prefill} prefill and {start.decode} decode workers, ready"),
        ("Start-up", f"{config.options.startup.mean_s:g} s, {config.startup_spread}"),
        ("Seed", str(config.seed)),
    )
    warnings = traffic.warnings
    if traffic.trace.end_s < WARM_UP_S:
        warnings = (*warnings, f"the traffic is shorter than the {WARM_UP_S / 60:.0f} minutes that are not scored: here all of it is")
    return Comparison(
        traffic=f"{len(traffic.trace):,} requests over {duration_s / 3600:.1f} h ({traffic.words})",
        promise=contest.plan.sla,
        goal=contest.goal,
        duration_s=duration_s,
        policies=tuple(Shown(_outcome(entry, ratio_of(entry.score.gpu_hours, hours))) for entry in entries),
        facts=facts,
        warnings=warnings,
    )


def _outcome(entry: Entry, ratio: float | None) -> Outcome:
    scored = entry.score
    return Outcome(
        policy=entry.policy,
        attainment=scored.attainment,
        gpu_hours=scored.gpu_hours,
        gpu_hours_prefill=scored.gpu_hours_prefill,
        gpu_hours_decode=scored.gpu_hours_decode,
        minutes_inside=scored.minutes_inside,
        actions=scored.actions,
        reached=entry.reached,
        ratio=ratio,
        requests=scored.requests,
        ttft_attainment=scored.ttft_attainment,
        itl_attainment=scored.itl_attainment,
        ttft_p50_ms=scored.ttft_p50_ms,
        ttft_p99_ms=scored.ttft_p99_ms,
        itl_p50_ms=scored.itl_p50_ms,
        itl_p99_ms=scored.itl_p99_ms,
        launches=scored.launches,
        most_direction_changes_per_hour=scored.most_direction_changes_per_hour,
        knows=str(entry.knows),
        tried=entry.tried,
        settings=entry.settings,
    )
