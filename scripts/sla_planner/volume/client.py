"""The side that is not next to the volume: asks the agent (`agent.py` has the words), and gives back what it says as values and errors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, NoReturn, Protocol, TypeVar

from sla_planner.errors import PlannerError, UsageError
from sla_planner.volume.frames import CHUNK_BYTES, PROTOCOL, WINDOW_BYTES, Channel, Gone, Message, Wire
from sla_planner.volume.paths import checked
from sla_planner.volume.tree import Found, Full, LeftOut, feed

_BATCH = 500  # files in a request

T = TypeVar("T")


class Meter(Protocol):
    """Is told of bytes as they are done: found from an earlier attempt, sent or received, read for a checksum (on either side)."""

    def kept(self, count: int) -> None: ...

    def moved(self, count: int) -> None: ...

    def read(self, count: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Listing:
    """What a folder of the volume holds."""

    files: tuple[Found, ...]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True, slots=True)
class Want:
    """A file to be sent: `offset` bytes of it are here already, whose checksum is `sha256`."""

    path: str
    offset: int = 0
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file to be put on the volume at `path`."""

    path: str
    size: int
    sha256: str
    force: bool = False


class Receiver(Protocol):
    """Takes the files of one `fetch`, one after the other."""

    def begin(self, file: Found, start: int) -> None:
        """What follows are the bytes from `start` on."""

    def data(self, data: bytes) -> None: ...

    def end(self, sha256: str, *, changed: bool) -> None:
        """`changed`: somebody wrote the file while it was sent."""

    def failed(self, path: str, error: PlannerError) -> None: ...


class VolumeClient:
    """One session. Every call raises `Gone` when the connection breaks, and `UsageError` with the agent's words when it refuses."""

    def __init__(self, wire: Wire, meter: Meter) -> None:
        self._channel, self._meter = Channel(wire), meter
        try:
            self._greet()
        except BaseException:
            self._channel.close()
            raise

    def _greet(self) -> None:
        hello = self._answer()
        if (protocol := hello.get("protocol")) != PROTOCOL:
            raise UsageError(
                f"the other side (version {hello.get('version', '?')}) speaks protocol {protocol}, this one {PROTOCOL}",
                hint="use the volume-tools image of this version",
            )

    def close(self) -> None:
        self._channel.close()

    def listing(self, folder: str, *, configs: bool) -> Listing:
        self._channel.send({"do": "list", "folder": folder, "configs": configs})
        files: list[Found] = []
        while "done" not in (answer := self._answer()):
            files += [Found(checked(path, folder), int(size), float(mtime_s)) for path, size, mtime_s in answer["files"]]
        return Listing(tuple(files), tuple(LeftOut(str(path), str(why)) for path, why in answer["left_out"]))

    def digests(self, paths: Sequence[str]) -> Iterator[tuple[str, int, str]]:
        """Path, size and SHA-256 of each."""
        for batch in _batches(paths):
            self._channel.send({"do": "digest", "paths": batch})
            while "done" not in (answer := self._answer()):
                path, size, sha256 = answer["digest"]
                yield checked(path), int(size), str(sha256)

    def fetch(self, wants: Sequence[Want], receiver: Receiver) -> None:
        for batch in _batches(wants):
            self._channel.send({"do": "get", "files": [[want.path, want.offset, want.sha256] for want in batch]})
            for want in batch:
                self._fetch_one(want, receiver)
            self._answer()

    def put(self, upload: Upload, source: BinaryIO) -> str:
        """What became of it: `new`, `replaced`, or `same` when it was there already. `source` is read from its start, or from where it stopped."""
        self._channel.send({"do": "put", "path": upload.path, "size": upload.size, "sha256": upload.sha256, "force": upload.force})
        answer = self._answer()
        if "there" in answer:
            return "same"
        start = self._agreed_start(int(answer["from"]), str(answer["sha256"]), source, upload.size)
        self._channel.send({"from": start})
        self._meter.kept(start)
        source.seek(start)
        left, ahead = upload.size - start, 0
        while left or ahead:
            if left and ahead < WINDOW_BYTES and not self._channel.heard():
                if not (data := source.read(min(CHUNK_BYTES, left))):
                    left = 0  # it has become shorter; the agent will see that by its checksum
                    continue
                self._channel.send_data(data)
                ahead += len(data)
                left -= len(data)
            else:
                got = int(self._answer()["got"])
                self._meter.moved(got)
                ahead -= got
        self._channel.send({"end": upload.path})
        return str(self._answer()["put"])

    def free_bytes(self) -> int:
        self._channel.send({"do": "free"})
        return int(self._answer()["free"])

    def _agreed_start(self, kept: int, sha256: str, source: BinaryIO, size: int) -> int:
        """How much of what an earlier attempt left is the beginning of `source`: all or nothing."""
        if not 0 < kept <= size:
            return 0
        source.seek(0)
        digest = hashlib.sha256()
        feed(digest, source, kept, self._meter.read)
        return kept if digest.hexdigest() == sha256 else 0

    def _fetch_one(self, want: Want, receiver: Receiver) -> None:
        try:
            head = self._answer()
        except Gone:
            raise
        except PlannerError as error:
            receiver.failed(want.path, error)
            return
        if head.get("file") != want.path:
            self._lost_the_thread(head)
        size, start = int(head["size"]), int(head["from"])
        receiver.begin(Found(want.path, size, float(head["mtime_s"])), start)
        self._meter.kept(start)
        left = size - start
        while True:
            got = self._channel.receive()
            if isinstance(got, bytes):
                left -= len(got)
                if left < 0:
                    self._lost_the_thread(head)
                receiver.data(got)
                self._meter.moved(len(got))
            elif "error" in got:
                receiver.failed(want.path, _error(got))
                return
            elif got.get("end") == want.path:
                receiver.end(str(got["sha256"]), changed=bool(got["changed"]))
                return
            else:
                self._lost_the_thread(got)

    def _answer(self) -> Message:
        """The next message that is one; raises what it says went wrong."""
        while True:
            got = self._channel.receive()
            if isinstance(got, bytes):
                self._lost_the_thread({})
            if "error" in got:
                raise _error(got)
            if "read" not in got:
                return got
            self._meter.read(int(got["read"]))

    def _lost_the_thread(self, got: Message) -> NoReturn:
        raise UsageError(f"the other side says what was not asked for: {str(got)[:80]}", hint="use the volume-tools image of this version")


def _error(got: Message) -> PlannerError:
    kind = Full if got.get("kind") == "full" else UsageError
    return kind(str(got["error"]), hint=str(got.get("hint", "")))


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]
