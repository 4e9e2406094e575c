"""Sweeps as Jobs on a real cluster: engines from graphs and from Deployments, what keeps them from starting, what a killed sweep leaves.

The engines are simulated; their pods, GPUs, logs and deaths are real.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sla_planner.model.tensor_parallel import over_tensor_parallel
from sla_planner.store.profile_files import read_profile, sample_profile_dir, write_profile_json

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
RIGHTS = ROOT / "jobs" / "profile-sweep"
RECORDS = "--selector=slaplanner.io/engine"
SHAPE = ["--isl", "128", "--osl", "8", "--max-context-length", "1024", "--attainment", "0.5", "--ttft", "4000", "--itl", "60"]
FEW_POINTS = ["--prefill-interpolation-granularity", "4", "--decode-interpolation-granularity", "5"]
SOON = ["--ready-limit-s", "120", "--expected-start-s", "2", "--no-verify"]
SLOWLY = ["--time-scale", "0.1"]  # so that a busy machine is no slower than its engines
SERVE = ["engine-sim", "--mode", "agg", "--host", "0.0.0.0"]
CONFINED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
AS_NOBODY = {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
NEW_POINT = r"TP1 (?:prefill|decode) .*: (?:TTFT|ITL) "  # measured, not found again
LIMIT_S = 1200.0
OUTAGE_S = 20.0

Document = dict[str, Any]


class Sweeps:
    """Jobs in one namespace, with the rights that are shipped."""

    def __init__(self, namespace: Any, image: Callable[[str], str]) -> None:
        self.namespace, self.image = namespace, image
        self._workloads: dict[str, str] = {}

    def prepare(self, folder: Path) -> None:
        for name in ("serviceaccount", "role", "rolebinding"):
            self.namespace.apply((RIGHTS / f"{name}.yaml").read_text())
        extra = [{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["create", "get", "delete"]}]
        extra += [{"apiGroups": [""], "resources": ["services"], "verbs": ["create", "get", "delete"]}]
        self.grant("plain-engines", extra)
        claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "100Mi"}}}
        self.namespace.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "dynamo-pvc"}, "spec": claim})
        write_profile_json(over_tensor_parallel(read_profile(sample_profile_dir()), (1, 2)), folder / "profile.json")
        self.config_map("engine-profile", {"profile.json": (folder / "profile.json").read_text()})

    def grant(self, name: str, rules: list[Document]) -> None:
        self.namespace.apply({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name}, "rules": rules})
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": "profile-sweep"}],
        }
        self.namespace.apply(binding)

    def config_map(self, name: str, data: dict[str, str]) -> None:
        self.namespace.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})

    def workload(self, edit: Callable[[Document], None] = lambda _: None, name: str = "engine") -> list[str]:
        """A simulated engine as a Deployment and a Service, `edit`ed; the flags that measure it."""
        engine: Document = {
            "name": "engine",
            "image": self.image("engine-sim"),
            "args": [*SERVE, "--port", "{port}", "--tp", "{tp}", "--profile", "/profile", *SLOWLY, "--max-sequences", "8"],
            "env": [{"name": "OPENBLAS_NUM_THREADS", "value": "1"}],
            "resources": {"requests": {"cpu": "10m", "memory": "80Mi"}, "limits": {"memory": "512Mi", "nvidia.com/gpu": "{gpus}"}},
            "securityContext": CONFINED,
            "volumeMounts": [{"name": "profile", "mountPath": "/profile"}],
        }
        pod: Document = {
            "securityContext": AS_NOBODY,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "containers": [engine],
            "volumes": [{"name": "profile", "configMap": {"name": "engine-profile"}}],
        }
        deployment: Document = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "{name}"},
            "spec": {
                "selector": {"matchLabels": {"app": "{name}"}},
                "template": {"metadata": {"labels": {"app": "{name}"}}, "spec": pod},
            },
        }
        edit(deployment)
        spec = {"selector": {"app": "{name}"}, "ports": [{"port": 8000}]}
        front = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "{name}"}, "spec": spec}
        self._workloads[f"{name}.yaml"] = f"{json.dumps(front)}\n---\n{json.dumps(deployment)}"
        self.config_map("workload", self._workloads)
        return ["--backend", "simulated", "--workload", f"/config/workload/{name}.yaml"]

    def start(self, *flags: str, name: str = "sweep", gpus: int = 2, backoff: int = 0, guarded: bool = False) -> None:
        """`guarded`: below a shell, so that a test can kill it as nothing else would."""
        given = ["profile-sweep", *SHAPE, *FEW_POINTS, "--max-num-gpus", str(gpus), "--output-dir", f"/data/{name}", "--log-format", "human", *flags]
        container: Document = {
            "name": "sweep",
            "image": self.image("profile-sweep"),
            "args": given,
            "env": [_from_field("POD_NAME", "metadata.name"), _from_field("POD_NAMESPACE", "metadata.namespace")],
            "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
            "securityContext": CONFINED,
            "volumeMounts": [
                {"name": "data", "mountPath": "/data"},
                {"name": "tmp", "mountPath": "/tmp"},
                {"name": "config", "mountPath": "/config/workload"},
                {"name": "graph", "mountPath": "/config/graph"},
            ],
        }
        if guarded:
            container["command"] = ["sh", "-c", 'sla-planner "$@" & echo $! > /tmp/pid; wait $!', "sh"]
        pod: Document = {
            "serviceAccountName": "profile-sweep",
            "automountServiceAccountToken": True,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 60,
            "securityContext": AS_NOBODY,
            "enableServiceLinks": False,
            "containers": [container],
            "volumes": [
                {"name": "data", "persistentVolumeClaim": {"claimName": "dynamo-pvc"}},
                {"name": "tmp", "emptyDir": {}},
                {"name": "config", "configMap": {"name": "workload", "optional": True}},
                {"name": "graph", "configMap": {"name": "graph", "optional": True}},
            ],
        }
        self.namespace.apply(
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": {"name": name},
                "spec": {"backoffLimit": backoff, "template": {"spec": pod}},
            }
        )

    def ended(self, name: str = "sweep") -> tuple[int, str, str]:
        """Exit code of its last pod, its log and its termination message."""
        self.namespace.until(f"job/{name}", lambda job: _finished(job), LIMIT_S)
        last = max(self._pods(name), key=lambda pod: pod["metadata"]["creationTimestamp"])
        state = last["status"]["containerStatuses"][0]["state"]["terminated"]
        return state["exitCode"], self.namespace.logs(f"pod/{last['metadata']['name']}"), state.get("message", "")

    def pod(self, name: str = "sweep", but: str = "") -> str:
        """Name of the running pod of a Job, another than `but`."""
        give_up_s = time.monotonic() + LIMIT_S
        while time.monotonic() < give_up_s:
            for pod in self._pods(name):
                if pod["status"]["phase"] == "Running" and pod["metadata"]["name"] != but:
                    return str(pod["metadata"]["name"])
            time.sleep(0.2)
        raise AssertionError(f"no pod of {name} runs: {self.namespace.kubectl('get', 'pods')}")

    def said(self, pod: str, words: str) -> str:
        """The log of a pod until a line matches `words`."""
        lines: list[str] = []
        with closing(self.followed(pod)) as told:
            for line in told:
                lines.append(line)
                if re.search(words, line):
                    return "".join(lines)
        raise AssertionError(f"{words!r} was not said: {''.join(lines)}")

    def followed(self, pod: str) -> Generator[str, None, None]:
        """Lines of the log until its container has ended."""
        command = ["kubectl", f"--namespace={self.namespace.name}", "logs", "--follow", f"pod/{pod}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        alarm = threading.Timer(LIMIT_S, process.kill)
        alarm.start()
        try:
            assert process.stdout is not None
            yield from iter(process.stdout.readline, "")
        finally:
            alarm.cancel()
            process.kill()
            process.communicate()

    def deployment(self) -> str:
        """Name of the only one."""
        (found,) = [one for one in self.engines() if one.startswith("deployment")]
        return found.removeprefix("deployment.apps/")

    def _pods(self, name: str) -> list[Document]:
        pods = self.namespace.get("pods")["items"]
        return [pod for pod in pods if pod["metadata"]["labels"].get("job-name") == name]

    def engines(self) -> list[str]:
        """Whatever there is of engines, in namespace order of kinds."""
        kinds = "configmaps,services,deployments"
        return self.namespace.kubectl("get", kinds, RECORDS, "--output=name", "--ignore-not-found").split()


def _from_field(name: str, path: str) -> Document:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _finished(job: Document) -> bool:
    return any(one["type"] in ("Complete", "Failed") and one["status"] == "True" for one in job.get("status", {}).get("conditions", ()))


@pytest.fixture
def sweeps(namespace: Any, image: Callable[[str], str], tmp_path: Path) -> Sweeps:
    made = Sweeps(namespace, image)
    made.prepare(tmp_path)
    return made


# whole sweeps

PREFILL_SLOWER, DECODE_SLOWER = {1: 1, 2: 8}, {1: 3, 2: 1}  # by GPUs of an engine


@pytest.fixture(scope="module")
def engine_profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One GPU prefills and two decode within the promise of the test below, with half of it to spare for a machine that is busy; two do not prefill
    and one does not decode within it, by half of it and more: a machine makes engines slower, never faster."""
    both = over_tensor_parallel(read_profile(sample_profile_dir()), (1, 2))
    prefill, decode = [], []
    for curve in both.prefill:
        by = PREFILL_SLOWER[curve.mapping.gpus]
        slower = [replace(point, ttft_ms=point.ttft_ms * by, throughput_per_gpu=point.throughput_per_gpu / by) for point in curve.points]
        prefill.append(replace(curve, points=tuple(slower)))
    for surface in both.decode:
        by = DECODE_SLOWER[surface.mapping.gpus]
        steps = [replace(point, itl_ms=point.itl_ms * by, throughput_per_gpu=point.throughput_per_gpu / by) for point in surface.points]
        decode.append(replace(surface, points=tuple(steps)))
    file = tmp_path_factory.mktemp("lopsided") / "profile.json"
    write_profile_json(replace(both, prefill=tuple(prefill), decode=tuple(decode)), file)
    return file


