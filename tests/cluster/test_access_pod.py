"""An access pod's life: where it goes, what it is, what keeps it from running, and that it is always removed. A thread plays the cluster's part."""

from __future__ import annotations

import contextlib
import logging
import threading

import kubernetes_validate
import pytest
from tests.cluster.api_stand_in import api_stand_in
from tests.cluster.job_controller import CREATING, RUNNING, Controller, container

from sla_planner.cluster import access_pod as module
from sla_planner.cluster.access_pod import access_pod
from sla_planner.cluster.access_pod_manifest import AccessOptions, access_job
from sla_planner.cluster.access_pod_place import Place, place_of
from sla_planner.cluster.access_pod_trouble import AccessEnded
from sla_planner.errors import ForbiddenError, UnreachableError, UsageError

PULL = "failed to pull image reg/x:1: not found"


@pytest.fixture
def cluster():
    with api_stand_in() as stand_in:
        claim(stand_in, "dynamo-pvc")
        yield stand_in


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(module, "_LOOK_S", 1.0)  # as short as the API has it
    monkeypatch.setattr(module, "_REST_S", 0.01)


def claim(cluster, name, modes=("ReadWriteOnce",), *, phase="Bound", **metadata):
    made = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, **metadata}, "spec": {"accessModes": list(modes)}}
    cluster.put({**made, "status": {"phase": phase}})


def user(cluster, name, *, phase="Running", node="gpu-1", of="dynamo-pvc", tolerations=()):
    spec = {"volumes": [{"name": "x"}, {"name": "v", "persistentVolumeClaim": {"claimName": of}}], "tolerations": list(tolerations)}
    if node:
        spec["nodeName"] = node
    cluster.put({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec, "status": {"phase": phase}})


def options(**changed):
    given = {"stage": "inject-config", "claim": "dynamo-pvc", "image": "reg/volume-tools:1", "mount": "/data", "keeper": ("keep",), "writes": True}
    return AccessOptions(**{**given, **changed})


def ended(code, phase="Failed", **more):
    return container({"terminated": {"exitCode": code, **more}}) | {"phase": phase}


class TestPlace:
    def test_a_volume_that_nobody_has_can_be_anywhere(self, cluster):
        user(cluster, "done", phase="Succeeded")
        user(cluster, "waiting", node="", phase="Pending")
        user(cluster, "other", of="another-claim")
        assert place_of(cluster.api(), "dynamo-pvc", writes=True) == Place()

    def test_one_that_is_in_use_is_to_be_had_there(self, cluster):
        toleration = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
        user(cluster, "sweep", tolerations=[toleration])
        assert place_of(cluster.api(), "dynamo-pvc", writes=True) == Place("gpu-1", "sweep", (toleration,))

    def test_one_for_many_nodes_can_be_anywhere(self, cluster):
        claim(cluster, "shared", ("ReadWriteMany",))
        user(cluster, "sweep", of="shared")
        assert place_of(cluster.api(), "shared", writes=True) == Place()

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("nope", "there is no PVC nope in namespace here; name one with --pvc: dynamo-pvc, going, lost, reading, single"),
            ("going", "PVC going in namespace here is being deleted; make it anew, or name another with --pvc"),
            ("lost", "PVC lost in namespace here has lost its volume; make it anew, or name another with --pvc"),
            ("reading", "PVC reading in namespace here is for reading only (ReadOnlyMany); name another with --pvc"),
            ("single", "PVC single in namespace here is ReadWriteOncePod, and pod sweep has it; wait until that pod has ended, or end it"),
        ],
    )
    def test_one_that_cannot_be_used(self, cluster, name, said):
        claim(cluster, "going", deletionTimestamp="2026-01-01T00:00:00Z")
        claim(cluster, "lost", phase="Lost")
        claim(cluster, "reading", ("ReadOnlyMany",))
        claim(cluster, "single", ("ReadWriteOncePod",))
        user(cluster, "sweep", of="single")
        with pytest.raises(UsageError) as caught:
            place_of(cluster.api(), name, writes=True)
        assert str(caught.value) == said

    def test_one_for_reading_can_be_read(self, cluster):
        claim(cluster, "reading", ("ReadOnlyMany",))
        assert place_of(cluster.api(), "reading", writes=False) == Place()

    def test_a_namespace_without_any(self, cluster):
        with pytest.raises(UsageError, match=r"there is no PVC dynamo-pvc in namespace there; that namespace has none; is --namespace right?"):
            place_of(cluster.api("there"), "dynamo-pvc", writes=True)


