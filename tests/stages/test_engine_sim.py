from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sla_planner.cli import run
from sla_planner.cluster.virtual import open_virtual_target

READY = re.compile(r"engine-sim ready on (http://127\.0\.0\.1:\d+) \(model (\S+), (.*)\)\n")


@contextmanager
def engine(*flags: str) -> Iterator[tuple[subprocess.Popen[str], re.Match[str]]]:
    command = [sys.executable, "-m", "sla_planner", "engine-sim", "--port", "0", "--time-scale", "10", *flags]
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
        (["--mode", "agg", "--decode-tp", "1"], "an aggregated engine has one tensor-parallel size; give it with --tp"),
        (["--mode", "agg", "--decode-workers", "3"], "an aggregated engine is one worker; leave out --prefill-workers"),
        (["--mode", "agg", "--virtual-target", "file:x"], "an aggregated engine is one worker and follows no target"),
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
