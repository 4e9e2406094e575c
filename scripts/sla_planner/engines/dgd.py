"""A disaggregated deployment (DynamoGraphDeployment, nvidia.com), turned into one engine that is measured alone.

    derive      Frontend + one worker under the decode service's name, one replica, with the arguments of `Backend.arguments`; nothing else is left
                prefill: the worker is the prefill service;   decode, both: the decode service;   an aggregated manifest: its only worker
    derive_pair Frontend + both workers, each at its mapping and in its role
    place_pair  the manifest itself with both workers at their mappings: what is deployed to serve
    GPUs        of `mapping`, as limit and request; an engine that is larger than a node goes over several: nodes of the size that the manifest
                shows, else of `node_gpus` GPUs
    isolation   the derived deployment has its own name, and its own Dynamo namespace where the manifest names one

The API versions spell the same things differently (`dgd_services.py`). The input is never changed, and the same input gives the same text.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import yaml

from sla_planner.engines.backend import Backend
from sla_planner.engines.dgd_services import KIND, Service, read_services, unshared, write_services
from sla_planner.errors import UsageError
from sla_planner.model.profile import ParallelMapping
from sla_planner.sweep.port import Deployment, Phase

Document = dict[str, Any]

_OF_THE_SERVER = frozenset(
    {"creationTimestamp", "finalizers", "generation", "managedFields", "ownerReferences", "resourceVersion", "selfLink", "uid"}
)
_MISREAD = re.compile(r"[yYnN]|[-+]?(?:0[xob])?[\d._]+(?:[eE][-+]?\d+)?")  # texts that Kubernetes' YAML takes for something else, and PyYAML not
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def read_dgd(text: str) -> Document:
    """The deployment among the documents of `text`. Raises `UsageError`."""
    try:
        documents = copy.deepcopy(_documents(text))
    except yaml.YAMLError as error:
        raise UsageError(f"the manifest is no YAML: {' '.join(str(error).split())}") from None
    kinds = [str(document.get("kind", "no kind")) if isinstance(document, dict) else type(document).__name__ for document in documents]
    found: list[Document] = [document for document, kind in zip(documents, kinds, strict=True) if kind == KIND]
    if len(found) != 1:
        held = ", ".join(kinds) or "nothing"
        raise UsageError(f"the manifest holds {len(found) or 'no'} {KIND}: {held}", hint="give a file with exactly one")
    workers_of(read_services(found[0]))
    return found[0]


@lru_cache(maxsize=64)
def _documents(text: str) -> list[Any]:
    """Not to be changed. Whoever reconciles reads the same few texts at every look, and each is 50 ms of YAML."""
    return [document for document in yaml.safe_load_all(text) if document is not None]


def derive(
    document: Mapping[str, Any], backend: Backend, deployment: Deployment, *, name: str, image: str | None = None, node_gpus: int | None = None
) -> Document:
    """One engine of `deployment`, called `name`; `image`: of the worker, else as it is. Raises `UsageError` when it cannot be."""
    derived: Document = unshared(document)
    services = read_services(derived)
    check_framework(derived, backend)
    workers = workers_of(services)
    given = workers[Phase.PREFILL if deployment.phase is Phase.PREFILL else Phase.DECODE]
    node_gpus = _node_gpus(workers.values()) or node_gpus
    frontend = frontend_of(services)
    engine = given.renamed(workers[Phase.DECODE].name)
    if workers[Phase.PREFILL].name != workers[Phase.DECODE].name:
        engine.become_decode()
    engine.run_alone()
    engine.set_gpus(deployment.mapping.gpus, node_gpus)
    engine.rewrite_arguments(lambda given: backend.arguments(given, deployment))
    if image:
        engine.set_image(image)
    return _with_services(derived, (frontend, engine), name)


def derive_pair(
    document: Mapping[str, Any],
    backend: Backend,
    mappings: tuple[ParallelMapping, ParallelMapping],
    *,
    name: str,
    image: str | None = None,
    node_gpus: int | None = None,
) -> Document | None:
    """A prefill and a decode worker at their `mappings`, as disaggregated as in the manifest; None for an aggregated one. Else as `derive`."""
    derived: Document = unshared(document)
    services = read_services(derived)
    pair = _spread_pair(derived, services, backend, mappings, node_gpus)
    if pair is None:
        return None
    if image:
        for worker in pair:
            worker.set_image(image)
    return _with_services(derived, (frontend_of(services), *pair), name)


def place_pair(
    document: Mapping[str, Any], backend: Backend, mappings: tuple[ParallelMapping, ParallelMapping], *, name: str, node_gpus: int | None = None
) -> Document:
    """The manifest called `name`, one prefill and one decode worker at their `mappings`; a planner is left out, everything else stays. Raises
    `UsageError` for an aggregated one, else as `derive`."""
    placed: Document = unshared(document)
    services = read_services(placed)
    if _spread_pair(placed, services, backend, mappings, node_gpus) is None:
        raise UsageError("the manifest has one worker for both phases", hint="give one with a prefill and a decode worker: they are scaled apart")
    return _with_services(placed, [service for service in services if not service.is_planner], name)


def frontend_name(document: Mapping[str, Any]) -> str:
    """Of the frontend service."""
    return frontend_of(read_services(unshared(document))).name


def gpus_of_pods(document: Mapping[str, Any]) -> tuple[int, ...]:
    """Of each pod that needs GPUs, the largest first."""
    services = read_services(unshared(document))
    return tuple(sorted((gpus for service in services if (gpus := service.gpus_per_node) for _ in range(service.nodes)), reverse=True))


def gpus_per_engine(document: Mapping[str, Any], role: Phase | str) -> int:
    """GPUs of one worker of `role` (`prefill`, `decode`) over all its nodes; 0 when the manifest does not say."""
    worker = workers_of(read_services(unshared(document)))[Phase.PREFILL if role == Phase.PREFILL else Phase.DECODE]
    return worker.nodes * worker.gpus_per_node


def worker_image(document: Mapping[str, Any]) -> str:
    """Of the decode worker; '' when the manifest does not say."""
    return workers_of(read_services(unshared(document)))[Phase.DECODE].image


def to_yaml(document: Mapping[str, Any]) -> str:
    """In the order of `document`; text of several lines stays readable."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=float("inf"))


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else "'" if _MISREAD.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def check_framework(document: Mapping[str, Any], backend: Backend) -> None:
    """Raises `UsageError` for a manifest that says that it is for another engine."""
    framework = document["spec"].get("backendFramework")
    if framework and framework != backend.name:
        raise UsageError(f"the manifest is for {framework}, asked for is {backend.name}", hint=f"use --backend {framework}")


