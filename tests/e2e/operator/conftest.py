"""Graphs as people write them: those that the project ships, and those of tests/data/dgd."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sla_planner.cluster.resources import Object

from .stand_in.graph import Graph, read_graph
from .stand_in.objects import SimulatedEngine
from .stand_in.versions import BETA, converted

ROOT = Path(__file__).parents[3]


def document(path: str) -> Object:
    """The graph in a file."""
    documents = yaml.safe_load_all((ROOT / path).read_text())
    (found,) = [each for each in documents if each["kind"] == "DynamoGraphDeployment"]
    return found


def stored(document: Object) -> Object:
    """As the API server hands it out."""
    found = converted(document, BETA)
    found["metadata"] = {**found["metadata"], "namespace": "here", "uid": "u-1", "generation": 3}
    return found


@pytest.fixture
def shipped() -> Callable[[], Graph]:
    return lambda: read_graph(stored(document("manifests/graphs/vllm/disagg_planner.yaml")))


@pytest.fixture
def swept() -> Callable[..., Graph]:
    """What a sweep deploys: a frontend and one worker. `worker`: more of that service."""

    def swept(**worker: Any) -> Graph:
        decode = {
            "componentType": "worker",
            "subComponentType": "decode",
            "replicas": 1,
            "resources": {"limits": {"gpu": "4"}, "requests": {"gpu": "4"}},
            "extraPodSpec": {"mainContainer": {"image": "x", "args": ["--model", "m", "--tensor-parallel-size", "2"]}},
            **worker,
        }
        frontend = {"componentType": "frontend", "replicas": 1, "extraPodSpec": {"mainContainer": {"image": "x"}}}
        services = {"Frontend": frontend, "VllmDecodeWorker": decode}
        alpha = {"apiVersion": "nvidia.com/v1alpha1", "kind": "DynamoGraphDeployment", "metadata": {"name": "tp2"}, "spec": {"services": services}}
        return read_graph(stored(alpha))

    return swept


@pytest.fixture
def engine() -> SimulatedEngine:
    return SimulatedEngine("localhost/engine:1", '{"a": 1}')
