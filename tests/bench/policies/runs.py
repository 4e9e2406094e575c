"""One policy on one recording under one promise: a task, run in a process of its own, its result kept as JSON.

A process of its own, because a task may change constants of the planner, and because what one run leaves in memory must not be the next one's. A kept
result is used again when the task and the source of everything that it rests on are the same, so an interrupted matrix goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import sla_planner
from policies.traffic import Recording
from sla_planner.atomic import write_text
from sla_planner.model.engine import engine_of
from sla_planner.model.sla import Sla
from sla_planner.plan.peak import peak_fleet
from sla_planner.plan.settings import PlanSettings, RoleLimits
from sla_planner.simulate.contest import Contest, Entry
from sla_planner.simulate.contestants import CONTESTANTS
from sla_planner.simulate.options import ClusterOptions, Startup
from sla_planner.simulate.policy import Workers
from sla_planner.simulate.run import Scenario
from sla_planner.simulate.score import inside, scored
from sla_planner.store.profile_files import read_profile, sample_profile_dir

Result = Mapping[str, Any]

GOAL = 0.99
START_FROM_S = 600.0  # of the traffic: what the first fleet is sized for, as in `sla-planner simulate`
RESTS_ON = ("metrics", "model", "simulate", "traffic", "plan")
KNOWS_THE_PLANNER = ("slaplanner", "dynamo")  # the others do not decide with `plan`


@dataclass(frozen=True, slots=True)
class Task:
    """`plan`: settings of the planner other than the usual. `constants`: `("risk.PRICE", value)` and so on, of the planner's modules, in the process
    that runs this. `startup_s` is what the planner is told, and what is so unless `options` says otherwise."""

    recording: Recording
    policy: str = "slaplanner"
    startup_s: float = 120.0
    options: ClusterOptions | None = None
    plan: tuple[tuple[str, Any], ...] = ()
    constants: tuple[tuple[str, Any], ...] = ()

    @property
    def words(self) -> str:
        return f"{self.recording.name} {self.recording.promise} {self.startup_s:g}s {self.policy}"

    @property
    def source(self) -> str:
        """Of the code that decides its result."""
        return _source(RESTS_ON if self.policy.startswith(KNOWS_THE_PLANNER) else RESTS_ON[:-1])

    @property
    def file_name(self) -> str:
        key = hashlib.sha256(f"{self!r} {self.source}".encode()).hexdigest()[:16]
        return f"{self.words.replace('/', '-').replace(' ', '_')}_{key}.json"


@dataclass(slots=True)
class Bench:
    """Runs tasks, `jobs` at a time; keeps results in `folder` if there is one."""

    jobs: int = 1
    folder: Path | None = None
    done: dict[str, Result] = field(default_factory=dict)  # by the task's repr: constants may be dicts

    def results(self, tasks: Sequence[Task]) -> list[Result]:
        """In the order of the tasks. What it does is said on stderr."""
        for task in tasks:
            self._look_up(task)
        missing = [task for key, task in {repr(task): task for task in tasks}.items() if key not in self.done]
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(max(min(self.jobs, len(missing)), 1), mp_context=spawn, max_tasks_per_child=1) as pool:
            running = {pool.submit(perform, task, task.source): task for task in missing}
            for number, finished in enumerate(as_completed(running), start=1):
                task, result = running[finished], finished.result()
                self._keep(task, result)
                said = f"{result['attainment']:.2%} inside, {result['gpu_hours']:.1f} GPU-h, {result['cpu_s']:.0f} s CPU"
                print(f"[{number}/{len(missing)}] {task.words}: {said}", file=sys.stderr, flush=True)
        return [self.done[repr(task)] for task in tasks]

    def _look_up(self, task: Task) -> None:
        if self.folder is not None and repr(task) not in self.done and (kept := self.folder / task.file_name).exists():
            self.done[repr(task)] = json.loads(kept.read_text())

    def _keep(self, task: Task, result: Result) -> None:
        self.done[repr(task)] = result
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / task.file_name, json.dumps({**result, "task": repr(task)}, indent=1) + "\n")


@lru_cache
def _source(rooms: tuple[str, ...]) -> str:
    """What the program is made of where results come from."""
    root = Path(sla_planner.__file__).parent
    files = [path for room in rooms for path in sorted((root / room).rglob("*.py"))] + sorted(sample_profile_dir().glob("*"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files if path.is_file())).hexdigest()


# ---- in the process of a task --------------------------------------------------------------------------------------------------------------


def perform(task: Task, source: str) -> dict[str, Any]:
    """In a fresh process: constants stay changed. Raises RuntimeError when the program is no longer the one that the bench began with."""
    begun = time.process_time()
    if task.source != source:
        raise RuntimeError("the program was changed while its bench ran: start the bench again")
    for name, value in task.constants:
        change(name, value)
    contest = contest_of(task)
    entry = CONTESTANTS[task.policy](contest)
    told = {name: getattr(entry, name) for name in ("policy", "reached", "tried")}
    return {
        **asdict(entry.score),
        **told,
        "knows": str(entry.knows),
        "settings": entry.settings,
        "by_day": _by_day(task, contest, entry),
        "why": "; ".join(entry.causes),
        "cpu_s": time.process_time() - begun,
    }


def change(name: str, value: Any) -> None:
    """Sets `module.CONSTANT` of the planner. Raises AttributeError for one that there is not: a part that has gone is no ablation."""
    module_name, constant = name.split(".")
    module = import_module(f"sla_planner.plan.{module_name}")
    getattr(module, constant)
    setattr(module, constant, value)


def contest_of(task: Task) -> Contest:
    """As `sla-planner simulate` puts it together: start fleet, end of the day and seeds are the same."""
    profile = read_profile(sample_profile_dir())
    engine = engine_of(profile)
    promise = task.recording.promise
    settings = PlanSettings(
        sla=Sla(promise.ttft_ms, promise.itl_ms, GOAL),
        startup_s=task.startup_s,
        prefill=RoleLimits(gpus_per_worker=engine.prefill.gpus),
        decode=RoleLimits(gpus_per_worker=engine.decode.gpus),
        **dict(task.plan),
    )
    trace = task.recording.trace()
    first = trace.arrival_s < max(START_FROM_S, trace.arrival_s[0] + 1)
    columns = (trace.arrival_s[first], trace.isl_tokens[first], trace.osl_tokens[first])
    start = Workers(*peak_fleet(engine, settings.sla, *columns, window_s=task.startup_s + PlanSettings().interval_s))
    options = task.options or ClusterOptions(startup=Startup(task.startup_s))
    scenario = Scenario(trace, engine, start, options, trace.end_s)
    return Contest(scenario, settings, GOAL, dynamo_engine=engine_of(profile, "as_measured") if task.policy.startswith("dynamo") else None)


def _by_day(task: Task, contest: Contest, entry: Entry) -> list[float]:
    """Share inside of every day, where there are several."""
    if task.recording.then is None or entry.result is None:
        return []
    arrival_s, kept = contest.scenario.trace.arrival_s, inside(entry.result, contest.plan.sla)
    judged = scored(contest.scenario)
    second = arrival_s >= task.recording.period_s
    return [float(kept[judged & ~second].mean()), float(kept[second].mean())]
