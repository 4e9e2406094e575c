"""`preflight` on a real cluster: nothing wrong with what the overlay installs, then faults planted one by one, each named alone; and as a Job.

One installation serves all tests: every fault is taken back before the next. Prometheus is reached through the API server (`kubectl proxy`).
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.manifests.objects import ROOT

from sla_planner.cli import run

from .conftest import PATIENCE_S, Document, Namespace, awaited
from .serving import CONFINED, NOBODY, Load, Serving

pytestmark = pytest.mark.cluster

Look = Callable[..., tuple[int, list[dict[str, str]]]]


@pytest.fixture(scope="module")
def serving(module_namespace: Namespace, image: Callable[[str], str], python_image: str, tmp_path_factory: pytest.TempPathFactory) -> Serving:
    """Two Deployments that a continuous planner scales by what Prometheus knows of a frontend that streams."""
    found = Serving(module_namespace, image, python_image, tmp_path_factory.mktemp("overlay"))
    found.prometheus()
    found.deploy(scrape_url=None, prometheus_url="http://prometheus:9090")
    found.load(Load(5))
    awaited(lambda: re.search(r"Observed num_req: [1-9]", found.log()), found.log)  # so Prometheus has seen it
    module_namespace.until("pvc/dynamo-pvc", lambda claim: claim.get("status", {}).get("phase") == "Bound")
    return found


@pytest.fixture(scope="module")
def prometheus_url(serving: Serving) -> Iterator[str]:
    namespace = serving.namespace
    namespace.wait("deployment/prometheus", "condition=Available")
    (pod,) = namespace.kubectl("get", "pods", "--selector=app=prometheus", "--output=jsonpath={.items[*].metadata.name}").split()
    with subprocess.Popen(["kubectl", "proxy", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as proxy:
        try:
            assert proxy.stdout is not None
            address = proxy.stdout.readline().split()[-1]  # Starting to serve on 127.0.0.1:43215
            yield f"http://{address}/api/v1/namespaces/{namespace.name}/pods/{pod}:9090/proxy"
        finally:
            proxy.kill()


@pytest.fixture
def preflight(serving: Serving, prometheus_url: str, capsys: pytest.CaptureFixture[str]) -> Look:
    """`preflight(*flags)`: the exit code and the findings. Later flags win. It looks again where a busy machine has just missed a scrape, which no
    fault here is about."""

    def look(*flags: str) -> tuple[int, list[dict[str, str]]]:
        found: list[tuple[int, list[dict[str, str]]]] = awaited(
            lambda: [each for each in [once(*flags)] if "scraped" not in {told["check"] for told in grave(each[1])}], lambda: "scrapes are missed"
        )
        return found[0]

    def once(*flags: str) -> tuple[int, list[dict[str, str]]]:
        code = run(["preflight", "--json", "--namespace", serving.namespace.name, "--prometheus-url", prometheus_url, *flags])
        out, err = capsys.readouterr()
        assert out, err
        return code, json.loads(out)["findings"]

    return look


def grave(findings: list[dict[str, str]]) -> list[dict[str, str]]:
    """Without what is true of the machine that the tests run on."""
    return [each for each in findings if each["severity"] in ("problem", "warning") and each["check"] not in OF_THE_MACHINE]


OF_THE_MACHINE = {"gpu-labels", "gpus", "kubernetes-version"}


def test_nothing_is_wrong_with_what_the_overlay_installs(preflight: Look) -> None:
    code, findings = preflight()
    assert (code, grave(findings)) == (0, [])
    fine = {each["check"] for each in findings if each["severity"] == "ok"}
    assert {"clock", "installed", "service-accounts", "volume", "metrics", "targets", "runs", "status", "network-policy", "own-rights"} <= fine
    assert {"rights-of-planner", "rights-of-profile-sweep"} <= fine


# ---- faults ---------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """`plant` leaves the namespace with the fault for as long as its block lasts; `flags`: of preflight, where the fault is in what it is told."""

    check: str
    what: str
    fix: str
    plant: Callable[[Namespace], contextlib.AbstractContextManager[object]] = lambda _: contextlib.nullcontext()
    flags: tuple[str, ...] = ()
    code: int = 2


@contextlib.contextmanager
def made(namespace: Namespace, manifest: Document) -> Iterator[None]:
    namespace.apply(manifest)
    try:
        yield
    finally:
        namespace.kubectl("delete", manifest["kind"], manifest["metadata"]["name"], "--wait=true")


def object_of(api_version: str, kind: str, **spec: Any) -> Callable[[Namespace], contextlib.AbstractContextManager[object]]:
    return lambda namespace: made(namespace, {"apiVersion": api_version, "kind": kind, "metadata": {"name": "planted"}, "spec": spec})


def gone(resource: str) -> Callable[[Namespace], contextlib.AbstractContextManager[object]]:
    """TYPE/NAME is not there meanwhile; afterwards it is as it was."""

    @contextlib.contextmanager
    def planted(namespace: Namespace) -> Iterator[None]:
        before = without_servers_fields(namespace.get(resource))
        namespace.kubectl("delete", resource, "--wait=true")
        try:
            yield
        finally:
            namespace.apply(before)

    return planted


def changed(resource: str, *operations: Document) -> Callable[[Namespace], contextlib.AbstractContextManager[object]]:
    """TYPE/NAME is patched meanwhile; afterwards what was patched is as it was."""

    @contextlib.contextmanager
    def planted(namespace: Namespace) -> Iterator[None]:
        before = namespace.get(resource)
        namespace.kubectl("patch", resource, "--type=json", "--patch", json.dumps(operations))
        try:
            yield
        finally:
            parts = {operation["path"].split("/")[1] for operation in operations} - {"metadata"}
            back = [{"op": "replace", "path": f"/{part}", "value": before[part]} for part in sorted(parts)]
            if back:
                namespace.kubectl("patch", resource, "--type=json", "--patch", json.dumps(back))

    return planted


def settings_without_sense(namespace: Namespace) -> contextlib.AbstractContextManager[object]:
    """The planner that runs has read its settings; preflight reads what the next one will."""
    names = namespace.kubectl("get", "configmaps", "--output=name").split()
    (name,) = [each for each in names if each.startswith("configmap/planner-config-")]
    text = json.dumps({**json.loads(namespace.get(name)["data"]["planner.yaml"]), "tpot": 3})
    return changed(name, {"op": "replace", "path": "/data/planner.yaml", "value": text})(namespace)


@contextlib.contextmanager
def paused(namespace: Namespace) -> Iterator[None]:
    namespace.kubectl("annotate", "deployment/decode", "slaplanner.io/paused=true")
    try:
        yield
    finally:
        namespace.kubectl("annotate", "deployment/decode", "slaplanner.io/paused-")


@contextlib.contextmanager
def held_by_git(namespace: Namespace) -> Iterator[None]:
    """As Argo CD's server-side apply of a manifest with replicas does it."""
    manager = ("--server-side", "--field-manager=argocd-controller", "--force-conflicts", "-f", "-")
    head = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "decode"}}
    with paused(namespace):  # or the planner writes, and the field is its own again
        there = namespace.get("deployment/decode")["spec"]
        bare = {key: there[key] for key in ("selector", "template")}
        namespace.kubectl("apply", *manager, input=json.dumps({**head, "spec": {**bare, "replicas": there["replicas"]}}))
        try:
            yield
        finally:
            namespace.kubectl("apply", *manager, input=json.dumps({**head, "spec": bare}))  # a count that nobody holds is 1


