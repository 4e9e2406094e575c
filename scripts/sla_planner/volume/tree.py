"""A folder whose files are read and replaced with nothing half-written, and nothing outside it touched: the volume, and the folder of a download.

    read        a path is resolved; what leads out of the folder by a symbolic link is refused
    write       `.NAME.part` beside the file, continued where an earlier attempt stopped  ->  checksum  ->  fsync  ->  rename  ->  fsync of the folder
    both        two runs that write one file at a time exclude each other (a lock on the part)

A part is kept when a connection breaks, so that the next run goes on; on a full disk it is removed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sla_planner.errors import UsageError

READ_BYTES = 1024 * 1024
_TEMPORARY = re.compile(r"\..+\.(part|[0-9a-f]{8}\.tmp)")  # ours, and those of sla_planner.atomic
_CONFIG = re.compile(r".+\.ya?ml", re.IGNORECASE)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_REMEDIES = {
    errno.EACCES: "its owner or mode keeps us out; we are user {uid}",
    errno.EPERM: "its owner or mode keeps us out; we are user {uid}",
    errno.EROFS: "it is read-only here",
    errno.ENOTDIR: "a part of the path is a file",
    errno.EEXIST: "a part of the path is a file",
    errno.EISDIR: "name a file in it",
    errno.ENAMETOOLONG: "choose a shorter name",
}

Tick = Callable[[int], None]  # is told how many more bytes were read; may raise to end it


class Full(UsageError):
    """No space is left."""


@dataclass(frozen=True, slots=True)
class Found:
    """One file: its path below the folder, its size in bytes, when it was changed (seconds since the epoch)."""

    path: str
    size: int
    mtime_s: float


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something below a folder that is not sent, and why."""

    path: str
    why: str


