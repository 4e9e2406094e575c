"""Engines as processes: real ones, small servers that behave as told, and the simulated engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import pytest

from sla_planner.engines import process
from sla_planner.engines.backend import Backend
from sla_planner.engines.process import ProcessLauncher
from sla_planner.errors import EngineError, UsageError
from sla_planner.model.profile import ParallelMapping
from sla_planner.sweep.port import Capacity, Deployment, Launcher, Phase

TP1 = Deployment(ParallelMapping())
PATIENCE_S = 30.0

SmallEngine = Callable[..., str]


def alive(pid: int) -> bool:
    """Not a zombie either: whoever adopts orphans here may take its time to bury them."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    limit_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < limit_s, "waited in vain"
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def own_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """So that temporary logs can be counted."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    return directory


@pytest.fixture
def port_of_another() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def started(launcher: Launcher, deployment: Deployment = TP1) -> None:
    """Start it and take it away."""

    async def go() -> None:
        async with launcher.engine(deployment):
            pass

    asyncio.run(go())


def failed_start(launcher: Launcher) -> EngineError:
    with pytest.raises(EngineError) as caught:
        started(launcher)
    assert "\n" not in str(caught.value)
    return caught.value


# The command


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("vllm serve x", "no {port}"),
        ("vllm --port {port} --tp {tensor}", "unknown placeholder {tensor}"),
        ("vllm --port {port} --json '{\"level\": 3}'", "unknown placeholder"),
        ("vllm --port {port:5}", "unknown placeholder {port:5}"),
        ("vllm --port {port} }", "brace without its pair"),
        ("vllm --port {port} 'open", "cannot be split"),
        ("  ", "is empty"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_at_once(template: str, problem: str, backend: Backend) -> None:
    with pytest.raises(UsageError) as caught:
        ProcessLauncher(template, backend)
    assert problem in caught.value.message
    if "placeholder" in problem:
        assert "{tp}, {pp}, {dp}, {ep}, {gpus}, {port}, {model}, {phase}" in caught.value.hint


def test_every_placeholder_is_filled(backend: Backend) -> None:
    launcher = ProcessLauncher("run {tp} {pp} {dp} {ep} {gpus} {model} {phase} --at=127.0.0.1:{port}", backend, model="my model")
    deployment = Deployment(ParallelMapping(tp=2, pp=3, dp=4, ep=8), Phase.DECODE)
    name, text = launcher.manifest(deployment)
    assert name == "engine-tp2-pp3-dp4-ep8-decode.sh"
    assert shlex.split(text) == ["run", "2", "3", "4", "8", "24", "my model", "decode", "--at=127.0.0.1:8000"]
    assert text.endswith("\n")
    assert text.count("\n") == 1


def test_a_model_that_is_asked_for_and_not_given_is_an_error(backend: Backend) -> None:
    with pytest.raises(UsageError, match=r"uses \{model\}, but no model is given"):
        ProcessLauncher("vllm serve {model} --port {port}", backend).manifest(TP1)


def test_json_arguments_survive_and_no_shell_reads_the_line(backend: Backend, small_engine: SmallEngine, tmp_path: Path) -> None:
    """The shell line of the manifest, run by a shell, gives the words that the launcher starts."""
    hostile = '{"level": 3, "names": ["a b", "$HOME", "it\'s; `exit`"]}'
    script = "import json, sys; print(json.dumps(sys.argv[1:]))"
    doubled = hostile.replace("{", "{{").replace("}", "}}")
    launcher = ProcessLauncher(f"{shlex.quote(sys.executable)} -c {shlex.quote(script)} --config {shlex.quote(doubled)} {{port}}", backend)
    printed = subprocess.run(["sh", "-c", launcher.manifest(TP1)[1]], capture_output=True, text=True, check=True).stdout
    assert json.loads(printed) == ["--config", hostile, "8000"]
    log_dir = tmp_path / "logs"
    started(ProcessLauncher(small_engine("--say", hostile), backend, log_dir=log_dir))
    assert (log_dir / "engine-tp1.log").read_text() == hostile + "\n"


def test_a_command_over_several_lines_is_one_command(backend: Backend) -> None:
    assert ProcessLauncher("run \\\n  --tp {tp} \\\n  --port {port}\n", backend).manifest(TP1)[1] == "run --tp 1 --port 8000\n"


def test_the_identity_has_no_port_and_differs_by_mapping(backend: Backend) -> None:
    launcher = ProcessLauncher("vllm --tp {tp} --port {port} --url=h:{port}", backend, model="m")
    identity = launcher.identity(TP1)
    assert (identity.backend, identity.model, identity.source) == ("oneline", "m", "vllm --tp 1 --port {port} '--url=h:{port}'")
    assert launcher.identity(Deployment(ParallelMapping(tp=2))).source == "vllm --tp 2 --port {port} '--url=h:{port}'"


def test_a_mapping_that_this_machine_cannot_hold_is_refused(backend: Backend) -> None:
    with pytest.raises(UsageError, match="TP16 needs 16 GPUs, this machine has 8"):
        ProcessLauncher("vllm {port}", backend, gpus_per_node=8).identity(Deployment(ParallelMapping(tp=16)))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("no-such-program-anywhere {port}", "there is no 'no-such-program-anywhere'"),
        ("CUDA_VISIBLE_DEVICES=1 vllm {port}", "write env NAME=VALUE COMMAND"),
        ("$HOME/vllm {port}", "write sh -c"),
    ],
)
def test_a_command_that_does_not_exist(command: str, words: str, backend: Backend) -> None:
    with pytest.raises(UsageError) as caught:
        started(ProcessLauncher(command, backend))
    assert words in str(caught.value)


def test_a_command_that_is_not_executable_or_no_program(backend: Backend, tmp_path: Path) -> None:
    script = tmp_path / "engine.sh"
    script.write_text("no interpreter line, no program\n")
    with pytest.raises(UsageError, match=r"engine\.sh is not executable"):
        started(ProcessLauncher(f"{script} {{port}}", backend))
    script.chmod(0o755)
    assert "Exec format error" in failed_start(ProcessLauncher(f"{script} {{port}}", backend)).message


# A life


def test_an_engine_answers_and_is_gone_after_the_block(
    backend: Backend, small_engine: SmallEngine, tmp_path: Path, own_temporary_directory: Path
) -> None:
    pid_file = tmp_path / "pid"

    async def go() -> None:
        launcher = ProcessLauncher(small_engine("--pid-file", pid_file, "--models", "first,second"), backend)
        async with launcher.engine(TP1) as engine:
            assert engine.url.startswith("http://127.0.0.1:")
            assert engine.model == "first"
            assert await engine.ended() == ""
            assert alive(int(pid_file.read_text()))
        assert not alive(int(pid_file.read_text()))
        assert await engine.ended() == "stopped"

    asyncio.run(go())
    assert list(own_temporary_directory.iterdir()) == []


def test_the_model_that_was_asked_for_is_asked_for(backend: Backend, small_engine: SmallEngine) -> None:
    async def name(model: str) -> str:
        async with ProcessLauncher(small_engine("--models", "first,second"), backend, model=model).engine(TP1) as engine:
            return engine.model

    assert asyncio.run(name("second")) == "second"
    assert asyncio.run(name("/path/of/a/model")) == "first"  # the command has given it a name of its own


def test_a_server_without_a_health_page_is_ready_when_it_lists_a_model(backend: Backend, small_engine: SmallEngine) -> None:
    started(ProcessLauncher(small_engine("--health", 404), backend))


def test_the_simulated_engine(backend: Backend) -> None:
    async def go() -> str:
        command = f"{shlex.quote(sys.executable)} -m sla_planner engine-sim --mode agg --model {{model}} --port {{port}}"
        async with ProcessLauncher(command, backend, model="sim").engine(TP1) as engine:
            return engine.model

    assert asyncio.run(go()) == "sim"


@pytest.mark.parametrize(
    ("arguments", "source"),
    [(("--metrics", "kv_tokens 4711"), "/metrics"), (("--say", "\x1b[32mkv_tokens\x1b[0m 4711"), "log")],
)
def test_the_capacity_is_read_from_the_pages_and_the_log(
    arguments: tuple[str, str], source: str, backend: Backend, small_engine: SmallEngine
) -> None:
    async def go() -> Capacity:
        async with ProcessLauncher(small_engine(*arguments), backend).engine(TP1) as engine:
            return await engine.capacity()

    assert asyncio.run(go()) == Capacity(4711, source)


@pytest.mark.parametrize(
    ("page", "words"),
    [("", "in none of: its log, /metrics (not served)"), ("kv_tokens -5", "says it holds -5 tokens (/metrics)")],
)
def test_a_capacity_that_is_not_told_or_cannot_be(page: str, words: str, backend: Backend, small_engine: SmallEngine) -> None:
    async def go() -> None:
        async with ProcessLauncher(small_engine("--metrics", page, "--say", "hello"), backend).engine(TP1) as engine:
            await engine.capacity()

    with pytest.raises(EngineError) as caught:
        asyncio.run(go())
    assert words in caught.value.message
    assert "--max-kv-tokens" in caught.value.hint


# Deaths


def test_the_end_at_the_start_tells_the_code_the_last_words_and_the_log(backend: Backend, small_engine: SmallEngine, tmp_path: Path) -> None:
    said = "loading\nValueError: max_model_len is too large\n\n/usr/lib/tracker.py: UserWarning: leaked 1 semaphore\n"
    error = failed_start(ProcessLauncher(small_engine("--say", said, "--die-at-start", 3), backend, log_dir=tmp_path))
    assert error.message == "TP1: the engine ended while it started: exit code 3: ValueError: max_model_len is too large"
    assert error.hint == f"its log: {tmp_path / 'engine-tp1.log'}"
    assert error.exit_code == 2


def test_the_log_of_a_failure_stays_though_nobody_asked_for_logs(backend: Backend, small_engine: SmallEngine, own_temporary_directory: Path) -> None:
    error = failed_start(ProcessLauncher(small_engine("--say", "no such weights", "--die-at-start", 1), backend))
    (log,) = own_temporary_directory.iterdir()
    assert error.hint == f"its log: {log}"
    assert log.read_text() == "no such weights\n"


def test_a_failure_that_the_backend_knows_is_told_in_its_words(backend: Backend, small_engine: SmallEngine) -> None:
    error = failed_start(ProcessLauncher(small_engine("--say", "torch.OutOfMemoryError: CUDA out of memory", "--die-at-start", 1), backend))
    assert error.message.endswith("exit code 1: out of GPU memory")
    assert error.hint.startswith("take more GPUs; its log: ")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-9, "killed by signal 9, probably out of memory"),
        (-11, "ended by signal 11 (SIGSEGV)"),
        (137, "exit code 137: killed by signal 9, probably out of memory"),
        (0, "exit code 0"),
    ],
)
def test_how_it_ended_in_words(code: int, words: str, backend: Backend, small_engine: SmallEngine) -> None:
    error = failed_start(ProcessLauncher(small_engine(f"--die-at-start={code}", "--say", "almost there"), backend))
    assert error.message == f"TP1: the engine ended while it started: {words}: almost there"


def test_an_end_after_ready_is_known_to_the_next_who_asks(backend: Backend, small_engine: SmallEngine, own_temporary_directory: Path) -> None:
    async def go() -> str:
        async with ProcessLauncher(small_engine("--crash-on", "/v1/completions"), backend).engine(TP1) as engine, aiohttp.ClientSession() as session:
            assert await engine.ended() == ""
            with pytest.raises(aiohttp.ClientError):
                await session.post(f"{engine.url}/v1/completions")
            return await engine.ended()

    assert asyncio.run(go()) == "exit code 7: RuntimeError: the last words of the engine"
    assert len(list(own_temporary_directory.iterdir())) == 1


def test_never_ready_ends_at_the_limit_with_the_last_line(backend: Backend, small_engine: SmallEngine, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    arguments = ("--health", 503, "--say", "loading 17%\rloading 18%", "--pid-file", pid_file)
    error = failed_start(ProcessLauncher(small_engine(*arguments), backend, ready_limit_s=0.7))
    assert "is not ready within 0.7 s: " in error.message
    assert error.message.endswith("last line of its log: loading 18%")
    assert not pid_file.exists() or not alive(int(pid_file.read_text()))


def test_a_fatal_error_and_then_silence_is_not_waited_for(backend: Backend, small_engine: SmallEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STALLED_S", 0.1)
    error = failed_start(ProcessLauncher(small_engine("--health", 503, "--say", "torch.OutOfMemoryError"), backend))
    assert "hangs after an error: out of GPU memory" in error.message


def test_a_server_that_refuses_to_list_its_models_is_given_up(backend: Backend, small_engine: SmallEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sla_planner.engines.readiness.REFUSED_S", 0.1)
    error = failed_start(ProcessLauncher(small_engine("--models-status", 401, "--models", ""), backend))
    assert "will not become ready: /v1/models answers HTTP 401" in error.message


# Ports


def test_a_taken_port_is_another_start(
    backend: Backend, small_engine: SmallEngine, port_of_another: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first port that is drawn belongs to somebody else, who took it after we looked and lets our questions hang."""
    draw = process._free_port
    draws = iter([port_of_another])
    monkeypatch.setattr(process, "_free_port", lambda: next(draws, None) or draw())
    started(ProcessLauncher(small_engine(), backend, log_dir=tmp_path))
    assert "already in use" in (tmp_path / "engine-tp1.log").read_text()
    assert (tmp_path / "engine-tp1-2.log").read_text() == ""


