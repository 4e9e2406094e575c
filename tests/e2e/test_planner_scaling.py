"""The planner and a real API server: it runs on the node as the ServiceAccount that is installed, with the rights of that and no others.

Traffic is a metrics page of the test's own; workers are pods that do nothing.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import free_ports
from tests.manifests.objects import ROOT, build
from tests.stages import test_planner
from tests.stages.conftest import Page
from tests.stages.frontend_page import frontend
from tests.stages.test_planner import PROGRAM, Started, http

from sla_planner.store.profile_files import sample_profile_dir

from .conftest import PATIENCE_S, awaited

pytestmark = pytest.mark.cluster

Document = dict[str, Any]

CONFINED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
POD_SECURITY = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
PROFILE = ["--profile-results-dir", sample_profile_dir(), "--environment", "kubernetes", "--log-format", "human"]
PAIR = ["--prefill-target", "deployment/prefill", "--decode-target", "deployment/decode"]
STATE = ["--state", "configmap:sla-planner-status"]
QUICK = ["--adjustment-interval", 0.5, "--startup-s", 0.5, "--grace-s", 1, "--max-prefill-replicas", 3, "--max-decode-replicas", 2]


class Traffic(Page):
    """The page of a frontend that gets `rate_rps` requests of 3,000 + 150 tokens; each `load` goes on from the count reached."""

    def __init__(self) -> None:
        self._count, self._rate_rps, self._since_s = 0.0, 0.0, time.monotonic()
        super().__init__()

    @property
    def text(self) -> str:  # type: ignore[override]
        count = int(self._reached())
        return frontend(count, count)

    @text.setter
    def text(self, _text: str) -> None:
        """What a page starts with."""

    def load(self, rate_rps: float) -> None:
        self._count, self._rate_rps, self._since_s = self._reached(), rate_rps, time.monotonic()

    def _reached(self) -> float:
        return self._count + self._rate_rps * (time.monotonic() - self._since_s)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line may be about pods, which take longer than a process."""
    monkeypatch.setattr(test_planner, "PATIENCE_S", PATIENCE_S)


@pytest.fixture
def traffic() -> Iterator[Traffic]:
    page = Traffic()
    yield page
    page.server.shutdown()
    page.server.server_close()


@pytest.fixture
def kustomization() -> Path:
    """Whose rights the planner has."""
    return ROOT / "manifests" / "overlays" / "plain-deployments"


@pytest.fixture
def installed(namespace: Any, kustomization: Path) -> Any:
    """A namespace with the planner's account, its rights and the map of its memory."""
    wanted = ("ServiceAccount", "Role", "RoleBinding")
    namespace.apply(*(found for found in build(kustomization) if found["kind"] in wanted))
    namespace.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "sla-planner-status"}})
    return namespace


@pytest.fixture
def account(installed: Any, tmp_path: Path) -> str:
    """A kubeconfig of the planner's ServiceAccount."""
    admin = json.loads(installed.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    cluster = admin["clusters"][0]
    token = installed.kubectl("create", "token", "planner").strip()
    context = {"name": "planner", "context": {"cluster": cluster["name"], "user": "planner", "namespace": installed.name}}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [cluster],
        "contexts": [context],
        "current-context": "planner",
        "users": [{"name": "planner", "user": {"token": token}}],
    }
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps(config))
    return str(file)


@pytest.fixture
def begin(account: str, traffic: Traffic) -> Iterator[Callable[..., Started]]:
    """Starts planners that go on."""
    running: list[Started] = []

    def start(*flags: object, **environment: str) -> Started:
        running.append(Started(["planner", *PROFILE, "--scrape-url", traffic.url, *flags], KUBECONFIG=account, **environment))
        return running[-1]

    yield start
    for each in running:
        each.kill()


