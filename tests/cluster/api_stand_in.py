"""A Kubernetes API that keeps objects in memory: real HTTP on loopback, JSON as the real one speaks it, no controllers behind it.

Knows: get, list with label and metadata.name selectors, create, merge patch, JSON patch with `test`, server-side apply (as a merge), update, delete
with a uid precondition, watch, pods' logs, the `scale` subresource (on spec.replicas), `status` (of the same object), resourceVersion conflicts, who
wrote a field of the spec (`managedFields`), discovery of the kinds that it was given. Whoever tests can refuse verbs (`deny`), fail calls (`fail`),
look at every call (`calls`), and change objects as a controller would (`put`, `change`).
"""

from __future__ import annotations

import copy
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kubernetes.client.configuration import Configuration
from tests.cluster.field_owners import FieldOwners

from sla_planner.cluster.api import KubernetesApi
from sla_planner.cluster.resources import KNOWN, Object, Resource

USER = "system:serviceaccount:here:tester"


@dataclass(frozen=True)
class Call:
    """One call as it came in. `body` is parsed JSON, None without one."""

    verb: str  # get, list, watch, create, update, patch, delete
    resource: str  # pods, deployments/scale, pods/log
    name: str
    namespace: str
    body: Any
    content_type: str
    query: dict[str, str]


