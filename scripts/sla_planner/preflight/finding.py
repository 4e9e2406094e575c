"""What a check says: what was found, why it matters, and the command that puts it right."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """From harmless to what stops the planner."""

    OK = "ok"
    UNCHECKED = "not checked"
    WARNING = "warning"
    PROBLEM = "problem"


class Area(StrEnum):
    """Findings are shown in this order of areas."""

    CLUSTER = "cluster"
    NAMESPACE = "namespace"
    RIGHTS = "rights"
    METRICS = "metrics"
    TARGET = "what is scaled"
    PLANNER = "planner"


@dataclass(frozen=True, slots=True)
class Finding:
    """`why`: why it matters; of what was not checked: why it could not be. `fix`: commands to type, one per line, remarks after `#`; '' = none.

    `unreachable`: a server did not answer, so that the same may be well a minute later.
    """

    check: str
    area: Area
    severity: Severity
    what: str
    why: str = ""
    fix: str = ""
    unreachable: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """A name under which findings are told, and its place."""

    name: str
    area: Area

    def ok(self, what: str) -> Finding:
        return Finding(self.name, self.area, Severity.OK, what)

    def unchecked(self, what: str, because: str, fix: str = "") -> Finding:
        return Finding(self.name, self.area, Severity.UNCHECKED, what, because, fix)

    def warning(self, what: str, why: str, fix: str) -> Finding:
        return Finding(self.name, self.area, Severity.WARNING, what, why, fix)

    def problem(self, what: str, why: str, fix: str, *, unreachable: bool = False) -> Finding:
        return Finding(self.name, self.area, Severity.PROBLEM, what, why, fix, unreachable)
