"""Runs in a pod, in place of a frontend: its metrics page, port 8000, for a load that a test sets with GET /load?rps=5&isl=4000&osl=250.

Counters go on when the load changes. Every request is served at once, each as fast as the others.
"""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from tests.stages.frontend_page import frontend


class Traffic:
    """Requests so far; `load` is what comes now."""

    def __init__(self):
        self.load = {"rps": 0.0, "isl": 4000.0, "osl": 250.0}
        self._before, self._since_s = {}, time.monotonic()
        self._lock = threading.Lock()

    def change(self, load):
        with self._lock:
            self._before, self._since_s, self.load = self._rows(), time.monotonic(), {**self.load, **load}

    def page(self):
        with self._lock:
            return "".join(f"{name} {value}\n" for name, value in self._rows().items())

    def _rows(self):
        count = int(self.load["rps"] * (time.monotonic() - self._since_s))
        rows = (line.rsplit(" ", 1) for line in frontend(count, count, isl=self.load["isl"], osl=self.load["osl"]).splitlines())
        return {name: float(value) + self._before.get(name, 0.0) for name, value in rows}


class Handler(BaseHTTPRequestHandler):
    traffic = Traffic()

    def do_GET(self):
        asked = urlsplit(self.path)
        if asked.path == "/load":
            self.traffic.change({name: float(value) for name, value in parse_qsl(asked.query)})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.traffic.page().encode() if asked.path == "/metrics" else b"")

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("", 8000), Handler).serve_forever()
