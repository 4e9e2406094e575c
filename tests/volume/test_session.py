"""Uploads and downloads over connections that break."""

from __future__ import annotations

import os

import pytest

from sla_planner.errors import UnreachableError, UsageError
from sla_planner.volume.agent import open_local
from sla_planner.volume.frames import SILENCE_S
from sla_planner.volume.session import PAUSES_S, over_connections
from sla_planner.volume.upload import Source, upload

from .conftest import CutWire

CONTENT = os.urandom(30_000_000)
NOW = (0.0,) * 3


@pytest.fixture
def told():
    return []


@pytest.fixture
def sending(volume, progress, told):
    """Uploads over connections that break after so many bytes each; `None`: the next one does not come up."""

    def send(*after_bytes, pauses_s=NOW, source=CONTENT):
        left = list(after_bytes)

        def connect():
            after = left.pop(0) if left else 10**12
            if after is None:
                raise UnreachableError("the API does not answer")
            return CutWire(open_local(volume), after)

        done = over_connections(
            connect, lambda client: upload(client, Source(source), "a", force=False, progress=progress), progress, told.append, pauses_s
        )
        return done, left

    return send


def test_it_goes_on_where_it_stopped(sending, volume, progress, told):
    done, _ = sending(12_000_000, 12_000_000)
    assert (done.became, done.size) == ("new", 30_000_000)
    assert (volume / "a").read_bytes() == CONTENT
    assert progress.moved_bytes <= 30_000_000
    assert len(told) == 2
    assert told[0].startswith("the connection to the volume is lost (the connection broke (cut)), ")
    assert told[0].endswith(" MB are through; trying again")


def test_attempts_that_move_something_do_not_count(sending):
    done, left = sending(*[11_000_000, None, None] * 3)
    assert (done.became, left) == ("new", [])


def test_when_nothing_moves_any_more_it_gives_up(sending, told):
    with pytest.raises(UnreachableError) as caught:
        sending(12_000_000, None, None, None)
    assert str(caught.value) == "the connection to the volume is lost: the API does not answer; the same command goes on from here"
    assert caught.value.exit_code == 4
    assert len(told) == len(NOW)


def test_where_there_never_was_a_connection_it_gives_up_soon_and_quietly(sending, told):
    with pytest.raises(UnreachableError, match="no connection to the volume: the API does not answer"):
        sending(None, None, None)
    assert told == []


def test_a_refusal_is_not_tried_again(sending, volume, told):
    (volume / "a").write_text("other")
    with pytest.raises(UsageError, match="is there with other content"):
        sending()
    assert told == []


def test_a_keeper_waits_longer_than_we_do():
    from sla_planner.stages.volume_access import ALONE_S

    assert sum(PAUSES_S) + SILENCE_S < ALONE_S


def test_a_source_that_cannot_be_read(sending, tmp_path):
    with pytest.raises(UsageError, match=f"file {tmp_path}/nope: No such file or directory; check the path"):
        sending(source=tmp_path / "nope")


def test_a_file_is_sent_as_bytes_are(sending, volume, tmp_path):
    (tmp_path / "source").write_bytes(CONTENT)
    done, _ = sending(12_000_000, source=tmp_path / "source")
    assert done.became == "new"
    assert (volume / "a").read_bytes() == CONTENT
