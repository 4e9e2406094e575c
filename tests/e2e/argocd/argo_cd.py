"""Argo CD as three processes on this machine against the cluster of KUBECONFIG: redis, the repository server, the application controller.

They need no image, no rights but those of KUBECONFIG's user, and no way out to a network: Git is read from this machine's disk.
Settings, projects and Applications lie in one namespace; another Argo CD in the same cluster looks after other ones. The custom resource definitions
are cluster-wide: they are installed where there are none, and then removed again.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tests.conftest import free_ports
from tests.e2e.conftest import Namespace

BUILD = Path(__file__).resolve().parent / "build.py"
FROM_DEBIAN = {"redis-server": "redis-server", "git": "git"}  # program: package
DEFINITIONS = "customresourcedefinition/applications.argoproj.io"
ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")  # however this process ends
RESYNC_S = 3  # 120 in the world: how often the cluster is compared with Git though nothing has changed
START_TIMEOUT_S = 200.0


class Missing(Exception):
    """Something that must be installed or built first; one line says what and how."""


class ArgoCd:
    """Use it as a context: on leaving, everything that it has made in the cluster is gone but what Applications have installed."""

    def __init__(self, namespace: Namespace, folder: Path) -> None:
        """`namespace`: an existing one, for Argo CD alone. `folder`: an empty one, for logs and scratch. Raises Missing."""
        self._programs = _programs()
        self._namespace = namespace
        self._folder = folder
        self.logs = folder / "logs"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._own_definitions = False

    def __enter__(self) -> ArgoCd:
        try:
            self._install()
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop()

    def ended(self) -> str:
        """Which part is not running any more, and the end of its log; empty while all run."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                return f"{name} ended with status {process.returncode}:\n" + "\n".join(self._log(name).read_text().splitlines()[-5:])
        return ""

    def _install(self) -> None:
        """What upstream's install.yaml brings, less its pods; its API server, which is not needed, would have added the key and the project."""
        kubectl = self._namespace.kubectl
        if not kubectl("get", DEFINITIONS, "--ignore-not-found", "-o", "name"):
            self._own_definitions = True
            kubectl("apply", "--server-side", "-k", str(self._programs / "crds"))
            for name in ("applications", "applicationsets", "appprojects"):
                self._namespace.wait(f"customresourcedefinition/{name}.argoproj.io", "condition=Established")
        kubectl("apply", "-k", str(self._programs / "config"))
        kubectl("patch", "secret", "argocd-secret", "--patch", json.dumps({"stringData": {"server.secretkey": secrets.token_hex()}}))
        everything = {
            "sourceRepos": ["*"],
            "destinations": [{"server": "*", "namespace": "*"}],
            "clusterResourceWhitelist": [{"group": "*", "kind": "*"}],
        }
        self._namespace.apply({"apiVersion": "argoproj.io/v1alpha1", "kind": "AppProject", "metadata": {"name": "default"}, "spec": everything})

    def _start(self) -> None:
        self.logs.mkdir()
        (self._folder / "tmp").mkdir()
        redis, repositories, repositories_metrics, controller_metrics = free_ports(4)
        self._run("redis", "redis-server", "--bind", "127.0.0.1", "--port", str(redis), "--save", "", "--dir", str(self._folder))
        self._await("redis", lambda: _accepts(redis))
        address = ["--redis", f"127.0.0.1:{redis}"]
        command = ["argocd-repo-server", *address, "--disable-tls", "--address", "127.0.0.1", "--port", str(repositories)]
        self._run("repo-server", *command, "--metrics-address", "127.0.0.1", "--metrics-port", str(repositories_metrics))
        self._await("repo-server", lambda: _answers(f"http://127.0.0.1:{repositories_metrics}/healthz"))
        # The page of its metrics is on all addresses, which cannot be chosen.
        command = ["argocd-application-controller", *address, "--metrics-port", str(controller_metrics), "--namespace", self._namespace.name]
        command += ["--repo-server", f"127.0.0.1:{repositories}", "--repo-server-plaintext"]
        self._run("controller", *command, "--app-resync", str(RESYNC_S), "--app-resync-jitter", "0")
        self._await("controller", lambda: _answers(f"http://127.0.0.1:{controller_metrics}/healthz"))

    def _stop(self) -> None:
        for process in reversed(self._processes.values()):
            process.kill()
            process.wait()
        if self._own_definitions:
            self._namespace.kubectl("delete", "--ignore-not-found", "-k", str(self._programs / "crds"))

    def _run(self, name: str, program: str, *arguments: str) -> None:
        built = self._programs / program
        command = [*ENDS_WITH_US, str(built) if built.exists() else program, *arguments]
        with self._log(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(command, env=self._environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ARGOCD_", "GIT_"))}
        return {
            **kept,
            "PATH": f"{self._programs}{os.pathsep}{kept['PATH']}",  # its kustomize
            "HOME": str(self._folder),
            "TMPDIR": str(self._folder / "tmp"),
            "ARGOCD_FAKE_IN_CLUSTER": "true",  # https://kubernetes.default.svc, the cluster that it runs in, is the one of KUBECONFIG
            "ARGOCD_GPG_ENABLED": "false",
            "ARGOCD_TLS_DATA_PATH": str(self._folder / "tls"),
            "ARGOCD_SSH_DATA_PATH": str(self._folder / "ssh"),
            "ARGOCD_PLUGINSOCKFILEPATH": str(self._folder / "plugins"),
        }

    def _await(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not ready():
            if self.ended() or time.monotonic() > deadline:
                raise RuntimeError(self.ended() or f"{name} does not answer after {START_TIMEOUT_S:.0f} s, see {self._log(name)}")
            time.sleep(0.05)

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"


def _programs() -> Path:
    """The folder that build.py has filled."""
    for program, package in FROM_DEBIAN.items():
        if shutil.which(program) is None:
            raise Missing(f"no {program} on PATH: tests/e2e/kubernetes/cluster install brings it (Debian: {package})")
    done = subprocess.run([str(BUILD), "--cached"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Missing(done.stderr.strip())
    return Path(done.stdout.strip())


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
        return True
    except OSError:
        return False


def _answers(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=2):
            return True
    except OSError:
        return False
