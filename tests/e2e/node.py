"""What a test can do on the node of tests/e2e/kubernetes/cluster and nowhere else: look without the API server, and kill without it."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

from .conftest import PATIENCE_S, Document

LOGS = Path("/run/sla-planner-e2e/pods")
CTR = ("ctr", "--address", "/run/containerd/containerd.sock", "--namespace", "k8s.io")
LOOK_S = 0.02


def log(pod: Document) -> str:
    """Of all its containers so far, the ended ones too."""
    metadata = pod["metadata"]
    folder = LOGS / f"{metadata['namespace']}_{metadata['name']}_{metadata['uid']}"
    return "".join(file.read_text(errors="replace") for file in sorted(folder.glob("*/*.log"), key=lambda file: file.stat().st_mtime))


def until_said(pod: Document, words: str, *, after: int = 0) -> int:
    """Length of the log up to where it says `words`, a regular expression, beyond its first `after` characters; as soon as it does."""
    give_up_s = time.monotonic() + PATIENCE_S
    while (found := re.compile(words).search(said := log(pod), after)) is None:
        assert time.monotonic() < give_up_s, f"{pod['metadata']['name']} has not said {words!r}:\n{said[after:]}"
        time.sleep(LOOK_S)
    return found.end()


def kill(pod: Document) -> None:
    """SIGKILL to the first process of its first container, which its kubelet did not see coming."""
    container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    subprocess.run([*CTR, "task", "kill", "--signal", "SIGKILL", container], check=True, capture_output=True)


def messages(text: str) -> list[str]:
    """Of JSON log lines, with or without what the container runtime puts before each; other lines as they are."""
    found = []
    for line in text.splitlines():
        _, brace, rest = line.partition("{")
        try:
            found.append(str(json.loads(brace + rest)["message"]))
        except (ValueError, KeyError):
            found.append(line)
    return found
