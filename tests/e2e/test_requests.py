"""Deployment requests on a real control plane: the samples, from `kubectl apply` to a model that is served and scaled; their faults; the guide.

Engines are simulated. What a reader chooses is chosen: namespace, registry, how much is measured, and how long things may take.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import PATIENCE_S, Document, Namespace
from .requests_followed import Requests, gone
from .test_quick_start import CLUSTER_BLOCK, SLOWER, Shell, changed, checked_out

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
ONLINE_LIMIT_S, OFFLINE_LIMIT_S = 1800.0, 300.0  # promised are 600 and 60, on a machine that does nothing else
LOADED = ["--trace", "sample", "--scale", "4", "--duration-s", "300"]
PLANNED_SOON = {"planner_adjustment_interval": 5, "planner_startup_s": 5, "planner_grace_s": 20, "planner_min_endpoint": 1}


@pytest.fixture(scope="module")
def engine_args() -> str:
    """Slow enough for a small machine to load more than one."""
    return f"--model-error {(SLOWER - 1) * 100}"


@pytest.fixture(scope="module")
def requests(
    cluster: Namespace, dynamo: Path, module_namespace: Namespace, image: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Requests]:
    made = Requests(module_namespace, image)
    made.install(tmp_path_factory.mktemp("requests"))
    made.prometheus("vllm-disagg")
    yield made
    gone(cluster)


def quick(requests: Requests, file: str, gpus: dict[str, int]) -> Document:
    """An online sample that measures few points of a slow engine."""
    return requests.sample(
        file,
        sla={"isl": 600, "osl": 150, "ttft": 200 * SLOWER, "itl": 20 * SLOWER},
        hardware=gpus,
        engine={"max_context_length": 2048},
        sweep={"prefill_interpolation_granularity": 4, "decode_interpolation_granularity": 5},
        planner=PLANNED_SOON,
    )


def test_without_the_operator_it_waits_and_says_so(cluster: Namespace, namespace: Namespace, image: Callable[[str], str], tmp_path: Path) -> None:
    """First, while there is no stand-in of it."""
    requests = Requests(namespace, image)
    requests.install(tmp_path)
    try:
        namespace.apply(requests.sample("profile_sla_dgdr.yaml"))
        found = requests.until("sla-online", "Pending", "DeploymentAPIMissing")
        assert "install the Dynamo operator" in found["status"]["message"]
        assert namespace.get("jobs")["items"] == []
    finally:
        gone(cluster)


@pytest.fixture(scope="module")
def online(requests: Requests) -> Document:
    """The online sample, Ready. TP 1 and 2 are measured; the reconciler is killed once while it profiles and once while it deploys."""
    namespace = requests.namespace
    begun_s = time.monotonic()
    wanted = quick(requests, "profile_sla_dgdr.yaml", {"max_num_gpus_per_engine": 2})
    wanted["spec"]["profilingConfig"]["outputPVC"] = "dynamo-pvc"
    namespace.apply(wanted)
    requests.until("sla-online", "Profiling")
    requests.kill_reconciler()
    said = namespace.refused("patch", "dgdr", "sla-online", "--type=merge", "--patch", '{"spec":{"model":"another/model"}}')
    assert "profiling" in said.lower(), said
    seen = namespace.until("dgdr/sla-online", lambda found: found["status"].get("progress", {}).get("point"), ONLINE_LIMIT_S)["status"]
    assert seen["progress"]["points"] >= seen["progress"]["point"] >= 1
    assert seen["profilingPhase"].startswith("Sweeping")
    requests.until("sla-online", "Deploying", timeout_s=ONLINE_LIMIT_S)
    requests.kill_reconciler()
    found = requests.until("sla-online", "Ready", timeout_s=ONLINE_LIMIT_S)
    print(f"the online sample: Ready after {time.monotonic() - begun_s:.0f} s")
    return found


def test_the_online_sample_ends_as_a_model_that_is_served_and_scaled(requests: Requests, online: Document) -> None:
    namespace = requests.namespace
    assert online["status"]["phase"] == "Deployed"
    assert len(namespace.get("jobs")["items"]) == 1
    listed = namespace.kubectl("get", "dgdr", "sla-online").splitlines()
    assert re.split(r"\s{2,}", listed[0].strip())[:5] == ["NAME", "MODEL", "BACKEND", "STATE", "DGD-STATE"]
    assert re.search(r"Qwen/Qwen3-0\.6B\s+vllm\s+Ready\s+successful", listed[1])
    for reason in ("Initialized", "ProfilingJobCreated", "SpecGenerated", "DeploymentCreated", "DeploymentReady"):
        requests.until_event("sla-online", reason)

    path = f"/api/v1/namespaces/{namespace.name}/services/vllm-disagg-frontend:8000/proxy/v1/models"
    assert "Qwen/Qwen3-0.6B" in namespace.kubectl("get", "--raw", path)
    requests.until_planner_said("New adjustment interval started!")
    before = requests.replicas("vllm-disagg")
    assert list(before.values()) == [1, 1]
    load = [str(Path(sys.executable).parent / "sla-planner"), "load-test", "--model", "Qwen/Qwen3-0.6B", *LOADED]
    with (
        requests.forwarded("service/vllm-disagg-frontend") as url,
        subprocess.Popen([*load, "--url", url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as loading,
    ):
        try:
            requests.until_planner_said(r"Scaling (prefill|decode) workers: 1 -> [2-9] \(.+\)")
        finally:
            loading.kill()


@pytest.mark.usefixtures("online")
def test_its_artefacts_lie_on_the_volume(requests: Requests, image: Callable[[str], str], tmp_path: Path) -> None:
    """With the command that checks what it copies, and by hand through a plain pod."""
    namespace, folder = requests.namespace, "/data/profiling_results/sla-online"
    program = str(Path(sys.executable).parent / "sla-planner")
    where = ("--namespace", namespace.name, "--access-image", image("volume-tools"))
    copied = tmp_path / "results"
    subprocess.run([program, "download-results", *where, "--folder", folder, "--output-dir", str(copied)], check=True, capture_output=True)
    pod = (ROOT / "manifests/volume/pvc-access-pod.yaml").read_text()
    namespace.apply(changed(pod, {"sla-planner/volume-tools:0.1.0": image("volume-tools")}))
    namespace.wait("pod/pvc-access-pod", "condition=Ready")
    namespace.kubectl("cp", f"{namespace.name}/pvc-access-pod:{folder}", str(tmp_path / "by-hand"))
    namespace.kubectl("delete", "pod", "pvc-access-pod")
    there = {str(file.relative_to(copied)) for file in copied.rglob("*") if file.is_file()}
    assert there == {str(file.relative_to(tmp_path / "by-hand")) for file in (tmp_path / "by-hand").rglob("*") if file.is_file()}
    for wanted in ("report.html", "profile.json", "prefill_performance.png", "selected_decode_interpolation/raw_data.npz"):
        assert wanted in there
    for measured in ("tp1", "tp2"):  # what was deployed for each mapping, and what it said
        assert any(measured in name.lower() and name.endswith(".yaml") for name in there), sorted(there)
        assert any(measured in name.lower() and name.endswith(".log") for name in there), sorted(there)


@pytest.mark.usefixtures("online")
def test_a_deployment_that_is_deleted_is_told_and_not_made_again(requests: Requests) -> None:
    """Of the request before; what it made of it goes with the request."""
    namespace = requests.namespace
    namespace.kubectl("delete", "dynamographdeployment", "vllm-disagg")
    requests.until("sla-online", "DeploymentDeleted")
    requests.until_event("sla-online", "DeploymentDeleted")
    requests.until_reconciled_by_another()
    assert "vllm-disagg" not in namespace.kubectl("get", "dynamographdeployments", "--output=name")
    namespace.kubectl("delete", "dgdr", "sla-online")
    for found in requests.left("sla-online"):
        namespace.wait(found, "delete")


def test_the_sample_with_experts(requests: Requests) -> None:
    """On two GPUs: TEP for prefill, DEP for decode."""
    namespace = requests.namespace
    namespace.apply(quick(requests, "profile_sla_moe_dgdr.yaml", {"min_num_gpus_per_engine": 2, "max_num_gpus_per_engine": 2}))
    found = requests.until("sla-moe", "Ready", timeout_s=ONLINE_LIMIT_S)
    assert re.search(r"prefill on TEP:?2, decode on DEP:?2", json.dumps(found["status"]["conditions"]))
    namespace.kubectl("delete", "dgdr/sla-moe", "dynamographdeployment/sglang-disagg")


def test_what_goes_wrong_ends_in_a_state_an_event_and_nothing_left(requests: Requests) -> None:
    """Many requests at once, each with a fault of its own."""
    namespace = requests.namespace
    lonely = requests.offline("no-image")
    lonely["spec"]["profilingConfig"]["profilerImage"] = "localhost/nowhere:1"
    fails = requests.offline("fails")
    fails["spec"]["profilingConfig"]["config"]["sweep"]["aic_hf_id"] = "nobody/has-this"
    impossible = requests.offline("impossible")
    impossible["spec"]["profilingConfig"]["config"]["sla"] |= {"ttft": 1, "itl": 1}
    wrong = requests.offline("wrong")
    wrong["spec"]["profilingConfig"]["config"]["planner"] = {"planner_min_endpoints": 2}
    large = requests.sample("profile_sla_dgdr.yaml", hardware={"min_num_gpus_per_engine": 64, "max_num_gpus_per_engine": 64})
    large["metadata"]["name"] = "large"
    keyless = requests.offline("keyless")
    keyless["spec"]["profilingConfig"]["configMapRef"] = {"name": "mine", "key": "disagg.yaml"}
    namespace.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine"}, "data": {"other.yaml": ""}})
    namespace.apply(*[lonely, fails, impossible, wrong, large, keyless])

    said = {}
    for name, state, reason in (
        ("wrong", "Failed", "ValidationFailed"),
        ("large", "Pending", "GPUsMissing"),
        ("keyless", "Pending", "BaseManifestMissing"),
        ("fails", "Failed", "AIConfiguratorFailed"),
        ("impossible", "Failed", "SLAInfeasible"),
        ("no-image", "Failed", "ImagePullFailed"),
    ):
        said[name] = requests.until(name, state, reason)["status"]["message"]
        requests.until_event(name, reason)
    assert "min_endpoint" in said["wrong"]
    assert "an engine needs 64 GPUs" in said["large"]
    assert "has no key disagg.yaml, its keys: other.yaml" in said["keyless"]
    assert "nobody/has-this" in said["fails"]
    assert "nothing was relaxed" in said["impossible"]
    assert "localhost/nowhere:1" in said["no-image"]
    namespace.wait("job/profile-no-image", "delete")

    base = (ROOT / "scripts/sla_planner/graphs/trtllm/disagg.yaml").read_text()
    namespace.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine"}, "data": {"disagg.yaml": base}})
    found = requests.until("keyless", "Ready")  # by itself; autoApply is false
    assert found["status"]["phase"] == "Ready"
    assert namespace.kubectl("get", "dynamographdeployments", "--output=name") == ""

    graph = namespace.kubectl("get", "dgdr", "keyless", "-o", "jsonpath={.status.generatedDeployment}")
    namespace.kubectl("apply", "-f", "-", input=graph)
    namespace.until("dgdr/keyless", lambda found: found["status"]["phase"] == "Deployed")
    names = ("wrong", "large", "keyless", "fails", "impossible", "no-image")
    namespace.kubectl("delete", "dgdr", *names)
    for found in requests.left(*names):
        if not found.startswith(("dynamographdeployment", "configmap/planner-profile-data-keyless")):
            namespace.wait(found, "delete")
    assert sorted(requests.left(*names)) == ["configmap/planner-profile-data-keyless", "dynamographdeployment.nvidia.com/keyless"]
    namespace.kubectl("delete", "dynamographdeployment", "keyless")
    namespace.wait("configmap/planner-profile-data-keyless", "delete")  # nobody owns it any more


def test_a_request_that_is_deleted_while_it_profiles_takes_engines_along(requests: Requests) -> None:
    namespace = requests.namespace
    namespace.apply(quick(requests, "profile_sla_dgdr.yaml", {"max_num_gpus_per_engine": 1}))
    namespace.until("job/profile-sla-online", lambda found: found.get("status", {}).get("ready"), ONLINE_LIMIT_S)
    give_up_s = time.monotonic() + PATIENCE_S
    while not namespace.get("dynamographdeployments")["items"]:
        assert time.monotonic() < give_up_s, "no engine was started"
        time.sleep(0.3)
    namespace.kubectl("delete", "dgdr", "sla-online")
    namespace.wait("job/profile-sla-online", "delete")
    for found in namespace.kubectl("get", "dynamographdeployments", "--output=name").split():
        namespace.wait(found, "delete")
    for found in requests.left("sla-online"):  # its pod ends in its own time
        namespace.wait(found, "delete")


def test_the_guide(requests: Requests, namespace: Namespace, image: Callable[[str], str], tmp_path: Path) -> None:
    """Its blocks in their order, in one shell. Last: what it removes is the resource itself."""
    clone, here = checked_out(tmp_path / "clone"), Requests(namespace, image)
    here.prometheus("trtllm-disagg")  # a cluster has one; a planner that reaches none is not ready
    registry, _, rest = image("planner").rpartition("/planner")
    text = (ROOT / "jobs/reconcile-requests/README.md").read_text()
    mine = f"NAMESPACE={namespace.name} REGISTRY={registry} TAG={rest.lstrip(':')}"
    chosen = {
        "NAMESPACE=your-namespace REGISTRY=registry.example.com/team TAG=0.1.0": mine,
        "http://prometheus-kube-prometheus-prometheus.monitoring:9090": "http://prometheus:9090",
    }
    install, ask, watch, use, look, remove = changed("\0".join(CLUSTER_BLOCK.findall(text)), chosen).split("\0")
    shell = Shell(clone, tmp_path / "transcript")
    try:
        shell.run(install)
        begun_s = time.monotonic()
        shell.run(ask)
        here.until("sla-aic", "Deploying", timeout_s=OFFLINE_LIMIT_S)
        print(f"the offline sample: Deploying after {time.monotonic() - begun_s:.0f} s")
        said = shell.run(watch)
        assert "ProfilingJobCreated" in said
        assert "Suggested prefill TP:" in said
        said = shell.run(use)
        assert "trtllm-disagg-frontend" in said
        assert "Qwen/Qwen3-32B" in said
        said = shell.run(look)
        assert "config_with_planner.yaml" in said
        assert "slaplanner.io/profile-digest" in said
        assert json.loads((clone / "my-dgd.yaml").read_text())["metadata"]["labels"]["dgdr.nvidia.com/name"] == "sla-aic"
        shell.run(remove)
    finally:
        shell.close()
    kinds = "deployments,jobs,cronjobs,services,configmaps,persistentvolumeclaims,serviceaccounts,roles,rolebindings,networkpolicies,leases"
    kept = {"configmap/kube-root-ca.crt", "serviceaccount/default", "deployment.apps/prometheus", "service/prometheus", "configmap/prometheus"}
    give_up_s = time.monotonic() + PATIENCE_S
    while left := set(namespace.kubectl("get", f"{kinds},dynamographdeployments", "--output=name").split()) - kept:
        assert time.monotonic() < give_up_s, left
        time.sleep(0.3)
