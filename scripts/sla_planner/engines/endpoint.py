"""An engine that runs already, at a URL: nothing is started, nothing is stopped, and one mapping is what there is.

There is no log to read, so its capacity comes from its pages or from the user.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import KW_ONLY, dataclass

from sla_planner.config_words import masked
from sla_planner.engines.backend import Backend, Evidence
from sla_planner.engines.readiness import checked_capacity, pages, unreachable, until_ready
from sla_planner.errors import EngineError, UsageError
from sla_planner.model.profile import ParallelMapping
from sla_planner.sweep.port import Capacity, Deployment, EngineIdentity, RunningEngine
from sla_planner.traffic.client import base_url

READY_LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class EndpointLauncher:
    """A `Launcher` for the server at `url` (with or without `/v1`), which runs at `mapping`. `max_kv_tokens`: as the user says, believed unseen."""

    url: str
    _: KW_ONLY
    mapping: ParallelMapping
    backend: Backend
    model: str = ""
    max_kv_tokens: int | None = None
    ready_limit_s: float = READY_LIMIT_S

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", base_url(self.url).removesuffix("/v1"))
        if self.max_kv_tokens is not None and self.max_kv_tokens < 1:
            raise UsageError(f"a KV cache of {self.max_kv_tokens} tokens cannot be", hint="give --max-kv-tokens as a number above 0")

    def identity(self, deployment: Deployment) -> EngineIdentity:
        self._check(deployment)
        return EngineIdentity(self.backend.name, self.model, masked(self.url))

    def manifest(self, deployment: Deployment) -> tuple[str, str]:
        self._check(deployment)
        return "endpoint.txt", masked(self.url) + "\n"

    @asynccontextmanager
    async def engine(self, deployment: Deployment) -> AsyncIterator[RunningEngine]:
        self._check(deployment)
        answer = await until_ready(self.url, limit_s=self.ready_limit_s)
        if not answer.models:
            what = f"{masked(self.url)} {answer.lacking(self.ready_limit_s)}"
            raise EngineError(what, hint="check the URL and that the engine is up", retry=not answer.refused)
        if self.model and self.model not in answer.models:
            raise EngineError(f"{masked(self.url)} does not serve the model {self.model!r}", hint=f"it serves {', '.join(answer.models)}")
        yield _Endpoint(self, deployment, self.model or answer.models[0])

    def _check(self, deployment: Deployment) -> None:
        if deployment.mapping != self.mapping:
            raise UsageError(
                f"{masked(self.url)} runs at {self.mapping.label}; {deployment.mapping.label} cannot be measured there",
                hint=f"ask for {self.mapping.label} only, or give a command that starts engines",
            )


@dataclass(frozen=True, slots=True)
class _Endpoint:
    launcher: EndpointLauncher
    deployment: Deployment
    model: str

    @property
    def url(self) -> str:
        return self.launcher.url

    async def capacity(self) -> Capacity:
        if self.launcher.max_kv_tokens is not None:
            return Capacity(self.launcher.max_kv_tokens, "given with --max-kv-tokens")
        backend = self.launcher.backend
        return checked_capacity(backend, Evidence(pages=await pages(self.url, backend.pages)), self.deployment)

    async def ended(self, *, doubted: bool = False) -> str:  # noqa: ARG002 - nobody tells us later
        """Asks when called: nobody tells us when a server of others ends."""
        reason = await asyncio.to_thread(unreachable, self.url)
        return f"{masked(self.url)} no longer answers ({reason})" if reason else ""
