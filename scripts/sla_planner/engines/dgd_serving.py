"""A DynamoGraphDeployment made to serve a given model: its name or the folder of its weights in the arguments of every worker, the volume that holds
them, the image, the secrets. Only the frontend and the workers are touched. Doing it twice is the same as doing it once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sla_planner.engines.backend import Backend
from sla_planner.engines.dgd import Document, check_framework, frontend_of, workers_of
from sla_planner.engines.dgd_services import Service, read_services, unshared
from sla_planner.request.manifests import Serving

CACHE_VOLUME = "weights"  # a manifest with a cache of its own calls that model-cache


def made_to_serve(document: Mapping[str, Any], backend: Backend, serving: Serving) -> Document:
    """`document` that serves what `serving` says. Raises `UsageError` for a manifest without workers, or of another engine."""
    changed: Document = unshared(document)
    services = read_services(changed)
    check_framework(changed, backend)
    workers = list({worker.name: worker for worker in workers_of(services).values()}.values())
    for worker in workers:
        worker.rewrite_arguments(lambda given: backend.serve(given, serving.model, serving.path or serving.model, trust=serving.trust_remote_code))
    for service in (frontend_of(services), *workers):
        _dress(service, serving)
    return changed


def _dress(service: Service, serving: Serving) -> None:
    if serving.image:
        service.set_image(serving.image)
    if serving.claim:
        service.mount_claim(CACHE_VOLUME, serving.claim, serving.mount_path)
    for secret in serving.pull_secrets:
        service.add_pull_secret(secret)
    if serving.hf_token is not None:
        service.set_env_from_secret("HF_TOKEN", *serving.hf_token)
