"""What is changed: parts of the planner that are switched off, what clusters and days do to it, and its one knob."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from policies.runs import Task
from policies.traffic import Recording
from sla_planner.plan.decision import Role
from sla_planner.plan.risk import PRICE
from sla_planner.plan.settings import Predictor, Sizing
from sla_planner.simulate.options import ClusterOptions, Metrics, PrefixHits, Startup

HUGE = 1e9

PARTS: dict[str, dict[str, Any]] = {  # constants `module.NAME` of the planner, or settings
    "everything": {},
    "means, no risk": {"sizing": Sizing.MEAN},
    "no dip floor": {"risk.DIP_QUANTILE": 0.0},
    "a launch costs no more than keeping": {"risk.LAUNCH_COST": 1.0},
    "a blip counts as what lasts": {"jumps.BLIP": HUGE},
    "the wave behind a shortage is a jump": {"size_risk.WAVE_OVER": HUGE},
    "no drain of queues": {"size_risk.IN_TIME": HUGE},
    "no budget loop": {"risk.BUDGET_GAIN": 0.0},
    "aims at the promise itself": {"risk.AIM": 1.0},
    "all levels are alike": {"jumps.KERNEL_WIDTH": HUGE},
    "remembers 3 hours": {"jumps.MEMORY_S": 3 * 3600.0},
    "no prior": {"jumps.PRIOR_JUMPS": 0.0},
    "no jump detection": {"level.RAMP_FROM": HUGE, "level.RAMP_TO": 2 * HUGE},
    "level = last interval": {"predictor": Predictor.CONSTANT},
    "lengths are not averaged until they tell": {"learning.WORK_ERROR": 1.0},
    "decode workers are evenly full": {"misses.UNEVEN": 1e-3},
    "arrivals are Poisson": {"misses.DISPERSION": 1.0},
    "no calibration": {"correction": False},
    "no grace period": {"grace_s": 0.0},
    "any number of turns": {"stability.MOST_TURNS": HUGE},
    "decides every 60 s": {"interval_s": 60.0},
}

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # on what an avoided miss is worth


def ablations(recording: Recording) -> dict[str, Task]:
    tasks = {}
    for name, values in PARTS.items():
        constants = tuple((what, value) for what, value in values.items() if "." in what)
        settings = tuple((what, value) for what, value in values.items() if "." not in what)
        tasks[name] = Task(recording, constants=constants, plan=settings)
    return tasks


def priced(recording: Recording, factor: float) -> Task:
    if factor == 1:
        return Task(recording)
    return Task(recording, constants=(("risk.PRICE", {role: factor * PRICE[role] for role in Role}),))


def levers(recording: Recording) -> dict[str, Task]:
    """What other platforms could do. A fast start-up is that of a pool of warm standbys that never runs dry, and costs nothing: a bound."""
    return {
        "as it is": Task(recording),
        "workers start in 60 s": Task(recording, startup_s=60.0),
        "workers start in 30 s": Task(recording, startup_s=30.0),
        "workers start in 10 s": Task(recording, startup_s=10.0),
        "scrapes every second, decides every 5 s": Task(
            recording, plan=(("interval_s", 5.0),), options=ClusterOptions(startup=Startup(120.0), metrics=Metrics(scrape_s=1.0))
        ),
    }


def conditions(recording: Recording, following: Recording) -> dict[str, Task]:
    """By name. `following`: the day that comes after it; what is promised on both is the laxer of their promises."""
    noon_s = recording.period_s / 2
    usual = Startup(120.0)
    clusters = {
        "engine 10 % slower than its profile": ClusterOptions(startup=usual, slowness=1.1),
        "engine 20 % faster": ClusterOptions(startup=usual, slowness=1 / 1.2),
        "metrics 30 s late": ClusterOptions(startup=usual, metrics=Metrics(delay_s=30.0)),
        "5 % of scrapes lost": ClusterOptions(startup=usual, metrics=Metrics(lost_share=0.05)),
        "start-up twice as long as told": ClusterOptions(startup=Startup(2 * usual.mean_s)),
        "40 % prefix hits from noon": ClusterOptions(startup=usual, prefix_hits=PrefixHits(0.4, noon_s)),
        "one pod in twenty never starts": ClusterOptions(startup=Startup(usual.mean_s, never_share=0.05)),
    }
    days = {
        **{f"rotated by {share:.0%} of the day": replace(recording, rotated=share) for share in (0.25, 0.5, 0.75)},
        "half the load": recording.times(0.5),
        "twice the load": recording.times(2.0),
        f"then {following.name}": replace(recording, then=following, promise=recording.promise.or_laxer(following.promise)),
    }
    return {
        "as told": Task(recording),
        **{name: Task(recording, options=options) for name, options in clusters.items()},
        **{name: Task(changed) for name, changed in days.items()},
    }


def after(recording: Recording, all_of_them: Sequence[Recording]) -> Recording:
    """The next one; itself, if there is no other."""
    return all_of_them[(all_of_them.index(recording) + 1) % len(all_of_them)]
