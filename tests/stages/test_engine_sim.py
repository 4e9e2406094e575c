from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from sla_planner.cli import run
from sla_planner.cluster.virtual import open_virtual_target

READY = re.compile(r"engine-sim ready on (http://127\.0\.0\.1:\d+) \(model (\S+), (.*)\)\n")


def engine(*flags: str) -> AbstractContextManager[tuple[subprocess.Popen[str], re.Match[str]]]:
    return process_of("--time-scale", "10", *flags)


@contextmanager
def process_of(*flags: str) -> Iterator[tuple[subprocess.Popen[str], re.Match[str]]]:
    command = [sys.executable, "-m", "sla_planner", "engine-sim", "--port", "0", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready = READY.fullmatch(process.stdout.readline())
            assert ready, process.communicate()[1]
            yield process, ready
        finally:
            process.kill()


@pytest.fixture(autouse=True)
def _handlers_of_pytest() -> Iterator[None]:
    """A stage that runs in this process sends log lines to the stderr of the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def state(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/sim/state", timeout=10) as answer:
        return json.load(answer)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serves_the_shipped_profile_until_a_signal(number):
    with engine("--model", "tiny", "--mode", "agg") as (process, ready):
        assert ready.groups()[1:] == ("tiny", "agg: 1 worker")
        body = {"prompt": [1] * 500, "max_tokens": 10, "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}
        with urllib.request.urlopen(f"{ready[1]}/v1/completions", json.dumps(body).encode(), timeout=10) as answer:
            events = answer.read().decode().split("\n\n")
        assert json.loads(events[-3].removeprefix("data: "))["usage"] == {"prompt_tokens": 500, "completion_tokens": 10, "total_tokens": 510}
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=10)
        assert (process.returncode, stdout, stderr) == (0, "", "")


def test_follows_a_virtual_target(tmp_path):
    place = f"file:{tmp_path / 'fleet.json'}"
    planner = open_virtual_target(place)
    with engine("--virtual-target", place, "--decode-workers", "2") as (process, ready):
        assert ready[3] == "disagg: 1 prefill, 2 decode"
        planner.apply(2, 3, now_s=time.time())
        give_up_s = time.monotonic() + 20
        while (fleet := planner.fleet()) is None or (fleet.prefill.ready, fleet.decode.ready) != (2, 3):
            assert process.poll() is None
            assert time.monotonic() < give_up_s
            time.sleep(0.01)
        workers = state(ready[1])["workers"]
        assert [[worker["state"] for worker in workers[role]] for role in ("prefill", "decode")] == [["ready"] * 2, ["ready"] * 3]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--tp", "64"], "the profile has no TP64 for prefill; it was measured at: TP1"),
        (["--decode-tp", "2"], "the profile has no TP2 for decode; it was measured at: TP1"),
        (["--mode", "agg", "--decode-tp", "1"], "--decode-tp means nothing with --mode agg; leave it out, or take --mode disagg"),
        (["--mode", "agg", "--decode-workers", "1"], "--decode-workers means nothing with --mode agg"),
        (["--mode", "agg", "--virtual-target", "file:x"], "--virtual-target means nothing with --mode agg"),
        (
            ["--mode", "frontend", "--tp", "1"],
            "--tp means nothing with --mode frontend; leave it out, or take --mode agg or disagg or prefill or decode",
        ),
        (["--mode", "prefill", "--prompts", "ids"], "--prompts means nothing with --mode prefill"),
        (["--mode", "decode", "--tp", "64"], "the profile has no TP64 for decode; it was measured at: TP1"),
        (["--mode", "frontend", "--prefill-workers-at", "http://p:1"], "a frontend needs --decode-workers-at; example: http://"),
        (["--mode", "frontend", "--prefill-workers-at", "p", "--decode-workers-at", "http://d:1"], "'p' is no place of workers"),
        (["--virtual-target", "x"], "virtual target 'x' is "),
        (["--time-scale", "0"], "time-scale is 0.0; give a positive factor"),
        (["--fault", "now"], "fault: Invalid JSON"),
        (["--fault", '{"kind": "crash", "worker": "decode-9"}', "--port", "0"], "there is no worker 'decode-9'; workers: prefill-0, decode-0"),
        (["--profile", "no/such/folder"], "no/such/folder"),
        (["--port", "70000"], "70000 is not in the range"),
    ],
)
def test_what_a_user_got_wrong_is_one_line(flags, line, capsys):
    assert run(["engine-sim", *flags]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_help_needs_no_heavy_import():
    script = "import sys; from sla_planner.cli import run; run(['engine-sim', '--help']); sys.exit(bool({'numpy', 'aiohttp'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_the_profile_can_be_a_folder_of_the_user(tmp_path):
    from sla_planner.store.profile_files import sample_profile_dir

    folder = tmp_path / "results"
    for part in ("selected_prefill_interpolation", "selected_decode_interpolation"):
        (folder / part).mkdir(parents=True)
        (folder / part / "raw_data.npz").write_bytes(Path(sample_profile_dir() / part / "raw_data.npz").read_bytes())
    with engine("--profile", str(folder), "--tp", "1") as (_, ready):
        assert state(ready[1])["timing"]["steps"] == 0


def test_a_pair_of_sizes(tmp_path):
    from sla_planner.model.tensor_parallel import over_tensor_parallel
    from sla_planner.store.profile_files import read_profile, sample_profile_dir, write_profile_json

    profile = over_tensor_parallel(read_profile(sample_profile_dir()), (1, 2, 4))
    write_profile_json(profile, tmp_path / "profile.json")
    with engine("--profile", str(tmp_path), "--prefill-tp", "2", "--decode-tp", "4") as (_, ready):
        give_up_s = time.monotonic() + 20
        while (told := state(ready[1]))["gpu_seconds"]["decode"] != pytest.approx(2 * told["gpu_seconds"]["prefill"], rel=0.05):
            assert time.monotonic() < give_up_s
            time.sleep(0.01)
        assert told["max_kv_tokens"] == profile.decode[2].max_kv_tokens


def test_an_exit_fault_is_the_end_of_the_process():
    with engine("--mode", "agg", "--fault", '{"kind": "exit", "after_s": 0.01, "code": 9, "message": "CUDA error"}') as (process, _):
        stdout, stderr = process.communicate(timeout=10)
        assert (process.returncode, stdout, stderr) == (9, "", "CUDA error\n")


def test_an_exit_at_the_start_comes_before_the_ready_line():
    command = [sys.executable, "-m", "sla_planner", "engine-sim", "--port", "0", "--fault", '{"kind": "exit"}']
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", "fatal: the engine ended, as a fault asked\n")


@contextmanager
def apart(*flags: str) -> Iterator[tuple[str, list[subprocess.Popen[str]], subprocess.Popen[str]]]:
    """A frontend with two prefill workers' addresses, of which one answers, and a decode worker: its URL, the workers, itself."""
    with ExitStack() as stack:
        prefill, decode = (stack.enter_context(process_of("--mode", mode, *flags)) for mode in ("prefill", "decode"))
        unused = "http://127.0.0.1:1"
        places = "--prefill-workers-at", f"{unused},{prefill[1][1]}", "--decode-workers-at", decode[1][1]
        frontend, ready = stack.enter_context(process_of("--mode", "frontend", "--model", "tiny", *places))
        assert ready.groups()[1:] == ("tiny", f"frontend: prefill at {places[1]}, decode at {places[3]}")
        until(lambda: status(f"{ready[1]}/health") == 200)
        yield ready[1], [prefill[0], decode[0]], frontend


def until(condition: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up_s
        time.sleep(0.01)


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def stream(url: str, isl_tokens: int, osl_tokens: int) -> str:
    """The whole text of an answer."""
    body = {"prompt": [1] * isl_tokens, "max_tokens": osl_tokens, "ignore_eos": True, "stream": True}
    with urllib.request.urlopen(f"{url}/v1/completions", json.dumps(body).encode(), timeout=60) as answer:
        return answer.read().decode()


def means(url: str) -> dict[str, float]:
    """TTFT and ITL in seconds, as /metrics counts them."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        values = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if not line.startswith("#"))
    names = {"ttft": "time_to_first_token", "itl": "inter_token_latency"}
    sums = {of: [float(values[f'dynamo_frontend_{name}_seconds_{part}{{model="tiny"}}']) for part in ("sum", "count")] for of, name in names.items()}
    return {of: total / count for of, (total, count) in sums.items()}


@pytest.mark.e2e
def test_a_frontend_and_its_workers_are_as_fast_as_one_process():
    """Both at the same moment, so that a busy machine slows both; and four times slower than the profile, so that it slows neither by much."""
    slow = "--time-scale", "0.25", "--max-batched-tokens", "2000"
    with apart(*slow) as (url, _, _), process_of("--model", "tiny", *slow) as (_, ready), ThreadPoolExecutor(12) as pool:
        for last_chance in (False, False, True):
            texts = [pool.submit(stream, each, 1000, 12) for _ in range(6) for each in (url, ready[1])]
            assert all(text.result().count(" tok") == 12 for text in texts)
            ours, theirs = means(url), means(ready[1])
            if ours == pytest.approx(theirs, rel=0.05):
                break
            assert not last_chance, (ours, theirs)


def test_a_worker_finishes_its_streams_before_it_ends():
    with apart("--time-scale", "0.5") as (url, (prefill, decode), frontend), ThreadPoolExecutor(1) as pool:
        text = pool.submit(stream, url, 100, 100)
        until(lambda: state(url)["workers"]["decode"][0]["requests"] == 1)
        for worker in (prefill, decode):
            worker.terminate()
        assert prefill.wait(10) == 0
        assert decode.poll() is None
        assert text.result().count(" tok") == 100
        assert decode.wait(10) == 0
        until(lambda: status(f"{url}/health") == 503)
        frontend.terminate()
        assert frontend.wait(10) == 0


@pytest.mark.e2e
def test_a_frontend_finishes_its_answers_before_it_ends():
    with apart("--time-scale", "0.5") as (url, _, frontend), ThreadPoolExecutor(1) as pool:
        text = pool.submit(stream, url, 100, 100)
        until(lambda: state(url)["workers"]["decode"][0]["requests"] == 1)
        frontend.terminate()
        assert text.result().count(" tok") == 100
        assert frontend.wait(10) == 0


def test_a_process_imports_nothing_that_it_does_not_need():
    script = (
        "import sys; from sla_planner.engines.simulated import serving; from sla_planner.stages import engine_sim;"
        "sys.exit(bool({'scipy', 'kubernetes', 'matplotlib'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