@dataclass
class ApiStandIn:
    """Objects by (plural, namespace, name). Kinds of the same plural and group share objects across versions."""

    kinds: list[Resource] = field(default_factory=lambda: list(KNOWN))
    objects: dict[tuple[str, str, str], Object] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)  # by pod name
    calls: list[Call] = field(default_factory=list)
    denied: set[tuple[str, str]] = field(default_factory=set)
    failures: list[Callable[[Call], int | None]] = field(default_factory=list)
    pruned: dict[str, set[str]] = field(default_factory=dict)  # by plural: fields of the status that the schema does not have
    url: str = ""

    def __post_init__(self) -> None:
        self.changed = threading.Condition()
        self._versions = itertools.count(1)
        self._events: list[tuple[str, str, Object]] = []  # type, plural, object
        self._owners: dict[tuple[str, str, str], FieldOwners] = {}

    def api(self, namespace: str = "here", *, patience_s: float = 0.0) -> KubernetesApi:
        configuration = Configuration()
        configuration.host = self.url
        return KubernetesApi(configuration, namespace, patience_s=patience_s)

    def deny(self, verb: str, resource: str) -> None:
        """As RBAC without that verb: `deny("patch", "deployments/scale")`."""
        self.denied.add((verb, resource))

    def fail(self, status: int, *, verb: str = "", resource: str = "", times: int = 1) -> None:
        """Answer the next `times` matching calls with `status`; 0 cuts the connection, 403 is RBAC's."""
        left = [times]

        def failure(call: Call) -> int | None:
            if left[0] and verb in ("", call.verb) and resource in ("", call.resource):
                left[0] -= 1
                return status
            return None

        self.failures.append(failure)

    def put(self, found: Object, *, namespace: str = "here", manager: str = "kubectl") -> Object:
        """Make or replace an object, as somebody else."""
        resource = self._kind(found["apiVersion"], found["kind"])
        with self.changed:
            return self._store(resource, namespace, copy.deepcopy(found), manager)

    def change(self, plural: str, name: str, edit: Callable[[Object], None], *, namespace: str = "here", manager: str = "a-controller") -> None:
        """Edit an object in place, as a controller would."""
        with self.changed:
            found = copy.deepcopy(self.objects[plural, namespace, name])
            edit(found)
            self._touch("MODIFIED", plural, namespace, found, manager)

    def drop(self, plural: str, name: str, *, namespace: str = "here") -> None:
        with self.changed:
            found = self.objects.pop((plural, namespace, name))
            self._tell("DELETED", plural, found)

    def get(self, plural: str, name: str, *, namespace: str = "here") -> Object | None:
        with self.changed:
            return copy.deepcopy(self.objects.get((plural, namespace, name)))

    def names(self, plural: str, *, namespace: str = "here") -> list[str]:
        with self.changed:
            return sorted(name for kind, place, name in self.objects if (kind, place) == (plural, namespace))

    def wait(self, met: Callable[[], bool], timeout_s: float = 20.0) -> bool:
        """Until `met` after some change; for tests that play a controller."""
        with self.changed:
            return self.changed.wait_for(met, timeout_s)

    def writes(self) -> list[Call]:
        return [call for call in self.calls if call.verb not in ("get", "list", "watch")]

    # Below: what the server calls.

    def answer(self, call: Call, resource: Resource, subresource: str) -> tuple[int, Any]:
        failed = next((status for failure in self.failures if (status := failure(call)) is not None), None)
        if (call.verb, call.resource) in self.denied or failed == 403:
            where = f' in API group "{resource.group}" in the namespace "{call.namespace}"'
            return self._status(
                403, f'{resource.name} "{call.name}" is forbidden: User "{USER}" cannot {call.verb} resource "{call.resource}"{where}'
            )
        if failed is not None:
            return self._status(failed, "as a test asked")
        key = (resource.plural, call.namespace, call.name)
        with self.changed:
            if call.verb == "list":
                items = [
                    copy.deepcopy(each) for (plural, place, _), each in self.objects.items() if plural == key[0] and call.namespace in ("", place)
                ]
                return 200, {"kind": f"{resource.kind}List", "metadata": {}, "items": [each for each in items if _selected(each, call.query)]}
            if call.verb == "create":
                name = call.body["metadata"].get("name") or f"{call.body['metadata']['generateName']}{next(self._versions):05x}"
                if (resource.plural, call.namespace, name) in self.objects:
                    return self._status(409, f'{resource.name} "{name}" already exists')
                made = copy.deepcopy(call.body)
                made["metadata"]["name"] = name
                return 201, made if call.query.get("dryRun") else self._store(resource, call.namespace, made, _manager(call))
            if resource.plural == "pods" and subresource == "log":
                return (200, self.logs.get(call.name, "")) if key in self.objects else self._missing(resource, call.name)
            found = self.objects.get(key)
            if found is None:
                if call.verb == "patch" and call.content_type.startswith("application/apply-patch"):
                    return 201, self._store(resource, call.namespace, copy.deepcopy(call.body), _manager(call))
                return self._missing(resource, call.name)
            if call.verb == "get":
                return 200, _scale_of(found) if subresource == "scale" else copy.deepcopy(found)
            if call.verb == "delete":
                wanted = ((call.body or {}).get("preconditions") or {}).get("uid")
                if wanted and wanted != found["metadata"]["uid"]:
                    return self._status(409, f"Precondition failed: UID in precondition: {wanted}, UID in object meta: {found['metadata']['uid']}")
                del self.objects[key]
                self._tell("DELETED", resource.plural, found)
                return 200, {"kind": "Status", "status": "Success"}
            return self._write(call, resource, subresource, found)

    def _write(self, call: Call, resource: Resource, subresource: str, found: Object) -> tuple[int, Any]:
        changed = _scale_of(found) if subresource == "scale" else copy.deepcopy(found)
        if call.verb == "update":
            asked = (call.body.get("metadata") or {}).get("resourceVersion")
            changed = copy.deepcopy(call.body)
        elif isinstance(call.body, list):
            asked = None
            try:
                for operation in call.body:
                    _operate(changed, operation)
            except (LookupError, ValueError):
                return self._status(422, "the server rejected our request due to an error in our request")
        else:
            asked = (call.body.get("metadata") or {}).get("resourceVersion")
            changed = _merged(changed, call.body)
        if asked and asked != found["metadata"]["resourceVersion"]:
            return self._status(409, f'Operation cannot be fulfilled on {resource.name} "{call.name}": the object has been modified')
        for unknown in self.pruned.get(resource.plural, ()):
            (changed.get("status") or {}).pop(unknown, None)
        if call.query.get("dryRun"):
            return 200, changed
        if subresource == "scale":
            replicas = changed["spec"]["replicas"]
            changed = copy.deepcopy(found)
            changed.setdefault("spec", {})["replicas"] = replicas
            stored = self._touch("MODIFIED", resource.plural, call.namespace, changed, _manager(call))
            return 200, _scale_of(stored)
        return 200, self._touch("MODIFIED", resource.plural, call.namespace, changed, _manager(call))

    def watching(self, call: Call, resource: Resource, stop: Callable[[], bool]) -> Iterator[tuple[str, Object]]:
        with self.changed:
            seen = len(self._events)
            start = [
                copy.deepcopy(each) for (plural, place, _), each in self.objects.items() if plural == resource.plural and place == call.namespace
            ]
        yield from (("ADDED", each) for each in start if _selected(each, call.query))
        while not stop():
            with self.changed:
                if len(self._events) == seen:
                    self.changed.wait(0.1)
                new, seen = self._events[seen:], len(self._events)
            for kind, plural, each in new:
                if plural == resource.plural and each["metadata"]["namespace"] == call.namespace and _selected(each, call.query):
                    yield kind, each

    def _of(self, resource: Resource, namespace: str) -> list[Object]:
        """All of a kind; of one namespace, or with '' of all."""
        return [copy.deepcopy(each) for (plural, place, _), each in self.objects.items() if plural == resource.plural and namespace in ("", place)]

    def _kind(self, api_version: str, kind: str) -> Resource:
        return next(each for each in self.kinds if (each.api_version, each.kind) == (api_version, kind))

    def _store(self, resource: Resource, namespace: str, found: Object, manager: str) -> Object:
        metadata = found.setdefault("metadata", {})
        metadata["namespace"] = namespace
        metadata.setdefault("uid", f"uid-{next(self._versions)}")
        metadata.setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
        is_new = (resource.plural, namespace, metadata["name"]) not in self.objects
        return self._touch("ADDED" if is_new else "MODIFIED", resource.plural, namespace, found, manager)

    def _touch(self, kind: str, plural: str, namespace: str, found: Object, manager: str) -> Object:
        key = (plural, namespace, found["metadata"]["name"])
        found["metadata"]["resourceVersion"] = str(next(self._versions))
        found["metadata"]["managedFields"] = self._owners.setdefault(key, FieldOwners()).changed(self.objects.get(key), found, manager)
        self.objects[key] = found
        self._tell(kind, plural, found)
        return copy.deepcopy(found)

    def _tell(self, kind: str, plural: str, found: Object) -> None:
        self._events.append((kind, plural, copy.deepcopy(found)))
        self.changed.notify_all()

    @staticmethod
    def _status(status: int, message: str) -> tuple[int, Any]:
        return status, {"kind": "Status", "status": "Failure", "message": message, "code": status}

    def _missing(self, resource: Resource, name: str) -> tuple[int, Any]:
        return self._status(404, f'{resource.name} "{name}" not found')


