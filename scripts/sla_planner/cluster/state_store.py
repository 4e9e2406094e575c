"""The port behind which one target's memory is kept: one JSON document, in a file (`store`) or a ConfigMap (`state_config_map`)."""

from __future__ import annotations

from typing import Any, Protocol

from sla_planner.errors import PlannerError


class StateTaken(PlannerError):
    """Another planner has written this state since we read it. Theirs stands."""


class StateStore(Protocol):
    """Errors: `UsageError` for what a person must change, `ForbiddenError`, `UnreachableError`; the document is then what it was."""

    def read(self) -> tuple[dict[str, Any] | None, str]:
        """The document, or None and why there is none (empty when there just is none yet)."""
        ...

    def set_aside(self, why: str) -> str:
        """Keep what cannot be used out of the way; returns the sentence that says so."""
        ...

    def write(self, document: dict[str, Any]) -> None:
        """Replace the document, whole. Raises `StateTaken`."""
        ...
