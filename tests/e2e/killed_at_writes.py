"""Runs in the planner's pod: lets `planner --once` talk to the API through a gate that kills it (SIGKILL) when it has written so many times.

For 0, 1, 2 ... writes that the API has accepted: a run that is killed before it learns of the last one, then a run that is left alone. The allowed
numbers of workers change each time, so that there is always something to scale. Ends with the first run that needs fewer writes.

Prints a JSON line for each pair of runs: {"killed_after", "before", "between", "after": [[prefill, decode], generations of both Deployments added],
"wanted", "exit_code", "log"}; and in the end one for the last run.
"""

import itertools
import json
import os
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
API = f"https://{os.environ.pop('KUBERNETES_SERVICE_HOST')}:{os.environ.pop('KUBERNETES_SERVICE_PORT')}"
NAMESPACE = os.environ["POD_NAMESPACE"]
TLS = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
TRUST = {"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}"}
KUBECONFIG = Path("/tmp/kubeconfig")
COMMAND = ["sla-planner", "planner", "--once", "--config", "/config/planner.yaml", "--log-format", "human"]
WANTED = ((3, 2), (1, 1))


def call(method, path, headers, body=None):
    """Status and body of the API's answer."""
    request = urllib.request.Request(API + path, body, {**headers, **TRUST}, method=method)
    try:
        with urllib.request.urlopen(request, context=TLS, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read()


class Gate(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    planner = None
    writes, deadly = 0, None

    def passed(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
        if Gate.deadly == 0:
            return Gate.planner.kill()
        status, answer = call(self.command, self.path, {"Content-Type": self.headers.get("Content-Type", "")}, body)
        Gate.writes += self.command != "GET" and status < 300
        if Gate.writes == Gate.deadly:
            return Gate.planner.kill()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        return self.wfile.write(answer)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = passed  # noqa: N815

    def log_message(self, *_):
        pass


def looked():
    found = [json.loads(call("GET", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{role}", {})[1]) for role in ("prefill", "decode")]
    return [each["spec"]["replicas"] for each in found], sum(each["metadata"]["generation"] for each in found)


def run(wanted, deadly):
    """Exit code and log of a run that is allowed `wanted` workers, and killed after `deadly` writes."""
    limits = {f"SLA_PLANNER_MAX_{role}_REPLICAS": str(count) for role, count in zip(("PREFILL", "DECODE"), wanted, strict=True)}
    Gate.writes, Gate.deadly = 0, deadly
    Gate.planner = subprocess.Popen(COMMAND, env={**os.environ, **limits, "KUBECONFIG": str(KUBECONFIG)}, stderr=subprocess.PIPE, text=True)
    log = Gate.planner.communicate()[1]
    return Gate.planner.returncode, log


def main():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    cluster = {"name": "gate", "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"}}
    context = {"name": "gate", "context": {"cluster": "gate", "user": "gate", "namespace": NAMESPACE}}
    config = {"apiVersion": "v1", "kind": "Config", "current-context": "gate", "clusters": [cluster], "contexts": [context]}
    KUBECONFIG.write_text(json.dumps({**config, "users": [{"name": "gate", "user": {"token": "gate"}}]}))
    run(WANTED[1], None)  # a first reading of the page
    for writes in itertools.count():
        wanted = WANTED[writes % 2]
        before = looked()
        code, log = run(wanted, writes)
        between = looked()
        if code != -9:
            print(json.dumps({"killed_after": None, "exit_code": code, "log": log}), flush=True)
            break
        code, log = run(wanted, None)
        pair = {"killed_after": writes, "before": before, "between": between, "after": looked(), "wanted": wanted, "exit_code": code, "log": log}
        print(json.dumps(pair), flush=True)


main()
