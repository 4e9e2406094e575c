"""What a deployment request needs of engines (`request/manifests.py`), and the manifests that ship with the program."""

from __future__ import annotations

from importlib import resources
from types import MappingProxyType

from sla_planner.engines.backends import backend
from sla_planner.engines.dgd import place_pair, read_dgd, to_yaml
from sla_planner.engines.dgd_roles import role_services
from sla_planner.engines.dgd_serving import made_to_serve
from sla_planner.errors import UsageError
from sla_planner.request.manifests import Manifests

VERSIONS = ("v1alpha1", "v1beta1")


def base_manifest(backend_name: str) -> str:
    """The text of the DynamoGraphDeployment that mappings are applied to where nobody brings one. Raises `UsageError` where none ships."""
    file = resources.files("sla_planner") / "graphs" / backend_name / "disagg.yaml"
    if not file.is_file():
        raise UsageError(f"no base manifest of {backend_name} comes with this version", hint="bring one in a ConfigMap")
    return file.read_text()


def request_manifests() -> Manifests:
    """Reads the shipped planners."""
    planners = {
        f"nvidia.com/{version}": read_dgd((resources.files("sla_planner") / "graphs" / "planner" / f"{version}.yaml").read_text())
        for version in VERSIONS
    }
    return Manifests(
        read=read_dgd,
        serving=lambda document, name, serving: made_to_serve(document, backend(name), serving),
        pair=lambda document, engine, mappings, name, node_gpus: place_pair(document, backend(engine), mappings, name=name, node_gpus=node_gpus),
        check=role_services,
        text=to_yaml,
        planners=MappingProxyType(planners),
    )