class Tree:
    """`folder`, called `name` in messages. Paths are relative to it, with `/`, and without `..` (`paths.py`)."""

    def __init__(self, folder: Path, name: str) -> None:
        self._name = name
        self._root = os.path.realpath(folder)

    def shown(self, relative: str) -> str:
        text = f"{self._name}/{relative}" if relative else self._name
        return text if text.isprintable() else ascii(text)[1:-1]

    def place(self, relative: str) -> str:
        """Where it really is. Raises `UsageError` when a link leads out of the folder."""
        real = os.path.realpath(os.path.join(self._root, relative)) if relative else self._root  # noqa: PTH118
        if real != self._root and not real.startswith(self._root.rstrip("/") + "/"):
            raise UsageError(f"{self.shown(relative)} leads out of {self._name} (to {real})", hint="name a path that stays inside")
        return real

    def kind(self, relative: str) -> str:
        """`file`, `folder`, `nothing`, or `other`."""
        try:
            mode = os.stat(self.place(relative)).st_mode  # noqa: PTH116
        except FileNotFoundError:
            return "nothing"
        except OSError as error:
            raise self.trouble(error, relative, "read") from None
        return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"

    def names(self, relative: str) -> list[str]:
        """What a folder holds, folders with a `/`; empty when it cannot be read."""
        try:
            with os.scandir(self.place(relative)) as entries:
                return sorted(entry.name + ("/" if entry.is_dir() else "") for entry in entries if not _TEMPORARY.fullmatch(entry.name))
        except OSError:
            return []

    def free_bytes(self) -> int:
        found = os.statvfs(self._root)
        return found.f_bavail * found.f_frsize

    def walk(self, relative: str, *, configs: bool) -> Iterator[Found | LeftOut]:
        """Every file below a folder, in the order of names. A link to a file inside is that file; `configs`: also YAML files."""
        pending = [relative]
        while pending:
            path = pending.pop()
            if not path.endswith("/") and path != relative:
                yield self._found(path)
                continue
            try:
                with os.scandir(self.place(path)) as entries:
                    inner = sorted(entry.name + ("/" if entry.is_dir(follow_symlinks=False) else "") for entry in entries)
            except OSError as error:
                yield LeftOut(path.rstrip("/"), f"cannot be read: {error.strerror}")
                continue
            prefix = f"{path.rstrip('/')}/" if path else ""
            wanted = [name for name in inner if name.endswith("/") or not (_TEMPORARY.fullmatch(name) or (_CONFIG.fullmatch(name) and not configs))]
            pending += [prefix + name for name in reversed(wanted)]

    def _found(self, path: str) -> Found | LeftOut:
        try:
            found = os.stat(self.place(path))  # noqa: PTH116
        except UsageError:
            return LeftOut(path, f"a link that leads out of {self._name}")
        except OSError as error:
            return LeftOut(path, f"cannot be read: {error.strerror}")
        if stat.S_ISREG(found.st_mode):
            return Found(path, found.st_size, found.st_mtime)
        return LeftOut(path, "a link to a folder" if stat.S_ISDIR(found.st_mode) else "no regular file")

    @contextlib.contextmanager
    def reading(self, relative: str) -> Iterator[BinaryIO]:
        """A regular file, open. Raises `UsageError`."""
        try:
            # O_NONBLOCK: a fifo put there in this moment must not hold us.
            descriptor = os.open(self.place(relative), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise self.trouble(error, relative, "read") from None
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UsageError(f"{self.shown(relative)} is no regular file", hint="name a file")
            yield file

    def digest(self, relative: str, tick: Tick) -> tuple[int, str]:
        """Size and SHA-256 of a file."""
        with self.reading(relative) as file:
            digest = hashlib.sha256()
            return feed(digest, file, None, tick), digest.hexdigest()

    def is_begun(self, relative: str) -> bool:
        """Whether an earlier attempt has left a part of it."""
        return _part_of(Path(self.place(relative))).is_file()

    def replacing(self, relative: str) -> Replacement:
        """Begins to write a file, making the folders that it needs. Raises `UsageError`, `Full`."""
        place = self.place(relative)
        try:
            os.makedirs(os.path.dirname(place), exist_ok=True)  # noqa: PTH103, PTH120
            return Replacement(self, relative, place)
        except OSError as error:
            raise self.trouble(error, relative, "write") from None

    def trouble(self, error: OSError, relative: str, doing: str) -> UsageError:
        """What went wrong with a file, in one line."""
        place = self.shown(relative)
        if error.errno in _FULL:
            return Full(f"cannot {doing} {place}: no space is left on {self._name}", hint="free some; nothing half-written is left")
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return UsageError(f"{place} is not there", hint="it was removed or replaced while it was looked at: try again")
        hint = _REMEDIES.get(error.errno or 0, "choose another path").format(uid=os.getuid())
        return UsageError(f"cannot {doing} {place}: {error.strerror}", hint=hint)


class Replacement:
    """New content of one file, on its way: `kept` bytes of it were there from an earlier attempt. A context manager: leaves no open file."""

    def __init__(self, tree: Tree, relative: str, place: str) -> None:
        self._tree, self._relative, self._place = tree, relative, Path(place)
        self._part = _part_of(self._place)
        self._digest = hashlib.sha256()
        self._file = self._opened()
        self.kept = os.fstat(self._file.fileno()).st_size

    def __enter__(self) -> Replacement:
        return self

    def __exit__(self, *_error: object) -> None:
        with contextlib.suppress(OSError):
            self._file.close()

    def kept_digest(self, tick: Tick) -> str:
        """SHA-256 of what is there from an earlier attempt. Then either `write` on, or `begin_anew` first."""
        self._file.seek(0)
        self._digest = hashlib.sha256()
        self.kept = feed(self._digest, self._file, self.kept, tick)
        return self._digest.hexdigest()

    def begin_anew(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._digest, self.kept = hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        """Raises `Full` with nothing of it left."""
        try:
            self._file.write(data)
        except OSError as error:
            raise self._given_up(error) from None
        self._digest.update(data)

    def finish(self, sha256: str, mtime_s: float | None = None) -> bool:
        """Put it in place when it is what it should be; else remove it and return False. Raises `UsageError`."""
        try:
            self._file.flush()
            if self._digest.hexdigest() != sha256:
                self.discard()
                return False
            os.fsync(self._file.fileno())
            with contextlib.suppress(FileNotFoundError, PermissionError):
                os.fchmod(self._file.fileno(), stat.S_IMODE(self._place.stat().st_mode))  # a file that is replaced keeps its mode
            if mtime_s is not None:
                os.utime(self._file.fileno(), (mtime_s, mtime_s))
            self._part.replace(self._place)
        except OSError as error:
            raise self._given_up(error) from None
        self._sync_folder()
        return True

    def discard(self) -> None:
        with contextlib.suppress(OSError):
            self._part.unlink()

    def _opened(self) -> BinaryIO:
        while True:
            descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            file = os.fdopen(descriptor, "r+b")
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                raise UsageError(f"{self._tree.shown(self._relative)} is being written by another run", hint="wait until that one is done") from None
            except OSError:
                pass  # a file system without locks
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), self._part.lstat()):
                    return file
            file.close()  # another run has just finished with it

    def _given_up(self, error: OSError) -> UsageError:
        if error.errno in _FULL:
            self.discard()
        return self._tree.trouble(error, self._relative, "write")

    def _sync_folder(self) -> None:
        """Make the rename durable. Some network file systems refuse this; the content is in place by now all the same."""
        with contextlib.suppress(OSError):
            descriptor = os.open(self._place.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _part_of(place: Path) -> Path:
    return place.with_name(f".{place.name}.part")


def feed(digest: hashlib._Hash, file: BinaryIO, length: int | None, tick: Tick) -> int:
    """Give a digest the next `length` bytes, or all that come; returns how many there were."""
    fed = 0
    while length is None or fed < length:
        data = file.read(READ_BYTES if length is None else min(READ_BYTES, length - fed))
        if not data:
            break
        digest.update(data)
        fed += len(data)
        tick(len(data))
    return fed
