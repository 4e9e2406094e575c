"""Pods as real clusters show them, and what is said of each: in whose words, and how long it may last."""

from __future__ import annotations

import copy

import pytest

from sla_planner.cluster import pod_trouble
from sla_planner.cluster.pod_trouble import failed, has_ended, keeps_from_running, refused, restarts, silent

GPU_WAIT_S = 300.0
NO_VICTIM = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu. preemption: 0/2 nodes are available: 2 No preemption victims found."
TOO_LARGE = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
TAINTED = "0/2 nodes are available: 2 node(s) had taints. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
NO_CLAIM = '0/2 nodes are available: persistentvolumeclaim "model-cache" not found.'
UNBOUND = "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims."


class Told:
    """Clues that a test gives."""

    def __init__(self, events=(), log=""):
        self.all, self.text, self.asked = list(events), log, []

    def events(self, pod):
        return [event for event in self.all if event["regarding"]["name"] == pod]

    def container_log(self, pod, container, *, previous):
        self.asked.append((pod, container, previous))
        return self.text


def pod(name="engine-abc", *, containers=(), conditions=(), phase="Pending", **status):
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "ownerReferences": [{"uid": "rs", "controller": True}]},
        "spec": {"nodeName": "gpu-1", "containers": [{"name": "main", "resources": {"limits": {"memory": "8Gi"}}}], "restartPolicy": "Always"},
        "status": {"phase": phase, "conditions": list(conditions), "containerStatuses": list(containers), **status},
    }


def unplaced(message, reason="Unschedulable"):
    return pod(conditions=[{"type": "PodScheduled", "status": "False", "reason": reason, "message": message}])


def container(state, *, last=None, restarts=0, ready=False, name="main"):
    return {
        "name": name,
        "state": state,
        "lastState": {"terminated": last} if last else {},
        "restartCount": restarts,
        "ready": ready,
        "image": "reg/vllm:1",
    }


def waiting(reason, message="", **more):
    return container({"waiting": {"reason": reason, "message": message}}, **more)


def event(reason, note, about="engine-abc", kind="Normal", at="2026-01-01T00:00:00Z"):
    return {"reason": reason, "note": note, "type": kind, "regarding": {"name": about}, "metadata": {}, "eventTime": at}


def told(*pods, events=(), log=""):
    return keeps_from_running(pods, Told(events, log), gpu_wait_s=GPU_WAIT_S)


RUNNING = pod(phase="Running", containers=[container({"running": {}}, ready=True)], conditions=[{"type": "Ready", "status": "True"}])
OOM = {"exitCode": 137, "reason": "OOMKilled"}
DIED = {"exitCode": 1, "reason": "Error"}


# placing


@pytest.mark.parametrize(
    ("message", "kind", "patience_s"),
    [
        (NO_VICTIM, "in use", GPU_WAIT_S),
        (TOO_LARGE, "not placed", pod_trouble.SCHEDULE_S),
        (TAINTED, "not placed", pod_trouble.SCHEDULE_S),
        (NO_CLAIM, "not placed", pod_trouble.SCHEDULE_S),
        (UNBOUND, "volume", pod_trouble.VOLUME_S),
    ],
)
def test_what_the_scheduler_says_is_told_and_decides_how_long_it_may_last(message, kind, patience_s):
    trouble = told(unplaced(message))
    assert (trouble.kind, trouble.patience_s) == (kind, patience_s)
    assert trouble.what.endswith(message)


@pytest.mark.parametrize("reason", ["TriggeredScaleUp", "Nominated"])
def test_a_node_that_is_on_its_way_is_waited_for(reason):
    trouble = told(unplaced(TOO_LARGE), events=[event("NotTriggerScaleUp", "no"), event(reason, "pool gpu 0->1 (max: 4)", at="2026-01-01T00:00:10Z")])
    assert trouble.what == "waiting for a new node: pool gpu 0->1 (max: 4)"
    assert trouble.patience_s == float("inf")


def test_a_gate_is_waited_at():
    assert told(unplaced("by kueue", "SchedulingGated")).patience_s == float("inf")


# images and containers