def test_graphs_are_measured_side_by_side_verified_as_a_pair_and_published(sweeps: Sweeps, dynamo: Path) -> None:
    graph = yaml.safe_load((ROOT / "scripts" / "sla_planner" / "graphs" / "vllm" / "disagg.yaml").read_text())
    for service in graph["spec"]["services"].values():
        service["extraPodSpec"]["mainContainer"]["env"] = [{"name": "ENGINE_SIM_ARGS", "value": " ".join([*SLOWLY, "--max-sequences", "8"])}]
    sweeps.config_map("graph", {"disagg.yaml": yaml.safe_dump(graph)})
    source = ["--dgd", "/config/graph/disagg.yaml", "--backend", "vllm", "--publish-configmap", "planner-profile-data"]
    # A first token takes one GPU 184 ms and two 1,400 ms, the next ones 131 ms and 35 ms.
    sweeps.start(*source, "--max-gpus", "3", "--expected-start-s", "2", "--ttft", "900", "--itl", "80")
    code, log, message = sweeps.ended()
    assert code == 0, log
    assert re.findall(r"^Suggested (\w+ TP:\d) \(", log, re.MULTILINE) == ["prefill TP:1", "decode TP:2"]
    assert "verifying TP1 + TP2: one request at a time" in log
    assert "verifying TP2: " not in log
    assert "In use: " in log
    assert log.index("TP2: starting") < log.index("TP1 decode ISL")  # while the first is measured
    assert message.startswith("Suggested prefill TP:")
    assert "are kept by prefill" in message
    published = sweeps.namespace.get("configmap/planner-profile-data")
    assert set(published["data"]) == {"prefill_raw_data.json", "decode_raw_data.json", "profile.json"}
    assert published["metadata"]["annotations"]["slaplanner.io/feasible"] == "true"
    assert json.loads(published["data"]["profile.json"])["provenance"]["source"] == "measured"
    assert sweeps.engines() == []
    assert sweeps.namespace.kubectl("get", "dynamographdeployments", "--output=name") == ""


