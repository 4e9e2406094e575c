"""What a sweep makes carries who made it, so that it goes with its maker, and so that whatever a killed one left is found.

    record      a ConfigMap per engine, made before the engine's objects: what they are, and who runs the sweep (the holder). It owns them.
    owner       the sweep's own pod owns the record: deleting the Job or the pod deletes the engine, without us
    leftover    a record whose holder is over. A pod that is gone or has ended is over; so is one on its way out whose time has been up for a while.
                Our own pod has run an earlier sweep (its container was started again): over too. Outside of a pod the holder is a results folder of a
                machine: its lock is ours, so whoever had it is over; those of other machines are told, and left to a person

A sweep that lives is never a leftover: nothing else ends a pod, and nothing else gives the lock back.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sla_planner.cluster.api import KubernetesApi, NotFound, Selector
from sla_planner.cluster.resources import CONFIG_MAPS, PODS, Object, annotations_of, labels_of, name_of
from sla_planner.errors import PlannerError

STAGE = "profile-sweep"
RUN_LABEL = "slaplanner.io/run-id"
ENGINE_LABEL = "slaplanner.io/engine"
HOLDER = "slaplanner.io/holder"  # annotation
RECORDS = Selector(labels=f"app.kubernetes.io/component={STAGE},app.kubernetes.io/managed-by=sla-planner,{ENGINE_LABEL}")

_OVERDUE = timedelta(seconds=60)  # clocks differ, and a kubelet takes a moment

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who runs the sweep. `pod` and `uid`: outside of a pod '' and `place` counts, a folder of a machine."""

    run_id: str
    pod: str = ""
    uid: str = ""
    place: str = ""

    def labels(self, version: str) -> dict[str, str]:
        """Of everything that is made."""
        return {
            "app.kubernetes.io/name": "sla-planner",
            "app.kubernetes.io/component": STAGE,
            "app.kubernetes.io/part-of": "sla-planner",
            "app.kubernetes.io/version": version,
            "app.kubernetes.io/managed-by": "sla-planner",
            RUN_LABEL: self.run_id,
        }

    @property
    def annotation(self) -> str:
        return f"pod/{self.pod}/{self.uid}" if self.uid else f"host/{self.place}"

    @property
    def owners(self) -> list[Object]:
        return [{"apiVersion": "v1", "kind": "Pod", "name": self.pod, "uid": self.uid}] if self.uid else []


def this_sweep(api: KubernetesApi, results: Path, environ: Mapping[str, str] = os.environ) -> Holder:
    """Ours: the pod that POD_NAME names, else `results` on this machine."""
    run_id, pod = secrets.token_hex(3), environ.get("POD_NAME", "")
    place = f"{socket.gethostname()}{results.resolve()}"
    if not pod:
        return Holder(run_id, place=place)
    try:
        return Holder(run_id, pod, api.get(PODS, pod)["metadata"]["uid"])
    except NotFound:
        log.warning("There is no pod %s (POD_NAME) in namespace %s: nothing will own the engines", pod, api.namespace)
        return Holder(run_id, place=place)


def record_of(name: str, objects: Sequence[Mapping[str, Any]], holder: Holder, version: str) -> Object:
    """The record of the engine `name`, which is made of `objects`."""
    listed = [{"apiVersion": one["apiVersion"], "kind": one["kind"], "name": one["metadata"]["name"]} for one in objects]
    metadata: Object = {
        "name": name,
        "labels": {**holder.labels(version), ENGINE_LABEL: name},
        "annotations": {HOLDER: holder.annotation},
        "ownerReferences": holder.owners,
    }
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"objects": json.dumps(listed)}}


def remove_leftovers(api: KubernetesApi, holder: Holder, now: datetime | None = None) -> None:
    """Of sweeps that are over, everything; of those that may live, nothing. Says what it does."""
    for record in api.all_of(CONFIG_MAPS, RECORDS):
        name, held_by = record["metadata"]["name"], annotations_of(record).get(HOLDER, "")
        if _is_over(api, held_by, holder, now or datetime.now(UTC)):
            log.info("Removing the engine %s, left by a sweep that is over (%s)", name, held_by or "nobody")
            _remove_recorded(api, record)
        elif held_by.startswith("host/"):
            run = labels_of(record).get(RUN_LABEL, "")
            log.warning("The engine %s is of a sweep on another machine (%s); if that is over: kubectl delete configmap %s", name, run, name)


def delete_own(api: KubernetesApi, one: Mapping[str, Any], name: str, engine: str) -> None:
    """The object `name` of the kind of `one`, if it is the one that was made for `engine`."""
    resource = api.resource_of(one)
    try:
        found = api.get(resource, name)
    except NotFound:
        return
    if labels_of(found).get(ENGINE_LABEL) == engine:
        api.delete(resource, name, uid=found["metadata"]["uid"])


def _remove_recorded(api: KubernetesApi, record: Object) -> None:
    """The objects of a record, then the record. What it owns goes with it in any case; this is faster."""
    engine = record["metadata"]["name"]
    for one in reversed(_listed(record)):
        try:
            delete_own(api, one, one["name"], engine)
        except PlannerError as error:
            log.warning("%s/%s is left to the cluster's garbage collector: %s", one["kind"], one["name"], error)
    delete_own(api, record, engine, engine)


def _is_over(api: KubernetesApi, held_by: str, holder: Holder, now: datetime) -> bool:
    kind, _, rest = held_by.partition("/")
    if kind == "host":
        return not holder.uid and rest == holder.place
    pod, _, uid = rest.partition("/")
    if kind != "pod" or uid == holder.uid:
        return True
    try:
        found = api.get(PODS, pod)
    except NotFound:
        return True
    metadata = found["metadata"]
    if metadata["uid"] != uid or (found.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return True
    due = metadata.get("deletionTimestamp")
    return bool(due) and now > datetime.fromisoformat(due) + _OVERDUE


def _listed(record: Object) -> list[Object]:
    try:
        listed = json.loads((record.get("data") or {})["objects"])
        return [one for one in listed if {"apiVersion", "kind", "name"} <= set(one)]
    except (ValueError, KeyError, TypeError):
        log.warning("%s does not say what it is made of; the cluster removes what it owns", name_of(record))
        return []
