"""An engine as a process of this machine, started from a command template for as long as an `async with` block lasts.

    launcher  --pipe-->  guard  --starts-->  engine, its workers        a port of its own, a log file of its own
                           |
                           '-- takes all of them away: asked to, or when the launcher is gone, whatever killed it

What it waits for is in `readiness`; it stops waiting when the process has ended, or when the log tells a fatal error and has been silent for
`STALLED_S`. `ready_limit_s` is the last resort. A port that somebody took between our look and the engine's is another start, `STARTS` in all.
Ports come from below those that systems give to outgoing connections, so that this is rare.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from sla_planner.config_words import quoted
from sla_planner.engines import guard
from sla_planner.engines.backend import Backend, Evidence
from sla_planner.engines.command_template import PORT, CommandTemplate
from sla_planner.engines.engine_log import EngineLog, file_stem, last_words, new_log
from sla_planner.engines.readiness import checked_capacity, pages, unreachable, until_ready
from sla_planner.errors import EngineError, UsageError
from sla_planner.sweep.port import Capacity, Deployment, EngineIdentity, RunningEngine

STARTS = 3
STALLED_S = 20.0
STOP_GRACE_S = 20.0
SHOWN_PORT = "8000"  # in a manifest

_PORTS = range(20000, 30000)
_KILL_LIMIT_S = 10.0  # for the kernel to take a killed process away; one that holds a GPU needs a moment
_LOOK_EVERY_S = 0.02
_VERDICT_LIMIT_S = 2.0  # from a closed port to the word of the guard
_PORT_TAKEN = re.compile(r"address already in use|EADDRINUSE|couldn't bind", re.IGNORECASE)
_SHELL = frozenset("|&;<>$`~")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProcessLauncher:
    """A `Launcher` for `template` (see `command_template`). Raises `UsageError` for a template that is none.

    `model`: what `{model}` stands for. `log_dir`: where logs stay; without it they stay only when something went wrong, and the error says where.
    `gpus_per_node`: of this machine; a mapping that needs more is refused.
    """

    template: str
    backend: Backend
    _: KW_ONLY
    model: str = ""
    ready_limit_s: float = 1800.0
    log_dir: Path | None = None
    gpus_per_node: int | None = None

    def __post_init__(self) -> None:
        CommandTemplate(self.template)

    def identity(self, deployment: Deployment) -> EngineIdentity:
        return EngineIdentity(self.backend.name, self.model, _line(self._words(deployment, PORT)))

    def manifest(self, deployment: Deployment) -> tuple[str, str]:
        """A shell script of one line, with a fixed port."""
        return f"{file_stem(deployment)}.sh", _line(self._words(deployment, SHOWN_PORT)) + "\n"

    @asynccontextmanager
    async def engine(self, deployment: Deployment) -> AsyncIterator[RunningEngine]:
        process = await self._started(deployment)
        try:
            yield process
        except BaseException:
            await process.stop()
            raise
        unasked = await process.ended()
        await process.stop()
        if not unasked:
            process.log.discard()

    async def _started(self, deployment: Deployment) -> EngineProcess:
        """An engine that answers. Whatever is raised, nothing of it is left."""
        taken: EngineError | None = None
        for _ in range(STARTS):
            port = _free_port()
            command = self._words(deployment, str(port))
            _check_command(command[0])
            process = EngineProcess(command, port, deployment, self.backend, new_log(self.log_dir, deployment))
            try:
                await process.ready(self.model, self.ready_limit_s)
            except BaseException as error:
                await process.stop()
                if not isinstance(error, EngineError) or not process.lost_its_port():
                    raise
                process.log.discard()
                taken = error
            else:
                return process
        assert taken is not None
        raise EngineError(
            f"{taken.message} ({STARTS} starts, another port each)",
            hint="check that the command takes its port from {port}, and what else it listens on",
            retry=True,
        )

    def _words(self, deployment: Deployment, port: str) -> list[str]:
        gpus = deployment.mapping.gpus
        if self.gpus_per_node is not None and gpus > self.gpus_per_node:
            what = f"{deployment.label} needs {gpus} GPUs, this machine has {self.gpus_per_node}"
            raise UsageError(what, hint="leave it out, or measure on a cluster")
        return CommandTemplate(self.template).filled(deployment, model=self.model, port=port)


class EngineProcess:
    """A `RunningEngine`: it is started when this is made, answers after `ready`, and is gone after `stop`."""

    def __init__(self, command: list[str], port: int, deployment: Deployment, backend: Backend, engine_log: EngineLog) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.model = ""
        self.log = engine_log
        self._port = port
        self._deployment = deployment
        self._backend = backend
        self._verdict = ""  # the guard's line
        self._stopped = False
        self._seen_bytes, self._silent_since_s = 0, time.monotonic()
        # By path and isolated: the guard starts in a few hundredths of a second and needs nothing of this package.
        argv = [sys.executable, "-I", "-S", guard.__file__, str(STOP_GRACE_S), *command]
        try:
            with self.log.path.open("ab") as sink:
                self._guard = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink, bufsize=0, start_new_session=True)
        except OSError as error:
            what = f"{deployment.label}: no process can be started: {error.strerror}"
            raise EngineError(what, hint="free memory or processes", retry=True) from error

    async def ready(self, model: str, limit_s: float) -> None:
        """Return when the engine answers. Raises `EngineError` as soon as it is known that it will not.

        The name to ask for is `model` if the engine lists it: a command may give its model another name.
        """
        answer = await until_ready(self.url, limit_s=limit_s, check=self._check_starting)
        if not answer.models:
            said = last_words(self.log.text())
            words = f"{self._deployment.label}: the engine {answer.lacking(limit_s)}"
            raise EngineError(words + (f"; last line of its log: {said}" if said else ""), hint=self._hint())
        self.model = model if model in answer.models else answer.models[0]

    async def capacity(self) -> Capacity:
        found = await pages(self.url, self._backend.pages)
        return checked_capacity(self._backend, Evidence(self.log.text(), found), self._deployment)

    async def ended(self, *, doubted: bool = False) -> str:  # noqa: ARG002 - the end of a process is told at once
        """A port that is closed is an end too: sockets close before the kernel says that their process has ended."""
        if self._stopped:
            return "stopped"
        if self._how_it_ended():
            return self._end_in_words()
        if closed := await asyncio.to_thread(unreachable, self.url):
            return self._end_in_words() if self._how_it_ended(_VERDICT_LIMIT_S) else f"it no longer listens on port {self._port} ({closed})"
        return ""

    def lost_its_port(self) -> bool:
        """Of an engine that ended while it started, after `stop`: was it that somebody else has its port?"""
        if not self._verdict:
            return False
        text = self.log.text()
        failure = self._backend.failure(text)
        if failure is not None and not failure.retry:
            return False
        return bool(_PORT_TAKEN.search(text)) or not _is_free(self._port)

    async def stop(self) -> None:
        """Return when nothing of the engine is left. Cancelled meanwhile, it kills instead of asking."""
        self._stopped = True
        self._order(guard.STOP)
        limit_s = time.monotonic() + STOP_GRACE_S + _KILL_LIMIT_S
        try:
            while self._guard.poll() is None and time.monotonic() < limit_s:
                await asyncio.sleep(_LOOK_EVERY_S)
        except BaseException:
            self._order(guard.KILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._guard.wait(_KILL_LIMIT_S)
            raise
        finally:
            if self._guard.poll() is None:
                log.warning("%s: a process of the engine does not end after SIGKILL; its GPU may stay in use", self._deployment.label)
            for pipe in (self._guard.stdin, self._guard.stdout):
                if pipe is not None:
                    pipe.close()

    def _order(self, order: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):  # the guard has ended, or a second stop
            if self._guard.stdin is not None:
                self._guard.stdin.write(order)

    def _check_starting(self) -> None:
        """Raises when there is nothing to wait for."""
        if self._how_it_ended():
            raise self._failed_start()
        size_bytes, now_s = self.log.size_bytes, time.monotonic()
        if size_bytes != self._seen_bytes:
            self._seen_bytes, self._silent_since_s = size_bytes, now_s
        elif now_s - self._silent_since_s >= STALLED_S:
            self._silent_since_s = now_s  # look again after another such silence
            if failure := self._backend.failure(self.log.text()):
                raise EngineError(
                    f"{self._deployment.label}: the engine hangs after an error: {failure.reason}", hint=self._hint(failure.hint), retry=failure.retry
                )

    def _failed_start(self) -> EngineError:
        failure = self._backend.failure(self.log.text())
        words = f"{self._deployment.label}: the engine ended while it started: {self._end_in_words()}"
        return EngineError(words, hint=self._hint(failure.hint if failure else ""), retry=failure is not None and failure.retry)

    def _hint(self, remedy: str = "") -> str:
        place = f"its log: {self.log.path}"
        return f"{remedy}; {place}" if remedy else place

    def _how_it_ended(self, wait_s: float = 0.0) -> str:
        """'' while it runs, else in words of the kernel."""
        pipe = self._guard.stdout
        if not self._verdict and pipe is not None and not pipe.closed:
            poll = select.poll()  # select.select takes no number above 1023, and load makes many connections
            poll.register(pipe, select.POLLIN)
            if poll.poll(wait_s * 1e3):
                self._verdict = os.read(pipe.fileno(), 4096).decode(errors="replace").strip() or "its guard was killed"
        return _exit_in_words(int(self._verdict)) if re.fullmatch(r"-?\d+", self._verdict) else self._verdict

    def _end_in_words(self) -> str:
        """`exit code 1: <why>`, from the backend if it knows, else the engine's last words."""
        text = self.log.text()
        failure = self._backend.failure(text)
        said = failure.reason if failure else last_words(text)
        return f"{self._how_it_ended()}: {said}" if said else self._how_it_ended()