# a sweep that is killed


def test_a_killed_sweep_leaves_no_engine_and_the_next_pod_goes_on(sweeps: Sweeps) -> None:
    """Its process is killed, then the pod of the next one is deleted, and the third one ends."""
    sweeps.start(*sweeps.workload(), *SOON, gpus=1, backoff=3, guarded=True)
    first = sweeps.pod()
    sweeps.said(first, NEW_POINT)
    left = sweeps.deployment()
    sweeps.namespace.kubectl("exec", first, "--", "sh", "-c", "kill -9 $(cat /tmp/pid)")
    second = sweeps.pod(but=first)
    log = sweeps.said(second, NEW_POINT)
    assert f"Removing the engine {left}, left by a sweep that is over" in log
    assert "TP1 prefill ISL 64: found again, TTFT" in log
    (measured,) = re.findall(r"^(.*): (?:TTFT|ITL) ", log, re.MULTILINE)
    left = sweeps.deployment()
    sweeps.namespace.kubectl("delete", "pod", second, "--grace-period=0", "--force")
    sweeps.namespace.wait(f"deployment/{left}", "delete", LIMIT_S)  # by the cluster: its owner is gone
    code, log, _ = sweeps.ended()
    assert code == 0, log
    assert f"{measured}: found again, " in log
    assert re.search(r"TP1: starting\n(.*\n)*TP1 .*: (TTFT|ITL) ", log)  # not all was found
    assert sweeps.engines() == []


