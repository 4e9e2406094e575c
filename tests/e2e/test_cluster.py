"""The ground that all other cluster tests stand on: names, volumes, admission, scheduling, logs, and an API server that goes away."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
import requests

pytestmark = pytest.mark.cluster

CONFINED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


def pod(name, image, script, *, claim=None, gpus=0, memory=None):
    """A pod as `restricted` wants it that runs a shell script once, with a claim at /data."""
    container = {"name": "main", "image": image, "command": ["sh", "-c", script], "securityContext": CONFINED}
    limits = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    if memory:
        limits["memory"] = memory
    container["resources"] = {"limits": limits}
    spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    if claim:
        spec["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]
        container["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


def claim(name, mode="ReadWriteOnce", **more):
    spec = {"accessModes": [mode], "resources": {"requests": {"storage": "1Mi"}}, **more}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def ended(namespace, name):
    """Phase and exit code of a pod that has ended."""
    done = namespace.until(f"pod/{name}", lambda found: found["status"]["phase"] in ("Succeeded", "Failed"))
    return done["status"]["phase"], done["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]


def test_a_service_is_reached_by_its_name(namespace, python_image):
    server = pod("server", python_image, "echo hello > /tmp/index.html && exec python -m http.server --directory /tmp 8080")
    server["spec"]["containers"][0]["volumeMounts"] = [{"name": "tmp", "mountPath": "/tmp"}]
    server["spec"]["containers"][0]["readinessProbe"] = {"tcpSocket": {"port": 8080}, "periodSeconds": 1}
    server["spec"]["volumes"] = [{"name": "tmp", "emptyDir": {}}]
    ports = {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8080}]}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": ports}
    fetch = f"""
import time, urllib.request
for name in ("web", "web.{namespace.name}", "web.{namespace.name}.svc.cluster.local"):
    while True:
        try:
            print(urllib.request.urlopen(f"http://{{name}}/index.html", timeout=5).read().decode().strip(), flush=True)
            break
        except OSError as error:  # rules for a new service take a moment to reach the node
            time.sleep(0.1)
