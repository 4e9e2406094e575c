"""Frames over a wire: what is sent arrives, in order; what is no frame, an end, and silence are told apart."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from collections.abc import Iterator

import pytest

from sla_planner.errors import UsageError
from sla_planner.volume.frames import Channel, Gone, SocketWire


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    here, there = socket.socketpair()
    with contextlib.closing(Channel(SocketWire(here))) as ours, contextlib.closing(Channel(SocketWire(there))) as its:
        yield ours, its


@pytest.fixture
def raw() -> Iterator[tuple[Channel, socket.socket]]:
    """A channel, and the bare socket at its other end."""
    here, there = socket.socketpair()
    with there, contextlib.closing(Channel(SocketWire(here))) as ours:
        yield ours, there


def frame(kind: bytes, payload: bytes) -> bytes:
    return kind + struct.pack(">I", len(payload)) + payload


def test_messages_and_bytes_arrive_in_order(ends):
    ours, its = ends
    ours.send({"do": "x"})
    ours.send_data(b"\0" * 300_000)
    ours.send_data(b"")
    ours.send({"path": "ü \udcff"})  # a file name that is no UTF-8

    assert [its.receive() for _ in range(4)] == [{"do": "x"}, b"\0" * 300_000, b"", {"path": "ü \udcff"}]
    assert not its.heard()


def test_a_frame_may_come_in_pieces(raw):
    ours, there = raw
    for byte in frame(b"J", json.dumps({"a": 1}).encode()) + frame(b".", b"") + frame(b"D", b"xyz"):
        there.sendall(bytes([byte]))

    assert (ours.receive(), ours.receive()) == ({"a": 1}, b"xyz")


def test_an_end_comes_after_what_was_sent_before(ends):
    ours, its = ends
    its.send({"last": True})
    its.close()

    assert ours.receive() == {"last": True}
    for _ in range(2):
        with pytest.raises(Gone, match="closed"):
            ours.receive()
    assert ours.is_over()


def test_sending_to_nobody(raw):
    ours, there = raw
    there.close()

    def send_much():
        for _ in range(1000):
            ours.send_data(bytes(100_000))

    with pytest.raises(Gone):
        send_much()


@pytest.mark.parametrize("said", [b"Traceback (most recent call last):\n", frame(b"J", b"[]"), frame(b"J", b"{"), b"J\xff\xff\xff\xff"])
def test_what_is_no_frame_is_quoted(raw, said):
    ours, there = raw
    there.sendall(said)

    with pytest.raises(UsageError, match="not of this program: it says b'") as caught:
        ours.receive()
    assert "volume-tools image of this version" in caught.value.hint


def test_silence_is_an_end():
    here, there = socket.socketpair()
    with there, contextlib.closing(Channel(SocketWire(here), silence_s=0.05)) as ours:
        with pytest.raises(Gone, match="nothing was heard"):
            ours.receive()
        assert ours.is_over()


def test_who_says_nothing_beats():
    here, there = socket.socketpair()
    with there, contextlib.closing(Channel(SocketWire(here), beat_s=0.01)):
        there.settimeout(60)
        assert there.recv(5, socket.MSG_WAITALL) == frame(b".", b"")


def test_a_beat_is_no_message_and_no_silence(raw):
    ours, there = raw
    there.sendall(frame(b".", b"") * 100 + frame(b"J", b"{}"))
    assert ours.receive() == {}
    assert not ours.is_over()
