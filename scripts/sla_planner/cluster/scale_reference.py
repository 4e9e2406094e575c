"""What is scaled, spelled as kubectl spells it: KIND/NAME.

deployment/x   statefulset/x   leaderworkerset/x   dynamographdeploymentscalingadapter/x      also plural, short (sts, lws, dgdsa), with the group
PLURAL.VERSION.GROUP/x                                                                        any kind with a `scale` subresource
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sla_planner.cluster.resources import DEPLOYMENTS, GRAPHS_ALPHA, LEADER_WORKER_SETS, SCALING_ADAPTERS, STATEFUL_SETS, Resource
from sla_planner.errors import UsageError

EXAMPLES = "deployment/NAME, statefulset/NAME, leaderworkerset/NAME, dynamographdeploymentscalingadapter/NAME or PLURAL.VERSION.GROUP/NAME"

_SHORT = {DEPLOYMENTS: "deploy", STATEFUL_SETS: "sts", LEADER_WORKER_SETS: "lws", SCALING_ADAPTERS: "dgdsa"}
_VERSION = re.compile(r"v\d+((alpha|beta)\d+)?")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class ScaleReference:
    """One object with a `scale` subresource. `resource.kind` is empty where only the API knows it."""

    resource: Resource
    name: str

    def __str__(self) -> str:
        return f"{self.resource.name}/{self.name}"


def is_object_name(text: str) -> bool:
    """Whether an object of Kubernetes can be called so."""
    return _NAME.fullmatch(text) is not None


def scale_reference(text: str) -> ScaleReference:
    """Raises `UsageError` for what is no KIND/NAME of something with a `scale` subresource."""
    kind, slash, name = text.partition("/")
    if not (slash and is_object_name(name)):
        raise UsageError(f"{text!r} is no KIND/NAME", hint=f"use {EXAMPLES}")
    wanted = kind.lower()
    if wanted in _names(GRAPHS_ALPHA) or wanted == "dgd":
        raise UsageError(f"{text!r} has no scale of its own", hint=f"use --graph-deployment {name}, which scales both roles in one write")
    for resource, short in _SHORT.items():
        if wanted in (short, *_names(resource)):
            return ScaleReference(resource, name)
    plural, _, rest = wanted.partition(".")
    version, _, group = rest.partition(".")
    if not (plural.isalnum() and _VERSION.fullmatch(version) and is_object_name(group) and "." in group):
        raise UsageError(f"{text!r}: no such kind is known here", hint=f"use {EXAMPLES}")
    return ScaleReference(Resource(group, version, plural, ""), name)


def _names(resource: Resource) -> tuple[str, ...]:
    """Singular and plural, alone, with the group, and with version and group."""
    words = (resource.kind.lower(), resource.plural)
    return tuple(f"{word}{tail}" for word in words for tail in ("", f".{resource.group}", f".{resource.version}.{resource.group}"))
