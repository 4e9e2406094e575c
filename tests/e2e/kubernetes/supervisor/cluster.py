"""Brings the whole cluster up in the namespaces of this process, and runs a command in it or keeps it."""

from __future__ import annotations

import dataclasses
import queue
import shutil
import signal
import subprocess
import threading
from pathlib import Path

from supervisor import configuration, control, node, storage
from supervisor.api import Api, Document
from supervisor.errors import ClusterError
from supervisor.layout import LOGS, NODE, environment
from supervisor.parts import API_SERVER, CLIENTS, STORES, parts
from supervisor.processes import Processes

NODE_PATH = f"/api/v1/nodes/{NODE}"
GPU = "nvidia.com/gpu"
UP_TIMEOUT_S = 600.0


@dataclasses.dataclass(frozen=True)
class Wish:
    """What the cluster shall be made of and have. `cgroup`: the control group that all its containers lie under."""

    programs: Path
    pause_image: Path
    cgroup: str
    gpus: int
    gpu_product: str

    @property
    def node_labels(self) -> dict[str, str]:
        if self.gpus == 0:
            return {}
        return {f"{GPU}.present": "true", f"{GPU}.count": str(self.gpus), f"{GPU}.product": self.gpu_product}


class Cluster:
    """One cluster, on one node."""

    def __init__(self, wish: Wish) -> None:
        self._wish = wish
        node.network()
        node.name_server()
        configuration.write_all(wish.cgroup)
        self._outcomes: queue.SimpleQueue[int | str] = queue.SimpleQueue()  # a command's exit status, or why the cluster broke
        self._processes = Processes(parts(wish.programs, wish.node_labels), self._outcomes.put)

    def bring_up(self, archives: list[Path]) -> None:
        """Returns when a pod of an image in `archives` would run. Raises ClusterError."""

        def steps() -> None:
            try:
                self._start_all(archives)
                self._outcomes.put(0)
            except ClusterError as error:
                self._outcomes.put(str(error))
            except Exception as error:
                self._outcomes.put(f"it did not come up: {error!r}")
                raise

        threading.Thread(target=steps, daemon=True).start()
        self._outcome(timeout_s=UP_TIMEOUT_S)

    def _start_all(self, archives: list[Path]) -> None:
        for name in STORES:
            self._processes.launch(name)
        self._processes.await_ready("etcd")
        self._processes.launch(API_SERVER)
        node.load([self._wish.pause_image, *archives])
        self._processes.await_ready(API_SERVER)
        for name in CLIENTS:
            self._processes.launch(name)
        api = Api()
        for storage_class in storage.storage_classes():
            api.create("/apis/storage.k8s.io/v1/storageclasses", storage_class)
        api.until("/api/v1/namespaces/default/serviceaccounts", "default", lambda _account: True)
        self._give_gpus(api, since="")
        for name in CLIENTS:
            self._processes.await_ready(name)
        control.serve({"stop": self._stop, "start": self._start, "status": self._status})

    def run(self, command: list[str]) -> int:
        """Exit status of `command`. Raises ClusterError when it cannot be started, or a part of the cluster ends meanwhile."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the command, too, and that one decides
        try:
            process = subprocess.Popen(command, env=environment(), preexec_fn=_heed_interrupts)
        except OSError as error:
            raise ClusterError(f"{command[0]}: {error.strerror}") from error
        threading.Thread(target=lambda: self._outcomes.put(process.wait()), daemon=True).start()
        outcome = self._outcome()
        return outcome if outcome >= 0 else 128 - outcome

    def keep(self) -> None:
        """Does not return; raises ClusterError when a part of the cluster ends."""
        self._outcome()

    def _outcome(self, timeout_s: float | None = None) -> int:
        try:
            outcome = self._outcomes.get(timeout=timeout_s)
        except queue.Empty:
            raise ClusterError(f"it is not up after {timeout_s:.0f} s; see the logs of its parts") from None
        if isinstance(outcome, str):
            raise ClusterError(outcome)
        return outcome

    def _stop(self, name: str) -> str:
        self._processes.stop(name)
        return f"{name}: stopped"

    def _start(self, name: str) -> str:
        if name == "kubelet":
            self._start_kubelet()
        else:
            self._processes.start(name)
        return f"{name}: running"

    def _start_kubelet(self) -> None:
        """A kubelet that starts takes back devices that no plugin of its own vouches for; they are given again after its first report."""
        api = Api()
        last_report = _ready(api.get(NODE_PATH)).get("lastHeartbeatTime", "")
        self._processes.start("kubelet")
        self._give_gpus(api, since=last_report)

    def _status(self, _argument: str) -> str:
        return "\n".join(f"{name}: {state}" for name, state in self._processes.state().items())

    def _give_gpus(self, api: Api, since: str) -> None:
        def reported(document: Document) -> bool:
            ready = _ready(document)
            return ready.get("status") == "True" and ready["lastHeartbeatTime"] > since

        api.until("/api/v1/nodes", NODE, reported)
        gpus = {GPU: str(self._wish.gpus)}
        api.merge(f"{NODE_PATH}/status", {"status": {"capacity": gpus, "allocatable": gpus}})


def save_logs(target: Path) -> None:
    """Logs of all parts, for a look at them after the cluster is gone."""
    shutil.copytree(LOGS, target, dirs_exist_ok=True)


def _ready(document: Document) -> Document:
    """The node's condition of that name; empty before its first report."""
    conditions: list[Document] = document.get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == "Ready"), {})


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
