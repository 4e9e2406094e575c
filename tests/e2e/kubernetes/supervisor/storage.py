"""Gives every claim of our storage classes a volume: a folder in memory that ends with the claim.

Follows the protocol of external provisioners: the volume controller annotates a claim when it wants a volume, at once or, where the class waits for a
first consumer, when a pod has been given a node; the volume names the claim, and the controller binds both. Volumes are of type `local` and belong to
root, so that, as on a real disk, a pod writes only with the right fsGroup. Those of class `small` are as large as the claim says, and no larger.
"""

from __future__ import annotations

import http.client
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from supervisor.api import Api, Document, Refused
from supervisor.layout import NODE, VOLUMES

PROVISIONER = "sla-planner.test/folder"
SMALL = "small"
CLAIMS = "/api/v1/persistentvolumeclaims"
PERSISTENT_VOLUMES = "/api/v1/persistentvolumes"
RETRY_S = 0.2


def storage_classes() -> list[Document]:
    """`standard` is the default; `first-consumer` binds when a pod uses the claim; `small` can be full."""
    return [
        _storage_class("standard", "Immediate", {"storageclass.kubernetes.io/is-default-class": "true"}),
        _storage_class("first-consumer", "WaitForFirstConsumer"),
        _storage_class(SMALL, "Immediate"),
    ]


def _storage_class(name: str, binding: str, annotations: dict[str, str] | None = None) -> Document:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name, "annotations": annotations or {}},
        "provisioner": PROVISIONER,
        "volumeBindingMode": binding,
    }


def provision(api: Api) -> None:
    """Serves claims as they come until the API's watch ends."""
    for claim in api.each(CLAIMS):
        wanted = claim["metadata"].get("annotations", {}).get("volume.kubernetes.io/storage-provisioner") == PROVISIONER
        if wanted and "volumeName" not in claim["spec"] and "deletionTimestamp" not in claim["metadata"]:
            volume = _volume(claim)
            _make(volume)
            api.create(PERSISTENT_VOLUMES, volume)


def reclaim(api: Api) -> None:
    """Removes volumes whose claim is gone until the API's watch ends."""
    for volume in api.each(PERSISTENT_VOLUMES):
        ours = volume["metadata"].get("annotations", {}).get("pv.kubernetes.io/provisioned-by") == PROVISIONER
        if ours and volume.get("status", {}).get("phase") == "Released":
            path = Path(volume["spec"]["local"]["path"])
            if path.is_mount():
                subprocess.run(["umount", "--lazy", str(path)], check=True)
            shutil.rmtree(path, ignore_errors=True)
            api.delete(f"{PERSISTENT_VOLUMES}/{volume['metadata']['name']}")


def _volume(claim: Document) -> Document:
    meta, spec = claim["metadata"], claim["spec"]
    name = f"pvc-{meta['uid']}"
    here = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER}},
        "spec": {
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"],
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": spec["storageClassName"],
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **{key: meta[key] for key in ("namespace", "name", "uid")}},
            "local": {"path": str(VOLUMES / name)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [here]}},
        },
    }


def _make(volume: Document) -> None:
    path = Path(volume["spec"]["local"]["path"])
    path.mkdir(exist_ok=True)
    if volume["spec"]["storageClassName"] == SMALL and not path.is_mount():
        size = volume["spec"]["capacity"]["storage"].removesuffix("i")  # mount knows k, m and g, all binary
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(path)], check=True)


def _for_ever(task: Callable[[Api], None]) -> None:
    """A watch ends every few minutes, and whenever the API server goes away."""
    while True:
        try:
            task(Api())
        except (OSError, http.client.HTTPException, Refused, ValueError) as error:
            print(f"{task.__name__}: {error}", flush=True)
            time.sleep(RETRY_S)


if __name__ == "__main__":
    tasks = [threading.Thread(target=_for_ever, args=(task,), daemon=True) for task in (provision, reclaim)]
    for each in tasks:
        each.start()
    while all(each.is_alive() for each in tasks):
        tasks[0].join(timeout=1.0)
    sys.exit(1)
