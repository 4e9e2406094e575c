"""Runs one engine and takes it away, also when whoever asked for it was killed. A program of its own, standard library only.

    guard.py GRACE_S COMMAND...

    stdin    from the launcher. `stop`: SIGTERM to the engine and all it started, SIGKILL after GRACE_S; `kill`: SIGKILL now; end of file: the
             launcher is dead, whatever killed it, then as `stop` with ORPHAN_GRACE_S
    stdout   to the launcher, one line as soon as the engine has ended: its exit code, negative for a signal, or why it could not be started
    stderr   the log: stdout and stderr of the engine

The guard returns when nothing of the engine is left. The engine leads a session of its own, so Ctrl-C in a terminal does not reach it before the
launcher. The guard adopts orphans (Linux: PR_SET_CHILD_SUBREAPER), so that a worker is found that left its group or outlived its parent; elsewhere
only the group is ended. If the guard itself is killed, the engine's first process dies with it (PR_SET_PDEATHSIG; safe in a program of one thread).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

ORPHAN_GRACE_S = 2.0
REMAINS_GRACE_S = 1.0  # for what an engine that ended by itself leaves behind
STOP, KILL = b"stop", b"kill"

_LOOK_EVERY_S = 0.05
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LINUX = sys.platform == "linux"
_LIBC = ctypes.CDLL(None)  # opened here: a child between fork and exec must not
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def main(grace_s: float, command: list[str]) -> None:
    wake, alarm = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(alarm, False)
    signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, *_STOP_SIGNALS):
        signal.signal(number, lambda *_: None)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        engine = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            start_new_session=True,
            preexec_fn=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
        )
    except OSError as error:
        _tell(f"{command[0]}: {error.strerror}")
        return
    _end(engine, _wait(engine, wake, grace_s), grace_s)


def _wait(engine: subprocess.Popen[bytes], wake: int, grace_s: float) -> float:
    """Until the engine has ended or is to end; the grace that is left to it."""
    while True:
        ready, _, _ = select.select([0, wake], [], [])
        if wake in ready:
            signals = os.read(wake, 4096)
            _reap(engine)
            if engine.poll() is not None:
                _tell(str(engine.returncode))
                return REMAINS_GRACE_S
            if set(signals) & set(_STOP_SIGNALS):
                return grace_s
        if 0 in ready:
            return _grace_s(os.read(0, 64), grace_s)


def _grace_s(order: bytes, grace_s: float) -> float:
    return 0.0 if KILL in order else grace_s if STOP in order else ORPHAN_GRACE_S


def _end(engine: subprocess.Popen[bytes], allowed_s: float, grace_s: float) -> None:
    """SIGTERM to all, then SIGKILL until nobody is left. An order that comes meanwhile can only shorten the wait."""
    kill_s = time.monotonic() + allowed_s
    listening = [0]
    if allowed_s:
        _signal(engine, signal.SIGTERM)
    while not _gone(engine):
        if time.monotonic() >= kill_s:
            _signal(engine, signal.SIGKILL)
        if select.select(listening, [], [], _LOOK_EVERY_S)[0]:
            order = os.read(0, 64)
            listening = [0] if order else []
            kill_s = min(kill_s, time.monotonic() + _grace_s(order, grace_s))


def _signal(engine: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if engine.poll() is None or not _LINUX:  # the number of a group that is gone may be another's
            os.killpg(engine.pid, number)
    for pid in _family():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _gone(engine: subprocess.Popen[bytes]) -> bool:
    _reap(engine)
    if engine.poll() is None:
        return False
    if _LINUX:
        return not _family()
    try:
        os.killpg(engine.pid, 0)
    except (ProcessLookupError, PermissionError):
        return True
    return False


def _reap(engine: subprocess.Popen[bytes]) -> None:
    """Adopted children that have ended."""
    for pid in _children().get(os.getpid(), ()):
        if pid != engine.pid:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _family() -> list[int]:
    """All processes below this one, grandchildren too."""
    children = _children()
    found = list(children.get(os.getpid(), ()))
    for pid in found:
        found += children.get(pid, ())
    return found


def _children() -> dict[int, list[int]]:
    """Parent -> children, from /proc/PID/stat: `PID (NAME) STATE PARENT ...`, where NAME may hold anything. Empty where there is no /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat") if _LINUX else ():
        with contextlib.suppress(OSError, IndexError, ValueError):
            parent = int(stat.read_bytes().rpartition(b")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    return children


def _prctl(option: int, value: int) -> None:
    if _LINUX:
        _LIBC.prctl(option, value, 0, 0, 0)


def _tell(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(1, line.encode() + b"\n")


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2:])