def _manager(call: Call) -> str:
    return call.query.get("fieldManager", "unknown")


def _selected(found: Object, query: dict[str, str]) -> bool:
    labels = found["metadata"].get("labels") or {}
    for term in filter(None, query.get("labelSelector", "").split(",")):
        key, unequal, value = term.partition("!=") if "!=" in term else (*term.partition("="),)
        if "=" not in term:
            if key not in labels:
                return False
        elif (labels.get(key) == value.lstrip("=")) == (unequal == "!="):
            return False
    for term in filter(None, query.get("fieldSelector", "").split(",")):
        path, _, value = term.partition("=")
        at: Any = found
        for part in path.removesuffix("!").split("."):
            at = (at or {}).get(part)
        if (at == value) == path.endswith("!"):
            return False
    return True


def _scale_of(found: Object) -> Object:
    metadata = {key: found["metadata"].get(key) for key in ("name", "namespace", "uid", "resourceVersion")}
    selector = (found.get("spec", {}).get("selector") or {}).get("matchLabels") or {}
    status = found.get("status") or {}
    return {
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": metadata,
        "spec": {"replicas": found.get("spec", {}).get("replicas", 0)},
        "status": {
            "replicas": status.get("replicas", 0),
            "selector": status.get("selector") or ",".join(f"{key}={value}" for key, value in selector.items()),
        },
    }