@pytest.fixture
def once(account: str, traffic: Traffic) -> Callable[..., tuple[int, str]]:
    """Exit code and log of one run."""

    def run(*flags: object) -> tuple[int, str]:
        command = [*PROGRAM, "planner", *map(str, [*PROFILE, "--scrape-url", traffic.url, *STATE, "--once", *flags])]
        done = subprocess.run(command, env=os.environ | {"KUBECONFIG": account}, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        return done.returncode, done.stderr

    return run


def workload(name: str, image: str, *, kind: str = "Deployment", replicas: int | None = 1, gpus: int = 0) -> Document:
    limits = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    container = {"name": "main", "image": image, "command": ["sleep", "100000"], "securityContext": CONFINED}
    container["resources"] = {"requests": {"cpu": "1m"}, "limits": limits}
    spec: Document = {
        "selector": {"matchLabels": {"app": name}},
        "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"terminationGracePeriodSeconds": 0, "securityContext": POD_SECURITY, "containers": [container]},
        },
    }
    if replicas is not None:
        spec["replicas"] = replicas
    if kind == "StatefulSet":
        spec |= {"serviceName": name, "podManagementPolicy": "Parallel"}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def workers(namespace: Any, image: str, **more: Any) -> None:
    """Both roles, up."""
    namespace.apply(*(workload(name, image, **more) for name in ("prefill", "decode")))
    for name in ("prefill", "decode"):
        namespace.wait(f"deployment/{name}", "condition=Available")


def replicas(namespace: Any, resource: str) -> int:
    return int(namespace.get(resource)["spec"]["replicas"])


def status(namespace: Any) -> Document:
    document: Document = json.loads(namespace.get("configmap/sla-planner-status")["data"]["default.status.json"])
    return document


def conditions(namespace: Any) -> dict[str, str]:
    return {each["type"]: each["status"] for each in status(namespace)["conditions"]}


def events(namespace: Any, reason: str, count: int = 1) -> list[Document]:
    """Those of the planner with a reason, as soon as there are so many."""

    def posted() -> list[Document]:
        found = [each for each in namespace.get("events.events.k8s.io")["items"] if each["reportingController"] == "slaplanner.io/planner"]
        told = [each for each in found if each["reason"] == reason]
        return told if len(told) >= count else []

    told: list[Document] = awaited(posted, lambda: f"no {count} Events {reason}")
    return told


def test_two_plain_deployments_follow_the_load_up_and_down(
    installed: Any, python_image: str, traffic: Traffic, begin: Callable[..., Started]
) -> None:
    workers(installed, python_image)
    (port,) = free_ports(1)
    planner = begin(*PAIR, *STATE, *QUICK, "--lease", "planner", "--prometheus-port", port, POD_NAME="planner-0")
    planner.line("Observed num_req: 0.000 isl: idle osl: idle")

    traffic.load(30)
    planner.line(r"Scaling prefill workers: \d -> 3 ")
    planner.line("Number of prefill workers: 3,")
    installed.until("deployment/prefill", lambda found: found["status"].get("readyReplicas") == 3)
    assert http(port, "/healthz") == http(port, "/readyz") == (200, "ok\n")

    traffic.load(0)
    planner.line("Number of prefill workers: 1,", after=len(planner.lines))
    planner.line("No scaling needed .prefill=1, decode=1", after=len(planner.lines))
    assert planner.end() == 0
    assert planner.lines[-1].endswith("Stopped")

    managed = json.loads(installed.kubectl("get", "deployment/prefill", "-o", "json", "--show-managed-fields"))["metadata"]["managedFields"]
    assert {each["manager"]: each.get("subresource") for each in managed}["sla-planner"] == "scale"
    assert installed.get("lease/planner")["spec"].get("holderIdentity", "") == ""
    assert status(installed)["lastScaling"]["outcome"] == "applied"
    assert conditions(installed) == {
        "Ready": "True",
        "MetricsAvailable": "True",
        "Contended": "False",
        "Paused": "False",
        "Schedulable": "True",
        "SLAFeasible": "True",
    }
    described = installed.kubectl("describe", "deployment/prefill")
    assert re.search(r"Normal +ScalingDecision .*slaplanner\.io/planner.* +prefill 1 -> \d \(", described)


