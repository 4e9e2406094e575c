"""Requests to make objects of: the samples that ship, with the profile that a sweep would publish for each; and what comes out, for people to read.

python -m tests.request.samples     writes tests/request/golden anew; look at the difference before it is committed
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from sla_planner import __version__
from sla_planner.engines.dgd import to_yaml
from sla_planner.engines.dgd_requests import base_manifest, request_manifests
from sla_planner.model.profile import ParallelMapping
from sla_planner.request.made import Maker
from sla_planner.request.read import Allowed, read
from sla_planner.request.seen import ProfileSeen, Seen
from sla_planner.request.settings import Settings
from sla_planner.request.spec import Request

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "manifests" / "requests"
GOLDEN = Path(__file__).parent / "golden"
RESOURCES = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}}
SETTINGS = Settings(
    f"sla-planner/profile-sweep:{__version__}",
    f"sla-planner/planner:{__version__}",
    prometheus_endpoint="http://prometheus:9090",
    job_resources=RESOURCES,
    version=__version__,
)
PLANNER_SETTINGS = frozenset({"min_endpoint", "adjustment_interval", "no_correction", "max_gpu_budget", "attainment"})


@dataclass(frozen=True)
class Sample:
    """A shipped sample and the mappings that its profile picks."""

    name: str
    prefill: ParallelMapping
    decode: ParallelMapping

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load((SAMPLES / f"{self.name}.yaml").read_text())
        found["metadata"] |= {"namespace": "chat", "uid": "6f1c"}
        return found


ALL = (
    Sample("profile_sla_dgdr", ParallelMapping(tp=1), ParallelMapping(tp=2)),
    Sample("profile_sla_aic_dgdr", ParallelMapping(tp=2), ParallelMapping(tp=4)),
    Sample("profile_sla_moe_dgdr", ParallelMapping(tp=8, ep=8), ParallelMapping(dp=16, ep=16)),
)
ONLINE, OFFLINE, MOE = ALL


def request_of(document: dict[str, Any]) -> Request:
    return read(document, Allowed(PLANNER_SETTINGS))


def beta(**spec: Any) -> dict[str, Any]:
    """A request of the other shape."""
    metadata = {"name": "small", "namespace": "chat", "uid": "6f1c"}
    return {"apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeploymentRequest", "metadata": metadata, "spec": {"model": "m/x", **spec}}


def published(prefill: ParallelMapping, decode: ParallelMapping, name: str = "planner-profile-data-x") -> ProfileSeen:
    """As far as a deployment is made of it."""
    whole = json.dumps({"format": 1, "selected_prefill": asdict(prefill), "selected_decode": asdict(decode)})
    files = {"prefill_raw_data.json": "{}\n", "decode_raw_data.json": "{}\n", "profile.json": whole}
    return ProfileSeen(name, True, prefill.label, decode.label, "d1", files)


def seen(sample: Sample, **more: Any) -> Seen:
    backend = sample.document["spec"]["backend"]
    given = {"base": base_manifest(backend), "profile": published(sample.prefill, sample.decode), **more}
    return Seen(alone=True, graph_api=True, **given)


def maker(settings: Settings = SETTINGS) -> Maker:
    return Maker(settings, request_manifests())


def text_of(sample: Sample) -> str:
    """The Job and the deployment of a sample, less the version."""
    request, looked = request_of(sample.document), seen(sample)
    made = maker()
    return "---\n".join(to_yaml(each) for each in (made.job(request, looked), made.graph(request, looked))).replace(__version__, "VERSION")


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for each in ALL:
        (GOLDEN / f"{each.name}.yaml").write_text(text_of(each))
