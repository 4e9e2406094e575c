"""Faults around sweeps and the volume, with the CronJobs as they are shipped: the volume is full, the pod is deleted, the process is killed."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.manifests.objects import overlay

from . import node
from .conftest import ControlPlane, Document, Namespace
from .serving import CONFINED, NOBODY, apply, renamed

pytestmark = pytest.mark.cluster

RECORDS = "--selector=slaplanner.io/engine"
POINTS = "/data/profiling_results/points"
SETTINGS: Document = {
    "backend": "simulated",
    "output_dir": "/data/profiling_results",
    "isl": 128,
    "osl": 8,
    "max_context_length": 1024,
    "attainment": 0.5,
    "ttft": 400,
    "itl": 6,
    "max_num_gpus": 1,
    "prefill_interpolation_granularity": 4,
    "decode_interpolation_granularity": 5,
    "expected_start_s": 2,
    "verify": False,
    "log_format": "human",
}
LIMIT_S = 900.0
MOST_BYTES = 8 << 20
NEW_POINT = r"TP1 (prefill|decode) ISL [\w ]+: (TTFT|ITL)"  # measured, not found again


class Volume:
    """What is installed for sweeps, with a volume of its own, and a pod beside them that looks at it."""

    def __init__(self, namespace: Namespace, image: Callable[[str], str], python_image: str) -> None:
        self.namespace, self._image, self._python = namespace, image, python_image

    def install(self, folder: Path, sweep: Document, files: dict[str, str] | None = None, **params: str) -> None:
        """`files`: beside the sweep's settings, in /config. `params`: of sla-params, with `_` for `-`."""
        texts = {"sweep.yaml": json.dumps({**SETTINGS, **sweep}), **(files or {})}
        config = {"name": "sweep-config", "behavior": "replace", "literals": [f"{name}={text}" for name, text in texts.items()]}
        images = [renamed(name, self._image(name)) for name in ("volume-tools", "profile-sweep")]
        components = [*(["plain-workloads"] if "workload" in sweep else []), "parameters", *(["storage-class"] if params else [])]
        given = {name.replace("_", "-"): value for name, value in params.items()}
        apply(self.namespace, overlay(folder, *components, params=given, configMapGenerator=[config], images=images, patches=[LIGHT]))
        keeper = {
            "name": "keeper",
            "image": self._python,
            "command": ["sh", "-c", "trap exit TERM; sleep infinity & wait"],
            "securityContext": CONFINED,
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        }
        spec = {
            "securityContext": NOBODY,
            "containers": [keeper],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "dynamo-pvc"}}],
        }
        self.namespace.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "keeper"}, "spec": spec})
        self.namespace.wait("pod/keeper", "condition=Ready", LIMIT_S)

    def shell(self, script: str) -> str:
        """Output of a script that sees the volume at /data."""
        return self.namespace.kubectl("exec", "keeper", "--", "sh", "-c", script)

    def fill(self) -> None:
        """To the last byte; never more than `MOST_BYTES`, which the machine has to spare in any case."""
        self.shell(f"head -c {MOST_BYTES} /dev/zero > /data/filler 2> /dev/null || true")
        free = self.shell("df --output=avail /data | tail -1").strip()
        assert free == "0", f"the volume is larger than the test's claim: {free} KiB are still free"

    def empty(self) -> None:
        self.shell("rm /data/filler")

    def files(self) -> set[str]:
        return set(self.shell("find /data -type f ! -name filler").split())

    def start(self, stage: str, name: str) -> None:
        self.namespace.kubectl("create", "job", name, f"--from=cronjob/{stage}")

    def running(self, job: str, but: str = "") -> Document:
        """Its pod as soon as it runs; another than `but`."""
        give_up_s = time.monotonic() + LIMIT_S
        while True:
            for pod in self._pods(job):
                if pod["status"]["phase"] == "Running" and pod["metadata"]["name"] != but:
                    return pod
            assert time.monotonic() < give_up_s, f"no pod of {job} runs"
            time.sleep(0.2)

    def ended(self, name: str) -> tuple[int, str, str]:
        """Exit code, log and termination message of the last pod of a Job."""
        self.namespace.until(
            f"job/{name}", lambda job: any(each["type"] in ("Complete", "Failed") for each in job["status"].get("conditions", ())), LIMIT_S
        )
        last = max(self._pods(name), key=lambda pod: pod["metadata"]["creationTimestamp"])
        state = last["status"]["containerStatuses"][0]["state"]["terminated"]
        return state["exitCode"], self.namespace.logs(f"pod/{last['metadata']['name']}"), state.get("message", "")

    def stop(self, job: str) -> None:
        """Delete a Job that still runs; returns when nothing of its engines is left."""
        self.namespace.kubectl("delete", "job", job)
        give_up_s = time.monotonic() + LIMIT_S
        while left := self.engines():
            assert time.monotonic() < give_up_s, left
            time.sleep(0.2)

    def _pods(self, job: str) -> list[Document]:
        found: list[Document] = json.loads(self.namespace.kubectl("get", "pods", f"--selector=job-name={job}", "--output=json"))["items"]
        return found

    def engines(self) -> str:
        """What there is of engines."""
        return self.namespace.kubectl("get", "configmaps,services,deployments,pods", RECORDS, "--output=name", "--ignore-not-found")


LIGHT: Document = {
    "target": {"kind": "CronJob", "name": "profile-sweep"},
    "patch": json.dumps(
        [
            {
                "op": "replace",
                "path": "/spec/jobTemplate/spec/template/spec/containers/0/resources/requests",
                "value": {"cpu": "100m", "memory": "256Mi"},
            }
        ]
    ),
}


