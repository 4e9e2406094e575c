"""How big our own layers of an image are: those above the base image, read from a docker archive.

Unpacked is what a node stores, compressed (gzip -6) about what a registry sends. The first layer that holds /opt/sla-planner and all above it are
ours, whatever the base image and the builder.
"""

from __future__ import annotations

import gzip
import json
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, cast

OURS = "opt/sla-planner"
MOST_GROWTH = 0.10
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Size:
    """Of our own layers of one image, in MB (1e6 bytes)."""

    unpacked_mb: float
    compressed_mb: float

    def exceeds(self, recorded: Size) -> bool:
        """Whether it is more than MOST_GROWTH larger in either way."""
        most = 1 + MOST_GROWTH
        return self.unpacked_mb > recorded.unpacked_mb * most or self.compressed_mb > recorded.compressed_mb * most

    def __str__(self) -> str:
        return f"{self.unpacked_mb:.1f} / {self.compressed_mb:.1f} MB"


def size_of(archive: Path, measured: dict[str, tuple[int, int]]) -> Size:
    """Of the one image in a docker archive. `measured` (bytes unpacked and compressed, by layer) is read and added to: images share layers."""
    with tarfile.open(archive) as tar:
        layers: list[str] = json.load(_member(tar, "manifest.json"))[0]["Layers"]
        first = next(index for index, layer in enumerate(layers) if _is_ours(tar, layer))
        for layer in layers[first:]:
            if layer not in measured:
                measured[layer] = _measure(tar, layer)
        unpacked, compressed = zip(*(measured[layer] for layer in layers[first:]), strict=True)
    return Size(round(sum(unpacked) / 1e6, 1), round(sum(compressed) / 1e6, 1))


def read_record(file: Path) -> dict[str, Size]:
    return {image: Size(**size) for image, size in json.loads(file.read_text()).items()} if file.exists() else {}


def write_record(file: Path, sizes: Mapping[str, Size]) -> None:
    """Images that are not among the sizes keep what is recorded of them."""
    record = read_record(file) | dict(sizes)
    file.write_text(json.dumps({image: asdict(size) for image, size in sorted(record.items())}, indent=2) + "\n")


def table(sizes: Mapping[str, Size], recorded: Mapping[str, Size]) -> str:
    """A line for each image, unpacked / compressed now and as recorded; then a warning for each that grew too much."""
    rows = [(image, str(size), str(recorded.get(image, "-"))) for image, size in sizes.items()]
    lines = [f"{image:<16}{now:>22}{before:>22}" for image, now, before in [("image", "unpacked / compressed", "recorded"), *rows]]
    grown = [image for image, size in sizes.items() if image in recorded and size.exceeds(recorded[image])]
    warnings = [f"warning: {image} grew by more than {MOST_GROWTH:.0%}; find out why, or accept it with --record" for image in grown]
    return "\n".join([*lines, *warnings])


def _is_ours(tar: tarfile.TarFile, layer: str) -> bool:
    with _unpacked(tar, layer) as stream, tarfile.open(fileobj=stream, mode="r|") as files:
        return any(member.name.removeprefix("./").startswith(OURS) for member in files)


def _measure(tar: tarfile.TarFile, layer: str) -> tuple[int, int]:
    packer = zlib.compressobj(6)
    unpacked = compressed = 0
    with _unpacked(tar, layer) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            unpacked += len(chunk)
            compressed += len(packer.compress(chunk))
    return unpacked, compressed + len(packer.flush())


@contextmanager
def _unpacked(tar: tarfile.TarFile, layer: str) -> Iterator[IO[bytes]]:
    """The layer's tar; some builders save it compressed."""
    raw = _member(tar, layer)
    packed = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    yield cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if packed else raw


def _member(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    stream = tar.extractfile(name)
    if stream is None:
        raise FileNotFoundError(f"no file {name} in the archive: not a docker archive")
    return stream
