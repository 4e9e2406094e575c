"""One Application: what Argo CD says of it, and what a person or a webhook asks of Argo CD."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Any

from tests.e2e.argocd.argo_cd import ArgoCd
from tests.e2e.conftest import Document, Namespace

REFRESH = "argocd.argoproj.io/refresh"
SYNC_TIMEOUT_S = 600.0  # pods of the simulated engines start slowly on a busy machine


class Application:
    """An Application that `create` has made. Methods that wait fail at once when a sync fails or a part of Argo CD ends."""

    def __init__(self, argo_cd: ArgoCd, namespace: Namespace, name: str) -> None:
        self.name = name
        self._argo_cd = argo_cd
        self._namespace = namespace
        self._resource = f"applications.argoproj.io/{name}"

    @classmethod
    def create(cls, argo_cd: ArgoCd, namespace: Namespace, manifest: Document) -> Application:
        namespace.apply(manifest)
        return cls(argo_cd, namespace, manifest["metadata"]["name"])

    def get(self) -> Document:
        return self._namespace.get(self._resource)

    def installed(self) -> list[Document]:
        """What it says of each object that it keeps in sync; hooks are none of these."""
        return [each for each in self.get()["status"]["resources"] if not each.get("hook")]

    def until(self, holds: Callable[[Document], Any], timeout_s: float = SYNC_TIMEOUT_S) -> Document:
        """The Application as soon as `holds` is true of it."""

        def still(document: Document) -> Any:
            ended = self._argo_cd.ended()
            assert not ended, ended
            status = document.get("status", {})
            operation = status.get("operationState", {})
            assert operation.get("phase") not in ("Failed", "Error"), operation.get("message")
            return "reconciledAt" in status and holds(document)  # not before the first comparison

        return self._namespace.until(self._resource, still, timeout_s)

    def until_healthy(self, revision: str) -> Document:
        """As Git has it at `revision`, everything works, and no sync is under way."""

        def holds(document: Document) -> bool:
            status = document["status"]
            at_rest = "operation" not in document and status.get("operationState", {}).get("phase") == "Succeeded"
            synced = status["sync"]["status"] == "Synced" and status["sync"]["revision"] == revision
            return at_rest and synced and status["health"]["status"] == "Healthy"

        try:
            return self.until(holds)
        except AssertionError as error:
            raise AssertionError(f"{self.name} is not in sync with {revision} and healthy: {self._trouble() or error}") from None

    def until_compared(self, times: int) -> Document:
        """After this many comparisons of the cluster with Git, apart from one that may be in progress."""
        seen: list[str] = []

        def holds(document: Document) -> bool:
            at = document["status"]["reconciledAt"]
            if at not in seen:
                seen.append(at)
            return len(seen) > times + 1

        return self.until(holds)

    def refresh(self, kind: str = "normal") -> Document:
        """Git is read anew, as a webhook asks for, and the cluster is compared with it; `hard`: with manifests that are built anew, too."""
        self._namespace.kubectl("annotate", self._resource, f"{REFRESH}={kind}", "--overwrite")
        return self.until(lambda document: REFRESH not in document["metadata"].get("annotations", {}))

    def refresh_until_healthy(self, revision: str) -> Document:
        self.refresh()
        return self.until_healthy(revision)

    def sync(self) -> list[Document]:
        """What a person asks for with `argocd app sync --prune`; what was done, object by object."""
        asked_by = secrets.token_hex(4)
        sync = {"prune": True, "syncOptions": self.get()["spec"]["syncPolicy"]["syncOptions"], "syncStrategy": {"hook": {}}}
        # Argo CD merges the record of a new operation into that of the last one: after self-healing of one object it would sync that one alone.
        patch = {"operation": {"initiatedBy": {"username": asked_by}, "sync": sync}, "status": {"operationState": None}}
        self._namespace.kubectl("patch", self._resource, "--type=merge", "--patch", json.dumps(patch))

        def done(document: Document) -> bool:
            state = document["status"].get("operationState")
            return state and state["operation"].get("initiatedBy", {}).get("username") == asked_by and state["phase"] == "Succeeded"

        result: list[Document] = self.until(done)["status"]["operationState"]["syncResult"]["resources"]
        return result

    def delete(self) -> None:
        """Returns when Argo CD has removed what it had installed."""
        self._namespace.kubectl("delete", self._resource, timeout_s=SYNC_TIMEOUT_S)

    def abandon(self) -> None:
        """Forgotten, whatever it had installed stays."""
        if self._namespace.kubectl("get", self._resource, "--ignore-not-found"):
            self._namespace.kubectl("patch", self._resource, "--type=merge", "--patch", '{"metadata": {"finalizers": null}}')
            self._namespace.kubectl("delete", self._resource, "--ignore-not-found")

    def _trouble(self) -> str:
        """Which objects keep it from that, and errors of the whole."""
        status = self.get().get("status", {})
        lines = [f"{condition['type']}: {condition['message']}" for condition in status.get("conditions", [])]
        for each in status.get("resources", []):
            state, health = each.get("status", ""), each.get("health", {})
            if state not in ("", "Synced") or health.get("status", "Healthy") != "Healthy":
                lines.append(f"{each['kind']}/{each['name']}: {state} {health.get('status', '')} {health.get('message', '')}".rstrip())
        return "; ".join(lines)
