"""Engines that a host starts: a host that the test plays, and a small server where its Service leads to."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sla_planner.engines import hosted as module
from sla_planner.engines.backend import Backend
from sla_planner.engines.hosted import HostedLauncher, manifest_file, shown_name
from sla_planner.errors import EngineError, ForbiddenError, UnreachableError
from sla_planner.model.profile import ParallelMapping
from sla_planner.sweep.host import Manifests, Outlook, Trouble
from sla_planner.sweep.port import Capacity, Deployment, Phase

TP4 = Deployment(ParallelMapping(tp=4))
FOREVER = float("inf")
BUSY = Trouble("in use", "waiting for what others use: 2 Insufficient nvidia.com/gpu", "lower --max-num-gpus", patience_s=FOREVER)
CRASH = Trouble("crash", "the container main ended: exit code 1", patience_s=FOREVER, crashed=True, log="loading\nRuntimeError: no such file\n")


@dataclass
class PlayedEngine:
    """A `HostedEngine` whose state the test sets. `removed`: how it was asked to."""

    manifests: Manifests
    outlook: Outlook = field(default_factory=Outlook)
    end: Trouble | None = None
    said: str = ""
    removed: list[bool] = field(default_factory=list)
    settled_at: str | None = None
    fault: Exception | None = None
    looked: threading.Event = field(default_factory=threading.Event)
    asked_of_end: int = 0
    end_after: int = 0

    def look(self) -> Outlook:
        self.looked.set()
        if self.fault:
            raise self.fault
        return self.outlook

    def settled(self) -> None:
        self.settled_at = self.outlook.url

    def ended(self) -> Trouble | None:
        self.asked_of_end += 1
        return self.end if self.asked_of_end > self.end_after else None

    def log(self) -> str:
        return self.said

    def remove(self, *, wait: bool) -> None:
        self.removed.append(wait)


@dataclass
class PlayedHost:
    """A `Host`. `begin`: the state of the next engine."""

    begin: Callable[[PlayedEngine], None]
    refusal: Exception | None = None
    engines: list[PlayedEngine] = field(default_factory=list)
    may_start: threading.Event = field(default_factory=threading.Event)
    starting: threading.Event = field(default_factory=threading.Event)

    def new_name(self, stem: str) -> str:
        return f"sweep-1-{stem}"

    def start(self, manifests: Manifests) -> PlayedEngine:
        self.starting.set()
        self.may_start.wait(20)
        if self.refusal:
            raise self.refusal
        engine = PlayedEngine(manifests)
        self.begin(engine)
        self.engines.append(engine)
        return engine


class OneRecipe:
    image = "reg/engine:1"

    def manifests(self, deployment: Deployment, name: str) -> Manifests:
        return Manifests(name, ({"kind": "Deployment", "tp": deployment.mapping.tp},), f"engine={name}", name)

    def text(self, deployment: Deployment) -> tuple[str, str]:
        return manifest_file(deployment), f"name: {shown_name(deployment)}\n"


@contextlib.contextmanager
def server(page: str = "", models: str = '{"data": [{"id": "small"}, {"id": "large"}]}') -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = {"/health": "", "/v1/models": models}.get(self.path, page).encode()
            self.send_response(200 if body or self.path == "/health" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    serving = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{serving.server_port}"
    finally:
        serving.shutdown()
        serving.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOOK_EVERY_S", "_ASK_EVERY_S"):
        monkeypatch.setattr(module, name, 0.01)
    for name in ("TOLD_WITHIN_S", "GONE_WITHIN_S"):
        monkeypatch.setattr(module, name, 0.2)
    monkeypatch.setattr(module, "SAID_AFTER_S", 0.0)


@pytest.fixture
def launcher(backend: Backend, tmp_path: Path) -> Callable[..., HostedLauncher]:
    def made(begin: Callable[[PlayedEngine], None] = lambda _: None, **more: object) -> HostedLauncher:
        host = PlayedHost(begin)
        host.may_start.set()
        return HostedLauncher(OneRecipe(), host, backend, log_dir=tmp_path / "logs", **more)  # type: ignore[arg-type]

    return made


def at(url: str, **more: object) -> Callable[[PlayedEngine], None]:
    """Answers at `url`."""

    def begin(engine: PlayedEngine) -> None:
        engine.outlook = Outlook(url, **more)  # type: ignore[arg-type]

    return begin


def in_trouble(trouble: Trouble, said: str = "") -> Callable[[PlayedEngine], None]:
    def begin(engine: PlayedEngine) -> None:
        engine.outlook, engine.said = Outlook(trouble=trouble), said

    return begin


def failed_start(launcher: HostedLauncher) -> EngineError:
    """Its error; whatever was started is gone."""

    async def go() -> None:
        async with launcher.engine(TP4):
            raise AssertionError

    with pytest.raises(EngineError) as caught:
        asyncio.run(go())
    assert all(engine.removed for engine in launcher.host.engines)  # type: ignore[attr-defined]
    return caught.value


# a life


def test_it_is_started_used_and_removed(launcher: Callable[..., HostedLauncher], tmp_path: Path) -> None:
    async def go(url: str) -> None:
        started = launcher(at(url), model="large")
        async with started.engine(TP4) as engine:
            (played,) = started.host.engines  # type: ignore[attr-defined]
            assert (engine.url, engine.model) == (url, "large")
            assert played.manifests.name == "sweep-1-tp4"
            assert played.settled_at == url
            assert await engine.ended() == ""
            assert played.removed == []
            played.said = "last words"
        assert played.removed == [True]
        assert (tmp_path / "logs" / "engine-tp4.log").read_text() == "last words"

    with server() as url:
        asyncio.run(go(url))


def test_its_identity_does_not_change_from_start_to_start(launcher: Callable[..., HostedLauncher]) -> None:
    one, phase = launcher(), Deployment(TP4.mapping, Phase.PREFILL)
    assert one.identity(TP4) == launcher().identity(TP4) != one.identity(phase)
    assert one.identity(TP4).source == one.manifest(TP4)[1] == "name: engine-4gpus-tp4\n"
    assert one.identity(TP4).image == "reg/engine:1"
    assert one.manifest(phase) == ("prefill_4gpus_TP4/config.yaml", "name: prefill-4gpus-tp4\n")


def test_the_url_may_come_late(launcher: Callable[..., HostedLauncher]) -> None:
    async def go(url: str) -> None:
        started = launcher()
        task = asyncio.ensure_future(started.engine(TP4).__aenter__())
        async with asyncio.timeout(20):
            while not started.host.engines:  # type: ignore[attr-defined]
                await asyncio.sleep(0.01)
        (played,) = started.host.engines  # type: ignore[attr-defined]
        await asyncio.to_thread(played.looked.wait, 20)
        assert not task.done()
        played.outlook = Outlook(url)
        assert (await task).url == url

    with server() as url:
        asyncio.run(go(url))


# capacity


@pytest.mark.parametrize(
    ("page", "pods_page", "log", "source"),
    [("kv_tokens 5", "kv_tokens 7", "", "/metrics"), ("", "kv_tokens 7", "", "/metrics"), ("", "kv_tokens 7", "kv_tokens 9", "log")],
    ids=["its own page", "a pod's page", "the log first"],
)
def test_capacity_is_read_where_it_stands(launcher: Callable[..., HostedLauncher], page: str, pods_page: str, log: str, source: str) -> None:
    async def go(url: str, pod: str) -> Capacity:
        begin = at(url, addresses=("http://127.0.0.1:1", pod))
        started = launcher(lambda engine: (begin(engine), setattr(engine, "said", log))[0])
        async with started.engine(TP4) as engine:
            return await engine.capacity()

    with server(page) as url, server(pods_page) as pod:
        capacity = asyncio.run(go(url, pod))
    assert capacity == Capacity(9 if log else 5 if page else 7, source)


def test_a_capacity_that_stands_nowhere_is_an_error(launcher: Callable[..., HostedLauncher]) -> None:
    async def go(url: str) -> None:
        async with launcher(at(url)).engine(TP4) as engine:
            await engine.capacity()

    with server() as url, pytest.raises(EngineError, match="the KV capacity of the oneline engine is in none of"):
        asyncio.run(go(url))


# engines that do not start


def test_a_trouble_without_patience_ends_the_wait_in_its_words(launcher: Callable[..., HostedLauncher]) -> None:
    trouble = Trouble("image", "the image of main, reg/vlmm:1, cannot be pulled: ErrImagePull: not found", "check its name")
    error = failed_start(launcher(in_trouble(trouble)))
    assert str(error) == f"TP4: {trouble.what}; check its name"
    assert error.exit_code == 2


def test_one_that_may_pass_is_tried_again(launcher: Callable[..., HostedLauncher]) -> None:
    error = failed_start(launcher(in_trouble(replace(BUSY, patience_s=0.05, retry=True))))
    assert error.exit_code == UnreachableError.exit_code


def test_while_patience_lasts_it_is_waited_and_said(launcher: Callable[..., HostedLauncher], caplog: pytest.LogCaptureFixture) -> None:
    async def go(url: str) -> None:
        started = launcher(in_trouble(BUSY))
        task = asyncio.ensure_future(started.engine(TP4).__aenter__())
        async with asyncio.timeout(20):
            while BUSY.what not in caplog.text:
                await asyncio.sleep(0.01)
        (played,) = started.host.engines  # type: ignore[attr-defined]
        played.outlook = Outlook(url)
        assert (await task).url == url

    with server() as url, caplog.at_level("INFO"):
        asyncio.run(go(url))
    assert caplog.text.count(BUSY.what) == 1


def test_a_container_that_ended_is_told_with_its_last_words(launcher: Callable[..., HostedLauncher], tmp_path: Path) -> None:
    error = failed_start(launcher(in_trouble(replace(CRASH, patience_s=0.0), said="==> pod main <==\nloading\n")))
    assert error.message == "TP4: the container main ended: exit code 1: RuntimeError: no such file"
    assert error.hint == f"its log: {tmp_path / 'logs' / 'engine-tp4.log'}"


def test_an_end_that_the_engine_explains_is_not_waited_out(launcher: Callable[..., HostedLauncher]) -> None:
    error = failed_start(launcher(in_trouble(replace(CRASH, log="torch.OutOfMemoryError"))))
    assert error.message == "TP4: the container main ended: exit code 1: out of GPU memory"
    assert error.hint == "take more GPUs"


def test_a_trouble_after_its_server_is_there_ends_the_wait_too(launcher: Callable[..., HostedLauncher]) -> None:
    with server(models='{"data": []}') as url:
        error = failed_start(launcher(at(url, trouble=replace(CRASH, patience_s=0.0))))
    assert "exit code 1" in error.message


@pytest.mark.parametrize("with_url", [False, True], ids=["no Service", "no model"])
def test_the_last_resort_is_the_limit(launcher: Callable[..., HostedLauncher], with_url: bool) -> None:
    with server(models='{"data": []}') as url:
        error = failed_start(launcher(at(url if with_url else ""), ready_limit_s=0.2))
    expected = "the engine is not ready within 0.2 s: /v1/models lists no model" if with_url else "no Service leads to the engine within 0.2 s"
    assert expected in error.message


def test_what_the_host_refuses_names_the_mapping(launcher: Callable[..., HostedLauncher]) -> None:
    started = launcher()
    started.host.refusal = EngineError("it needs 8 GPUs on one node", hint="give --autoscaled", retry=True)  # type: ignore[attr-defined]
    error = failed_start(started)
    assert (str(error), error.exit_code) == ("TP4: it needs 8 GPUs on one node; give --autoscaled", 4)


@pytest.mark.parametrize("fault", [ForbiddenError("x may not list pods"), UnreachableError("the API does not answer")])
def test_a_host_that_does_not_answer_or_allow_is_no_fault_of_the_engine(launcher: Callable[..., HostedLauncher], fault: Exception) -> None:
    started = launcher(lambda engine: setattr(engine, "fault", fault))

    async def go() -> None:
        async with started.engine(TP4):
            raise AssertionError

    with pytest.raises(type(fault), match=str(fault)):
        asyncio.run(go())
    assert started.host.engines[0].removed == [True]  # type: ignore[attr-defined]


# ends


def test_its_end_is_told_in_words_of_its_host_and_its_own(launcher: Callable[..., HostedLauncher]) -> None:
    async def go(url: str) -> str:
        started = launcher(at(url))
        async with started.engine(TP4) as engine:
            started.host.engines[0].end = replace(CRASH, what="the container main of its pod x ended: exit code 137")  # type: ignore[attr-defined]
            return await engine.ended()

    with server() as url:
        assert asyncio.run(go(url)) == "the container main of its pod x ended: exit code 137: RuntimeError: no such file"


def test_news_that_come_late_are_waited_for_when_in_doubt(launcher: Callable[..., HostedLauncher], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOLD_WITHIN_S", 20.0)

    async def go(url: str) -> tuple[str, str]:
        started = launcher(at(url))
        async with started.engine(TP4) as engine:
            played = started.host.engines[0]  # type: ignore[attr-defined]
            played.end, played.end_after = Trouble("ended", "its pod x was deleted"), 3
            return await engine.ended(), await engine.ended(doubted=True)

    with server() as url:
        assert asyncio.run(go(url)) == ("", "its pod x was deleted")


def test_a_server_that_is_gone_has_ended_whatever_its_host_says(launcher: Callable[..., HostedLauncher]) -> None:
    async def go() -> str:
        with server() as url:
            context = launcher(at(url)).engine(TP4)
            engine = await context.__aenter__()
        try:
            return await engine.ended()
        finally:
            await context.__aexit__(None, None, None)

    words = asyncio.run(go())
    assert words.startswith("it no longer answers at http://127.0.0.1:")
    assert words.endswith("(connection refused)")


# a sweep that is stopped


def test_stopped_while_it_runs_it_is_removed_without_waiting(launcher: Callable[..., HostedLauncher]) -> None:
    async def go(url: str) -> list[bool]:
        started = launcher(at(url))

        async def using() -> None:
            async with started.engine(TP4):
                running.set()
                await asyncio.sleep(FOREVER)

        running = asyncio.Event()
        task = asyncio.ensure_future(using())
        await running.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return started.host.engines[0].removed  # type: ignore[attr-defined, no-any-return]

    with server() as url:
        assert asyncio.run(go(url)) == [False]


def test_stopped_while_it_is_made_what_was_made_is_removed(launcher: Callable[..., HostedLauncher]) -> None:
    async def go() -> list[bool]:
        started = launcher()
        host = started.host
        host.may_start.clear()  # type: ignore[attr-defined]
        task = asyncio.ensure_future(started.engine(TP4).__aenter__())
        await asyncio.to_thread(host.starting.wait, 20)  # type: ignore[attr-defined]
        task.cancel()
        await asyncio.sleep(0)
        host.may_start.set()  # type: ignore[attr-defined]
        with pytest.raises(asyncio.CancelledError):
            await task
        return host.engines[0].removed  # type: ignore[attr-defined, no-any-return]

    assert asyncio.run(go()) == [False]


def test_a_volume_that_is_full_costs_the_log_and_not_the_engine(launcher: Callable[..., HostedLauncher], tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file")

    async def go(url: str) -> list[bool]:
        started = launcher(lambda engine: (at(url)(engine), setattr(engine, "said", "kv_tokens 9"))[0])
        async with started.engine(TP4) as engine:
            assert (await engine.capacity()).max_kv_tokens == 9
        return started.host.engines[0].removed  # type: ignore[attr-defined, no-any-return]

    with server() as url:
        assert asyncio.run(go(url)) == [True]
