"""What tests on a real cluster share: any cluster that KUBECONFIG names and whose user may do everything; kubectl on PATH.

Every test gets a namespace of its own, in which Pod Security enforces `restricted`, and whose pods are gone before the next test starts: the GPUs
that they had are free again. Nothing sleeps: `wait` and `until` watch. When a test fails, the objects, events and logs of its namespace are kept in
$E2E_ARTIFACTS (default: ./e2e-artifacts), in a folder named after the test.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PATIENCE_S = 300.0  # for what takes seconds, on a machine that is busy with other shards
RETRY_S = 0.2  # between watches that the API server ends at once, as it does while it starts

Document = dict[str, Any]


def awaited(holds: Callable[[], Any], what: Callable[[], object], timeout_s: float = PATIENCE_S) -> Any:
    """The first true answer of `holds`; `what`: in words, why there is none."""
    give_up_s = time.monotonic() + timeout_s
    while not (answer := holds()):
        assert time.monotonic() < give_up_s, what()
        time.sleep(RETRY_S)
    return answer


class Namespace:
    """One namespace and kubectl in it. Whatever kubectl refuses is raised as a RuntimeError with kubectl's own words."""

    def __init__(self, name: str) -> None:
        self.name = name

    def kubectl(self, *arguments: str, input: str | None = None, timeout_s: float = PATIENCE_S) -> str:
        """Standard output of `kubectl ARGUMENTS`."""
        done = self._run(arguments, input, timeout_s)
        if done.returncode != 0:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {done.stderr.strip() or f'exit status {done.returncode}'}")
        return done.stdout

    def refused(self, *arguments: str, input: str | None = None, timeout_s: float = PATIENCE_S) -> str:
        """Standard error of a kubectl call that must fail."""
        done = self._run(arguments, input, timeout_s)
        assert done.returncode != 0, f"kubectl {' '.join(arguments)} was not refused: {done.stdout}"
        return done.stderr

    def apply(self, *manifests: Document | str) -> None:
        """Applies objects, or YAML text."""
        for manifest in manifests:
            self.kubectl("apply", "-f", "-", input=manifest if isinstance(manifest, str) else json.dumps(manifest))

    def get(self, resource: str) -> Document:
        """An object by TYPE/NAME, or a list by TYPE."""
        document: Document = json.loads(self.kubectl("get", resource, "-o", "json"))
        return document

    def wait(self, resource: str, condition: str, timeout_s: float = PATIENCE_S) -> None:
        """`kubectl wait --for=CONDITION TYPE/NAME`, for an object that need not exist yet."""
        if condition != "delete":
            self._wait(resource, "create", timeout_s)
        self._wait(resource, condition, timeout_s)

    def until(self, resource: str, holds: Callable[[Document], Any], timeout_s: float = PATIENCE_S) -> Document:
        """The object TYPE/NAME as soon as `holds` is true of it; it need not exist yet, and the API server may go away meanwhile."""
        deadline = time.monotonic() + timeout_s
        last: Document | None = None
        while time.monotonic() < deadline:
            for last in self._watch(resource, deadline - time.monotonic()):
                if holds(last):
                    return last
            time.sleep(RETRY_S)
        state = "it never existed" if last is None else json.dumps(last.get("status", last), indent=1)
        raise AssertionError(f"{resource} did not get there in {timeout_s:.0f} s: {state}")

    def logs(self, resource: str, *options: str) -> str:
        return self.kubectl("logs", resource, *options)

    def unreachable(self) -> str:
        """Why the API server does not answer; empty when it does."""
        done = self._run(("get", "--raw", "/readyz", "--request-timeout=20s"), None, PATIENCE_S)
        return done.stderr.strip() if done.returncode != 0 else ""

    def delete(self) -> None:
        """Returns when all pods are gone, after a second of grace; the rest, which reserves nothing, follows by itself."""
        self.kubectl("delete", "namespace", self.name, "--wait=false")  # from now on nothing new is created in it
        self.kubectl("delete", "pods", "--all", "--grace-period=1")

    def dump(self, folder: Path) -> None:
        """Objects (but secrets), events, and logs of every container, as far as they can be had."""
        folder.mkdir(parents=True, exist_ok=True)
        kinds = self._output("api-resources", "--verbs=list", "--namespaced", "-o", "name").split()
        wanted = ",".join(kind for kind in kinds if kind not in ("secrets", "events", "events.events.k8s.io"))
        (folder / "objects.yaml").write_text(self._output("get", wanted, "--ignore-not-found", "-o", "yaml"))
        (folder / "events.txt").write_text(self._output("get", "events", "--sort-by=.metadata.creationTimestamp"))
        (folder / "pods.txt").write_text(self._output("describe", "pods"))
        for pod in self._output("get", "pods", "-o", "name").split():
            for which in ("", "--previous"):
                text = self._output("logs", pod, "--all-containers", "--prefix", *filter(None, [which]))
                (folder / f"{pod.replace('/', '.')}{which.replace('--', '.')}.log").write_text(text)

    def _wait(self, resource: str, condition: str, timeout_s: float) -> None:
        while True:
            try:
                self.kubectl("wait", f"--for={condition}", resource, f"--timeout={timeout_s:.0f}s", timeout_s=timeout_s + PATIENCE_S)
                return
            except RuntimeError as error:  # of a definition that is a moment old: `conditions` is null, which kubectl does not take for "none"
                if "accessor error: <nil>" not in str(error):
                    raise
            time.sleep(RETRY_S)

    def _watch(self, resource: str, timeout_s: float) -> Iterator[Document]:
        """The object now and after every change, until the watch ends or the time is up."""
        kind, _, name = resource.partition("/")
        command = [*self._command(), "get", kind, f"--field-selector=metadata.name={name}", "-o", "json", "--watch"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        alarm = threading.Timer(timeout_s, process.kill)
        alarm.start()
        try:
            assert process.stdout is not None
            lines: list[str] = []
            for line in process.stdout:
                lines.append(line)
                if line == "}\n":  # kubectl indents whatever is inside an object
                    yield json.loads("".join(lines))
                    lines = []
        finally:
            alarm.cancel()
            process.kill()
            process.communicate()

    def _output(self, *arguments: str) -> str:
        """For a dump: what there is, be it an error."""
        try:
            done = self._run(arguments, None, PATIENCE_S)
        except subprocess.TimeoutExpired as late:
            return str(late)
        return done.stdout or done.stderr

    def _run(self, arguments: tuple[str, ...], input: str | None, timeout_s: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self._command(), *arguments], input=input, capture_output=True, text=True, timeout=timeout_s, check=False)

    def _command(self) -> list[str]:
        return ["kubectl", f"--namespace={self.name}"]


