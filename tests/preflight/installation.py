"""A clean installation to plant faults in: what kubectl builds of manifests/overlays/dynamo, a graph, nodes, an operator; and a Prometheus.

The API server is `api_stand_in` with what preflight asks besides: /version, and reviews of rights. Those are answered from the Roles and RoleBindings
that stand in it: a right is missing where its Role is.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from tests.cluster.api_stand_in import ApiStandIn, _handler
from tests.manifests.objects import ROOT, build

from sla_planner.cluster.preflight_facts import (
    CRON_JOBS,
    LIMIT_RANGES,
    POLICIES,
    QUOTAS,
    SCALED_OBJECTS,
    SECRETS,
    STORAGE_CLASSES,
)
from sla_planner.cluster.resources import DEFINITIONS, KNOWN, NAMESPACES, REQUESTS_ALPHA, REQUESTS_BETA, SERVICE_ACCOUNTS, Object, Resource
from sla_planner.model.profile import Provenance
from sla_planner.store.profile_files import read_profile, write_profile_json

HERE = "here"
GRAPH = "vllm-disagg"
MODEL = "Qwen/Qwen3-0.6B"
FRONTEND = {"job": "frontend", "instance": "10.0.0.7:8000"}

ROLES = Resource("rbac.authorization.k8s.io", "v1", "roles", "Role")
ROLE_BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")
CLUSTER_ROLES = Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False)
CLUSTER_ROLE_BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False)
OWN_KINDS = (
    *(SERVICE_ACCOUNTS, DEFINITIONS, CRON_JOBS, LIMIT_RANGES, NAMESPACES, POLICIES, QUOTAS, SCALED_OBJECTS, SECRETS, STORAGE_CLASSES),
    *(ROLES, ROLE_BINDINGS, CLUSTER_ROLES, CLUSTER_ROLE_BINDINGS),
)
CLUSTER_WIDE = {"Node", "Namespace", "CustomResourceDefinition", "StorageClass"}


class Prometheus:
    """Answers the queries of preflight. `counts`: rows of counters; `up`, `every_s`: by (job, instance)."""

    def __init__(self) -> None:
        self.ahead_s = 0.0  # of its clock
        self.up = {("frontend", "10.0.0.7:8000"): 1}
        self.every_s = 15.0
        self.lost: list[dict[str, str]] = []
        self.labels = {"model": MODEL, "dynamo_namespace": ""}
        self.requests, self.first_tokens = 120, 120
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def do_GET(self) -> None:
                (query,) = parse_qs(urlsplit(self.path).query)["query"]
                rows = [{"metric": labels, "value": [0, str(value)]} for labels, value in outer.answer(query)]
                body = json.dumps({"status": "success", "data": {"resultType": "vector", "result": rows}}).encode()
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, query: str) -> list[tuple[dict[str, str], float]]:
        servers = [({"job": job, "instance": instance}, value) for (job, instance), value in self.up.items()]
        if query == "vector(time())":
            return [({}, time.time() + self.ahead_s)]
        if query == "count(up)":
            return [({}, 9)]
        if query == "up == 0":
            return [(labels, 0) for labels in self.lost]
        if query.startswith("count_over_time(up"):
            return [(labels, 600 / self.every_s) for labels, _ in servers]
        if query.startswith("up and on"):
            return servers
        assert query.startswith("last_over_time"), query
        counters = (
            ("dynamo_frontend_requests_started_total", self.requests),
            ("dynamo_frontend_time_to_first_token_seconds_count", self.first_tokens),
        )
        return [({"__name__": name, **labels, **self.labels}, value) for name, value in counters if value for labels, _ in servers]


class Installation(ApiStandIn):
    """`version`: of the API server; `version_status`: of its answer to /version; `clock_ahead_s`: of its clock."""

    def __init__(self, prometheus: Prometheus) -> None:
        super().__init__(kinds=[*KNOWN, *OWN_KINDS])
        self.prometheus = prometheus
        self.version, self.version_status, self.clock_ahead_s = "v1.36.3", 200, 0.0

    def edit(self, plural: str, name: str, change: Callable[[Object], Any], *, namespace: str = HERE) -> None:
        self.change(plural, name, change, namespace=namespace)

    def uninstall(self, *kinds: str, namespace: str = HERE) -> None:
        """Everything of these kinds."""
        for plural, place, name in list(self.objects):
            if plural in kinds and place == namespace:
                self.drop(plural, name, namespace=place)

    def unserve(self, plural: str) -> None:
        self.kinds = [each for each in self.kinds if each.plural != plural]

    def serve_requests(self, labels: dict[str, str]) -> None:
        """With the definition that carries `labels`."""
        self.kinds += (REQUESTS_ALPHA, REQUESTS_BETA)
        name = "dynamographdeploymentrequests.nvidia.com"
        self.put({"apiVersion": DEFINITIONS.api_version, "kind": DEFINITIONS.kind, "metadata": {"name": name, "labels": labels}}, namespace="")

    def install_requests(self) -> None:
        """Beside what is there, what manifests/overlays/deployment-requests has more, and its Roles; the resource definition is not touched."""
        kinds = {each.kind for each in self.kinds} - {DEFINITIONS.kind}
        for found in copy.deepcopy(build(ROOT / "manifests/overlays/deployment-requests")):
            there = "" if found["kind"] in ("ClusterRole", "ClusterRoleBinding") else HERE
            plural = next((each.plural for each in self.kinds if each.kind == found["kind"]), "")
            found.get("metadata", {}).pop("namespace", None)
            if found["kind"] == ROLES.kind or (found["kind"] in kinds and (plural, there, found["metadata"]["name"]) not in self.objects):
                self.put(found, namespace=there)

    def allowed(self, account: str, asked: Object) -> bool:
        """By the Roles and ClusterRoles that are bound to the account."""
        place = asked.get("namespace") or HERE
        bindings = (*self._of(ROLE_BINDINGS, place), *self._of(CLUSTER_ROLE_BINDINGS, ""))
        bound = {each["roleRef"]["name"] for each in bindings if any(subject["name"] == account for subject in each["subjects"])}
        resource = asked["resource"] + (f"/{asked['subresource']}" if asked.get("subresource") else "")
        return any(
            asked["group"] in rule["apiGroups"]
            and resource in rule["resources"]
            and asked["verb"] in rule["verbs"]
            and ("resourceNames" not in rule or asked.get("name") in rule["resourceNames"])
            for role in (*self._of(ROLES, place), *self._of(CLUSTER_ROLES, ""))
            if role["metadata"]["name"] in bound
            for rule in role["rules"]
        )


@contextmanager
def installation() -> Iterator[Installation]:
    """A clean one, for as long as the block lasts."""
    prometheus = Prometheus()
    cluster, stop = Installation(prometheus), threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _server(cluster, stop))
    server.daemon_threads = True
    cluster.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        _install(cluster)
        yield cluster
    finally:
        stop.set()
        for each in (server, prometheus.server):
            each.shutdown()
            each.server_close()


def _server(cluster: Installation, stop: threading.Event) -> type[BaseHTTPRequestHandler]:
    class Handler(_handler(cluster, stop)):  # type: ignore[misc]
        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string((timestamp or time.time()) + cluster.clock_ahead_s)

        def do_GET(self) -> None:  # noqa: N802
            if self.path == "/version":
                self.send(cluster.version_status, {"gitVersion": cluster.version})
            else:
                super().do_GET()

        def do_POST(self) -> None:  # noqa: N802
            plural = urlsplit(self.path).path.rpartition("/")[2]
            if not plural.endswith("subjectaccessreviews"):
                super().do_POST()
                return
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if ("create", plural) in cluster.denied:
                said = f'User "ana" cannot create resource "{plural}" in API group "authorization.k8s.io"'
                self.send(403, {"message": f"forbidden: {said}"})
                return
            account = body["spec"].get("user", "").rpartition(":")[2]
            allowed = cluster.allowed(account, body["spec"]["resourceAttributes"]) if account else True
            self.send(201, body | {"status": {"allowed": allowed}})

    return Handler


# ---- what is installed ----------------------------------------------------------------------------------------------------------------------


@functools.cache
def profile_text() -> str:
    """The sample profile, as one of the model that the graph serves."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "profile.json"
        write_profile_json(dataclasses.replace(read_profile("sample"), provenance=Provenance(model=MODEL)), file)
        return file.read_text()


