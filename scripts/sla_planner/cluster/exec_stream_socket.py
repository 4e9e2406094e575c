"""A connected socket, plain or TLS, that one thread may read while another one writes.

OpenSSL wants one call at a time on a connection: with a thread on each side, records have been seen to break. So every call is made under a lock and
waits for nothing in there; waiting is done outside of it. A call that gets nowhere for `silence_s` raises `TimeoutError`.
"""

from __future__ import annotations

import errno
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class SharedSocket:
    """What a websocket needs of a socket."""

    def __init__(self, connection: socket.socket, silence_s: float) -> None:
        connection.settimeout(0)
        self._connection, self._silence_s = connection, silence_s
        self._lock = threading.Lock()

    def recv(self, size: int) -> bytes:
        return self._done(lambda: self._connection.recv(size), select.POLLIN)

    def send(self, data: bytes) -> int:
        return self._done(lambda: self._connection.send(data), select.POLLOUT)

    def gettimeout(self) -> float:
        """0: whoever calls is not to wait on its own."""
        return 0.0

    def fileno(self) -> int:
        return self._connection.fileno()

    def shutdown(self, how: int) -> None:
        with self._lock:
            self._connection.shutdown(how)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _done(self, action: Callable[[], T], waits_for: int) -> T:
        give_up_s = time.monotonic() + self._silence_s
        while True:
            with self._lock:
                try:
                    return action()
                except ssl.SSLWantReadError:
                    wanted = select.POLLIN
                except ssl.SSLWantWriteError:
                    wanted = select.POLLOUT
                except BlockingIOError:
                    wanted = waits_for
            self._wait(wanted, give_up_s)

    def _wait(self, wanted: int, give_up_s: float) -> None:
        if (descriptor := self._connection.fileno()) < 0:
            raise OSError(errno.EBADF, "the connection is closed")
        poll = select.poll()
        poll.register(descriptor, wanted)
        if not poll.poll(max(give_up_s - time.monotonic(), 0.0) * 1000):
            raise TimeoutError(f"nothing moved for {self._silence_s:.0f} s")
