"""Manifests of one engine from a template of any Kubernetes objects: a Deployment and a Service, a LeaderWorkerSet, whatever serves one engine.

    metadata: {name: "{name}"}     resources: {limits: {nvidia.com/gpu: {gpus}}}     args: ["--tensor-parallel-size={tp}", "--port={port}"]

A placeholder is `{name}` in lower-case letters. YAML reads one that stands alone and without quotes as a mapping with one empty key; it becomes the
value, numbers as numbers. Other braces (JSON, `${VARIABLE}`) are left alone, and `{{name}}` is `{name}` in the end.

Every object is made per engine, so every name holds `{name}`. The pods get a label of their own, which all selectors ask for as well: engines that
run side by side do not take each other's requests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import yaml

from sla_planner.engines.dgd import to_yaml
from sla_planner.engines.dgd_services import unshared
from sla_planner.engines.hosted import manifest_file, shown_name
from sla_planner.errors import UsageError
from sla_planner.sweep.host import GPU, WHOLE_GPU, Manifests
from sla_planner.sweep.port import Deployment

ENGINE_LABEL = "slaplanner.io/engine"
PLACEHOLDERS = ("name", "tp", "pp", "dp", "ep", "gpus", "port", "model", "phase", "image")
DEFAULT_PORT = 8000

_PLACEHOLDER = re.compile(r"\{\{([a-z_]+)\}\}|(?<!\$)\{([a-z_]+)\}")
_KNOWN = "known: " + ", ".join(f"{{{name}}}" for name in PLACEHOLDERS) + "; one that is meant as such is written {{so}}"
_ASKED_FOR_BY = {"model": "--model", "image": "--image"}  # values that only a user has

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class WorkloadRecipe:
    """A `Recipe` from the text of a template. `port`: of its Service; None: the one that is plainly meant, and 8000 for `{port}`.

    Raises `UsageError` for what is no template of an engine.
    """

    template: str
    _: KW_ONLY
    model: str = ""
    image: str = ""
    port: int | None = None
    documents: tuple[Document, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "documents", _read(self.template))
        unnamed = [document for document in self.documents if "{name}" not in str(_metadata(document).get("name", ""))]
        if unnamed:
            what = f"the name of {_called(unnamed[0])} in the workload does not hold {{name}}"
            raise UsageError(what, hint="every engine gets objects of its own: name them {name}, {name}-config ...")
        if not any(document["kind"] == "Service" for document in self.documents):
            raise UsageError("the workload has no Service", hint="add one that leads to the engine's port")

    def manifests(self, deployment: Deployment, name: str) -> Manifests:
        documents = self._filled(deployment, name)
        pods = [gpus for document in documents for gpus in _gpus_of_pods(document)]
        resource = next((key for document in documents for key in _gpu_amounts(document)), GPU)
        if pods and sum(pods) != deployment.mapping.gpus:
            what = f"{deployment.label} has {deployment.mapping.gpus} GPUs, the workload asks for {sum(pods)}"
            raise UsageError(what, hint=f"write {resource}: {{gpus}} into its limits, one replica")
        return Manifests(name, documents, f"{ENGINE_LABEL}={name}", _service(documents, name), self.port, tuple(sorted(pods, reverse=True)), resource)

    def text(self, deployment: Deployment) -> tuple[str, str]:
        documents = self._filled(deployment, shown_name(deployment))
        return manifest_file(deployment), "---\n".join(to_yaml(document) for document in documents)

    def _filled(self, deployment: Deployment, name: str) -> tuple[Document, ...]:
        mapping = deployment.mapping
        values = {
            "name": name,
            "tp": str(mapping.tp),
            "pp": str(mapping.pp),
            "dp": str(mapping.dp),
            "ep": str(mapping.ep),
            "gpus": str(mapping.gpus),
            "port": str(self.port or DEFAULT_PORT),
            "model": self.model,
            "phase": str(deployment.phase),
            "image": self.image,
        }
        documents = tuple(_filled(unshared(document), values) for document in self.documents)
        for document in documents:
            _isolate(document, name)
        return documents


def _read(text: str) -> tuple[Document, ...]:
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        raise UsageError(f"the workload is no YAML: {' '.join(str(error).split())}", hint="put texts with {placeholders} in quotes") from None
    for document in documents:
        if not isinstance(document, dict) or not all(isinstance(document.get(key), str) for key in ("apiVersion", "kind")):
            shown = _called(document) if isinstance(document, dict) else type(document).__name__
            raise UsageError(f"the workload holds something that is no Kubernetes object: {shown}", hint="each needs apiVersion, kind and a name")
        if _metadata(document).get("namespace"):
            raise UsageError(f"{_called(document)} in the workload names a namespace", hint="leave it out: engines run where the sweep runs")
    if not documents:
        raise UsageError("the workload holds nothing", hint="give a Deployment and a Service")
    return tuple(documents)


def _filled(value: Any, values: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _PLACEHOLDER.sub(lambda match: f"{{{match[1]}}}" if match[1] else _value(match[2], values), value)
    if isinstance(value, list):
        return [_filled(inner, values) for inner in value]
    if isinstance(value, dict):
        if len(value) == 1 and (key := next(iter(value))) in PLACEHOLDERS and value[key] is None:
            alone = _value(key, values)
            return int(alone) if alone.isdecimal() else alone
        return {_filled(key, values): _filled(inner, values) for key, inner in value.items()}
    return value


def _value(name: str, values: Mapping[str, str]) -> str:
    if name not in values:
        raise UsageError(f"the workload has an unknown placeholder {{{name}}}", hint=_KNOWN)
    if not values[name]:
        raise UsageError(f"the workload uses {{{name}}}, but there is none", hint=f"give {_ASKED_FOR_BY[name]}, or write it into the workload")
    return values[name]


def _isolate(document: Document, name: str) -> None:
    """The engine's label on all pods, and in all selectors of what is made together with them."""
    for pod in _pods(document):
        _inside(pod, "metadata", "labels")[ENGINE_LABEL] = name
    if document["kind"] == "Service":
        if isinstance(selector := (document.get("spec") or {}).get("selector"), dict):
            selector[ENGINE_LABEL] = name
        return
    selector = (document.get("spec") or {}).get("selector")
    if isinstance(selector, dict) and isinstance(labels := selector.get("matchLabels"), dict):
        labels[ENGINE_LABEL] = name


