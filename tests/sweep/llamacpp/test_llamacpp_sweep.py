"""A whole `profile-sweep` of a real engine, as it goes in practice: stopped by a signal, killed, and started again until it is done.

Speeds of a busy machine are noise, so what is asserted of them is only that a long prompt takes longer than a short one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from sla_planner.model.engine import engine_of
from sla_planner.model.profile import Profile
from sla_planner.store.profile_files import read_profile

pytestmark = pytest.mark.e2e

SLOTS, CONTEXT = 4, 4096
ISL, OSL = 256, 64
PATIENCE_S = 120.0
PLANNER = [sys.executable, "-m", "sla_planner"]
INTERPOLATIONS = ("selected_prefill_interpolation", "selected_decode_interpolation")
AGAIN = 4

Points = dict[str, tuple[str, int]]


@dataclass(frozen=True)
class Story:
    """Three starts of one sweep, and more if points had to be measured again. `..._at`: points on disk after that start, by name with their text and
    time of change."""

    stopped: subprocess.CompletedProcess[str]
    stopped_at: Points
    killed_at: Points
    third: subprocess.CompletedProcess[str]
    third_at: Points
    ended: subprocess.CompletedProcess[str]
    results: Path
    engines_left: list[str]


@pytest.fixture(scope="module")
def story(llamacpp_command: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Story:
    results = tmp_path_factory.mktemp("sweep") / "results"
    engine = llamacpp_command("--slots", SLOTS, "--context", CONTEXT)
    command = [*PLANNER, "profile-sweep", "--backend", "llamacpp", "--engine-command", engine, "--max-num-gpus", "1", "--output-dir", str(results)]
    command += ["--isl", str(ISL), "--osl", str(OSL), "--max-context-length", "1024", "--ttft", "60000", "--itl", "5000"]
    command += ["--prefill-interpolation-granularity", "4", "--decode-interpolation-granularity", "5"]

    stopped = interrupted(command, signal.SIGTERM, results, points=2)
    wait_until(lambda: not processes_of(engine))
    stopped_at = point_files(results)
    interrupted(command, signal.SIGKILL, results, points=len(stopped_at) + 2)
    wait_until(lambda: not processes_of(engine))  # nobody was left to end it but its guard
    killed_at = point_files(results)
    ended = third = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    third_at = point_files(results)
    for _ in range(AGAIN):
        if ended.returncode != 2 or "trusted" not in ended.stderr:
            break
        remove_doubted_points(results)  # what a user is told to do when the machine was too busy
        ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    return Story(stopped, stopped_at, killed_at, third, third_at, ended, results, processes_of(engine))


def interrupted(command: list[str], number: signal.Signals, results: Path, points: int) -> subprocess.CompletedProcess[str]:
    """Start it, and send the signal when so many points are on disk."""
    sweep = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: sweep.poll() is not None or len(point_files(results)) >= points)
        sweep.send_signal(number)
        out, err = sweep.communicate(timeout=PATIENCE_S)
    finally:
        sweep.kill()
        sweep.wait()
    return subprocess.CompletedProcess(command, sweep.returncode, out, err)


def wait_until(condition: Callable[[], bool]) -> None:
    limit_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < limit_s, "waited in vain"
        time.sleep(0.01)


def remove_doubted_points(results: Path) -> None:
    for path in (results / "points").glob("tp1-*.json"):
        if json.loads(path.read_text())["point"]["defects"]:
            path.unlink()


def point_files(results: Path) -> Points:
    return {path.name: (path.read_text(), path.stat().st_mtime_ns) for path in (results / "points").glob("tp1-*.json")}


def processes_of(engine_command: str) -> list[str]:
    """Commands of all processes that were started with this model: engines, their guards, and sweeps."""
    model = next(word for word in engine_command.split() if word.endswith(".gguf"))
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has just ended
            continue
        if model in command and int(process.name) != os.getpid():
            found.append(command)
    return found


def of_shape(story: Story) -> dict[str, dict]:
    """The points in the end, by name without its key."""
    return {name.rpartition("-")[0]: json.loads(text)["point"] for name, (text, _) in point_files(story.results).items()}


def test_a_signal_ends_it_with_75_and_one_line(story: Story) -> None:
    assert story.stopped.returncode == 75
    last = story.stopped.stderr.splitlines()[-1]
    assert last.startswith("error: stopped, ")
    assert last.endswith(" of them new; the same command goes on from here")
    assert "Traceback" not in story.stopped.stderr
    assert len(story.stopped_at) >= 2


def test_what_was_measured_is_never_measured_again(story: Story) -> None:
    """After a signal and after a SIGKILL the files of the points are untouched, to the nanosecond."""
    assert len(story.killed_at) >= len(story.stopped_at) + 2
    assert story.killed_at.items() >= story.stopped_at.items()
    assert story.third_at.items() >= story.killed_at.items()
    assert len(story.third_at) > len(story.killed_at)
    assert story.third.stderr.count("found again") == len(story.killed_at)
    assert len(list((story.results / "points").glob("engine-*.json"))) == 1


def test_it_ends_well_and_leaves_no_engine(story: Story) -> None:
    assert story.ended.returncode == 0, story.ended.stderr
    assert "Traceback" not in story.ended.stderr
    assert story.engines_left == []


def test_the_results_are_whole(story: Story) -> None:
    names = {str(path.relative_to(story.results)) for path in story.results.rglob("*") if path.is_file()}
    expected = {"report.html", "profile.json", "prefill_raw_data.json", "decode_raw_data.json"}
    expected |= {"prefill_performance.png", "decode_performance.png", "verification.png"}
    expected |= {f"{folder}/raw_data.npz" for folder in INTERPOLATIONS}
    assert expected <= names
    for folder in INTERPOLATIONS:
        assert list((story.results / folder).glob("*.png"))
    assert all((story.results / name).stat().st_size for name in names - {"points/.lock"})
    assert list((story.results / "logs").glob("*.log"))
    assert not [name for name in names if name.endswith((".tmp", ".bad"))]


def test_what_was_measured_is_what_was_asked_for(story: Story) -> None:
    """The curve has four lengths up to the longest; both phases are measured; prompts of token ids have the server's count of tokens."""
    points = of_shape(story)
    alone = {name: point for name, point in points.items() if "prefill" in name and "-x" not in name}
    assert {"tp1-prefill-isl128", f"tp1-prefill-isl{ISL}"} <= alone.keys()
    assert len(alone) == 4
    assert [point["prefill"]["isl_tokens"] for point in alone.values()] == [point["shape"]["isl_tokens"] for point in alone.values()]
    assert f"tp1-decode-isl{ISL}-batch1" in points
    assert f"tp1-decode-isl{ISL}-batch{SLOTS}" in points
    assert max(point["shape"].get("batch", 0) for point in points.values()) == SLOTS
    assert any("-x" in name for name in points)


