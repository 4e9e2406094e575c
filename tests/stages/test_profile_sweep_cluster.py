"""`profile-sweep` with engines in a cluster, as it is called: the API is a stand-in, the one engine a process where its Service leads to."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster.api_stand_in import ApiStandIn, api_stand_in
from tests.sweep.conftest import small_profile

from sla_planner.cli import run
from sla_planner.model.profile import ParallelMapping
from sla_planner.stages import profile_sweep_run
from sla_planner.store.profile_files import PROFILE_JSON, read_profile, write_profile_json
from sla_planner.sweep import measure
from sla_planner.sweep.port import Deployment

SERVICE = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "{name}"}, "spec": {"selector": {"app": "x"}, "ports": [{"port": "{port}"}]}}
DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "{name}"},
    "spec": {"template": {"spec": {"containers": [{"name": "main", "args": ["--tp={tp}"]}]}}},
}
SHAPE = ["--isl", "128", "--osl", "8", "--max-context-length", "1024", "--attainment", "0.5", "--max-num-gpus", "1"]
FEW_POINTS = ["--prefill-interpolation-granularity", "4", "--decode-interpolation-granularity", "5", "--no-verify"]
PROMISE = ["--ttft", "60", "--itl", "9"]


@dataclass(frozen=True)
class Place:
    """A sweep that measures the engine at `port`."""

    folder: Path
    port: int

    @property
    def output(self) -> Path:
        return self.folder / "results"

    def workload(self, *documents: dict) -> Path:  # type: ignore[type-arg]
        path = self.folder / "workload.yaml"
        path.write_text(yaml.safe_dump_all(documents or (SERVICE, DEPLOYMENT)))
        return path

    def flags(self, *more: str) -> list[str]:
        source = ["--backend", "simulated", "--workload", str(self.workload()), "--engine-port", str(self.port)]
        return ["profile-sweep", *source, *SHAPE, *FEW_POINTS, *PROMISE, "--output-dir", str(self.output), *more]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither a cluster of this machine nor handlers of another test; short windows, and no complaint of a busy machine."""
    for name in ("KUBERNETES_SERVICE_HOST", "POD_NAME", "POD_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(measure, "LATE_MS", 1000.0)
    monkeypatch.setattr(measure, "UNSTEADY", 1000.0)
    monkeypatch.setattr(measure, "WINDOW_S", 0.1)
    monkeypatch.setattr(measure, "WINDOW_STEPS", 12)
    monkeypatch.setattr(profile_sweep_run, "pictures", lambda _: {})
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    return tmp_path / "none"


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.splitlines()[-1]


# without a cluster


def test_a_dry_run_needs_no_cluster(no_cluster: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = Place(tmp_path, 8000)
    flags = place.flags("--dry-run", "--json", "--publish-configmap", "data")
    flags[flags.index("--max-num-gpus") + 1] = "2"
    assert run(flags) == 0
    written = [Path(name) for name in json.loads(capsys.readouterr().out)["written"]]
    assert [path.relative_to(place.output) for path in written] == [Path("engine_1gpus_TP1/config.yaml"), Path("engine_2gpus_TP2/config.yaml")]
    service, deployment = yaml.safe_load_all(written[1].read_text())
    assert service["metadata"]["name"] == "engine-2gpus-tp2"
    assert deployment["spec"]["template"]["spec"]["containers"][0]["args"] == ["--tp=2"]


def test_a_sweep_needs_one(no_cluster: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Place(tmp_path, 8000).flags()) == 2
    line = last_line(capsys)
    assert line.startswith("error: no cluster to talk to: ")
    assert line.endswith(f"there is no kubeconfig {no_cluster}; run in a pod, or name the file with KUBECONFIG")


def test_a_workload_that_is_the_same_for_every_size_is_refused(no_cluster: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = Place(tmp_path, 8000)
    flags = place.flags("--dry-run", "--max-num-gpus", "2")
    place.workload(SERVICE, DEPLOYMENT | {"spec": {}})
    assert run(flags) == 2
    assert last_line(capsys).startswith("error: --workload starts the same engine for TP1 and TP2; put {tp} where its GPU count goes")


# in one


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ApiStandIn]:
    with api_stand_in() as stand_in:
        kubeconfig = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": stand_in.url}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "here"}}],
            "current-context": "x",
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        yield stand_in


@pytest.fixture
def place(cluster: ApiStandIn, tmp_path: Path) -> Iterator[Place]:
    """An engine that answers while its Deployment is there: pods come and go with it, and its Service gets this machine's address."""
    write_profile_json(small_profile(), tmp_path / PROFILE_JSON)
    command = [sys.executable, "-m", "sla_planner", "engine-sim", "--mode", "agg", "--profile", str(tmp_path), "--port", "0"]
    stop = threading.Event()

    def controller() -> None:
        while not stop.is_set():
            with cluster.changed:
                for name in cluster.names("services"):
                    if cluster.get("services", name)["spec"].get("clusterIP") is None:  # type: ignore[index]
                        cluster.change("services", name, lambda service: service["spec"].update(clusterIP="127.0.0.1"))
                pods = {f"{name}-x": name for name in cluster.names("deployments")}
                for gone in set(cluster.names("pods")) - {*pods, "sweep-pod"}:
                    cluster.drop("pods", gone)
                for pod in set(pods) - set(cluster.names("pods")):
                    cluster.put(_pod(pod, {"slaplanner.io/engine": pods[pod]}))
                    cluster.logs[pod] = "the engine's own words\n"
                cluster.changed.wait(0.05)

    playing = threading.Thread(target=controller, daemon=True)
    playing.start()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as engine:
        assert engine.stdout is not None
        yield Place(tmp_path, int(engine.stdout.readline().split(" ")[3].rsplit(":", 1)[1].strip("/\n")))
        engine.kill()
    stop.set()
    playing.join()


def _pod(name: str, labels: dict[str, str]) -> dict[str, object]:
    status = {"name": "main", "state": {"running": {}}, "restartCount": 0, "ready": True}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [{"name": "main"}]},
        "status": {"phase": "Running", "containerStatuses": [status], "conditions": [{"type": "Ready", "status": "True"}]},
    }


