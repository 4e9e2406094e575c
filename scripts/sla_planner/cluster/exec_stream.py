"""A program in a running pod, and a stream of bytes to and from it: exec over a websocket, as the Kubernetes API has it.

    each websocket message      1 byte channel, then bytes;   0 stdin   1 stdout   2 stderr   3 how it ended (a Status object)

Closing one direction alone is not possible on every server; what is spoken over the stream has to say where it ends.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Sequence
from urllib.parse import urlencode, urlsplit

import websocket
from kubernetes.client.configuration import Configuration

from sla_planner.cluster.api import KubernetesApi, NotFound
from sla_planner.cluster.exec_stream_socket import SharedSocket
from sla_planner.cluster.resources import PODS
from sla_planner.errors import ForbiddenError, PlannerError, UnreachableError, UsageError

_PROTOCOLS = ["v5.channel.k8s.io", "v4.channel.k8s.io"]
_STDIN, _STDOUT, _STDERR, _STATUS = (bytes([channel]) for channel in range(4))
_CONNECT_LIMIT_S, _SILENCE_S = 10.0, 45.0
_PIECE_BYTES = 64 * 1024
_KEPT_WORDS = 2000  # characters of stderr
_KILLED = ("137", "143")  # exit codes of who is killed
_NOT_STARTED = ("executable file not found", "no such file or directory", "permission denied")


class ExecStream:
    """One program under way. `read` and `write` may be called from two threads."""

    def __init__(self, connection: websocket.WebSocket) -> None:
        self._connection = connection
        self._closed = threading.Event()
        self._said = ""

    def read(self) -> bytes:
        """What it writes to stdout; b'' when it has ended well. Raises `UsageError` (it failed), `UnreachableError` (cut off)."""
        while (message := self._received()) is not None:
            channel, data = message[:1], message[1:]
            if channel == _STDOUT and data:
                return data
            if channel == _STDERR:
                self._said = (self._said + data.decode(errors="replace"))[-_KEPT_WORDS:]
            if channel == _STATUS and (trouble := _failure(data, self._said)):
                raise trouble
        return b""

    def write(self, data: bytes) -> None:
        try:
            for start in range(0, len(data), _PIECE_BYTES):
                self._connection.send_binary(_STDIN + data[start : start + _PIECE_BYTES])
        except (OSError, websocket.WebSocketException) as error:
            raise UnreachableError(f"the connection to the pod broke ({_words(error)})", hint="try again") from None

    def close(self) -> None:
        """Cuts it off; the program sees the end of its stdin."""
        self._closed.set()
        with contextlib.suppress(OSError, websocket.WebSocketException):
            self._connection.send_close()
        # Not `close()`: that would read as well, and another thread may be in the middle of it.
        if (connected := self._connection.sock) is not None:
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """Of whoever reads, when that is over."""
        if self._connection.sock is not None:
            self._connection.sock.close()

    def _received(self) -> bytes | None:
        """The next message; None when the connection was closed."""
        try:
            opcode, frame = self._connection.recv_data_frame()
        except (OSError, websocket.WebSocketException) as error:
            if self._closed.is_set():
                return None
            raise UnreachableError(f"the connection to the pod broke ({_words(error)})", hint="try again") from None
        return None if opcode == websocket.ABNF.OPCODE_CLOSE else bytes(frame.data)


def exec_in(api: KubernetesApi, pod: str, container: str, command: Sequence[str]) -> ExecStream:
    """Start `command` in a container that runs.

    Raises `NotFound` (no such pod), `ForbiddenError`, `UsageError` (refused), `UnreachableError` (no answer, or the container is not up).
    """
    query = urlencode([("container", container), *(("command", word) for word in command), ("stdin", "true"), ("stdout", "true"), ("stderr", "true")])
    address = f"{api.configuration.host}{PODS.path(api.namespace, pod, 'exec')}?{query}"
    connection = websocket.WebSocket(sslopt=_tls(api.configuration))
    authorization = api.authorization()
    try:
        connection.connect(  # type: ignore[no-untyped-call]
            "ws" + address.removeprefix("http"),
            header=[f"Authorization: {authorization}"] if authorization else [],
            subprotocols=_PROTOCOLS,
            timeout=_CONNECT_LIMIT_S,
            redirect_limit=0,
            suppress_origin=True,
            **_proxy(api.configuration),
        )
    except websocket.WebSocketBadStatusException as error:
        raise _refusal(error, pod) from None
    except (OSError, websocket.WebSocketException) as error:
        raise UnreachableError(
            f"the Kubernetes API at {api.configuration.host} does not answer ({_words(error)})", hint="check the connection"
        ) from None
    assert connection.sock is not None
    connection.sock = SharedSocket(connection.sock, _SILENCE_S)  # type: ignore[assignment]
    return ExecStream(connection)


def _tls(configuration: Configuration) -> dict[str, object]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = bool(configuration.verify_ssl) and configuration.assert_hostname is not False
    context.verify_mode = ssl.CERT_REQUIRED if configuration.verify_ssl else ssl.CERT_NONE
    if configuration.ssl_ca_cert:
        context.load_verify_locations(cafile=configuration.ssl_ca_cert)
    else:
        context.load_default_certs()
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    options: dict[str, object] = {
        "context": context,
        "check_hostname": context.check_hostname,
    }
    if configuration.tls_server_name:
        options["server_hostname"] = configuration.tls_server_name
    return options


def _proxy(configuration: Configuration) -> dict[str, object]:
    """Of the kubeconfig; those of the environment are found by the library itself."""
    if not configuration.proxy:
        return {}
    parts = urlsplit(configuration.proxy)
    options: dict[str, object] = {
        "http_proxy_host": parts.hostname,
        "http_proxy_port": parts.port or 80,
        "proxy_type": parts.scheme.replace("https", "http"),
    }
    if parts.username:
        options["http_proxy_auth"] = (parts.username, parts.password or "")
    if configuration.no_proxy:
        options["http_no_proxy"] = configuration.no_proxy.split(",")
    return options


def _refusal(error: websocket.WebSocketBadStatusException, pod: str) -> PlannerError:
    body = error.resp_body or b""
    try:
        said = str(json.loads(body).get("message", ""))
    except (ValueError, AttributeError):
        said = body.decode(errors="replace")[:200] if isinstance(body, bytes) else str(body)[:200]
    said = " ".join(said.split()) or f"HTTP {error.status_code}"
    if error.status_code in (401, 403):
        return ForbiddenError(f"no exec into pod {pod}: {said}", hint="grant get and create on pods/exec")
    if error.status_code == 404:
        return NotFound(said)
    if error.status_code >= 500 or error.status_code == 429:
        return UnreachableError(f"no exec into pod {pod}: {said}", hint="try again")
    return UsageError(f"no exec into pod {pod}: {said}")


def _failure(status: bytes, said: str) -> PlannerError | None:
    """What a program's end says, when it was no good one: `UsageError` when it is the program's fault, `UnreachableError` when it was taken away."""
    try:
        found = json.loads(status)
    except ValueError:
        found = {"message": status.decode(errors="replace")}
    if found.get("status") == "Success":
        return None
    causes = (found.get("details") or {}).get("causes") or []
    code = next((str(cause.get("message")) for cause in causes if cause.get("reason") == "ExitCode"), "")
    message = " ".join(str(found.get("message", "")).split())[:300]
    if code in _KILLED or (not code and not any(words in message for words in _NOT_STARTED)):
        return UnreachableError(f"the program in the pod was ended ({message})", hint="try again")
    words = " ".join(said.strip().splitlines()[-1:]) or message
    return UsageError(f"the program in the pod failed: {words[:300]}", hint="is --access-image the volume-tools image of this version?")


def _words(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__)[:200]
