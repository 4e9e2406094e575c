"""The first process of an access pod: it keeps the pod open while a client is there, and ends it afterwards. Standard library only.

Agents (`agent.py`) are started in the pod by exec and hold a connection to the keeper while they live; the kernel closes it however they end. When
nobody has been connected for a while, long enough to come back after a broken connection, the keeper ends and with it the pod. So a pod whose client
was killed, or whose connection broke for good, takes itself away.
"""

from __future__ import annotations

import selectors
import signal
import socket
import sys
import time
from types import FrameType


def address_of(name: str) -> str:
    """Of Linux' abstract sockets: there is no file, and nobody outside the pod can reach it."""
    return f"\0{name}"


def keep(name: str, grace_s: float) -> None:
    """Says so when agents can connect, and returns when none has been connected for `grace_s`."""
    with socket.socket(socket.AF_UNIX) as server, selectors.DefaultSelector() as selector:
        server.bind(address_of(name))
        server.listen()
        sys.stdout.write(f"The volume is at hand; this pod ends {grace_s:g} s after its last client\n")
        sys.stdout.flush()
        selector.register(server, selectors.EVENT_READ)
        agents: set[socket.socket] = set()
        alone_since_s = time.monotonic()
        while True:
            left_s = None if agents else alone_since_s + grace_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                return
            for key, _ in selector.select(left_s):
                if key.fileobj is server:
                    agent, _ = server.accept()
                    agents.add(agent)
                    selector.register(agent, selectors.EVENT_READ)
                elif isinstance(key.fileobj, socket.socket) and not key.fileobj.recv(1):
                    selector.unregister(key.fileobj)
                    agents.discard(key.fileobj)
                    key.fileobj.close()
                    alone_since_s = time.monotonic()


def _end(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def main() -> None:
    """`python -m sla_planner.volume.keeper NAME SECONDS`: where agents find it, and how long it stays alone."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)  # the first process of a container has no default for them
    keep(sys.argv[1], float(sys.argv[2]))


if __name__ == "__main__":
    main()
