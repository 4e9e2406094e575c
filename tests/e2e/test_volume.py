"""Files onto a volume and back, through access pods on a real cluster: what arrives, where the pod goes, and that nothing of it stays."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import awaited

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
ROLE = ROOT / "manifests/components/volume-access/objects/role.yaml"
OURS = "--selector=slaplanner.io/role=volume-access"
PATIENCE_S = 400.0
LARGE_BYTES = 60_000_000  # larger than all buffers between here and there

Document = dict[str, Any]


class Command:
    """`sla-planner STAGE` in one namespace, as a user on this machine runs it."""

    def __init__(self, namespace: Any, image: str) -> None:
        self.namespace, self.image = namespace, image
        self.environment = os.environ | {"SLA_PLANNER_LOG_FORMAT": "human"}

    def start(self, stage: str, *arguments: object) -> subprocess.Popen[str]:
        line = [sys.executable, "-m", "sla_planner", stage, "--namespace", self.namespace.name, "--access-image", self.image, *map(str, arguments)]
        return subprocess.Popen(line, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, stage: str, *arguments: object) -> str:
        """What it printed and said; fails when it did."""
        process = self.start(stage, *arguments)
        out, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, err
        return out + err

    def refused(self, stage: str, *arguments: object) -> tuple[int, str]:
        """Exit code and the error line."""
        process = self.start(stage, *arguments)
        _, err = process.communicate(timeout=PATIENCE_S)
        return process.returncode, err.splitlines()[-1]

    def left(self) -> list[str]:
        return self.namespace.kubectl("get", "jobs,pods", OURS, "--output=name").split()


def claim(name: str = "dynamo-pvc", **more: Any) -> Document:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, **more}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def holder(image: str, script: str) -> Document:
    """A pod that has the volume and does something with it."""
    container = {
        "name": "main",
        "image": image,
        "command": ["python", "-c", script],
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "dynamo-pvc"}}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "holder"}, "spec": spec}


@pytest.fixture
def command(namespace: Any, image: Callable[[str], str]) -> Command:
    namespace.apply(claim())
    return Command(namespace, image("volume-tools"))


@pytest.fixture(scope="module")
def orphan(module_namespace: Any, image: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Command:
    """A client that was killed in the middle; other tests run while its pod finds that out."""
    module_namespace.apply(claim())
    command, here = Command(module_namespace, image("volume-tools")), tmp_path_factory.mktemp("orphan")
    source = here / "large"
    source.write_bytes(os.urandom(LARGE_BYTES))
    command.run("inject-config", "--src", source, "--any-file", "--dest", "/data/results/large")
    process = begun(command, here / "out")
    process.kill()
    process.communicate()
    assert len(command.left()) == 2
    return command


@pytest.fixture(autouse=True)
def _killed_early(orphan: Command) -> None:
    """So that its minutes are over when the last test looks."""


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / "large"
    file.write_bytes(os.urandom(LARGE_BYTES))
    yield file
    file.unlink()


def begun(command: Command, output: Path) -> subprocess.Popen[str]:
    """A download of /data/results/large that has begun, and stands still."""
    process = command.start("download-results", "--folder", "/data/results", "--output-dir", output)
    deadline = time.monotonic() + PATIENCE_S
    while not (output / ".large.part").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)
    return process


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_manifest_gets_there_and_comes_back(command: Command, tmp_path: Path) -> None:
    said = command.run("inject-config", "--backend", "vllm")
    assert "/data/configs/disagg.yaml: written (DynamoGraphDeployment" in said
    assert command.left() == []

    assert "already there, nothing to do" in command.run("inject-config", "--backend", "vllm")

    command.run("download-results", "--folder", "/data/configs", "--output-dir", tmp_path / "out")
    assert (tmp_path / "out/disagg.yaml").read_bytes() == (ROOT / "scripts/sla_planner/graphs/vllm/disagg.yaml").read_bytes()
    assert command.left() == []


def test_much_goes_over_one_connection(command: Command, large: Path, tmp_path: Path) -> None:
    """Written and read at once, over TLS: nothing may break on the way."""
    said = command.run("inject-config", "--src", large, "--any-file", "--dest", "/data/results/large")
    assert "connection to the volume" not in said

    said = command.run("download-results", "--folder", "/data/results", "--output-dir", tmp_path / "out")
    assert "connection to the volume" not in said
    assert sha256(tmp_path / "out/large") == sha256(large)


def test_it_goes_where_the_volume_is_in_use(command: Command, python_image: str, tmp_path: Path) -> None:
    script = (
        "import pathlib, time; pathlib.Path('/data/results').mkdir(); pathlib.Path('/data/results/a').write_text('from the holder'); time.sleep(3600)"
    )
    command.namespace.apply(holder(python_image, script))
    command.namespace.wait("pod/holder", "condition=Ready")
    node = command.namespace.get("pod/holder")["spec"]["nodeName"]

    said = command.run("download-results", "--folder", "/data/results", "--output-dir", tmp_path / "out")

    assert f"Pod holder has the volume on node {node}; the access pod goes there" in said
    assert (tmp_path / "out/a").read_text() == "from the holder"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_download_leaves_nothing_and_is_gone_on_with(command: Command, large: Path, tmp_path: Path, number: signal.Signals) -> None:
    command.run("inject-config", "--src", large, "--any-file", "--dest", "/data/results/large")
    part = tmp_path / "out/.large.part"
    process = begun(command, tmp_path / "out")
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, part.exists(), (tmp_path / "out/large").exists()) == (75, True, False), err
    assert command.left() == []

    command.run("download-results", "--folder", "/data/results", "--output-dir", tmp_path / "out")
    assert sha256(tmp_path / "out/large") == sha256(large)


def test_the_shipped_rights_are_enough_and_each_is_needed(command: Command, tmp_path: Path) -> None:
    space = command.namespace
    space.apply(ROLE.read_text())
    space.kubectl("create", "serviceaccount", "jo")
    space.kubectl("create", "rolebinding", "jo", "--role=volume-access", f"--serviceaccount={space.name}:jo")
    file = tmp_path / "kubeconfig"
    file.write_text(space.kubectl("config", "view", "--raw", "--minify", "--flatten"))
    file.chmod(0o600)
    for change in (["set-credentials", "jo", f"--token={space.kubectl('create', 'token', 'jo').strip()}"], ["set-context", "--current", "--user=jo"]):
        subprocess.run(["kubectl", f"--kubeconfig={file}", "config", *change], check=True, capture_output=True)
    command.environment = command.environment | {"KUBECONFIG": str(file)}
    command.run("inject-config", "--backend", "vllm")

    rules = space.get("role/volume-access")["rules"]
    for resource, said in {
        "persistentvolumeclaims": f"error: system:serviceaccount:{space.name}:jo may not get persistentvolumeclaims in namespace {space.name}; ",
        "jobs": f"error: system:serviceaccount:{space.name}:jo may not create jobs in namespace {space.name}; ",
        "pods/exec": 'cannot get resource "pods/exec" in API group "" in the namespace ',
    }.items():
        less = [rule for rule in rules if resource not in rule["resources"]]
        space.apply({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "volume-access"}, "rules": less})
        code, line = command.refused("inject-config", "--backend", "vllm")
        assert code == 2
        assert said in line
    assert command.left() == []


def test_an_image_that_is_not_there_is_told_in_seconds(command: Command) -> None:
    command.image = "localhost/no-such-image:1"
    process = command.start("inject-config", "--backend", "vllm")
    assert process.stderr is not None
    try:
        told = next(line for line in process.stderr if "The access pod waits" in line or line.startswith("error: "))
        assert "the image of volume, localhost/no-such-image:1, cannot be pulled: " in told
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_S)
    assert command.left() == []


def test_what_there_is_no_room_for(command: Command, tmp_path: Path, control_plane: Any) -> None:
    command.namespace.apply(claim("little", storageClassName="small", resources={"requests": {"storage": "1Mi"}}))
    file = tmp_path / "file"
    file.write_bytes(bytes(2_000_000))
    code, line = command.refused("inject-config", "--src", file, "--any-file", "--dest", "/data/file", "--pvc", "little")
    assert (code, "the volume has no room for /data/file: " in line) == (2, True)

    assert command.refused("download-results", "--pvc", "little", "--folder", "/data")[1] == (
        "error: /data holds no files; has the sweep finished? see kubectl get jobs"
    )


def test_an_api_server_that_comes_back_finds_the_transfer_going_on(command: Command, large: Path, tmp_path: Path, control_plane: Any) -> None:
    command.run("inject-config", "--src", large, "--any-file", "--dest", "/data/results/large")
    process = begun(command, tmp_path / "out")
    control_plane.stop("apiserver")
    process.send_signal(signal.SIGCONT)
    control_plane.start("apiserver")
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    assert "The connection to the volume is lost (" in err
    assert sha256(tmp_path / "out/large") == sha256(large)
    assert command.left() == []


def test_a_client_that_was_killed_leaves_nothing_for_long(orphan: Command) -> None:
    (job,) = [name for name in orphan.left() if name.startswith("job")] or [""]
    if job:
        orphan.namespace.wait(job, "delete", timeout_s=PATIENCE_S)
    awaited(lambda: not orphan.left(), orphan.left)