@pytest.mark.parametrize(
    ("reason", "message", "patience_s"),
    [
        ("ErrImagePull", 'failed to resolve "reg/vllm:1": reg/vllm:1: not found', 0.0),
        ("ImagePullBackOff", "Back-off pulling image: 401 Unauthorized", 0.0),
        ("InvalidImageName", "Failed to apply default image tag", 0.0),
        ("ErrImageNeverPull", "Container image is not present with pull policy of Never", 0.0),
        ("ErrImagePull", "dial tcp: i/o timeout", pod_trouble.PULL_S),
        ("CreateContainerConfigError", 'secret "hf-token-secret" not found', pod_trouble.CONFIG_S),
        ("RunContainerError", 'exec: "vlmm": executable file not found in $PATH', pod_trouble.CONFIG_S),
    ],
)
def test_what_the_kubelet_says_is_told(reason, message, patience_s):
    trouble = told(pod(containers=[waiting(reason, message)]))
    assert trouble.patience_s == patience_s
    assert f"{reason}: {message}" in trouble.what
    assert not trouble.crashed


def test_a_volume_that_cannot_be_mounted_is_told_by_the_last_event():
    events = [
        event("FailedMount", "old", kind="Warning"),
        event("FailedAttachVolume", "Multi-Attach error", kind="Warning", at="2026-01-01T00:01:00Z"),
    ]
    trouble = told(pod(containers=[waiting("ContainerCreating")]), events=[*events, event("Scheduled", "on gpu-1")])
    assert (trouble.what, trouble.patience_s) == ("its pod cannot begin: FailedAttachVolume: Multi-Attach error", pod_trouble.VOLUME_S)
    assert told(pod(containers=[waiting("ContainerCreating")])) is None


# containers that end


@pytest.mark.parametrize(
    ("status", "patience_s", "words", "previous"),
    [
        (container({"terminated": DIED}), pod_trouble.FIRST_END_S, "exit code 1", False),
        (waiting("CrashLoopBackOff", last=DIED, restarts=1), 0.0, "exit code 1", True),
        (container({"running": {}}, last=DIED, restarts=2), 0.0, "exit code 1", True),
        (container({"terminated": OOM}), 0.0, "killed, out of memory (OOMKilled, its limit is 8Gi)", False),
        (container({"terminated": {"exitCode": 137, "reason": "Error"}}), pod_trouble.FIRST_END_S, "exit code 137 (SIGKILL)", False),
    ],
    ids=["first end", "backing off", "twice", "out of memory", "killed"],
)
def test_a_container_that_ended_is_told_with_its_log(status, patience_s, words, previous):
    clues = Told(log="RuntimeError: no GPU")
    trouble = keeps_from_running([pod(phase="Running", containers=[status])], clues, gpu_wait_s=GPU_WAIT_S)
    assert trouble.what == f"the container main ended: {words}"
    assert (trouble.crashed, trouble.log, trouble.patience_s) == (True, "RuntimeError: no GPU", patience_s)
    assert clues.asked == [("engine-abc", "main", previous)]


def test_one_that_was_started_again_once_gets_its_chance():
    assert told(pod(phase="Running", containers=[container({"running": {}}, last=DIED, restarts=1)])) is None


def test_an_init_container_that_is_done_is_no_trouble_and_one_that_failed_is():
    done, died = container({"terminated": {"exitCode": 0}}, name="fetch"), waiting("CrashLoopBackOff", last=DIED, restarts=3, name="fetch")
    assert told(pod(containers=[waiting("PodInitializing")], initContainerStatuses=[done])) is None
    assert told(pod(containers=[waiting("PodInitializing")], initContainerStatuses=[died])).what == "the container fetch ended: exit code 1"


def test_the_trouble_that_leaves_least_time_is_told_and_pods_that_go_are_none():
    going = pod("old", containers=[waiting("CrashLoopBackOff", last=DIED, restarts=9)])
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert told(going, RUNNING) is None
    assert told(unplaced(NO_VICTIM), pod("other", containers=[waiting("InvalidImageName", "no")])).kind == "image"