class ControlPlane:
    """Parts of a cluster that tests/e2e/kubernetes/cluster runs, to be stopped (killed) and started again on the same data."""

    def stop(self, part: str) -> None:
        self._order("stop", part)

    def start(self, part: str) -> None:
        """Returns when the part works again."""
        self._order("start", part)

    def stopped(self) -> list[str]:
        states = dict(line.split(": ") for line in self._order("status").splitlines())
        return [part for part, state in states.items() if state == "stopped"]

    def _order(self, *arguments: str) -> str:
        done = subprocess.run(["cluster", *arguments], capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False)
        if done.returncode != 0:
            raise RuntimeError(done.stderr.strip())
        return done.stdout


@pytest.fixture(scope="session")
def cluster() -> Namespace:
    """kubectl in the cluster at large (in namespace `default`); fails where no cluster answers."""
    if shutil.which("kubectl") is None:
        pytest.fail("no kubectl on PATH: make venv installs it, source .venv/bin/activate", pytrace=False)
    if not os.environ.get("KUBECONFIG"):
        pytest.fail("KUBECONFIG is not set: run these tests in a cluster, tests/e2e/README.md says how", pytrace=False)
    everything = Namespace("default")
    if said := everything.unreachable():
        pytest.fail(f"the cluster of KUBECONFIG={os.environ['KUBECONFIG']} does not answer: {said}", pytrace=False)
    return everything


