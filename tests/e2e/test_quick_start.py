"""The quick start of the README, as pasted, one shell from the first block to the last; then load, and the workers it brings and loses.

Blocks after `<!-- cluster -->` are run in their order in a copy of the tree as a clone would have it. What a reader is told to put in his own words for
is put in: the namespace, the registry; and the time between decisions, so that a test does not take what a day does.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLUSTER_BLOCK = re.compile(r"^<!-- cluster -->\n```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = "-- end of block"
BLOCK_LIMIT_S = 900.0
FASTER = " --set interval_s=5 --set 'planner_args=[--startup-s=5, --grace-s=20]' --set prometheus=true --output vllm"

pytestmark = pytest.mark.cluster


class Shell:
    """One bash that stays, with -e as a person would notice an error, in `folder`."""

    def __init__(self, folder: Path, transcript: Path) -> None:
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            ["bash", "-eu"],
            cwd=folder,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._transcript = transcript

    def run(self, block: str) -> str:
        """What it printed. Fails with that when a command of it fails."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{block}\necho '{MARK}'\n")
        process.stdin.flush()
        alarm = threading.Timer(BLOCK_LIMIT_S, process.kill)
        alarm.start()
        lines: list[str] = []
        try:
            for line in process.stdout:
                if line.strip() == MARK:
                    return "".join(lines)
                lines.append(line)
                with self._transcript.open("a") as file:
                    file.write(line)
        finally:
            alarm.cancel()
        pytest.fail(f"the block\n{block}\nended with exit status {process.wait()}:\n{''.join(lines)}", pytrace=False)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What Git would check out, with the changes that are not committed yet."""
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / "clone" / name)
    return tmp_path / "clone"


@pytest.fixture
def shell(clone: Path, tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(clone, tmp_path / "transcript")
    yield shell
    shell.close()


def blocks(namespace: str, image: Callable[[str], str]) -> list[str]:
    """The README's, in the words of this cluster."""
    registry, _, rest = image("planner").rpartition("/planner")
    found = CLUSTER_BLOCK.findall((ROOT / "README.md").read_text())
    changes = {
        "NAMESPACE=your-namespace REGISTRY=registry.example.com/team TAG=0.1.0": f"NAMESPACE={namespace} REGISTRY={registry} TAG={rest.lstrip(':')}",
        "nvcr.io/nvidia/ai-dynamo/vllm-runtime:1.6.1": image("engine-sim"),
        " --output vllm": f" --set prometheus_image={image('prometheus')}{FASTER}",
    }
    text = "\0".join(found)
    for old, new in changes.items():
        assert old in text, f"the README no longer says {old!r}"
        text = text.replace(old, new)
    return text.split("\0")


def test_the_quick_start(namespace, dynamo, image, shell) -> None:  # type: ignore[no-untyped-def]
    install, inject, start_sweep, follow, download, deploy, request, watch = blocks(namespace.name, image)

    shell.run(install)
    assert "dynamo-pvc" in namespace.kubectl("get", "pvc")
    shell.run(inject)
    shell.run(start_sweep)
    log = shell.run(follow)
    assert re.search(r"Suggested prefill TP:\d+ \(TTFT \d+\.\d\d ms, throughput \d+\.\d\d tokens/s/GPU\)", log)
    assert re.search(r"Suggested decode TP:\d+ \(ITL \d+\.\d\d ms, throughput \d+\.\d\d tokens/s/GPU\)", log)
    assert namespace.get("pods")["items"][0]["status"]["containerStatuses"][0]["state"]["terminated"]["message"].startswith("Suggested")
