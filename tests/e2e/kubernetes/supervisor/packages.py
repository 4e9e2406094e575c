"""What is needed of Debian, installed without starting or enabling any service."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from supervisor.errors import ClusterError

PACKAGES = (
    "buildah",
    "ca-certificates",
    "containerd",
    "containernetworking-plugins",
    "etcd-server",
    "git",
    "iproute2",
    "mmdebstrap",
    "mount",
    "nftables",
    "openssl",
    "prometheus",
    "redis-server",
    "runc",
)
SERVICES = ("containerd", "etcd", "prometheus", "redis-server")
POLICY = Path("/usr/sbin/policy-rc.d")  # invoke-rc.d(8) asks it before it starts anything


def install() -> None:
    """Installs what is missing; does nothing, without a look at the network, when nothing is."""
    if shutil.which("apt-get") is None:
        raise ClusterError(f"no apt-get here: install these by other means: {' '.join(PACKAGES)}")
    missing = [package for package in PACKAGES if not _installed(package)]
    if not missing:
        return
    _run(["apt-get", "update", "-qq"])
    with _no_service_starts():
        _run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing])
    for service in SERVICES:
        if any(package.startswith(service) for package in missing) and shutil.which("systemctl"):
            _run(["systemctl", "disable", "--quiet", service])  # nor at the next boot


def _installed(package: str) -> bool:
    status = subprocess.run(["dpkg-query", "-W", "-f", "${db:Status-Status}", package], capture_output=True, text=True, check=False)
    return status.stdout == "installed"


@contextlib.contextmanager
def _no_service_starts() -> Iterator[None]:
    before = POLICY.read_bytes() if POLICY.exists() else None
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        if before is None:
            POLICY.unlink()
        else:
            POLICY.write_bytes(before)


def _run(command: list[str]) -> None:
    if subprocess.run(command, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, check=False).returncode != 0:
        raise ClusterError(f"failed, see above: {' '.join(command)}")
