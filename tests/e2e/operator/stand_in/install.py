"""The definitions of the custom resources (tests/e2e/crds), put into a cluster."""

from __future__ import annotations

import time
from pathlib import Path

import yaml

from sla_planner.cluster.api import KubernetesApi, NotFound
from sla_planner.cluster.resources import GRAPHS_BETA, Object, Resource

DEFINITIONS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)
FOLDER = Path(__file__).parents[2] / "crds"
PATIENCE_S = 200.0


def install(api: KubernetesApi, conversion: Object) -> None:
    """Returns when the API server has all of them. `conversion`: between the versions of a graph."""
    names = []
    for path in sorted(FOLDER.glob("*.yaml")):
        definition = yaml.safe_load(path.read_text())
        if definition["metadata"]["name"] == GRAPHS_BETA.name:
            definition["spec"]["conversion"] = conversion
        api.apply(DEFINITIONS, definition)
        names.append(definition["metadata"]["name"])
    give_up_s = time.monotonic() + PATIENCE_S
    while not all(_established(api, name) for name in names):
        if time.monotonic() > give_up_s:
            raise TimeoutError(f"the API server does not take {', '.join(names)}")
        time.sleep(0.2)


def without_conversion(api: KubernetesApi) -> None:
    """Whoever converts is about to go: objects stay readable, as they were written."""
    try:
        api.merge_patch(DEFINITIONS, GRAPHS_BETA.name, {"spec": {"conversion": {"strategy": "None", "webhook": None}}})
    except NotFound:
        return


def _established(api: KubernetesApi, name: str) -> bool:
    conditions = (api.get(DEFINITIONS, name).get("status") or {}).get("conditions") or ()
    return any(condition["type"] == "Established" and condition["status"] == "True" for condition in conditions)
