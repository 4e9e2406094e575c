"""What the cluster shows of one request, gathered into `Seen`: the Job first, then what it leaves behind, then what was deployed.

The order is that of the story: what is read later can only be further than what was read before, so that nothing looks lost that has just been made.
What may not be read is `unknown`, with who may not read what; the rest is looked at all the same.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar

from sla_planner.cluster.api import KubernetesApi, NotFound, Selector
from sla_planner.cluster.gpu_discovery import gpus_seen
from sla_planner.cluster.host_rights import Right, missing_rights
from sla_planner.cluster.publication import FEASIBLE, PROFILE_DIGEST
from sla_planner.cluster.requests_job import Clues, job_seen, pods_of_job, short_trouble
from sla_planner.cluster.resources import (
    CONFIG_MAPS,
    GRAPHS_ALPHA,
    GRAPHS_BETA,
    JOBS,
    NAMESPACES,
    PODS,
    SERVICE_ACCOUNTS,
    VOLUME_CLAIMS,
    Object,
    Resource,
    annotations_of,
    labels_of,
)
from sla_planner.errors import ForbiddenError
from sla_planner.model.profile import ParallelMapping
from sla_planner.request.made_names import SHARED_PROFILE, SPEC_KEY, job_name, output_name, profile_name
from sla_planner.request.phases import has_begun, spec_in_force
from sla_planner.request.seen import CopySeen, GraphSeen, JobSeen, ProfileSeen, Seen
from sla_planner.request.settings import Settings
from sla_planner.request.spec import NAME_LABEL, NAMESPACE_LABEL, UID_LABEL, About, Fault, Request

GRAPH_POD_LABEL = "nvidia.com/dynamo-graph-deployment-name"
PROFILE_JSON = "profile.json"

T = TypeVar("T")


Reading: TypeAlias = Request | tuple[Fault, ...]
"""A request as its spec asks for it, or everything that is wrong with that spec."""


@dataclass(frozen=True, slots=True)
class Sight:
    """`read`: of an object with the spec that counts. `shipped_base`: the manifest of a backend that a request without one of its own begins with.

    `clock`: epoch seconds.
    """

    api: KubernetesApi
    settings: Settings
    read: Callable[[Object], Reading]
    shipped_base: Callable[[str], str]
    clock: Callable[[], float] = time.time

    def of(self, found: Object, *, alone: bool) -> tuple[Reading, Seen]:
        """The request `found`, which is ours, and what the cluster shows of it. `alone`: no other request in its namespace."""
        about, status = about_of(found), found.get("status") or {}
        look = _Look(self, about)
        job = look.job()
        profile = look.profile()
        frozen = look.frozen()
        shared_taken = look.shared_taken()
        published = profile is not None
        request = self.read({**found, "spec": spec_in_force(about, status, frozen, job=job, published=published)})
        own = job if job is not None and job.ours else None
        begins = not has_begun(status, own, published=published)
        graph_api = look.graph_resource() is not None
        seen = Seen(alone=alone, graph_api=graph_api, job=job, profile=profile, frozen=frozen, shared_taken=shared_taken)
        if isinstance(request, Request):
            lost = not begins and frozen is None and "frozen" not in look.unknown  # somebody has deleted what profiling began with
            base, trouble = look.base(request) if begins or lost else (None, "")
            there_is_none = look.no_namespace(request) if begins and request.elsewhere else ()
            seen = replace(
                seen,
                base=base,
                base_trouble=trouble,
                graph=look.graph(request) if graph_api else None,
                gpus=look.known("gpus", lambda: gpus_seen(self.api)) if begins or lost else None,
                missing=there_is_none or (look.missing(request) if begins else ()),
                rights_missing=look.rights_missing(request) if begins and request.elsewhere and not there_is_none else "",
                copy=look.copy(request) if request.elsewhere else None,
            )
        return request, replace(seen, in_the_way=tuple(look.in_the_way), held=look.held, unknown=look.unknown)


def about_of(found: Object) -> About:
    metadata = found["metadata"]
    return About(metadata["name"], metadata["namespace"], metadata["uid"], int(metadata.get("generation", 1)), found.get("spec") or {})


def owned_by(found: Object, uid: str) -> bool:
    """Made for the request of this uid, not for one of the same name before it."""
    return labels_of(found).get(UID_LABEL) == uid


def graph_is_ours(found: Object, name: str, namespace: str, uid: str) -> bool:
    """By its labels, which a person who applies the generated manifest keeps; one that was made for an earlier request of that name is not."""
    labels = labels_of(found)
    made_for = annotations_of(found).get(UID_LABEL, uid)
    return labels.get(NAME_LABEL) == name and labels.get(NAMESPACE_LABEL) == namespace and made_for == uid


def graph_resource(api: KubernetesApi) -> Resource | None:
    """At the newest version that is served."""
    return next((each for each in (GRAPHS_BETA, GRAPHS_ALPHA) if api.serves(each)), None)


@dataclass(slots=True)
class _Look:
    sight: Sight
    about: About
    unknown: dict[str, str] = field(default_factory=dict)
    held: dict[str, Mapping[str, str]] = field(default_factory=dict)
    in_the_way: list[str] = field(default_factory=list)
    _graphs: Resource | None = None

    def known(self, what: str, read: Callable[[], T]) -> T | None:
        """None for what is not there, and for what may not be read, which is noted."""
        try:
            return read()
        except NotFound:
            return None
        except ForbiddenError as error:
            self.unknown[what] = error.message
            return None

    def job(self) -> JobSeen | None:
        api, name = self.sight.api, job_name(self.about)
        job = self.known("job", lambda: api.get(JOBS, name))
        if job is None:
            return None
        pods = self.known("pods", lambda: pods_of_job(api, name))
        return job_seen(api, job, self.about.uid, pods, self.sight.clock())

    def profile(self) -> ProfileSeen | None:
        found = self.config_map("profile", profile_name(self.about))
        data = (found or {}).get("data") or {}
        if found is None or not data:
            return None
        notes, owners = annotations_of(found), found["metadata"].get("ownerReferences") or ()
        prefill, decode = _picks(data)
        uids = tuple(str(owner.get("uid", "")) for owner in owners)
        return ProfileSeen(found["metadata"]["name"], notes.get(FEASIBLE) == "true", prefill, decode, notes.get(PROFILE_DIGEST, ""), data, uids)

    def frozen(self) -> Mapping[str, Any] | None:
        found = self.config_map("frozen", output_name(self.about))
        try:
            spec = json.loads(((found or {}).get("data") or {}).get(SPEC_KEY, ""))
        except ValueError:
            return None
        return spec if isinstance(spec, dict) else None

    def graph_resource(self) -> Resource | None:
        self._graphs = graph_resource(self.sight.api)
        return self._graphs

    def graph(self, request: Request) -> GraphSeen | None:
        resource = self._graphs
        assert resource is not None
        name, namespace = request.graph_name, request.graph_namespace
        found = self.known("graph", lambda: self.sight.api.get(resource, name, namespace=namespace))
        if found is None:
            return None
        status = found.get("status") or {}
        state = str(status.get("state", ""))
        ready = state == "successful" or (not state and _is_ready(status))
        ours = graph_is_ours(found, request.name, request.namespace, request.uid)
        services = [one for one in (status.get("components") or status.get("services") or {}).values() if isinstance(one, Mapping)]
        asked = sum(int(one.get("replicas") or 0) for one in services)
        available = sum(int(one.get("availableReplicas", one.get("readyReplicas")) or 0) for one in services)
        trouble = "" if ready or not ours else self._graph_trouble(name, namespace) or _said(status, state)
        return GraphSeen(name, namespace, found["metadata"]["uid"], ours, ready, state, asked, available, trouble)

    def base(self, request: Request) -> tuple[str | None, str]:
        """Its text, or None and why."""
        wanted = request.profiling.base
        if wanted is None:
            return self.sight.shipped_base(request.backend), ""
        api = self.sight.api
        before = len(self.unknown)
        found = self.known("base", lambda: api.get(CONFIG_MAPS, wanted.config_map))
        if len(self.unknown) > before:
            return None, self.unknown["base"]
        if found is None:
            how = f"kubectl create configmap {wanted.config_map} --from-file={wanted.key}=FILE -n {self.about.namespace}"
            return None, f"there is no ConfigMap {wanted.config_map} in namespace {self.about.namespace}; make it: {how}"
        data = found.get("data") or {}
        if wanted.key not in data:
            keys = ", ".join(sorted(data)) or "none"
            return None, f"the ConfigMap {wanted.config_map} has no key {wanted.key}, its keys: {keys}; correct configMapRef.key or the ConfigMap"
        return str(data[wanted.key]), ""

    def missing(self, request: Request) -> tuple[str, ...]:
        """What the Job and the deployment will ask for by name."""
        settings = self.sight.settings
        cache = request.deploying.model_cache
        claims = [(name, request.namespace) for name in (request.profiling.output_claim,) if name]
        claims += [(cache.claim, place) for place in dict.fromkeys((request.namespace, request.graph_namespace))] if cache else []
        accounts = [(settings.sweep_service_account, request.namespace)]
        accounts += [(settings.planner_service_account, request.graph_namespace)] if request.deploying.with_planner else []
        found = [self._gone(VOLUME_CLAIMS, "claim", name, place, "make it, or correct its name in the request") for name, place in claims]
        how = "install the stages there: kubectl apply -k . -n"
        found += [self._gone(SERVICE_ACCOUNTS, "account", name, place, f"{how} {place}") for name, place in accounts]
        return tuple(words for words in found if words)

    def _gone(self, resource: Resource, what: str, name: str, namespace: str, remedy: str) -> str:
        key = f"{what} {name}"
        there = self.known(key, lambda: self.sight.api.get(resource, name, namespace=namespace))
        if there is not None or key in self.unknown:
            return ""
        return f"there is no {resource.kind} {name} in namespace {namespace}; {remedy}"

    def no_namespace(self, request: Request) -> tuple[str, ...]:
        """Whether the other namespace is missing, where that may be read."""
        name = request.graph_namespace
        there = self.known("namespace", lambda: self.sight.api.get(NAMESPACES, name))
        if there is not None or "namespace" in self.unknown:
            return ()
        return (f"there is no namespace {name}; make it: kubectl create namespace {name}",)

    def rights_missing(self, request: Request) -> str:
        """What must be granted in the other namespace, asked before hours of profiling."""
        graphs, maps = [*(("create",) if request.auto_apply else ()), "get"], ("create", "get", "patch")
        needed = [Right(verb, self._graphs or GRAPHS_BETA) for verb in graphs]
        needed += [Right(verb, CONFIG_MAPS) for verb in maps] if request.deploying.with_planner else []
        return missing_rights(self.sight.api, needed, request.graph_namespace)

    def copy(self, request: Request) -> CopySeen | None:
        found = self.known("copy", lambda: self.sight.api.get(CONFIG_MAPS, profile_name(request), namespace=request.graph_namespace))
        if found is None:
            return None
        owners = found["metadata"].get("ownerReferences") or ()
        return CopySeen(owned_by(found, self.about.uid), found.get("data") or {}, tuple(str(owner.get("uid", "")) for owner in owners))

    def config_map(self, what: str, name: str) -> Object | None:
        """One that was made for this request. Another of that name is in the way."""
        found = self.known(what, lambda: self.sight.api.get(CONFIG_MAPS, name))
        if found is None:
            return None
        if not owned_by(found, self.about.uid):
            self.in_the_way.append(f"ConfigMap {name}")
            return None
        self.held[name] = found.get("data") or {}
        return found

    def shared_taken(self) -> bool:
        """Whether the copy of a profile that is shared in the namespace is somebody else's. One of this request is `held`."""
        found = self.known("held", lambda: self.sight.api.get(CONFIG_MAPS, SHARED_PROFILE))
        if found is None:
            return False
        if not owned_by(found, self.about.uid):
            return True
        self.held[SHARED_PROFILE] = found.get("data") or {}
        return False

    def _graph_trouble(self, name: str, namespace: str) -> str:
        api = self.sight.api
        pods = self.known("pods", lambda: api.all_of(PODS, Selector(labels=f"{GRAPH_POD_LABEL}={name}"), namespace=namespace))
        return short_trouble(pods or [], Clues(api, namespace))


def _picks(data: Mapping[str, str]) -> tuple[str, str]:
    """Labels of the picked mappings; '' where the ConfigMap had no room for the whole profile."""
    try:
        profile = json.loads(data[PROFILE_JSON])
        prefill, decode = (ParallelMapping(**profile[f"selected_{role}"]).label for role in ("prefill", "decode"))
    except (LookupError, ValueError, TypeError):
        return "", ""
    return prefill, decode


def _is_ready(status: Mapping[str, Any]) -> bool:
    return any((one.get("type"), one.get("status")) == ("Ready", "True") for one in status.get("conditions") or ())


def _said(status: Mapping[str, Any], state: str) -> str:
    """The operator's own words, where it has given up."""
    if state != "failed":
        return ""
    return "; ".join(str(one["message"]) for one in status.get("conditions") or () if one.get("message") and one.get("status") != "True")
