"""What a planner scales in a cluster test, and what it sees: the shipped manifests as somebody would install them, with settings of the test's own.

planner           a Deployment, or a suspended CronJob
prefill, decode   simulated engines; or, where only their number matters, pods that do nothing and take up what they ask for
frontend          that of the simulated engines; or a metrics page whose load a test sets, exactly
prometheus        where a test wants one, scraping that frontend
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.manifests.objects import ROOT, overlay

from . import node
from .conftest import PATIENCE_S, Document, Namespace

ROLES = ("prefill", "decode")
STATUS = "configmap/sla-planner-status"
STATE_KEY, STATUS_KEY = "default.state.json", "default.status.json"
SETTINGS: Document = {
    "state": "configmap:sla-planner-status",
    "environment": "kubernetes",
    "prefill_target": "deployment/prefill",
    "decode_target": "deployment/decode",
    "profile_results_dir": "sample",
    "scrape_url": "http://frontend:8000/metrics",
    "adjustment_interval": 1,
    "startup_s": 1,
    "sizing": "mean",  # what the last window needed, at once
    "load_predictor": "constant",
    "no_correction": True,
    "max_prefill_replicas": 3,
    "max_decode_replicas": 2,
}
CONFINED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
NOBODY = {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
IDLER = "trap exit TERM; sleep infinity & wait"
PAGE = Path(__file__).with_name("traffic_page.py")
FRONTEND = Path("tests/stages/frontend_page.py")
PROMETHEUS = """
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
  - job_name: llm-frontends
    static_configs:
      - targets: ["frontend:8000"]
