"""The objects that a request needs, as `lifecycle.step` asks for them. `profiling_job.py` and `generated.py` make them, a stage wires them to the
engines; tests of the lifecycle bring simple ones.
"""

from __future__ import annotations

from typing import Any, Protocol

from sla_planner.request.seen import ProfileSeen, Seen
from sla_planner.request.spec import Object, Request

OVERRIDES_UNUSABLE = "OverridesUnusable"
"""Reason of a deployment that what the user lays over it leaves unusable."""

GPU_TYPE_UNKNOWN = "GPUTypeUnknown"
"""Reason of a Job whose numbers depend on the GPU, which nobody names."""


class CannotBeMadeError(Exception):
    """The object cannot be made of what there is: a base manifest that is none, a mapping that it cannot take. The text says what to change."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """CamelCase, for a condition."""


class Makers(Protocol):
    """Each gives whole objects with names, labels and owner references; raises `CannotBeMadeError`."""

    def frozen(self, request: Request, seen: Seen) -> Object:
        """ConfigMap `dgdr-output-<name>` with the spec and the base manifest that the sweep is given."""

    def profile_config_map(self, request: Request) -> Object:
        """Empty ConfigMap `planner-profile-data-<name>` that the sweep fills."""

    def job(self, request: Request, seen: Seen) -> Object:
        """Job `profile-<name>`."""

    def graph(self, request: Request, seen: Seen) -> dict[str, Any]:
        """The DynamoGraphDeployment with the picked mappings and the planner."""

    def outputs(self, request: Request, seen: Seen, graph: Object) -> tuple[Object, ...]:
        """ConfigMaps as they shall be after profiling: `dgdr-output-<name>` with the graph, and `planner-profile-data` where the request is alone."""

    def profile_copy(self, request: Request, profile: ProfileSeen) -> Object:
        """ConfigMap `planner-profile-data-<name>` for the deployment's namespace, without owner."""
