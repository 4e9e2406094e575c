"""The side next to the volume: does what one client asks for, over one stream, until the client is gone. Standard library only.

    {"do": "list", "folder", "configs"}      {"files": [[path, size, mtime_s] ...]} ..., {"done", "left_out": [[path, why] ...]}
    {"do": "digest", "paths"}                {"digest": [path, size, sha256]} per path, {"done"}
    {"do": "get", "files": [[path, offset, sha256 of the bytes before it] ...]}
                                             per file {"file", "size", "from", "mtime_s"}, its bytes, {"end", "sha256", "changed"}; {"done"}
    {"do": "put", "path", "size", "sha256", "force"}
                                             {"there": "same"}; or {"from", "sha256"} of what an earlier attempt left,
                                             then the client sends {"from"}, the bytes, {"end"}; {"got": bytes} of what is written is said
                                             while they come, and in the end {"put": "new" | "replaced"}
    {"do": "free"}                           {"free": bytes}
    anything that goes wrong                 {"error", "hint", "kind"}, and then the next request

`read` in {"read": bytes} is said while something long is read. Every path is relative to the volume.

Run as a program it speaks over stdin and stdout, and holds a connection to the keeper (`keeper.py`) of that name as long as it lives.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sla_planner import __version__
from sla_planner.errors import PlannerError, UsageError
from sla_planner.volume.frames import CHUNK_BYTES, PROTOCOL, Channel, Gone, Message, PipeWire, SocketWire, Wire
from sla_planner.volume.keeper import address_of
from sla_planner.volume.paths import ROOT, checked
from sla_planner.volume.tree import Full, LeftOut, Tree, feed

_BATCH = 500  # files in a message
_TELL_S = 1.0
_KEEPER_LIMIT_S = 10.0
_LOOK_S = 1.0


class Agent:
    """One session over `wire`, with the volume mounted at `folder`."""

    def __init__(self, folder: Path, wire: Wire) -> None:
        self._tree = Tree(folder, ROOT)
        self._channel = Channel(wire)
        self._read_bytes, self._told_s = 0, time.monotonic()

    def serve(self) -> None:
        """Returns when the client has gone."""
        doing = {"list": self._list, "digest": self._digests, "get": self._get, "put": self._put, "free": self._free}
        try:
            self._channel.send({"protocol": PROTOCOL, "version": __version__})
            while True:
                asked = self._channel.receive()
                if isinstance(asked, bytes):
                    continue  # bytes of a file that was refused meanwhile
                if (action := doing.get(asked.get("do", ""))) is not None:
                    with self._errors_told():
                        action(asked)
        except Gone:
            pass
        finally:
            self._channel.close()

    @contextmanager
    def _errors_told(self) -> Iterator[None]:
        try:
            yield
        except Gone:
            raise
        except Full as error:
            self._channel.send({"error": error.message, "hint": error.hint, "kind": "full"})
        except PlannerError as error:
            self._channel.send({"error": error.message, "hint": error.hint, "kind": "usage"})
        except OSError as error:
            trouble = self._tree.trouble(error, "", "read or write")
            self._channel.send({"error": trouble.message, "hint": trouble.hint, "kind": "usage"})

    def _list(self, asked: Message) -> None:
        folder = checked(asked["folder"]) if asked["folder"] else ""
        if (kind := self._tree.kind(folder)) != "folder":
            raise self._no_folder(folder, kind)
        files: list[list[Any]] = []
        left_out: list[list[str]] = []
        for found in self._tree.walk(folder, configs=bool(asked["configs"])):
            if isinstance(found, LeftOut):
                left_out.append([found.path, found.why])
                continue
            files.append([found.path, found.size, found.mtime_s])
            if len(files) == _BATCH:
                self._channel.send({"files": files})
                files = []
        self._channel.send({"files": files})
        self._channel.send({"done": True, "left_out": left_out})

    def _no_folder(self, folder: str, kind: str) -> UsageError:
        shown = self._tree.shown(folder)
        if kind == "file":
            return UsageError(f"{shown} is a file", hint="name the folder that it lies in")
        above = folder
        while above and self._tree.kind(above) != "folder":
            above = above.rpartition("/")[0]
        names = self._tree.names(above)
        held = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
        return UsageError(f"there is no {shown} on the volume", hint=f"{self._tree.shown(above)} holds {held or 'nothing yet'}")

    def _digests(self, asked: Message) -> None:
        for path in asked["paths"]:
            size, sha256 = self._tree.digest(checked(path), self._tick)
            self._channel.send({"digest": [path, size, sha256]})
        self._channel.send({"done": True})

    def _get(self, asked: Message) -> None:
        for path, offset, sha256 in asked["files"]:
            with self._errors_told():
                self._get_one(checked(path), int(offset), str(sha256))
        self._channel.send({"done": True})

    def _get_one(self, path: str, offset: int, sha256: str) -> None:
        with self._tree.reading(path) as file:
            before = os.fstat(file.fileno())
            digest = hashlib.sha256()
            start = feed(digest, file, offset, self._tick) if 0 < offset <= before.st_size else 0
            if start and digest.hexdigest() != sha256:
                digest, start = hashlib.sha256(), 0
                file.seek(0)
            self._channel.send({"file": path, "size": before.st_size, "from": start, "mtime_s": before.st_mtime})
            left = before.st_size - start
            while left and (data := file.read(min(CHUNK_BYTES, left))):
                digest.update(data)
                self._channel.send_data(data)
                left -= len(data)
            after = os.fstat(file.fileno())
            changed = left > 0 or (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns)
            self._channel.send({"end": path, "sha256": digest.hexdigest(), "changed": changed})

    def _put(self, asked: Message) -> None:
        path, size, sha256 = checked(asked["path"]), int(asked["size"]), str(asked["sha256"])
        kind = self._tree.kind(path)
        if kind not in ("file", "nothing"):
            raise UsageError(f"{self._tree.shown(path)} is a {kind if kind == 'folder' else 'special file'}", hint="name a file")
        if kind == "file":
            if self._tree.digest(path, self._tick)[1] == sha256:
                self._channel.send({"there": "same"})
                return
            if not asked["force"]:
                raise UsageError(f"{self._tree.shown(path)} is there with other content", hint="add --force to replace it, or choose another --dest")
        with self._tree.replacing(path) as new:
            if (missing := size - new.kept - self._tree.free_bytes()) > 0:
                new.discard()
                raise Full(
                    f"the volume has no room for {self._tree.shown(path)}: {missing:,} bytes more are needed",
                    hint="free some of it, or enlarge the claim",
                )
            self._channel.send({"from": new.kept, "sha256": new.kept_digest(self._tick)})
            answer = self._channel.receive()
            if not isinstance(answer, dict) or answer.get("from") != new.kept:
                new.begin_anew()
            while isinstance(data := self._channel.receive(), bytes):
                new.write(data)
                self._channel.send({"got": len(data)})
            if not new.finish(sha256):
                raise UsageError(f"{self._tree.shown(path)} did not arrive as it was sent", hint="was the source changed meanwhile? run it again")
        self._channel.send({"put": "replaced" if kind == "file" else "new"})

    def is_abandoned(self) -> bool:
        """Whether its client has gone, also where `serve` hangs in a write that nobody reads."""
        return self._channel.is_over()

    def _free(self, _asked: Message) -> None:
        self._channel.send({"free": self._tree.free_bytes()})

    def _tick(self, read_bytes: int) -> None:
        """Of something long: say so now and then, and end it when nobody waits for it any more."""
        self._read_bytes += read_bytes
        now_s = time.monotonic()
        if now_s - self._told_s >= _TELL_S:
            self._channel.send({"read": self._read_bytes})
            self._read_bytes, self._told_s = 0, now_s


def open_local(folder: Path) -> Wire:
    """A volume that is mounted here: an agent of this very process, with the same checks as one in a pod."""
    ours, its = socket.socketpair()
    threading.Thread(target=Agent(folder, SocketWire(its)).serve, daemon=True).start()
    return SocketWire(ours)


def _tell_keeper(name: str) -> socket.socket | None:
    """A connection that ends with this process; None when no keeper comes up."""
    give_up_s = time.monotonic() + _KEEPER_LIMIT_S
    while time.monotonic() < give_up_s:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(address_of(name))
            return connection
        except OSError:
            connection.close()
            time.sleep(0.05)  # the container has only just started
    return None


def main() -> None:
    """`python -m sla_planner.volume.agent FOLDER [KEEPER]`"""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    os.umask(0o002)  # the volume's group is the pods': sweeps of another user may go on with these files
    folder, *keeper = sys.argv[1:]
    held = _tell_keeper(keeper[0]) if keeper else None
    agent = Agent(Path(folder), PipeWire(0, 1))
    serving = threading.Thread(target=agent.serve, daemon=True)
    serving.start()
    while serving.is_alive() and not agent.is_abandoned():
        serving.join(_LOOK_S)
    if held is not None:
        held.close()


if __name__ == "__main__":
    main()
