from __future__ import annotations

import asyncio
import socket

import pytest

from sla_planner.engines.simulated.places import Place, addresses_of, parse_places
from sla_planner.errors import UsageError


def test_several_places():
    assert parse_places("http://prefill:8000") == (Place("prefill", 8000),)
    assert parse_places("http://10.0.0.1:80/, http://[fd00::2]:81") == (Place("10.0.0.1", 80), Place("fd00::2", 81))


@pytest.mark.parametrize(
    "text", ["", "prefill:8000", "https://prefill:8000", "http://prefill", "http://:8000", "http://a:80,", "http://a:x", "http://a:80/v1"]
)
def test_what_is_no_place(text):
    with pytest.raises(UsageError, match="is no place of workers; example: http://"):
        parse_places(text)


def addresses(monkeypatch: pytest.MonkeyPatch, *found: tuple[socket.AddressFamily, str]) -> set[str]:
    """As DNS knows them: what is asked of it goes to the system, and a test has no name server of its own."""

    def lookup(host: str, port: int, *_args: object, **_kwargs: object) -> list[tuple[object, ...]]:
        assert (host, port) == ("prefill", 8000)
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(family, socket.SOCK_STREAM, 6, "", (address, port)) for family, address in found]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    return {place.url for place in asyncio.run(addresses_of(Place("prefill", 8000)))}


def test_every_address_of_a_name_is_a_worker(monkeypatch):
    found = addresses(monkeypatch, (socket.AF_INET, "10.0.0.1"), (socket.AF_INET, "10.0.0.2"))
    assert found == {"http://10.0.0.1:8000", "http://10.0.0.2:8000"}


def test_a_worker_with_two_addresses_is_one(monkeypatch):
    assert addresses(monkeypatch, (socket.AF_INET6, "fd00::1"), (socket.AF_INET, "10.0.0.1")) == {"http://10.0.0.1:8000"}
    assert addresses(monkeypatch, (socket.AF_INET6, "fd00::1")) == {"http://[fd00::1]:8000"}


def test_a_name_without_addresses_has_no_workers(monkeypatch):
    assert addresses(monkeypatch) == set()


def test_a_name_of_this_machine():
    assert Place("127.0.0.1", 8000) in asyncio.run(addresses_of(Place("localhost", 8000)))
