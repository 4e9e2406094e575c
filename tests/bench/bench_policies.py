"""What every policy costs on recorded days, and what each part of the planner buys.

    python tests/bench/bench_policies.py [--quick] [--traces DIR] [--out DIR] [--jobs N]
                                         [--ablation] [--robustness] [--levers] [--anatomy] [--frontier FILE.png]

Recorded days are found in --traces by their names: servegen_mlarge_day1 six times over, servegen_r1_a four times, servegen_msmall_day2 six times
(.csv or .csv.gz with arrival_s,isl,osl). Promised are TTFT 500 ms (servegen_r1_a: 1500 ms) and ITL 20 ms to 99 % of requests, on the shipped profile;
--slas gives others: tight (200 ms, 1000 ms; 12 ms), loose (2000 ms, 5000 ms; 50 ms) or any TTFT/ITL in ms.
The first 10 minutes are not scored; GPU-hours are those of the whole day. Without --traces the shipped excerpt of
44 minutes stands in, sixty times over (four times where there is no numba): too short to tell policies apart.

    (nothing)      one table per recording, start-up and promise, and all of them in short, with the geometric means of GPU-hours against the
                   alternatives. Settings of the alternatives are searched on this very traffic; the planner's are its own. The command below a table
                   prints the same numbers. With --traces: start-ups of 30, 120 and 300 s, and the tight and the loose promise at 120 s
    --held-out     the same on days that are drawn from a week of recorded rates, servegen_rates_week1.csv.gz; the planner was not tuned on them
    --ablation     the planner with one part of it switched off, by changing its constants in the process that runs it
    --robustness   the planner on clusters that are not as it was told, and on the days rotated, rescaled, and followed by another one
    --levers       what faster start-ups and closer looks would be worth
    --anatomy      where the planner's GPU-hours go, and what workers for either role would save at most
    --frontier     a picture of attainment against GPU-hours over the price of a miss, and the alternatives in it

Every ratio is to something run in the same bench, and everything is deterministic: only how long it takes depends on the machine. A whole table takes
about an hour of CPU; with --out, results are kept as JSON, and a bench that was interrupted goes on. Progress is told on stderr.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

from policies import tables
from policies.anatomy import anatomy, anatomy_table
from policies.runs import Bench, Result, Task
from policies.traffic import PROMISES, Recording, excerpt, held_out, promised, recordings
from policies.variants import FACTORS, ablations, after, conditions, levers, priced

from sla_planner.atomic import write_bytes
from sla_planner.simulate.compiled import COMPILES
from sla_planner.simulate.contestants import CONTESTANTS

QUICK = ("slaplanner", "static", "clairvoyant")
README = ((30.0, "usual"), (120.0, "usual"), (300.0, "usual"), (120.0, "tight"), (120.0, "loose"))  # start-up, promise
EXCERPT_SCALE, SLOW_SCALE = 60.0, 4.0  # without numba a simulation takes a hundred times as long


def main() -> None:
    arguments = _arguments()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of the processes that run: their arrays are small
    known = _known(arguments)
    found = [recording for recording in known if not arguments.days or recording.name in arguments.days]
    if not found:
        raise SystemExit(f"none of {', '.join(arguments.days)} is known; known: {', '.join(recording.name for recording in known)}")
    bench = Bench(arguments.jobs, arguments.out)
    if not (arguments.ablation or arguments.robustness or arguments.levers or arguments.anatomy or arguments.frontier):
        print_cells(bench, found, arguments)
    for recording in found:
        if arguments.ablation:
            print_changes(bench, f"{recording.name}: one part off", ablations(recording))
        if arguments.robustness:
            print_changes(bench, f"{recording.name}: not as told", conditions(recording, after(recording, known)))
        if arguments.levers:
            print_changes(bench, f"{recording.name}: levers", levers(recording))
    if arguments.anatomy:
        print_anatomy(found)
    if arguments.frontier:
        draw(bench, found, arguments.policies, arguments.frontier)


def _known(arguments: argparse.Namespace) -> list[Recording]:
    if not arguments.traces:
        return [excerpt(EXCERPT_SCALE if COMPILES else SLOW_SCALE)]
    return held_out(arguments.traces) if arguments.held_out else recordings(arguments.traces)


def print_cells(bench: Bench, found: list[Recording], arguments: argparse.Namespace) -> None:
    """For each start-up and promise one table per recording, then all in short."""
    cells = list(product(arguments.startups, arguments.slas)) if arguments.startups or arguments.slas else README if arguments.traces else README[1:2]
    told: dict[str, list[dict[str, Result]]] = {}
    for startup_s, words in cells:
        days = told.setdefault(f"{startup_s:g} s, {words}", [])
        for recording in found:
            kept = replace(recording, promise=promised(words, recording.lengths))
            tasks = [Task(kept, policy, startup_s) for policy in arguments.policies]
            days.append(_by_name(arguments.policies, bench.results(tasks)))
            print(f"\n{tables.policy_table(tasks[0], days[-1])}", flush=True)
        print(f"\nStart-up {startup_s:g} s, {words} promise\n\n{tables.cell_table(dict(zip(_names_of(found), days, strict=True)))}", flush=True)
    if tables.OURS in arguments.policies:
        print(f"\n{tables.summary(told, _names_of(found))}", flush=True)


def _names_of(found: list[Recording]) -> list[str]:
    return [f"{recording.name} x{recording.scale:g}" for recording in found]


def print_changes(bench: Bench, what: str, tasks: Mapping[str, Task]) -> None:
    print(f"\n{tables.change_table(what, _by_name(list(tasks), bench.results(list(tasks.values()))))}", flush=True)


def print_anatomy(found: list[Recording]) -> None:
    parts = {recording.name: anatomy(Task(recording)) for recording in found}
    print(f"\n{anatomy_table({name: roles for name, (roles, _) in parts.items()})}\n")
    for name, (_, saved) in parts.items():
        print(f"{name}: workers for either role would save {saved:.1f} GPU-hours at most", flush=True)


def draw(bench: Bench, found: list[Recording], policies: list[str], path: Path) -> None:
    from policies.frontier import Frontier, picture

    others = [policy for policy in policies if policy not in (tables.OURS, "fluid-bound")]
    frontiers = []
    for recording in found:
        results = bench.results([priced(recording, factor) for factor in FACTORS] + [Task(recording, policy) for policy in others])
        knob = dict(zip(FACTORS, results, strict=False))
        frontiers.append(Frontier(recording.name, knob, _by_name(others, results[len(FACTORS) :])))
        print(
            f"\n{tables.change_table(f'{recording.name}: price of a miss', {f'x{factor:g}': knob[factor] for factor in (1.0, *FACTORS)})}", flush=True
        )
    write_bytes(path, picture(frontiers))
    print(f"\n{path}")


def _by_name(names: list[str], results: list[Result]) -> dict[str, Result]:
    return dict(zip(names, results, strict=True))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help=f"the excerpt only, {', '.join(QUICK)} only")
    parser.add_argument("--traces", type=Path, metavar="DIR", help="folder of recorded days")
    parser.add_argument("--held-out", action="store_true", help="days drawn from recorded rates, which the planner was never tuned on")
    parser.add_argument("--days", type=_names, default=[], metavar="NAMES", help="only these of them")
    parser.add_argument(
        "--policies", type=_names, default=list(CONTESTANTS), metavar="NAMES", help=f"with commas between; all: {', '.join(CONTESTANTS)}"
    )
    parser.add_argument("--startups", type=lambda text: [float(part) for part in _names(text)], default=[], metavar="S", help="such as 30,120,300")
    parser.add_argument("--slas", type=_slas, default=[], metavar="NAMES", help=f"of {', '.join(PROMISES)}, or TTFT/ITL such as 200/20")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="so many processes")
    parser.add_argument("--out", type=Path, metavar="DIR", help="results are kept here and used again")
    parser.add_argument("--ablation", action="store_true", help="what each part of the planner buys")
    parser.add_argument("--robustness", action="store_true", help="what happens when things are not as told")
    parser.add_argument("--levers", action="store_true", help="what platforms with other means would save")
    parser.add_argument("--anatomy", action="store_true", help="where the planner's GPU-hours go")
    parser.add_argument("--frontier", type=Path, metavar="FILE.png", help="draw attainment against GPU-hours")
    arguments = parser.parse_args()
    if arguments.startups or arguments.slas:
        arguments.startups, arguments.slas = arguments.startups or [README[1][0]], arguments.slas or [README[1][1]]
    if unknown := [name for name in arguments.policies if name not in CONTESTANTS]:
        parser.error(f"unknown policy {unknown[0]!r}; known: {', '.join(CONTESTANTS)}")
    if arguments.quick:
        arguments.traces, arguments.policies = None, list(QUICK)
    return arguments


def _names(text: str) -> list[str]:
    return [name for name in text.replace(",", " ").split() if name]


def _slas(text: str) -> list[str]:
    for words in _names(text):
        promised(words, "")
    return _names(text)


if __name__ == "__main__":
    main()
