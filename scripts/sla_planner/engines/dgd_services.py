"""The services of a DynamoGraphDeployment, in both API versions.

                    nvidia.com/v1alpha1                             nvidia.com/v1beta1
    services            spec.services: {name: ...}                      spec.components: [{name: ...}]
    what it is          componentType, subComponentType                 type
    GPUs of a node      resources.limits.gpu                            the container's resources.limits["nvidia.com/gpu"]
    nodes               multinode.nodeCount                             multinode.nodeCount
    container           extraPodSpec.mainContainer                      podTemplate.spec.containers, the one named main

Source: the resource definitions of Dynamo's operator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from typing import Any

from sla_planner.errors import UsageError
from sla_planner.sweep.host import GPU, WHOLE_GPU
from sla_planner.sweep.port import Phase

KIND = "DynamoGraphDeployment"

_ALPHA, _BETA = "nvidia.com/v1alpha1", "nvidia.com/v1beta1"
_NO_WORKER = frozenset({"frontend", "planner", "epp"})
_WORKER_ROLES = frozenset({Phase.PREFILL, Phase.DECODE})
_OF_A_FLEET = ("autoscaling", "scalingAdapter", "minAvailable")


class Service:
    """One service of a v1alpha1 deployment. `body` is the manifest's own mapping, edited in place."""

    def __init__(self, name: str, body: dict[str, Any]) -> None:
        self.name = name
        self.body = body

    @property
    def component_type(self) -> str:
        return str(self.body.get("componentType") or "").lower()

    @property
    def role(self) -> str:
        """`prefill`, `decode`, or '' when it is not declared."""
        declared = str(self.body.get("subComponentType") or self.component_type).lower()
        return declared if declared in _WORKER_ROLES else ""

    @property
    def is_frontend(self) -> bool:
        return "frontend" in (self.component_type, self.name.lower())

    @property
    def is_planner(self) -> bool:
        return "planner" in (self.component_type, self.name.lower())

    @property
    def may_be_worker(self) -> bool:
        return not self.is_frontend and self.component_type not in _NO_WORKER and self.name.lower() not in _NO_WORKER

    @property
    def container(self) -> dict[str, Any]:
        return _inside(self.body, "extraPodSpec", "mainContainer")

    @property
    def pod(self) -> dict[str, Any]:
        """The pod's spec, less the container."""
        return _inside(self.body, "extraPodSpec")

    @property
    def environment(self) -> list[Any]:
        return _listed(self.body, "envs")

    @property
    def image(self) -> str:
        return str(self.container.get("image") or "")

    @property
    def nodes(self) -> int:
        multinode = self.body.get("multinode")
        return _count(multinode.get("nodeCount", 1), f"{self.name}: multinode.nodeCount") if isinstance(multinode, dict) else 1

    @property
    def gpus_per_node(self) -> int:
        """0 when the manifest does not say."""
        for resources in self._resources():
            for kind, amounts, key in _gpu_places(resources):
                return _count(amounts[key], f"{self.name}: resources.{kind}.{key}")
        return 0

    def renamed(self, name: str) -> Service:
        renamed = copy(self)
        renamed.name = name
        return renamed

    def become_decode(self) -> None:
        """An engine that prefills and decodes is a decode worker for Dynamo."""
        if "subComponentType" in self.body or self.component_type not in _WORKER_ROLES:
            self.body["subComponentType"] = str(Phase.DECODE)
        if self.component_type in _WORKER_ROLES:
            self.body["componentType"] = str(Phase.DECODE)

    def run_alone(self) -> None:
        """One replica that nothing scales."""
        self.body["replicas"] = 1
        for key in _OF_A_FLEET:
            self.body.pop(key, None)

    def isolate(self, namespace: str) -> None:
        """Several derived deployments run side by side: none may find the workers of another."""
        if "dynamoNamespace" in self.body:
            self.body["dynamoNamespace"] = namespace
        self.body.pop("globalDynamoNamespace", None)

    def set_image(self, image: str) -> None:
        self.container["image"] = image

    def mount_claim(self, volume: str, claim: str, path: str) -> None:
        """The claim in every pod, read and written as its mode allows; a mount that is at `path` already gives way."""
        _named(_listed(self.pod, "volumes"), {"name": volume, "persistentVolumeClaim": {"claimName": claim}})
        mounts = _listed(self.container, "volumeMounts")
        mounts[:] = [mount for mount in mounts if not (isinstance(mount, dict) and mount.get("mountPath") == path)]
        _named(mounts, {"name": volume, "mountPath": path})

    def add_pull_secret(self, secret: str) -> None:
        _named(_listed(self.pod, "imagePullSecrets"), {"name": secret})

    def set_env_from_secret(self, variable: str, secret: str, key: str) -> None:
        """The secret may be absent."""
        source = {"secretKeyRef": {"name": secret, "key": key, "optional": True}}
        _named(self.environment, {"name": variable, "valueFrom": source})

    def set_gpus(self, gpus: int, node_gpus: int | None) -> None:
        """`node_gpus`: GPUs of one node where the manifest shows it, else all go to one node."""
        nodes = 1
        if node_gpus and gpus > node_gpus:
            if gpus % node_gpus:
                raise UsageError(f"{gpus} GPUs cannot be spread evenly over nodes of {node_gpus}", hint="use a multiple of it")
            nodes = gpus // node_gpus
        if nodes > 1:
            _inside(self.body, "multinode")["nodeCount"] = nodes
        else:
            self.body.pop("multinode", None)
        self._write_gpus(gpus // nodes)

    def rewrite_arguments(self, rewritten: Callable[[list[str]], list[str]]) -> None:
        """Where the container keeps them: in `args`, as a list or a text, else at the end of `command`."""
        key = "args" if self.container.get("args") else "command"
        given = self.container.get(key)
        if not given:
            raise UsageError(f"{self.name} has no arguments", hint="its main container needs `args` or `command`")
        alone = isinstance(given, str)
        if not alone and not (isinstance(given, list) and all(isinstance(one, str | int | float) for one in given)):
            raise UsageError(f"{self.name}: {key} is neither a list of texts nor a text", hint="quote values that are not plain")
        written = rewritten([given] if alone else [str(one) for one in given])
        self.container[key] = written[0] if alone and len(written) == 1 else written

    def _resources(self) -> list[dict[str, Any]]:
        """Where this service's GPUs may be declared, the first that counts first."""
        extra = self.container.get("resources") if "extraPodSpec" in self.body else None
        return [resources for resources in (self.body.get("resources"), extra) if isinstance(resources, dict)]

    def _write_gpus(self, gpus: int) -> None:
        own = _inside(self.body, "resources")
        for kind in ("limits", "requests"):
            _inside(own, kind)["gpu"] = str(gpus)
        for resources in self._resources()[1:]:
            for _, amounts, key in _gpu_places(resources):
                amounts[key] = str(gpus)


class Component(Service):
    """One component of a v1beta1 deployment."""

    @property
    def component_type(self) -> str:
        return str(self.body.get("type") or "").lower()

    @property
    def role(self) -> str:
        return self.component_type if self.component_type in _WORKER_ROLES else ""

    @property
    def container(self) -> dict[str, Any]:
        containers = _inside(self.body, "podTemplate", "spec").setdefault("containers", [])
        for container in containers if isinstance(containers, list) else []:
            if isinstance(container, dict) and container.get("name") == "main":
                return container
        raise UsageError(f"{self.name} has no container named main", hint="the operator of v1beta1 looks for it in podTemplate.spec.containers")

    @property
    def pod(self) -> dict[str, Any]:
        return _inside(self.body, "podTemplate", "spec")

    @property
    def environment(self) -> list[Any]:
        return _listed(self.container, "env")

    def become_decode(self) -> None:
        self.body["type"] = str(Phase.DECODE)

    def renamed(self, name: str) -> Component:
        renamed = copy(self)
        renamed.name = renamed.body["name"] = name
        return renamed

    def _resources(self) -> list[dict[str, Any]]:
        resources = self.container.get("resources")
        return [resources] if isinstance(resources, dict) else []

    def _write_gpus(self, gpus: int) -> None:
        resources = _inside(self.container, "resources")
        keys = [key for _, _, key in _gpu_places(resources)]
        if resources.get("claims") and not keys:
            raise UsageError(f"{self.name} gets its GPUs by resource claims", hint=f"give them as {GPU} in resources.limits to measure it")
        for kind in ("limits", "requests"):
            _inside(resources, kind)[keys[0] if keys else GPU] = str(gpus)


def read_services(document: Mapping[str, Any]) -> list[Service]:
    """In the document's order. Raises `UsageError` for a version or a shape that we do not know."""
    version, spec = document.get("apiVersion"), document.get("spec")
    if version not in (_ALPHA, _BETA):
        raise UsageError(f"the apiVersion of the {KIND} is {version!r}", hint=f"known: {_ALPHA}, {_BETA}")
    key = "services" if version == _ALPHA else "components"
    listed = spec.get(key) if isinstance(spec, dict) else None
    if version == _ALPHA and isinstance(listed, dict) and listed and all(isinstance(body, dict) for body in listed.values()):
        return [Service(str(name), _counted(f"spec.services.{name}", body)) for name, body in listed.items()]
    if version == _BETA and isinstance(listed, list) and listed and all(isinstance(body, dict) and type(body.get("name")) is str for body in listed):
        return [Component(body["name"], _counted(f"spec.components {body['name']}", body)) for body in listed]
    raise UsageError(f"the {KIND} has no usable spec.{key}", hint=f"{version} wants there a {'map' if version == _ALPHA else 'list'} of services")


def _counted(place: str, body: dict[str, Any]) -> dict[str, Any]:
    """`body`, whose count is one, if it has any. Raises `UsageError`."""
    count = body.get("replicas")
    if count is not None and (type(count) is not int or count < 0):
        raise UsageError(f"{place}: replicas is {count!r}", hint="write a whole number, or leave it out")
    return body


def write_services(document: Mapping[str, Any], services: Iterable[Service]) -> None:
    """`services` and no others, in the order of the document."""
    if document["apiVersion"] == _ALPHA:
        order = list(document["spec"]["services"])
        document["spec"]["services"] = {service.name: service.body for service in sorted(services, key=lambda one: order.index(one.name))}
    else:
        order = [component["name"] for component in document["spec"]["components"]]
        document["spec"]["components"] = [service.body for service in sorted(services, key=lambda one: order.index(one.name))]


def unshared(value: Any) -> Any:
    """A deep copy in which nothing occurs twice: YAML anchors make services share a mapping, of which only one is to change."""
    if isinstance(value, Mapping):
        return {key: unshared(inner) for key, inner in value.items()}
    return [unshared(inner) for inner in value] if isinstance(value, list) else value


def _gpu_places(resources: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Where GPUs are counted: `limits` or `requests`, its amounts, and the name of the GPU among them."""
    for kind in ("limits", "requests"):
        amounts = resources.get(kind)
        if isinstance(amounts, dict):
            found = [key for key in amounts if isinstance(key, str) and (key == "gpu" or WHOLE_GPU.fullmatch(key))]
            yield from ((kind, amounts, key) for key in found)


def _inside(mapping: dict[str, Any], *keys: str) -> dict[str, Any]:
    """The mapping under `keys`, made where there is none."""
    for key in keys:
        if not isinstance(mapping.get(key), dict):
            mapping[key] = {}
        mapping = mapping[key]
    return mapping


def _listed(mapping: dict[str, Any], key: str) -> list[Any]:
    """The list under `key`, made where there is none."""
    if not isinstance(mapping.get(key), list):
        mapping[key] = []
    found: list[Any] = mapping[key]
    return found


def _named(items: list[Any], item: dict[str, Any]) -> None:
    """`item` in the place of the one of its name, else at the end."""
    at = next((at for at, one in enumerate(items) if isinstance(one, dict) and one.get("name") == item["name"]), len(items))
    items[at : at + 1] = [item]


def _count(value: Any, what: str) -> int:
    text = str(value)
    if not text.isdecimal():
        raise UsageError(f"{what} is {value!r}", hint="it must be a whole number")
    return int(text)