def test_a_failed_pod_that_was_replaced_is_forgotten():
    evicted = pod("old", phase="Failed", reason="Evicted", message="The node was low on resource: memory.")
    assert told(evicted, RUNNING) is None
    assert told(evicted).what == "its pod old failed: Evicted: The node was low on resource: memory."
    assert told(evicted).retry


# no pods


def test_a_pod_that_is_not_let_in_is_told_by_quota_or_pod_security():
    quota = event("FailedCreate", 'pods "engine-1-" is forbidden: exceeded quota: gpus', about="engine-7f", kind="Warning")
    assert refused([quota], []).what == 'no pod is let in: pods "engine-1-" is forbidden: exceeded quota: gpus'
    assert refused([quota], [pod("engine-7f-x2")]) is None  # let in after all
    assert refused([], []) is None


def test_who_should_make_pods_is_asked():
    graph = {"kind": "DynamoGraphDeployment", "metadata": {"name": "g"}}
    assert silent([graph]).what == "nothing has made a pod of DynamoGraphDeployment g"
    graph["status"] = {"state": "pending", "conditions": [{"type": "Ready", "status": "False", "message": "waiting for etcd"}]}
    assert silent([graph]).what == "no pod yet: DynamoGraphDeployment: waiting for etcd"
    assert failed([graph]) is None
    graph["status"]["state"] = "failed"
    assert failed([graph]).what == "the operator says failed: waiting for etcd"


# an engine that answered


def after(change):
    """What is said when the running pod has changed."""
    clues, before = Told(log="CUDA error"), restarts([RUNNING])
    now = copy.deepcopy(RUNNING)
    change(now)
    return has_ended(before, [now], clues)


def test_one_that_runs_on_has_not_ended():
    assert after(lambda _: None) is None


def test_restarts_before_it_answered_do_not_count():
    restarted = pod(
        phase="Running", containers=[container({"running": {}}, last=DIED, restarts=1, ready=True)], conditions=[{"type": "Ready", "status": "True"}]
    )
    assert has_ended(restarts([restarted]), [restarted], Told()) is None


def test_what_had_done_its_work_may_end():
    fetch = container({"terminated": {"exitCode": 0}}, name="fetch")
    conditions = [{"type": "Ready", "status": "True"}]
    engine = pod(phase="Running", containers=[container({"running": {}}, ready=True)], initContainerStatuses=[fetch], conditions=conditions)
    done = pod("prepare-x", phase="Succeeded", containers=[container({"terminated": {"exitCode": 0}})])
    before = restarts([engine, done])
    assert has_ended(before, [engine, done], Told()) is None
    assert has_ended(before, [engine], Told()) is None


def test_a_container_that_ended_or_was_started_again_is_its_end():
    def again(now):
        now["status"]["containerStatuses"][0] |= {"restartCount": 1, "lastState": {"terminated": OOM}}

    def over(now):
        now["status"]["containerStatuses"][0] |= {"state": {"terminated": DIED}}

    assert after(again).what == "the container main of its pod engine-abc ended: killed, out of memory (OOMKilled, its limit is 8Gi)"
    assert (after(over).what, after(over).log) == ("the container main of its pod engine-abc ended: exit code 1", "CUDA error")


def test_a_pod_that_is_gone_going_or_evicted_is_its_end():
    before = restarts([RUNNING])
    assert has_ended(before, [], Told()).what == "its pod engine-abc was deleted"
    assert after(lambda now: now["metadata"].update(uid="another")).what == "its pod engine-abc was deleted"

    def drained(now):
        now["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        now["status"]["conditions"].append({"type": "DisruptionTarget", "status": "True", "message": "Eviction API: evicting"})

    assert after(drained).what == "its pod engine-abc is being deleted: Eviction API: evicting"
    assert after(lambda now: now["status"].update(phase="Failed", reason="Evicted")).what == "its pod engine-abc failed: Evicted"


def test_a_node_that_is_lost_is_its_end_and_a_slow_readiness_probe_is_not():
    def lost(now):
        now["status"]["conditions"] = [{"type": "Ready", "status": "False"}]

    def slow(now):
        lost(now)
        now["status"]["containerStatuses"][0]["ready"] = False

    assert after(lost).what == "its node gpu-1 does not answer any more"
    assert after(lost).retry
    assert after(slow) is None
