"""Deployment requests in a namespace: which there are, whose they are, and what is written back.

version    the newer of the two that the cluster serves; both have the same fields (one schema, conversion by name)
whose      the annotation slaplanner.io/request-class says it; without it they are ours where the resource definition is (its label
           app.kubernetes.io/part-of: sla-planner). Where that may not be read, only those that are annotated are ours
status     as a merge patch of what changes, on the version that was read: whoever was faster wins, and `Conflict` sends us back to look
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

from sla_planner.cluster.api import KubernetesApi, NotFound
from sla_planner.cluster.resources import Object, Resource, annotations_of, labels_of
from sla_planner.errors import ForbiddenError, UsageError
from sla_planner.request.spec import CLASS_ANNOTATION, OUR_CLASS

REQUESTS_BETA = Resource("nvidia.com", "v1beta1", "dynamographdeploymentrequests", "DynamoGraphDeploymentRequest")
REQUESTS_ALPHA = Resource("nvidia.com", "v1alpha1", "dynamographdeploymentrequests", "DynamoGraphDeploymentRequest")
DEFINITIONS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)

_PART_OF, _US = "app.kubernetes.io/part-of", "sla-planner"


class Requests:
    """Of the namespace of `api`. Safe for several threads."""

    def __init__(self, api: KubernetesApi) -> None:
        self.api = api
        self._served: Resource | None = None
        self._guard = threading.Lock()
        self.unowned = "whose the resource definition is has not been looked at yet"
        """Why requests without annotation are left alone; '' where they are ours. `look_whose` finds out."""

    @property
    def resource(self) -> Resource:
        """Raises `UsageError` where the cluster does not know requests."""
        with self._guard:
            if self._served is None:
                self._served = next((each for each in (REQUESTS_BETA, REQUESTS_ALPHA) if self.api.serves(each)), None)
            if self._served is None:
                hint = "install it: kubectl apply -k manifests/crds"
                raise UsageError("this cluster has no DynamoGraphDeploymentRequest", hint=hint)
            return self._served

    def all(self) -> list[Object]:
        """Raises `NotFound` where the resource has gone since."""
        try:
            return self.api.all_of(self.resource)
        except NotFound:
            self._served = None
            raise

    def watch(self, timeout_s: float) -> Iterator[tuple[str, Object]]:
        return self.api.watch(self.resource, timeout_s=timeout_s)

    def look_whose(self) -> None:
        """Whether requests that name nobody are ours; asked again now and then, since an operator can be installed."""
        name = f"{self.resource.plural}.{self.resource.group}"
        try:
            ours = labels_of(self.api.get(DEFINITIONS, name)).get(_PART_OF) == _US
        except (ForbiddenError, NotFound) as error:
            self.unowned = f"whose the resource definition is cannot be read ({error.message})"
        else:
            self.unowned = "" if ours else f"the resource definition {name} is another operator's"

    def is_ours(self, found: Object) -> bool:
        named = annotations_of(found).get(CLASS_ANNOTATION, "")
        return named == OUR_CLASS or (not named and not self.unowned)

    def write_status(self, found: Object, status: Mapping[str, Any]) -> None:
        """Raises `Conflict` when the request is not what was read, `NotFound` when it is gone."""
        metadata = found["metadata"]
        patch = {"metadata": {"resourceVersion": metadata["resourceVersion"]}, "status": difference(found.get("status") or {}, status)}
        self.api.merge_patch(self.resource, metadata["name"], patch, subresource="status")


def is_alive(found: Object) -> bool:
    return not found["metadata"].get("deletionTimestamp")


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> Object:
    """The merge patch (RFC 7386) that makes `before` `after`: what is gone is null."""
    patch: Object = {key: None for key in before if key not in after}
    for key, value in after.items():
        if key in before and before[key] == value:
            continue
        nested = isinstance(value, Mapping) and isinstance(before.get(key), Mapping)
        patch[key] = difference(before[key], value) if nested else value
    return patch
