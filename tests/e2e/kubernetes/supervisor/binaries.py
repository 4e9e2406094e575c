"""Kubernetes, CoreDNS and the pause program, built from the Go module beside this package and kept by the hash of what they are built from.

The cache is ${XDG_CACHE_HOME:-~/.cache}/sla-planner-e2e; whatever is in it can be deleted at any time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from supervisor.errors import ClusterError

MODULE = Path(__file__).resolve().parent.parent
PROGRAMS = ("kubernetes", "coredns", "pause")
PARTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")


def cache() -> Path:
    """The folder that outlives clusters; created if need be."""
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sla-planner-e2e"
    path.mkdir(parents=True, exist_ok=True)
    return path


def built() -> Path:
    """The folder with all programs, built first if they are not there yet (minutes, and Go)."""
    target = cache() / f"kubernetes-{_digest()}"
    if target.is_dir():
        return target
    with locked(cache() / "build.lock"):
        if not target.is_dir():
            _build(target)
    return target


def _build(target: Path) -> None:
    if shutil.which("go") is None:
        raise ClusterError("no go on PATH: install Go, the version in tests/e2e/kubernetes/go.mod or newer")
    print("building Kubernetes and CoreDNS: about ten minutes on two cores, once", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as folder:
        ready = Path(folder, "ready")
        ready.mkdir()
        for program in PROGRAMS:
            command = ["go", "build", "-trimpath", "-buildvcs=false", "-ldflags", _link_flags(), "-o", str(ready / program), f"./cmd/{program}"]
            if subprocess.run(command, cwd=MODULE, env={**os.environ, "CGO_ENABLED": "0"}, check=False).returncode != 0:
                raise ClusterError(f"building {program} failed, see above: go build ./cmd/{program} in {MODULE}")
        for part in PARTS:
            (ready / part).symlink_to("kubernetes")
        ready.rename(target)


def _link_flags() -> str:
    """Kubernetes tells its version from variables that its own build sets."""
    version = re.search(r"k8s\.io/kubernetes v((\d+)\.(\d+)\.\d+)", (MODULE / "go.mod").read_text())
    assert version is not None
    whole, major, minor = version.groups()
    variables = {"gitVersion": f"v{whole}", "gitMajor": major, "gitMinor": minor}
    return "-s -w " + " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in variables.items())


def _digest() -> str:
    digest = hashlib.sha256(_link_flags().encode())
    for source in sorted([MODULE / "go.mod", MODULE / "go.sum", *MODULE.glob("cmd/*/*.go")]):
        digest.update(source.relative_to(MODULE).as_posix().encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time; the kernel gives the lock back when its holder ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
