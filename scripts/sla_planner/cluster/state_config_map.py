"""The planner's memory in a ConfigMap, for a pod that has no disk: two keys per target, written together after every tick.

    TARGET.state.json    what it remembers (compact)
    TARGET.status.json   what it saw, decided and what holds (conditions), for people and `kubectl get configmap -o jsonpath`
    TARGET.state.bad     a state that could not be used, set aside

    write   merge patch of these keys, on the version that was read last. When that is an old one: if the state still is what this process wrote,
            another target of the same map was written, and the patch is sent again; else another planner writes this target: said, not overwritten

Made when it is missing. The API server takes up to 1 MiB for all keys together.
"""

from __future__ import annotations

import json
from typing import Any

from sla_planner.cluster.api import Conflict, KubernetesApi, NotFound
from sla_planner.cluster.resources import CONFIG_MAPS, Object
from sla_planner.cluster.state_store import StateTaken
from sla_planner.errors import UnreachableError, UsageError

LARGEST_BYTES = 1_000_000
ATTEMPTS = 16


class StateConfigMap:
    """One target's state in the ConfigMap `name`."""

    def __init__(self, api: KubernetesApi, name: str, target: str) -> None:
        self._api = api
        self._name = name
        self._state, self._status, self._bad = (f"{target}.{part}" for part in ("state.json", "status.json", "state.bad"))
        self._version = ""
        self._text: str | None = None  # of the state, as we last saw it or know that we wrote it
        self._sent: str | None = None  # what may have been written, although no answer came

    @property
    def place(self) -> str:
        return f"configmap {self._name}, {self._state}"

    def read(self) -> tuple[dict[str, Any] | None, str]:
        """The document, or None and why there is none (empty when there just is none yet). Raises `ForbiddenError`, `UnreachableError`."""
        data = self._look()
        if self._text is None:
            return None, ""
        try:
            document = json.loads(self._text)
        except (ValueError, RecursionError) as error:
            return None, self.set_aside(f"is not JSON ({str(error)[:80]})")
        if not isinstance(document, dict):
            return None, self.set_aside("is not a JSON object")
        try:
            status = json.loads(data.get(self._status, ""))
        except (ValueError, RecursionError):
            status = {}
        return {**document, "status": status}, ""

    def set_aside(self, why: str) -> str:
        """Move the state to its other key; returns the sentence that says so."""
        self._patch({self._state: None, self._bad: self._text})
        self._text = None
        return f"state in {self.place} {why}; kept as {self._bad}, starting afresh"

    def write(self, document: dict[str, Any]) -> None:
        """Replace the document; its `status` goes to the key for people.

        Raises `StateTaken` when another planner writes it, `UsageError` when it is too large, `ForbiddenError`, `UnreachableError`.
        """
        rest = {key: value for key, value in document.items() if key != "status"}
        text = json.dumps(rest, separators=(",", ":"), allow_nan=False)
        if len(text.encode()) > LARGEST_BYTES:
            raise UsageError(f"the state has {len(text.encode())} bytes, more than a ConfigMap holds", hint="use --state FILE on a volume")
        self._patch({self._state: text, self._status: json.dumps(document.get("status", {}), indent=1, allow_nan=False)})
        self._text = text

    def _look(self) -> dict[str, str]:
        try:
            found = self._api.get(CONFIG_MAPS, self._name)
        except NotFound:
            self._version, self._text = "", None
            return {}
        data: dict[str, str] = found.get("data") or {}
        self._version, self._text = str(found["metadata"]["resourceVersion"]), data.get(self._state)
        return data

    def _patch(self, data: dict[str, str | None]) -> None:
        known, self._sent = {self._text, self._sent, data[self._state]}, data[self._state]
        for _ in range(ATTEMPTS):
            try:
                self._version = str(self._send(data)["metadata"]["resourceVersion"])
            except (Conflict, NotFound):
                self._look()
                if self._version and self._text not in known:
                    raise StateTaken(
                        f"another planner writes the state in {self.place}", hint="let only one act on a target, or give both the same --lease"
                    ) from None
            else:
                return
        raise UnreachableError(f"configmap {self._name} changes faster than it can be written", hint="give every planner a ConfigMap of its own")

    def _send(self, data: dict[str, str | None]) -> Object:
        if self._version:
            return self._api.merge_patch(CONFIG_MAPS, self._name, {"metadata": {"resourceVersion": self._version}, "data": data})
        labels = {"app.kubernetes.io/name": "sla-planner", "app.kubernetes.io/component": "planner", "app.kubernetes.io/part-of": "sla-planner"}
        return self._api.create(
            CONFIG_MAPS,
            {
                "apiVersion": CONFIG_MAPS.api_version,
                "kind": CONFIG_MAPS.kind,
                "metadata": {"name": self._name, "labels": {**labels, "app.kubernetes.io/managed-by": "sla-planner"}},
                "data": {key: text for key, text in data.items() if text is not None},
            },
        )
