"""What kinds of objects there are, and where the API serves them.

core                    /api/v1/namespaces/NS/PLURAL/NAME/SUBRESOURCE
every other group       /apis/GROUP/VERSION/namespaces/NS/PLURAL/NAME/SUBRESOURCE
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind. `group` is empty for the core group; `namespaced` is False for nodes and the like."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def name(self) -> str:
        """As RBAC and kubectl write it: `pods`, `deployments.apps`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """Of one object, or of all in `namespace`; '' for those of all namespaces."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        place = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return root + place + "".join(f"/{part}" for part in (self.plural, name, subresource) if part)


PODS = Resource("", "v1", "pods", "Pod")
SERVICES = Resource("", "v1", "services", "Service")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
VOLUME_CLAIMS = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
EVENTS = Resource("events.k8s.io", "v1", "events", "Event")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
STATEFUL_SETS = Resource("apps", "v1", "statefulsets", "StatefulSet")
JOBS = Resource("batch", "v1", "jobs", "Job")
AUTOSCALERS = Resource("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
ACCESS_REVIEWS = Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False)
LEADER_WORKER_SETS = Resource("leaderworkerset.x-k8s.io", "v1", "leaderworkersets", "LeaderWorkerSet")
GRAPHS_ALPHA = Resource("nvidia.com", "v1alpha1", "dynamographdeployments", "DynamoGraphDeployment")
GRAPHS_BETA = Resource("nvidia.com", "v1beta1", "dynamographdeployments", "DynamoGraphDeployment")
REQUESTS_ALPHA = Resource("nvidia.com", "v1alpha1", "dynamographdeploymentrequests", "DynamoGraphDeploymentRequest")
REQUESTS_BETA = Resource("nvidia.com", "v1beta1", "dynamographdeploymentrequests", "DynamoGraphDeploymentRequest")
DEFINITIONS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)
SCALING_ADAPTERS = Resource("nvidia.com", "v1alpha1", "dynamographdeploymentscalingadapters", "DynamoGraphDeploymentScalingAdapter")

KNOWN = (
    PODS,
    SERVICES,
    CONFIG_MAPS,
    VOLUME_CLAIMS,
    NODES,
    EVENTS,
    LEASES,
    DEPLOYMENTS,
    STATEFUL_SETS,
    JOBS,
    AUTOSCALERS,
    LEADER_WORKER_SETS,
    GRAPHS_ALPHA,
    GRAPHS_BETA,
    SCALING_ADAPTERS,
)


def known_resource(api_version: str, kind: str) -> Resource | None:
    """None for a kind that must be asked of the API (`KubernetesApi.resource_of`)."""
    return next((each for each in KNOWN if (each.api_version, each.kind) == (api_version, kind)), None)


def name_of(found: Mapping[str, Any]) -> str:
    """`Deployment/vllm-prefill`, for messages."""
    return f"{found.get('kind', 'object')}/{found.get('metadata', {}).get('name', '?')}"


def labels_of(found: Mapping[str, Any]) -> dict[str, str]:
    return dict(found.get("metadata", {}).get("labels") or {})


def annotations_of(found: Mapping[str, Any]) -> dict[str, str]:
    return dict(found.get("metadata", {}).get("annotations") or {})
