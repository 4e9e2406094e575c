"""A profile as a ConfigMap, for planners that mount it: the same files as in the results folder, as far as they fit.

The data is replaced as a whole, so nothing of an earlier sweep stays beside it. What does not fit any more is removed rather than left old.
Where somebody else has made the ConfigMap for this profile, it is not made anew: one that is gone is not wanted any more, and nobody would remove it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sla_planner.cluster.api import Conflict, KubernetesApi, NotFound
from sla_planner.cluster.resources import CONFIG_MAPS, Object, annotations_of, labels_of
from sla_planner.errors import UsageError

MOST_BYTES = 1_000_000  # of keys and values; the API takes 1 MiB with everything
_TRIES = 5
PROFILE_DIGEST = "slaplanner.io/profile-digest"  # annotations of a profile: of its content, and whether the promise is kept
FEASIBLE = "slaplanner.io/feasible"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Publication:
    """`files` belong together; of `extra` what fits as well, in order. `labels`, `annotations`: beside those that the ConfigMap has."""

    files: Mapping[str, str]
    extra: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


def publish(api: KubernetesApi, name: str, publication: Publication, *, existing_only: bool = False) -> tuple[str, ...]:
    """Make the ConfigMap `name` hold `publication`. Returns the keys that it holds now.

    Raises `UsageError` when its `files` do not fit: then there is no such ConfigMap any more; and with `existing_only` when there is none.
    """
    held, size = dict(publication.files), _size(publication.files)
    if size > MOST_BYTES:
        api.delete(CONFIG_MAPS, name)
        what = f"the profile has {size:,} bytes, a ConfigMap holds {MOST_BYTES:,}"
        raise UsageError(what, hint="mount the results folder, or measure fewer points")
    for key, text in publication.extra.items():
        if (more := size + _size({key: text})) <= MOST_BYTES:
            held[key], size = text, more
        else:
            log.info("%s does not fit the ConfigMap %s beside the rest", key, name)
    for _ in range(_TRIES):
        try:
            _write(api, name, replace(publication, files=held), existing_only=existing_only)
        except Conflict:  # somebody was faster; what they wrote is older than ours, or they will say so too
            continue
        except NotFound:
            if not existing_only:  # it went after it was read
                continue
            what = f"the ConfigMap {name} that the profile is for is gone from namespace {api.namespace}"
            raise UsageError(
                what, hint="if the profile is still wanted, make the ConfigMap and run the sweep again: it measures nothing twice"
            ) from None
        return tuple(held)
    raise UsageError(f"the ConfigMap {name} changes all the time", hint="find out who else writes it, or publish under another name")


def _write(api: KubernetesApi, name: str, publication: Publication, *, existing_only: bool) -> None:
    """Its `files`. Raises `Conflict`, and `NotFound` where it is gone."""
    body: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": dict(publication.files)}
    try:
        found = api.get(CONFIG_MAPS, name)
    except NotFound:
        if existing_only:
            raise
        body["metadata"] |= {"labels": dict(publication.labels), "annotations": dict(publication.annotations)}
        api.create(CONFIG_MAPS, body)
        return
    body["metadata"] |= {
        "resourceVersion": found["metadata"]["resourceVersion"],
        "labels": {**labels_of(found), **publication.labels},
        "annotations": {**annotations_of(found), **publication.annotations},
    }
    if owners := found["metadata"].get("ownerReferences"):
        body["metadata"]["ownerReferences"] = owners
    api.replace(CONFIG_MAPS, body)


def _size(files: Mapping[str, str]) -> int:
    return sum(len(key) + len(text.encode()) for key, text in files.items())
