"""The port to a place that runs engines from manifests and tells how they are. Implemented by `cluster` on Kubernetes.

    engine = host.start(manifests)      objects are made, pods come later
    engine.look()                       its URL as soon as there is one, and what keeps it from starting
    engine.settled()                    it answers: what happened until now is no end
    engine.ended()                      what has happened to it since
    engine.remove()

All of it blocks for the round trips that it takes: call it in threads. An engine whose sweep is killed is found and removed by the next one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

GPU = "nvidia.com/gpu"
WHOLE_GPU = re.compile(r"[\w.-]+/gpu|[\w.]+/(?:i915|xe)")  # resources of all makers that count whole GPUs


@dataclass(frozen=True, slots=True)
class Manifests:
    """One engine. `documents` make pods that `pods` (a label selector) selects or whose names begin with `name`, behind a Service `service`, or one
    that is called like it; `port` of it, None: the one that is plainly meant. `gpus`: of each pod that needs some, of the kind `gpu_resource`."""

    name: str
    documents: tuple[Mapping[str, Any], ...]
    pods: str
    service: str
    port: int | None = None
    gpus: tuple[int, ...] = ()
    gpu_resource: str = GPU


@dataclass(frozen=True, slots=True)
class Trouble:
    """What keeps an engine from running, in the words of whoever refused. `kind` stays the same while the words change.

    `patience_s`: how long it may last before there is nothing to wait for. `retry`: another start may help. `crashed`: a container ended, and `log`
    is what it said.
    """

    kind: str
    what: str
    hint: str = ""
    patience_s: float = 0.0
    retry: bool = False
    crashed: bool = False
    log: str = ""


@dataclass(frozen=True, slots=True)
class Outlook:
    """How a starting engine is. `url`: of its server, '' while nobody knows. `addresses`: of every port that its pods declare."""

    url: str = ""
    trouble: Trouble | None = None
    addresses: tuple[str, ...] = ()


class HostedEngine(Protocol):
    """Objects that were made for one engine, and what came of them."""

    def look(self) -> Outlook:
        """Raises `UnreachableError` when the host does not answer for long."""
        ...

    def settled(self) -> None: ...

    def ended(self) -> Trouble | None:
        """None while it runs, and while the host does not answer."""
        ...

    def log(self) -> str:
        """What all of its containers have said, those that were replaced too; as far as is known while the host does not answer."""
        ...

    def remove(self, *, wait: bool) -> None:
        """Take away what was made. `wait`: until its pods are gone, with their GPUs."""
        ...


class Host(Protocol):
    """Where engines run."""

    def new_name(self, stem: str) -> str:
        """For an engine: one that nothing else has, fit for every kind of object, at most `LONGEST_NAME` characters."""
        ...

    def start(self, manifests: Manifests) -> HostedEngine:
        """Raises `EngineError` for an engine that the host refuses or has no room for; whatever is raised, nothing is left of it."""
        ...


LONGEST_NAME = 40  # operators append to it: names of services, of pods
