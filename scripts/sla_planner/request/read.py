"""A DynamoGraphDeploymentRequest as it is in the cluster -> `Request`, or everything that is wrong with it at once.

Which shape a request has is said by `spec.profilingConfig` alone: with it, it is read by `alpha`, without it by `beta`. The version that it was
written in does not matter: the resource keeps the fields of both.
"""

from __future__ import annotations

from sla_planner.request.alpha import read_alpha
from sla_planner.request.beta import read_beta
from sla_planner.request.read_common import Allowed, InvalidRequestError, check_name
from sla_planner.request.reading import Findings, Section
from sla_planner.request.spec import Object, Request

__all__ = ["Allowed", "InvalidRequestError", "read"]


def read(object: Object, allowed: Allowed) -> Request:
    """The request that `object` (metadata and spec) stands for. Raises `InvalidRequestError` with every fault that it has."""
    findings = Findings()
    spec = Section(object.get("spec") or {}, "spec", findings)
    reader = read_alpha if spec.values.get("profilingConfig") is not None else read_beta
    request = reader(object, spec, allowed)
    check_name(object["metadata"]["name"], findings)  # last: as the name of the deployment it may have to be shorter
    spec.finish()
    if findings.faults or request is None:
        raise InvalidRequestError(tuple(findings.faults))
    return request
