"""Deployment requests under faults: a reconciler that is killed at every write, what is too large for a ConfigMap, and deletion in every state.

AI Configurator computes the profiles. Nothing here depends on how fast that is.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from .conftest import Document, Namespace, awaited
from .gate import Gate
from .requests_followed import Requests, gone
from .serving import CONFINED, IDLER, NOBODY

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
HELD = "configmaps,jobs,deployments,services,persistentvolumeclaims,serviceaccounts,roles,rolebindings,dynamographdeployments,dgdr"
RUNS_LIMIT_S = 1200.0  # for dozens of runs
HOLDS_BYTES = 5_000
LARGE_BYTES = 600_000  # twice that is more than a ConfigMap holds
ONLY_TOLD = ("leases", "events")  # writes that may come again: who acts, and what was said before


@pytest.fixture(scope="module")
def requests(
    cluster: Namespace, dynamo: Path, module_namespace: Namespace, image: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Requests]:
    made = Requests(module_namespace, image)
    made.install(tmp_path_factory.mktemp("requests"))
    made.prometheus("killed")
    yield made
    gone(cluster)


# killed


@pytest.fixture
def stopped(requests: Requests) -> Iterator[Requests]:
    """Without the reconciler that is installed."""
    requests.scale_reconciler(0)
    yield requests
    requests.scale_reconciler(1)


@pytest.fixture
def gate(stopped: Requests) -> Iterator[Gate]:
    """To the API as the account of the reconciler."""
    namespace = stopped.namespace
    admin = json.loads(namespace.kubectl("config", "view", "--raw", "--minify", "--flatten", "--output=json"))["clusters"][0]["cluster"]
    token = namespace.kubectl("create", "token", "reconcile-requests").strip()
    authority = base64.b64decode(admin["certificate-authority-data"]).decode()
    opened = Gate(admin["server"], authority, token, counts=lambda path: "/leases/" not in path)
    yield opened
    opened.close()


def test_a_reconciler_that_is_killed_at_every_write_makes_nothing_twice(stopped: Requests, gate: Gate, tmp_path: Path) -> None:
    """From the request to the deployment that serves. Each run is killed when the API has accepted its first write, before it learns of that; where
    that one was only said again (an Event), the next run gets one write further."""
    namespace = stopped.namespace
    config = tmp_path / "requests.yaml"
    config.write_text(json.dumps(stopped.settings()))
    gate.kubeconfig(tmp_path / "kubeconfig", namespace.name)
    command = [sys.executable, "-m", "sla_planner", "reconcile-requests", "--once", "--config", str(config), "--lease", "reconcile-requests"]
    environment = os.environ | {"KUBECONFIG": str(tmp_path / "kubeconfig"), "POD_NAME": "reconcile-requests-1"}
    namespace.apply(stopped.offline("killed", autoApply=True))
    kills, allowed = 0, 1

    def ready() -> bool:
        nonlocal kills, allowed
        done = len(lasting(gate))
        code, log = gate.run(command, environment, allowed)
        assert code in (0, -signal.SIGKILL), log
        allowed = 1 if code == 0 or len(lasting(gate)) > done else allowed + 1
        kills += code != 0
        return code == 0 and namespace.get("dgdr/killed")["status"].get("state") == "Ready"

    awaited(ready, lambda: namespace.kubectl("get", "dgdr", "killed", "--output=yaml"), RUNS_LIMIT_S)
    made = Counter((path.rsplit("/", 1)[-1], name) for method, path, name in lasting(gate) if method == "POST")
    assert made == {
        ("configmaps", "dgdr-output-killed"): 1,
        ("configmaps", "planner-profile-data-killed"): 1,
        ("configmaps", "planner-profile-data"): 1,
        ("jobs", "profile-killed"): 1,
        ("dynamographdeployments", "killed"): 1,
    }
    assert kills > len(made), "it was killed when it had made each of them, and when it had said so"
    told = [each["reason"] for each in namespace.get("events.events.k8s.io")["items"] if each["regarding"].get("name") == "killed"]
    assert Counter(told).items() >= {(reason, 1) for reason in ("ProfilingJobCreated", "SpecGenerated", "DeploymentCreated", "DeploymentReady")}
    assert namespace.get("dynamographdeployment/killed")["metadata"]["generation"] == 1
    namespace.kubectl("delete", "dgdr/killed", "dynamographdeployment/killed")
    awaited(lambda: not stopped.left("killed"), lambda: stopped.left("killed"))


def lasting(gate: Gate) -> list[tuple[str, str, str]]:
    """Its writes, without those of which more than one changes nothing."""
    return [each for each in gate.written if not any(f"/{kind}" in each[1] for kind in ONLY_TOLD)]


# too large


def test_a_profile_that_no_config_map_holds_is_told_and_nothing_of_it_stays(requests: Requests, cluster: Namespace) -> None:
    """For a sweep that takes a ConfigMap to hold 5,000 bytes, since a profile of a million takes days."""
    namespace = requests.namespace
    with starting_with(cluster, namespace, "profile-large", f"import sla_planner.cluster.publication as p; p.MOST_BYTES = {HOLDS_BYTES}"):
        namespace.apply(requests.offline("large"))
        found = requests.until("large", "Failed", "AIConfiguratorFailed")
    assert f"a ConfigMap holds {HOLDS_BYTES:,}; mount the results folder, or measure fewer points" in found["status"]["message"]
    assert "a ConfigMap holds" in requests.until_event("large", "AIConfiguratorFailed")
    assert "configmap/planner-profile-data-large" not in requests.left("large")
    assert "dynamographdeployment" not in " ".join(requests.left("large"))
    (job,) = [each for each in namespace.get("jobs")["items"] if each["metadata"]["name"] == "profile-large"]
    assert job["status"]["failed"] == 1, "it is not tried again"
    namespace.kubectl("delete", "dgdr", "large")
    awaited(lambda: not requests.left("large"), lambda: requests.left("large"))


@contextlib.contextmanager
def starting_with(cluster: Namespace, namespace: Namespace, job: str, statements: str) -> Iterator[None]:
    """The pod of a Job begins with these statements of Python: the API server puts them before its program."""
    name, program = f"{namespace.name}-first", f"{statements}; from sla_planner.cli import main; main()"
    command = json.dumps(["python", "-c", program])
    patch = f"[JSONPatch{{op: 'add', path: '/spec/containers/0/command', value: {command}}}]"
    head = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": name}}
    constraints = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace.name}},
        "objectSelector": {"matchLabels": {"batch.kubernetes.io/job-name": job}},
        "resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
    }
    mutation = {"patchType": "JSONPatch", "jsonPatch": {"expression": patch}}
    spec = {"failurePolicy": "Fail", "reinvocationPolicy": "Never", "matchConstraints": constraints, "mutations": [mutation]}
    cluster.apply(
        {**head, "kind": "MutatingAdmissionPolicy", "spec": spec}, {**head, "kind": "MutatingAdmissionPolicyBinding", "spec": {"policyName": name}}
    )
    probe = {**holder("probe", "nothing", 0), "metadata": {"name": "probe", "labels": {"batch.kubernetes.io/job-name": job}}}
    create = ("create", "--dry-run=server", "--output=json", "-f", "-")
    try:
        awaited(lambda: statements in namespace.kubectl(*create, input=json.dumps(probe)), lambda: "the API server does not heed the policy")
        yield
    finally:
        cluster.kubectl("delete", "mutatingadmissionpolicybinding,mutatingadmissionpolicy", name)


def test_a_base_manifest_that_the_output_has_no_room_for_is_told(requests: Requests) -> None:
    """It is kept as it was measured, and once more as what was generated of it."""
    namespace = requests.namespace
    base = yaml.safe_load((ROOT / "scripts/sla_planner/graphs/trtllm/disagg.yaml").read_text())
    (service, *_) = base["spec"]["services"].values()
    service.setdefault("envs", []).append({"name": "PADDING", "value": "x" * LARGE_BYTES})
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "base"}, "data": {"disagg.yaml": yaml.safe_dump(base)}}
    namespace.kubectl("create", "-f", "-", input=json.dumps(config_map))  # `apply` would keep it a second time
    bulky = requests.offline("bulky", autoApply=True)
    bulky["spec"]["profilingConfig"]["configMapRef"] = {"name": "base", "key": "disagg.yaml"}
    namespace.apply(bulky)
    said = requests.until("bulky", "Failed", "TooLarge")["status"]["message"]
    assert re.search(r"the ConfigMap dgdr-output-bulky would have 1,2\d\d,\d{3} bytes, it holds 1,000,000", said)
    assert "make the manifest in the ConfigMap base (spec.profilingConfig.configMapRef) smaller" in said
    requests.until_event("bulky", "TooLarge")
    assert not [found for found in requests.left("bulky") if found.startswith("dynamographdeployment")]
    namespace.kubectl("delete", "dgdr/bulky", "configmap/base")
    awaited(lambda: not requests.left("bulky"), lambda: requests.left("bulky"))


# deleted


def test_a_request_that_is_deleted_in_any_state_takes_along_what_was_made_for_it_and_nothing_else(
    requests: Requests, cluster: Namespace, python_image: str
) -> None:
    """All GPUs are taken, so that what is deployed goes on waiting. Only a deployment stays, with its profile."""
    namespace = requests.namespace
    (node,) = cluster.get("nodes")["items"]
    namespace.apply(holder("gpus", python_image, int(node["status"]["allocatable"]["nvidia.com/gpu"])))
    namespace.wait("pod/gpus", "condition=Ready")
    namespace.apply(requests.offline("stays"))
    requests.until("stays", "Ready")
    before = held(namespace)

    waiting = requests.sample("profile_sla_dgdr.yaml", hardware={"min_num_gpus_per_engine": 64, "max_num_gpus_per_engine": 64})
    waiting["metadata"]["name"] = "waiting"
    fails = requests.offline("fails")
    fails["spec"]["profilingConfig"]["config"]["sweep"]["aic_hf_id"] = "nobody/has-this"
    namespace.apply(requests.offline("profiles"))
    requests.until("profiles", "Profiling")
    namespace.kubectl("delete", "dgdr", "profiles")
    namespace.apply(waiting, fails, requests.offline("generated"), requests.offline("deploys", autoApply=True))
    requests.until("waiting", "Pending", "GPUsMissing")
    requests.until("fails", "Failed")
    requests.until("generated", "Ready")
    requests.until("deploys", "Deploying")
    namespace.until("dynamographdeployment/deploys", lambda found: found.get("status", {}).get("state") == "pending")
    namespace.until("configmap/planner-profile-data-deploys", lambda found: len(found["metadata"]["ownerReferences"]) == 2)
    namespace.kubectl("delete", "dgdr", "waiting", "fails", "generated", "deploys")

    names, profile = ("profiles", "waiting", "fails", "generated"), "configmap/planner-profile-data-deploys"
    stay = {"dynamographdeployment.nvidia.com/deploys", profile}
    awaited(lambda: not requests.left(*names), lambda: requests.left(*names))
    awaited(lambda: set(requests.left("deploys")) == stay, lambda: requests.left("deploys"))
    requests.until_reconciled_by_another()
    assert set(requests.left(*names, "deploys")) == stay

    def others() -> dict[str, str]:
        deployed = ("dynamographdeployment/deploys", profile)
        return {name: uid for name, uid in held(namespace).items() if name not in deployed and "/deploys-" not in name}

    awaited(lambda: others() == before, lambda: (before, others()))
    namespace.kubectl("delete", "dynamographdeployment/deploys")
    namespace.wait("configmap/planner-profile-data-deploys", "delete")
    namespace.kubectl("delete", "dgdr/stays", "pod/gpus", "--grace-period=1")


def held(namespace: Namespace) -> dict[str, str]:
    """Everything but pods: TYPE/NAME and which one of that name it is."""
    columns = r"jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.uid}{'\n'}{end}"
    return dict(line.split() for line in namespace.kubectl("get", HELD, "--output", columns).lower().splitlines())


def holder(name: str, image: str, gpus: int) -> Document:
    """A pod that does nothing, and has so many GPUs."""
    container = {"name": "main", "image": image, "command": ["sh", "-c", IDLER], "securityContext": CONFINED}
    container["resources"] = {"limits": {"nvidia.com/gpu": str(gpus)}}
    spec = {"terminationGracePeriodSeconds": 1, "securityContext": NOBODY, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
