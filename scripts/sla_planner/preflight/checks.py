"""All checks in the order in which they are told, and what they come to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sla_planner.preflight import cluster_checks, namespace_checks, planner_checks, rights_checks, target_checks, traffic_checks
from sla_planner.preflight.facts import Facts
from sla_planner.preflight.finding import Area, Finding, Severity

ALL = (
    *cluster_checks.CHECKS,
    *namespace_checks.CHECKS,
    *rights_checks.CHECKS,
    *traffic_checks.CHECKS,
    *target_checks.CHECKS,
    *planner_checks.CHECKS,
)

NOTHING_WRONG, A_PERSON_MUST_ACT, NO_ANSWER = 0, 2, 4
_AREAS = tuple(Area)
_SEVERITIES = tuple(Severity)


def findings_of(facts: Facts) -> tuple[Finding, ...]:
    """Of every check, by area; within an area the gravest last, where a terminal shows it."""
    found = [finding for check in ALL for finding in check(facts)]
    return tuple(sorted(found, key=lambda each: (_AREAS.index(each.area), _SEVERITIES.index(each.severity))))


def exit_code_of(findings: Iterable[Finding]) -> int:
    """0: nothing but warnings; 4: no more than a server that did not answer; 2: a person must change something."""
    problems = [each for each in findings if each.severity is Severity.PROBLEM]
    if not problems:
        return NOTHING_WRONG
    return NO_ANSWER if all(each.unreachable for each in problems) else A_PERSON_MUST_ACT


def verdict_of(findings: Sequence[Finding]) -> str:
    """`2 problems, 1 warning, 3 not checked, 14 ok`"""
    counts = {severity: sum(each.severity is severity for each in findings) for severity in reversed(_SEVERITIES)}
    plural = {Severity.PROBLEM: "problems", Severity.WARNING: "warnings"}
    parts = [f"{count} {plural.get(severity, severity.value) if count != 1 else severity.value}" for severity, count in counts.items() if count]
    return ", ".join(parts)
