"""A sweep's checkpoint on disk: one JSON file per point and per engine, so that what was measured once is never measured again.

    points/tp4-decode-isl3000-batch48-3f81b0c2d4.json      a point      {"format": 1, "key": ..., "point": {...}}
    points/engine-91c0ffee12.json                          an engine    {"format": 1, "key": ..., "engine": {...}}
    points/.lock                                           held (flock) and signed by the sweep that writes here

A name ends in the first ten digits of the key; the whole key stands inside. Files are replaced atomically and are on disk when `save_*` returns
(atomic.py), so a killed sweep leaves whole files and perhaps a temporary one, which the next sweep removes.

A file of ours that is not what it should be (damaged, renamed, of another format) costs its point, not the sweep: it is set aside as `<name>.bad`,
`warnings` says so, and the point is measured again. Files that are not ours stay where they are. Only the holder of the lock changes anything;
whoever just reads `points()` needs no lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sla_planner import atomic
from sla_planner.errors import UsageError
from sla_planner.sweep.points import DecodeShape, EngineFacts, Point

FORMAT = 1
LOCK = ".lock"
MOST_BYTES = 4 << 20  # a point of a thousand streams has 0.02 MB
KEY_DIGITS = 10  # of the key in a file's name
_OURS = re.compile(rf".+-[0-9a-f]{{{KEY_DIGITS}}}\.json")
_TEMPORARY = ".*.tmp"  # what atomic.py leaves when it is killed
_ROOM_BYTES = 1 << 16  # to be free before anything is measured


class _Damage(Exception):
    """Why a file cannot be used; ends a sentence that begins with the file's name."""


@dataclass(frozen=True, slots=True)
class _PointRecord:
    format: int
    key: str
    point: Point


@dataclass(frozen=True, slots=True)
class _EngineRecord:
    format: int
    key: str
    engine: EngineFacts


_Record = _PointRecord | _EngineRecord


