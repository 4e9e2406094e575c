"""What the Roles of the stages grant, and what of it an installation needs.

`ROLES` repeats the rules of the committed Roles (jobs/*/role.yaml, manifests/components/*/objects/*role.yaml), because an image carries no manifests;
a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import MappingProxyType

DYNAMO = "nvidia.com"
GRAPHS, ADAPTERS, REQUESTS = "dynamographdeployments", "dynamographdeploymentscalingadapters", "dynamographdeploymentrequests"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a Role. `resources` with their subresource: `pods/log`."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Right:
    """One verb on one resource, of one object where `name` is given."""

    verb: str
    group: str
    resource: str
    name: str = ""

    @property
    def plural(self) -> str:
        return self.resource.partition("/")[0]

    @property
    def subresource(self) -> str:
        return self.resource.partition("/")[2]

    @property
    def what(self) -> str:
        """As kubectl writes it: `deployments.apps/scale`, and the object's name."""
        full = f"{self.plural}.{self.group}" if self.group else self.plural
        return full + (f"/{self.subresource}" if self.subresource else "") + (f" {self.name}" if self.name else "")


@dataclass(frozen=True, slots=True)
class ScaledObject:
    """What the planner scales, other than a whole graph: `apps`, `deployments`, `prefill`."""

    group: str
    plural: str
    name: str


_LEADER_WORKER_SET = "leaderworkerset.x-k8s.io"
_WORKLOADS = ("prefill", "decode")
_OF_SCALED_OBJECTS = (DYNAMO, "apps", _LEADER_WORKER_SET)

ROLES = MappingProxyType(
    {
        "planner": (
            Rule("", ("pods",), ("list",)),
            Rule("events.k8s.io", ("events",), ("create", "get", "patch")),
            Rule("", ("configmaps",), ("get", "patch"), ("sla-planner-status",)),
            Rule("autoscaling", ("horizontalpodautoscalers",), ("list",)),
            Rule(DYNAMO, (GRAPHS,), ("get", "patch")),
            Rule(DYNAMO, (ADAPTERS,), ("get",)),
            Rule(DYNAMO, (f"{ADAPTERS}/scale",), ("get", "patch")),
        ),
        "planner-workloads": (
            Rule("apps", ("deployments", "statefulsets"), ("get",), _WORKLOADS),
            Rule(_LEADER_WORKER_SET, ("leaderworkersets",), ("get",), _WORKLOADS),
            Rule("apps", ("deployments/scale", "statefulsets/scale"), ("get", "patch"), _WORKLOADS),
            Rule(_LEADER_WORKER_SET, ("leaderworkersets/scale",), ("get", "patch"), _WORKLOADS),
        ),
        "planner-lease": (
            Rule("coordination.k8s.io", ("leases",), ("create",)),
            Rule("coordination.k8s.io", ("leases",), ("get", "update"), ("planner",)),
        ),
        "profile-sweep": (
            Rule("", ("pods",), ("get", "list")),
            Rule("", ("pods/log",), ("get",)),
            Rule("", ("services",), ("get", "list")),
            Rule("", ("configmaps",), ("create", "get", "list", "delete")),
            Rule("", ("configmaps",), ("update",), ("planner-profile-data",)),
            Rule("events.k8s.io", ("events",), ("list",)),
            Rule(DYNAMO, (GRAPHS,), ("create", "get", "delete")),
        ),
        "profile-sweep-workloads": (
            Rule("apps", ("deployments",), ("create", "get", "delete")),
            Rule("", ("services",), ("create", "get", "delete")),
        ),
        "profile-sweep-requests": (Rule("", ("configmaps",), ("update",)),),
        "reconcile-requests": (
            Rule(DYNAMO, (REQUESTS,), ("list",)),
            Rule(DYNAMO, (f"{REQUESTS}/status",), ("patch",)),
            Rule("batch", ("jobs",), ("create", "get", "delete")),
            Rule("", ("configmaps",), ("create", "get", "patch")),
            Rule(DYNAMO, (GRAPHS,), ("create", "get")),
            Rule("", ("pods",), ("list",)),
            Rule("", ("pods/log",), ("get",)),
            Rule("events.k8s.io", ("events",), ("create", "get", "patch", "list")),
            Rule("", ("persistentvolumeclaims",), ("get",)),
            Rule("", ("serviceaccounts",), ("get",), ("profile-sweep", "planner")),
            Rule("coordination.k8s.io", ("leases",), ("get", "update"), ("reconcile-requests",)),
        ),
        "reconcile-requests-watch": (
            Rule(DYNAMO, (REQUESTS, GRAPHS), ("watch",)),
            Rule("batch", ("jobs",), ("watch",)),
        ),
        "reconcile-requests-target": (
            Rule("", ("namespaces",), ("get",)),
            Rule(DYNAMO, (GRAPHS,), ("create", "get")),
            Rule("", ("configmaps",), ("create", "get", "patch")),
            Rule("", ("pods",), ("list",)),
            Rule("", ("pods/log",), ("get",)),
            Rule("events.k8s.io", ("events",), ("list",)),
            Rule("", ("persistentvolumeclaims",), ("get",)),
            Rule("", ("serviceaccounts",), ("get",), ("planner",)),
        ),
        "volume-access": (
            Rule("", ("persistentvolumeclaims",), ("get", "list")),
            Rule("batch", ("jobs",), ("create", "list", "delete")),
            Rule("", ("pods",), ("get", "list", "watch")),
            Rule("", ("pods/exec",), ("get", "create")),
            Rule("events.k8s.io", ("events",), ("list",)),
        ),
    }
)