@contextlib.contextmanager
def no_pod_for_a_job(namespace: Namespace) -> Iterator[None]:
    """Pod Security keeps it out, and an Event says so."""
    container = {"name": "main", "image": "nothing", "securityContext": {"privileged": True}}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "planted"}, "spec": {"template": template}}
    of_refusals = ("events", "--field-selector=reason=FailedCreate")
    with made(namespace, job):
        give_up_s = time.monotonic() + PATIENCE_S
        while "violates PodSecurity" not in namespace.kubectl("get", *of_refusals, "--output=json"):
            assert time.monotonic() < give_up_s, "no Event says that the pod was refused"
            time.sleep(0.2)
        yield
    namespace.kubectl("delete", *of_refusals)


@contextlib.contextmanager
def image_that_is_nowhere(namespace: Namespace) -> Iterator[None]:
    container = {"name": "main", "image": "localhost/nowhere:1", "imagePullPolicy": "Never", "securityContext": CONFINED}
    with made(
        namespace,
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "planted"}, "spec": {"securityContext": NOBODY, "containers": [container]}},
    ):
        namespace.until("pod/planted", lambda pod: "ErrImageNeverPull" in json.dumps(pod.get("status", {})))
        yield


@contextlib.contextmanager
def planner_at_rest(namespace: Namespace) -> Iterator[None]:
    with changed("deployment/planner", {"op": "replace", "path": "/spec/replicas", "value": 0})(namespace):
        yield
    namespace.wait("deployment/planner", "condition=Available")


