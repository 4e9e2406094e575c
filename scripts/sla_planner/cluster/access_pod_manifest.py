"""The Job of an access pod: one container that has the volume, and no rights at all.

a Job, not a bare pod       when it has ended, however, the cluster removes it and its pod (`ttlSecondsAfterFinished`), also when nobody is left to
ends by itself              the keeper (`sla_planner.volume.keeper`) ends when its client has gone; `activeDeadlineSeconds` whatever happens
restricted Pod Security     user 65532, no privileges, read-only root; no service account token, no service links
"""

from __future__ import annotations

from dataclasses import dataclass

from sla_planner import __version__
from sla_planner.cluster.access_pod_place import Place
from sla_planner.cluster.resources import Object

CONTAINER = "volume"
ROLE_LABEL, RUN_LABEL, ACCESS_ROLE = "slaplanner.io/role", "slaplanner.io/run-id", "volume-access"
DEADLINE_S = 6 * 3600
KEPT_S = 30  # after its end, for who wants to know why

_USER = 65532


@dataclass(frozen=True, slots=True)
class AccessOptions:
    """`stage`: whose pod it is, part of its name. `mount`: where the volume is in it. `writes`: else it is mounted read-only."""

    stage: str
    claim: str
    image: str
    mount: str
    keeper: tuple[str, ...]
    writes: bool
    pull_secret: str = ""
    tolerations: tuple[Object, ...] = ()
    start_limit_s: float = 120.0


def access_job(options: AccessOptions, place: Place, run_id: str) -> Object:
    labels = {
        "app.kubernetes.io/name": "sla-planner",
        "app.kubernetes.io/component": options.stage,
        "app.kubernetes.io/part-of": "sla-planner",
        "app.kubernetes.io/version": __version__,
        "app.kubernetes.io/managed-by": "sla-planner",
        ROLE_LABEL: ACCESS_ROLE,
        RUN_LABEL: run_id,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"{options.stage}-{run_id}", "labels": labels},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": DEADLINE_S,
            "ttlSecondsAfterFinished": KEPT_S,
            "template": {"metadata": {"labels": labels}, "spec": _pod(options, place)},
        },
    }


def _pod(options: AccessOptions, place: Place) -> Object:
    spec: Object = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 5,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "fsGroupChangePolicy": "OnRootMismatch",  # not a walk through gigabytes at every start
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": CONTAINER,
                "image": options.image,
                "command": list(options.keeper),
                "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}},
                "volumeMounts": [{"name": "data", "mountPath": options.mount, "readOnly": not options.writes}],
            }
        ],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": options.claim}}],
    }
    if options.pull_secret:
        spec["imagePullSecrets"] = [{"name": options.pull_secret}]
    if tolerations := (*options.tolerations, *place.tolerations):
        spec["tolerations"] = list(tolerations)
    if place.node:
        # Not `nodeName`: that would go past the scheduler, which knows whether there is room.
        here = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [place.node]}]}
        spec["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [here]}}}
    return spec
