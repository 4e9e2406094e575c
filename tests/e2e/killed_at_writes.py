"""Runs in the planner's pod, with gate.py beside it: `planner --once`, killed when it has written so many times.

For 0, 1, 2 ... writes that the API has accepted: a run that is killed before it learns of the last one, then a run that is left alone. The allowed
numbers of workers change each time, so that there is always something to scale. Ends with the first run that needs fewer writes.

Prints a JSON line for each pair of runs: {"killed_after", "before", "between", "after": [[prefill, decode], generations of both Deployments added],
"wanted", "exit_code", "log"}; and in the end one for the last run.
"""

import itertools
import json
import os
from pathlib import Path

from gate import Gate

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
API = f"https://{os.environ.pop('KUBERNETES_SERVICE_HOST')}:{os.environ.pop('KUBERNETES_SERVICE_PORT')}"
NAMESPACE = os.environ["POD_NAMESPACE"]
KUBECONFIG = "/tmp/kubeconfig"
COMMAND = ["sla-planner", "planner", "--once", "--config", "/config/planner.yaml", "--log-format", "human"]
WANTED = ((3, 2), (1, 1))
GATE = Gate(API, (ACCOUNT / "ca.crt").read_text(), (ACCOUNT / "token").read_text())


def looked():
    path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
    found = [json.loads(GATE.call("GET", f"{path}/{role}", {})[1]) for role in ("prefill", "decode")]
    return [each["spec"]["replicas"] for each in found], sum(each["metadata"]["generation"] for each in found)


def run(wanted, writes):
    """Exit code and log of a run that is allowed `wanted` workers, and killed after `writes`."""
    limits = {f"SLA_PLANNER_MAX_{role}_REPLICAS": str(count) for role, count in zip(("PREFILL", "DECODE"), wanted, strict=True)}
    return GATE.run(COMMAND, {**os.environ, **limits, "KUBECONFIG": KUBECONFIG}, writes)


def main():
    GATE.kubeconfig(KUBECONFIG, NAMESPACE)
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