"""


@dataclass(frozen=True)
class Load:
    """Requests per second, and their tokens."""

    rps: float
    isl: int = 4000
    osl: int = 250


NONE, FLOOD = Load(0), Load(500)  # needs the fewest workers; needs more of both roles than any test allows
LONG_PROMPTS = Load(500, osl=2)  # the same of prefill alone


@dataclass(frozen=True)
class Form:
    """How the planner is installed, and what it scales. `gpus`: of one worker, by role."""

    continuous: bool = True
    engines: bool = False
    gpus: Mapping[str, int] = field(default_factory=dict)


class Serving:
    """One namespace with a planner. `folder`: where its overlay is written; `image`: a reference by an image's name."""

    def __init__(self, namespace: Namespace, image: Callable[[str], str], python_image: str, folder: Path) -> None:
        self.namespace, self._image, self._python, self._folder = namespace, image, python_image, folder
        self.said: list[str] = []

    def deploy(self, form: Form = Form(), **settings: Any) -> None:
        """Returns when workers and frontend are up and, if it is continuous, the planner has seen them. A setting of None is left out."""
        self.install(form, **settings)
        for name in (*ROLES, "frontend"):
            self.namespace.wait(f"deployment/{name}", "condition=Available")
        if form.continuous:
            self.until("Ready" if form.engines else "MetricsAvailable", "True")  # a frontend of engines counts nothing before its first request

    def install(self, form: Form = Form(), **settings: Any) -> None:
        """The manifests alone."""
        wanted = {name: value for name, value in {**SETTINGS, **settings}.items() if value is not None}
        config = {"name": "planner-config", "behavior": "replace", "literals": [f"planner.yaml={json.dumps(wanted)}"]}
        components = ["engine-sim", "plain-workloads", *(["planner-deployment"] if form.continuous else [])]
        images = [renamed(name, self._image(name)) for name in ("planner", "engine-sim")]
        texts = {PAGE.name: PAGE.read_text(), FRONTEND.name: (ROOT / FRONTEND).read_text()}
        self.namespace.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "traffic-page"}, "data": texts})
        patches = list(self._patches(form))
        apply(self.namespace, overlay(self._folder, *components, configMapGenerator=[config], images=images, patches=patches))

    def prometheus(self) -> None:
        """One that scrapes the frontend every second, under the name that the settings must say: http://prometheus:9090."""
        labels = {"app": "prometheus"}
        container = {
            "name": "prometheus",
            "image": self._image("prometheus"),
            "args": ["--config.file=/config/prometheus.yml", "--storage.tsdb.path=/data", "--web.listen-address=:9090"],
            "readinessProbe": {"httpGet": {"path": "/-/ready", "port": 9090}, "periodSeconds": 1},
            "securityContext": CONFINED,
            "volumeMounts": [{"name": "config", "mountPath": "/config"}, {"name": "data", "mountPath": "/data"}],
        }
        pod = {
            "securityContext": NOBODY,
            "containers": [container],
            "volumes": [{"name": "config", "configMap": {"name": "prometheus"}}, {"name": "data", "emptyDir": {}}],
        }
        template = {"metadata": {"labels": labels}, "spec": pod}
        self.namespace.apply(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "prometheus"}, "data": {"prometheus.yml": PROMETHEUS}},
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "prometheus"},
                "spec": {"selector": labels, "ports": [{"port": 9090}]},
            },
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "prometheus"},
                "spec": {"selector": {"matchLabels": labels}, "template": template},
            },
        )

    def load(self, load: Load) -> None:
        """From now on."""
        (pod,) = self.namespace.kubectl("get", "pods", "--selector=slaplanner.io/role=frontend", "--output=name").split()
        path = f"/api/v1/namespaces/{self.namespace.name}/{pod.replace('pod/', 'pods/')}:8000/proxy/load"
        self.namespace.kubectl("get", "--raw", f"{path}?rps={load.rps}&isl={load.isl}&osl={load.osl}")

    # what became of it

    def counts(self) -> tuple[int, int]:
        """What is asked for, prefill and decode."""
        prefill, decode = (int(self.namespace.get(f"deployment/{role}")["spec"]["replicas"]) for role in ROLES)
        return prefill, decode

    def until_counts(self, prefill: int, decode: int, timeout_s: float = PATIENCE_S) -> None:
        for role, count in zip(ROLES, (prefill, decode), strict=True):
            self.namespace.until(f"deployment/{role}", lambda found, count=count: found["spec"]["replicas"] == count, timeout_s)

    def until_ready(self, prefill: int, decode: int) -> None:
        for role, count in zip(ROLES, (prefill, decode), strict=True):
            self.namespace.until(f"deployment/{role}", lambda found, count=count: found["status"].get("readyReplicas", 0) == count)

    def status(self) -> Document:
        """What the planner says of itself."""
        return _kept(self.namespace.get(STATUS), STATUS_KEY)

    def remembered(self) -> Document:
        """The planner's state."""
        return _kept(self.namespace.get(STATUS), STATE_KEY)

    def until(self, condition: str, status: str, reason: str = "") -> Document:
        """The condition as soon as it is so."""

        def holds(found: Document) -> bool:
            return any((each["type"], each["status"]) == (condition, status) and reason in each["reason"] for each in _conditions(found))

        return next(each for each in _conditions(self.namespace.until(STATUS, holds)) if each["type"] == condition)

    def ticks(self, count: int) -> None:
        """Returns when the planner has ended so many intervals more."""
        ended: set[float] = set()

        def holds(found: Document) -> bool:
            ended.add(_kept(found, STATE_KEY).get("plan", {}).get("last_at_s") or 0.0)
            return len(ended) > count

        self.namespace.until(STATUS, holds)

    def events(self, reason: str) -> list[Document]:
        """The planner's, with this reason."""
        found: list[Document] = self.namespace.get("events.events.k8s.io")["items"]
        return [event for event in found if (event.get("reportingController"), event["reason"]) == ("slaplanner.io/planner", reason)]

    def until_event(self, reason: str, words: str = "") -> Document:
        """It is posted just after the status is written."""
        give_up_s = time.monotonic() + PATIENCE_S
        while not (found := [event for event in self.events(reason) if words in event["note"]]):
            assert time.monotonic() < give_up_s, f"no Event {reason} with {words!r}: {self.events(reason)}"
            time.sleep(0.2)
        return found[0]

    def planner(self) -> Document:
        """The pod of the continuous planner that is not on its way out."""
        give_up_s = time.monotonic() + PATIENCE_S
        while True:
            pods = json.loads(self.namespace.kubectl("get", "pods", "--selector=app.kubernetes.io/component=planner", "--output=json"))["items"]
            if live := [pod for pod in pods if "deletionTimestamp" not in pod["metadata"] and pod["status"]["phase"] == "Running"]:
                found: Document = live[0]
                return found
            assert time.monotonic() < give_up_s, "no planner runs"
            time.sleep(0.2)

    def log(self, *options: str) -> str:
        return self.namespace.logs(f"pod/{self.planner()['metadata']['name']}", *options)

    def until_said(self, words: str, times: int = 1) -> str:
        """The planner's log as soon as it says `words` so often."""
        give_up_s = time.monotonic() + PATIENCE_S
        while (log := self.log()).count(words) < times:
            assert time.monotonic() < give_up_s, f"the planner has not said {words!r} {times} times:\n{log}"
            time.sleep(0.3)
        return log

    def once(self, name: str) -> Document:
        """A Job made from the CronJob: how its container ended. `said` is its log then."""
        self.namespace.kubectl("create", "job", name, "--from=cronjob/planner")
        return self.ended(name)

    def ended(self, job: str) -> Document:
        """The same of any Job."""
        self.namespace.until(f"job/{job}", lambda job: any(each["type"] in ("Complete", "Failed") for each in job["status"].get("conditions", ())))
        (pod,) = json.loads(self.namespace.kubectl("get", "pods", f"--selector=job-name={job}", "--output=json"))["items"]
        self.said = node.messages(self.namespace.logs(f"job/{job}"))
        ended: Document = pod["status"]["containerStatuses"][0]["state"]["terminated"]
        return ended

    @contextmanager
    def journal(self) -> Iterator[Journal]:
        """Notes every count that is asked for meanwhile."""
        journal = Journal(self.namespace)
        try:
            yield journal
        finally:
            journal.close()

    def _patches(self, form: Form) -> Iterator[Document]:
        if form.engines:
            ready_at_once = [{"op": "replace", "path": "/spec/template/spec/containers/0/args/8", "value": "0.5"}]
            yield {"target": {"kind": "Deployment", "name": "|".join(ROLES)}, "patch": json.dumps(ready_at_once)}
            return
        yield self._instead("frontend", ["python", "/page/traffic_page.py"], files="traffic-page")
        for role in ROLES:
            yield self._instead(role, ["sh", "-c", IDLER], probe=False, gpus=form.gpus.get(role, 0))

    def _instead(self, name: str, command: list[str], *, probe: bool = True, gpus: int = 0, files: str = "") -> Document:
        """Another program in the pods of a Deployment; with a ConfigMap of `files` in /page, where Python looks for modules."""
        container = "/spec/template/spec/containers/0"
        limits = {"memory": "64Mi", **({"nvidia.com/gpu": gpus} if gpus else {})}
        operations: list[Document] = [
            {"op": "replace", "path": f"{container}/image", "value": self._python},
            {"op": "add", "path": f"{container}/command", "value": command},
            {"op": "remove", "path": f"{container}/args"},
            {"op": "replace", "path": f"{container}/resources", "value": {"requests": {"cpu": "1m", "memory": "16Mi"}, "limits": limits}},
            {"op": "replace", "path": "/spec/template/spec/terminationGracePeriodSeconds", "value": 1},
        ]
        if files:
            items = [{"key": PAGE.name, "path": PAGE.name}, {"key": FRONTEND.name, "path": str(FRONTEND)}]
            volume = {"name": "page", "configMap": {"name": files, "items": items}}
            operations.append({"op": "add", "path": f"{container}/env/-", "value": {"name": "PYTHONPATH", "value": "/page"}})
            operations.append({"op": "add", "path": f"{container}/volumeMounts/-", "value": {"name": "page", "mountPath": "/page"}})
            operations.append({"op": "add", "path": "/spec/template/spec/volumes/-", "value": volume})
        if not probe:
            operations.append({"op": "remove", "path": f"{container}/readinessProbe"})
        return {"target": {"kind": "Deployment", "name": name}, "patch": json.dumps(operations)}


