"""The planner's processes on a Kubernetes API: of two with a Lease one acts, and one run stays within its memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from tests.cluster.api_stand_in import api_stand_in
from tests.cluster.scaled import deployment
from tests.conftest import free_ports
from tests.stages.frontend_page import frontend
from tests.stages.test_planner import PROGRAM, http, started_processes

from sla_planner.store.profile_files import sample_profile_dir

MEMORY_LIMIT_KIB = 128 * 1024
CPU_LIMIT_S = 5.0
FLAGS = ["--environment", "kubernetes", "--prefill-target", "deployment/prefill", "--decode-target", "deployment/decode"]
FLAGS += ["--profile-results-dir", str(sample_profile_dir()), "--state", "configmap:sla-planner-status", "--min-endpoint", "2"]


@pytest.fixture
def cluster():
    with api_stand_in() as stand_in:
        for name in ("prefill", "decode"):
            stand_in.put(deployment(name))
        yield stand_in


@pytest.fixture
def kubeconfig(cluster, tmp_path):
    file = tmp_path / "kubeconfig"
    named = {"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "here"}}
    clusters, users = [{"name": "test", "cluster": {"server": cluster.url}}], [{"name": "test", "user": {"token": "secret"}}]
    config = {"apiVersion": "v1", "kind": "Config", "current-context": "test", "contexts": [named], "clusters": clusters, "users": users}
    file.write_text(json.dumps(config))
    return str(file)


def test_of_two_planners_the_holder_of_the_lease_acts_and_hands_over_when_it_ends(cluster, page, kubeconfig):
    page.text = frontend(0, 0)
    quick = ["--scrape-url", page.url, "--adjustment-interval", 0.3, "--lease", "planner", "--log-format", "human"]
    with started_processes() as begin:
        first = begin("planner", *FLAGS, *quick, KUBECONFIG=kubeconfig, POD_NAME="one")
        first.line("Decision written to Deployment/.* .prefill=2, decode=2")
        (port,) = free_ports(1)
        second = begin("planner", *FLAGS, *quick, "--prometheus-port", port, KUBECONFIG=kubeconfig, POD_NAME="two")
        second.line("Standing by: lease planner is held by one")
        assert http(port, "/healthz") == (200, "ok\n")
        assert http(port, "/readyz") == (200, "ok\n"), "else a rolling update waits for ever"
        assert second.count("New adjustment interval started!") == 0
        assert first.end() == 0
        second.line("No scaling needed .prefill=2, decode=2.")
        assert cluster.get("leases", "planner")["spec"]["holderIdentity"] == "two"
        assert second.count("afresh|could not be") == 0, "it goes on from what the first one remembered"
        assert second.end() == 0
    assert cluster.get("leases", "planner")["spec"]["holderIdentity"] == ""


@pytest.mark.e2e
def test_who_stands_by_acts_as_soon_as_it_may_however_long_the_interval_is(cluster, page, kubeconfig):
    page.text = frontend(0, 0)
    held = {"holderIdentity": "gone", "leaseDurationSeconds": 3600, "renewTime": "2026-01-01T00:00:00.000000Z"}
    cluster.put({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "planner"}, "spec": held})
    flags = ["--scrape-url", page.url, "--adjustment-interval", 3600, "--lease", "planner", "--log-format", "human"]
    with started_processes() as begin:
        planner = begin("planner", *FLAGS, *flags, KUBECONFIG=kubeconfig, POD_NAME="two")
        planner.line("Standing by: lease planner is held by gone")
        cluster.change("leases", "planner", lambda lease: lease["spec"].update(holderIdentity=""))
        planner.line("New adjustment interval started!")
        assert planner.end() == 0


MEASURED = """
import json, resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stderr=subprocess.DEVNULL).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([code, used.ru_maxrss, used.ru_utime + used.ru_stime]))
"""


def test_one_run_stays_within_the_limits_of_its_pod(cluster, page, kubeconfig):
    flags = [*FLAGS, "--scrape-url", page.url, "--once", "--log-format", "human"]
    command = [*PROGRAM, "planner", *map(str, flags)]
    for index in range(2):
        page.text = frontend(500 * index, 500 * index)
        # From a small process: a child begins with the peak of whoever starts it.
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, *command], env=os.environ | {"KUBECONFIG": kubeconfig}, capture_output=True, check=True
        )
        code, peak_kib, cpu_s = json.loads(done.stdout)
        assert code == 0
        assert peak_kib < MEMORY_LIMIT_KIB
        assert cpu_s < CPU_LIMIT_S, "of processor time: from start to exit, one decision made"
    assert min(cluster.get("deployments", name)["spec"]["replicas"] for name in ("prefill", "decode")) >= 2


def test_scipy_and_statsmodels_are_loaded_only_where_they_are_needed():
    script = "import sys, sla_planner.stages.planner_loop, sla_planner.stages.planner_kubernetes\n"
    script += "print(sorted({'scipy', 'statsmodels', 'matplotlib', 'aiohttp'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