class TestManifest:
    def test_it_is_a_valid_job_of_no_rights(self):
        job = access_job(options(pull_secret="regcred"), Place("gpu-1", "sweep", ({"key": "gpu", "operator": "Exists"},)), "1a2b3c4d")
        kubernetes_validate.validate(job, "1.37", strict=True)
        pod = job["spec"]["template"]["spec"]
        (one,) = pod["containers"]
        assert job["metadata"]["name"] == "inject-config-1a2b3c4d"
        assert "namespace" not in job["metadata"]
        assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert one["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        assert one["volumeMounts"] == [{"name": "data", "mountPath": "/data", "readOnly": False}]
        assert pod["imagePullSecrets"] == [{"name": "regcred"}]
        assert pod["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
        (term,) = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        assert term == {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["gpu-1"]}]}

    def test_it_takes_itself_away(self):
        spec = access_job(options(), Place(), "1")["spec"]
        assert (spec["backoffLimit"], spec["template"]["spec"]["restartPolicy"]) == (0, "Never")
        assert spec["activeDeadlineSeconds"] <= 24 * 3600
        assert spec["ttlSecondsAfterFinished"] <= 300

    def test_a_reader_gets_nothing_that_it_could_write(self):
        (one,) = access_job(options(writes=False), Place(), "1")["spec"]["template"]["spec"]["containers"]
        assert one["volumeMounts"][0]["readOnly"] is True

    def test_without_need_it_chooses_no_node(self):
        assert access_job(options(), Place(), "1")["spec"]["template"]["spec"].keys().isdisjoint({"affinity", "tolerations", "nodeSelector"})


class TestLife:
    def test_it_lends_its_volume_and_is_gone(self, cluster):
        with Controller(cluster, CREATING, RUNNING), access_pod(cluster.api(), options()) as pod:
            (job,) = cluster.names("jobs")
            assert pod.name == f"{job}-abcde"
        assert (cluster.names("jobs"), cluster.names("pods")) == ([], [])

    @pytest.mark.parametrize("end", [KeyboardInterrupt, UsageError("x"), ZeroDivisionError])
    def test_however_it_ends(self, cluster, end):
        with Controller(cluster, RUNNING), contextlib.suppress(BaseException), access_pod(cluster.api(), options()):
            raise end
        assert (cluster.names("jobs"), cluster.names("pods")) == ([], [])

    def test_it_goes_where_the_volume_is(self, cluster, caplog):
        user(cluster, "sweep")
        with caplog.at_level(logging.INFO), Controller(cluster, RUNNING), access_pod(cluster.api(), options()):
            (job,) = cluster.names("jobs")
            assert "affinity" in cluster.get("jobs", job)["spec"]["template"]["spec"]
        assert caplog.messages == ["Pod sweep has the volume on node gpu-1; the access pod goes there"]

    def test_a_job_that_may_have_been_made_is_removed(self, cluster):
        """The answer to its creation was lost."""
        made = threading.Event()

        def lose(call):
            if call.verb == "create" and not made.is_set():
                made.set()
                cluster.put(call.body)
                return 0
            return None

        cluster.failures.append(lose)
        with pytest.raises(UnreachableError), access_pod(cluster.api(), options()):
            pass
        assert (made.is_set(), cluster.names("jobs")) == (True, [])

    def test_one_that_was_refused_is_not_looked_for(self, cluster, caplog):
        cluster.deny("create", "jobs")
        with pytest.raises(ForbiddenError, match="may not create jobs in namespace here"), access_pod(cluster.api(), options()):
            pass
        assert [call.verb for call in cluster.writes()] == ["create"]
        assert caplog.messages == []

    def test_one_that_cannot_be_removed_is_told(self, cluster, caplog):
        cluster.deny("delete", "jobs")
        with Controller(cluster, RUNNING), access_pod(cluster.api(), options()):
            (job,) = cluster.names("jobs")
        (told,) = caplog.messages
        assert told.startswith(f"Job {job} could not be removed (")
        assert told.endswith("); it ends by itself, and the cluster removes it")

    def test_what_earlier_runs_have_left_is_removed(self, cluster):
        def old(name, age_h, *, ready=0, over=False, role="volume-access"):
            status = {"ready": ready, "conditions": [{"type": "Complete", "status": "True"}] if over else []}
            metadata = {"name": name, "labels": {"slaplanner.io/role": role}, "creationTimestamp": f"2026-01-01T{10 - age_h:02}:00:00Z"}
            cluster.put({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {}, "status": status})

        old("old-over", 0, over=True)
        old("old-never-started", 2)
        old("old-lives", 2, ready=1)
        old("old-begins", 0)
        old("old-of-others", 5, over=True, role="other")

        def date(call):
            if call.verb == "create":
                call.body["metadata"]["creationTimestamp"] = "2026-01-01T10:00:00Z"

        cluster.failures.append(date)
        with Controller(cluster, RUNNING), access_pod(cluster.api(), options()):
            left = [name for name in cluster.names("jobs") if name.startswith("old")]
        assert left == ["old-begins", "old-lives", "old-of-others"]


