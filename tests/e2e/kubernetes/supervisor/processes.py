"""The parts of the cluster as processes: started in order, stopped and started again on request, their death noticed."""

from __future__ import annotations

import dataclasses
import subprocess
import threading
import time
from collections.abc import Callable

from supervisor.errors import ClusterError
from supervisor.layout import LOGS

START_TIMEOUT_S = 400.0
LAST_LINES = 15


@dataclasses.dataclass(frozen=True)
class Part:
    """One process. `ready` tells whether it does its work yet; it is asked again and again after a start."""

    name: str
    command: list[str]
    ready: Callable[[], bool] = lambda: True


class Processes:
    """All parts, by name. `failed` is called once with one line when a part ends that nobody stopped."""

    def __init__(self, parts: list[Part], failed: Callable[[str], None]) -> None:
        self._parts = {part.name: part for part in parts}
        self._failed = failed
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.RLock()

    def launch(self, name: str) -> None:
        """Starts a part without waiting for it; one that runs is left alone."""
        with self._lock:
            if name in self._running:
                return
            part = self._part(name)
            with (LOGS / f"{name}.log").open("ab") as log:
                process = subprocess.Popen(part.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
            self._running[name] = process
        threading.Thread(target=self._watch, args=(name, process), daemon=True).start()

    def await_ready(self, name: str) -> None:
        part = self._part(name)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not part.ready():
            if time.monotonic() > deadline:
                raise ClusterError(f"{name} is not ready after {START_TIMEOUT_S:.0f} s; the end of its log:\n{last_lines(name)}")
            time.sleep(0.05)

    def start(self, name: str) -> None:
        """Starts a part and waits until it does its work."""
        self.launch(name)
        self.await_ready(name)

    def stop(self, name: str) -> None:
        """Kills a part, as a crash would; returns when it is gone. What it has stored stays."""
        with self._lock:
            self._part(name)
            process = self._running.pop(name, None)
        if process is not None:
            process.kill()
            process.wait()

    def state(self) -> dict[str, str]:
        with self._lock:
            return {name: "running" if name in self._running else "stopped" for name in self._parts}

    def _part(self, name: str) -> Part:
        if name not in self._parts:
            raise ClusterError(f"{name}: no such part; there are: {', '.join(self._parts)}")
        return self._parts[name]

    def _watch(self, name: str, process: subprocess.Popen[bytes]) -> None:
        status = process.wait()
        with self._lock:
            if self._running.get(name) is not process:
                return
            del self._running[name]
        self._failed(f"{name} ended by itself with status {status}; the end of its log:\n{last_lines(name)}")


def last_lines(name: str) -> str:
    path = LOGS / f"{name}.log"
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return "\n".join(lines[-LAST_LINES:])
