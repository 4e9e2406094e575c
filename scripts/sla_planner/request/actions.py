"""What one step wants done, as data. The stage carries the actions out in order and writes the status last.

Each is safe to repeat: names are fixed, an object that is there already and is this request's counts as made. A step that is cut off between two
calls is therefore simply taken again. An object of the same name that is not this request's ends the step before the status is written: the next look
tells whose it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from sla_planner.request.spec import Object


@dataclass(frozen=True, slots=True)
class Freeze:
    """Keep the spec and the base manifest that profiling begins with, in the request's own ConfigMap. What is there of it is replaced."""

    config_map: Object


@dataclass(frozen=True, slots=True)
class StartProfiling:
    """Create what the sweep publishes into, then the Job."""

    profile_config_map: Object
    job: Object


@dataclass(frozen=True, slots=True)
class StopProfiling:
    """Delete the Job and what it runs: the request has failed while it lives. One that is not this request's is left alone."""

    job: str


@dataclass(frozen=True, slots=True)
class WriteOutput:
    """Make these ConfigMaps hold this data: the generated deployment, and the profile under the seed's name where the request is alone."""

    config_maps: tuple[Object, ...]


@dataclass(frozen=True, slots=True)
class Deploy:
    """Create the DynamoGraphDeployment; one of the same name that is not this request's is left alone."""

    graph: Object


@dataclass(frozen=True, slots=True)
class KeepProfile:
    """The deployment becomes an owner of the profile, which then outlives the request."""

    config_map: str
    graph_name: str
    graph_uid: str


@dataclass(frozen=True, slots=True)
class CopyProfile:
    """In the deployment's namespace, which is not the request's, make this ConfigMap hold the profile. The deployment owns it from the start, so that
    nobody needs to clean it up.
    """

    config_map: Object
    graph_name: str
    graph_uid: str


Action: TypeAlias = Freeze | StartProfiling | StopProfiling | WriteOutput | Deploy | KeepProfile | CopyProfile


@dataclass(frozen=True, slots=True)
class Said:
    """An Event of the request."""

    severity: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Step:
    """`actions` in order, then `events`, then `status` (whole, None: as it is). `again_s`: look again after so long."""

    actions: tuple[Action, ...] = ()
    status: dict[str, Any] | None = None
    events: tuple[Said, ...] = ()
    again_s: float = field(default=60.0)
