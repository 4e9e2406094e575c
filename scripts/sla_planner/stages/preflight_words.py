"""Findings for a terminal, and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from sla_planner.errors import PlannerError
from sla_planner.preflight.checks import exit_code_of, verdict_of
from sla_planner.preflight.finding import Area, Finding, Severity

MARKS = {Severity.OK: "ok", Severity.UNCHECKED: "?", Severity.WARNING: "WARNING", Severity.PROBLEM: "PROBLEM"}
WIDTH = 110
_MARK, _NAME = 9, 24  # columns


def report(findings: Sequence[Finding], place: str) -> str:
    """By area; the last line is the verdict. `place`: what was looked at."""
    lines = [f"preflight of {place}"]
    for area in Area:
        of_area = [each for each in findings if each.area is area]
        if of_area:
            lines += ["", area.value.upper()]
            for each in of_area:
                lines += _told(each)
    return "\n".join([*lines, "", last_line(findings)])


def last_line(findings: Sequence[Finding]) -> str:
    """What it comes to, and what to do next."""
    limited = any(each.severity is Severity.UNCHECKED for each in findings)
    nexts = {
        0: "nothing is in the way" + (", as far as can be seen from here" if limited else ""),
        2: "type the commands under `fix`, then run this again",
        4: "a server did not answer; run this again when it does",
    }
    return f"{verdict_of(findings)}: {nexts[exit_code_of(findings)]}"


def as_json(findings: Sequence[Finding], namespace: str) -> dict[str, Any]:
    """One object; `findings` in the order of the report."""
    return {
        "namespace": namespace,
        "verdict": verdict_of(findings),
        "exit_code": exit_code_of(findings),
        "findings": [
            {
                "check": each.check,
                "area": each.area.value,
                "severity": each.severity.value,
                "what": each.what,
                "why": each.why,
                "fix": each.fix,
            }
            for each in findings
        ],
    }


def nothing_as_json(error: PlannerError, namespace: str) -> dict[str, Any]:
    """The same object where nothing could be looked at; `error` says why."""
    return {"namespace": namespace, "verdict": "nothing was looked at", "exit_code": error.exit_code, "error": str(error), "findings": []}


def _told(finding: Finding) -> Iterator[str]:
    what = f"{finding.what}: not checked, because {finding.why}" if finding.severity is Severity.UNCHECKED else finding.what
    yield from _wrapped(f"{MARKS[finding.severity]:{_MARK}}{finding.check:{_NAME}}", what)
    if finding.why and finding.severity is not Severity.UNCHECKED:
        yield from _wrapped(f"{'':{_MARK}}{'why':{_NAME}}", finding.why)
    label = "to see it" if finding.severity is Severity.UNCHECKED else "fix"
    for number, command in enumerate(finding.fix.splitlines()):
        yield f"{'':{_MARK}}{'' if number else label:{_NAME}}{command}"  # in one piece, to be copied


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=head, subsequent_indent=" " * (_MARK + _NAME), break_long_words=False, break_on_hyphens=False)
