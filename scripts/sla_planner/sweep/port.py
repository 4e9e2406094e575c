"""The port through which an engine is started. Implemented by `engines` (a process here, an endpoint that is there already) and by `cluster`.

A sweep asks for a `Deployment`, one engine at one mapping, and gets a `RunningEngine` for as long as an `async with` block lasts:

    async with launcher.engine(deployment) as engine:      returns when the engine answers requests
        ...                                                 engine.url, engine.capacity()

Whatever ends the block, the engine is gone after it. An engine that does not become ready raises `EngineError` within seconds of the evidence (the
process ended, the log says out of memory, the port is taken), with the engine's own words, not after a timeout.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from sla_planner.model.profile import ParallelMapping


class Phase(StrEnum):
    """What an engine is measured for. Dense models are measured for both in one deployment; prompts are unique, so caches stay on."""

    PREFILL = "prefill"
    DECODE = "decode"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Deployment:
    """One engine to start: `mapping` over `mapping.gpus` GPUs, set up for `phase`."""

    mapping: ParallelMapping
    phase: Phase = Phase.BOTH

    @property
    def label(self) -> str:
        """`TP4`, or `TP4 prefill` where the phase matters."""
        return self.mapping.label if self.phase is Phase.BOTH else f"{self.mapping.label} {self.phase}"


@dataclass(frozen=True, slots=True)
class EngineIdentity:
    """Everything about an engine that determines what is measured; part of every point's key. Nothing that varies from start to start: no port."""

    backend: str  # vllm, sglang, trtllm, llamacpp, simulated
    model: str  # asked for; empty: whatever the server lists first
    source: str  # the command template, the URL, or the derived manifest
    image: str = ""


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much one engine holds. `source` says where it was read, in words. `max_sequences`: requests that run at once, None when not known."""

    max_kv_tokens: int
    source: str
    max_sequences: int | None = None


class RunningEngine(Protocol):
    """An engine that answers requests."""

    @property
    def url(self) -> str: ...

    @property
    def model(self) -> str:
        """The name to ask for."""
        ...

    async def capacity(self) -> Capacity:
        """Raises `EngineError` when neither the log nor the metrics say, or what they say cannot be."""
        ...

    async def ended(self, *, doubted: bool = False) -> str:
        """'' while the engine runs, else why it ended: `killed (out of memory)`, `exit code 1: <its last line>`.

        `doubted`: its last answers failed, so an end that is told late (a kubelet takes seconds) is waited for.
        """
        ...


class Launcher(Protocol):
    """One way to start engines."""

    def identity(self, deployment: Deployment) -> EngineIdentity: ...

    def manifest(self, deployment: Deployment) -> tuple[str, str]:
        """What `--dry-run` writes: a file name and its text (a command line, a YAML document). Raises `UsageError` when none can be derived."""
        ...

    def engine(self, deployment: Deployment) -> AbstractAsyncContextManager[RunningEngine]:
        """Start it, wait until it answers, and take it away in the end. Raises `EngineError`."""
        ...
