"""What a sweep needs to be allowed, asked before anything is started: a right that turns out to be missing after an hour costs the hour, and without
the one to delete engines stay behind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sla_planner.cluster.api import KubernetesApi, NotFound
from sla_planner.cluster.resources import ACCESS_REVIEWS, CONFIG_MAPS, PODS, SERVICES, Resource
from sla_planner.errors import ForbiddenError, UsageError

_WHO_AM_I = Resource("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", namespaced=False)


@dataclass(frozen=True, slots=True)
class Right:
    """In one namespace. `subresource`: `log`; `name`: of the one object that it is needed for."""

    verb: str
    resource: Resource
    subresource: str = ""
    name: str = ""

    @property
    def what(self) -> str:
        return self.resource.name + (f"/{self.subresource}" if self.subresource else "") + (f" {self.name}" if self.name else "")


def rights_of(kinds: Iterable[Resource]) -> tuple[Right, ...]:
    """To run engines that are made of `kinds`."""
    always = (
        *(Right(verb, PODS) for verb in ("get", "list")),
        Right("get", PODS, "log"),
        *(Right(verb, SERVICES) for verb in ("get", "list")),
        *(Right(verb, CONFIG_MAPS) for verb in ("create", "get", "list", "delete")),
    )
    made = (Right(verb, kind) for kind in kinds for verb in ("create", "get", "delete"))
    return tuple(dict.fromkeys((*always, *made)))


def check_rights(api: KubernetesApi, rights: Iterable[Right]) -> None:
    """Raises `ForbiddenError` that names every one of `rights` that is missing. A cluster that does not say is believed to grant them."""
    if missing := missing_rights(api, rights, api.namespace):
        raise ForbiddenError(missing, hint="grant it in the Role of that service account")


def missing_rights(api: KubernetesApi, rights: Iterable[Right], namespace: str) -> str:
    """Who may not do what in `namespace`, as a sentence; '' where nothing is missing, or the cluster does not say."""
    try:
        missing = [right for right in rights if not _granted(api, right, namespace)]
    except (ForbiddenError, NotFound):
        return ""
    by_what: dict[str, list[str]] = {}
    for right in missing:
        by_what.setdefault(right.what, []).append(right.verb)
    lacking = ", ".join(f"{' and '.join(verbs)} {what}" for what, verbs in by_what.items())
    return f"{_who(api)} may not {lacking} in namespace {namespace}" if missing else ""


def _granted(api: KubernetesApi, right: Right, namespace: str) -> bool:
    asked = {
        "namespace": namespace,
        "verb": right.verb,
        "group": right.resource.group,
        "resource": right.resource.plural,
        "subresource": right.subresource,
        "name": right.name,
    }
    review = {"apiVersion": ACCESS_REVIEWS.api_version, "kind": ACCESS_REVIEWS.kind, "spec": {"resourceAttributes": asked}}
    return bool((api.create(ACCESS_REVIEWS, review).get("status") or {}).get("allowed"))


def _who(api: KubernetesApi) -> str:
    try:
        review = api.create(_WHO_AM_I, {"apiVersion": _WHO_AM_I.api_version, "kind": _WHO_AM_I.kind})
        return str(review["status"]["userInfo"]["username"])
    except (ForbiddenError, NotFound, UsageError, KeyError):
        return "this account"