def _service(documents: tuple[Document, ...], name: str) -> str:
    names = [str(_metadata(document)["name"]) for document in documents if document["kind"] == "Service"]
    if len(names) > 1 and name not in names:
        raise UsageError(f"the workload has {len(names)} Services: {', '.join(names)}", hint="call the one that requests go to {name}")
    return name if name in names else names[0]


def _pods(value: Any) -> Iterator[Document]:
    """Pods and templates of pods: whatever has containers under `spec`."""
    if isinstance(value, dict):
        spec = value.get("spec")
        if isinstance(spec, dict) and isinstance(spec.get("containers"), list):
            yield value
            return
        for inner in value.values():
            yield from _pods(inner)


def _gpus_of_pods(document: Document) -> list[int]:
    """Of each pod that the object leads to."""
    spec = document.get("spec") or {}
    group = spec.get("leaderWorkerTemplate")
    if isinstance(group, dict):
        size, worker = _count(document, group, "size"), _gpus(group.get("workerTemplate"))
        leader = _gpus(group["leaderTemplate"]) if "leaderTemplate" in group else worker
        found = [leader, *[worker] * (size - 1)]
    else:
        found = [_gpus(pod) for pod in _pods(document)] * _count(document, spec, "replicas")
    return [gpus for gpus in found if gpus]


def _count(document: Document, section: Mapping[str, Any], key: str) -> int:
    count = section.get(key, 1)
    if type(count) is not int or count < 0:
        raise UsageError(f"{key} of {_called(document)} in the workload is {count!r}", hint="write a whole number, or leave it out")
    return count


def _gpus(pod: Any) -> int:
    containers = ((pod or {}).get("spec") or {}).get("containers") or ()
    return sum(max(_gpu_amounts(container.get("resources") or {}).values(), default=0) for container in containers)


def _gpu_amounts(value: Any) -> dict[str, int]:
    """Everything under `value` that counts GPUs."""
    found: dict[str, int] = {}
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if isinstance(key, str) and WHOLE_GPU.fullmatch(key) and str(inner).isdecimal():
            found[key] = int(inner)
        else:
            found |= _gpu_amounts(inner)
    return found


def _metadata(document: Document) -> Document:
    metadata = document.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def _called(document: Document) -> str:
    return f"{document.get('kind', 'an object without a kind')}/{_metadata(document).get('name', '?')}"


def _inside(mapping: Document, *keys: str) -> Document:
    for key in keys:
        if not isinstance(mapping.get(key), dict):
            mapping[key] = {}
        mapping = mapping[key]
    return mapping