"""
    namespace.apply(server, service, pod("client", python_image, f"exec python -c '{fetch}'"))

    namespace.wait("pod/server", "condition=Ready")

    assert ended(namespace, "client") == ("Succeeded", 0)
    assert namespace.logs("pod/client").split() == ["hello"] * 3


@pytest.mark.parametrize("mode", ["ReadWriteOnce", "ReadWriteMany"])
def test_a_volume_is_written_by_one_pod_and_read_by_the_next(namespace, python_image, mode):
    namespace.apply(claim("kept", mode), pod("writer", python_image, "id -u > /data/owner", claim="kept"))
    assert ended(namespace, "writer") == ("Succeeded", 0)

    namespace.apply(pod("reader", python_image, "cat /data/owner", claim="kept"))

    assert ended(namespace, "reader") == ("Succeeded", 0)
    assert namespace.logs("pod/reader") == "65532\n"


def test_a_volume_ends_with_its_claim(namespace, cluster):
    namespace.apply(claim("short"))
    volume = namespace.until("persistentvolumeclaim/short", lambda found: found["status"]["phase"] == "Bound")["spec"]["volumeName"]

    namespace.kubectl("delete", "persistentvolumeclaim", "short")

    cluster.wait(f"persistentvolume/{volume}", "delete")


def test_a_volume_of_class_small_can_be_full(namespace, python_image, control_plane):
    script = "head -c 900000 /dev/zero > /data/fits && head -c 900000 /dev/zero > /data/too-much"
    namespace.apply(claim("little", storageClassName="small"), pod("writer", python_image, script, claim="little"))

    phase, code = ended(namespace, "writer")

    assert (phase, code != 0) == ("Failed", True)
    assert "No space left on device" in namespace.logs("pod/writer")


def test_a_volume_of_class_first_consumer_waits_for_a_pod(namespace, python_image, control_plane):
    namespace.apply(claim("late", storageClassName="first-consumer"))
    namespace.until("persistentvolumeclaim/late", lambda found: _has_event(namespace, "late", "WaitForFirstConsumer"))
    assert namespace.get("persistentvolumeclaim/late")["status"]["phase"] == "Pending"

    namespace.apply(pod("writer", python_image, "touch /data/file", claim="late"))

    assert ended(namespace, "writer") == ("Succeeded", 0)


def test_a_privileged_pod_is_refused(namespace, python_image):
    privileged = pod("rude", python_image, "true")
    privileged["spec"]["containers"][0]["securityContext"] = {"privileged": True}

    said = namespace.refused("apply", "-f", "-", input=json.dumps(privileged))

    assert 'violates PodSecurity "restricted:latest": privileged' in said


def test_who_has_no_role_is_forbidden(namespace):
    account = f"system:serviceaccount:{namespace.name}:default"
    assert "forbidden" in namespace.refused("get", "pods", f"--as={account}")

    namespace.kubectl("create", "role", "reader", "--verb=list", "--resource=pods")
    namespace.kubectl("create", "rolebinding", "reader", "--role=reader", f"--serviceaccount={namespace.name}:default")

    namespace.kubectl("get", "pods", f"--as={account}")
    assert "forbidden" in namespace.refused("get", "secrets", f"--as={account}")


def test_gpus_are_given_out_once(namespace, python_image):
    (capacity,) = {int(node["status"]["allocatable"].get("nvidia.com/gpu", "0")) for node in namespace.get("nodes")["items"]}
    namespace.apply(pod("all", python_image, "sleep infinity", gpus=capacity))
    namespace.wait("pod/all", "condition=Ready")
    namespace.apply(pod("more", python_image, "true", gpus=1))

    waiting = namespace.until("pod/more", lambda found: found["status"].get("conditions"))

    assert waiting["status"]["phase"] == "Pending"
    (why,) = [condition for condition in waiting["status"]["conditions"] if condition["type"] == "PodScheduled"]
    assert why["reason"] == "Unschedulable"
    assert "Insufficient nvidia.com/gpu" in why["message"]
    namespace.kubectl("delete", "pod", "all")
    assert ended(namespace, "more") == ("Succeeded", 0)


def test_memory_has_a_limit(namespace, python_image):
    namespace.apply(pod("greedy", python_image, "exec python -c 'bytearray(200_000_000)'", memory="64Mi"))

    ended(namespace, "greedy")

    status = namespace.get("pod/greedy")["status"]["containerStatuses"][0]
    assert status["state"]["terminated"]["reason"] == "OOMKilled"


def test_logs_exec_and_port_forward(namespace, python_image):
    namespace.apply(pod("server", python_image, "echo started; exec python -m http.server --directory /etc 8080"))
    namespace.wait("pod/server", "condition=Ready")

    assert "started" in namespace.logs("pod/server")
    assert namespace.kubectl("exec", "server", "--", "id", "-u") == "65532\n"
    command = ["kubectl", "--namespace", namespace.name, "port-forward", "pod/server", ":8080"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forward:
        try:
            port = re.search(r"127\.0\.0\.1:(\d+)", forward.stdout.readline()).group(1)
            answer = requests.get(f"http://127.0.0.1:{port}/hostname", timeout=60).text
        finally:
            forward.kill()
    assert answer.strip() == "server"


def test_the_api_server_comes_back_with_what_it_knew(namespace, python_image, control_plane):
    namespace.apply(pod("survivor", python_image, "sleep infinity"))
    namespace.wait("pod/survivor", "condition=Ready")
    before = namespace.get("pod/survivor")

    control_plane.stop("apiserver")
    assert "refused" in namespace.refused("get", "pods")
    control_plane.start("apiserver")

    after = namespace.get("pod/survivor")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["status"]["containerStatuses"][0]["restartCount"] == 0
    namespace.apply(pod("new", python_image, "true"))
    assert ended(namespace, "new") == ("Succeeded", 0)


def test_a_kubelet_that_comes_back_has_its_gpus(namespace, python_image, control_plane):
    control_plane.stop("kubelet")
    control_plane.start("kubelet")

    namespace.apply(pod("worker", python_image, "true", gpus=1))

    assert ended(namespace, "worker") == ("Succeeded", 0)


def _has_event(namespace, name, reason):
    events = namespace.get("events")["items"]
    return any(event["involvedObject"]["name"] == name and event["reason"] == reason for event in events)
