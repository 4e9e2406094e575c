"""Names, addresses and paths inside the namespaces. /run is private there, so nothing of this exists outside."""

from __future__ import annotations

import os
import sys
from pathlib import Path

NODE = "node0"
NODE_IP = "10.200.0.1"
POD_NETWORK = "10.210.0.0/16"
SERVICE_NETWORK = "10.96.0.0/16"
SERVICE_IP = "10.96.0.1"  # of the API itself: the first address of that network
CLUSTER_DOMAIN = "cluster.local"
API = f"https://{NODE_IP}:6443"

STATE = Path("/run/sla-planner-e2e")
KUBECONFIG = STATE / "kubeconfig"
CONTROL = STATE / "control.sock"
LOGS = STATE / "logs"
PKI = STATE / "pki"
VOLUMES = STATE / "volumes"
CONTAINERD_SOCKET = Path("/run/containerd/containerd.sock")

PAUSE_IMAGE = "localhost/pause:1"
CGROUPS = "sla-planner-e2e"


def kubeconfig_of(user: str) -> Path:
    return STATE / f"{user}.kubeconfig"


def environment() -> dict[str, str]:
    """For every program inside: the cluster-admin kubeconfig, kubectl from this Python's environment, no proxy (there is no way out)."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    programs = [str(Path(sys.executable).parent), str(Path(__file__).resolve().parent.parent), kept.get("PATH", os.defpath)]
    return {**kept, "KUBECONFIG": str(KUBECONFIG), "PATH": os.pathsep.join(programs)}
