"""Graphs on a real cluster: pods that come, serve, are scaled under load, and go."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from .conftest import document

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("dynamo")]

PATIENCE_S = 300.0


def worker(role, **more):
    return {
        "componentType": "worker",
        "subComponentType": role,
        "replicas": 1,
        "labels": {"app": "pair"},
        "resources": {"limits": {"gpu": "1"}},
        "extraPodSpec": {"mainContainer": {"image": "x", "args": ["--model", "tiny", "--tensor-parallel-size", "1"]}},
        **more,
    }


def graph(name, **services):
    frontend = {"componentType": "frontend", "replicas": 1, "extraPodSpec": {"mainContainer": {"image": "x"}}}
    return {
        "apiVersion": "nvidia.com/v1alpha1",
        "kind": "DynamoGraphDeployment",
        "metadata": {"name": name},
        "spec": {"backendFramework": "vllm", "services": {"Frontend": frontend, **services}},
    }


def ready(found):
    return found.get("status", {}).get("state") == "successful" and found["status"]["observedGeneration"] == found["metadata"]["generation"]


@contextlib.contextmanager
def forwarded(namespace, what) -> Iterator[str]:
    """URL of port 8000 of `what`."""
    command = ["kubectl", f"--namespace={namespace.name}", "port-forward", what, ":8000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            port = re.match(r"Forwarding from 127\.0\.0\.1:(\d+)", process.stdout.readline())
            assert port
            yield f"http://127.0.0.1:{port[1]}"
        finally:
            process.kill()


def tokens(url, count):
    body = {"model": "tiny", "prompt": [1] * 200, "max_tokens": count, "ignore_eos": True, "stream": True}
    with urllib.request.urlopen(f"{url}/v1/completions", json.dumps(body).encode(), timeout=PATIENCE_S) as answer:
        return answer.read().decode().count(" tok")


def page(url, path):
    with urllib.request.urlopen(url + path, timeout=PATIENCE_S) as answer:
        return answer.read().decode()


def until(condition: Callable[[], Any]) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_s
        time.sleep(0.2)


def test_a_pair_of_workers_is_scaled_under_load_and_nothing_is_lost(namespace):
    namespace.apply(graph("pair", prefill=worker("prefill"), decode=worker("decode")))
    namespace.until("dynamographdeployment/pair", ready)
    with forwarded(namespace, "service/pair-frontend") as url, ThreadPoolExecutor(4) as pool:

        def workers() -> list[int]:
            return [len(there) for there in json.loads(page(url, "/sim/state"))["workers"].values()]

        def scale(replicas: int) -> None:
            services = {role: {"replicas": replicas} for role in ("prefill", "decode")}
            patch = json.dumps({"spec": {"services": services}})
            namespace.kubectl("patch", "dynamographdeployments.v1alpha1.nvidia.com", "pair", "--type=merge", "-p", patch)
            until(lambda: workers() == [replicas, replicas])

        answers = [pool.submit(tokens, url, 200) for _ in range(8)]
        for replicas in (2, 1):
            scale(replicas)
            answers += [pool.submit(tokens, url, 200) for _ in range(8)]
        assert [answer.result() for answer in answers] == [200] * 24
    namespace.until("dynamographdeployment/pair", ready)
    namespace.kubectl("delete", "dynamographdeployment", "pair")
    for kind in ("deployments", "services", "configmaps"):
        until(lambda kind=kind: not namespace.kubectl("get", kind, "-l", "nvidia.com/dynamo-graph-deployment-name=pair", "-o", "name"))


def test_one_engine_for_both_phases_answers_at_the_frontends_service(namespace):
    decode = worker("decode", resources={"limits": {"gpu": "2"}})
    decode["extraPodSpec"]["mainContainer"]["args"][-1] = "2"
    namespace.apply(graph("tp2", VllmDecodeWorker=decode))
    namespace.until("dynamographdeployment/tp2", ready)
    with forwarded(namespace, "service/tp2-frontend") as url:
        assert tokens(url, 10) == 10
        blocks = re.search(r'vllm:cache_config_info\{block_size="16".*num_gpu_blocks="(\d+)".*role="agg"', page(url, "/metrics"))
    assert blocks
    assert int(blocks[1]) * 16 > 1_500_000  # two of the sample's GPUs; one holds 945,029 tokens


def test_both_versions_of_a_graph_and_an_adapter(namespace):
    beta = document("tests/data/dgd/vllm-v1beta1.yaml")
    beta["spec"]["components"] = [component for component in beta["spec"]["components"] if component["type"] != "planner"]
    for component in beta["spec"]["components"]:
        component.update({"replicas": 1} if component["type"] != "frontend" else {})
    namespace.apply(beta)
    namespace.until("dynamographdeployment/vllm-beta", ready)
    alpha = namespace.get("dynamographdeployments.v1alpha1.nvidia.com/vllm-beta")
    assert alpha["spec"]["services"]["decode"]["scalingAdapter"] == {"enabled": True}
    assert alpha["status"]["services"]["decode"]["readyReplicas"] == 1
    namespace.kubectl("scale", "dgdsa/vllm-beta-decode", "--replicas=2")
    scaled = namespace.until("dynamographdeployment/vllm-beta", lambda found: ready(found) and found["spec"]["components"][2]["replicas"] == 2)
    assert scaled["status"]["components"]["decode"]["readyReplicas"] == 2
    adapter = namespace.until("dynamographdeploymentscalingadapter/vllm-beta-decode", lambda found: found["status"]["replicas"] == 2)
    pods = json.loads(namespace.kubectl("get", "pods", "-l", adapter["status"]["selector"], "-o", "json"))["items"]
    assert len(pods) == 2
    assert {pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] for pod in pods} == {"2"}


def test_what_does_not_fit_waits_and_the_graph_says_so(namespace):
    namespace.apply(graph("big", prefill=worker("prefill"), decode=worker("decode", resources={"limits": {"gpu": "1000"}})))
    waiting = namespace.until(
        "dynamographdeployment/big", lambda found: found.get("status", {}).get("components", {}).get("prefill", {}).get("readyReplicas") == 1
    )
    (condition,) = waiting["status"]["conditions"]
    assert (waiting["status"]["state"], condition["status"]) == ("pending", "False")
    assert "decode" in condition["message"]
