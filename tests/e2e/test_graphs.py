"""The committed graphs, applied by an operator: every pod that they promise serves, and the planner sees and decides.

Images are those of this cluster. The graphs of single backends take their profile from the image instead of a volume, as values of the template.
The names of a graph and of its namespace make one label together, so the tests have short names.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.manifests.objects import ROOT, overlay

from . import node
from .conftest import PATIENCE_S, Document, Namespace, awaited
from .serving import Load, apply, load_test, renamed

ENGINE = re.compile(r"nvcr\.io/nvidia/ai-dynamo/[a-z]+-runtime:[\w.]+")

pytestmark = pytest.mark.cluster


@pytest.fixture
def installed(namespace: Namespace, image: Callable[[str], str], tmp_path: Path) -> Namespace:
    """The standing parts: the planner's account and its rights."""
    apply(namespace, overlay(tmp_path, images=[renamed("planner", image("planner"))]))
    return namespace


def in_words_of(text: str, image: Callable[[str], str]) -> str:
    """A graph with the images of this cluster."""
    documents: list[Document] = list(yaml.safe_load_all(text))
    told = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
    told, engines = ENGINE.subn(image("engine-sim"), told)
    assert engines >= 3, "frontend, prefill and decode"
    told, planners = re.subn(r"sla-planner/planner:[\w.]+", image("planner"), told)
    assert planners == 1
    return re.sub(r'"[\w./]*prom/prometheus:[\w.]+"', json.dumps(image("prometheus")), told)


def rendered(backend: str) -> str:
    """disagg_planner with a Prometheus of its own, for a test's patience."""
    values = ("prometheus=true", "profile_results_dir=sample", "profile_pvc=", "interval_s=5")
    settings = [part for value in values for part in ("--set", value)]
    command = [sys.executable, "-m", "sla_planner", "render", "graphs/disagg_planner", "--backend", backend, *settings]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def serves(namespace: Namespace, graph: str, image: Callable[[str], str], *, workers: tuple[str, str]) -> list[str]:
    """What the planner says until it has seen requests, decided and said how many workers it wants."""
    for part in ("frontend", "planner", "prometheus", *workers):
        namespace.wait(f"deployment/{graph}-{part}", "condition=Available")
    namespace.apply(*load_test(image("profile-sweep"), Load(2, isl=600, osl=30), url=f"http://{graph}-frontend:8000", duration_s=300))
    give_up_s = time.monotonic() + PATIENCE_S + 90
    while True:
        log = namespace.logs(f"deployment/{graph}-planner")
        if (seen := re.search(r"Observed num_req: [1-9]", log)) and "Number of prefill workers:" in log[seen.end() :]:
            return node.messages(log)
        assert time.monotonic() < give_up_s, f"the planner has seen no requests:\n{log}"
        time.sleep(0.5)


def pods_of(namespace: Namespace) -> set[str]:
    """Names without what their ReplicaSets add, as soon as all run and are ready: some may just have been asked for."""

    def ready() -> list[Document]:
        found = [pod for pod in namespace.get("pods")["items"] if pod["metadata"]["name"] != "load"]
        there = all(status["ready"] for pod in found for status in pod["status"].get("containerStatuses", [{"ready": False}]))
        return found if there else []

    pods = awaited(ready, lambda: namespace.kubectl("get", "pods"))
    assert not any(status["restartCount"] for pod in pods for status in pod["status"]["containerStatuses"])
    return {pod["metadata"]["name"].rsplit("-", 2)[0] for pod in pods}


@pytest.mark.usefixtures("dynamo")
def test_demonstration(installed: Namespace, image: Callable[[str], str]) -> None:
    """sla-planner.yaml as it is: every 60 s, ARIMA, TTFT 2000 ms, ITL 100 ms, 1 to 5 prefill and 2 to 8 decode workers."""
    text = in_words_of((ROOT / "manifests" / "graphs" / "sla-planner.yaml").read_text(), image)
    installed.apply(text)
    said = serves(installed, "sla-planner", image, workers=("prefill", "decode"))
    assert pods_of(installed) == {f"sla-planner-{part}" for part in ("frontend", "planner", "prometheus", "prefill", "decode")}
    told = "\n".join(said)
    assert "New adjustment interval started!" in told
    prefill, decode = re.findall(r"Number of prefill workers: (\d+), number of decode workers: (\d+)", told)[-1]  # the first may find them starting
    assert 1 <= int(prefill) <= 5
    assert 2 <= int(decode) <= 8
    graph = installed.get("dynamographdeployments.v1alpha1.nvidia.com/sla-planner")
    assert graph["spec"]["services"]["decode"]["replicas"] >= 2
    installed.kubectl("delete", "-f", "-", input=text)
    installed.wait("deployment/sla-planner-frontend", "delete")


@pytest.mark.usefixtures("dynamo")
@pytest.mark.parametrize("backend", ["sglang", "trtllm"])
def test_backend(installed: Namespace, image: Callable[[str], str], backend: str) -> None:
    installed.apply(in_words_of(rendered(backend), image))
    workers = tuple(name for name in services(backend) if name not in ("frontend", "planner"))
    said = serves(installed, f"{backend}-disagg-planner", image, workers=workers)
    assert len(workers) == 2
    assert pods_of(installed) == {f"{backend}-disagg-planner-{part}" for part in ("frontend", "planner", "prometheus", *workers)}
    assert any(backend in line for line in said), "the start says which engine it plans for"


def services(backend: str) -> list[str]:
    """Of the committed graph, as Deployments are named after them."""
    text = (ROOT / "manifests" / "graphs" / backend / "disagg_planner.yaml").read_text()
    (graph,) = [each for each in yaml.safe_load_all(text) if each["kind"] == "DynamoGraphDeployment"]
    return [name.lower() for name in graph["spec"]["services"]]
