"""The Kubernetes API, as plain dicts over HTTP: the one door of this package to a cluster.

    who we are      the pod's service account, else the kubeconfig (KUBECONFIG, ~/.kube/config) and its current context, by the Kubernetes client
    what we send    GET, POST, PATCH, DELETE with JSON; the client's generated classes (20 MB, seconds of imports) are not needed for that
    who wrote it    every write names the field manager `sla-planner`

A call that could not be sent, was answered 429, or was a read that got 5xx or no answer, is repeated until `patience_s` is over. A write that was
sent and not answered is never repeated: whoever asked looks first.

    not there                NotFound           404
    changed meanwhile        Conflict           409, and a JSON patch whose `test` failed (422)
    no right to              ForbiddenError     names verb, resource, namespace and who asked
    refused                  UsageError         with the server's own words: admission, quota, schema
    no answer                UnreachableError

Every object here is a `dict` as the API sends it.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode

import urllib3
from kubernetes.client.configuration import Configuration
from kubernetes.client.rest import RESTClientObject
from kubernetes.config import ConfigException, list_kube_config_contexts, load_incluster_config, load_kube_config
from yaml import YAMLError

from sla_planner.cluster.kubeconfig import NO_CLUSTER, check_kubeconfig
from sla_planner.cluster.resources import PODS, Object, Resource, known_resource
from sla_planner.errors import ForbiddenError, PlannerError, UnreachableError, UsageError

FIELD_MANAGER = "sla-planner"
PATIENCE_S = 5.0

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_TIMEOUT_S = 10.0
_JUST_BACK_S = 30.0  # for so long a server that was away may refuse what it will allow: it has not read all Roles yet
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _PAUSE_GROWTH = 0.1, 2.0, 2.0
_JSON_PATCH, _MERGE_PATCH, _APPLY_PATCH = "application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"
_MAY_NOT = re.compile(r'User "(?P<who>[^"]+)" cannot (?P<verb>\S+) resource "(?P<what>[^"]+)"')

Propagation = Literal["Background", "Foreground", "Orphan"]


class NotFound(PlannerError):
    """No such object, or no such kind."""


class Conflict(PlannerError):
    """The object exists already, or is not what it was when it was read. Nothing was written."""


@dataclass(frozen=True, slots=True)
class Selector:
    """Which objects of a kind: `labels` and `fields` in the API's own syntax, `name=value,other!=value`."""

    labels: str = ""
    fields: str = ""

    def query(self) -> dict[str, str]:
        return {key: text for key, text in (("labelSelector", self.labels), ("fieldSelector", self.fields)) if text}


EVERYTHING = Selector()


