"""What a step wants done, done: each action can be taken again, so that whoever was killed in between is simply followed by the next.

made already     an object of this request (label slaplanner.io/request-uid) counts as made; a ConfigMap gets the data that it should have
somebody else's  is left alone: `Occupied` says whose it is, except for what is a mere courtesy (the shared copy of the profile)
begun            what profiling begins with is not replaced once its Job is there, which another reconciler may have made: `Conflict`
going            one of an earlier request of that name is being removed: `Occupied` as well, and the next look finds it gone
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sla_planner.cluster.api import Conflict, KubernetesApi, NotFound
from sla_planner.cluster.requests_seen import graph_is_ours, graph_resource, owned_by
from sla_planner.cluster.resources import CONFIG_MAPS, JOBS, Object, Resource, labels_of, name_of
from sla_planner.errors import ForbiddenError, UnreachableError, UsageError
from sla_planner.request.actions import Action, CopyProfile, Deploy, Freeze, KeepProfile, StartProfiling, StopProfiling, WriteOutput
from sla_planner.request.made_names import SHARED_PROFILE, granting, job_name
from sla_planner.request.spec import NAME_LABEL, UID_LABEL, About

_TRIES = 5


class Occupied(UsageError):
    """An object of the name that is needed belongs to somebody else."""


@dataclass(frozen=True, slots=True)
class Hands:
    """For one request. `say`: gets a sentence for each thing that was really done."""

    api: KubernetesApi
    about: About
    say: Callable[[str], None]

    def carry_out(self, action: Action) -> None:
        """Raises `Occupied`, `Conflict`, `ForbiddenError`, `UsageError` (a quota, a schema), `UnreachableError`.

        Never `NotFound`: that would be the request.
        """
        try:
            self._carry_out(action)
        except NotFound as error:
            raise UnreachableError(f"what was there is gone again: {error.message}", hint="look again") from None
        except ForbiddenError as error:
            there = _namespace_of(action) or self.about.namespace
            if there == self.about.namespace:
                raise
            raise ForbiddenError(error.message, hint=f"who administers {there} grants it: {granting(there, self.about.namespace)}") from None

    def _carry_out(self, action: Action) -> None:
        match action:
            case Freeze(config_map):
                self._hold(config_map, "what profiling begins with", before_profiling=True)
            case StartProfiling(profile_config_map, job):
                self._make(CONFIG_MAPS, profile_config_map, "for the profile")
                self._make(JOBS, job, "which profiles")
            case StopProfiling(job):
                self._stop(job)
            case WriteOutput(config_maps):
                for each in config_maps:
                    self._hold(each, "what came out")
            case Deploy(graph):
                self._deploy(graph)
            case KeepProfile(config_map, graph_name, graph_uid):
                self._keep(config_map, graph_name, graph_uid)
            case CopyProfile(config_map, graph_name, graph_uid):
                self._copy(config_map, graph_name, graph_uid)

    def _make(self, resource: Resource, body: Mapping[str, Any], why: str) -> Object:
        """It, or the one that there is of this request."""
        try:
            made = self.api.create(resource, body)
        except Conflict:
            return self._own(resource, body)
        self.say(f"created {name_of(body)}, {why}")
        return made

    def _own(self, resource: Resource, body: Mapping[str, Any]) -> Object:
        found = self.api.get(resource, body["metadata"]["name"])
        if not owned_by(found, self.about.uid):
            raise _occupied(found, self.about)
        return found

    def _hold(self, body: Mapping[str, Any], why: str, *, before_profiling: bool = False) -> None:
        """A ConfigMap with these data and labels; other keys of ours stay."""
        for _ in range(_TRIES):
            try:
                found = self._make(CONFIG_MAPS, body, why)
            except Occupied:
                if body["metadata"]["name"] == SHARED_PROFILE:
                    return
                raise
            data = {**(found.get("data") or {}), **(body.get("data") or {})}
            if data == (found.get("data") or {}):
                return
            if before_profiling and self._has_begun():
                raise Conflict(f"profiling has begun meanwhile, with what {name_of(body)} holds", hint="look again")
            try:
                self.api.merge_patch(
                    CONFIG_MAPS,
                    found["metadata"]["name"],
                    {"metadata": {"resourceVersion": found["metadata"]["resourceVersion"]}, "data": dict(body["data"])},
                )
            except Conflict:
                continue
            self.say(f"wrote {name_of(body)}, {why}")
            return
        raise UnreachableError(f"{name_of(body)} changes all the time", hint="find out who else writes it")

    def _has_begun(self) -> bool:
        try:
            return owned_by(self.api.get(JOBS, job_name(self.about)), self.about.uid)
        except NotFound:
            return False

    def _stop(self, name: str) -> None:
        try:
            found = self.api.get(JOBS, name)
        except NotFound:
            return
        if owned_by(found, self.about.uid) and self.api.delete(JOBS, name, uid=found["metadata"]["uid"]):
            self.say(f"deleted Job/{name}, which cannot go on")

    def _deploy(self, graph: Mapping[str, Any]) -> None:
        """Where an operator serves other versions only, it is refused with its words."""
        namespace = graph["metadata"].get("namespace") or self.about.namespace
        resource, name = self.api.resource_of(graph), graph["metadata"]["name"]
        try:
            self.api.create(resource, graph, namespace=namespace)
        except Conflict:
            found = self.api.get(resource, name, namespace=namespace)
            if not graph_is_ours(found, self.about.name, self.about.namespace, self.about.uid):
                raise _occupied(found, self.about) from None
            return
        except NotFound as error:
            raise UsageError(f"{name_of(graph)} cannot be made in namespace {namespace}: {error.message}", hint="make that namespace") from None
        self.say(f"created {name_of(graph)} in namespace {namespace}, as profiling picked it")

    def _keep(self, config_map: str, graph_name: str, graph_uid: str) -> None:
        served = graph_resource(self.api)
        for _ in range(_TRIES):
            try:
                found = self.api.get(CONFIG_MAPS, config_map)
            except NotFound:
                return
            owners = found["metadata"].get("ownerReferences") or []
            if served is None or any(owner.get("uid") == graph_uid for owner in owners):
                return
            owner = {"apiVersion": served.api_version, "kind": served.kind, "name": graph_name, "uid": graph_uid}
            patch = {"metadata": {"resourceVersion": found["metadata"]["resourceVersion"], "ownerReferences": [*owners, owner]}}
            try:
                self.api.merge_patch(CONFIG_MAPS, config_map, patch)
            except Conflict:
                continue
            self.say(f"ConfigMap/{config_map} now stays as long as {served.kind}/{graph_name} does")
            return
        raise UnreachableError(f"ConfigMap/{config_map} changes all the time", hint="find out who else writes it")

    def _copy(self, config_map: Mapping[str, Any], graph_name: str, graph_uid: str) -> None:
        """Another of that name that is this request's is of a deployment before: it gets this one as an owner as well."""
        served = graph_resource(self.api)
        if served is None:
            return
        namespace, name = config_map["metadata"]["namespace"], config_map["metadata"]["name"]
        owner = {"apiVersion": served.api_version, "kind": served.kind, "name": graph_name, "uid": graph_uid}
        body = {**config_map, "metadata": {**config_map["metadata"], "ownerReferences": [owner]}}
        for _ in range(_TRIES):
            try:
                self.api.create(CONFIG_MAPS, body, namespace=namespace)
                break
            except Conflict:
                found = self.api.get(CONFIG_MAPS, name, namespace=namespace)
            if not owned_by(found, self.about.uid):
                raise _occupied(found, self.about)
            others = [one for one in found["metadata"].get("ownerReferences") or [] if one.get("uid") != graph_uid]
            metadata = {"resourceVersion": found["metadata"]["resourceVersion"], "ownerReferences": [*others, owner]}
            try:
                self.api.merge_patch(CONFIG_MAPS, name, {"metadata": metadata, "data": config_map["data"]}, namespace=namespace)
                break
            except Conflict:
                continue
        else:
            raise UnreachableError(f"ConfigMap/{name} in namespace {namespace} changes all the time", hint="find out who else writes it")
        self.say(f"wrote ConfigMap/{name} in namespace {namespace}, the profile for {served.kind}/{graph_name}")


