"""Nothing that runs in the namespaces outlives the command, however that one ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.cluster

HERE = Path(__file__).resolve().parent
PATIENCE_S = 60

# A daemon that left its session, and an orphan, beside what the command waits for. All of them hold standard output open.
PROGRAM = """
import subprocess, sys
from supervisor import namespaces

def body():
    subprocess.Popen(["sleep", "infinity"], start_new_session=True)
    subprocess.run(["sh", "-c", "sleep infinity &"])
    print("running", flush=True)
    return subprocess.run(sys.argv[1:]).returncode

sys.exit(namespaces.contained(body))
"""


@pytest.fixture
def contained():
    processes = []

    def start(*command):
        environment = {**os.environ, "PYTHONPATH": str(HERE)}
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, *command], cwd=HERE, env=environment, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout.readline() == "running\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_everything(contained, number):
    process = contained("sleep", "infinity")

    process.send_signal(number)

    rest, _ = process.communicate(timeout=PATIENCE_S)  # the pipe's end: its last holder is gone
    assert rest == ""
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + signal.SIGKILL)


def test_the_status_of_the_command_is_handed_on_and_its_leavings_end(contained):
    process = contained("sh", "-c", "exit 7")

    process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 7


def test_what_is_written_to_system_folders_stays_inside(contained):
    paths = [Path("/run/e2e-mark"), Path("/var/lib/e2e-mark"), Path("/var/log/e2e-mark")]
    process = contained("sh", "-c", f"touch {' '.join(map(str, paths))} && ls {' '.join(map(str, paths))}; readlink /proc/self/ns/net")

    seen, _ = process.communicate(timeout=PATIENCE_S)

    *written, network = seen.split()
    assert written == [str(path) for path in paths]
    assert not any(path.exists() for path in paths)
    assert network != str(Path("/proc/self/ns/net").readlink())
