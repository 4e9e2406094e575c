"""One sweep from its settings to its results folder.

    what will be done, and its cost  ->  measure  ->  pick  ->  profile  ->  verify  ->  pictures, page, last lines

The profile is written before the verification: whatever happens then, it is there.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click

from sla_planner import __version__, atomic
from sla_planner.config import Loaded
from sla_planner.errors import EngineError, InfeasibleError, InterruptedRun, PlannerError, UnreachableError, UsageError
from sla_planner.logs import setup
from sla_planner.model.profile import ParallelMapping, Profile, Provenance
from sla_planner.model.selection import Candidate, choose
from sla_planner.report.sweep_document import document
from sla_planner.report.sweep_page import html
from sla_planner.report.sweep_plots import pictures
from sla_planner.report.sweep_progress import BUILDING, DONE, INITIALIZING, SELECTING, SweepProgress, phase_fields, plain_line, progress_fields
from sla_planner.report.sweep_wording import comparison_table, headline, infeasible, suggested_lines, verification_text
from sla_planner.stages.sweep_sources import Source, pair_launcher, source_of
from sla_planner.store.point_files import PointFiles
from sla_planner.store.profile_files import PROFILE_JSON, write_json_twins, write_npz_tree, write_profile_json
from sla_planner.sweep.assemble import assembled, candidates_of
from sla_planner.sweep.checkpoint import Anew, Checkpoint
from sla_planner.sweep.estimate import estimate
from sla_planner.sweep.port import Deployment, Phase
from sla_planner.sweep.result import Cost, Goal, Progress, SweepResult, Verification
from sla_planner.sweep.runner import MappingRun, Sweep
from sla_planner.sweep.verify import Pick, verify
from sla_planner.sweep_config import SweepConfig
from sla_planner.termination import leave_word
from sla_planner.traffic import aiperf
from sla_planner.traffic.client import allow_open_connections

REPORT = "report.html"
PICTURES_OF_SOME = ("selected_decode_interpolation/decode_tp*.png", "verification.png")  # of some sweeps only
DOUBTFUL_SHARE = 0.2  # of a mapping's points
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

log = logging.getLogger(__name__)


def run(loaded: Loaded[SweepConfig]) -> None:
    """Sweep, and leave the results in the output folder. Raises `InfeasibleError` in the end when nothing keeps the promise."""
    config = loaded.config
    setup(config.log_format)
    for line in loaded.describe(defaults=False):
        log.info(line)
    source = source_of(config)
    if config.aiperf and shutil.which(aiperf.PROGRAM) is None:
        raise UsageError("aiperf is not on PATH", hint="pip install aiperf, best into an environment of its own, or leave --aiperf out")
    deployments = source.space.deployments(separate_phases=config.separate_phases)
    for label, reason in source.space.left_out:
        log.info("Left out: %s: %s", label, reason)
    if config.endpoint is not None:
        log.info("The endpoint is taken for one engine at %s (--min-num-gpus says otherwise)", deployments[0].label)
    if config.use_ai_configurator:
        then = "; those that it picks are then measured and correct it" if config.calibrates else ", and no engine is started"
        computed = ", ".join(deployment.label for deployment in deployments)
        log.info("AI Configurator computes the profile of %s%s", computed, then, extra={"progress": phase_fields(INITIALIZING)})
    else:
        for line in estimate(source.space, config.goal(), config.estimate_options()).lines():
            log.info(line, extra={"progress": phase_fields(INITIALIZING)})
    if config.dry_run:
        written = _write_all(config.output_dir, source.manifests(deployments))
        click.echo(json.dumps({"written": written}) if config.json_output else "\n".join(written))
        return
    allow_open_connections()
    with PointFiles(config.output_dir / "points") as points:
        for warning in points.warnings:
            log.warning(warning)
        source.prepare(deployments)
        if config.in_cluster:
            _write_all(config.output_dir, source.manifests(deployments))
        sweep = _Run(loaded, source, points)
        result = _until_stopped(sweep, deployments)
    _tell(result, config)
    if sweep.unpublished is not None:
        raise sweep.unpublished


def _until_stopped(sweep: _Run, deployments: Sequence[Deployment]) -> SweepResult:
    """Run it; a signal ends it with everything that was measured on disk and no engine left."""

    async def main() -> SweepResult:
        task = asyncio.ensure_future(sweep.result(deployments))
        for number in STOP_SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        try:
            return await task
        except asyncio.CancelledError:
            raise InterruptedRun(
                f"stopped, {sweep.measured + sweep.reused} points are saved, {sweep.measured} of them new", hint="the same command goes on from here"
            ) from None

    return asyncio.run(main())


class _Run:
    """One sweep under way."""

    def __init__(self, loaded: Loaded[SweepConfig], source: Source, points: PointFiles) -> None:
        self.config, self.source, self.loaded = loaded.config, source, loaded
        self.goal: Goal = self.config.goal()
        self.measured = self.reused = 0
        self.unpublished: PlannerError | None = None  # why the profile is only in its folder
        self._checkpoint: Checkpoint = Anew(points) if self.config.force_rerun else points

    async def result(self, deployments: Sequence[Deployment]) -> SweepResult:
        """Measured or computed, picked, verified; all files written."""
        with _progress(self.config) as tell:
            result = await (self._offline(tell) if self.config.use_ai_configurator else self._online(deployments, tell))
            self._enter(BUILDING, "Writing the profile")
            self._write_profile(result)
            await self._publish(result)
            if self.config.verify and self.source.launcher is not None and result.feasible:
                result = await self._verified(result, tell)
            self._write_report(result)
        self._enter(DONE, "The sweep is done")
        return result

    def _enter(self, phase: str, doing: str) -> None:
        """For programs that follow the log; people see it in what is written."""
        if not _for_people(self.config):
            points = self.measured + self.reused
            log.info(doing, extra={"progress": phase_fields(phase, points, points)})

    async def _online(self, deployments: Sequence[Deployment], tell: Callable[[Progress], None]) -> SweepResult:
        sweep = self._sweep(tell)
        runs = await sweep.run(deployments)
        self._enter(SELECTING, "Picking the mappings")
        found = assembled(runs, self.goal, self._provenance(runs, "measured"))
        return self._picked(found.profile, found.prefill, found.decode, runs, sweep)

    async def _offline(self, tell: Callable[[Progress], None]) -> SweepResult:
        """Computed; corrected with measured points of the mappings that it would pick, where engines can be started."""
        from sla_planner.engines.ai_configurator import OfflineRequest, offline_profile
        from sla_planner.model.calibrated import calibrated

        config, space = self.config, self.source.space
        computed = offline_profile(
            OfflineRequest(
                model=config.aic_hf_id or config.model or "",
                system=config.aic_system or "",
                backend=config.backend,
                prefill=space.prefill,
                decode=space.decode,
                max_context_tokens=config.max_context_length or self.source.shape.max_context_tokens or 0,
                backend_version=config.aic_backend_version or "",
                kv_cache_type=config.aic_kv_cache_type or "",
            )
        )
        self._enter(SELECTING, "Picking the mappings")
        result = self._picked(computed.profile, *candidates_of(computed.profile, self.goal), [], None)
        result = replace(result, left_out=(*result.left_out, *computed.left_out), warnings=(*result.warnings, *computed.notes))
        if self.source.launcher is None:
            return result
        sweep = self._sweep(tell)
        runs: list[MappingRun] = []
        tried: set[ParallelMapping] = set()
        picks = [space.prefill[0]] if config.endpoint is not None else _picks(result)
        while picks:  # a correction may move the pick to a mapping that was not measured yet
            tried |= set(picks)
            try:
                runs += await sweep.run([Deployment(mapping) for mapping in picks])
            except (EngineError, UnreachableError) as error:  # what cannot be started is not picked; perhaps another one
                if config.endpoint is not None or not all(self._startable(computed.profile, sweep)):
                    raise error from None
            profile = computed.profile
            if runs:
                profile = calibrated(profile, assembled(runs, self.goal, self._provenance(runs, "measured")).profile)
            prefill, decode = self._startable(profile, sweep)
            result = self._picked(profile, prefill, decode, runs, sweep)
            picks = [] if config.endpoint is not None else [mapping for mapping in _picks(result) if mapping not in tried]
        return replace(result, left_out=(*computed.left_out, *result.left_out), warnings=(*computed.notes, *result.warnings))

    def _startable(self, profile: Profile, sweep: Sweep) -> tuple[list[Candidate], list[Candidate]]:
        """Prefill and decode candidates of a computed profile, less the mappings that could not be measured."""
        gone = {label for label, _ in sweep.left_out}
        prefill, decode = candidates_of(profile, self.goal)
        return [c for c in prefill if c.mapping.label not in gone], [c for c in decode if c.mapping.label not in gone]

    def _sweep(self, tell: Callable[[Progress], None]) -> Sweep:
        assert self.source.launcher is not None

        def watch(progress: Progress) -> None:
            self.measured += progress.point is not None and not progress.reused
            self.reused += progress.reused
            tell(progress)

        return Sweep(self.goal, self.source.options(self.config), self.source.launcher, self._checkpoint, watch)

    def _picked(
        self, profile: Profile, prefill: Sequence[Candidate], decode: Sequence[Candidate], runs: Sequence[MappingRun], sweep: Sweep | None
    ) -> SweepResult:
        of_prefill, of_decode = choose(prefill, self.goal.promise.ttft_ms), choose(decode, self.goal.promise.itl_ms)
        tally = sweep.tally if sweep else None
        return SweepResult(
            goal=self.goal,
            profile=replace(profile, selected_prefill=of_prefill.nearest.mapping, selected_decode=of_decode.nearest.mapping),
            prefill=of_prefill,
            decode=of_decode,
            prefill_candidates=tuple(prefill),
            decode_candidates=tuple(decode),
            points=tuple(point for run in runs for point in run.points),
            facts={run.deployment.mapping: run.facts for run in runs},
            cost=Cost(tally.wall_s, tally.gpu_s / 3600, tally.deployments, tally.measured, tally.reused) if tally else Cost(0, 0, 0, 0, 0),
            left_out=(*self.source.space.left_out, *(sweep.left_out if sweep else ())),
            may_grow=self.source.may_grow and not (sweep and sweep.left_out),  # else the larger ones were tried
            warnings=tuple(warning for run in runs for warning in (*run.warnings, *_doubts(run))),
        )

    async def _verified(self, result: SweepResult, tell: Callable[[Progress], None]) -> SweepResult:
        """`result` with what its pick does in use; what goes wrong then is a warning: the profile stands."""
        assert self.source.launcher is not None
        profile, both = result.profile, set(self.source.space.prefill) & set(self.source.space.decode)

        def deployment(mapping: ParallelMapping, phase: Phase) -> Deployment:
            return Deployment(mapping, Phase.BOTH if mapping in both and not self.config.separate_phases else phase)

        def doing(what: str) -> None:
            done = result.cost.measured + result.cost.reused
            tell(Progress(what, done, done, result.cost.wall_s, None))

        pair = pair_launcher(self.config, self.source, profile.selected_prefill, profile.selected_decode)
        if pair is not None and self.config.in_cluster:
            _write_all(self.config.output_dir, dict([pair.manifest(deployment(profile.selected_decode, Phase.DECODE))]))
        pick = Pick(
            self.source.launcher,
            deployment(profile.selected_prefill, Phase.PREFILL),
            deployment(profile.selected_decode, Phase.DECODE),
            pair,
            self.config.output_dir / "aiperf" if self.config.aiperf else None,
        )
        begun_s = time.monotonic()
        try:
            verification = await self._tried(profile, pick, doing)
            how = f"{verification.how}; the decode pick was measured with {result.decode.nearest.concurrency:.0f} in flight"
            result = replace(result, verification=replace(verification, how=how))
        except PlannerError as error:
            result = replace(result, warnings=(*result.warnings, f"the pick was not verified: {error}"))
        wall_s, gpus = time.monotonic() - begun_s, profile.selected_decode.gpus + (profile.selected_prefill.gpus if pair else 0)
        return replace(result, cost=replace(result.cost, wall_s=result.cost.wall_s + wall_s, gpu_hours=result.cost.gpu_hours + wall_s * gpus / 3600))

    async def _tried(self, profile: Profile, pick: Pick, doing: Callable[[str], None]) -> Verification:
        """The picks as a pair; a pair that nobody asked for and that does not start is no reason to leave them untried."""
        try:
            return await verify(profile, self.goal, pick, self.config.prompt_form, doing)
        except EngineError as error:
            if pick.pair is None or self.config.verify_command is not None:
                raise
            verification = await verify(profile, self.goal, replace(pick, pair=None), self.config.prompt_form, doing)
            warning = f"the pair of both picks was not started: {error}"
            return replace(verification, warnings=(*verification.warnings, warning))

    async def _publish(self, result: SweepResult) -> None:
        """What goes wrong is told in the end: the profile is in its folder, and is verified first."""
        if self.source.cluster is None or self.config.publish_configmap is None:
            return
        try:
            log.info(await asyncio.to_thread(self.source.cluster.publish, result, self.config.output_dir))
        except PlannerError as error:
            log.warning("The profile was not published: %s", error)
            self.unpublished = error

    def _provenance(self, runs: Sequence[MappingRun], source: str) -> Provenance:
        facts = runs[0].facts if runs else None
        return Provenance(
            source=source,
            model=facts.model if facts else "",
            engine=self.config.backend,
            gpu=self.config.aic_system or "",
            image=self.config.image or "",
            measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _write_profile(self, result: SweepResult) -> None:
        folder = self.config.output_dir
        (folder / PROFILE_JSON).unlink(missing_ok=True)  # readers prefer it: it must not stand beside newer arrays
        write_npz_tree(result.profile, folder)
        write_json_twins(result.profile, folder)
        write_profile_json(result.profile, folder / PROFILE_JSON)  # last: a folder with a profile.json has a whole profile

    def _write_report(self, result: SweepResult) -> None:
        folder, drawn = self.config.output_dir, pictures(result)
        for pattern in PICTURES_OF_SOME:  # an earlier sweep's must not pass for this one's
            for left in folder.glob(pattern):
                left.unlink(missing_ok=True)
        for name, png in drawn.items():
            _folder(folder / name)
            atomic.write_bytes(folder / name, png)
        facts = [("Version", f"sla-planner {__version__}"), *((setting.path, setting.value) for setting in self.loaded.settings())]
        atomic.write_text(folder / REPORT, html(result, drawn, facts))


def _picks(result: SweepResult) -> list[ParallelMapping]:
    return list(dict.fromkeys((result.prefill.nearest.mapping, result.decode.nearest.mapping)))


def _doubts(run: MappingRun) -> list[str]:
    """A sweep that lost many of its points says so: the rest may be a lucky choice."""
    doubted = [point for point in run.points if point.defects]
    if len(doubted) <= DOUBTFUL_SHARE * len(run.points):
        return []
    return [f"{run.deployment.label}: {len(doubted)} of {len(run.points)} points are not trusted, the last because {doubted[-1].defects[-1]}"]


def _write_all(folder: Path, files: dict[str, str]) -> list[str]:
    for name, text in files.items():
        _folder(folder / name)
        atomic.write_text(folder / name, text)
    return [str(folder / name) for name in files]


def _folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the directory {path.parent}: {error.strerror}", hint="choose another --output-dir") from None


def _tell(result: SweepResult, config: SweepConfig) -> None:
    """The end: what was found, on stdout."""
    if config.use_ai_configurator:
        for label, reason in result.left_out:
            log.info("Left out: %s: %s", label, reason)
    for warning in result.warnings:
        log.warning(warning)
    if result.verification is not None:
        log.info("In use: %s", verification_text(result.verification))
        for warning in result.verification.warnings:
            log.warning("In use: %s", warning)
    if config.json_output:
        click.echo(json.dumps(document(result) | {"output_dir": str(config.output_dir)}))
    else:
        click.echo(f"\n{comparison_table(result)}\n\n{headline(result)}\nReport: {config.output_dir / REPORT}\n")
        click.echo("\n".join(suggested_lines(result)))
    leave_word("\n".join((*suggested_lines(result), headline(result))))
    if not result.feasible:
        message, hint = infeasible(result)
        raise InfeasibleError(message, hint=hint)


def _progress(config: SweepConfig) -> AbstractContextManager[Callable[[Progress], None]]:
    """A bar and lines for people, log lines for machines."""
    return SweepProgress(sys.stderr) if _for_people(config) else nullcontext(_log_progress)


def _for_people(config: SweepConfig) -> bool:
    return config.log_format == "human" or (config.log_format == "auto" and sys.stderr.isatty())


def _log_progress(progress: Progress) -> None:
    if line := plain_line(progress):
        log.info(line, extra={"progress": progress_fields(progress)})
