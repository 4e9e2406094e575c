"""The conversion of versions, for the API server: HTTPS on loopback with a certificate of its own, made by openssl."""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from sla_planner.cluster.resources import Object

from .versions import converted

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Webhook:
    url: str
    certificate: bytes  # PEM

    def conversion(self) -> Object:
        """`spec.conversion` of a definition that uses it."""
        client = {"url": self.url, "caBundle": base64.b64encode(self.certificate).decode()}
        return {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"], "clientConfig": client}}


def review(asked: Object) -> Object:
    """The answer to a ConversionReview."""
    request = asked["request"]
    answer: Object = {"uid": request["uid"], "convertedObjects": [], "result": {"status": "Success"}}
    try:
        answer["convertedObjects"] = [converted(graph, request["desiredAPIVersion"]) for graph in request["objects"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        answer["result"] = {"status": "Failure", "message": f"{type(error).__name__}: {error}"}
    return {"apiVersion": asked["apiVersion"], "kind": asked["kind"], "response": answer}


@contextlib.contextmanager
def webhook() -> Iterator[Webhook]:
    """Until the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder, "certificate.pem"), Path(folder, "key.pem")
        new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(key))
        name = ("-subj", "/CN=dynamo-operator-stand-in", "-addext", f"subjectAltName=IP:{HOST}")
        subprocess.run(["openssl", "req", "-x509", "-days", "30", *new_key, *name, "-out", str(certificate)], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server = ThreadingHTTPServer((HOST, 0), _Handler)
        server.daemon_threads = True
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)  # but in the handler
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield Webhook(f"https://{HOST}:{server.server_address[1]}/convert", certificate.read_bytes())
        finally:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet

    def do_POST(self) -> None:
        body = json.dumps(review(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        pass
