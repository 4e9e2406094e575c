"""Traffic, cluster and promise put together; every policy run on them; the result told."""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path

import click

from sla_planner import __version__
from sla_planner.atomic import write_bytes, write_text
from sla_planner.config import DEFAULT, Loaded
from sla_planner.errors import UsageError
from sla_planner.logs import setup
from sla_planner.model.engine import Engine
from sla_planner.plan.peak import peak_fleet
from sla_planner.plan.planner import warm_up
from sla_planner.plan.settings import PlanSettings, RoleLimits
from sla_planner.report.simulation import OURS, Comparison, Outcome, Shown, compared, document, text
from sla_planner.report.simulation_page import html
from sla_planner.report.simulation_progress import ComparisonProgress
from sla_planner.simulate.compiled import COMPILES
from sla_planner.simulate.contest import Contest, Contestant, Entry, Knows
from sla_planner.simulate.contestants import CONTESTANTS, of_planner
from sla_planner.simulate.policies.planner import Planner
from sla_planner.simulate.policy import Workers
from sla_planner.simulate.run import Scenario
from sla_planner.simulate.score import WARM_UP_S
from sla_planner.simulate.true_work import TrueWork, true_work
from sla_planner.simulate_config import SimulateConfig
from sla_planner.stages.planner_basis import basis_of, warm_up_windows
from sla_planner.stages.simulate_series import course_of, load_of, minutes_of
from sla_planner.stages.simulate_traffic import Traffic, span, traffic_of
from sla_planner.traffic.trace import Trace

SEARCHED = frozenset({"static", "hpa", "dynamo06-headroom", "threshold", "clairvoyant"})  # nobody knows how many runs it will take
START_FROM_S = 600.0  # of the traffic: what the first fleet is sized for
UNTOLD = frozenset({"output_dir", "json_output", "log_format"})  # where and how a result is told is no part of it
REPORT, RESULT = "report.html", "result.json"
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
    traffic = _read(config)
    log.info("%s requests over %s: %s", f"{len(traffic.trace):,}", span(traffic.trace.end_s), traffic.words)
    start = Workers(*(config.first_workers or _first_fleet(traffic.trace, basis.engine, basis.settings)))
    lasts_s = traffic.duration_s or max(traffic.trace.end_s, basis.settings.interval_s)
    scenario = Scenario(traffic.trace, basis.engine, start, config.options, lasts_s)
    with ComparisonProgress(len(chosen), SEARCHED, sys.stderr) as progress:
        contest = Contest(scenario, basis.settings, config.goal or config.attainment, progress, _dynamo_engine(config))
        work = true_work(scenario, basis.settings.sla) if config.output_dir else None
        shown = []
        for name, contestant in chosen.items():
            progress.begin(name)
            shown.append(_shown(contestant(contest), contest, work))  # and let its requests go: they are 60 MB for a busy day
    comparison = _comparison(loaded, traffic, contest, compared(shown))
    if config.output_dir is not None:
        _write(comparison, config.output_dir)
    click.echo(json.dumps(document(comparison)) if config.json_output else text(comparison))


def _read(config: SimulateConfig) -> Traffic:
    with ComparisonProgress(1, (), sys.stderr) as progress:
        if config.from_prometheus is not None:
            progress.begin("reading Prometheus")
        traffic = traffic_of(config, lambda share: progress("Prometheus", share))
    for warning in traffic.warnings:
        log.warning("%s", warning)
    return traffic


def _chosen(config: SimulateConfig) -> dict[str, Contestant]:
    """By name, in the order asked for."""
    chosen = {name: CONTESTANTS[name] for name in config.policy}
    if OURS in chosen and (config.restart_every or config.warmup_trace):
        chosen[OURS] = _with_a_past(config)
    return chosen


def _with_a_past(config: SimulateConfig) -> Contestant:
    """The planner, restarted from its saved state and warmed up by earlier traffic, as asked for."""

    def enter(contest: Contest) -> Entry:
        planner = Planner(contest.plan, contest.scenario.engine, restart_every_s=config.restart_every, remember=True)
        if config.warmup_trace is not None:
            planner.state = warm_up(contest.plan, contest.scenario.engine, planner.state, warm_up_windows(config, basis_of(config)))
        return of_planner(contest, planner)

    return enter


def _dynamo_engine(config: SimulateConfig) -> Engine | None:
    """The profile as Dynamo 0.6 reads it, where its planner takes part."""
    if not any(name.startswith("dynamo") for name in config.policy):
        return None
    return basis_of(config.model_copy(update={"interpolation": "as_measured"})).engine


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


def _write(comparison: Comparison, folder: Path) -> None:
    """The page last: where it is, everything is."""
    from sla_planner.report.simulation_plots import ARRIVED, COST, pictures

    for own in (REPORT, RESULT, ARRIVED, COST, *(f"{name}.png" for name in CONTESTANTS)):  # of an earlier run; nothing else in the folder is ours
        (folder / own).unlink(missing_ok=True)
    drawn = pictures(comparison)
    for name, png in drawn.items():
        write_bytes(folder / name, png)
    write_text(folder / RESULT, json.dumps(document(comparison), indent=1) + "\n")
    write_text(folder / REPORT, html(comparison, drawn))
    log.info("Report: %s", folder / REPORT)


def _shown(entry: Entry, contest: Contest, work: TrueWork | None) -> Shown:
    """With curves where there will be pictures: where `work` is known."""
    if entry.result is None or work is None:
        return Shown(_outcome(entry))
    return Shown(_outcome(entry), course_of(contest.scenario, entry.result, work), minutes_of(contest.scenario, entry.result, contest.plan.sla))


def _comparison(loaded: Loaded[SimulateConfig], traffic: Traffic, contest: Contest, policies: tuple[Shown, ...]) -> Comparison:
    config = loaded.config
    start, duration_s = contest.scenario.start, contest.scenario.end_s
    facts = (
        ("Version", f"sla-planner {__version__}"),
        ("Traffic", f"{len(traffic.trace):,} requests over {duration_s:,.0f} s: {traffic.words}"),
        ("Profile", str(config.profile_results_dir)),
        ("Begins with", f"{start.prefill} prefill and {start.decode} decode workers, ready"),
        ("Start-up", f"{config.options.startup.mean_s:g} s, {config.startup_spread}"),
        ("Seed", str(config.seed)),
        ("Set", ", ".join(f"{each.path}={each.value}" for each in loaded.settings() if each.source != DEFAULT and each.path not in UNTOLD)),
    )
    warnings = traffic.warnings
    judged_from_s = WARM_UP_S if traffic.trace.end_s >= WARM_UP_S else 0.0
    if not judged_from_s:
        warnings = (*warnings, f"the traffic is shorter than the {WARM_UP_S / 60:.0f} minutes that are not scored: here all of it is")
    return Comparison(
        traffic=f"{len(traffic.trace):,} requests over {span(duration_s)} ({traffic.words})",
        promise=contest.plan.sla,
        goal=contest.goal,
        duration_s=duration_s,
        judged_from_s=judged_from_s,
        policies=policies,
        load=load_of(contest.scenario) if config.output_dir else None,
        facts=facts,
        warnings=warnings,
    )


def _outcome(entry: Entry) -> Outcome:
    return Outcome(
        **asdict(entry.score),
        policy=entry.policy,
        reached=entry.reached,
        ratio=None,
        knows=str(entry.knows),
        possible=entry.knows is not Knows.FUTURE,
        tried=entry.tried,
        settings=entry.settings,
        causes=entry.causes,
    )