@contextlib.contextmanager
def second_planner(namespace: Namespace) -> Iterator[None]:
    """A CronJob that never comes to run."""
    template = namespace.get("deployment/planner")["spec"]["template"]
    template["spec"]["restartPolicy"] = "Never"
    labels = {"app.kubernetes.io/name": "sla-planner", "app.kubernetes.io/component": "planner"}
    spec = {"schedule": "0 0 29 2 *", "jobTemplate": {"spec": {"template": template}}}
    with made(namespace, {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "planted", "labels": labels}, "spec": spec}):
        yield


def claim(**spec: Any) -> Callable[[Namespace], contextlib.AbstractContextManager[object]]:
    modes = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    return object_of("v1", "PersistentVolumeClaim", **{**modes, **spec})


def without_servers_fields(found: Document) -> Document:
    kept = {key: value for key, value in found["metadata"].items() if key in ("name", "labels", "annotations")}
    return {**{key: value for key, value in found.items() if key != "status"}, "metadata": kept}


AUTOSCALER = {
    "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "prefill"},
    "minReplicas": 1,
    "maxReplicas": 3,
    "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 99}}}],
}
SMALL = {"limits": [{"type": "Container", "max": {"memory": "64Mi"}, "default": {"memory": "64Mi"}, "defaultRequest": {"memory": "16Mi"}}]}
PULL_SECRETS = "/spec/jobTemplate/spec/template/spec/imagePullSecrets"
NOWHERE = f"nowhere-{secrets.token_hex(3)}"

