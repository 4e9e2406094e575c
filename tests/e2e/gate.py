"""Between a program and the API server: kills the program (SIGKILL) when the API has accepted so many of its writes, before it learns of the last."""

import json
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

WRITE_NOTHING = ("/authorization.k8s.io/", "dryRun=All")  # a question what one may do; a rehearsal


class Gate:
    """`authority`: PEM. `counts`: whether a write to this path is one of them. `written`: those that were accepted: (method, path, name)."""

    def __init__(self, api, authority, token, counts=lambda path: True):
        self.written = []
        self._api, self._counts, self._trust = api, counts, {"Authorization": f"Bearer {token}"}
        self._tls = ssl.create_default_context(cadata=authority)
        self._process, self._left = None, None
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def kubeconfig(self, file, namespace):
        """The way to the API through this gate."""
        cluster = {"name": "gate", "cluster": {"server": f"http://127.0.0.1:{self._server.server_address[1]}"}}
        context = {"name": "gate", "context": {"cluster": "gate", "user": "gate", "namespace": namespace}}
        user = {"name": "gate", "user": {"token": "gate"}}
        config = {"apiVersion": "v1", "kind": "Config", "current-context": "gate", "clusters": [cluster], "contexts": [context], "users": [user]}
        Path(file).write_text(json.dumps(config))

    def run(self, command, environment, writes):
        """Exit code and standard error of a program that is killed after so many writes; 0: at its first request; None: never."""
        with self._lock:
            self._left = writes
            self._process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        log = self._process.communicate()[1]
        return self._process.returncode, log

    def call(self, method, path, headers, body=None):
        """Status and body of the API's answer."""
        request = urllib.request.Request(self._api + path, body, {**headers, **self._trust}, method=method)
        try:
            with urllib.request.urlopen(request, context=self._tls, timeout=120) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def _survives(self, method, path, status, answer):
        """Whether it may learn of this answer."""
        with self._lock:
            if method != "GET" and status < 300 and not any(part in path for part in WRITE_NOTHING):
                self.written.append((method, path.partition("?")[0], json.loads(answer)["metadata"].get("name", "")))
                if self._left and self._counts(path):
                    self._left -= 1
            if self._left == 0:
                self._process.kill()
            return self._left != 0

    def _handler(gate):  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def passed(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
                if not gate._survives("GET", self.path, 0, b""):
                    return
                wanted = {name: self.headers[name] for name in ("Content-Type", "Accept") if name in self.headers}
                status, answer = gate.call(self.command, self.path, wanted, body)
                if not gate._survives(self.command, self.path, status, answer):
                    return
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = passed  # noqa: N815

            def log_message(self, *_):
                pass

        return Handler
