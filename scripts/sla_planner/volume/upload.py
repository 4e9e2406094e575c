"""One file from here, put on the volume whole and checked; content that is there already is not sent."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sla_planner.errors import UsageError
from sla_planner.volume.client import Upload, VolumeClient
from sla_planner.volume.download import Progress
from sla_planner.volume.tree import feed


@dataclass(frozen=True, slots=True)
class Source:
    """What is sent: a file, or bytes that are in memory."""

    content: bytes | Path

    @contextlib.contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        if isinstance(self.content, bytes):
            yield io.BytesIO(self.content)
            return
        try:
            with self.content.open("rb") as file:
                yield file
        except OSError as error:
            raise UsageError(f"file {self.content}: {error.strerror}", hint="check the path and its permissions") from None


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What was done: `new`, `same` (it was there already) or `replaced`."""

    became: str
    size: int
    sha256: str


def upload(client: VolumeClient, source: Source, path: str, *, force: bool, progress: Progress) -> Uploaded:
    """Put it at `path` on the volume. Raises `UsageError` when another file is there and `force` is not given."""
    with source.opened() as file:
        digest = hashlib.sha256()
        size = feed(digest, file, None, progress.read)
        progress.expect(size, 1)
        became = client.put(Upload(path, size, digest.hexdigest(), force), file)
        progress.file_done()
    return Uploaded(became, size, digest.hexdigest())
