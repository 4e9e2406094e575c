"""A llama.cpp server that runs already, with its prompt cache on, swept twice."""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

SLOTS, CONTEXT = 3, 3072
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Endpoint:
    url: str
    process: subprocess.Popen[bytes]

    def counter(self, name: str) -> float:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=PATIENCE_S) as page:
            found = re.search(rf"^llamacpp:{name} (\S+)$", page.read().decode(), re.MULTILINE)
        assert found
        return float(found[1])


@pytest.fixture
def endpoint(llamacpp_command: Callable[..., str], tmp_path: Path) -> Iterator[Endpoint]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = shlex.split(llamacpp_command("--slots", SLOTS, "--context", CONTEXT, "--cache").replace("{port}", str(port)))
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        yield Endpoint(f"http://127.0.0.1:{port}", process)
        process.terminate()


def test_no_prompt_is_sent_twice_and_the_server_runs_on(endpoint: Endpoint, tmp_path: Path) -> None:
    """By the server's own counters. A few tokens are found again by chance: one prompt in 3000 begins with the same token as another."""
    options = "--isl 128 --osl 16 --max-context-length 512 --ttft 60 --itl 5000 --force-rerun --no-verify"
    options += " --prefill-interpolation-granularity 4 --decode-interpolation-granularity 5"
    sweep = [sys.executable, "-m", "sla_planner", "profile-sweep", "--backend", "llamacpp", "--endpoint", endpoint.url, *options.split()]
    command = [*sweep, "--output-dir", str(tmp_path / "results")]
    prompt_tokens = []
    for _ in range(2):
        ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        # On a busy machine the promise may be out of reach, or nothing be trusted: what was sent is what counts here.
        assert ended.returncode in (0, 3) or "trusted" in ended.stderr, ended.stderr
        prompt_tokens.append(endpoint.counter("prompt_tokens_total") - sum(prompt_tokens))
    assert min(prompt_tokens) > 3 * (64 + 256)  # each sweep asked: three prompts at least of the shortest and of the longest
    assert endpoint.counter("prompt_tokens_cached_total") < 0.01 * sum(prompt_tokens)
    assert endpoint.process.poll() is None
    facts = json.loads(next((tmp_path / "results" / "points").glob("engine-*.json")).read_text())["engine"]
    assert (facts["max_kv_tokens"], facts["max_sequences"]) == (CONTEXT, SLOTS)
    assert facts["kv_source"].startswith("/props")
