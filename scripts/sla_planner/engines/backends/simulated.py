"""The simulated engine (`sla-planner engine-sim`). It exports the names of a Dynamo frontend (family `dynamo`) and, per worker, some
under vLLM's names. One engine is one worker, and every worker holds as much."""

from __future__ import annotations

from collections.abc import Sequence

from sla_planner.engines.backend import Backend, Evidence, Failure
from sla_planner.engines.backends.vllm import CACHE_INFO, tokens_of_blocks
from sla_planner.engines.start_failures import failure_in, rule
from sla_planner.errors import UsageError
from sla_planner.model.metric_family import MetricFamily
from sla_planner.model.profile import ParallelMapping
from sla_planner.sweep.port import Capacity, Deployment

_FAILURES = (rule(r"^(?:error|Error): (?!.*already in use).+", "engine-sim refuses to start", "correct its command line"),)


class Simulated:
    name = "simulated"
    parallel = True
    families: tuple[MetricFamily, ...] = ()
    pages = ("/metrics",)

    def arguments(self, given: Sequence[str], deployment: Deployment) -> list[str]:  # noqa: ARG002 - the contract of all engines
        raise _no_manifest()

    def spread(self, given: Sequence[str], mapping: ParallelMapping) -> list[str]:  # noqa: ARG002 - the contract of all engines
        raise _no_manifest()

    def serve(self, given: Sequence[str], model: str, path: str, *, trust: bool) -> list[str]:  # noqa: ARG002 - the contract of all engines
        raise _no_manifest()

    def capacity(self, evidence: Evidence, deployment: Deployment) -> Capacity | None:  # noqa: ARG002 - one engine, one cache
        tokens = tokens_of_blocks(evidence.pages.get("/metrics", ""))
        return Capacity(max(tokens), f"/metrics: {CACHE_INFO}") if tokens else None

    def failure(self, log: str) -> Failure | None:
        return failure_in(log, _FAILURES)


def _no_manifest() -> UsageError:
    return UsageError("the simulated engine has no DynamoGraphDeployment", hint="use an engine command, an endpoint or a workload")


BACKEND: Backend = Simulated()