def engine(reference: str) -> str:
    """A simulated one, as a workload template."""
    container = {
        "name": "engine",
        "image": reference,
        "args": ["engine-sim", "--mode", "agg", "--host", "0.0.0.0", "--port", "{port}", "--tp", "{tp}"],
        "resources": {"requests": {"cpu": "10m", "memory": "80Mi"}, "limits": {"memory": "512Mi", "nvidia.com/gpu": "{gpus}"}},
        "securityContext": CONFINED,
    }
    labels = {"app": "{name}"}
    pod = {"securityContext": NOBODY, "terminationGracePeriodSeconds": 1, "containers": [container]}
    template = {"metadata": {"labels": labels}, "spec": pod}
    documents: list[Document] = [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "{name}"}, "spec": {"selector": labels, "ports": [{"port": 8000}]}},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "{name}"},
            "spec": {"selector": {"matchLabels": labels}, "template": template},
        },
    ]
    return "\n---\n".join(map(json.dumps, documents))


@pytest.fixture
def volume(namespace: Namespace, image: Callable[[str], str], python_image: str) -> Volume:
    return Volume(namespace, image, python_image)


def test_a_full_volume_keeps_the_manifest_that_it_has(volume: Volume, tmp_path: Path, control_plane: ControlPlane) -> None:
    volume.install(tmp_path, {}, pvc_size="1Mi", pvc_storage_class="small")
    manifest = "/data/configs/disagg.yaml"
    volume.shell(f"mkdir /data/configs && echo before > {manifest}")
    volume.fill()
    volume.start("inject-config", "full")
    code, log, message = volume.ended("full")
    assert code == 2, log
    assert re.fullmatch(rf"the volume has no room for {manifest}: [\d,]+ bytes more are needed; free some of it, or enlarge the claim", message)
    assert log.splitlines()[-1] == f"error: {message}"
    assert (volume.files(), volume.shell(f"cat {manifest}")) == ({manifest}, "before\n")
    volume.empty()
    volume.start("inject-config", "again")
    code, log, _ = volume.ended("again")
    assert code == 0, log
    assert volume.files() == {manifest}
    assert "kind: DynamoGraphDeployment" in volume.shell(f"cat {manifest}")


def test_a_volume_that_fills_up_ends_a_sweep_with_whole_points_and_no_engine(
    volume: Volume, image: Callable[[str], str], tmp_path: Path, control_plane: ControlPlane
) -> None:
    files = {"engine.yaml": engine(image("engine-sim"))}
    volume.install(tmp_path, {"workload": "/config/engine.yaml"}, files, pvc_size="4Mi", pvc_storage_class="small")
    volume.start("profile-sweep", "full")
    node.until_said(volume.running("full"), NEW_POINT)
    volume.fill()
    code, log, message = volume.ended("full")
    assert code == 2
    (line,) = [line for line in log.splitlines() if line.startswith("error: ")]
    assert message == line.removeprefix("error: ")
    points = _points(volume)
    assert not [name for name in volume.files() if name.endswith(".tmp")]
    assert volume.engines() == ""

    volume.empty()
    volume.start("profile-sweep", "again")
    again = volume.running("again")
    node.until_said(again, NEW_POINT)
    assert node.log(again).count("found again") == len([name for name in points if "/engine-" not in name]) > 0
    volume.stop("again")


def test_a_sweep_of_graphs_survives_its_pod_and_its_process(
    volume: Volume, namespace: Namespace, tmp_path: Path, dynamo: Path, control_plane: ControlPlane
) -> None:
    """First its pod is deleted, then the process of the next one is killed; the third goes on with what both have measured."""
    volume.install(tmp_path, {"dgd": "/data/configs/disagg.yaml", "backend": "vllm"})
    volume.start("inject-config", "manifest")
    assert volume.ended("manifest")[0] == 0
    volume.start("profile-sweep", "sweep")

    first = volume.running("sweep")
    node.until_said(first, NEW_POINT)
    (graph,) = _graphs(namespace)
    namespace.kubectl("delete", "pod", first["metadata"]["name"], "--force", "--grace-period=0")
    namespace.wait(graph, "delete", LIMIT_S)  # by the cluster: its owner is gone

    second = volume.running("sweep", but=first["metadata"]["name"])
    node.until_said(second, NEW_POINT)
    measured = _points(volume)
    (graph,) = _graphs(namespace)
    node.kill(second)

    third = volume.running("sweep", but=second["metadata"]["name"])
    node.until_said(third, f"Removing the engine {graph.partition('/')[2]}, left by a sweep that is over")
    node.until_said(third, NEW_POINT)
    assert node.log(third).count("found again") >= len([name for name in measured if "/engine-" not in name]) > 1
    again = _points(volume)
    assert {name: again[name] for name in measured} == measured, "nothing was measured twice"
    volume.stop("sweep")
    assert _graphs(namespace) == []


def _graphs(namespace: Namespace) -> list[str]:
    return namespace.kubectl("get", "dynamographdeployments", "--output=name").split()


def _points(volume: Volume) -> dict[str, Any]:
    """All files of points, read."""
    script = (
        f"import json, pathlib; print(json.dumps({{str(file): json.loads(file.read_text()) for file in pathlib.Path({POINTS!r}).rglob('*.json')}}))"
    )
    found: dict[str, Any] = json.loads(volume.shell(f'python -c "{script}"'))
    return found