def test_a_long_prompt_takes_longer_than_a_short_one(story: Story) -> None:
    ttft_ms = {}
    for point in of_shape(story).values():
        if "concurrency" in point["shape"] and point["shape"]["concurrency"] == 1:
            ttft_ms[point["shape"]["isl_tokens"]] = min(point["prefill"]["ttft_ms"])
    assert max(ttft_ms) >= 4 * min(ttft_ms)
    assert ttft_ms[max(ttft_ms)] > ttft_ms[min(ttft_ms)]


def test_the_kv_capacity_is_that_of_the_server(story: Story) -> None:
    facts = json.loads(next((story.results / "points").glob("engine-*.json")).read_text())["engine"]
    assert (facts["max_kv_tokens"], facts["max_sequences"], facts["prompt_form"]) == (CONTEXT, SLOTS, "ids")
    with np.load(story.results / "selected_decode_interpolation" / "raw_data.npz") as arrays:
        assert arrays["max_kv_tokens"].item() == CONTEXT


def test_the_pick_was_verified_and_is_reported(story: Story) -> None:
    assert "In use: " in story.ended.stderr
    page = (story.results / "report.html").read_text()
    assert "one TP1 engine for both phases" in page
    assert "TTFT of one request" in page
    assert "Suggested prefill TP:1" in story.ended.stdout
    assert "Suggested decode TP:1" in story.ended.stdout


def test_the_planner_lives_on_it(story: Story) -> None:
    profile: Profile = read_profile(story.results)
    assert (profile.selected_prefill.label, profile.selected_decode.label) == ("TP1", "TP1")
    engine = engine_of(profile)
    assert engine.prefill.ttft_ms(ISL) > 0
    assert engine.decode.itl_ms(2, ISL + OSL / 2) > 0
    assert read_profile(story.results / "profile.json") == profile


def test_it_can_be_shown(story: Story) -> None:
    shown = subprocess.run([*PLANNER, "profile", "show", str(story.results)], capture_output=True, text=True, timeout=PATIENCE_S)
    assert shown.returncode == 0, shown.stderr
    assert "an engine of 1 GPU with room for 4,096 KV tokens" in shown.stdout
    assert "tiny.gguf" in shown.stdout
