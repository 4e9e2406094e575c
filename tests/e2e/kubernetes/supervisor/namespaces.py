"""Private namespaces whose processes end together.

    the command that was called            waits; owns nothing that lives on
      └ init, first of a PID namespace     dies with its parent (PDEATHSIG), and the kernel ends all others with it
          └ the supervisor                 starts everything else

Network and mount namespaces belong to the same processes. So nothing survives, whichever process is killed and however.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

NEW_MOUNTS = 0x00020000
NEW_PIDS = 0x20000000
NEW_NETWORK = 0x40000000
PR_SET_PDEATHSIG = 1

INTERRUPT_GRACE_S = 60  # what an interrupted command may take for its own teardown

_libc = ctypes.CDLL(None, use_errno=True)


def contained(body: Callable[[], int], started: Callable[[int], None] = lambda _pid: None) -> int:
    """Exit status of `body`, run in namespaces of its own; all its processes have ended on return. `started` gets init's process id.

    SIGTERM and SIGHUP end everything at once; after SIGINT, which a terminal sends to all processes, `body` has a grace to end by itself.
    """
    alive, held = os.pipe()
    _check(_libc.unshare(NEW_PIDS), "unshare")
    init = os.fork()
    if init == 0:
        os.close(held)
        _init(body, alive)
    os.close(alive)
    started(init)
    return _waited_for(init)


def inside(init: int, command: list[str], environment: dict[str, str]) -> int:
    """Exit status of `command`, run in the namespaces of `init`, in this directory."""
    directory = Path.cwd()
    target = os.pidfd_open(init)
    _check(_libc.setns(target, NEW_MOUNTS | NEW_NETWORK | NEW_PIDS), "setns")
    child = os.fork()
    if child == 0:
        _die_with_parent()
        try:
            os.chdir(directory)
            os.execvpe(command[0], command, environment)
        except OSError as error:
            os.write(2, f"cluster: {command[0]}: {error.strerror}\n".encode())
        os._exit(127)
    return _waited_for(child)


def _init(body: Callable[[], int], alive: int) -> None:
    """First process of the PID namespace: hands the work to a child and collects orphans until that one ends."""
    _die_with_parent()
    if select.select([alive], [], [], 0)[0]:  # end of file: the parent was gone before it could be asked
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _check(_libc.unshare(NEW_MOUNTS | NEW_NETWORK), "unshare")
    _private_mounts()
    supervisor = os.fork()
    if supervisor == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        status = 1
        try:
            status = body()
        except KeyboardInterrupt:
            status = 128 + signal.SIGINT
        finally:
            os._exit(status)
    while True:
        ended, status = os.wait()
        if ended == supervisor:
            os._exit(_exit_status(status))


def _private_mounts() -> None:
    """/run empty, writes to /var/lib and /var/log forgotten, /proc that of the new namespaces; mounts reach containers, and never the host."""
    for arguments in (
        ["--make-rprivate", "/"],
        ["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"],
        ["-t", "proc", "proc", "/proc"],
        ["--make-rshared", "/"],
    ):
        subprocess.run(["mount", *arguments], check=True)
    for directory in ("/var/lib", "/var/log"):
        written, work = Path(f"/run{directory}/written"), Path(f"/run{directory}/work")
        written.mkdir(parents=True)
        work.mkdir()
        layers = f"lowerdir={directory},upperdir={written},workdir={work}"
        subprocess.run(["mount", "-t", "overlay", "-o", layers, "overlay", directory], check=True)


def _waited_for(child: int) -> int:
    def end(_number: int, _frame: object) -> None:
        os.kill(child, signal.SIGKILL)

    def grace(_number: int, _frame: object) -> None:
        signal.alarm(INTERRUPT_GRACE_S)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, end)
    signal.signal(signal.SIGINT, grace)
    return _exit_status(os.waitpid(child, 0)[1])


def _exit_status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _die_with_parent() -> None:
    _check(_libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL), "prctl")


def _check(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
