"""A PersistentVolumeClaim: whether it can be used, and on which node.

A volume that only one node may mount (ReadWriteOnce) is to be had where it is in use: a pod that wants it as well goes to that node, and tolerates
what the pod tolerates that is there already. The scheduler knows the rest: a volume that exists on some nodes only says so itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from sla_planner.cluster.api import KubernetesApi, NotFound
from sla_planner.cluster.resources import PODS, VOLUME_CLAIMS, Object
from sla_planner.errors import UsageError

_SHARED = frozenset({"ReadWriteMany", "ReadOnlyMany"})
_WRITABLE = frozenset({"ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"})
_ENDED = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True, slots=True)
class Place:
    """Where a pod with the claim has to be. `node` '': anywhere; `beside`: the pod that has the volume there."""

    node: str = ""
    beside: str = ""
    tolerations: tuple[Object, ...] = ()


def place_of(api: KubernetesApi, claim: str, *, writes: bool) -> Place:
    """Raises `UsageError` when there is no such claim, or it cannot be used now."""
    found = _claim(api, claim)
    status, metadata = found.get("status") or {}, found["metadata"]
    modes = frozenset(status.get("accessModes") or found.get("spec", {}).get("accessModes") or ())
    shown = f"PVC {claim} in namespace {api.namespace}"
    if metadata.get("deletionTimestamp"):
        raise UsageError(f"{shown} is being deleted", hint="make it anew, or name another with --pvc")
    if status.get("phase") == "Lost":
        raise UsageError(f"{shown} has lost its volume", hint="make it anew, or name another with --pvc")
    if writes and not modes & _WRITABLE:
        raise UsageError(f"{shown} is for reading only ({', '.join(sorted(modes))})", hint="name another with --pvc")
    if modes & _SHARED:
        return Place()
    user = next((pod for pod in api.all_of(PODS) if _uses(pod, claim)), None)
    if user is None:
        return Place()
    name = user["metadata"]["name"]
    if modes == {"ReadWriteOncePod"}:
        raise UsageError(f"{shown} is ReadWriteOncePod, and pod {name} has it", hint="wait until that pod has ended, or end it")
    return Place(user["spec"]["nodeName"], name, tuple(user["spec"].get("tolerations") or ()))


def _claim(api: KubernetesApi, claim: str) -> Object:
    try:
        return api.get(VOLUME_CLAIMS, claim)
    except NotFound:
        names = sorted(each["metadata"]["name"] for each in api.all_of(VOLUME_CLAIMS))
        there = f"name one with --pvc: {', '.join(names)}" if names else "that namespace has none; is --namespace right?"
        raise UsageError(f"there is no PVC {claim} in namespace {api.namespace}", hint=there) from None


def _uses(pod: Object, claim: str) -> bool:
    """Whether it holds the volume at a node: scheduled, and not over."""
    spec = pod.get("spec", {})
    mounted = any((volume.get("persistentVolumeClaim") or {}).get("claimName") == claim for volume in spec.get("volumes") or ())
    return mounted and bool(spec.get("nodeName")) and pod.get("status", {}).get("phase") not in _ENDED
