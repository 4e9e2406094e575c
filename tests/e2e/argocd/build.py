#!/usr/bin/env python3
"""Builds the parts of Argo CD and the kustomize that it calls from the Go module beside this file, once, and prints the folder that they are in.

They are kept in ${XDG_CACHE_HOME:-~/.cache}/sla-planner-e2e by the hash of what they are built from, and with them the manifests of the same module:
its custom resource definitions and its settings. Exit status 1: not built, and one line says why.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

MODULE = Path(__file__).resolve().parent
sys.path.insert(0, str(MODULE.parent / "kubernetes"))

from supervisor.binaries import cache, locked  # noqa: E402

ARGO_CD = "github.com/argoproj/argo-cd/v3"
PACKAGES = {"argocd": "./cmd/argocd", "kustomize": "sigs.k8s.io/kustomize/kustomize/v5"}
PARTS = ("argocd-application-controller", "argocd-repo-server")
MANIFESTS = {"crds": "manifests/crds", "config": "manifests/base/config"}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="build.py", description="Builds Argo CD (controller, repository server) and kustomize; prints their folder."
    )
    parser.add_argument("--cached", action="store_true", help="do not build: fail when they are not in the cache")
    cached = parser.parse_args().cached
    try:
        print(_cached() if cached else _built())
    except BuildError as error:
        print(f"build.py: {error}", file=sys.stderr)
        return 1
    return 0


class BuildError(Exception):
    """What went wrong, and what to do."""


def _cached() -> Path:
    if not _target().is_dir():
        raise BuildError(f"Argo CD is not built: run {Path(__file__).resolve()} (about ten minutes, once; it needs Go and a Go module proxy)")
    return _target()


def _built() -> Path:
    with locked(cache() / "build.lock"):
        if not _target().is_dir():
            _build(_target())
    return _target()


def _build(target: Path) -> None:
    if shutil.which("go") is None:
        raise BuildError(f"no go on PATH: install Go, the version in {MODULE / 'go.mod'} or newer")
    print("building Argo CD: about ten minutes on two cores, once", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as folder:
        ready = Path(folder, "ready")
        ready.mkdir()
        for program, package in PACKAGES.items():
            _go("build", "-trimpath", "-buildvcs=false", "-ldflags", _link_flags(), "-o", str(ready / program), package)
        for part in PARTS:
            (ready / part).symlink_to("argocd")
        source = Path(json.loads(_go("list", "-m", "-json", ARGO_CD))["Dir"])
        for name, path in MANIFESTS.items():
            (ready / name).mkdir()
            for manifest in (source / path).glob("*.yaml"):
                shutil.copyfile(manifest, ready / name / manifest.name)
        ready.rename(target)


def _go(*arguments: str) -> str:
    done = subprocess.run(["go", *arguments], cwd=MODULE, env={**os.environ, "CGO_ENABLED": "0"}, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"failed, see above: go {' '.join(arguments)} in {MODULE}")
    return done.stdout


def _link_flags() -> str:
    """Argo CD tells its version from a variable that its own build sets."""
    version = re.search(rf"{re.escape(ARGO_CD)} v(\S+)", (MODULE / "go.mod").read_text())
    assert version is not None
    return f"-s -w -X {ARGO_CD}/common.version=v{version.group(1)}"


def _target() -> Path:
    digest = hashlib.sha256()
    for source in sorted([Path(__file__).resolve(), MODULE / "go.mod", MODULE / "go.sum", *MODULE.glob("cmd/*/*.go")]):
        digest.update(source.relative_to(MODULE).as_posix().encode() + b"\0" + source.read_bytes())
    return cache() / f"argocd-{digest.hexdigest()[:16]}"


if __name__ == "__main__":
    sys.exit(main())
