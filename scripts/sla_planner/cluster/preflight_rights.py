"""Who may do what, asked of the API server one right at a time.

a ServiceAccount      LocalSubjectAccessReview in its namespace: the built-in role `admin` may create those, and so may our own Role of preflight
whoever asks          SelfSubjectAccessReview: everybody may
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sla_planner.cluster.api import NotFound
from sla_planner.cluster.preflight_reader import Reader
from sla_planner.cluster.resources import ACCESS_REVIEWS, Resource
from sla_planner.errors import UsageError
from sla_planner.preflight.facts import Unread
from sla_planner.preflight.rights import Right

LOCAL_REVIEWS = Resource("authorization.k8s.io", "v1", "localsubjectaccessreviews", "LocalSubjectAccessReview")


def account_may(reader: Reader, account: str, rights: Iterable[Right], *, there: str = "") -> Mapping[Right, bool] | Unread:
    """An account of `reader.api.namespace`, in that or in namespace `there`. One that does not exist may have rights."""
    namespace = reader.api.namespace
    who = {
        "user": f"system:serviceaccount:{namespace}:{account}",
        "groups": ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"],
    }
    return _asked(reader, LOCAL_REVIEWS, there or namespace, who, rights)


def own_rights(reader: Reader, rights: Iterable[Right]) -> Mapping[Right, bool] | Unread:
    """In `reader.api.namespace`."""
    return _asked(reader, ACCESS_REVIEWS, reader.api.namespace, {}, rights)


def _asked(reader: Reader, reviews: Resource, namespace: str, who: Mapping[str, Any], rights: Iterable[Right]) -> Mapping[Right, bool] | Unread:
    allowed = {}
    for right in rights:
        asked = {
            "namespace": namespace,
            "verb": right.verb,
            "group": right.group,
            "resource": right.plural,
            "subresource": right.subresource,
            "name": right.name,
        }
        metadata = {"namespace": namespace} if reviews.namespaced else {}
        body = {"apiVersion": reviews.api_version, "kind": reviews.kind, "metadata": metadata, "spec": {**who, "resourceAttributes": asked}}
        try:
            answer = reader.told(lambda body=body: reader.api.create(reviews, body, namespace=namespace))  # type: ignore[misc]
        except (NotFound, UsageError):
            return Unread(f"this cluster does not answer {reviews.kind}s")
        if isinstance(answer, Unread):
            return answer
        allowed[right] = bool((answer.get("status") or {}).get("allowed"))
    return allowed
