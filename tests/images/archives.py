"""Small docker archives, as `save` and `push docker-archive:` write them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path


def layer(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        _add(tar, files)
    return buffer.getvalue()


def write_archive(file: Path, *layers: bytes) -> Path:
    """An archive of one image, with `0/layer.tar` and so on."""
    contents = {f"{number}/layer.tar": content for number, content in enumerate(layers)}
    manifest = json.dumps([{"Config": "config.json", "RepoTags": ["x/y:z"], "Layers": list(contents)}]).encode()
    with tarfile.open(file, "w") as tar:
        _add(tar, contents | {"manifest.json": manifest})
    return file


def _add(tar: tarfile.TarFile, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
