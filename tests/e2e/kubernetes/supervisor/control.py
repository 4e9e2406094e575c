"""Orders to a running cluster over a Unix socket inside its namespaces: a JSON line `[order, argument]`, answered by a JSON line `[done, text]`."""

from __future__ import annotations

import http.client
import json
import socket
import socketserver
import threading
from collections.abc import Callable

from supervisor.api import Refused
from supervisor.errors import ClusterError
from supervisor.layout import CONTROL


def serve(orders: dict[str, Callable[[str], str]]) -> None:
    """Answers in the background from now on."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            order, argument = json.loads(self.rfile.readline())
            try:
                answer = [True, orders[order](argument)]
            except (ClusterError, Refused, OSError, http.client.HTTPException) as error:
                answer = [False, str(error)]
            self.wfile.write(json.dumps(answer).encode() + b"\n")

    server = socketserver.ThreadingUnixStreamServer(str(CONTROL), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()


def send(order: str, argument: str = "") -> str:
    """What the cluster answers. Raises ClusterError when it refuses."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(CONTROL))
        except OSError as error:
            raise ClusterError("this cluster is not up yet, or not any more") from error
        connection.sendall(json.dumps([order, argument]).encode() + b"\n")
        with connection.makefile() as answer:
            done, text = json.loads(answer.readline())
    if not done:
        raise ClusterError(text)
    return str(text)