def test_a_port_that_is_always_taken_is_an_error_that_a_retry_may_cure(backend: Backend, small_engine: SmallEngine, port_of_another: int) -> None:
    error = failed_start(ProcessLauncher(small_engine("--say", "PORT", port=str(port_of_another)).replace("PORT", "{port}"), backend))
    assert "already in use" in error.message
    assert "3 starts" in error.message
    assert error.exit_code == 4


def test_two_engines_at_once_have_their_own_ports_and_logs(backend: Backend, small_engine: SmallEngine, tmp_path: Path) -> None:
    async def go() -> None:
        launcher = ProcessLauncher(small_engine(), backend, log_dir=tmp_path)
        async with launcher.engine(TP1) as one, launcher.engine(TP1) as other:
            assert one.url != other.url

    asyncio.run(go())
    assert sorted(file.name for file in tmp_path.glob("*.log")) == ["engine-tp1-2.log", "engine-tp1.log"]


# Nothing stays


def test_workers_in_and_out_of_the_group_go_too_and_stubborn_ones_are_killed(
    backend: Backend, small_engine: SmallEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "STOP_GRACE_S", 0.1)
    files = [tmp_path / name for name in ("engine", "child", "escaped")]
    started(ProcessLauncher(small_engine("--ignore-term", "--pid-file", files[0], "--child", files[1], "--escaped-child", files[2]), backend))
    assert [alive(int(file.read_text())) for file in files] == [False] * 3