FAULTS = {
    "a used-up quota": Fault(
        "quota", "quota planted leaves too little", "edit resourcequota planted", object_of("v1", "ResourceQuota", hard={"pods": "0"})
    ),
    "a LimitRange below our pods": Fault("limit-range", "at most 64Mi", "edit limitrange planted", object_of("v1", "LimitRange", **SMALL)),
    "no account": Fault("service-accounts", "no ServiceAccount profile-sweep", "-f jobs/profile-sweep/service", gone("serviceaccount/profile-sweep")),
    "a verb less": Fault(
        *("rights-of-planner", "may not patch deployments.apps/scale prefill", "create role planner-more-1 --verb=patch"),
        changed("role/planner-workloads", {"op": "replace", "path": "/rules/2/verbs", "value": ["get"]}),
    ),
    "no binding": Fault("rights-of-profile-sweep", "profile-sweep may", "jobs/profile-sweep/role.yaml", gone("rolebinding/profile-sweep")),
    "no pull secret": Fault(
        *("pull-secrets", "CronJob/download-results names the Secret planted", "create secret docker-registry planted"),
        changed("cronjob/download-results", {"op": "add", "path": PULL_SECRETS, "value": [{"name": "planted"}]}),
    ),
    "no settings of a job": Fault(
        *("config-maps", "CronJob/profile-sweep mounts the ConfigMap", "kubectl apply -k ."),
        changed(
            "cronjob/profile-sweep", {"op": "replace", "path": "/spec/jobTemplate/spec/template/spec/volumes/0/configMap/name", "value": "planted"}
        ),
    ),
    "no volume": Fault("volume", f"no PersistentVolumeClaim {NOWHERE}", "kubectl apply -k .", flags=("--pvc", NOWHERE)),
    "a volume of no class": Fault(
        *("volume", "wants the storage class nowhere", "delete pvc planted"), claim(storageClassName="nowhere"), flags=("--pvc", "planted")
    ),
    "a pod that is refused": Fault("refused-pods", "violates PodSecurity", "kubectl label namespace", no_pod_for_a_job),
    "an image that is nowhere": Fault("pods", "localhost/nowhere:1", "describe pod planted", image_that_is_nowhere, code=0),
    "another autoscaler": Fault(
        *("other-autoscaler", "HorizontalPodAutoscaler planted scales deployment/prefill", "delete hpa planted"),
        object_of("autoscaling/v2", "HorizontalPodAutoscaler", **AUTOSCALER),
    ),
    "a forgotten pause": Fault("paused", "Deployment/decode carries", "annotate deployment decode slaplanner.io/paused-", paused, code=0),
    "a count that stands in Git": Fault("gitops", "argocd-controller holds the replicas of deployment/decode", "--show-managed-fields", held_by_git),
    "settings without sense": Fault("settings", "unknown key", "kubectl apply -k YOUR_OVERLAY", settings_without_sense),
    "a planner at rest": Fault("runs", "scaled to zero", "scale deployment planner --replicas=1", planner_at_rest, code=0),
    "two planners": Fault("runs", "two planners run: CronJob planted and Deployment planner", "patch cronjob planted", second_planner),
    "Prometheus cut off": Fault(
        *("network-policy", "connect to port 9090", "patch networkpolicy planner"),
        changed("networkpolicy/planner", {"op": "remove", "path": "/spec/egress/2"}),
        code=0,
    ),
    "no Prometheus": Fault("metrics", "http://127.0.0.1:1 does not answer", "get services", flags=("--prometheus-url", "http://127.0.0.1:1"), code=4),
    "nothing to scale": Fault(
        *("targets", '"nowhere" not found', "get deployments,statefulsets"),
        flags=("--prefill-target", "deployment/nowhere", "--decode-target", "deployment/decode"),
    ),
    "no profile": Fault("profile", "cannot be used", "create job sweep-1 --from=cronjob/profile-sweep", flags=("--profile-results-dir", NOWHERE)),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named_with_its_fix(name: str, preflight: Look, serving: Serving) -> None:
    fault = FAULTS[name]
    with fault.plant(serving.namespace):
        code, findings = preflight(*fault.flags)
    told = grave(findings)
    (first, *_) = [each for each in told if each["check"] == fault.check] or [{}]
    assert fault.what in first.get("what", ""), told
    assert fault.fix in first["fix"]
    assert {each["check"] for each in told} - {fault.check} <= ALONG.get(name, set())
    assert code == fault.code


ALONG = {
    "nothing to scale": {"rights-of-planner"},
    "a count that stands in Git": {"paused"},
    **{name: {"config-maps"} for name in ("settings without sense", "no profile")},  # no profile is known, and none is published
}


def test_all_faults_are_gone_again(preflight: Look, serving: Serving) -> None:
    serving.namespace.wait("deployment/planner", "condition=Available")
    serving.ticks(1)
    code, findings = preflight()
    assert (code, grave(findings)) == (0, [])


def test_a_namespace_that_is_not_there(preflight: Look) -> None:
    code, findings = preflight("--namespace", NOWHERE)
    assert code == 2
    assert next(each["fix"] for each in findings if each["check"] == "namespace") == f"kubectl create namespace {NOWHERE}"


# ---- whose rights it has --------------------------------------------------------------------------------------------------------------------


def test_the_job_sees_what_its_role_allows(serving: Serving, image: Callable[[str], str]) -> None:
    """With the CronJob's pod, account and network policy, inside the cluster: Prometheus under the planner's name for it."""
    serving.namespace.kubectl("create", "job", "preflight-1", "--from=cronjob/preflight")
    ended = serving.ended("preflight-1")
    log = serving.namespace.logs("job/preflight-1")
    assert (ended["exitCode"], ended["reason"]) == (0, "Completed"), log
    assert "Prometheus at http://prometheus:9090 answers" in " ".join(log.split())
    assert "PROBLEM" not in log
    unseen = {line.split()[1] for line in log.splitlines() if line.startswith("? ")}
    assert unseen <= {"gpus", "operator", "request-definition", "model-token", "pull-secrets", "secrets"}, log
    assert ended["message"].endswith("nothing is in the way, as far as can be seen from here")


def test_without_rights_it_says_what_it_may_not_see(serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """As the account `default`, which may nothing."""
    namespace = serving.namespace
    token = namespace.kubectl("create", "token", "default").strip()
    config = json.loads(namespace.kubectl("config", "view", "--raw", "--minify", "--output=json"))
    config["users"][0]["user"] = {"token": token}
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    code = run(["preflight", "--json", "--namespace", namespace.name])
    findings = json.loads(capsys.readouterr().out)["findings"]
    who = f"system:serviceaccount:{namespace.name}:default may not"
    unseen = {each["check"]: each["why"] for each in findings if each["severity"] == "not checked"}
    assert code == 0
    assert {"gpus", "installed", "volume", "quota", "service-accounts", "pods", "refused-pods", "settings"} <= unseen.keys()
    assert all(who in unseen[check] for check in ("gpus", "installed", "volume", "quota"))


def test_the_files_that_fixes_name_are_there() -> None:
    words = {word for fault in FAULTS.values() for word in fault.fix.split()}
    assert all((ROOT / word).exists() for word in words if word.startswith("jobs/") and word.endswith(".yaml"))
