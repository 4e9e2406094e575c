"""Which services of a DynamoGraphDeployment are the workers of each role, and how large one worker is. The deployment is only read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sla_planner.engines.dgd import workers_of
from sla_planner.engines.dgd_services import Service, read_services, unshared
from sla_planner.errors import UsageError
from sla_planner.sweep.port import Phase


@dataclass(frozen=True, slots=True)
class RoleService:
    """`nodes`: pods of one worker. `gpus`: of one worker over all its nodes, 0 = the manifest does not say."""

    name: str
    nodes: int
    gpus: int


def role_services(document: Mapping[str, Any]) -> tuple[RoleService, RoleService]:
    """Prefill and decode. Raises `UsageError` when one is missing or ambiguous, or when one service does both."""
    workers = workers_of(read_services(unshared(document)))
    prefill, decode = workers[Phase.PREFILL], workers[Phase.DECODE]
    if prefill.name == decode.name:
        message = f"the graph has one service of workers, {prefill.name}: prefill and decode cannot be scaled apart"
        raise UsageError(message, hint="deploy a service for each role")
    return _read(prefill), _read(decode)


def service_called(document: Mapping[str, Any], name: str) -> RoleService:
    """Raises `UsageError` when there is none."""
    for service in read_services(unshared(document)):
        if service.name == name:
            return _read(service)
    raise UsageError(f"the graph has no service {name!r}")


def _read(service: Service) -> RoleService:
    return RoleService(service.name, service.nodes, service.nodes * service.gpus_per_node)
