"""The stand-in as a process, for tests on a cluster."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

IMAGE = os.environ.get("E2E_ENGINE_IMAGE", "localhost/sla-planner/engine-sim:e2e")


@contextlib.contextmanager
def operator(*flags: str) -> Iterator[None]:
    """Until the block ends; what it logged is printed when it could not start, or has ended before its time."""
    command = [sys.executable, str(Path(__file__).parent), "--image", IMAGE, *flags]
    with tempfile.TemporaryFile("w+") as log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        assert process.stdout is not None
        try:
            if process.stdout.readline() != "operator stand-in ready\n":
                process.wait()
                log.seek(0)
                pytest.fail(f"the operator stand-in does not start: {log.read()}", pytrace=False)
            yield
            early = process.poll()
        finally:
            process.terminate()
            process.wait(30)
        log.seek(0)
        assert early is None, log.read()


@pytest.fixture(scope="session")
def dynamo_operator(cluster: object) -> Iterator[None]:
    """One for all tests: it looks after the graphs of every namespace."""
    with operator():
        yield
