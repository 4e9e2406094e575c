"""Images without a registry or a daemon: buildah with a store of its own in the cache, and archives for the node."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from supervisor import binaries
from supervisor.errors import ClusterError
from supervisor.layout import PAUSE_IMAGE

RECIPE = binaries.MODULE / "base_image"
BASE_IMAGE = "localhost/python:base"


def buildah() -> list[str]:
    """The start of every buildah command line: it names the store."""
    store = binaries.cache() / "buildah"
    return ["buildah", "--root", str(store / "root"), "--runroot", str(store / "run"), "--storage-driver", "overlay"]


def pause_archive() -> Path:
    """The image of every pod's first process, made once per build of the programs."""
    archive = binaries.built() / "pause.tar"
    with binaries.locked(binaries.cache() / "images.lock"):
        if not archive.exists():
            container = _output("from", "scratch")
            _output("copy", container, str(binaries.built() / "pause"), "/pause")
            _output("config", "--entrypoint", '["/pause"]', container)
            _output("commit", "--rm", container, f"oci-archive:{archive}.new:{PAUSE_IMAGE}")
            Path(f"{archive}.new").rename(archive)
    return archive


def base() -> str:
    """The name of a Debian image with Python that images can be built on where no registry is reached; made anew when its recipe changes."""
    digest = hashlib.sha256(RECIPE.read_bytes()).hexdigest()[:16]
    kept = f"localhost/python:base-{digest}"
    with binaries.locked(binaries.cache() / "images.lock"):
        if subprocess.run([*buildah(), "inspect", "--type", "image", kept], capture_output=True, check=False).returncode != 0:
            tree = binaries.cache() / "base.tar"
            if subprocess.run([str(RECIPE), str(tree)], check=False).returncode != 0:
                raise ClusterError(f"failed, see above: {RECIPE}")
            container = _output("from", "scratch")
            _output("add", container, str(tree), "/")
            _output("commit", "--rm", container, kept)
            tree.unlink()
        _output("tag", kept, BASE_IMAGE)
    return BASE_IMAGE


def _output(*arguments: str) -> str:
    done = subprocess.run([*buildah(), *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"buildah {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()
