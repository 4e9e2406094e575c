"""An engine that a host starts from manifests (`sweep/host.py`), for as long as an `async with` block lasts.

    recipe  --manifests of one engine-->  host  --URL, log, troubles-->  ready: as for every engine (readiness.py)

While it starts, its trouble is looked at every `LOOK_EVERY_S`, later less often: one that lasts longer than its patience ends the wait with the words
of the host, and of a container that ended with the engine's own. What ends an engine later is known to its host with a delay, so a doubted answer
waits `TOLD_WITHIN_S` for the news; a closed port `GONE_WITHIN_S`.

The host's calls block, so they run in threads; those that make or remove something run to their end, also when the sweep is stopped meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from sla_planner.engines.backend import Backend, Evidence
from sla_planner.engines.engine_log import EngineLog, last_words, new_log
from sla_planner.engines.readiness import checked_capacity, pages, unreachable, until_ready
from sla_planner.errors import EngineError, UnreachableError, UsageError
from sla_planner.sweep.host import Host, HostedEngine, Manifests, Trouble
from sla_planner.sweep.port import Capacity, Deployment, EngineIdentity, Phase, RunningEngine

LOOK_EVERY_S, CLOSELY_FOR_S, LATER_EVERY_S = 1.0, 120.0, 5.0
SAID_AFTER_S = 3.0  # every engine waits a moment for its pods
TOLD_WITHIN_S = 5.0
GONE_WITHIN_S = 15.0

_ASK_EVERY_S = 0.5

log = logging.getLogger(__name__)
T = TypeVar("T")


class Recipe(Protocol):
    """How manifests of one engine are made (`hosted_graph.py`, `hosted_workload.py`)."""

    @property
    def image(self) -> str:
        """Of the engine; '' when the manifests do not say."""
        ...

    def manifests(self, deployment: Deployment, name: str) -> Manifests:
        """The same for the same arguments. Raises `UsageError` when there can be none."""
        ...

    def text(self, deployment: Deployment) -> tuple[str, str]:
        """A file name and the manifests as YAML, under a name that stays the same."""
        ...


def manifest_file(deployment: Deployment) -> str:
    """`engine_4gpus_TP4/config.yaml`, `prefill_4gpus_TP4/config.yaml`."""
    return f"{_role(deployment)}_{deployment.mapping.gpus}gpus_{deployment.mapping.label}/config.yaml"


def shown_name(deployment: Deployment) -> str:
    """In a manifest that is shown and compared: `engine-4gpus-tp4`."""
    return f"{_role(deployment)}-{deployment.mapping.gpus}gpus-{deployment.mapping.label.lower()}"


@dataclass(frozen=True, slots=True)
class HostedLauncher:
    """A `Launcher` for what `recipe` makes, on `host`. `log_dir`: where logs stay."""

    recipe: Recipe
    host: Host
    backend: Backend
    _: KW_ONLY
    log_dir: Path
    model: str = ""
    ready_limit_s: float = 1800.0

    def identity(self, deployment: Deployment) -> EngineIdentity:
        return EngineIdentity(self.backend.name, self.model, self.recipe.text(deployment)[1], self.recipe.image)

    def manifest(self, deployment: Deployment) -> tuple[str, str]:
        return self.recipe.text(deployment)

    @asynccontextmanager
    async def engine(self, deployment: Deployment) -> AsyncIterator[RunningEngine]:
        manifests = self.recipe.manifests(deployment, self.host.new_name(deployment.label.lower().replace(" ", "-")))
        try:
            hosted = await _made(lambda: self.host.start(manifests))
        except EngineError as error:
            raise _of(deployment, error) from None
        running = _Hosted(hosted, self.backend, deployment, self.log_dir)
        try:
            await running.ready(self.model, self.ready_limit_s)
            yield running
        except asyncio.CancelledError:
            await _to_its_end(lambda: running.end(wait=False))
            raise
        except BaseException:
            await _to_its_end(lambda: running.end(wait=True))
            raise
        await _to_its_end(lambda: running.end(wait=True))


class _Hosted:
    """A `RunningEngine`: it answers after `ready`, and is gone after `end`."""

    def __init__(self, hosted: HostedEngine, backend: Backend, deployment: Deployment, log_dir: Path) -> None:
        self.url = ""
        self.model = ""
        self._hosted, self._backend, self._deployment = hosted, backend, deployment
        self._has_url = asyncio.Event()
        self._addresses: tuple[str, ...] = ()
        self._log_dir = log_dir
        self._log: EngineLog | None = None  # made when there is something to write

    async def ready(self, model: str, limit_s: float) -> None:
        """Return when the engine answers. Raises `EngineError` as soon as it is known that it will not."""
        begun_s = time.monotonic()
        watch, found = asyncio.create_task(self._watched()), asyncio.create_task(self._has_url.wait())

        def check() -> None:
            if watch.done():
                watch.result()

        try:
            await asyncio.wait((watch, found), timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            check()
            if not self.url:
                what = f"{self._deployment.label}: no Service leads to the engine within {limit_s:g} s"
                raise EngineError(what, hint="see what its controller says")
            answer = await until_ready(self.url, limit_s=max(begun_s + limit_s - time.monotonic(), 0.0), check=check)
        finally:
            watch.cancel()
            found.cancel()
            await asyncio.gather(watch, found, return_exceptions=True)
        text = await asyncio.to_thread(self._saved_log)
        if not answer.models:
            said = last_words(text)
            words = f"{self._deployment.label}: the engine {answer.lacking(limit_s)}"
            raise EngineError(words + (f"; last line of its log: {said}" if said else ""), hint=self._hint())
        await asyncio.to_thread(self._hosted.settled)
        self.model = model if model in answer.models else answer.models[0]

    async def capacity(self) -> Capacity:
        """From its log and its server's pages; where a frontend has none, from those of the pods behind it."""
        text = await asyncio.to_thread(self._saved_log)
        told = Evidence(text, await pages(self.url, self._backend.pages))
        for address in self._addresses:
            if self._backend.capacity(told, self._deployment) is not None:
                break
            found = await pages(address, self._backend.pages)
            if self._backend.capacity(Evidence(text, found), self._deployment) is not None:
                told = Evidence(text, found)
        return checked_capacity(self._backend, told, self._deployment)

    async def ended(self, *, doubted: bool = False) -> str:
        within_s = TOLD_WITHIN_S if doubted else 0.0
        if closed := await asyncio.to_thread(unreachable, self.url):
            within_s = GONE_WITHIN_S
        give_up_s = time.monotonic() + within_s
        while (trouble := await asyncio.to_thread(self._hosted.ended)) is None and time.monotonic() < give_up_s:
            await asyncio.sleep(_ASK_EVERY_S)
        if trouble is not None:
            return self._in_words(trouble)
        return f"it no longer answers at {self.url} ({closed})" if closed else ""

    def end(self, *, wait: bool) -> None:
        """Keep what it said, and take it away. Blocks."""
        try:
            self._saved_log()
        finally:
            self._hosted.remove(wait=wait)

    async def _watched(self) -> None:
        """Ends with an `EngineError` when there is nothing to wait for."""
        kind, since_s, said, begun_s = "", 0.0, False, time.monotonic()
        while True:
            outlook = await asyncio.to_thread(self._hosted.look)
            self.url, self._addresses = outlook.url, outlook.addresses
            if outlook.url:
                self._has_url.set()
            trouble, now_s = outlook.trouble, time.monotonic()
            if trouble is None:
                kind = ""
            else:
                if trouble.kind != kind:
                    kind, since_s, said = trouble.kind, now_s, False
                if not said and now_s - since_s >= SAID_AFTER_S:
                    log.info("%s: %s", self._deployment.label, trouble.what)
                    said = True
                if now_s - since_s >= self._patience_s(trouble):
                    await asyncio.to_thread(self._saved_log)
                    raise self._hopeless(trouble)
            await asyncio.sleep(LOOK_EVERY_S if now_s - begun_s < CLOSELY_FOR_S else LATER_EVERY_S)

    def _patience_s(self, trouble: Trouble) -> float:
        """An end that the engine explains, and that will not pass, comes again."""
        failure = self._backend.failure(trouble.log) if trouble.crashed else None
        return 0.0 if failure is not None and not failure.retry else trouble.patience_s

    def _hopeless(self, trouble: Trouble) -> EngineError:
        failure = self._backend.failure(trouble.log) if trouble.crashed else None
        words = f"{self._deployment.label}: {self._in_words(trouble)}"
        retry = trouble.retry or (failure is not None and failure.retry)
        return EngineError(words, hint=self._hint(trouble.hint or (failure.hint if failure else "")), retry=retry)

    def _in_words(self, trouble: Trouble) -> str:
        """With why, from the backend if it knows, else the container's last words."""
        failure = self._backend.failure(trouble.log) if trouble.crashed else None
        said = failure.reason if failure else last_words(trouble.log)
        return f"{trouble.what}: {said}" if said else trouble.what

    def _saved_log(self) -> str:
        """What its containers have said so far, kept in a file. A volume that is full costs the file, not the engine. Blocks."""
        text = self._hosted.log()
        if not text:
            return ""
        try:
            self._log = self._log or new_log(self._log_dir, self._deployment)
            self._log.path.write_text(text)
        except (OSError, UsageError) as error:
            log.warning("%s: its log cannot be kept: %s", self._deployment.label, error)
            return text
        return self._log.text()

    def _hint(self, remedy: str = "") -> str:
        place = f"its log: {self._log.path}" if self._log else ""
        return "; ".join(filter(None, (remedy, place)))


async def _made(start: Callable[[], HostedEngine]) -> HostedEngine:
    """Stopped meanwhile: what has been made is removed."""
    starting = asyncio.ensure_future(asyncio.to_thread(start))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        with suppress(Exception):
            hosted = await starting
            await asyncio.to_thread(lambda: hosted.remove(wait=False))
        raise


async def _to_its_end(call: Callable[[], T]) -> T:
    """`call` in a thread; stopped meanwhile, after it has ended."""
    ending = asyncio.ensure_future(asyncio.to_thread(call))
    try:
        return await asyncio.shield(ending)
    except asyncio.CancelledError:
        await asyncio.wait([ending])
        raise


def _role(deployment: Deployment) -> str:
    return "engine" if deployment.phase is Phase.BOTH else str(deployment.phase)


def _of(deployment: Deployment, error: EngineError) -> EngineError:
    return EngineError(f"{deployment.label}: {error.message}", hint=error.hint, retry=error.exit_code == UnreachableError.exit_code)