def test_a_sweep_that_is_told_to_stop_removes_its_engine_first_and_that_of_another_never(sweeps: Sweeps) -> None:
    sweeps.start(*sweeps.workload(slower, "slower"), *SOON, gpus=1, name="one")
    one = sweeps.pod("one")
    sweeps.said(one, NEW_POINT)
    engine = sweeps.deployment()
    sweeps.start(*sweeps.workload(), *SOON, gpus=1, name="two")
    two = sweeps.pod("two")
    assert "Removing" not in sweeps.said(two, r"TP1: starting")
    sweeps.namespace.kubectl("patch", "job", "two", "--type=merge", "--patch", '{"spec":{"suspend":true}}')
    said = "".join(sweeps.followed(two))
    assert re.search(r"error: stopped, \d+ points are saved, \d+ of them new; the same command goes on from here", said), said
    assert sweeps.deployment() == engine
    sweeps.namespace.kubectl("patch", "job", "one", "--type=merge", "--patch", '{"spec":{"suspend":true}}')
    said = "".join(sweeps.followed(one))
    assert "ended during" not in said
    assert sweeps.engines() == []


# an engine that ends


def test_an_engine_that_is_deleted_is_started_again_and_the_sweep_goes_on(sweeps: Sweeps) -> None:
    sweeps.start(*sweeps.workload(), *SOON, gpus=1)
    sweeps.said(sweeps.pod(), r"prefill ISL 128: TTFT")
    sweeps.namespace.kubectl("delete", "pods", RECORDS, "--grace-period=0", "--force")
    code, log, _ = sweeps.ended()
    assert code == 0, log
    assert re.search(r"TP1: starting it again: the engine ended during .*: its pod sweep-\S+ was deleted", log)
    assert "requests failed" not in log


def test_an_api_server_that_is_away_for_a_while_costs_nothing(sweeps: Sweeps, control_plane: Any) -> None:
    sweeps.start(*sweeps.workload(), *SOON, gpus=1)
    sweeps.said(sweeps.pod(), r"TP1 prefill ISL 64: TTFT")
    control_plane.stop("apiserver")
    time.sleep(OUTAGE_S)
    control_plane.start("apiserver")
    code, log, _ = sweeps.ended()
    assert code == 0, log
    assert "starting it again" not in log
    assert sweeps.engines() == []


# engines that do not start


def container(deployment: Document) -> Document:
    found: Document = deployment["spec"]["template"]["spec"]["containers"][0]
    return found


def slower(deployment: Document) -> None:
    """Its sweep goes on while another begins and ends."""
    container(deployment)["args"] += ["--time-scale", "0.02"]


def wrong_image(deployment: Document) -> None:
    container(deployment)["image"] = "localhost/sla-planner/no-such-engine:1"
    container(deployment)["imagePullPolicy"] = "Never"


