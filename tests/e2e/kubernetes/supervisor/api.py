"""As much of a Kubernetes client as bringing up a cluster and giving it volumes needs: JSON over HTTPS, and watches."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

from supervisor.layout import KUBECONFIG

REQUEST_TIMEOUT_S = 30
WATCH_TIMEOUT_S = 300

Document = dict[str, Any]


class Refused(Exception):
    """The API answered with an error status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status = status


class Api:
    """Speaks as the cluster's admin. Raises OSError or http.client.HTTPException while the API server is away, Refused on its errors."""

    def __init__(self) -> None:
        config = json.loads(KUBECONFIG.read_text())
        cluster = config["clusters"][0]["cluster"]
        self._address = urllib.parse.urlsplit(cluster["server"]).netloc
        self._token = config["users"][0]["user"]["token"]
        self._trust = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())

    def get(self, path: str) -> Document:
        return self._call("GET", path)

    def create(self, path: str, document: Document) -> None:
        """Creates what is not there yet."""
        try:
            self._call("POST", path, document)
        except Refused as refusal:
            if refusal.status != http.client.CONFLICT:
                raise

    def merge(self, path: str, document: Document) -> None:
        self._call("PATCH", path, document, content_type="application/merge-patch+json")

    def delete(self, path: str) -> None:
        """Deletes what is still there."""
        try:
            self._call("DELETE", path)
        except Refused as refusal:
            if refusal.status != http.client.NOT_FOUND:
                raise

    def healthy(self) -> bool:
        try:
            with self._open("GET", "/readyz", timeout_s=2) as response:
                return response.status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False

    def until(self, path: str, name: str, condition: Callable[[Document], bool]) -> Document:
        """The object `name` of the collection at `path`, once `condition` holds; waits for it to exist, too."""
        for document in self.each(path, f"metadata.name={name}"):
            if condition(document):
                return document
        raise Refused(http.client.GONE, f"watch of {path} ended")

    def each(self, path: str, field_selector: str = "") -> Iterator[Document]:
        """All objects of a collection, then every one that is added or changed, until the watch ends."""
        select = {"fieldSelector": field_selector} if field_selector else {}
        listed = self.get(f"{path}?{urllib.parse.urlencode(select)}")
        yield from listed["items"]
        query = {**select, "watch": "1", "resourceVersion": listed["metadata"]["resourceVersion"], "timeoutSeconds": str(WATCH_TIMEOUT_S)}
        with self._open("GET", f"{path}?{urllib.parse.urlencode(query)}", timeout_s=WATCH_TIMEOUT_S + REQUEST_TIMEOUT_S) as response:
            for line in response:
                event = json.loads(line)
                if event["type"] in ("ADDED", "MODIFIED"):
                    yield event["object"]

    def _call(self, method: str, path: str, document: Document | None = None, content_type: str = "application/json") -> Document:
        with self._open(method, path, document, content_type) as response:
            answer: Document = json.loads(response.read())
        if response.status >= http.client.BAD_REQUEST:
            raise Refused(response.status, answer.get("message", ""))
        return answer

    def _open(
        self, method: str, path: str, document: Document | None = None, content_type: str = "application/json", timeout_s: float = REQUEST_TIMEOUT_S
    ) -> http.client.HTTPResponse:
        connection = http.client.HTTPSConnection(self._address, context=self._trust, timeout=timeout_s)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": content_type, "Connection": "close"}
        connection.request(method, path, None if document is None else json.dumps(document), headers)
        return connection.getresponse()
