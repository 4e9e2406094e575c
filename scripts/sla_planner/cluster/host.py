"""Engines on Kubernetes: a `Host` (`sweep/host.py`).

    start     is there room?  ->  record (`leftovers.py`)  ->  the manifests' objects, labelled, owned by the record
    look      pods by label, else by name; their trouble (`pod_trouble.py`), that of whoever should make them; the Service as soon as it is there
    remove    the objects, the pods waited for (their GPUs are free then), the record

An API server that is away for less than the patience of `api` costs nothing: reads and deletions wait for it, what may have been made is looked for
before it is made again, and an engine that is being measured is left alone.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from sla_planner import __version__
from sla_planner.cluster.api import Conflict, KubernetesApi, NotFound, Selector
from sla_planner.cluster.free_gpus import fits_now, gpus_of_nodes, never_fits
from sla_planner.cluster.host_rights import Right, check_rights, rights_of
from sla_planner.cluster.host_service import address, url_of
from sla_planner.cluster.leftovers import ENGINE_LABEL, Holder, delete_own, record_of, remove_leftovers
from sla_planner.cluster.pod_trouble import Restarts, failed, has_ended, keeps_from_running, refused, restarts, silent
from sla_planner.cluster.resources import CONFIG_MAPS, EVENTS, PODS, SERVICES, Object, Resource, labels_of, name_of
from sla_planner.errors import EngineError, ForbiddenError, PlannerError, UnreachableError, UsageError
from sla_planner.sweep.host import LONGEST_NAME, Manifests, Outlook, Trouble

PATIENCE_S = 90.0  # with the API server: it may be upgraded meanwhile
GONE_LIMIT_S = 180.0

_ASK_EVERY_S = 0.5
_LONGEST_LABEL, _SHORTEST_LIMIT = 63, 15
_PASSIVE = frozenset({"Service", "ConfigMap", "Secret", "ServiceAccount", "PersistentVolumeClaim", "Role", "RoleBinding", "NetworkPolicy"})  # no pods

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HostOptions:
    """`gpu_wait_s`: how long an engine may wait for GPUs that others use. `autoscaled`: nodes are added on demand, so present ones are no limit."""

    gpu_wait_s: float = 300.0
    autoscaled: bool = False


class KubernetesHost:
    """In the namespace of `api`, whose patience should be about `PATIENCE_S`."""

    def __init__(self, api: KubernetesApi, holder: Holder, options: HostOptions = HostOptions()) -> None:
        self.api, self.holder, self.options = api, holder, options
        self.quick = KubernetesApi(api.configuration, api.namespace, patience_s=0.0)
        self._names: dict[str, int] = {}
        self._said: set[str] = set()

    def prepare(self, example: Manifests, more_rights: tuple[Right, ...] = ()) -> None:
        """Before the first start: what engines like `example` need is there and allowed, and what killed sweeps have left is removed.

        Raises `UsageError` for a kind that the cluster does not have, `ForbiddenError` for rights that are missing.
        """
        kinds = [self._kind(document) for document in example.documents]
        check_rights(self.api, (*rights_of(kinds), *more_rights))
        remove_leftovers(self.api, self.holder)
        if not self.holder.uid:
            log.warning("This is no pod of the cluster: the addresses of its Services have to be reachable from here")

    def new_name(self, stem: str) -> str:
        # Dynamo's operator labels pods with the namespace and the name together.
        longest = max(min(LONGEST_NAME, _LONGEST_LABEL - len(self.api.namespace) - 1), _SHORTEST_LIMIT)
        name = re.sub(r"[^a-z0-9-]+", "-", f"sweep-{self.holder.run_id}-{stem}".lower())[: longest - 3].rstrip("-")
        self._names[name] = number = self._names.get(name, 0) + 1
        return name if number == 1 else f"{name}-{number}"

    def start(self, manifests: Manifests) -> KubernetesEngine:
        self._check_room(manifests)
        engine = KubernetesEngine(self, manifests)
        try:
            record = self._made(CONFIG_MAPS, record_of(manifests.name, manifests.documents, self.holder, __version__))
            owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": manifests.name, "uid": record["metadata"]["uid"]}
            for document in manifests.documents:
                self._made(self._kind(document), self._marked(document, manifests.name, owner))
        except BaseException as error:
            engine.remove(wait=False)
            if isinstance(error, UsageError | Conflict):
                raise EngineError(f"the cluster refuses the engine: {error.message}", hint=error.hint) from None
            raise
        return engine

    def events(self, fields: str) -> list[Object]:
        """None where they may not be listed."""
        try:
            return self.api.all_of(EVENTS, Selector(fields=fields))
        except ForbiddenError as error:
            self.say_once(f"Reasons that only events tell are not known: {error.message}")
            return []

    def say_once(self, words: str) -> None:
        if words not in self._said:
            self._said.add(words)
            log.info(words)

    def patiently(self, call: Callable[[], T]) -> T:
        """`call`, which may be repeated, until the API server is there again."""
        give_up_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                return call()
            except UnreachableError:
                if time.monotonic() >= give_up_s:
                    raise
                time.sleep(_ASK_EVERY_S)

    def _check_room(self, manifests: Manifests) -> None:
        if not manifests.gpus:
            return
        try:
            nodes = gpus_of_nodes(self.api, manifests.gpu_resource)
        except ForbiddenError as error:
            self.say_once(f"Free GPUs are not counted before an engine is started: {error.message}")
            return
        why = never_fits(nodes, manifests.gpus)
        if why and not self.options.autoscaled:
            raise EngineError(why, hint="lower --max-num-gpus, or give --autoscaled where nodes are added on demand")
        if not fits_now(nodes, manifests.gpus):
            free = sum(node.free for node in nodes)
            log.info("%s: %d GPUs are needed, %d are free now", manifests.name, sum(manifests.gpus), free)

    def _kind(self, document: Mapping[str, Any]) -> Resource:
        resource = self.api.resource_of(document)
        if not self.api.serves(resource):
            what = f"this cluster has no {resource.kind} ({resource.api_version})"
            dynamo = "install the Dynamo platform (its CRDs and operator), or give --workload instead of --dgd"
            raise UsageError(what, hint=dynamo if resource.group == "nvidia.com" else "install its CRD, or correct the manifest")
        return resource

    def _marked(self, document: Mapping[str, Any], name: str, owner: Object) -> Object:
        metadata = dict(document["metadata"])
        metadata["labels"] = {**(metadata.get("labels") or {}), **self.holder.labels(__version__), ENGINE_LABEL: name}
        metadata["ownerReferences"] = [owner]
        return {**document, "metadata": metadata}

    def _made(self, resource: Resource, body: Object) -> Object:
        """Created, also when the answer to an earlier try was lost. Raises `Conflict` when somebody else has one of that name."""

        def create() -> Object:
            try:
                return self.api.create(resource, body)
            except Conflict:
                try:
                    found = self.api.get(resource, body["metadata"]["name"])
                except NotFound:  # a quota changed meanwhile
                    raise UnreachableError(f"the cluster is too busy to make {name_of(body)}") from None
                if labels_of(found).get(ENGINE_LABEL) != labels_of(body)[ENGINE_LABEL]:
                    raise
                return found

        return self.patiently(create)


class KubernetesEngine:
    """A `HostedEngine`."""

    def __init__(self, host: KubernetesHost, manifests: Manifests) -> None:
        self._host, self._manifests = host, manifests
        self._before: dict[str, Restarts] = {}
        self._logs: dict[tuple[str, str], str] = {}  # pod and container, with `, before` of one that was replaced

    def look(self) -> Outlook:
        api, name = self._host.api, self._manifests.name
        pods = self._pods(api)
        makers = [made for document in self._manifests.documents if document["kind"] not in _PASSIVE and (made := self._as_it_is(document))]
        found = [
            failed(makers),
            refused([event for event in self._host.events("reason=FailedCreate") if _about(event).startswith(name)], pods),
            keeps_from_running(pods, self, gpu_wait_s=self._host.options.gpu_wait_s) if pods else silent(makers),
        ]
        trouble = min((one for one in found if one), key=lambda one: one.patience_s, default=None)
        addresses = [address(ip, port) for pod in pods if (ip := (pod.get("status") or {}).get("podIP")) for port in _ports(pod)]
        return Outlook(self._url(), trouble, tuple(addresses))

    def settled(self) -> None:
        self._before = restarts(self._pods(self._host.api))

    def ended(self) -> Trouble | None:
        try:
            return has_ended(self._before, self._pods(self._host.quick), self)
        except UnreachableError:
            return None

    def log(self) -> str:
        try:
            for pod in self._pods(self._host.api):
                self._read_logs(pod)
        except UnreachableError as error:
            log.warning("%s: the end of its log is not known: %s", self._manifests.name, error.message)
        return "".join(f"==> {pod} {container} <==\n{text.rstrip()}\n" for (pod, container), text in sorted(self._logs.items()))

    def remove(self, *, wait: bool) -> None:
        """Raises `ForbiddenError`; what the API server is away for is left to the next sweep, which is said."""
        name = self._manifests.name
        try:
            for document in reversed(self._manifests.documents):
                self._delete(document, document["metadata"]["name"])
            if wait and not self._is_gone_within(GONE_LIMIT_S):
                log.warning("%s: its pods are still there after %g s; their GPUs may stay in use", name, GONE_LIMIT_S)
            self._delete({"apiVersion": "v1", "kind": "ConfigMap"}, name)
        except UnreachableError as error:
            log.warning("The engine %s may be left; the next sweep removes it: %s", name, error)

    # clues (`pod_trouble.py`)

    def events(self, pod: str) -> list[Object]:
        return self._host.events(f"regarding.name={pod}")

    def container_log(self, pod: str, container: str, *, previous: bool) -> str:
        try:
            return self._host.api.pod_log(pod, container, previous=previous)
        except PlannerError:
            return ""

    # what is there

    def _pods(self, api: KubernetesApi) -> list[Object]:
        """Whose label an operator forgot is found by name: no other object begins with it."""
        labelled = api.all_of(PODS, Selector(labels=self._manifests.pods))
        return labelled or [pod for pod in api.all_of(PODS) if pod["metadata"]["name"].startswith(f"{self._manifests.name}-")]

    def _as_it_is(self, document: Mapping[str, Any]) -> Object | None:
        api = self._host.api
        try:
            return api.get(api.resource_of(document), document["metadata"]["name"])
        except NotFound:
            return None

    def _url(self) -> str:
        api, manifests = self._host.api, self._manifests
        try:
            service = api.get(SERVICES, manifests.service)
        except NotFound:
            ours = [each for each in api.all_of(SERVICES) if each["metadata"]["name"].startswith(f"{manifests.name}-")]
            fronts = [each for each in ours if "frontend" in each["metadata"]["name"]]
            if not fronts:
                return ""
            service = fronts[0]
        return url_of(service, api.namespace, manifests.port)

    def _delete(self, one: Mapping[str, Any], name: str) -> None:
        self._host.patiently(lambda: delete_own(self._host.api, one, name, self._manifests.name))

    def _read_logs(self, pod: Object) -> None:
        name = pod["metadata"]["name"]
        counts = {one["name"]: int(one.get("restartCount", 0)) for one in (pod.get("status") or {}).get("containerStatuses") or ()}
        for container in (*(pod["spec"].get("initContainers") or ()), *(pod["spec"].get("containers") or ())):
            of = container["name"]
            if text := self.container_log(name, of, previous=False):
                self._logs[name, of] = text
            if counts.get(of) and (text := self.container_log(name, of, previous=True)):
                self._logs[name, f"{of}, before"] = text

    def _is_gone_within(self, limit_s: float) -> bool:
        give_up_s = time.monotonic() + limit_s
        while self._host.patiently(lambda: self._pods(self._host.api)):
            if time.monotonic() >= give_up_s:
                return False
            time.sleep(_ASK_EVERY_S)
        return True


def _about(event: Object) -> str:
    return str((event.get("regarding") or {}).get("name", ""))


def _ports(pod: Object) -> list[int]:
    return [port["containerPort"] for container in pod["spec"].get("containers") or () for port in container.get("ports") or ()]