def as_mounted(folder: Path, data: dict[str, str]) -> Path:
    """The way a kubelet mounts a ConfigMap."""
    real = folder / "..2026_01_01"
    real.mkdir(parents=True)
    for name, text in data.items():
        (real / name).write_text(text)
        (folder / name).symlink_to(Path("..data") / name)
    (folder / "..data").symlink_to(real.name)
    return folder


@pytest.mark.e2e
def test_a_sweep_leaves_its_results_in_the_folder_and_in_the_cluster_and_nothing_else(
    cluster: ApiStandIn, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    word = tmp_path / "termination-log"
    word.touch()
    monkeypatch.setenv("TERMINATION_LOG", str(word))
    monkeypatch.setenv("POD_NAME", "sweep-pod")
    cluster.put(_pod("sweep-pod", {}))
    assert run(place.flags("--publish-configmap", "planner-profile-data")) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-2].startswith("Suggested prefill TP:1 (TTFT ")
    assert word.read_text().splitlines()[:2] == out.splitlines()[-2:]

    made = [(call.resource, call.body["metadata"]) for call in cluster.calls if call.verb == "create"]
    assert {resource for resource, _ in made} == {"configmaps", "services", "deployments"}
    assert {metadata["labels"]["app.kubernetes.io/component"] for _, metadata in made} == {"profile-sweep"}
    assert made[0][1]["ownerReferences"][0]["name"] == "sweep-pod"
    assert cluster.names("services") == cluster.names("deployments") == []
    assert cluster.names("configmaps") == ["planner-profile-data"]

    published = cluster.get("configmaps", "planner-profile-data")
    assert published is not None
    twins = {name: text for name, text in published["data"].items() if name != PROFILE_JSON}
    whole, picked = (read_profile(as_mounted(tmp_path / name, data)) for name, data in (("whole", published["data"]), ("twins", twins)))
    assert whole == read_profile(place.output)
    assert picked.picked_decode.points == whole.picked_decode.points
    assert whole.provenance.model == published["metadata"]["annotations"]["slaplanner.io/model"] == "simulated"
    assert published["metadata"]["annotations"]["slaplanner.io/feasible"] == "true"
    assert published["metadata"]["labels"]["slaplanner.io/run-id"] == made[0][1]["labels"]["slaplanner.io/run-id"]

    assert (place.output / "logs" / "engine-tp1.log").read_text().endswith("the engine's own words\n")
    assert (place.output / "engine_1gpus_TP1" / "config.yaml").is_file()


@pytest.mark.e2e
def test_a_promise_that_cannot_be_kept_is_published_as_that(
    cluster: ApiStandIn, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    word = tmp_path / "termination-log"
    word.touch()
    monkeypatch.setenv("TERMINATION_LOG", str(word))
    assert run(place.flags("--publish-configmap", "data", "--ttft", "1", "--itl", "1")) == 3
    last = last_line(capsys)
    nearest = r"the nearest is [\d.,]+ ms with TP1 \(.+?\)"
    assert re.match(rf"error: no mapping keeps TTFT 1 ms .+: {nearest}; nor ITL 1 ms: {nearest}; set --ttft [\d.]+", last), last
    assert word.read_text() == last.removeprefix("error: ")
    published = cluster.get("configmaps", "data")
    assert published is not None
    assert published["metadata"]["annotations"]["slaplanner.io/feasible"] == "false"


class PairOfOne:
    """In the place of both picks, the engine that does both."""

    def __init__(self, launcher: Any) -> None:
        self.identity, self.engine = launcher.identity, launcher.engine

    def manifest(self, deployment: Deployment) -> tuple[str, str]:
        return "pair_TP1_TP1/config.yaml", f"of: {deployment.mapping.label}\n"


@pytest.mark.e2e
def test_what_was_deployed_to_verify_the_pick_is_in_the_folder_too(cluster: ApiStandIn, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile_sweep_run, "pair_launcher", lambda _config, source, _prefill, _decode: PairOfOne(source.launcher))
    assert run(place.flags("--verify")) == 0
    assert (place.output / "pair_TP1_TP1" / "config.yaml").read_text() == "of: TP1\n"
    assert {file.name for file in (place.output / "logs").iterdir()} == {"engine-tp1.log", "engine-tp1-2.log"}


@pytest.mark.e2e
def test_what_cannot_be_published_is_told_in_the_end_and_the_results_are_there(
    cluster: ApiStandIn, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "data"}, "data": {}})
    cluster.deny("update", "configmaps")
    assert run(place.flags("--publish-configmap", "data")) == 2
    out, err = capsys.readouterr()
    assert "Suggested decode TP:1" in out
    assert err.splitlines()[-1].endswith("may not update configmaps in namespace here; grant it in the Role of that service account")
    assert read_profile(place.output).selected_decode == ParallelMapping()
    assert run(place.flags("--publish-configmap", "data")) == 2  # nothing is measured again
    assert "found again" in capsys.readouterr().err


@pytest.mark.e2e
def test_another_sweep_in_the_same_folder_is_refused_before_the_cluster_is_touched(
    cluster: ApiStandIn, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    from sla_planner.store.point_files import PointFiles

    with PointFiles(place.output / "points"):
        assert run(place.flags()) == 2
    assert f"another sweep (pid {os.getpid()} on" in last_line(capsys)
    assert not cluster.writes()
