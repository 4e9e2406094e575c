"""A program in a pod, and the bytes to and from it: over a real websocket, with real programs behind it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import socket
import sys
import threading

import pytest

from sla_planner.cluster.api import NotFound
from sla_planner.cluster.exec_stream import exec_in
from sla_planner.cluster.exec_stream_socket import SharedSocket
from sla_planner.errors import ForbiddenError, UnreachableError, UsageError

from .exec_stand_in import STATUS, STDOUT, exec_stand_in


@pytest.fixture
def pods():
    with exec_stand_in() as stand_in:
        yield stand_in


@pytest.fixture
def run(pods):
    """Starts a program; its stream is ended in the end."""
    with contextlib.ExitStack() as stack:

        def start(*command):
            stream = exec_in(pods.api(), "a-pod", "volume", command)
            stack.callback(stream.release)
            stack.callback(stream.close)
            return stream

        yield start


def python(code):
    return (sys.executable, "-c", code)


def without_end(action):
    while True:
        action()


def all_of(stream):
    read = b""
    while data := stream.read():
        read += data
    return read


class TestStream:
    def test_what_a_program_says_and_that_it_has_ended_well(self, run, pods):
        assert all_of(run(*python("import sys; sys.stderr.write('a warning'); print('hello')"))) == b"hello\n"
        (request,) = pods.asked
        assert request.path == "/api/v1/namespaces/here/pods/a-pod/exec"
        assert (request.query["container"], request.query["stdin"], request.query["stdout"]) == ("volume", "true", "true")
        assert request.headers["Authorization"] == "Bearer a-token"
        assert request.headers["Sec-WebSocket-Protocol"] == "v5.channel.k8s.io,v4.channel.k8s.io"

    def test_both_directions_at_once(self, run):
        """More than any buffer between holds, so both have to flow."""
        content = os.urandom(20_000_000)
        stream = run(*python("import os\nwhile data := os.read(0, 65536): os.write(1, data)"))
        writer = threading.Thread(target=lambda: [stream.write(content[start : start + 300_000]) for start in range(0, len(content), 300_000)])
        writer.start()
        back, size = hashlib.sha256(), 0
        while size < len(content):
            data = stream.read()
            back.update(data)
            size += len(data)
        writer.join()
        assert back.digest() == hashlib.sha256(content).digest()

    def test_closing_ends_the_stdin_of_the_program_and_a_read_that_waits(self, run, tmp_path):
        os.mkfifo(tmp_path / "ended")
        stream = run(*python(f"import os, sys; os.write(1, b'up'); sys.stdin.read(); open({str(tmp_path / 'ended')!r}, 'w').write('ended')"))
        assert stream.read() == b"up"
        read = []
        reader = threading.Thread(target=lambda: read.append(stream.read()))
        reader.start()
        stream.close()
        reader.join(60)
        assert read == [b""]
        assert (tmp_path / "ended").read_text() == "ended"


class TestEnds:
    def test_a_program_that_fails_is_quoted(self, run):
        stream = run(*python("import nothing_of_that_name"))
        with pytest.raises(UsageError) as caught:
            all_of(stream)
        assert str(caught.value) == (
            "the program in the pod failed: ModuleNotFoundError: No module named 'nothing_of_that_name'; "
            "is --access-image the volume-tools image of this version?"
        )

    def test_a_program_that_is_killed_may_be_tried_again(self, run):
        with pytest.raises(UnreachableError, match=r"the program in the pod was ended \(command terminated .* exit code 137\); try again"):
            all_of(run(*python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")))

    @pytest.mark.parametrize(
        ("status", "error", "said"),
        [
            (
                b'{"status": "Failure", "message": "OCI runtime exec failed: exec: \\"python\\": executable file not found in $PATH"}',
                UsageError,
                'the program in the pod failed: OCI runtime exec failed: exec: "python": executable file not found in $PATH',
            ),
            (
                b'{"status": "Failure", "message": "error dialing backend"}',
                UnreachableError,
                "the program in the pod was ended (error dialing backend)",
            ),
            (b"not JSON", UnreachableError, "the program in the pod was ended (not JSON)"),
        ],
    )
    def test_what_a_kubelet_says_is_told(self, pods, run, status, error, said):
        async def end(connection, _command):
            await connection.send_bytes(STATUS + status)
            await connection.close()

        pods.behaviour = end
        with pytest.raises(error) as caught:
            run("x").read()
        assert caught.value.message == said

    def test_a_connection_that_breaks(self, pods, run):
        async def cut(connection, _command):
            await connection.send_bytes(STDOUT + b"half")
            connection._req.transport.abort()
            await asyncio.sleep(0)

        pods.behaviour = cut
        stream = run("x")
        assert stream.read() == b"half"
        with pytest.raises(UnreachableError, match="the connection to the pod broke"):
            stream.read()
        with pytest.raises(UnreachableError, match="the connection to the pod broke"):
            without_end(lambda: stream.write(bytes(100_000)))

    @pytest.mark.parametrize(
        ("status", "message", "error", "said"),
        [
            (
                403,
                'pods "a-pod" is forbidden: User "jo" cannot create resource "pods/exec" in API group "" in the namespace "here"',
                ForbiddenError,
                'no exec into pod a-pod: pods "a-pod" is forbidden: User "jo" cannot create resource "pods/exec" in API group "" in the namespace '
                '"here"; grant get and create on pods/exec',
            ),
            (404, 'pods "a-pod" not found', NotFound, 'pods "a-pod" not found'),
            (500, 'container not found ("volume")', UnreachableError, 'no exec into pod a-pod: container not found ("volume"); try again'),
            (400, "container x is not valid", UsageError, "no exec into pod a-pod: container x is not valid"),
        ],
    )
    def test_an_exec_that_is_refused(self, pods, run, status, message, error, said):
        pods.refuse = (status, message)
        with pytest.raises(error) as caught:
            run("x")
        assert str(caught.value) == said

    def test_an_api_that_is_not_there(self, pods):
        api = pods.api()
        with socket.create_server(("127.0.0.1", 0)) as closed:
            api.configuration.host = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(
            UnreachableError, match=r"the Kubernetes API at http://127.0.0.1:\d+ does not answer \(.*refused.*\); check the connection"
        ):
            exec_in(api, "a-pod", "volume", ["x"])


class TestSharedSocket:
    @pytest.fixture
    def ends(self):
        here, there = socket.socketpair()
        with there, contextlib.closing(SharedSocket(here, 60)) as shared:
            yield shared, there

    def test_a_reader_that_waits_does_not_hold_a_writer(self, ends):
        shared, there = ends
        read = []
        reader = threading.Thread(target=lambda: read.append(shared.recv(10)))
        reader.start()
        assert shared.send(b"ping") == 4
        assert there.recv(10) == b"ping"
        there.sendall(b"pong")
        reader.join(60)
        assert read == [b"pong"]

    def test_when_nothing_moves_it_gives_up(self):
        here, there = socket.socketpair()
        with there, contextlib.closing(SharedSocket(here, 0.01)) as shared:
            with pytest.raises(TimeoutError, match="nothing moved for 0 s"):
                shared.recv(1)
            with pytest.raises(TimeoutError):
                without_end(lambda: shared.send(bytes(100_000)))

    def test_a_closed_one_says_so(self, ends):
        shared, _ = ends
        shared.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            shared.recv(1)


def test_files_go_through_an_exec(pods, tmp_path):
    """The whole of it: a real agent behind the websocket, as in an access pod."""
    from sla_planner.volume.client import Upload, VolumeClient
    from sla_planner.volume.progress import TransferProgress

    content = os.urandom(10_000_000)
    stream = exec_in(pods.api(), "a-pod", "volume", (sys.executable, "-m", "sla_planner.volume.agent", str(tmp_path)))
    with contextlib.closing(VolumeClient(stream, TransferProgress(lambda _: None))) as client:
        assert client.put(Upload("a/b", len(content), hashlib.sha256(content).hexdigest()), io.BytesIO(content)) == "new"
        (found,) = client.listing("", configs=True).files
    assert (tmp_path / "a/b").read_bytes() == content
    assert (found.path, found.size) == ("a/b", 10_000_000)
