"""etcd v3 over its JSON gateway: POST, bodies and answers in JSON, 64-bit integers as strings. No gRPC needed.

    unary     one answer; tried a second time when the connection breaks (a pooled one may have been closed while idle)
    stream    one JSON object per line, {"result": ...}

A request that was sent twice may have been carried out twice: callers send only transactions that compare first.
With a user and password a token is fetched on first use, and again when etcd has forgotten it (they expire after minutes without use).
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import requests

from sla_planner.errors import UnreachableError, UsageError

DEFAULT_PORT = 2379
_CONNECT_TIMEOUT_S = 3.0
_READ_TIMEOUT_S = 5.0
_TOKEN_REFUSED = (400, 401)  # expired; older than the last change of users and roles


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where etcd listens, and as whom to ask. `address` is host:port; the password is in no text made from this object."""

    address: str
    user: str = ""
    password: str = field(default="", repr=False)


def parse_endpoint(url: str) -> Endpoint:
    """`etcd://[USER:PASSWORD@]HOST[:PORT]`. ValueError for anything else."""
    parts = urlsplit(url)
    if parts.scheme != "etcd" or not re.fullmatch(r"[\w.:%-]+", parts.hostname or "") or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("no etcd URL")
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    return Endpoint(f"{host}:{parts.port or DEFAULT_PORT}", unquote(parts.username or ""), unquote(parts.password or ""))


class EtcdGateway:
    """One etcd endpoint. `UnreachableError` when it does not answer, `UsageError` when it answers no."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy, and no .netrc entry in place of our token

    def unary(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to `body`, checked to be etcd's."""
        response = self._send_again_if_broken(path, body)
        if response.status_code in _TOKEN_REFUSED and "Authorization" in self._session.headers:
            del self._session.headers["Authorization"]
            response = self._send_again_if_broken(path, body)
        return self._checked(response)

    def stream(self, path: str, body: dict[str, Any], idle_timeout_s: float) -> Iterator[dict[str, Any]]:
        """Results as they come, until nothing came for `idle_timeout_s` or the connection broke. Neither is an error here: ask again."""
        try:
            with self._send(path, body, read_timeout_s=idle_timeout_s, stream=True) as response:
                if not response.ok:
                    self._checked(response)
                for line in response.iter_lines():
                    yield json.loads(line).get("result", {})
        except (requests.RequestException, json.JSONDecodeError):
            return

    def _send_again_if_broken(self, path: str, body: dict[str, Any]) -> requests.Response:
        with contextlib.suppress(requests.RequestException):
            return self._send(path, body)
        try:
            return self._send(path, body)
        except requests.RequestException as error:
            raise UnreachableError(
                f"etcd at {self._endpoint.address} does not answer ({type(error).__name__})", hint="check that it runs and can be reached from here"
            ) from error

    def _send(self, path: str, body: dict[str, Any], *, read_timeout_s: float = _READ_TIMEOUT_S, stream: bool = False) -> requests.Response:
        if self._endpoint.user and "Authorization" not in self._session.headers:
            self._session.headers["Authorization"] = self._token()
        return self._post(path, body, read_timeout_s, stream)

    def _post(self, path: str, body: dict[str, Any], read_timeout_s: float, stream: bool) -> requests.Response:
        url = f"http://{self._endpoint.address}{path}"
        return self._session.post(url, json=body, timeout=(_CONNECT_TIMEOUT_S, read_timeout_s), stream=stream)

    def _token(self) -> str:
        body = {"name": self._endpoint.user, "password": self._endpoint.password}
        return str(self._checked(self._post("/v3/auth/authenticate", body, _READ_TIMEOUT_S, stream=False))["token"])

    def _checked(self, response: requests.Response) -> dict[str, Any]:
        who = f"etcd at {self._endpoint.address}"
        try:
            answer = response.json()
            if response.ok:
                answer["header"]  # every answer of etcd has one
                return dict(answer)
            reason = str(answer["message"])
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{self._endpoint.address} does not speak etcd's v3 API (HTTP {response.status_code})", hint="give host and port of etcd >= 3.4"
            ) from error
        if response.status_code >= requests.codes.server_error:
            raise UnreachableError(f"{who} cannot serve now: {reason}", hint="check that a majority of its members runs")
        raise UsageError(
            f"{who} refuses: {reason}", hint="give the right user and password: etcd://USER:PASSWORD@HOST:PORT, none if it asks for none"
        )
