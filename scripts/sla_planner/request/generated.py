"""The DynamoGraphDeployment of a request, from a manifest, the picks of a profile and the planner that ships with the program.

    prepared    base manifest -> the same with the request's model, weights, image and secrets: what engines are measured from, and what follows
    generated   prepared      -> one worker of each role at its picked mapping, a planner with the promise, the request's name and labels;
                                 what the user lays over it (`graph_patch`) comes last, but for name, namespace, labels and kind

Both API versions; the version of the manifest is kept. The planner is that of `templates/graphs` with its settings changed by name, so there is one
way of writing it; its profile is mounted from the ConfigMap that the sweep publishes.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from sla_planner.errors import UsageError
from sla_planner.model.profile import ParallelMapping
from sla_planner.request.made_marks import labels
from sla_planner.request.made_names import profile_name
from sla_planner.request.made_patch import patched
from sla_planner.request.makers import OVERRIDES_UNUSABLE, CannotBeMadeError
from sla_planner.request.manifests import Document, Manifests, Serving
from sla_planner.request.profiling_job import NODE_GPUS, node_gpus, written
from sla_planner.request.seen import GpusSeen, Seen
from sla_planner.request.settings import Settings
from sla_planner.request.spec import UID_LABEL, Object, Request

PLANNER = "Planner"
PROFILE_DIR = "/profile"
PROFILE_JSON = "profile.json"
PROMETHEUS = "PROMETHEUS_ENDPOINT"
NODE_SIZE = "slaplanner.io/gpus-per-node"  # annotation: an engine of more GPUs goes over several nodes

_ALPHA = "nvidia.com/v1alpha1"
_LABEL = re.compile(r"(TEP|DEP|TP):?(\d+)(?:-PP:?(\d+))?(?:-DP:?(\d+))?(?:-EP:?(\d+))?")


def prepared(request: Request, settings: Settings, manifests: Manifests, base: str, gpus: GpusSeen | None) -> Document:
    """`gpus`: what nodes have now; a `base` that was prepared before keeps what they had then, so that what was measured is deployed.

    Raises `CannotBeMadeError` for a manifest that cannot serve the request's model.
    """
    deploying, cache = request.deploying, request.deploying.model_cache
    own_base = request.profiling.base is not None
    serving = Serving(
        request.model,
        path=f"{cache.mount_path.rstrip('/')}/{cache.path.strip('/')}" if cache and cache.path else "",
        image=deploying.workers_image or "",
        claim=cache.claim if cache else "",
        mount_path=cache.mount_path if cache else "",
        pull_secrets=settings.pull_secrets,
        hf_token=(settings.hf_token_secret, settings.hf_token_key) if settings.hf_token_secret and not own_base else None,
        trust_remote_code=deploying.trust_remote_code,
    )
    try:
        document = manifests.serving(manifests.read(base), request.backend, serving)
    except UsageError as error:
        raise _unusable(error) from None
    metadata = document.setdefault("metadata", {})
    metadata["annotations"] = {NODE_SIZE: str(node_gpus(request, gpus) or NODE_GPUS), **(metadata.get("annotations") or {})}
    return document


def generated(request: Request, settings: Settings, manifests: Manifests, base: str, seen: Seen) -> Document:
    """Raises `CannotBeMadeError` for a manifest that cannot take the picks that were seen, and for a patch that leaves no deployment."""
    given = prepared(request, settings, manifests, base, seen.gpus)
    size = given["metadata"]["annotations"][NODE_SIZE]
    try:
        graph = manifests.pair(given, request.backend, picks(seen), request.graph_name, int(size) if size.isdecimal() else NODE_GPUS)
    except UsageError as error:
        raise _unusable(error) from None
    _mark(graph, request, settings)
    if request.deploying.with_planner:
        _add_planner(graph, _planner(graph["apiVersion"], request, settings, manifests))
    if request.deploying.graph_patch:
        graph = _overlaid(graph, request.deploying.graph_patch, manifests)
        _mark(graph, request, settings)
    return graph


def picks(seen: Seen) -> tuple[ParallelMapping, ParallelMapping]:
    """Prefill and decode, from the whole profile where the ConfigMap holds it, else from their labels. Raises `CannotBeMadeError`."""
    profile = seen.profile
    if profile is None:
        raise CannotBeMadeError("ProfileMissing", "there is no profile; delete the request and create it again")
    try:
        document = json.loads(profile.files[PROFILE_JSON])
        return ParallelMapping(**document["selected_prefill"]), ParallelMapping(**document["selected_decode"])
    except KeyError:
        return _mapping(profile.prefill), _mapping(profile.decode)
    except (ValueError, TypeError):
        what = f"{PROFILE_JSON} of the ConfigMap {profile.config_map} is not what a sweep writes"
        raise CannotBeMadeError("ProfileUnreadable", f"{what}: delete the request and create it again") from None


def planner_arguments(request: Request, settings: Settings) -> dict[str, str | None]:
    """By flag, what a request sets of the planner; later ones win. None: a switch."""
    promise = request.goal.promise
    given: dict[str, str | None] = {
        "--backend": request.backend,
        "--profile-results-dir": PROFILE_DIR,
        "--ttft-target": written(promise.ttft_ms),
        "--itl-target": written(promise.itl_ms),
        "--model-name": request.model,
        "--name": request.graph_name,  # of its part of the memory that planners of a namespace share, and of its metrics
        "--prometheus-port": str(settings.planner_metrics_port),
    }
    for argument in settings.planner_args:
        flag, equals, value = argument.partition("=")
        given[flag] = value if equals else None
    for name, value in request.deploying.planner.items():
        _set(given, name, value)
    return given


def _set(given: dict[str, str | None], name: str, value: Any) -> None:
    flag = f"--{name.replace('_', '-')}"
    if not isinstance(value, bool):
        given[flag] = written(value)
        return
    opposite = f"--{flag.removeprefix('--no-')}" if flag.startswith("--no-") else f"--no-{flag.removeprefix('--')}"
    chosen, other = (flag, opposite) if value else (opposite, flag)
    given.pop(other, None)
    given[chosen] = None


def _mark(graph: Document, request: Request, settings: Settings) -> None:
    """Name and labels that tell whose it is; everything else of its metadata stays."""
    metadata, deploying = graph.get("metadata") or {}, request.deploying
    marks = labels(request, settings, "graph")
    del marks[UID_LABEL]  # a request that is made again under the same name finds it by its name, and sees by the annotation that it is another's
    graph["metadata"] = {
        **metadata,
        "name": request.graph_name,
        "namespace": request.graph_namespace,
        "labels": {**(metadata.get("labels") or {}), **deploying.labels, **marks},
        "annotations": {**(metadata.get("annotations") or {}), **deploying.annotations, UID_LABEL: request.uid},
    }


def _overlaid(graph: Document, patch: Object, manifests: Manifests) -> Document:
    version, spec = graph["apiVersion"], patch.get("spec") or {}
    other = "components" if version == _ALPHA else "services"
    if patch.get("apiVersion", version) != version or (isinstance(spec, Mapping) and other in spec):
        what = f"overrides.dgd is not for {version}, which the manifest is"
        raise CannotBeMadeError(OVERRIDES_UNUSABLE, f"{what}: write it for that version")
    changed: Document = patched(graph, {**patch, "apiVersion": version, "kind": graph["kind"]})
    try:
        manifests.check(changed)
    except UsageError as error:
        raise CannotBeMadeError(OVERRIDES_UNUSABLE, f"with overrides.dgd, {error}") from None
    return changed


# the planner's service, in both versions


def _planner(version: str, request: Request, settings: Settings, manifests: Manifests) -> dict[str, Any]:
    shipped = manifests.planners[version]["spec"]
    alpha = version == _ALPHA
    listed: Iterable[tuple[str, Any]] = shipped["services"].items() if alpha else ((one["name"], one) for one in shipped["components"])
    service: dict[str, Any] = copy.deepcopy(dict(listed)[PLANNER])
    if alpha:
        pod, labelled, environment = service["extraPodSpec"], service["labels"], service["envs"]
        container = pod["mainContainer"]
    else:
        pod, labelled = service["podTemplate"]["spec"], service["podTemplate"]["metadata"]["labels"]
        (container,) = pod["containers"]
        environment = container["env"]
    labelled |= {"app": f"{request.graph_name}-planner", "app.kubernetes.io/managed-by": "sla-planner"}
    pod["serviceAccountName"] = settings.planner_service_account
    if settings.pull_secrets:
        pod["imagePullSecrets"] = [{"name": secret} for secret in settings.pull_secrets]
    _mount_profile(pod, container, profile_name(request))
    container["image"] = settings.planner_image
    container["args"] = _with_arguments(container["args"], planner_arguments(request, settings))
    (metrics,) = (port for port in container["ports"] if port["name"] == "metrics")
    metrics["containerPort"] = settings.planner_metrics_port
    if settings.prometheus_endpoint:
        (endpoint,) = (variable for variable in environment if variable["name"] == PROMETHEUS)
        endpoint["value"] = settings.prometheus_endpoint
    return service


def _mount_profile(pod: dict[str, Any], container: dict[str, Any], config_map: str) -> None:
    """In the place of the results folder on a volume. The pod waits until the ConfigMap is there."""
    pod["volumes"] = [{"name": "profile", "configMap": {"name": config_map}} if one["name"] == "data" else one for one in pod["volumes"]]
    mount = {"name": "profile", "mountPath": PROFILE_DIR, "readOnly": True}
    container["volumeMounts"] = [mount if one["name"] == "data" else one for one in container["volumeMounts"]]


def _with_arguments(shipped: list[str], given: Mapping[str, str | None]) -> list[str]:
    """`shipped` with `given` in the places of the same flags, and the others behind them."""
    left = dict(given)
    result = []
    for argument in shipped:
        flag = argument.partition("=")[0]
        result.append(_argument(flag, left.pop(flag)) if flag in left else argument)
    return [*result, *(_argument(flag, value) for flag, value in left.items())]


def _argument(flag: str, value: str | None) -> str:
    return flag if value is None else f"{flag}={value}"


def _add_planner(graph: Document, service: dict[str, Any]) -> None:
    """Where the manifest names the Dynamo namespace of its services, the planner is in the same."""
    spec = graph["spec"]
    if graph["apiVersion"] != _ALPHA:
        spec["components"].append(service)
        return
    spaces = {body["dynamoNamespace"] for body in spec["services"].values() if "dynamoNamespace" in body}
    if len(spaces) == 1:
        service["dynamoNamespace"] = spaces.pop()
    spec["services"][PLANNER] = service


def _mapping(label: str) -> ParallelMapping:
    """Of `TP4`, `TEP:8`, `DEP16`, `TP4-PP2`."""
    found = _LABEL.fullmatch(label)
    if found is None:
        raise CannotBeMadeError("ProfileUnreadable", f"the profile names no mapping: {label!r}; delete the request and create it again")
    kind, size = found[1], int(found[2])
    if kind != "TP":
        return ParallelMapping(tp=size if kind == "TEP" else 1, dp=size if kind == "DEP" else 1, ep=size)
    pp, dp, ep = (int(text or 1) for text in found.groups()[2:])
    return ParallelMapping(tp=size, pp=pp, dp=dp, ep=ep)


def _unusable(error: UsageError) -> CannotBeMadeError:
    return CannotBeMadeError("BaseManifestUnusable", str(error))
