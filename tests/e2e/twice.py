#!/usr/bin/env python3
"""Tests, and those of them that failed once more, by themselves: a defect fails twice, a machine that stalled for a moment does not.

    twice.py run FOLDER [ARGUMENT...]   pytest with these arguments, and a second time for what failed; 0 when nothing failed twice
    twice.py sum FOLDER...              what became of such runs, in one line as pytest's own

FOLDER is made: JUnit's reports of both tries, and pytest's cache. What is kept of a failure (conftest.py) lies in $E2E_ARTIFACTS, in `second-try` for
the second one; beside it, the logs of the cluster's parts as the first try left them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

FIRST, SECOND = "first.xml", "second.xml"
SOME_FAILED = 1  # pytest's exit status; any other but 0 says that pytest itself could not go on
LOGS_OF_THE_CLUSTER = Path("/run/sla-planner-e2e/logs")


@dataclass(frozen=True)
class Try:
    """Names of tests, and what it took. A test with an error before or after it has failed, too."""

    tests: frozenset[str] = frozenset()
    failed: frozenset[str] = frozenset()
    skipped: frozenset[str] = frozenset()
    took_s: float = 0.0


def main(action: str, *arguments: str) -> int:
    if action == "run":
        return run(Path(arguments[0]), arguments[1:])
    folders = [Path(folder) for folder in arguments]
    for name in sorted(name for folder in folders for name in passed_at_second(folder)):
        print(f"e2e: FAILED at the first try and passed at the second: {name}")
    print(line(folders))
    return 0


def run(folder: Path, arguments: tuple[str, ...]) -> int:
    """Exit status."""
    folder.mkdir(parents=True, exist_ok=True)
    artifacts = Path(os.environ.get("E2E_ARTIFACTS", "e2e-artifacts"))
    command = [sys.executable, "-m", "pytest", "-o", f"cache_dir={folder.absolute() / 'cache'}", *arguments]
    status = subprocess.run([*command, f"--junitxml={folder / FIRST}"], check=False).returncode
    if status != SOME_FAILED:
        return status
    if LOGS_OF_THE_CLUSTER.is_dir():
        shutil.copytree(LOGS_OF_THE_CLUSTER, artifacts / "cluster-after-first-try", dirs_exist_ok=True)
    for name in sorted(read(folder / FIRST).failed):
        print(f"e2e: FAILED, and is run once more: {name}", flush=True)
    environment = os.environ | {"E2E_ARTIFACTS": str(artifacts / "second-try")}
    again = [*command, "--last-failed", "--last-failed-no-failures=none", f"--junitxml={folder / SECOND}"]
    return subprocess.run(again, env=environment, check=False).returncode


def line(folders: list[Path]) -> str:
    """`1 failed, 158 passed, 2 of them at the second try, in 12.00s`; an `error` is a run that ended without a report."""
    first, second = [read(folder / FIRST) for folder in folders], [read(folder / SECOND) for folder in folders]
    late = sum(len(passed_at_second(folder)) for folder in folders)
    failed = sum(len(one.failed) for one in first) - late
    lost = sum(not one.tests for one in first)
    skipped = sum(len(one.skipped) for one in first)
    passed = sum(len(one.tests) for one in first) - failed - skipped
    counts = ((failed, "failed"), (passed, "passed"), (late, "of them at the second try"), (skipped, "skipped"), (lost, "error"))
    told = ", ".join(f"{count} {words}" for count, words in counts if count) or "no tests ran"
    return f"{told} in {max(one.took_s + two.took_s for one, two in zip(first, second, strict=True)):.2f}s"


def passed_at_second(folder: Path) -> frozenset[str]:
    second = read(folder / SECOND)
    return read(folder / FIRST).failed & (second.tests - second.failed - second.skipped)


def read(report: Path) -> Try:
    """Nothing, where pytest has not come to write it."""
    if not report.is_file():
        return Try()
    root = ElementTree.parse(report).getroot()
    cases = [(f"{case.get('classname')}::{case.get('name')}", {child.tag for child in case}) for case in root.iter("testcase")]
    return Try(
        frozenset(name for name, _ in cases),
        frozenset(name for name, tags in cases if tags & {"failure", "error"}),
        frozenset(name for name, tags in cases if "skipped" in tags),
        sum(float(suite.get("time", 0)) for suite in root.iter("testsuite")),
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
