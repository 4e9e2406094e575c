"""Faults around a planner that runs as a pod, as it is shipped: what it needs goes away, comes back, and it is killed itself."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from . import node
from .conftest import ControlPlane, Namespace
from .serving import FLOOD, NONE, ROLES, Load, Serving

pytestmark = pytest.mark.cluster


@pytest.fixture
def serving(namespace: Namespace, image: Callable[[str], str], python_image: str, tmp_path: Path) -> Serving:
    return Serving(namespace, image, python_image, tmp_path)


def test_an_api_server_that_goes_away_is_waited_for(serving: Serving, control_plane: ControlPlane) -> None:
    """Longer than a Lease may go unrenewed: then the planner no longer acts, and it takes up again what it held."""
    serving.deploy()
    serving.load(FLOOD)
    serving.until_ready(3, 2)
    pod = serving.planner()
    with serving.journal() as journal:
        serving.ticks(1)
        control_plane.stop("apiserver")
        said = node.until_said(pod, "The number of workers is unknown: the Kubernetes API at")
        node.until_said(pod, "Nothing decided: the number of workers is unknown", after=said)
        node.until_said(pod, "Standing by", after=said)
        control_plane.start("apiserver")
        serving.until("Ready", "True")
        serving.ticks(2)
        held = (journal.of("prefill"), journal.of("decode"))
        serving.load(NONE)
        serving.until_counts(1, 1)
        serving.ticks(1)
    assert held == ([3], [2])
    assert (journal.of("prefill"), journal.of("decode")) == ([3, 1], [2, 1])
    assert serving.planner()["metadata"]["uid"] == pod["metadata"]["uid"]
    assert serving.planner()["status"]["containerStatuses"][0]["restartCount"] == 0
    log = node.log(pod)
    assert "afresh" not in log
    assert "Traceback" not in log
    assert serving.events("ActuationConflict") == []


def test_without_prometheus_the_fleet_is_held(serving: Serving, namespace: Namespace) -> None:
    serving.prometheus()
    serving.deploy(scrape_url=None, prometheus_url="http://prometheus:9090")
    serving.load(FLOOD)
    serving.until_counts(3, 2)
    with serving.journal() as journal:
        namespace.kubectl("scale", "deployment/prometheus", "--replicas=0")
        namespace.kubectl("delete", "pods", "--selector=app=prometheus", "--force", "--grace-period=0")
        lost = serving.until("MetricsAvailable", "False", "MetricsUnavailable")
        assert "http://prometheus:9090" in lost["message"]
        serving.load(NONE)  # which nobody sees
        assert serving.until_event("MetricsUnavailable")["type"] == "Warning"
        serving.ticks(3)
        assert (journal.of("prefill"), journal.of("decode")) == ([3], [2])
        assert serving.status()["lastDecision"]["prefill"]["reason"] == "unknown-metrics"
        assert "holding 3: traffic is unknown" in serving.log()

        namespace.kubectl("scale", "deployment/prometheus", "--replicas=1")
        serving.until("MetricsAvailable", "True")
        serving.until_counts(1, 1)
    assert (journal.of("prefill"), journal.of("decode")) == ([3, 1], [2, 1])


def test_a_planner_that_is_killed_again_and_again_scales_once(serving: Serving, namespace: Namespace, control_plane: ControlPlane) -> None:
    """Its process and its pod, at moments of a tick that a seed picks, while the load rises and while the grace period runs."""
    moments = random.Random(7)
    serving.deploy(adjustment_interval=4, max_prefill_replicas=12, max_decode_replicas=12, grace_s=10)
    with serving.journal() as journal:
        serving.load(Load(29, osl=280))  # 2.4 workers and 1.5: a window that is measured 20 % wrong changes nothing
        for way in ("kill", "delete", "kill"):
            _kill(serving, namespace, way, moments.choice(STAGES))
        serving.until_counts(3, 2)
        serving.ticks(2)
        before = serving.remembered()
        serving.load(NONE)
        for way in ("delete", "kill"):
            _kill(serving, namespace, way, moments.choice(STAGES))
        serving.until_counts(1, 1)
        serving.ticks(1)
    after = serving.remembered()
    for role, most in zip(ROLES, (3, 2), strict=True):
        counts = journal.of(role)
        top = counts.index(most)
        assert max(counts) == most, counts
        assert counts == [*sorted(set(counts[:top])), *sorted(set(counts[top:]), reverse=True)], "no count was asked for twice"
    assert after["plan"]["gpu_seconds"] > before["plan"]["gpu_seconds"] > 0
    assert serving.events("ActuationConflict") == []


TICK, END = "New adjustment interval started!", "No scaling needed|Decision written"
STAGES = (TICK, "Observed num_req", "Number of prefill workers", "Correction factors", "(Scaling|Keeping) .* prefill worker", END)


def _kill(serving: Serving, namespace: Namespace, way: str, stage: str) -> None:
    """Kills the planner when its next tick says `stage`; returns when another one has ended a tick."""
    pod = serving.planner()
    said = node.until_said(pod, TICK, after=len(node.log(pod)))
    node.until_said(pod, stage, after=said - len(TICK))
    if way == "kill":
        node.kill(pod)
    else:
        namespace.kubectl("delete", "pod", pod["metadata"]["name"], "--force", "--grace-period=0")
    serving.ticks(1)