# Of the reconciler's ClusterRole (manifests/components/deployment-requests-cluster): what it can do without.
RECONCILER_VIEW = (
    Rule("apiextensions.k8s.io", ("customresourcedefinitions",), ("get",), ("dynamographdeploymentrequests.nvidia.com",)),
    Rule("", ("nodes",), ("list",)),
)


def rights_of(rules: Iterable[Rule]) -> Iterator[Right]:
    """Verb by verb."""
    for rule in rules:
        for resource in rule.resources:
            for name in rule.names or ("",):
                yield from (Right(verb, rule.group, resource, name) for verb in rule.verbs)


def planner_rights(graphs: Iterable[str], objects: Iterable[ScaledObject], *, state: str, lease: str) -> tuple[Right, ...]:
    """Of a planner that scales these, remembers in the ConfigMap `state` and holds `lease`; '' = none of it.

    `objects`: everything that holds a count of its own, scaling adapters of graphs too.
    """
    scaled = (*(ScaledObject(DYNAMO, GRAPHS, graph) for graph in graphs), *objects)
    needed: list[Right] = []
    for right in rights_of((*ROLES["planner"], *(Rule(rule.group, rule.resources, rule.verbs) for rule in ROLES["planner-workloads"]))):
        if right.resource == "configmaps":
            names = [state] if state else []
        elif right.group in _OF_SCALED_OBJECTS:
            names = [each.name for each in scaled if (each.group, each.plural) == (right.group, right.plural)]
        else:
            names = [""]
        needed += (Right(right.verb, right.group, right.resource, name) for name in names)
    if lease:
        needed += (Right(right.verb, right.group, right.resource, lease if right.name else "") for right in rights_of(ROLES["planner-lease"]))
    return tuple(dict.fromkeys(needed))


def sweep_rights(*, for_requests: bool) -> tuple[tuple[Right, ...], tuple[tuple[Right, ...], ...]]:
    """What every sweep needs, and the two ways of making engines: graphs of Dynamo, or plain Deployments.

    `for_requests`: it also measures for deployment requests.
    """
    own = tuple(rights_of(ROLES["profile-sweep"]))
    more = rights_of(ROLES["profile-sweep-requests"]) if for_requests else ()
    always = (*(right for right in own if right.group != DYNAMO), *more)
    with_graphs = tuple(right for right in own if right.group == DYNAMO)
    return always, (with_graphs, tuple(rights_of(ROLES["profile-sweep-workloads"])))


def reconciler_rights(*, continuous: bool) -> tuple[Right, ...]:
    """Of who works on deployment requests, all the time (`continuous`) or once a minute."""
    return tuple(rights_of((*ROLES["reconcile-requests"], *(ROLES["reconcile-requests-watch"] if continuous else ()))))


def reconciler_view() -> tuple[Right, ...]:
    """Of who works on deployment requests, outside of its namespace."""
    return tuple(rights_of(RECONCILER_VIEW))


def target_rights() -> tuple[Right, ...]:
    """Of who works on deployment requests, in another namespace that they are deployed into."""
    return tuple(rights_of(ROLES["reconcile-requests-target"]))


def volume_rights() -> tuple[Right, ...]:
    """Of people who run `inject-config` and `download-results` from outside."""
    return tuple(rights_of(ROLES["volume-access"]))
