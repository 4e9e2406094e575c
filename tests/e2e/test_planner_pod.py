"""The planner in its pod, as it is shipped, with two plain Deployments and no Dynamo: under a real load, as a CronJob, and killed at every write."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from .conftest import Document, Namespace
from .serving import FLOOD, Form, Load, Serving, load_test

pytestmark = pytest.mark.cluster

KILLER = ("killed_at_writes.py", "gate.py")
HIGH_WATER = """
import pathlib, resource, subprocess, sys
status = subprocess.run(["sla-planner", *sys.argv[1:]]).returncode
group = pathlib.Path("/sys/fs/cgroup")
(most,) = [file.read_text() for file in (group / "memory.peak", group / "memory" / "memory.max_usage_in_bytes") if file.exists()]
print(f"{resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MiB resident, {int(most) / 2**20:.0f} MiB charged to its container")
sys.exit(status)
"""


@pytest.fixture
def serving(namespace: Namespace, image: Callable[[str], str], python_image: str, tmp_path: Path) -> Serving:
    return Serving(namespace, image, python_image, tmp_path)


def test_two_plain_deployments_follow_a_real_load_up_and_down(
    serving: Serving, namespace: Namespace, cluster: Namespace, image: Callable[[str], str]
) -> None:
    """Simulated engines, requests that are answered, the overlay's own settings but for the promise and the time between decisions."""
    patient = {"sizing": None, "load_predictor": None, "no_correction": None}
    serving.deploy(Form(engines=True), **patient, adjustment_interval=2, startup_s=4, grace_s=8, ttft=200, itl=6)
    with serving.journal() as journal:
        namespace.apply(*load_test(image("profile-sweep"), Load(6, isl=3000, osl=300), duration_s=400))
        for role in ("prefill", "decode"):
            namespace.until(f"deployment/{role}", lambda found: found["status"].get("readyReplicas", 0) > 1)
        namespace.kubectl("delete", "pod", "load", "--grace-period=1")
        serving.until_counts(1, 1)
    print(f"prefill {journal.of('prefill')}, decode {journal.of('decode')}")
    used = namespace.kubectl("exec", serving.planner()["metadata"]["name"], "--", "grep", "VmHWM", "/proc/1/status")
    print(f"the continuous planner: {used.split(':')[1].strip()} at most")
    assert "dynamo" not in cluster.kubectl("get", "all,configmaps", "--namespace", namespace.name, "-o", "name")
    scaled = serving.events("ScalingDecision")
    assert {event["regarding"]["name"] for event in scaled} == {"prefill", "decode"}
    assert serving.planner()["status"]["containerStatuses"][0]["restartCount"] == 0


def test_the_cron_job_decides_within_its_limits(serving: Serving, namespace: Namespace) -> None:
    """The first run has one reading of the page only; the second decides from two."""
    serving.deploy(Form(continuous=False), adjustment_interval=60)
    serving.load(FLOOD)
    first = serving.once("first")
    assert (first["exitCode"], first["reason"]) == (0, "Completed")
    assert "first reading" in "".join(serving.said)
    second = serving.once("second")
    assert (second["exitCode"], second["reason"]) == (0, "Completed")
    assert second["message"] == "Decision written to Deployment/prefill and Deployment/decode (prefill=3, decode=2)"
    assert serving.counts() == (3, 2)
    print(f"first decision {_decided_after_s(namespace, 'second', second):.1f} s after its container started, to the second")

    job = json.loads(namespace.kubectl("create", "job", "measured", "--from=cronjob/planner", "--dry-run=client", "-o", "json"))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["memory"] == "128Mi"
    container["command"] = ["python", "-c", HIGH_WATER]
    namespace.apply(job)
    assert serving.ended("measured")["exitCode"] == 0
    print(f"the planner as a Job: at most {serving.said[-1]}, of 128 MiB")


def _decided_after_s(namespace: Namespace, job: str, ended: Document) -> float:
    """The container's start is known to the second."""
    lines = namespace.logs(f"job/{job}", "--timestamps").splitlines()
    decided = next(line.split()[0] for line in lines if "Scaling prefill workers" in line)
    return (datetime.fromisoformat(decided[:26] + "+00:00") - datetime.fromisoformat(ended["startedAt"])).total_seconds()


def test_a_planner_that_is_killed_after_any_of_its_writes_applies_nothing_twice(serving: Serving, namespace: Namespace) -> None:
    """With the pod, the account and the rights of the CronJob; killed_at_writes.py says how."""
    serving.deploy(Form(continuous=False), adjustment_interval=60)
    serving.load(FLOOD)
    files = {name: Path(__file__).with_name(name).read_text() for name in KILLER}
    namespace.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "killer"}, "data": files})
    job = namespace.get("cronjob/planner")["spec"]["jobTemplate"]
    pod = job["spec"]["template"]["spec"]
    pod["volumes"].append({"name": "killer", "configMap": {"name": "killer"}})
    (container,) = pod["containers"]
    container["volumeMounts"].append({"name": "killer", "mountPath": "/killer"})
    container["command"] = ["python", f"/killer/{KILLER[0]}"]
    container["resources"]["limits"]["memory"] = "256Mi"  # for two programs
    namespace.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "killer"}, "spec": job["spec"]})
    assert serving.ended("killer")["exitCode"] == 0, serving.said
    *pairs, whole = [json.loads(line) for line in namespace.logs("job/killer").splitlines() if line.startswith("{")]
    assert whole["exit_code"] == 0, whole["log"]
    assert len(pairs) > 5, "it writes two counts, its memory and two Events, and is killed before and after each"
    for pair in pairs:
        (before, since), (between, _), (after, until) = pair["before"], pair["between"], pair["after"]
        assert pair["exit_code"] == 0, pair
        assert all(count in choice for count, *choice in zip(between, before, pair["wanted"], strict=True)), pair
        assert after == pair["wanted"], pair
        assert until - since == 2, f"each count is written once: {pair}"
        assert "Hands off" not in pair["log"]
        assert "afresh" not in pair["log"]
    halves = [pair["between"] for pair in pairs if pair["between"][0] not in (pair["before"][0], pair["wanted"])]
    assert halves, "else none was killed between its two counts"
