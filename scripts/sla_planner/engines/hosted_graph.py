"""Manifests of one engine, derived from a DynamoGraphDeployment (`dgd.py`). Dynamo's operator makes its pods, and a Service `<name>-<frontend>`.

GraphRecipe    a frontend and one worker: what is measured
PairRecipe     a frontend, a prefill and a decode worker, each at the mapping that was picked for it: what is verified
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from sla_planner.engines.backend import Backend
from sla_planner.engines.dgd import Document, derive, derive_pair, frontend_name, gpus_of_pods, read_dgd, to_yaml, worker_image
from sla_planner.engines.hosted import manifest_file, shown_name
from sla_planner.errors import UsageError
from sla_planner.model.profile import ParallelMapping
from sla_planner.sweep.host import GPU, WHOLE_GPU, Manifests
from sla_planner.sweep.port import Deployment

GRAPH_LABEL = "nvidia.com/dynamo-graph-deployment-name"  # the operator's, on every pod of a graph


@dataclass(frozen=True, slots=True)
class GraphRecipe:
    """A `Recipe` from the text of a manifest. `worker_image`: instead of the manifest's; `port`: of the frontend's Service, None: found out;
    `node_gpus`: GPUs of a node, where an engine is larger and the manifest shows none of its own.

    Raises `UsageError` for a text that is no DynamoGraphDeployment.
    """

    manifest: str
    backend: Backend
    _: KW_ONLY
    worker_image: str | None = None
    port: int | None = None
    node_gpus: int | None = None
    document: Document = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "document", read_dgd(self.manifest))

    @property
    def image(self) -> str:
        return self.worker_image or worker_image(self.document)

    def manifests(self, deployment: Deployment, name: str) -> Manifests:
        return _manifests(self._derived(deployment, name), name, self.port)

    def text(self, deployment: Deployment) -> tuple[str, str]:
        return manifest_file(deployment), to_yaml(self._derived(deployment, shown_name(deployment)))

    def _derived(self, deployment: Deployment, name: str) -> Document:
        return derive(self.document, self.backend, deployment, name=name, image=self.worker_image, node_gpus=self.node_gpus)


@dataclass(frozen=True, slots=True)
class PairRecipe:
    """A `Recipe` for both picks, whatever deployment is asked for. Raises `UsageError` for a graph with one worker for both phases."""

    graph: GraphRecipe
    prefill: ParallelMapping
    decode: ParallelMapping

    def __post_init__(self) -> None:
        self._derived("any")

    @property
    def image(self) -> str:
        return self.graph.image

    def manifests(self, deployment: Deployment, name: str) -> Manifests:  # noqa: ARG002 - the contract of all recipes
        return _manifests(self._derived(name), name, self.graph.port)

    def text(self, deployment: Deployment) -> tuple[str, str]:  # noqa: ARG002 - the contract of all recipes
        return f"pair_{self.prefill.label}_{self.decode.label}/config.yaml", to_yaml(self._derived("pair"))

    def _derived(self, name: str) -> Document:
        graph, picks = self.graph, (self.prefill, self.decode)
        derived = derive_pair(graph.document, graph.backend, picks, name=name, image=graph.worker_image, node_gpus=graph.node_gpus)
        if derived is None:
            raise UsageError("the manifest has one worker for both phases", hint="give one with a prefill and a decode worker")
        return derived


def _manifests(document: Document, name: str, port: int | None) -> Manifests:
    resource = next((key for key in _keys(document) if WHOLE_GPU.fullmatch(key)), GPU)
    service = f"{name}-{frontend_name(document).lower()}"
    return Manifests(name, (document,), f"{GRAPH_LABEL}={name}", service, port, gpus_of_pods(document), resource)


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from _keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner)