class TestTrouble:
    def refused(self, cluster, *states, **changed):
        wanted = options(**changed)
        with pytest.raises((UsageError, UnreachableError)) as caught, Controller(cluster, *states), access_pod(cluster.api(), wanted):
            pass
        assert cluster.names("jobs") == []
        return caught.value

    def test_an_image_that_is_not_there(self, cluster):
        error = self.refused(cluster, CREATING, container({"waiting": {"reason": "ErrImagePull", "message": PULL}}))
        assert str(error) == (
            f"the access pod cannot run: the image of volume, reg/x:1, cannot be pulled: ErrImagePull: {PULL}; "
            "give --access-image, and --image-pull-secret where its registry wants one"
        )
        assert error.exit_code == 2

    def test_no_node(self, cluster, caplog):
        message = "0/2 nodes are available: 2 Insufficient cpu."
        unplaced = {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]}
        error = self.refused(cluster, unplaced, start_limit_s=0.2)
        assert "0/2 nodes are available: 2 Insufficient cpu." in error.message
        assert error.exit_code == 4
        assert len(caplog.messages) == 1
        assert caplog.messages[0].startswith("The access pod waits: ")

    def test_an_image_of_something_else(self, cluster):
        cluster.logs = dict.fromkeys(["x"], "")
        state = ended(1, reason="Error")
        cluster.failures.append(lambda call: cluster.logs.__setitem__(call.name, "No module named sla_planner") if "log" in call.resource else None)
        error = self.refused(cluster, state)
        assert str(error) == (
            "the access pod cannot run: the container volume ended: exit code 1 (No module named sla_planner); "
            "is --access-image the volume-tools image of this version?"
        )

    def test_a_quota(self, cluster, monkeypatch):
        from sla_planner.cluster import pod_trouble

        monkeypatch.setattr(pod_trouble, "REFUSED_S", 0.0)
        note = 'Error creating: pods "x" is forbidden: exceeded quota: q'

        def refuse(call):
            if call.verb == "create":
                name = call.body["metadata"]["name"]
                regarding = {"kind": "Job", "name": name}
                event = {"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "regarding": regarding}
                cluster.put({**event, "type": "Warning", "reason": "FailedCreate", "note": note})

        cluster.failures.append(refuse)
        error = self.refused(cluster)
        assert str(error) == f"the access pod cannot run: no pod is let in: {note}; the namespace's quota or policy has to let it in"

    def test_a_claim_whose_class_is_not_there(self, cluster, caplog):
        message = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."
        unplaced = {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]}
        event = {"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "regarding": {"name": "dynamo-pvc"}}
        cluster.put({**event, "type": "Warning", "reason": "ProvisioningFailed", "note": 'storageclass "fast" not found'})
        error = self.refused(cluster, unplaced, start_limit_s=0.2)
        assert error.message.endswith('PersistentVolumeClaims. (dynamo-pvc: storageclass "fast" not found)')
        assert error.hint == "look at the claim: kubectl describe pvc"

    def test_nothing_happens(self, cluster):
        error = self.refused(cluster, start_limit_s=0.1)
        assert error.message.startswith("the access pod did not start in 0.1 s: Job inject-config-")
        assert error.message.endswith(" has made no pod")
        assert error.exit_code == 4

    def test_it_is_not_looked_for_where_one_may_not_look(self, cluster):
        cluster.deny("list", "events")
        error = self.refused(cluster, start_limit_s=0.1)
        assert error.exit_code == 4


class TestEndedUnderUs:
    @pytest.mark.parametrize(
        ("state", "said"),
        [
            ({"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."}, "Evicted: The node was low on memory."),
            (ended(137, reason="OOMKilled"), "OOMKilled"),
            (ended(0, "Succeeded"), "exit code 0"),
        ],
    )
    def test_the_same_command_again_goes_on(self, cluster, state, said):
        with Controller(cluster, RUNNING), access_pod(cluster.api(), options()) as pod:
            cluster.change("pods", pod.name, lambda found: found.update(status=state))
            cluster.fail(500, resource="pods/exec")
            with pytest.raises(AccessEnded) as caught:
                pod.start(["x"])
        assert caught.value.exit_code == 4
        assert caught.value.message.startswith(f"the access pod {pod.name} has ended: ")
        assert said in caught.value.message

    def test_gone(self, cluster):
        with Controller(cluster, RUNNING) as controller, access_pod(cluster.api(), options()) as pod:
            controller.states, controller.jobs = (), []  # from now on it looks away
            cluster.drop("pods", pod.name)
            cluster.fail(404, resource="pods/exec")
            with pytest.raises(AccessEnded, match="is gone; the same command goes on from here"):
                pod.start(["x"])

    def test_a_keeper_that_failed_is_the_images_fault(self, cluster):
        with Controller(cluster, RUNNING), access_pod(cluster.api(), options()) as pod:
            cluster.change("pods", pod.name, lambda found: found.update(status=ended(1)))
            cluster.logs[pod.name] = "No module named sla_planner"
            cluster.fail(500, resource="pods/exec")
            with pytest.raises(UsageError, match=r"the access pod has failed: .*No module named sla_planner.*; is --access-image"):
                pod.start(["x"])

    def test_one_that_lives_may_be_asked_again(self, cluster):
        with Controller(cluster, RUNNING), access_pod(cluster.api(), options()) as pod:
            cluster.fail(500, resource="pods/exec")
            with pytest.raises(UnreachableError):
                pod.start(["x"])
