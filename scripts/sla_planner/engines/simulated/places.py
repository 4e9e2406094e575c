"""Where the workers of a frontend are: `http://HOST:PORT`, several separated by commas.

A host name stands for all its addresses, each of them a worker: that is what the name of a headless Service is. Names are resolved again and again;
a name that has no address now has no worker now.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from sla_planner.errors import UsageError

EXAMPLE = "example: http://prefill:8000, or http://10.0.0.1:8000,http://10.0.0.2:8000"


@dataclass(frozen=True, slots=True)
class Place:
    """A host and the port that its workers listen on."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


def parse_places(text: str) -> tuple[Place, ...]:
    """Errors: `UsageError` for a text that names none."""
    return tuple(_parse(one.strip()) for one in text.split(","))


def _parse(text: str) -> Place:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or parts.scheme != "http" or parts.path not in ("", "/") or parts.query:
        raise UsageError(f"{text!r} is no place of workers", hint=EXAMPLE)
    return Place(host, port)


async def addresses_of(place: Place) -> frozenset[Place]:
    """One per worker. Those of IPv4 where there are any: a name that has both names the same workers twice."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except OSError:
        return frozenset()
    families = {family for family, *_ in found}
    wanted = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6
    return frozenset(Place(str(address[0]), place.port) for family, *_, address in found if family == wanted)
