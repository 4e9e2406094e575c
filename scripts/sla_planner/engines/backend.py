"""What we know of one kind of engine. A backend is one module of `engines/backends/` with a constant `BACKEND`; nothing else names it.

arguments   the command line of a worker, turned into a prefill-only or decode-only engine at a mapping
serve       the same command line for another model
capacity    how many tokens its KV cache holds, from its own log or pages; the right line of several
failure     why it did not start, from its log
families    the metric names it exports
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sla_planner.model.metric_family import MetricFamily
from sla_planner.model.profile import ParallelMapping
from sla_planner.sweep.port import Capacity, Deployment


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an engine has said: its log so far, and its pages by path (`/metrics`); a page that it does not serve is absent."""

    log: str = ""
    pages: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an engine did not start, in words, and what to do. `retry`: the same start may work later."""

    reason: str
    hint: str = ""
    retry: bool = False


class Backend(Protocol):
    """Implemented by one module per engine."""

    @property
    def name(self) -> str: ...

    @property
    def families(self) -> tuple[MetricFamily, ...]:
        """Metric names of the engine itself."""
        ...

    @property
    def parallel(self) -> bool:
        """Whether it spreads over GPUs by tensor or expert parallelism."""
        ...

    @property
    def pages(self) -> tuple[str, ...]:
        """Pages of the server that tell its capacity."""
        ...

    def arguments(self, given: Sequence[str], deployment: Deployment) -> list[str]:
        """`given` as the engine of `deployment`. Raises `UsageError` for what cannot be: no manifest for this engine, a mapping it does not know."""
        ...

    def spread(self, given: Sequence[str], mapping: ParallelMapping) -> list[str]:
        """`given` at `mapping`, in the role that it has. Raises `UsageError` as `arguments`."""
        ...

    def serve(self, given: Sequence[str], model: str, path: str, *, trust: bool) -> list[str]:
        """`given` for the weights at `path` (a name or a folder), which requests ask for as `model`. `trust`: the code that comes with them runs.
        Raises `UsageError` as `arguments`."""
        ...

    def capacity(self, evidence: Evidence, deployment: Deployment) -> Capacity | None:
        """None when `evidence` does not say. Of one engine, all data-parallel ranks together."""
        ...

    def failure(self, log: str) -> Failure | None:
        """None when the log does not say."""
        ...