def _exit_in_words(code: int) -> str:
    """A shell or a container tells the signal of its child as 128 + number."""
    number = -code if code < 0 else code - 128
    if number not in signal.valid_signals():
        return f"exit code {code}"
    name = signal.Signals(number).name if number in {member.value for member in signal.Signals} else ""
    cause = "killed by signal 9, probably out of memory" if number == signal.SIGKILL else f"ended by signal {number}" + (f" ({name})" if name else "")
    return cause if code < 0 else f"exit code {code}: {cause}"


def _line(words: list[str]) -> str:
    """One shell line that starts these words; `{port}` stays readable: braces mean nothing to a shell without a comma or two dots in them."""
    return " ".join(word if word == PORT else shlex.quote(word) for word in words)


def _check_command(name: str) -> None:
    if shutil.which(name):
        return
    problem = f"the engine command cannot start: there is no {quoted(name)}"
    hint = "give a path, or a name that is on PATH"
    if Path(name).is_file():
        problem, hint = f"the engine command cannot start: {name} is not executable", "make it so with chmod +x, or name its interpreter"
    elif "=" in name:
        hint = "no shell reads the command: write env NAME=VALUE COMMAND"
    elif _SHELL & set(name):
        hint = "no shell reads the command: write sh -c '...'"
    raise UsageError(problem, hint=hint)


def _free_port() -> int:
    for _ in range(len(_PORTS)):
        port = secrets.choice(_PORTS)
        if _is_free(port):
            return port
    raise EngineError("no free port on this machine", hint=f"free one between {_PORTS.start} and {_PORTS.stop - 1}", retry=True)


def _is_free(port: int) -> bool:
    """On all interfaces: most engines listen there."""
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))
        except OSError:
            return False
    return True