def planned(action: Action) -> str:
    """The same as a sentence, for who only wants to know."""
    match action:
        case Freeze(config_map):
            return f"keep what profiling begins with in {name_of(config_map)}"
        case StartProfiling(profile_config_map, job):
            return f"create {name_of(profile_config_map)} for the profile, and {name_of(job)}, which profiles"
        case StopProfiling(job):
            return f"delete Job/{job}, which cannot go on"
        case WriteOutput(config_maps):
            return f"write what came out to {', '.join(name_of(each) for each in config_maps)}"
        case Deploy(graph):
            return f"create {name_of(graph)} in namespace {graph['metadata'].get('namespace')}, as profiling picked it"
        case KeepProfile(config_map, graph_name, _):
            return f"keep ConfigMap/{config_map} as long as DynamoGraphDeployment/{graph_name} is there"
        case CopyProfile(config_map, graph_name, _):
            place = f"in namespace {config_map['metadata']['namespace']}"
            return f"write {name_of(config_map)} {place}, the profile for DynamoGraphDeployment/{graph_name}"


def _namespace_of(action: Action) -> str:
    """Of what it makes; '' where that is the request's."""
    match action:
        case Deploy(made) | CopyProfile(made):
            return str(made["metadata"].get("namespace") or "")
    return ""


def _occupied(found: Object, request: About) -> Occupied:
    labels = labels_of(found)
    if labels.get(UID_LABEL) and labels.get(NAME_LABEL) == request.name:
        return Occupied(f"{name_of(found)} is of an earlier request {request.name} and not removed yet", hint="wait, or delete it")
    whose = f"request {labels[NAME_LABEL]}" if labels.get(NAME_LABEL) and labels.get(UID_LABEL) else "somebody else"
    return Occupied(f"{name_of(found)} is needed and belongs to {whose}", hint="delete or rename it, or name the request otherwise")