def no_secret(deployment: Document) -> None:
    container(deployment)["env"] = [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf-token-secret", "key": "HF_TOKEN"}}}]


def no_such_flag(deployment: Document) -> None:
    container(deployment)["args"] += ["--no-such-flag"]


def out_of_memory(deployment: Document) -> None:
    container(deployment)["resources"]["limits"]["memory"] = "24Mi"
    container(deployment)["resources"]["requests"]["memory"] = "24Mi"


def no_such_node(deployment: Document) -> None:
    deployment["spec"]["template"]["spec"]["nodeSelector"] = {"gpu": "b300"}


def no_claim(deployment: Document) -> None:
    deployment["spec"]["template"]["spec"]["volumes"].append({"name": "m", "persistentVolumeClaim": {"claimName": "model-cache"}})


def root(deployment: Document) -> None:
    deployment["spec"]["template"]["spec"]["securityContext"] = {}


def as_it_is(deployment: Document) -> None:
    pass


WORDS = {
    wrong_image: r"TP1: the image of engine, localhost/sla-planner/no-such-engine:1, cannot be pulled: ErrImageNeverPull",
    no_secret: r'TP1: the container engine cannot be made: CreateContainerConfigError: secret "hf-token-secret" not found',
    no_such_flag: r"TP1: the container engine ended: exit code 2: .*--no-such-flag",
    out_of_memory: r"TP1: the container engine ended: killed, out of memory \(OOMKilled, its limit is 24Mi\)",
    no_such_node: r"TP1: no node takes its pod: 0/\d+ nodes are available: .*node affinity/selector",
    no_claim: r'TP1: no node takes its pod: .*persistentvolumeclaim "model-cache" not found',
    root: r"TP1: no pod is let in: .* violates PodSecurity \"restricted",
    as_it_is: r"TP\d+: no node takes its pod: .*Insufficient nvidia.com/gpu",  # of more GPUs than there are
}


def test_engines_that_do_not_start_are_told_in_the_words_of_who_knows(sweeps: Sweeps, cluster: Any) -> None:
    for edit in WORDS:
        name = edit.__name__.replace("_", "-")
        size = too_many(cluster) if edit is as_it_is else 1
        sweeps.start(*sweeps.workload(edit, name), *SOON, *of_size(size), gpus=size, name=name)
    for edit, words in WORDS.items():
        code, log, message = sweeps.ended(edit.__name__.replace("_", "-"))
        assert code in (2, 4), log
        (line,) = [line for line in log.splitlines() if line.startswith("error: ")]
        assert re.search(rf"^error: {words}", line), line
        assert message == line.removeprefix("error: ")
        assert "Free GPUs are not counted before an engine is started" in log
    assert sweeps.engines() == []


def too_many(cluster: Any) -> int:
    """A power of two, more than the GPUs of any node."""
    return 1 << max(int(node["status"]["allocatable"].get("nvidia.com/gpu", 0)) for node in cluster.get("nodes")["items"]).bit_length()


def of_size(gpus: int) -> list[str]:
    return ["--min-num-gpus", str(gpus), "--num-gpus-per-node", str(gpus)]


def test_a_quota_is_told(sweeps: Sweeps) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "gpus"}, "spec": {"hard": {"requests.nvidia.com/gpu": "0"}}}
    sweeps.namespace.apply(quota)
    sweeps.start(*sweeps.workload(), *SOON, gpus=1)
    _, log, _ = sweeps.ended()
    assert re.search(r"^error: TP1: no pod is let in: .*exceeded quota: gpus", log, re.MULTILINE), log


def test_more_gpus_than_any_node_has_are_left_out_at_once_where_nodes_may_be_listed(sweeps: Sweeps, cluster: Any) -> None:
    size, name = too_many(cluster), f"{sweeps.namespace.name}-nodes"
    rules = [{"apiGroups": [""], "resources": ["nodes", "pods"], "verbs": ["list"]}]
    cluster.apply({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules})
    subject = {"kind": "ServiceAccount", "name": "profile-sweep", "namespace": sweeps.namespace.name}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
    binding = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name}}
    cluster.apply({**binding, "roleRef": role, "subjects": [subject]})
    try:
        sweeps.start(*sweeps.workload(), *SOON, *of_size(size), gpus=size)
        code, log, _ = sweeps.ended()
    finally:
        cluster.kubectl("delete", "clusterrolebinding,clusterrole", name)
    assert code == 2, log
    assert re.search(rf"^error: TP{size}: it needs {size} GPUs on one node; the largest has \d+; lower --max-num-gpus", log, re.MULTILINE), log


def test_a_right_that_is_missing_is_told_before_anything_is_started(sweeps: Sweeps) -> None:
    sweeps.grant("plain-engines", [{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["create", "get"]}])
    sweeps.start(*sweeps.workload(), *SOON, gpus=1)
    code, log, message = sweeps.ended()
    assert code == 2
    account = f"system:serviceaccount:{sweeps.namespace.name}:profile-sweep"
    expected = f"{account} may not create and delete services, delete deployments.apps in namespace {sweeps.namespace.name}"
    assert f"error: {expected}; grant it in the Role of that service account" in log
    assert message.startswith(expected)
    assert sweeps.engines() == []
