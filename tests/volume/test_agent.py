"""What an agent does for its client, as the program that runs in an access pod; and the keeper that ends the pod."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import signal
import socket
import subprocess
import sys

import pytest

from sla_planner.errors import UsageError
from sla_planner.volume.client import Upload, VolumeClient, Want
from sla_planner.volume.frames import PROTOCOL, Channel, SocketWire
from sla_planner.volume.keeper import address_of
from sla_planner.volume.tree import Full, LeftOut

PATIENCE_S = 60.0


def sha(data):
    return hashlib.sha256(data).hexdigest()


class Received:
    """Takes what `fetch` brings."""

    def __init__(self):
        self.files, self.starts, self.troubles, self.changed = {}, {}, {}, set()

    def begin(self, file, start):
        self._path = file.path
        self.files[file.path], self.starts[file.path] = b"", start

    def data(self, data):
        self.files[self._path] += data

    def end(self, sha256, *, changed):
        self.sums = {**getattr(self, "sums", {}), self._path: sha256}
        if changed:
            self.changed.add(self._path)

    def failed(self, path, error):
        self.troubles[path] = str(error)


@pytest.fixture
def remote(program, progress):
    """A session with the program."""
    with contextlib.closing(VolumeClient(program().wire, progress)) as client:
        yield client


def put(client, path, content, *, force=False):
    return client.put(Upload(path, len(content), sha(content), force), io.BytesIO(content))


class TestAsked:
    def test_for_a_list(self, remote, volume):
        (volume / "a").write_text("abc")
        (volume / "b.yaml").touch()
        (volume / "out").symlink_to("/etc/passwd")
        found = remote.listing("", configs=False)
        assert [(file.path, file.size) for file in found.files] == [("a", 3)]
        assert found.left_out == (LeftOut("out", "a link that leads out of /data"),)

    def test_for_a_list_of_many(self, remote, volume):
        for number in range(1203):
            (volume / f"{number:04}").touch()
        assert [file.path for file in remote.listing("", configs=True).files] == [f"{number:04}" for number in range(1203)]

    @pytest.mark.parametrize(
        ("folder", "said"),
        [
            ("nope", "there is no /data/nope on the volume; /data holds profile, runs/"),
            ("runs/a/b", "there is no /data/runs/a/b on the volume; /data/runs holds nothing yet"),
            ("profile", "/data/profile is a file; name the folder that it lies in"),
            ("out", "/data/out leads out of /data (to /etc); name a path that stays inside"),
        ],
    )
    def test_for_a_folder_that_is_none(self, remote, volume, folder, said):
        (volume / "profile").touch()
        (volume / "runs").mkdir()
        if folder == "out":
            (volume / "out").symlink_to("/etc")
        with pytest.raises(UsageError) as caught:
            remote.listing(folder, configs=True)
        assert str(caught.value) == said
        assert remote.free_bytes() > 0  # the session goes on

    @pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x"])
    def test_for_a_path_elsewhere(self, remote, volume, path):
        for ask in (lambda: remote.listing(path, configs=True), lambda: list(remote.digests([path])), lambda: put(remote, path, b"x")):
            with pytest.raises(UsageError, match="the other side names a file"):
                ask()
        assert list(volume.parent.glob("x")) == []

    def test_for_checksums(self, remote, volume):
        (volume / "a").write_bytes(b"abc")
        (volume / "empty").touch()
        assert list(remote.digests(["a", "empty"])) == [("a", 3, sha(b"abc")), ("empty", 0, sha(b""))]

    def test_for_files(self, remote, volume):
        big = os.urandom(1_500_000)
        (volume / "sub").mkdir()
        (volume / "sub/big").write_bytes(big)
        (volume / "empty").touch()
        got = Received()
        remote.fetch([Want("sub/big"), Want("nope"), Want("empty")], got)
        assert got.files == {"sub/big": big, "empty": b""}
        assert got.sums == {"sub/big": sha(big), "empty": sha(b"")}
        assert got.troubles == {"nope": "/data/nope is not there; it was removed or replaced while it was looked at: try again"}

    @pytest.mark.parametrize(("offset", "of", "start"), [(3, b"abc", 3), (6, b"abcdef", 6), (3, b"abX", 0), (9, b"abcdefghi", 0)])
    def test_for_the_rest_of_a_file(self, remote, volume, offset, of, start):
        (volume / "a").write_bytes(b"abcdef")
        got = Received()
        remote.fetch([Want("a", offset, sha(of))], got)
        assert (got.starts, got.files) == ({"a": start}, {"a": b"abcdef"[start:]})
        assert got.sums == {"a": sha(b"abcdef")}

    def test_to_put_a_file(self, remote, volume):
        content = os.urandom(20_000_000)  # more than goes unacknowledged
        assert put(remote, "a/b", content) == "new"
        assert (volume / "a/b").read_bytes() == content
        assert put(remote, "a/b", content) == "same"
        with pytest.raises(UsageError) as caught:
            put(remote, "a/b", b"other")
        assert str(caught.value) == "/data/a/b is there with other content; add --force to replace it, or choose another --dest"
        assert (volume / "a/b").read_bytes() == content
        assert put(remote, "a/b", b"other", force=True) == "replaced"
        assert (volume / "a/b").read_bytes() == b"other"

    def test_to_put_an_empty_file(self, remote, volume):
        assert put(remote, "a", b"") == "new"
        assert (volume / "a").read_bytes() == b""

    def test_to_put_a_file_where_a_folder_is(self, remote, volume):
        (volume / "a").mkdir()
        with pytest.raises(UsageError, match="/data/a is a folder; name a file"):
            put(remote, "a", b"x", force=True)

    def test_to_put_a_file_that_changes_meanwhile(self, remote, volume):
        with pytest.raises(UsageError, match="/data/a did not arrive as it was sent; was the source changed meanwhile"):
            remote.put(Upload("a", 3, sha(b"abc")), io.BytesIO(b"abX"))
        with pytest.raises(UsageError, match="did not arrive"):
            remote.put(Upload("a", 3, sha(b"abc")), io.BytesIO(b"a"))
        assert list(volume.iterdir()) == []

    def test_to_put_more_than_there_is_room_for(self, remote, volume):
        size = remote.free_bytes() + 10**12
        with pytest.raises(
            Full, match=r"the volume has no room for /data/a: [\d,]{16,} bytes more are needed; free some of it, or enlarge the claim"
        ):
            remote.put(Upload("a", size, sha(b"")), io.BytesIO(b""))
        assert list(volume.iterdir()) == []

    def test_to_go_on_with_what_is_there_of_it(self, remote, volume):
        (volume / ".a.part").write_bytes(b"abc")
        assert put(remote, "a", b"abcdef") == "new"
        (volume / ".b.part").write_bytes(b"something else, and longer")
        assert put(remote, "b", b"abcdef") == "new"
        assert {each.name: each.read_bytes() for each in volume.iterdir()} == {"a": b"abcdef", "b": b"abcdef"}

    def test_what_is_written_is_for_the_group_too(self, remote, volume):
        put(remote, "a/b", b"x")
        assert ((volume / "a").stat().st_mode & 0o777, (volume / "a/b").stat().st_mode & 0o777) == (0o775, 0o664)


class TestAnotherAgent:
    """That says what ours never would."""

    @pytest.fixture
    def other(self, progress):
        here, there = socket.socketpair()
        with contextlib.closing(Channel(SocketWire(there))) as agent:
            agent.send({"protocol": PROTOCOL, "version": "x"})
            with contextlib.closing(VolumeClient(SocketWire(here), progress)) as client:
                yield agent, client

    def test_of_another_protocol(self, progress):
        here, there = socket.socketpair()
        with contextlib.closing(Channel(SocketWire(there))) as agent:
            agent.send({"protocol": PROTOCOL + 1, "version": "9.9"})
            with pytest.raises(UsageError) as caught:
                VolumeClient(SocketWire(here), progress)
        told = f"the other side (version 9.9) speaks protocol {PROTOCOL + 1}, this one {PROTOCOL}; use the volume-tools image of this version"
        assert str(caught.value) == told

    @pytest.mark.parametrize("path", ["../../.ssh/authorized_keys", "/etc/passwd", "results", "resultsX/etc/passwd", "results/../x"])
    def test_that_names_files_elsewhere(self, other, path):
        agent, client = other
        agent.send({"files": [[path, 1, 0.0]]})
        with pytest.raises(UsageError, match="nothing was written there"):
            client.listing("results", configs=True)

    def test_that_sends_another_file_than_was_asked_for(self, other):
        agent, client = other
        agent.send({"file": "b", "size": 1, "from": 0, "mtime_s": 0.0})
        got = Received()
        with pytest.raises(UsageError, match="says what was not asked for"):
            client.fetch([Want("a")], got)
        assert got.files == {}

    def test_that_sends_more_than_it_said(self, other):
        agent, client = other
        agent.send({"file": "a", "size": 1, "from": 0, "mtime_s": 0.0})
        agent.send_data(b"xy")
        with pytest.raises(UsageError, match="says what was not asked for"):
            client.fetch([Want("a")], Received())


class TestProgram:
    def test_it_ends_with_its_client(self, program, progress):
        agent = program()
        VolumeClient(agent.wire, progress).close()
        assert agent.process.wait(PATIENCE_S) == 0

    def test_it_ends_when_nobody_reads_what_it_sends(self, program, volume):
        with (volume / "big").open("wb") as file:
            file.truncate(50_000_000)
        agent = program()
        channel = Channel(agent.wire)
        channel.receive()
        channel.send({"do": "get", "files": [["big", 0, ""]]})
        channel.close()  # its listener takes no more than what waits, so the pipe stays full
        assert agent.process.wait(PATIENCE_S) == 0

    def test_it_imports_the_standard_library_only(self):
        code = "import sys, sla_planner.volume.agent; print([name for name in sys.modules if name.partition('.')[0] not in sys.stdlib_module_names])"
        done = subprocess.run([sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, 'scripts'); {code}"], capture_output=True, text=True)
        foreign = {name.partition(".")[0] for name in eval(done.stdout)}
        assert foreign - {"__main__", "sla_planner"} == set(), done.stderr


class TestKeeper:
    @pytest.fixture
    def keeper(self, tmp_path):
        """Starts keepers with so much patience; returns process and name."""
        started = []

        def start(grace_s):
            name = f"keeper-{len(started)}-of-{tmp_path.name}-{os.getpid()}"
            command = [sys.executable, "-m", "sla_planner.volume.keeper", name, str(grace_s)]
            started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            return started[-1], name

        yield start
        for process in started:
            process.kill()
            process.communicate()

    def test_it_ends_when_nobody_comes(self, keeper):
        process, _ = keeper(0.05)
        said, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
        assert said == "The volume is at hand; this pod ends 0.05 s after its last client\n"

    def test_it_stays_while_somebody_is_connected(self, keeper):
        process, name = keeper(1.5)
        assert process.stdout.readline()
        with socket.socket(socket.AF_UNIX) as agent:
            agent.connect(address_of(name))
            other, _ = keeper(1.5)
            assert other.wait(PATIENCE_S) == 0  # so its time is over
            assert process.poll() is None
        assert process.wait(PATIENCE_S) == 0

    def test_an_agent_is_connected_while_it_lives_however_it_ends(self, volume, tmp_path):
        name = f"keeper-of-{tmp_path.name}-{os.getpid()}"
        with socket.socket(socket.AF_UNIX) as keeper:
            keeper.bind(address_of(name))
            keeper.listen()
            keeper.settimeout(PATIENCE_S)
            command = [sys.executable, "-m", "sla_planner.volume.agent", str(volume), name]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as agent:
                connection, _ = keeper.accept()
                with connection:
                    connection.settimeout(PATIENCE_S)
                    assert agent.stdout.read(1) == b"J"  # it has begun to serve
                    agent.send_signal(signal.SIGKILL)
                    assert connection.recv(1) == b""

    def test_it_ends_at_once_when_told_to(self, keeper):
        process, _ = keeper(1000)
        assert process.stdout.readline()
        process.terminate()
        assert process.wait(PATIENCE_S) == 0

    def test_its_door_is_no_file(self):
        assert address_of("x").startswith("\0")
