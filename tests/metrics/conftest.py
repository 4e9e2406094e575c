"""A server that answers what a test tells it to."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

REAL_TEXTS = Path(__file__).parents[1] / "data" / "metrics"


@pytest.fixture
def real_text():
    return lambda name: (REAL_TEXTS / name).read_text()


class TextServer:
    """Answers every GET with `status` and `text`. `requests` holds (path, headers) of what was asked."""

    def __init__(self):
        self.status, self.text, self.requests = 200, "", []
        self.release = threading.Event()  # a request waits for it while `hang` is set
        self.hang = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # headers and body in one packet

            def do_GET(self):
                outer.requests.append((self.path, dict(self.headers)))
                if outer.hang:
                    outer.release.wait(30)
                text = outer.text(self.path) if callable(outer.text) else outer.text
                body = text.encode()
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.root = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.url = f"{self.root}/metrics"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def stop(self):
        self.release.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def start_server():
    servers = []

    def start():
        servers.append(TextServer())
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
