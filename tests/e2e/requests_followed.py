"""A namespace in which deployment requests are followed, as the guide installs it, and what is asked for in it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from tests.manifests.objects import ROOT, overlay

from .conftest import PATIENCE_S, Document, Namespace, awaited
from .serving import CONFINED, NOBODY, apply, renamed

SAMPLES = ROOT / "manifests" / "requests"
DEFINITION = "crd/dynamographdeploymentrequests.nvidia.com"
CLUSTER_WIDE = "sla-planner-deployment-requests"
RECONCILER = "--selector=app.kubernetes.io/component=reconcile-requests"
SMALL = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "2", "memory": "2Gi"}}
PROMETHEUS = """
global: {{scrape_interval: 2s, scrape_timeout: 2s}}  # a frontend under load, on a busy machine, does not answer in one
scrape_configs:
  - job_name: llm-frontends
    static_configs:
      - targets: ["{graph}-frontend:8000"]
        labels: {{dynamo_namespace: "{namespace}-{graph}"}}  # from the pod's label, as Dynamo's PodMonitor does it
"""


class Requests:
    """A namespace in which requests are followed."""

    def __init__(self, namespace: Namespace, image: Callable[[str], str]) -> None:
        self.namespace, self.image = namespace, image

    def install(self, folder: Path) -> None:
        """What the guide installs, with images of this cluster, and an image's failure noticed soon."""
        components = ("parameters", *(f"deployment-requests{part}" for part in ("-crd", "", "-continuous", "-cluster")))
        objects = overlay(
            folder,
            *components,
            namespace=self.namespace.name,
            resources=[os.path.relpath(ROOT / place, folder.resolve()) for place in ("manifests/base", "jobs/reconcile-requests")],
            images=[renamed(name, self.image(name)) for name in ("planner", "profile-sweep")],
            configMapGenerator=[{"name": "requests-config", "behavior": "replace", "literals": [f"requests.yaml={json.dumps(self.settings())}"]}],
        )
        definitions = [each for each in objects if each["kind"] == "CustomResourceDefinition"]
        apply(self.namespace, definitions)
        self.namespace.wait(DEFINITION, "condition=Established")
        apply(self.namespace, [each for each in objects if each["kind"] != "CustomResourceDefinition"])
        self.namespace.wait("deployment/reconcile-requests", "condition=Available")

    def settings(self) -> Document:
        """Of the reconciler."""
        return {
            "profiler_image": self.image("profile-sweep"),
            "planner_image": self.image("planner"),
            "prometheus_url": "http://prometheus:9090",
            "image_limit_s": 5,
            "resync_s": 20,
        }

    def prometheus(self, graph: str) -> None:
        """One that scrapes the frontend of `graph` all the time."""
        labels = {"app": "prometheus"}
        container = {
            "name": "prometheus",
            "image": self.image("prometheus"),
            "args": ["--config.file=/config/prometheus.yml", "--storage.tsdb.path=/data", "--web.listen-address=:9090"],
            "readinessProbe": {"httpGet": {"path": "/-/ready", "port": 9090}, "periodSeconds": 1},
            "securityContext": CONFINED,
            "volumeMounts": [{"name": "config", "mountPath": "/config"}, {"name": "data", "mountPath": "/data"}],
        }
        volumes: list[Document] = [{"name": "config", "configMap": {"name": "prometheus"}}, {"name": "data", "emptyDir": {}}]
        pod = {"securityContext": NOBODY, "containers": [container], "volumes": volumes}
        template = {"metadata": {"labels": labels}, "spec": pod}
        deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "prometheus"}}
        self.namespace.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "prometheus"},
                "data": {"prometheus.yml": PROMETHEUS.format(graph=graph, namespace=self.namespace.name)},
            },
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "prometheus"}, "spec": {"selector": labels, "ports": [{"port": 9090}]}},
            {**deployment, "spec": {"selector": {"matchLabels": labels}, "template": template}},
        )

    def sample(self, file: str, **config: Any) -> Document:
        """A sample with an image of this cluster; `config`: merged into the sections of `profilingConfig.config`."""
        found: Document = yaml.safe_load((SAMPLES / file).read_text())
        found["spec"]["profilingConfig"] |= {"profilerImage": self.image("profile-sweep"), "resources": SMALL}
        sections = found["spec"]["profilingConfig"]["config"]
        for name, values in config.items():
            sections[name] = {**sections.get(name, {}), **values}
        return found

    def offline(self, name: str, **spec: Any) -> Document:
        """A request that AI Configurator answers in seconds, and that is not applied."""
        found = self.sample("profile_sla_aic_dgdr.yaml")
        found["metadata"]["name"] = name
        found["spec"] = {**found["spec"], "deploymentOverrides": {}, "autoApply": False, **spec}
        return found

    def until(self, name: str, state: str, reason: str = "", timeout_s: float = PATIENCE_S) -> Document:
        """The request as soon as it is there, and `reason` the reason of one of its conditions."""

        def holds(found: Document) -> bool:
            status = found.get("status", {})
            reasons = [condition["reason"] for condition in status.get("conditions", ())]
            over = status.get("state") in ("Failed", "DeploymentDeleted") and status["state"] != state
            assert not over, f"{name} is {status['state']}: {status['message']}"
            return status.get("state") == state and (not reason or reason in reasons)

        return self.namespace.until(f"dgdr/{name}", holds, timeout_s)

    def until_event(self, name: str, reason: str) -> str:
        """What the Event of a request says."""

        def notes() -> list[str]:
            events = self.namespace.get("events.events.k8s.io")["items"]
            return [str(each["note"]) for each in events if (each["regarding"].get("name"), each["reason"]) == (name, reason)]

        told: list[str] = awaited(notes, lambda: f"no Event {reason} of {name}")
        return told[0]

    def until_planner_said(self, words: str) -> None:
        """In the log of the planner of `vllm-disagg`: a regular expression."""
        planner = "deployment/vllm-disagg-planner"
        awaited(
            lambda: re.search(words, self.namespace.logs(planner)),
            lambda: f"the planner has not said {words!r}: {self.namespace.logs(planner)[-4000:]}",
        )

    def kill_reconciler(self) -> None:
        self.namespace.kubectl("delete", "pods", RECONCILER, "--grace-period=0", "--force")

    def until_reconciled_by_another(self) -> None:
        """Kills the reconciler; returns when the next one follows requests."""
        before = self.reconcilers()
        self.kill_reconciler()
        awaited(lambda: self.reconcilers() - before, lambda: self.namespace.kubectl("get", "pods"))

    def reconcilers(self) -> set[str]:
        """Pods that are ready."""
        pods = json.loads(self.namespace.kubectl("get", "pods", RECONCILER, "--output=json"))["items"]
        return {pod["metadata"]["name"] for pod in pods if all(each["ready"] for each in pod["status"].get("containerStatuses", [{"ready": False}]))}

    def scale_reconciler(self, count: int) -> None:
        """To 1 or 0; returns when it is so."""
        self.namespace.kubectl("scale", "deployment/reconcile-requests", f"--replicas={count}")
        awaited(lambda: len(self.reconcilers()) == count, lambda: self.namespace.kubectl("get", "pods"))
        if not count:
            self.namespace.until("lease/reconcile-requests", lambda lease: not lease["spec"].get("holderIdentity"))

    def replicas(self, graph: str) -> dict[str, int]:
        """Of workers, by the name of their Deployment."""
        deployments = self.namespace.get("deployments")["items"]
        counts = {each["metadata"]["name"]: int(each["spec"]["replicas"]) for each in deployments}
        return {name: count for name, count in counts.items() if name.startswith(f"{graph}-") and not name.endswith(("-frontend", "-planner"))}

    @contextlib.contextmanager
    def forwarded(self, target: str) -> Iterator[str]:
        """A URL that leads to port 8000 of `target`."""
        command = ["kubectl", f"--namespace={self.namespace.name}", "port-forward", target, ":8000"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                port = re.search(r"127\.0\.0\.1:(\d+)", line)
                assert port, line
                yield f"http://127.0.0.1:{port[1]}"
            finally:
                process.kill()

    def left(self, *names: str) -> list[str]:
        """Jobs, ConfigMaps and pods that belong to requests of these names."""
        kinds = "jobs,configmaps,pods,dynamographdeployments"
        return [
            found
            for name in names
            for found in self.namespace.kubectl("get", kinds, "-l", f"dgdr.nvidia.com/name={name}", "--output=name", "--ignore-not-found").split()
        ]


def gone(cluster: Namespace) -> None:
    """What is not in a namespace."""
    cluster.kubectl("delete", DEFINITION, f"clusterrolebinding/{CLUSTER_WIDE}", f"clusterrole/{CLUSTER_WIDE}", "--ignore-not-found")