class PointFiles:
    """The `Checkpoint` in `directory`, usually `<results>/points`. `prepare` before anything is measured, `close` in the end; `with` does both."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.warnings: list[str] = []  # one sentence each: files that could not be used, a lock that could not be taken
        self._lock: int | None = None
        self._records: dict[str, _Record] | None = None

    def __enter__(self) -> PointFiles:
        self.prepare()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def prepare(self) -> None:
        """Make the directory, take the lock, tidy up and read what is there.

        Raises `UsageError` when the directory cannot be written, is full, or belongs to another sweep.
        """
        if self._lock is not None:
            return
        try:
            _make_directory(self.directory)
        except OSError as error:
            raise UsageError(f"cannot make the directory {error.filename}: {error.strerror}", hint="choose another path") from None
        self.warnings = []
        self._lock = self._locked()
        try:
            for left in self.directory.glob(_TEMPORARY):
                with contextlib.suppress(OSError):
                    left.unlink()
            self._check_room()
        except BaseException:
            self.close()
            raise
        self._records = None
        self._known()

    def close(self) -> None:
        """Give the lock back. What was read and saved can still be asked for."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def facts(self, key: str) -> EngineFacts | None:
        record = self._known().get(key)
        return record.engine if isinstance(record, _EngineRecord) else None

    def point(self, key: str) -> Point | None:
        record = self._known().get(key)
        return record.point if isinstance(record, _PointRecord) else None

    def points(self) -> tuple[Point, ...]:
        """All usable points: by mapping, prefill before decode, by ISL, then concurrency or batch."""
        return tuple(sorted((record.point for record in self._known().values() if isinstance(record, _PointRecord)), key=_order))

    def save_facts(self, key: str, facts: EngineFacts) -> None:
        """Errors as `save_point`."""
        self._save(_EngineRecord(FORMAT, key, facts))

    def save_point(self, key: str, point: Point) -> None:
        """On disk when this returns. Raises `UsageError` with the path and a remedy, ValueError for a number that is not finite."""
        self._save(_PointRecord(FORMAT, key, point))

    def _save(self, record: _Record) -> None:
        self.prepare()
        atomic.write_text(self.directory / _name(record), json.dumps(asdict(record), indent=1, allow_nan=False) + "\n")
        self._known()[record.key] = record

    def _known(self) -> dict[str, _Record]:
        if self._records is None:
            self._records = {record.key: record for record in self._read()}
        return self._records

    def _read(self) -> Iterator[_Record]:
        try:
            paths = sorted(self.directory.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise UsageError(f"{self.directory} cannot be read: {error.strerror}", hint="check the permissions") from None
        for path in paths:
            if path.suffix != ".json" or path.name.startswith("."):
                continue
            try:
                yield _read(path)
            except _Damage as damage:
                self._put_aside(path, str(damage))

    def _put_aside(self, path: Path, why: str) -> None:
        """Out of the way of the file that will be written under this name; a file that is not ours is in nobody's way."""
        sentence = f"{path} {why}"
        if not _OURS.fullmatch(path.name):
            self.warnings.append(f"{sentence}; ignored")
        elif self._lock is None:
            self.warnings.append(f"{sentence}; ignored, the next sweep measures again what it held")
        else:
            bad = path.with_name(path.name + ".bad")
            try:
                path.replace(bad)
            except OSError as error:
                self.warnings.append(f"{sentence} and cannot be set aside ({error.strerror}); what it held is measured again")
            else:
                self.warnings.append(f"{sentence}; kept as {bad.name}, what it held is measured again")

    def _locked(self) -> int:
        path = self.directory / LOCK
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise UsageError(
                f"cannot write in {self.directory}: {error.strerror}", hint="make it writable for this user, or choose another path"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "pid unknown"
            os.close(descriptor)
            hint = "wait until it is over, or choose another directory"
            raise UsageError(f"another sweep ({holder}) writes to {self.directory}", hint=hint) from None
        except OSError as error:  # some network file systems have no locks
            self.warnings.append(f"{self.directory} cannot be locked ({error.strerror}): see to it that no other sweep writes there")
        with contextlib.suppress(OSError):  # a full disk: told by what follows
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"pid {os.getpid()} on {socket.gethostname()}".encode(), 0)
        return descriptor

    def _check_room(self) -> None:
        """Write as much as a large point, and remove it."""
        probe = self.directory / ".room"
        atomic.write_bytes(probe, bytes(_ROOM_BYTES))
        probe.unlink()


def _make_directory(directory: Path) -> None:
    """With its parents, on disk when this returns."""
    if directory.is_dir():
        return
    if directory.parent != directory:
        _make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    descriptor = os.open(directory.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # some network file systems refuse
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _name(record: _Record) -> str:
    """`tp4-prefill-isl3000-3f81b0c2d4.json`, `tp4-prefill-isl3000-x4-...`, `tp4-decode-isl3000-batch48-...`, `engine-...`."""
    tail = f"{record.key[:KEY_DIGITS]}.json"
    if isinstance(record, _EngineRecord):
        return f"engine-{tail}"
    mapping, shape = record.point.mapping.label.lower(), record.point.shape
    if isinstance(shape, DecodeShape):
        return f"{mapping}-decode-isl{shape.isl_tokens}-batch{shape.batch}-{tail}"
    at_once = f"-x{shape.concurrency}" if shape.concurrency > 1 else ""
    return f"{mapping}-prefill-isl{shape.isl_tokens}{at_once}-{tail}"


def _order(point: Point) -> tuple[Any, ...]:
    mapping, shape = point.mapping, point.shape
    decode = isinstance(shape, DecodeShape)
    return (mapping.gpus, mapping.label, decode, shape.isl_tokens, shape.batch if isinstance(shape, DecodeShape) else shape.concurrency)


def _read(path: Path) -> _Record:
    """Raises `_Damage`."""
    from pydantic import TypeAdapter, ValidationError  # slow to import, and needed only where there are files

    document = _document(path)
    kind: type[_Record] | None = _PointRecord if "point" in document else _EngineRecord if "engine" in document else None
    if kind is None or "key" not in document:
        raise _Damage("is no point of a sweep")
    if document.get("format") != FORMAT:
        raise _Damage(f"has format {str(document.get('format'))[:20]}, this version reads {FORMAT}")
    try:
        record = TypeAdapter[_Record](kind).validate_json(json.dumps(document, allow_nan=False), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise _Damage(f"is damaged ({f'{place}: ' if place else ''}{first['msg']})") from None
    except ValueError:  # NaN or infinity
        raise _Damage("is damaged (a number is not finite)") from None
    if path.name != _name(record):
        raise _Damage(f"holds what belongs into {_name(record)[:120]}")
    if isinstance(record, _PointRecord) and _of_the_other_phase(record.point):
        raise _Damage("is damaged (what was seen is not of its shape)")
    return record


def _document(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():  # a pipe would block
            raise _Damage("is not a file")
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise _Damage(f"cannot be read ({error.strerror})") from None
    if len(data) > MOST_BYTES:
        raise _Damage(f"is larger than {MOST_BYTES} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise _Damage("is not JSON") from None
    if not isinstance(document, dict):
        raise _Damage("is no point of a sweep")
    return document


def _of_the_other_phase(point: Point) -> bool:
    return (point.prefill if isinstance(point.shape, DecodeShape) else point.decode) is not None
