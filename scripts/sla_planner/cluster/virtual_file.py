"""The virtual protocol's keys in one JSON file, for people without etcd. A file holds one target.

    {"num_prefill_workers": 2, "num_decode_workers": 3, "decision_id": 0, "scaled_decision_id": -1, ...}

A missing file or key is unset; keys of other programs stay as they are. Every write is a whole file, replaced atomically: reading takes no lock.
Read-modify-write takes an advisory lock on `PATH.lock`, which the system releases when its holder dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sla_planner import atomic
from sla_planner.cluster.virtual_protocol import KEYS, UNSET, VirtualState
from sla_planner.cluster.virtual_store import Snapshot, as_integer
from sla_planner.errors import UnreachableError, UsageError

_POLL_S = 0.05
_LOCK_POLL_S = 0.005
_LOCK_TIMEOUT_S = 5.0


class FileStore:
    """`VirtualStore` in the file `path`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(os.path.realpath(path))  # one file, one lock, whatever link leads to it
        self.place = str(path)
        if not self._path.parent.is_dir():
            raise UsageError(f"virtual target file:{path}: there is no folder {self._path.parent}", hint="create it first, or name another file")

    def read(self) -> Snapshot:
        return Snapshot(self._state(self._document()))

    def swap(self, seen: Snapshot, state: VirtualState) -> bool:
        with self._locked():
            document = self._document()
            if self._state(document) != seen.state:
                return False
            atomic.write_text(self._path, json.dumps(document | asdict(state), indent=2) + "\n")
            return True

    def wait_for_change(self, seen: Snapshot, timeout_s: float) -> None:  # noqa: ARG002
        # Whoever waits reads the file anyway: opening it is what makes network file systems look for a newer one.
        time.sleep(min(_POLL_S, timeout_s))

    def _document(self) -> dict[str, Any]:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise UsageError(f"cannot read {self.place}: {error.strerror}", hint="name a file that this user can read and write") from error
        try:
            document = json.loads(content)
        except ValueError as error:
            what = f"is not JSON ({error})" if content.strip() else "is empty"
            raise UsageError(f"{self.place} {what}", hint="repair it, or delete it to start with no decision") from error
        if not isinstance(document, dict):
            raise UsageError(
                f"{self.place} holds no JSON object", hint='it should look like {"num_prefill_workers": 1, ...}; delete it to start with no decision'
            )
        return document

    def _state(self, document: dict[str, Any]) -> VirtualState:
        return VirtualState(**{key: as_integer(document.get(key, UNSET), f"{self.place}: {key}") for key in KEYS})

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        lock_path = self._path.with_name(self._path.name + ".lock")
        try:
            descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise UsageError(f"cannot lock {lock_path}: {error.strerror}", hint="its directory must exist and be writable") from error
        try:
            self._acquire(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _acquire(self, descriptor: int) -> None:
        """Bounded, so that a stopped program on the other side does not stop the planner."""
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise UnreachableError(
                        f"{self.place} has been locked by another program for {_LOCK_TIMEOUT_S:.0f} s",
                        hint="see who holds it: fuser " + self.place + ".lock",
                    ) from error
            time.sleep(_LOCK_POLL_S)