def _merged(found: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(found) if isinstance(found, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


def _operate(found: Any, operation: Object) -> None:
    """RFC 6902, the four operations that are used. Raises LookupError or ValueError."""
    *way, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    at = found
    for part in way:
        at = at[int(part)] if isinstance(at, list) else at[part]
    key: Any = int(last) if isinstance(at, list) and last != "-" else last
    if operation["op"] == "test":
        if at[key] != operation["value"]:
            raise ValueError
    elif operation["op"] == "remove":
        del at[key]
    elif isinstance(at, list) and operation["op"] == "add":
        at.insert(len(at) if key == "-" else key, operation["value"])
    elif operation["op"] == "replace" and not isinstance(at, list) and key not in at:
        raise LookupError
    else:
        at[key] = operation["value"]


VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


def _handler(stand_in: ApiStandIn, stop: threading.Event) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # headers and body are two packets: the second would wait 40 ms for the acknowledgement of the first

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def serve(self) -> None:
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            words = [word for word in parts.path.split("/") if word]
            group, version, rest = ("", words[1], words[2:]) if words[0] == "api" else (words[1], words[2], words[3:])
            if not rest:
                served = [each for each in stand_in.kinds if (each.group, each.version) == (group, version)]
                resources = [{"name": each.plural, "kind": each.kind, "namespaced": each.namespaced} for each in served]
                self.send(200 if served else 404, {"resources": resources})
                return
            namespace = ""
            if rest[0] == "namespaces" and len(rest) > 2:
                namespace, rest = rest[1], rest[2:]
            plural, name, subresource = (*rest, "", "")[:3]
            resource = next((each for each in stand_in.kinds if (each.group, each.version, each.plural) == (group, version, plural)), None)
            if resource is None:
                self.send(404, {"kind": "Status", "message": "the server could not find the requested resource"})
                return
            verb = VERBS[self.command]
            if verb == "get" and not name:
                verb = "watch" if query.get("watch") == "true" else "list"
            parsed = json.loads(body) if body else None
            full = f"{plural}/{subresource}" if subresource else plural
            call = Call(verb, full, name, namespace, parsed, self.headers.get("Content-Type", ""), query)
            stand_in.calls.append(call)
            if verb == "watch" and (verb, full) not in stand_in.denied:
                self.watch(call, resource)
                return
            self.send(*stand_in.answer(call, resource, subresource))

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = serve  # noqa: N815

        def send(self, status: int, document: Any) -> None:
            if status == 0:
                self.close_connection = True
                self.connection.close()
                return
            text = document.encode() if isinstance(document, str) else json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def watch(self, call: Call, resource: Resource) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            ended = threading.Event()
            timer = threading.Timer(float(call.query.get("timeoutSeconds", "30")), ended.set)
            timer.daemon = True
            timer.start()
            try:
                for kind, found in stand_in.watching(call, resource, lambda: stop.is_set() or ended.is_set()):
                    line = json.dumps({"type": kind, "object": found}).encode() + b"\n"
                    self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
                self.wfile.write(b"0\r\n\r\n")
            except OSError:
                pass  # the watcher has gone
            finally:
                timer.cancel()

    return Handler


@contextmanager
def api_stand_in(*more_kinds: Resource) -> Iterator[ApiStandIn]:
    """One on a free loopback port, for as long as the block lasts."""
    stand_in, stop = ApiStandIn(kinds=[*KNOWN, *more_kinds]), threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(stand_in, stop))
    server.daemon_threads = True
    stand_in.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield stand_in
    finally:
        stop.set()
        server.shutdown()
        server.server_close()
        thread.join()
