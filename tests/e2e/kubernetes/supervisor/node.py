"""The machine side of the one node: its network, its name server, its images."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from supervisor.errors import ClusterError
from supervisor.layout import CONTAINERD_SOCKET, NODE_IP, SERVICE_NETWORK, STATE

CONTAINERD_TIMEOUT_S = 200.0


def network() -> None:
    """Loopback, the node's address and forwarding. The address sits on an empty bridge: unlike a dummy device, every kernel has that."""
    commands = ["link set lo up", "link add node0 type bridge", f"address add {NODE_IP}/32 dev node0", "link set node0 up"]
    commands.append(f"route add {SERVICE_NETWORK} dev node0")  # a packet needs a route before kube-proxy's rules can turn it
    for command in commands:
        subprocess.run(["ip", *command.split()], check=True)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def name_server() -> None:
    """Programs on the node resolve names of services too; all other names fail at once instead of after a time-out."""
    STATE.mkdir(parents=True, exist_ok=True)
    written = STATE / "resolv.conf"
    written.write_text(f"nameserver {NODE_IP}\n")
    target = Path(os.path.realpath("/etc/resolv.conf"))
    if not target.exists():  # a link into /run, which is private here
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    subprocess.run(["mount", "--bind", str(written), str(target)], check=True)


def load(archives: list[Path]) -> str:
    """Imports OCI or Docker archives into the node's containerd; returns the names of the images, a line each."""
    deadline = time.monotonic() + CONTAINERD_TIMEOUT_S
    while not CONTAINERD_SOCKET.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    names = []
    for archive in archives:
        if not archive.is_file():
            raise ClusterError(f"{archive}: no such archive")
        command = ["ctr", "--address", str(CONTAINERD_SOCKET), "--namespace", "k8s.io", "images", "import", str(archive)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ClusterError(f"{archive}: {done.stderr.strip()}")
        names.append(done.stdout.strip())
    return "\n".join(names)