@pytest.mark.parametrize("manager", ["kubectl", "argocd-controller"])
def test_somebody_elses_count_is_respected_once_and_a_pause_for_as_long_as_it_lasts(
    installed: Any, python_image: str, begin: Callable[..., Started], manager: str
) -> None:
    workers(installed, python_image)
    planner = begin(*PAIR, *STATE, *QUICK, "--max-prefill-replicas", 2)
    planner.line("No scaling needed .prefill=1, decode=1")

    patch = ["patch", "deployment/prefill", "--type=merge", f"--field-manager={manager}", "-p"]
    if manager == "kubectl":
        installed.kubectl("scale", "deployment/prefill", "--replicas=3")
    else:
        installed.kubectl(*patch, '{"spec": {"replicas": 3}}')
    planner.line(rf"Hands off for this interval: {manager} set prefill from 1 to 3 in Deployment/prefill")
    planner.line(r"Scaling prefill workers: 3 -> \d ")
    assert "in Deployment/prefill" in events(installed, "ActuationConflict", 2)[0]["note"]

    installed.kubectl("annotate", "deployment/decode", "slaplanner.io/paused=true")
    planner.line(r"Hands off for this interval: Deployment/decode is annotated slaplanner\.io/paused")
    installed.kubectl("scale", "deployment/decode", "--replicas=2")
    seen = len(planner.lines)
    for _ in range(2):
        planner.line("Hands off for this interval: Deployment/decode", after=seen)
        seen = len(planner.lines)
    assert replicas(installed, "deployment/decode") == 2
    assert conditions(installed)["Paused"] == "True"
    installed.kubectl("annotate", "deployment/decode", "slaplanner.io/paused-")
    planner.line(r"Scaling decode workers: 2 -> 1 ", after=seen)
    installed.until("deployment/decode", lambda found: found["spec"]["replicas"] == 1)
    events(installed, "Resumed", 2)
    assert planner.end() == 0


def test_what_the_cluster_has_no_gpus_for_is_reported_and_given_back(
    installed: Any, cluster: Any, python_image: str, traffic: Traffic, begin: Callable[..., Started]
) -> None:
    nodes = cluster.get("nodes")["items"]
    most = max(int(node["status"]["allocatable"].get("nvidia.com/gpu", 0)) for node in nodes)
    if len(nodes) > 1 or most < 2:
        pytest.fail("this test wants one node with two GPUs or more", pytrace=False)
    gpus = most // 2 + 1
    installed.apply(workload("prefill", python_image, gpus=gpus), workload("decode", python_image))
    for name in ("prefill", "decode"):
        installed.wait(f"deployment/{name}", "condition=Available")
    planner = begin(*PAIR, *STATE, *QUICK, "--unschedulable-limit-s", 15)
    planner.line(f"a prefill worker has {gpus} GPUs in its manifest, 1 in the profile: {gpus} are counted")
    planner.line("No scaling needed .prefill=1, decode=1")

    traffic.load(30)
    planner.line(r"Scaling prefill workers: 1 -> \d ")
    planner.line(r"Workers cannot be placed: prefill: 0/1 nodes are available: 1 Insufficient nvidia\.com/gpu")
    planner.line(r"\d prefill workers? cannot be placed for \d+ s now; given back after 15 s")
    planner.line(r"\d prefill workers? cannot be placed for \d+ s now; given back$")
    assert "Insufficient nvidia.com/gpu" in events(installed, "Unschedulable")[0]["note"]
    installed.until("deployment/prefill", lambda found: found["spec"]["replicas"] == 1)
    planner.line(r"the cluster has had room for 1 prefill worker; more are asked for in \d+ s")
    assert conditions(installed)["Schedulable"] == "False"
    assert planner.end() == 0


def test_workers_that_a_quota_keeps_from_being_made_are_given_back(
    installed: Any, python_image: str, traffic: Traffic, begin: Callable[..., Started]
) -> None:
    workers(installed, python_image)
    quota = {"hard": {"pods": "2"}}
    installed.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "two"}, "spec": quota})
    installed.until("resourcequota/two", lambda found: (found.get("status") or {}).get("used", {}).get("pods") == "2")
    planner = begin(*PAIR, *STATE, *QUICK, "--unschedulable-limit-s", 2)
    planner.line("No scaling needed .prefill=1, decode=1")
    traffic.load(30)
    planner.line(r"Workers cannot be placed: prefill: .* is forbidden: exceeded quota: two")
    planner.line(r"\d prefill workers? cannot be placed for \d+ s now; given back$")
    installed.until("deployment/prefill", lambda found: found["spec"]["replicas"] == 1)
    assert planner.end() == 0


