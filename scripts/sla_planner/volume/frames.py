"""What the two sides of a volume say to each other, over any stream of bytes: a pipe, or an exec into a pod.

    frame      1 byte kind, 4 bytes length (big-endian), that many bytes
    J          a message: one JSON object
    D          bytes of a file
    .          nothing: sent every `BEAT_S`, so that a busy side and a dead one can be told apart

The end of a file is said in a message, never by closing: a Kubernetes exec cannot close one direction alone. A side that has heard nothing for
`SILENCE_S`, or whose stream ends, takes the other one for gone. What is sent into an exec is acknowledged, and never more than `WINDOW_BYTES` ahead:
with its stdin full, an exec does not even say that the program has died.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from sla_planner.errors import UnreachableError, UsageError

PROTOCOL = 1
CHUNK_BYTES = 256 * 1024
WINDOW_BYTES = 8 * 1024 * 1024
BEAT_S, SILENCE_S = 5.0, 30.0

_MESSAGE, _DATA, _BEAT = b"J", b"D", b"."
_HEAD = struct.Struct(">cI")
_LONGEST_BYTES = 8 * 1024 * 1024
_WAITING_FRAMES = 2 * WINDOW_BYTES // CHUNK_BYTES  # read ahead of whoever takes them

Message = dict[str, Any]


class Gone(UnreachableError):
    """The other side has gone, or cannot be heard any more."""


class Wire(Protocol):
    """A stream of bytes in both directions."""

    def read(self) -> bytes:
        """What there is, at least one byte; b'' when there will be no more."""
        ...

    def write(self, data: bytes) -> None: ...

    def close(self) -> None:
        """From any thread: ends both directions, and with that a `read` that waits."""
        ...

    def release(self) -> None:
        """From the thread that reads, which will not read again: before that, what it reads from may not become another's."""
        ...


class PipeWire:
    """Two pipes. Closing ends what we write; what we read ends with the other side."""

    def __init__(self, reads: int, writes: int) -> None:
        self._reads, self._writes = reads, writes

    def read(self) -> bytes:
        return os.read(self._reads, CHUNK_BYTES)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._writes, view) :]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._writes)

    def release(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._reads)


class SocketWire:
    """A connected socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def read(self) -> bytes:
        return self._connection.recv(CHUNK_BYTES)

    def write(self, data: bytes) -> None:
        self._connection.sendall(data)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        self._connection.close()


class Channel:
    """Frames over a wire. `send` and `receive` are for one thread each; raises `Gone` from either when the other side has gone."""

    def __init__(self, wire: Wire, *, beat_s: float = BEAT_S, silence_s: float = SILENCE_S) -> None:
        self._wire, self._beat_s, self._silence_s = wire, beat_s, silence_s
        self._waiting: deque[Message | bytes] = deque()
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._closed = threading.Event()
        self._trouble: Gone | UsageError | None = None
        self._heard_s = time.monotonic()
        for target in (self._listen, self._beat):
            threading.Thread(target=target, daemon=True).start()

    def send(self, message: Mapping[str, Any]) -> None:
        self._send(_MESSAGE, json.dumps(message).encode())

    def send_data(self, data: bytes) -> None:
        self._send(_DATA, data)

    def receive(self) -> Message | bytes:
        """The next message or piece of a file; waits for it."""
        with self._changed:
            while not self._waiting:
                self._raise_trouble()
                left_s = self._heard_s + self._silence_s - time.monotonic()
                if left_s <= 0:
                    self._trouble = Gone(f"nothing was heard for {self._silence_s:.0f} s")
                    continue
                self._changed.wait(left_s)
            taken = self._waiting.popleft()
            self._changed.notify_all()
            return taken

    def heard(self) -> bool:
        """Whether something waits to be received."""
        with self._changed:
            return bool(self._waiting)

    def is_over(self) -> bool:
        """Whether the other side has gone, as far as one can tell without receiving."""
        with self._changed:
            return self._trouble is not None or time.monotonic() - self._heard_s > self._silence_s

    def close(self) -> None:
        self._closed.set()
        with self._changed:
            self._trouble = self._trouble or Gone("closed")
            self._changed.notify_all()
        self._wire.close()

    def _check(self) -> None:
        with self._changed:
            self._raise_trouble()

    def _raise_trouble(self) -> None:
        if self._trouble is not None:
            # A new one each time: an exception that is raised twice keeps the first traceback.
            raise type(self._trouble)(self._trouble.message, hint=self._trouble.hint)

    def _send(self, kind: bytes, payload: bytes) -> None:
        try:
            with self._sending:
                self._wire.write(_HEAD.pack(kind, len(payload)) + payload)
        except OSError as error:
            self._check()
            raise Gone(f"the connection broke ({error.strerror or error})") from None
        except UnreachableError as error:
            self._check()
            raise Gone(error.message) from None

    def _beat(self) -> None:
        while not self._closed.wait(self._beat_s):
            try:
                self._send(_BEAT, b"")
            except (UnreachableError, UsageError):
                return

    def _listen(self) -> None:
        try:
            self._read_frames()
        except OSError as error:
            self._end(Gone(f"the connection broke ({error.strerror or error})"))
        except UnreachableError as error:
            self._end(Gone(error.message))
        except UsageError as error:
            self._end(error)
        finally:
            self._wire.release()

    def _read_frames(self) -> None:
        buffer = bytearray()
        while data := self._wire.read():
            self._heard_s = time.monotonic()
            buffer += data
            while len(buffer) >= _HEAD.size:
                kind, length = _HEAD.unpack_from(buffer)
                if kind not in (_MESSAGE, _DATA, _BEAT) or length > _LONGEST_BYTES:
                    raise _no_frame(bytes(buffer))
                end = _HEAD.size + length
                if len(buffer) < end:
                    break
                payload = bytes(buffer[_HEAD.size : end])
                del buffer[:end]
                if kind != _BEAT:
                    self._put(payload if kind == _DATA else _parsed(payload))
        self._end(Gone("the connection was closed"))

    def _put(self, item: Message | bytes) -> None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < _WAITING_FRAMES or self._closed.is_set())
            self._waiting.append(item)
            self._changed.notify_all()

    def _end(self, trouble: Gone | UsageError) -> None:
        with self._changed:
            self._trouble = self._trouble or trouble
            self._changed.notify_all()


def _parsed(payload: bytes) -> Message:
    try:
        message = json.loads(payload)
    except ValueError:
        raise _no_frame(payload) from None
    if not isinstance(message, dict):
        raise _no_frame(payload)
    return message


def _no_frame(data: bytes) -> UsageError:
    return UsageError(f"the other side is not of this program: it says {data[:80]!r}", hint="use the volume-tools image of this version")
