"""Images without a registry or a daemon: buildah with a store of its own in the cache, and archives for the node."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

from supervisor import binaries
from supervisor.errors import ClusterError
from supervisor.layout import PAUSE_IMAGE

RECIPE = binaries.MODULE / "base_image"
BUILD = binaries.MODULE.parents[2] / "images" / "build.py"
BASE_IMAGE = "localhost/python:base"


def buildah() -> list[str]:
    """The start of every buildah command line: it names the store."""
    return ["buildah", *_store_options()]


def pause_archive() -> Path:
    """The image of every pod's first process, made once per build of the programs."""
    archive = binaries.built() / "pause.tar"
    with binaries.locked(binaries.cache() / "images.lock"):
        if not archive.exists():
            container = _output("from", "scratch")
            _output("copy", container, str(binaries.built() / "pause"), "/pause")
            _output("config", "--entrypoint", '["/pause"]', container)
            _output("commit", "--rm", container, PAUSE_IMAGE)
            _archive(PAUSE_IMAGE, archive, PAUSE_IMAGE)
    return archive


def base_archive() -> Path:
    """BASE_IMAGE for the node; it is in buildah's store, too, for other images to be built on. Made anew when its recipe changes."""
    digest = hashlib.sha256(RECIPE.read_bytes()).hexdigest()[:16]
    kept = f"localhost/python:base-{digest}"
    archive = binaries.cache() / f"base-{digest}.tar"
    with binaries.locked(binaries.cache() / "images.lock"):
        if not _exists(kept):
            _make_base(kept)
        _output("tag", kept, BASE_IMAGE)
        if not archive.exists():
            _archive(kept, archive, BASE_IMAGE)
    return archive


def build(arguments: list[str]) -> Path:
    """The folder of archives that images/build.py wrote, called with `arguments` and the settings of a machine without Docker or registries."""
    base_archive()
    folder = binaries.cache() / "images"
    settings = {
        "BUILDER": "buildah",
        "BUILDAH_OPTIONS": shlex.join(_store_options()),
        "BUILD_OPTIONS": "--isolation chroot --network host",
        "BASE_IMAGE": BASE_IMAGE,
        "PREFIX": "localhost/sla-planner",
    }
    command = [sys.executable, str(BUILD), "--quick", "--archive", str(folder), *arguments]
    if subprocess.run(command, env={**settings, **os.environ}, stdout=sys.stderr, check=False).returncode != 0:
        raise ClusterError(f"failed, see above: {shlex.join(command)}")
    return folder


def _make_base(name: str) -> None:
    tree = binaries.cache() / "base-tree.tar"
    if subprocess.run([str(RECIPE), str(tree)], stdout=sys.stderr, check=False).returncode != 0:
        raise ClusterError(f"failed, see above: {RECIPE}")
    container = _output("from", "scratch")
    _output("add", container, str(tree), "/")
    _output("commit", "--rm", container, name)
    tree.unlink()


def _archive(image: str, target: Path, name: str) -> None:
    """As a Docker archive: unlike OCI's it is not compressed, and it goes no further than to the node."""
    unfinished = target.with_name(f"{target.name}.new")
    unfinished.unlink(missing_ok=True)
    _output("push", image, f"docker-archive:{unfinished}:{name}")
    unfinished.rename(target)


def _exists(image: str) -> bool:
    return subprocess.run([*buildah(), "inspect", "--type", "image", image], capture_output=True, check=False).returncode == 0


def _store_options() -> list[str]:
    store = binaries.cache() / "buildah"
    return ["--root", str(store / "root"), "--runroot", str(store / "run"), "--storage-driver", "overlay"]


def _output(*arguments: str) -> str:
    done = subprocess.run([*buildah(), *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"buildah {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()