def workers_of(services: list[Service]) -> dict[Phase, Service]:
    """The prefill and the decode worker: as declared, else by name; the same one twice in an aggregated manifest."""
    candidates = [service for service in services if service.may_be_worker]
    found = {role: [service for service in candidates if service.role == role] for role in (Phase.PREFILL, Phase.DECODE)}
    for role, same in found.items():
        if not same:
            same.extend(service for service in candidates if not service.role and role in service.name.lower())
        if len(same) > 1:
            raise UsageError(f"the manifest has {len(same)} {role} services: {_names(same)}", hint="leave one per role")
    if all(found.values()):
        return {role: same[0] for role, same in found.items()}
    if len(candidates) == 1:
        return dict.fromkeys(found, candidates[0])
    missing = " and no ".join(role for role, same in found.items() if not same)
    raise UsageError(f"the manifest has no {missing} service among: {_names(services)}", hint="set subComponentType (v1alpha1) or type (v1beta1)")


def frontend_of(services: list[Service]) -> Service:
    """The only frontend. Raises `UsageError`."""
    found = [service for service in services if service.is_frontend]
    if len(found) != 1:
        raise UsageError(f"the manifest has {len(found) or 'no'} frontend services among: {_names(services)}", hint="one engine needs one frontend")
    return found[0]


def _spread_pair(
    document: Document, services: list[Service], backend: Backend, mappings: tuple[ParallelMapping, ParallelMapping], node_gpus: int | None
) -> tuple[Service, Service] | None:
    """Prefill and decode worker, one of each, at their `mappings`; None where one worker does both."""
    check_framework(document, backend)
    workers = workers_of(services)
    prefill, decode = workers[Phase.PREFILL], workers[Phase.DECODE]
    if prefill is decode:
        return None
    node_gpus = _node_gpus(workers.values()) or node_gpus
    for worker, mapping in zip((prefill, decode), mappings, strict=True):
        worker.run_alone()
        worker.set_gpus(mapping.gpus, node_gpus)
        worker.rewrite_arguments(lambda given, to=mapping: backend.spread(given, to))  # type: ignore[misc]
    return prefill, decode


def _node_gpus(workers: Iterable[Service]) -> int | None:
    return max((worker.gpus_per_node for worker in workers if worker.nodes > 1), default=None)


def _with_services(derived: Document, services: Sequence[Service], name: str) -> Document:
    """`derived` as a deployment of its own, called `name`, of these services."""
    for service in services:
        service.isolate(name)
    write_services(derived, services)
    derived["metadata"] = _metadata(derived.get("metadata"), name)
    derived.pop("status", None)
    return derived


def _names(services: list[Service]) -> str:
    return ", ".join(service.name for service in services) or "none"


def _metadata(given: Any, name: str) -> dict[str, Any]:
    given = given if isinstance(given, dict) else {}
    metadata = {"name": name, **{key: value for key, value in given.items() if key != "name" and key not in _OF_THE_SERVER}}
    if isinstance(annotations := metadata.get("annotations"), dict):
        annotations.pop(_LAST_APPLIED, None)
        if not annotations:
            del metadata["annotations"]
    return metadata
