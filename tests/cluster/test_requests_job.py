"""A profiling Job as the cluster has it, by hand: state, verdict, trouble, progress."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from sla_planner.cluster.requests_job import job_seen, pods_of_job
from sla_planner.request.seen import JobState, Progress

from .api_stand_in import api_stand_in

AT = "2026-01-31T12:00:00Z"
NOW_S = datetime.fromisoformat("2026-01-31T12:01:30+00:00").timestamp()
UID = "slaplanner.io/request-uid"


@pytest.fixture
def cluster():
    with api_stand_in() as stand_in:
        yield stand_in


def job(*conditions, uid="u", **status):
    return {"metadata": {"name": "profile-chat", "labels": {UID: uid}}, "status": {"conditions": list(conditions), **status}}


def condition(kind, reason="", message=""):
    return {"type": kind, "status": "True", "reason": reason, "message": message}


def pod(state=None, *, name="p", made=AT, phase="Pending", placed=True, reason=""):
    conditions = [{"type": "PodScheduled", "status": str(placed), "reason": reason, "message": "0/1 nodes", "lastTransitionTime": AT}]
    containers = [{"name": "profiler", "image": "reg/x:1", "state": state, "restartCount": 0}] if state else []
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "creationTimestamp": made, "labels": {"batch.kubernetes.io/job-name": "profile-chat"}},
        "spec": {"containers": [{"name": "profiler"}], "restartPolicy": "Never"},
        "status": {"phase": phase, "conditions": conditions, "containerStatuses": containers},
    }


def ended(code, message="", reason=""):
    return pod({"terminated": {"exitCode": code, "message": message, "reason": reason}}, phase="Failed" if code else "Succeeded")


def seen(cluster, job, *pods, known=True):
    return job_seen(cluster.api(), job, "u", list(pods) if known else None, NOW_S)


def test_whose_it_is(cluster):
    assert seen(cluster, job()).ours
    assert not seen(cluster, job(uid="another")).ours


def test_a_job_without_a_pod_waits(cluster):
    assert seen(cluster, job()).state is JobState.WAITING


def test_why_no_pod_is_let_in(cluster):
    about = {"name": "profile-chat", "kind": "Job"}
    event = {"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "reason": "FailedCreate", "note": "exceeded quota: cpu"}
    cluster.put({**event, "regarding": about})
    found = seen(cluster, job())
    assert (found.state, found.trouble_reason) == (JobState.WAITING, "FailedCreate")
    assert "exceeded quota: cpu" in found.trouble


@pytest.mark.parametrize(("ready", "state"), [(0, JobState.WAITING), (1, JobState.RUNNING)])
def test_without_the_right_to_list_pods_the_job_tells(cluster, ready, state):
    assert seen(cluster, job(ready=ready), known=False).state is state


def test_an_image_that_cannot_be_pulled_and_for_how_long(cluster):
    found = seen(cluster, job(), pod({"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}))
    assert (found.state, found.trouble_reason, found.waiting_s) == (JobState.WAITING, "ImagePullBackOff", 90.0)
    assert "reg/x:1" in found.trouble


def test_a_pod_that_no_node_takes(cluster):
    found = seen(cluster, job(), pod(placed=False, reason="Unschedulable"))
    assert (found.state, found.trouble_reason) == (JobState.WAITING, "Unschedulable")
    assert "0/1 nodes" in found.trouble


def test_the_newest_pod_counts_and_its_log_tells_how_far_it_is(cluster):
    told = {"progress": {"phase": "SweepingDecode", "mapping": "decode TP:2", "point": 4, "points": 9, "eta_s": 60}}
    cluster.logs["second"] = f"half a line\n{json.dumps(told)}\n"
    pods = pod({"terminated": {"exitCode": 4}}, name="first", phase="Failed"), pod({"running": {}}, name="second", made="2026-01-31T12:01:00Z")
    cluster.put(pods[1])
    found = seen(cluster, job(), *pods)
    assert (found.state, found.trouble) == (JobState.RUNNING, "")
    assert found.progress == Progress("SweepingDecode", "decode TP:2", 4, 9, 60.0)
    cluster.deny("get", "pods/log")
    assert seen(cluster, job(), *pods).progress is None


@pytest.mark.parametrize(
    ("conditions", "pods", "state", "code", "verdict"),
    [
        ([condition("Complete")], [ended(0, "Suggested\nand more\n")], JobState.SUCCEEDED, 0, "Suggested; and more"),
        ([condition("SuccessCriteriaMet")], [], JobState.SUCCEEDED, None, ""),
        ([condition("Failed", "BackoffLimitExceeded", "too often")], [ended(3, "no mapping keeps it")], JobState.FAILED, 3, "no mapping keeps it"),
        ([condition("FailureTarget", "PodFailurePolicy", "x")], [ended(2, "error: wrong")], JobState.FAILED, 2, "error: wrong"),
        ([condition("Failed", "DeadlineExceeded", "was active longer")], [], JobState.FAILED, None, "DeadlineExceeded: was active longer"),
        (
            [condition("Failed", "Backoff", "too often")],
            [ended(137, "", "OOMKilled")],
            JobState.FAILED,
            137,
            "out of memory (OOMKilled); Backoff: too often",
        ),
        ([condition("Failed", "BackoffLimitExceeded", "too often")], [], JobState.FAILED, None, "BackoffLimitExceeded: too often"),
    ],
)
def test_how_it_ended(cluster, conditions, pods, state, code, verdict):
    found = seen(cluster, job(*conditions), *pods)
    assert (found.state, found.exit_code, found.verdict) == (state, code, verdict)


def test_where_no_word_was_left_the_last_line_of_the_log_counts(cluster):
    traceback = "Traceback\n  File x\n  File y\n  File z\nValueError: a fault\n"
    lines = [json.dumps({"message": f"line {index}"}) for index in range(6)]
    assert seen(cluster, job(condition("Failed")), ended(1, traceback)).verdict == "ValueError: a fault"
    assert seen(cluster, job(condition("Failed")), ended(1, "\n".join(lines))).verdict == "line 5"


def test_pods_of_a_job_are_found_by_its_label(cluster):
    cluster.put(pod())
    cluster.put({**pod(name="other"), "metadata": {"name": "other", "labels": {}}})
    assert [each["metadata"]["name"] for each in pods_of_job(cluster.api(), "profile-chat")] == ["p"]
