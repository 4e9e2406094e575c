"""A cluster with deployment requests in it, whose controllers a test plays: the Job's, the operator's, the garbage collector's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.api_stand_in import ApiStandIn, api_stand_in

from sla_planner.cli import run
from sla_planner.cluster.publication import FEASIBLE, PROFILE_DIGEST, Publication, publish
from sla_planner.cluster.resources import DEFINITIONS, NAMESPACES, REQUESTS_ALPHA, REQUESTS_BETA, SERVICE_ACCOUNTS, Object
from sla_planner.model.tensor_parallel import over_tensor_parallel
from sla_planner.store.profile_files import FORMAT, json_twins, read_profile, sample_profile_dir

REQUESTS, JOBS, MAPS, GRAPHS = "dynamographdeploymentrequests", "jobs", "configmaps", "dynamographdeployments"
ONCE = ("reconcile-requests", "--once", "--log-format", "human")
OURS = {"app.kubernetes.io/part-of": "sla-planner"}


class Place:
    """One namespace, `here`; `open_namespace` makes another one."""

    word: Path

    def __init__(self, cluster: ApiStandIn) -> None:
        self.cluster = cluster
        self.define(OURS)
        for name in ("profile-sweep", "planner"):
            cluster.put({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
        node = {"status": {"allocatable": {"nvidia.com/gpu": "8"}, "conditions": [{"type": "Ready", "status": "True"}]}}
        labels = {"nvidia.com/gpu.product": "NVIDIA-H200", "nvidia.com/gpu.memory": "143771"}
        cluster.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a", "labels": labels}, **node}, namespace="")

    def open_namespace(self, name: str) -> None:
        """With the standing install in it."""
        self.cluster.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}, namespace="")
        self.cluster.put({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "planner"}}, namespace=name)

    def define(self, labels: dict[str, str]) -> None:
        """Whose the resource definition is."""
        name = "dynamographdeploymentrequests.nvidia.com"
        kind = {"apiVersion": DEFINITIONS.api_version, "kind": DEFINITIONS.kind}
        self.cluster.put({**kind, "metadata": {"name": name, "labels": labels}}, namespace="")

    def request(self, name: str = "chat", **more: Any) -> Object:
        """Of the v1alpha1 shape. `more`: further keys of the spec, `annotations`, `sweep`, `profiling`."""
        sweep, profiling, annotations = more.pop("sweep", {}), more.pop("profiling", {}), more.pop("annotations", {})
        config = {"sla": {"isl": 3000, "osl": 150, "ttft": 200, "itl": 20}, "sweep": sweep}
        spec = {
            "model": "Qwen/Qwen3-32B",
            "backend": "vllm",
            "profilingConfig": {"profilerImage": "registry.example.com/profile-sweep:1", "config": config, **profiling},
            "deploymentOverrides": {"workersImage": "registry.example.com/vllm:1"},
            "autoApply": True,
            **more,
        }
        metadata = {"name": name, "generation": 1, "annotations": annotations}
        return self.cluster.put({"apiVersion": REQUESTS_ALPHA.api_version, "kind": REQUESTS_ALPHA.kind, "metadata": metadata, "spec": spec})

    def edit(self, name: str = "chat", **spec: Any) -> None:
        def change(found: Object) -> None:
            found["spec"].update(spec)
            found["metadata"]["generation"] += 1

        self.cluster.change(REQUESTS, name, change, manager="kubectl-edit")

    def delete(self, name: str = "chat") -> None:
        """With everything that only it owned."""
        uid = self.found(REQUESTS, name)["metadata"]["uid"]
        self.cluster.drop(REQUESTS, name)
        for plural in (JOBS, MAPS):
            for each in self.cluster.names(plural):
                owners = self.found(plural, each)["metadata"].get("ownerReferences") or []
                if owners and all(owner["uid"] == uid for owner in owners):
                    self.cluster.drop(plural, each)

    # what it came to

    def found(self, plural: str, name: str, *, namespace: str = "here") -> Object:
        found = self.cluster.get(plural, name, namespace=namespace)
        assert found is not None, f"no {plural}/{name}: {self.cluster.names(plural, namespace=namespace)}"
        return found

    def status(self, name: str = "chat") -> Object:
        status: Object = self.found(REQUESTS, name).get("status") or {}
        return status

    def state(self, name: str = "chat") -> str:
        return f"{self.status(name).get('state')}/{self.status(name).get('phase')}"

    def condition(self, kind: str, name: str = "chat") -> tuple[str, str, str]:
        found = next(each for each in self.status(name)["conditions"] if each["type"] == kind)
        return found["status"], found["reason"], found["message"]

    def events(self, name: str = "chat") -> list[str]:
        """Reasons, as posted."""
        events = [self.found("events", each) for each in self.cluster.names("events")]
        return [each["reason"] for each in sorted(events, key=lambda one: one["eventTime"]) if each["regarding"]["name"] == name]

    # what controllers do

    def pod(self, state: Object, *, name: str = "chat", phase: str = "Running", log: str = "") -> None:
        """The pod of the Job of `name`, its container in `state`."""
        job = self.found(JOBS, f"profile-{name}")
        pod = f"profile-{name}-x"
        container = {"name": "profiler", "image": "x", "state": state, "restartCount": 0}
        labels = {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
        placed = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]
        status = {"phase": phase, "conditions": placed, "containerStatuses": [container]}
        spec = job["spec"]["template"]["spec"]
        self.cluster.put({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod, "labels": labels}, "spec": spec, "status": status})
        self.cluster.logs[pod] = log

    def job_ends(self, how: str = "Complete", *, name: str = "chat", code: int = 0, message: str = "") -> None:
        self.pod({"terminated": {"exitCode": code, "message": message}}, name=name, phase="Failed" if code else "Succeeded")
        ended = [{"type": how, "status": "True", "reason": "BackoffLimitExceeded" if how == "Failed" else "Completed", "message": "the Job is over"}]
        self.cluster.change(JOBS, f"profile-{name}", lambda job: job.update(status={"conditions": ended}))

    def publish(self, *, name: str = "chat", feasible: bool = True) -> None:
        """As the sweep does it, into the ConfigMap that its flags name."""
        (container,) = self.found(JOBS, f"profile-{name}")["spec"]["template"]["spec"]["containers"]
        args = container["args"]
        into = args[args.index("--publish-configmap") + 1]
        profile = over_tensor_parallel(read_profile(sample_profile_dir()), (1, 2))
        notes = {FEASIBLE: str(feasible).lower(), PROFILE_DIGEST: "d1"}
        whole = json.dumps({"format": FORMAT, **asdict(profile)})
        publication = Publication(json_twins(profile), {"profile.json": whole}, annotations=notes)
        publish(self.cluster.api(), into, publication, existing_only="--publish-existing-only" in args)

    def profiled(self, *, name: str = "chat") -> None:
        self.publish(name=name)
        self.job_ends(name=name)

    def operator_says(self, state: str, *, name: str = "chat", available: int = 3, namespace: str = "here") -> None:
        def change(graph: Object) -> None:
            graph["status"] = {"state": state, "components": {"all": {"replicas": 3, "availableReplicas": available}}}

        self.cluster.change(GRAPHS, name, change, namespace=namespace)


@contextmanager
def place(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Place]:
    """One that the kubeconfig names; `word`: what a run leaves as its last."""
    with api_stand_in(REQUESTS_ALPHA, REQUESTS_BETA, DEFINITIONS, SERVICE_ACCOUNTS, NAMESPACES) as cluster:
        kubeconfig = {"apiVersion": "v1", "kind": "Config", "current-context": "test", "users": [{"name": "test", "user": {"token": "secret"}}]}
        contexts = [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "here"}}]
        clusters = [{"name": "test", "cluster": {"server": cluster.url}}]
        (folder / "kubeconfig").write_text(json.dumps(kubeconfig | {"contexts": contexts, "clusters": clusters}))
        (folder / "word").touch()
        patch.setenv("KUBECONFIG", str(folder / "kubeconfig"))
        patch.setenv("TERMINATION_LOG", str(folder / "word"))
        patch.setattr("sla_planner.cluster.api.PATIENCE_S", 0.0)
        found = Place(cluster)
        found.word = folder / "word"
        yield found


def once(*flags: str) -> int:
    return run([*ONCE, *flags])


def begun(here: Place, **spec) -> None:
    here.request(**spec)
    assert once() == 0
    assert here.state() == "Profiling/Profiling"


def deployed(here: Place, **spec) -> None:
    begun(here, **spec)
    here.profiled()
    assert once() == 0
    here.operator_says("successful")
    assert once() == 0
    assert here.state() == "Ready/Deployed"