class KubernetesApi:
    """`namespace`: where objects are looked for when a call names none. Safe for several threads."""

    def __init__(self, configuration: Configuration, namespace: str, *, patience_s: float = PATIENCE_S) -> None:
        self.configuration = configuration
        self.namespace = namespace
        self._patience_s = patience_s
        self._away_s = float("-inf")  # when it was last seen not to answer
        self._pool: urllib3.PoolManager = RESTClientObject(configuration).pool_manager

    def get(self, resource: Resource, name: str, *, subresource: str = "", namespace: str | None = None) -> Object:
        """Raises `NotFound`."""
        return self._json("GET", self._path(resource, namespace, name, subresource))

    def all_of(self, resource: Resource, selector: Selector = EVERYTHING, *, namespace: str | None = None) -> list[Object]:
        """All of them, in pages. `namespace` '' lists those of all namespaces."""
        found: list[Object] = []
        query = {**selector.query(), "limit": "500"}
        while True:
            page = self._json("GET", self._path(resource, namespace), query)
            # Items of a list carry neither; whoever gets one may want to send it back.
            found += [{"apiVersion": resource.api_version, "kind": resource.kind, **item} for item in page.get("items", [])]
            if not (more := page.get("metadata", {}).get("continue")):
                return found
            query["continue"] = more

    def create(self, resource: Resource, body: Mapping[str, Any], *, namespace: str | None = None, dry_run: bool = False) -> Object:
        """Raises `Conflict` when there is one of that name."""
        query = {"fieldManager": FIELD_MANAGER} | ({"dryRun": "All"} if dry_run else {})
        return self._json("POST", self._path(resource, namespace), query, body)

    def apply(self, resource: Resource, body: Mapping[str, Any], *, namespace: str | None = None, force: bool = True) -> Object:
        """Server-side apply: make it, or make our fields what `body` says."""
        query = {"fieldManager": FIELD_MANAGER, "force": str(force).lower()}
        return self._json("PATCH", self._path(resource, namespace, body["metadata"]["name"]), query, body, _APPLY_PATCH)

    def merge_patch(
        self,
        resource: Resource,
        name: str,
        patch: Mapping[str, Any],
        *,
        subresource: str = "",
        namespace: str | None = None,
        dry_run: bool = False,
    ) -> Object:
        """`metadata.resourceVersion` in `patch` makes it conditional: `Conflict` when the object has changed."""
        query = {"fieldManager": FIELD_MANAGER} | ({"dryRun": "All"} if dry_run else {})
        return self._json("PATCH", self._path(resource, namespace, name, subresource), query, patch, _MERGE_PATCH)

    def json_patch(self, resource: Resource, name: str, operations: list[Object], *, namespace: str | None = None) -> Object:
        """RFC 6902. Raises `Conflict` when a `test` among them fails."""
        return self._json("PATCH", self._path(resource, namespace, name), {"fieldManager": FIELD_MANAGER}, operations, _JSON_PATCH)

    def replace(self, resource: Resource, body: Mapping[str, Any], *, namespace: str | None = None) -> Object:
        """Of the object as it was read: `Conflict` when `metadata.resourceVersion` is an old one."""
        return self._json("PUT", self._path(resource, namespace, body["metadata"]["name"]), {"fieldManager": FIELD_MANAGER}, body)

    def delete(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str | None = None,
        uid: str = "",
        propagation: Propagation = "Background",
        grace_s: int | None = None,
    ) -> bool:
        """Ask for its end; False when it was not there. `uid`: only that very one."""
        body: Object = {"propagationPolicy": propagation}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        if uid:
            body["preconditions"] = {"uid": uid}
        try:
            self._json("DELETE", self._path(resource, namespace, name), {}, body)
        except NotFound:
            return False
        except Conflict:
            if not uid:
                raise
            return False  # another of that name
        return True

    def watch(
        self, resource: Resource, selector: Selector = EVERYTHING, *, timeout_s: float, namespace: str | None = None
    ) -> Iterator[tuple[str, Object]]:
        """ADDED for each that is there, then ADDED, MODIFIED and DELETED as they happen, for `timeout_s`.

        It may end early (servers do that); a caller that waits for something calls again. Raises `UnreachableError` when the connection breaks.
        """
        query = {**selector.query(), "watch": "true", "timeoutSeconds": str(max(int(timeout_s), 1))}
        response = self._answer("GET", self._path(resource, namespace), query, timeout_s=timeout_s + _TIMEOUT_S, stream=True)
        with closing(response):
            try:
                for line in _lines(response):
                    event = json.loads(line)
                    if event.get("type") == "ERROR":
                        return
                    if event.get("type") != "BOOKMARK":
                        yield event["type"], event["object"]
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise self._unreachable(error) from None

    def pod_log(self, name: str, container: str = "", *, tail_lines: int | None = None, previous: bool = False, namespace: str | None = None) -> str:
        """What it has printed so far; '' while it has not started."""
        query = {"previous": "true"} if previous else {}
        if container:
            query["container"] = container
        if tail_lines is not None:
            query["tailLines"] = str(tail_lines)
        path = self._path(PODS, namespace, name, "log")
        try:
            response = self._answer("GET", path, query, timeout_s=60.0)
        except UsageError as error:
            if "is waiting to start" in error.message or "previous terminated container" in error.message:
                return ""
            raise
        return response.data.decode(errors="replace")

    def resource_of(self, manifest: Mapping[str, Any]) -> Resource:
        """Of an object of any kind. Raises `UsageError` for a kind that this cluster does not have."""
        api_version, kind = str(manifest.get("apiVersion", "")), str(manifest.get("kind", ""))
        if (resource := known_resource(api_version, kind)) is not None:
            return resource
        group, _, version = api_version.rpartition("/")
        try:
            found = self._json("GET", f"/apis/{group}/{version}" if group else f"/api/{version}")
        except NotFound:
            found = {}
        for each in found.get("resources", ()):
            if each.get("kind") == kind and "/" not in each.get("name", ""):
                return Resource(group, version, each["name"], kind, bool(each.get("namespaced")))
        raise UsageError(
            f"this cluster knows no {kind or 'object'} of {api_version or 'no apiVersion'}", hint="install its CRD, or correct the manifest"
        )

    def serves(self, resource: Resource) -> bool:
        """Whether the cluster has this kind at this version."""
        root = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
        try:
            found = self._json("GET", root)
        except NotFound:
            return False
        return any(each.get("name") == resource.plural for each in found.get("resources", ()))

    def authorization(self) -> str:
        """Value of the header, '' with client certificates; for connections that are not made here (exec)."""
        settings: Mapping[str, Any] = self.configuration.auth_settings()
        return str(settings["BearerToken"]["value"] or "") if "BearerToken" in settings else ""

    def _path(self, resource: Resource, namespace: str | None, name: str = "", subresource: str = "") -> str:
        return resource.path(self.namespace if namespace is None else namespace, name, subresource)

    def _json(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: Any = None, content_type: str = "application/json"
    ) -> Object:
        response = self._answer(method, path, query or {}, body=body, content_type=content_type)
        try:
            found = json.loads(response.data)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise UnreachableError(f"{self.configuration.host} answers, but not as a Kubernetes API does", hint="check what stands before it")
        return found

    def _answer(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        *,
        body: Any = None,
        content_type: str = "application/json",
        timeout_s: float = _TIMEOUT_S,
        stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        """Of a call that went well. Repeats what can be repeated."""
        url = self.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": "application/json", "Content-Type": content_type, "User-Agent": FIELD_MANAGER}
        give_up_s = time.monotonic() + self._patience_s
        pause_s = _FIRST_PAUSE_S
        while True:
            trouble: PlannerError
            try:
                if authorization := self.authorization():
                    headers["Authorization"] = authorization
                response = self._pool.request(
                    method,
                    url,
                    body=None if body is None else json.dumps(body),
                    headers=headers,
                    timeout=urllib3.Timeout(connect=_TIMEOUT_S, read=timeout_s),
                    retries=False,
                    preload_content=not stream,
                )
            except ConfigException as error:  # a token that is read anew
                raise ForbiddenError(f"who we are cannot be told: {error}", hint="renew the token or the kubeconfig") from None
            except (urllib3.exceptions.HTTPError, OSError) as error:
                trouble = self._unreachable(error)
                refused = isinstance(error, urllib3.exceptions.NewConnectionError)
                if refused:
                    self._away_s = time.monotonic()
                again = method == "GET" or refused
            else:
                if response.status < 300:
                    return response
                trouble = self._refusal(response, method, path)
                if response.status >= 500:
                    self._away_s = time.monotonic()
                again = response.status == 429 or (method == "GET" and response.status >= 500)
                if isinstance(trouble, ForbiddenError) and time.monotonic() - self._away_s < _JUST_BACK_S:
                    trouble, again = UnreachableError(f"the Kubernetes API has just come back: {trouble.message}", hint="try again"), True
            if not again or time.monotonic() + pause_s > give_up_s:
                raise trouble
            time.sleep(pause_s)
            pause_s = min(pause_s * _PAUSE_GROWTH, _LONGEST_PAUSE_S)

    def _unreachable(self, error: Exception) -> UnreachableError:
        reason = str(error) or type(error).__name__
        reason = reason.rpartition(": ")[2] if isinstance(error, urllib3.exceptions.NewConnectionError) else reason
        return UnreachableError(f"the Kubernetes API at {self.configuration.host} does not answer ({reason[:200]})", hint="check the connection")

    def _refusal(self, response: urllib3.BaseHTTPResponse, method: str, path: str) -> PlannerError:
        status = response.status
        try:
            said = str(json.loads(response.data).get("message", ""))
        except (ValueError, AttributeError):
            said = response.data.decode(errors="replace")[:200].strip()
        said = " ".join(said.split()) or f"HTTP {status}"
        if status == 404:
            return NotFound(said if said != f"HTTP {status}" else f"{path} is not there")
        if status == 409 or (status == 422 and "the server rejected our request due to an error in our request" in said):
            return Conflict(said)
        if status == 401:
            return ForbiddenError(
                f"the Kubernetes API at {self.configuration.host} does not know us ({said})", hint="renew the token or the kubeconfig"
            )
        if status == 403 and (match := _MAY_NOT.search(said)):
            place = f" in namespace {namespace}" if (namespace := _namespace_in(path)) else ""
            return ForbiddenError(
                f"{match['who']} may not {match['verb']} {match['what']}{place}", hint="grant it in the Role of that service account"
            )
        if status == 429 or status >= 500:
            return UnreachableError(f"the Kubernetes API at {self.configuration.host} answers HTTP {status} ({said[:200]})", hint="try again")
        return UsageError(f"the Kubernetes API refuses {method} {path}: {said[:500]}")


def connect(*, namespace: str | None = None, context: str | None = None, patience_s: float = PATIENCE_S) -> KubernetesApi:
    """Of this pod, else of the kubeconfig. `namespace`: default of all calls; else POD_NAMESPACE, the pod's own, or the context's.

    Nothing is sent yet. Raises `UsageError` when there is neither a pod nor a usable kubeconfig.
    """
    configuration = Configuration()
    try:
        load_incluster_config(configuration)  # type: ignore[no-untyped-call]
        own = os.environ.get("POD_NAMESPACE") or _NAMESPACE_FILE.read_text().strip()
        return KubernetesApi(configuration, namespace or own, patience_s=patience_s)
    except (ConfigException, OSError):
        pass
    file = os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
    check_kubeconfig(file, context)
    try:
        load_kube_config(file, context=context, client_configuration=configuration)  # type: ignore[no-untyped-call]
        contexts, current = list_kube_config_contexts(file)  # type: ignore[no-untyped-call]
        current = next((each for each in contexts if each["name"] == context), current)
    except (ConfigException, YAMLError, OSError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{NO_CLUSTER}: the kubeconfig {file} cannot be used: {reason}", hint="correct it; kubectl config view shows it") from None
    own = str((current or {}).get("context", {}).get("namespace") or "default")
    return KubernetesApi(configuration, namespace or own, patience_s=patience_s)


def _namespace_in(path: str) -> str:
    parts = path.split("/")
    return parts[parts.index("namespaces") + 1] if "namespaces" in parts[:-1] else ""


def _lines(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """Of a stream, as they end. `stream(1)` would be slow; a chunk of the server's is one or more whole or partial events."""
    rest = b""
    for chunk in response.stream(None) if response.chunked else response.stream(65536):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line for line in lines if line)
    if rest:
        yield rest