def test_what_a_dead_engine_leaves_behind_goes_too(backend: Backend, small_engine: SmallEngine, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("child", "escaped")]
    failed_start(ProcessLauncher(small_engine("--child", files[0], "--escaped-child", files[1], "--die-at-start", 1), backend))
    assert [alive(int(file.read_text())) for file in files] == [False] * 2


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt()])
def test_an_exception_in_the_block_passes_through_and_the_engine_is_gone(
    error: BaseException, backend: Backend, small_engine: SmallEngine, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"

    async def go() -> None:
        async with ProcessLauncher(small_engine("--pid-file", pid_file), backend).engine(TP1):
            raise error

    with pytest.raises(type(error)):
        asyncio.run(go())
    assert not alive(int(pid_file.read_text()))


def test_cancelled_while_it_waits_the_engine_is_gone(backend: Backend, small_engine: SmallEngine, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"

    async def go() -> None:
        launcher = ProcessLauncher(small_engine("--health", 503, "--pid-file", pid_file), backend)
        async with asyncio.timeout(PATIENCE_S):
            task = asyncio.create_task(launcher.engine(TP1).__aenter__())
            while not (pid_file.exists() and pid_file.read_text()):
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert not alive(int(pid_file.read_text()))

    asyncio.run(go())


def test_cancelled_while_it_stops_the_engine_is_killed(backend: Backend, small_engine: SmallEngine, tmp_path: Path) -> None:
    """A second Ctrl-C: 20 s of grace would be left to an engine that ignores SIGTERM."""
    pid_file = tmp_path / "pid"

    async def go() -> None:
        launcher = ProcessLauncher(small_engine("--ignore-term", "--pid-file", pid_file), backend)
        context = launcher.engine(TP1)
        engine = await context.__aenter__()
        task = asyncio.create_task(context.__aexit__(None, None, None))
        while not await engine.ended():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not alive(int(pid_file.read_text()))

    asyncio.run(go())


PARENT = """
import asyncio, pathlib, sys
from sla_planner.engines.process import ProcessLauncher
from sla_planner.model.profile import ParallelMapping
from sla_planner.sweep.port import Deployment

class Backend:
    name, pages, families = "none", (), ()
    def failure(self, log):
        return None

async def go():
    async with ProcessLauncher(sys.argv[1], Backend()).engine(Deployment(ParallelMapping())) as engine:
        print(engine._guard.pid, flush=True)
        await asyncio.Event().wait()

asyncio.run(go())
"""


@contextlib.contextmanager
def parent_of(command: str, temporary: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another Python that holds an engine, and the process id of the guard."""
    environment = os.environ | {"TMPDIR": str(temporary)}
    with subprocess.Popen([sys.executable, "-c", PARENT, command], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        try:
            assert parent.stdout is not None
            yield parent, int(parent.stdout.readline())
        finally:
            parent.kill()


def test_the_engine_does_not_outlive_a_killed_launcher(small_engine: SmallEngine, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("engine", "escaped")]
    with parent_of(small_engine("--pid-file", files[0], "--escaped-child", files[1]), tmp_path) as (parent, guard_pid):
        pids = [guard_pid, *(int(file.read_text()) for file in files)]
        assert all(map(alive, pids))
        os.kill(parent.pid, signal.SIGKILL)
        wait_until(lambda: not any(map(alive, pids)))


def test_the_engine_does_not_outlive_a_killed_guard(small_engine: SmallEngine, tmp_path: Path) -> None:
    pid_file = tmp_path / "engine"
    with parent_of(small_engine("--pid-file", pid_file), tmp_path) as (_, guard_pid):
        os.kill(guard_pid, signal.SIGKILL)
        wait_until(lambda: not alive(int(pid_file.read_text())))
