"""Pods, counted as workers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sla_planner.cluster.workers import WorkerShape, counted
from sla_planner.plan.observation import WorkerCounts

ALONE = WorkerShape()
NO_GPU = "0/4 nodes are available: 4 Insufficient nvidia.com/gpu."


def pod(name="p", *, phase="Running", ready=True, labels=None, unscheduled="", reason="Unschedulable", going=False, waiting=None, last=None):
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    if unscheduled:
        conditions.append({"type": "PodScheduled", "status": "False", "reason": reason, "message": unscheduled})
    statuses = [{"name": "main", "state": {"waiting": waiting}, "lastState": {"terminated": last} if last else {}}] if waiting else []
    return {
        "metadata": {"name": name, "labels": labels or {}, **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if going else {})},
        "status": {"phase": phase, "conditions": conditions, "containerStatuses": statuses},
    }


def homeless(name, words=NO_GPU, **more):
    return pod(name, phase="Pending", ready=False, unscheduled=words, **more)


def of_group(index, *, labels="lws", ready=True, name=None, **more):
    keys = {
        "lws": ("leaderworkerset.sigs.k8s.io/name", "leaderworkerset.sigs.k8s.io/group-index"),
        "grove": ("grove.io/podcliquescalinggroup", "grove.io/podcliquescalinggroup-replica-index"),
    }[labels]
    return pod(name or f"{index}-{ready}", labels={keys[0]: "engine", keys[1]: str(index)}, ready=ready, **more)


def test_ready_starting_and_unschedulable_are_told_apart():
    pods = [pod("a"), pod("b", ready=False), pod("c", phase="Pending", ready=False), homeless("d")]
    found = counted(pods, 4, ALONE)
    assert found.counts == WorkerCounts(1, 2, 1)
    assert (found.unplaced, found.trouble) == (NO_GPU, "")


def test_what_has_no_pod_yet_is_starting_and_what_is_going_or_gone_is_not_counted():
    pods = [
        pod("a"),
        pod("b", going=True),
        homeless("c", going=True),
        pod("d", phase="Failed", ready=False),
        pod("e", phase="Succeeded", ready=False),
    ]
    found = counted(pods, 3, ALONE)
    assert found.counts == WorkerCounts(1, 2, 0)
    assert found.unplaced == ""


def test_a_pod_that_waits_behind_a_gate_has_no_place():
    found = counted([homeless("a", "Scheduling is blocked due to non-empty scheduling gates", reason="SchedulingGated")], 1, ALONE)
    assert found.counts == WorkerCounts(0, 0, 1)


def test_a_pod_that_the_scheduler_has_not_looked_at_is_starting():
    assert counted([homeless("a", reason="SchedulerError")], 1, ALONE).counts == WorkerCounts(0, 1, 0)


def test_a_rolling_update_has_more_pods_than_are_asked_for():
    found = counted([pod("old-1"), pod("old-2"), homeless("new-1"), pod("new-2", ready=False)], 2, ALONE)
    assert found.counts == WorkerCounts(2, 0, 0)
    assert found.unplaced == ""


def test_nothing_asked_for_is_no_worker():
    assert counted([pod("a")], 0, ALONE).counts == WorkerCounts(0, 0, 0)


@pytest.mark.parametrize("labels", ["lws", "grove"])
def test_a_worker_of_several_nodes_is_one_and_ready_when_all_its_pods_are(labels):
    pods = [
        *(of_group(0, labels=labels, name=f"0-{index}") for index in range(2)),
        of_group(1, labels=labels, name="1-0"),
        of_group(1, labels=labels, name="1-1", ready=False),
        of_group(2, labels=labels, name="2-0"),
        of_group(2, labels=labels, name="2-1", ready=False, phase="Pending", unscheduled=NO_GPU),
        of_group(3, labels=labels, name="3-0"),
    ]
    assert counted(pods, 5, WorkerShape(pods=2)).counts == WorkerCounts(1, 3, 1)


def test_pods_that_a_quota_keeps_from_being_made_have_no_place():
    found = counted([pod("a")], 3, ALONE, unmade="exceeded quota: gpus")
    assert found.counts == WorkerCounts(1, 0, 2)
    assert found.unplaced == "exceeded quota: gpus"
    assert counted([pod("a"), pod("b"), pod("c")], 3, ALONE, unmade="exceeded quota: gpus").unplaced == ""


@pytest.mark.parametrize(
    ("waiting", "last", "words"),
    [
        ({"reason": "ImagePullBackOff", "message": "Back-off pulling image x"}, None, "pod p: ImagePullBackOff: Back-off pulling image x"),
        (
            {"reason": "CrashLoopBackOff", "message": "back-off 10s"},
            {"reason": "OOMKilled", "exitCode": 137},
            "pod p: CrashLoopBackOff, last ended with OOMKilled (exit code 137)",
        ),
        ({"reason": "CreateContainerConfigError"}, None, "pod p: CreateContainerConfigError"),
        ({"reason": "ContainerCreating"}, None, ""),
    ],
)
def test_why_a_worker_does_not_start(waiting, last, words):
    found = counted([pod("p", phase="Pending", ready=False, waiting=waiting, last=last)], 1, ALONE)
    assert found.counts == WorkerCounts(0, 1, 0)
    assert found.trouble == words


@given(
    pods=st.lists(
        st.builds(pod, st.uuids().map(str), ready=st.booleans(), unscheduled=st.sampled_from(["", NO_GPU]), going=st.booleans()), max_size=8
    ),
    asked=st.integers(0, 8),
    unmade=st.sampled_from(["", "quota"]),
)
def test_the_three_always_add_up_to_what_is_asked_for(pods, asked, unmade):
    counts = counted(pods, asked, ALONE, unmade).counts
    assert counts.total == asked
    assert min(counts.ready, counts.starting, counts.unschedulable) >= 0