@pytest.fixture
def namespace(cluster: Namespace, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """For one test alone."""
    with _fresh_namespace(cluster, request) as fresh:
        yield fresh


@pytest.fixture(scope="module")
def module_namespace(cluster: Namespace, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """For all tests of a file, where what it holds takes long to come up."""
    with _fresh_namespace(cluster, request) as fresh:
        yield fresh


@pytest.fixture
def kubectl(namespace: Namespace) -> Callable[..., str]:
    """`kubectl(*arguments, input=None) -> str` in the test's namespace."""
    return namespace.kubectl


@pytest.fixture
def control_plane(cluster: Namespace) -> Iterator[ControlPlane]:
    """To make parts of the control plane fail; all run again afterwards. Only for a cluster of ours, that no other test uses meanwhile."""
    plane = ControlPlane()
    if shutil.which("cluster") is None or not os.environ.get("KUBECONFIG", "").startswith("/run/sla-planner-e2e/"):
        pytest.fail("only a cluster started by tests/e2e/kubernetes/cluster can be made to fail", pytrace=False)
    yield plane
    for part in plane.stopped():
        plane.start(part)


@pytest.fixture(scope="session")
def python_image() -> str:
    """An image that the cluster has or can pull, with `python` and `sh`, for pods that test the cluster itself."""
    return os.environ.get("E2E_PYTHON_IMAGE", "localhost/python:base")


@contextlib.contextmanager
def _fresh_namespace(cluster: Namespace, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    short = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower().removesuffix(".py")).strip("-")[:40].rstrip("-")
    fresh = Namespace(f"{short}-{secrets.token_hex(3)}")
    enforced = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": fresh.name, "labels": enforced}})
    fresh.wait("serviceaccount/default", "create")  # pods are refused before it exists
    failed_before = request.session.testsfailed
    yield fresh
    if request.session.testsfailed > failed_before:
        folder = re.sub(r"[^A-Za-z0-9_.-]+", "-", request.node.nodeid)
        fresh.dump(Path(os.environ.get("E2E_ARTIFACTS", "e2e-artifacts")) / folder)
    fresh.delete()


@pytest.fixture(scope="session")
def image() -> Callable[[str], str]:
    """`image("planner")`: the reference of one of our images in this cluster."""
    prefix, tag = os.environ.get("E2E_IMAGE_PREFIX", "localhost/sla-planner"), os.environ.get("E2E_IMAGE_TAG", "e2e")
    return lambda name: f"{prefix}/{name}:{tag}"


@pytest.fixture(scope="module")
def engine_args() -> str:
    """Of every simulated engine that the operator's stand-in starts; a file of tests may have a fixture of this name."""
    return ""


@pytest.fixture(scope="module")
def engine_profile() -> Path | None:
    """profile.json that they follow, if not the sample; a file of tests may have a fixture of this name, too."""
    return None


@pytest.fixture(scope="module")
def dynamo(
    cluster: Namespace, image: Callable[[str], str], engine_args: str, engine_profile: Path | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Dynamo's operator, as far as tests/e2e/operator stands in for it; yields its log. Fails where a real one has its definitions in the cluster."""
    if "dynamographdeployments" in cluster.kubectl("get", "crd", "--output=name", "--selector=slaplanner.io/stand-in!=true"):
        pytest.fail("the cluster has Dynamo's resource definitions already; these tests bring a stand-in", pytrace=False)
    log = tmp_path_factory.mktemp("operator") / "log"
    operator = Path(__file__).parent / "operator"
    command = [sys.executable, str(operator), "--image", image("engine-sim"), f"--engine-args={engine_args}"]
    command += [f"--profile={engine_profile}"] if engine_profile else []
    with log.open("w") as sink:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=sink, text=True)
        assert process.stdout is not None
        try:
            if process.stdout.readline().strip() != "operator stand-in ready":
                pytest.fail(f"the operator's stand-in did not start:\n{log.read_text()}", pytrace=False)
            yield log
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
    cluster.kubectl("delete", "crd", "--selector=slaplanner.io/stand-in=true")