def test_a_stateful_set_is_scaled_like_any_other(installed: Any, python_image: str, once: Callable[..., tuple[int, str]]) -> None:
    installed.apply(*(workload(name, python_image, kind="StatefulSet") for name in ("prefill", "decode")))
    flags = ["--prefill-target", "statefulset/prefill", "--decode-target", "sts/decode", "--min-endpoint", 2]
    code, log = once(*flags)
    assert (code, replicas(installed, "statefulset/prefill"), replicas(installed, "statefulset/decode")) == (0, 2, 2), log
    for name in ("prefill", "decode"):
        installed.until(f"statefulset/{name}", lambda found: found["status"].get("readyReplicas") == 2)
    code, log = once(*flags)
    assert code == 0
    assert "Number of prefill workers: 2, number of decode workers: 2" in log
    assert "No scaling needed (prefill=2, decode=2)" in log


def test_a_scale_of_a_custom_resource_takes_the_version_that_was_read(
    installed: Any, cluster: Any, python_image: str, once: Callable[..., tuple[int, str]]
) -> None:
    """LeaderWorkerSets, whose pods nobody makes here."""
    definition = (ROOT / "tests" / "e2e" / "crds" / "leaderworkersets.leaderworkerset.x-k8s.io.yaml").read_text()
    cluster.apply(definition)
    cluster.wait("crd/leaderworkersets.leaderworkerset.x-k8s.io", "condition=Established")
    template = workload("x", python_image, gpus=1)["spec"]["template"]
    for name in ("prefill", "decode"):
        group = {"replicas": 1, "leaderWorkerTemplate": {"size": 2, "workerTemplate": template}}
        installed.apply({"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "metadata": {"name": name}, "spec": group})
    flags = ["--prefill-target", "lws/prefill", "--decode-target", "leaderworkerset/decode"]
    code, log = once(*flags, "--min-endpoint", 2)
    assert (code, replicas(installed, "leaderworkerset/prefill"), replicas(installed, "leaderworkerset/decode")) == (0, 2, 2), log
    assert "a decode worker has 2 GPUs in its manifest, 1 in the profile: 2 are counted" in log
    installed.kubectl("scale", "leaderworkerset/decode", "--replicas=5")
    code, log = once(*flags, "--min-endpoint", 3)
    assert "Hands off for this interval: kubectl set decode from 2 to 5 in LeaderWorkerSet/decode" in log
    assert (code, replicas(installed, "leaderworkerset/prefill")) == (0, 2)
    cluster.kubectl("delete", "crd/leaderworkersets.leaderworkerset.x-k8s.io", "--wait=false")


@pytest.mark.parametrize(
    ("role", "resource", "verb", "code"),
    [
        ("planner-workloads", "deployments", "get", 2),
        ("planner-workloads", "deployments/scale", "get", 2),
        ("planner-workloads", "deployments/scale", "patch", 2),
        ("planner", "pods", "list", 2),
        ("planner", "configmaps", "get", 2),
        ("planner", "configmaps", "patch", 2),
        ("planner", "events", "create", 0),
    ],
)
def test_a_role_without_one_verb_is_one_line_that_names_it(
    installed: Any, python_image: str, once: Callable[..., tuple[int, str]], role: str, resource: str, verb: str, code: int
) -> None:
    installed.apply(*(workload(name, python_image) for name in ("prefill", "decode")))
    granted = installed.get(f"role/{role}")
    for rule in granted["rules"]:
        if resource in rule["resources"]:
            rule["verbs"].remove(verb)
    left = [rule for rule in granted["rules"] if rule["verbs"]]
    installed.apply({"apiVersion": granted["apiVersion"], "kind": "Role", "metadata": {"name": role}, "rules": left})
    got, log = once(*PAIR, "--min-endpoint", 2)
    assert got == code, log
    told = f"system:serviceaccount:{installed.name}:planner may not {verb} {resource} in namespace {installed.name}; grant it in the Role"
    assert told in log
    assert "Traceback" not in log
    assert (replicas(installed, "deployment/prefill") == 2) is (resource in ("configmaps", "events")), "what does not need the right goes on"


@pytest.mark.parametrize("kustomization", [ROOT], ids=["base"])
@pytest.mark.parametrize("adapters", [False, True], ids=["its own counts", "scaling adapters"])
@pytest.mark.parametrize("version", ["v1alpha1", "v1beta1"])
def test_a_graph_is_scaled_in_one_request_or_through_its_adapters(
    installed: Any, dynamo: Path, once: Callable[..., tuple[int, str]], version: str, adapters: bool
) -> None:
    installed.apply(graph(version, adapters=adapters))
    installed.until("dynamographdeployment/chat", lambda found: (found.get("status") or {}).get("state") == "successful")
    flags = ["--graph-deployment", "chat", "--min-endpoint", 2]
    code, log = once(*flags)
    assert code == 0, log
    assert counts(installed) == [2, 2]
    if adapters:
        assert "Decision written to DynamoGraphDeploymentScalingAdapter/chat-" in log
    else:
        assert "Decision written to DynamoGraphDeployment/chat (prefill=2, decode=2)" in log
    installed.until("dynamographdeployment/chat", lambda found: (found.get("status") or {}).get("state") == "successful")
    code, log = once(*flags)
    assert code == 0, log
    assert "No scaling needed (prefill=2, decode=2)" in log
    assert "Number of prefill workers: 2, number of decode workers: 2" in log, "its pods are found by the operator's labels"
    assert "Hands off" not in log, "the operator is no rival"


def graph(version: str, *, adapters: bool) -> Document:
    """Of the operator's stand-in, which runs simulated engines whatever the image is called."""
    names = {"prefill": "prefill", "decode": "backend"}
    if version == "v1alpha1":
        services: Document = {"Frontend": {"componentType": "frontend", "replicas": 1, "extraPodSpec": {"mainContainer": {"image": "x"}}}}
        for role, name in names.items():
            main = {"image": "x", "args": ["--model", "tiny"]}
            services[name] = {
                "componentType": "worker",
                "subComponentType": role,
                "replicas": 1,
                "resources": {"limits": {"gpu": "1"}},
                "extraPodSpec": {"mainContainer": main},
                **({"scalingAdapter": {"enabled": True}} if adapters else {}),
            }
        spec: Document = {"backendFramework": "vllm", "services": services}
    else:
        container = {"name": "main", "image": "x"}
        components: list[Document] = [{"name": "Frontend", "type": "frontend", "replicas": 1, "podTemplate": {"spec": {"containers": [container]}}}]
        for role, name in names.items():
            main = {**container, "args": ["--model", "tiny"], "resources": {"limits": {"nvidia.com/gpu": "1"}}}
            more = {"scalingAdapter": {}} if adapters else {}
            components.append({"name": name, "type": role, "replicas": 1, "podTemplate": {"spec": {"containers": [main]}}, **more})
        spec = {"backendFramework": "vllm", "components": components}
    return {"apiVersion": f"nvidia.com/{version}", "kind": "DynamoGraphDeployment", "metadata": {"name": "chat"}, "spec": spec}


def counts(namespace: Any) -> list[int]:
    """Of prefill and decode, as soon as the graph has them all above one: adapters are carried over by the operator."""

    def read(found: Document) -> list[int]:
        spec = found["spec"]
        bodies = spec["services"] if "services" in spec else {each["name"]: each for each in spec["components"]}
        return [bodies[name].get("replicas", 1) for name in ("prefill", "backend")]

    return read(namespace.until("dynamographdeployment/chat", lambda found: min(read(found)) > 1))


def test_an_api_server_that_goes_away_holds_the_fleet_and_is_taken_up_again(
    installed: Any, python_image: str, traffic: Traffic, begin: Callable[..., Started], control_plane: Any
) -> None:
    workers(installed, python_image)
    planner = begin(*PAIR, *STATE, *QUICK)
    traffic.load(30)
    planner.line("Number of prefill workers: 3,")
    control_plane.stop("apiserver")
    traffic.load(0)
    planner.line("The number of workers is unknown: the Kubernetes API at .* does not answer")
    planner.line("Nothing decided: the number of workers is unknown")
    control_plane.start("apiserver")
    seen = len(planner.lines)
    planner.line("Number of prefill workers: 3,", after=seen)
    planner.line("Number of prefill workers: 1,", after=seen)
    assert planner.end() == 0
    assert "afresh" not in "\n".join(planner.lines)


def test_a_planner_that_is_killed_while_it_scales_is_followed_by_one_that_goes_on(
    installed: Any, python_image: str, traffic: Traffic, begin: Callable[..., Started]
) -> None:
    workers(installed, python_image)
    begin(*PAIR, *STATE, *QUICK).line("No scaling needed")
    traffic.load(30)
    for _ in range(3):
        planner = begin(*PAIR, *STATE, *QUICK)
        planner.line("New adjustment interval started!")
        planner.kill()
    last = begin(*PAIR, *STATE, *QUICK)
    last.line("Number of prefill workers: 3,")
    assert last.end() == 0
    assert "afresh" not in "\n".join(last.lines)
    assert {each["reason"] for each in installed.get("events.events.k8s.io")["items"]}.isdisjoint({"ActuationConflict"})


def test_the_image_decides_once_within_its_limits(installed: Any, python_image: str, image: Callable[[str], str]) -> None:
    workers(installed, python_image)
    page = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "page"}, "data": {"metrics": frontend(0, 0)}}
    server = workload("server", python_image)
    spec = server["spec"]["template"]["spec"]
    spec["containers"][0] |= {"command": ["python", "-m", "http.server", "--directory", "/page", "8000"]}
    spec["containers"][0] |= {"volumeMounts": [{"name": "page", "mountPath": "/page"}]}
    spec["containers"][0] |= {"readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1}}
    spec["volumes"] = [{"name": "page", "configMap": {"name": "page"}}]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "server"},
        "spec": {"selector": {"app": "server"}, "ports": [{"port": 8000}]},
    }
    installed.apply(page, server, service)
    installed.wait("deployment/server", "condition=Available")
    flags = [
        *PROFILE[2:],
        *PAIR,
        *STATE,
        "--scrape-url",
        "http://server:8000/metrics",
        "--once",
        "--min-endpoint",
        "2",
        "--profile-results-dir",
        "/profile",
    ]
    source = Path(sample_profile_dir())
    archive = {f"{role}.npz": (source / f"selected_{role}_interpolation" / "raw_data.npz").read_bytes() for role in ("prefill", "decode")}
    profile = {name: base64.b64encode(data).decode() for name, data in archive.items()}
    installed.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "profile"}, "binaryData": profile})
    items = [{"key": f"{role}.npz", "path": f"selected_{role}_interpolation/raw_data.npz"} for role in ("prefill", "decode")]
    container = {
        "name": "planner",
        "image": image("planner"),
        "args": ["planner", *map(str, flags)],
        "env": [{"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}],
        "securityContext": CONFINED,
        "resources": {"limits": {"memory": "128Mi", "cpu": "1"}, "requests": {"cpu": "100m"}},
        "volumeMounts": [{"name": "profile", "mountPath": "/profile"}],
    }
    job = {
        "restartPolicy": "Never",
        "serviceAccountName": "planner",
        "automountServiceAccountToken": True,
        "securityContext": POD_SECURITY,
        "containers": [container],
        "volumes": [{"name": "profile", "configMap": {"name": "profile", "items": items}}],
    }
    installed.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "planner"}, "spec": job})
    ended = installed.until("pod/planner", lambda found: found["status"]["phase"] in ("Succeeded", "Failed"))["status"]["containerStatuses"][0]
    state = ended["state"]["terminated"]
    assert (state["exitCode"], state["reason"]) == (0, "Completed"), installed.logs("pod/planner")
    assert state["message"] == "Decision written to Deployment/prefill and Deployment/decode (prefill=2, decode=2)"
    assert (replicas(installed, "deployment/prefill"), replicas(installed, "deployment/decode")) == (2, 2)
