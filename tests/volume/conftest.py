"""A volume in a folder, and agents next to it: in this process, and as the program that an access pod runs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sla_planner.volume.agent import open_local
from sla_planner.volume.client import VolumeClient
from sla_planner.volume.frames import PipeWire, Wire
from sla_planner.volume.progress import TransferProgress


class CutWire:
    """A wire that breaks after so many bytes have come or gone, as a connection does: everything before has arrived."""

    def __init__(self, wire: Wire, after_bytes: int) -> None:
        self._wire, self._left = wire, after_bytes

    def read(self) -> bytes:
        data = self._wire.read()
        self._count(len(data))
        return data

    def write(self, data: bytes) -> None:
        self._count(len(data))
        self._wire.write(data)

    def close(self) -> None:
        self._wire.close()

    def release(self) -> None:
        self._wire.release()

    def _count(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            self._wire.close()
            raise ConnectionResetError("cut")


class Program:
    """`python -m sla_planner.volume.agent FOLDER`."""

    def __init__(self, folder: Path) -> None:
        (its_reads, writes), (reads, its_writes) = os.pipe(), os.pipe()
        command = [sys.executable, "-m", "sla_planner.volume.agent", str(folder)]
        self.process = subprocess.Popen(command, stdin=its_reads, stdout=its_writes)
        os.close(its_reads)
        os.close(its_writes)
        self.wire: Wire = PipeWire(reads, writes)


@pytest.fixture
def progress() -> TransferProgress:
    return TransferProgress(lambda _: None)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    folder = tmp_path / "volume"
    folder.mkdir()
    return folder


@pytest.fixture
def client(volume: Path, progress: TransferProgress) -> Iterator[VolumeClient]:
    """A session with an agent of this process."""
    with contextlib.closing(VolumeClient(open_local(volume), progress)) as client:
        yield client


@pytest.fixture
def program(volume: Path) -> Iterator[Callable[[], Program]]:
    """Starts agents as programs; none is left."""
    started: list[Program] = []

    def start() -> Program:
        started.append(Program(volume))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()
