"""`/healthz` and `/readyz` of a reconciler: 200 and `ok`, or 503 and why not, one line."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_POLL_S = 0.2


class Health:
    """Served until `close`. Both say why not, or ''. Raises `OSError` when the port is taken."""

    def __init__(self, port: int, healthy: Callable[[], str], ready: Callable[[], str], *, host: str = "0.0.0.0") -> None:
        checks = {"/healthz": healthy, "/readyz": ready}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                check = checks.get(self.path.partition("?")[0])
                why = check() if check else "no such page"
                body = f"{why or 'ok'}\n".encode()
                self.send_response(404 if check is None else 503 if why else 200)
                self.send_header("Content-Type", "text/plain; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Probes come every few seconds."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(_POLL_S,), name="health", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
