"""Write a file so that a reader, or a crash at any moment, finds either the old content or the new one, whole.

    temporary file in the same directory → write → fsync → rename over the target → fsync of the directory

The rename is atomic because both names lie in one file system. A symbolic link is followed: its target is replaced, the link stays.
An existing file keeps its mode; a new one gets what the umask leaves. A process killed in between leaves `.NAME.*.tmp` behind, nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path

from sla_planner.errors import UsageError

_REMEDIES = {
    errno.ENOENT: "create the directory first",
    errno.ENOTDIR: "a part of the path is a file: choose another path",
    errno.EISDIR: "name a file, not a directory",
    errno.EACCES: "make the directory writable for this user, or choose another path",
    errno.EPERM: "make the directory writable for this user, or choose another path",
    errno.EROFS: "the file system is read-only: mount a volume there, or choose another path",
    errno.ENOSPC: "free some space, or choose another path",
    errno.EDQUOT: "free some space, or choose another path",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replace the content of `path` by `text` (UTF-8). Errors as `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace the content of `path` by `data`. `UsageError` naming the path and a remedy; the old content is then untouched."""
    try:
        _replace(Path(os.path.realpath(path)), data)
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "choose another path")
        raise UsageError(f"cannot write {os.fspath(path)}: {error.strerror}", hint=remedy) from error


def _replace(target: Path, data: bytes) -> None:
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(descriptor, stat.S_IMODE(target.stat().st_mode))
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_directory(target.parent)


def _sync_directory(directory: Path) -> None:
    """Make the rename durable. Some network file systems refuse this; the content is in place by now all the same."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