def stamp(age_s: float = 0.0) -> str:
    return (datetime.now(UTC) - timedelta(seconds=age_s)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def status(*, age_s: float = 20.0, scaled: bool = False) -> str:
    roles = {"prefill": {"from": 1, "to": 3}, "decode": {"from": 2, "to": 2}}
    return json.dumps({"target": "default", "lastDecision": {"at": stamp(age_s)}, "lastScaling": {"at": stamp(age_s), **roles} if scaled else None})


def _install(cluster: Installation) -> None:
    kinds = {each.kind for each in cluster.kinds}
    for found in build(ROOT / "manifests/overlays/dynamo"):
        if found["kind"] in kinds:
            cluster.put(copy.deepcopy(found))
    settings = next(name for name in cluster.names("configmaps") if name.startswith("planner-config-"))
    url = "http://kube-prometheus-stack-prometheus.monitoring:9090"
    cluster.edit(
        "configmaps",
        settings,
        lambda found: found["data"].update({"planner.yaml": found["data"]["planner.yaml"].replace(url, cluster.prometheus.url)}),
    )
    cluster.edit("networkpolicies", "planner", lambda found: found["spec"]["egress"][2]["ports"][0].update(port=cluster.prometheus.port))
    cluster.edit("persistentvolumeclaims", "dynamo-pvc", lambda found: found.update(status={"phase": "Bound", "capacity": {"storage": "200Gi"}}))
    cluster.edit("configmaps", "sla-planner-status", lambda found: found.update(data={"default.status.json": status()}))
    cluster.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "planner-profile-data"}, "data": {"profile.json": profile_text()}})
    cluster.put({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hf-token-secret"}, "data": {"HF_TOKEN": "aGY="}})
    graph = yaml.safe_load((ROOT / "scripts/sla_planner/graphs/vllm/disagg.yaml").read_text())
    graph["status"] = {"state": "successful"}
    cluster.put(graph)
    lease = {"holderIdentity": "planner-1", "leaseDurationSeconds": 15, "renewTime": stamp(2)}
    cluster.put({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "planner"}, "spec": lease})
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    for found in (
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HERE, "labels": labels}},
        node("gpu-1"),
        node("gpu-2"),
    ):
        cluster.put(found, namespace="")
    operator = {"replicas": 1, "selector": {}, "template": {}}
    name = "dynamo-platform-operator-controller-manager"
    found = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": operator, "status": {"readyReplicas": 1}}
    cluster.put(found, namespace="dynamo-system")


def node(name: str, *, gpus: int = 8, product: str = "NVIDIA-H200") -> Object:
    labels = {"nvidia.com/gpu.product": product} if product else {}
    state = {"allocatable": {"nvidia.com/gpu": str(gpus)}, "conditions": [{"type": "Ready", "status": "True"}]}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "status": state}


def pod(name: str, *, waiting: str = "", message: str = "", unplaced: str = "", age_s: float = 600.0) -> Object:
    """Of one container that waits, or that nobody has placed."""
    conditions = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": unplaced}] if unplaced else []
    container = {"name": "main", "image": "registry.example/engine:1", "state": {"waiting": {"reason": waiting, "message": message}}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"nvidia.com/dynamo-graph-deployment-name": GRAPH}, "creationTimestamp": stamp(age_s)},
        "spec": {"containers": [{"name": "main"}]},
        "status": {"phase": "Pending", "conditions": conditions, "containerStatuses": [container] if waiting else []},
    }