class Journal:
    """Every count that the two Deployments are asked for, in order, and who wrote the last one. It goes on when the API server comes back."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._seen: dict[str, dict[int, int]] = {role: {} for role in ROLES}  # generation: count
        self._begun, self._over = threading.Event(), threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        self._begun.wait(PATIENCE_S)

    def of(self, role: str) -> list[int]:
        """Counts, one for each time that the Deployment was changed."""
        return [count for _, count in sorted(self._seen[role].items())]

    def close(self) -> None:
        self._over.set()
        if self._process is not None:
            self._process.kill()
        self._thread.join(PATIENCE_S)

    def _follow(self) -> None:
        columns = r"jsonpath={.metadata.name} {.metadata.generation} {.spec.replicas}{'\n'}"
        command = ["kubectl", f"--namespace={self._namespace.name}", "get", "deployments", "--watch", "--output", columns]
        while not self._over.is_set():
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as self._process:
                assert self._process.stdout is not None
                for line in self._process.stdout:
                    name, generation, replicas = line.split()
                    if name in self._seen:
                        self._seen[name][int(generation)] = int(replicas)
                    if all(self._seen.values()):
                        self._begun.set()
            self._over.wait(0.2)


def load_test(reference: str, load: Load, *, url: str = "http://frontend:8000", duration_s: float = 120) -> tuple[Document, Document]:
    """A pod that sends requests, and their times."""
    rows = [f"{index / load.rps:.3f},{load.isl},{load.osl}" for index in range(int(load.rps * duration_s))]
    trace = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "load"}, "data": {"trace.csv": "\n".join(["arrival_s,isl,osl", *rows])}}
    container = {
        "name": "load",
        "image": reference,
        "args": ["load-test", "--url", url, "--trace", "/load/trace.csv"],
        "securityContext": CONFINED,
        "volumeMounts": [{"name": "trace", "mountPath": "/load"}, {"name": "tmp", "mountPath": "/tmp"}],
    }
    spec = {
        "restartPolicy": "Never",
        "securityContext": NOBODY,
        "containers": [container],
        "volumes": [{"name": "trace", "configMap": {"name": "load"}}, {"name": "tmp", "emptyDir": {}}],
    }
    return trace, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "load"}, "spec": spec}


def apply(namespace: Namespace, objects: list[Document]) -> None:
    """All in one call; warnings of the API server (Pod Security, deprecations) are errors."""
    namespace.kubectl("apply", "--warnings-as-errors", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


def renamed(name: str, reference: str) -> Document:
    """One of our images, in the words of a kustomization."""
    new_name, _, tag = reference.rpartition(":")
    return {"name": f"sla-planner/{name}", "newName": new_name, "newTag": tag}


def _kept(found: Mapping[str, Any], key: str) -> Document:
    kept: Document = json.loads((found.get("data") or {}).get(key, "{}"))
    return kept


def _conditions(found: Mapping[str, Any]) -> list[Document]:
    conditions: list[Document] = _kept(found, STATUS_KEY).get("conditions", [])
    return conditions
