"""`profile-sweep` as it is called: engines are processes, results are files, whatever ends it is resumed, and errors are one line.

The engine follows  TTFT = 5 + 0.02*isl ms,  ITL = 4 + 0.25*batch + 0.00005*kv_tokens ms,  with 16,000 tokens of KV, on one GPU.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import yaml

from sla_planner.cli import run
from sla_planner.model.profile import DecodeMeasurement, DecodePoint, ParallelMapping, PrefillMeasurement, PrefillPoint, Profile
from sla_planner.request.progress import read_progress
from sla_planner.stages import profile_sweep_run
from sla_planner.store.profile_files import PROFILE_JSON, read_profile, write_profile_json
from sla_planner.sweep import measure

pytestmark = pytest.mark.e2e

DGDS = Path(__file__).parents[1] / "data" / "dgd"
SHAPE = ["--isl", "128", "--osl", "8", "--max-context-length", "1024", "--attainment", "0.5"]
FEW_POINTS = ["--prefill-interpolation-granularity", "4", "--decode-interpolation-granularity", "5"]
PROMISE = ["--ttft", "60", "--itl", "9"]
BACKEND = ["--backend", "simulated"]
WAIT_S = 60.0


def engine_profile() -> Profile:
    mapping, kv_tokens = ParallelMapping(), 16_000
    prefill = tuple(PrefillPoint(isl, 5 + 0.02 * isl, isl / (5 + 0.02 * isl) * 1000) for isl in (32, 64, 128, 256, 512, 1024))
    decode = []
    for context in (100, 300, 800):
        for batch in (1, 4, 12):
            itl_ms = 4 + 0.25 * batch + 5e-5 * batch * context
            decode.append(DecodePoint(batch * context / kv_tokens, context, itl_ms, batch / itl_ms * 1000))
    return Profile((PrefillMeasurement(mapping, prefill),), (DecodeMeasurement(mapping, tuple(decode), kv_tokens),), mapping, mapping)


@dataclass(frozen=True)
class Place:
    """Where a sweep of the engine of `profile` leaves its results."""

    profile: Path
    output: Path

    @property
    def engine(self) -> str:
        return f"{sys.executable} -m sla_planner engine-sim --mode agg --profile {self.profile} --tp {{tp}} --port {{port}}"

    def flags(self, *more: str, gpus: int = 1) -> list[str]:
        source = ["--engine-command", self.engine, "--max-num-gpus", str(gpus)]
        return ["profile-sweep", *BACKEND, *source, *SHAPE, *FEW_POINTS, *PROMISE, "--output-dir", str(self.output), *more]

    def start(self, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "sla_planner", *self.flags("--no-verify", "--log-format", "json", *more)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def points(self) -> list[Path]:
        return sorted((self.output / "points").glob("tp*.json"))

    def engines(self) -> list[int]:
        """Processes that serve the profile."""
        found = []
        for line in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = line.read_bytes().split(b"\0")
            except OSError:
                continue
            if b"engine-sim" in words and os.fsencode(self.profile) in words:
                found.append(int(line.parent.name))
        return found


def awaited(condition: Callable[[], Any]) -> None:
    give_up_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < give_up_s
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def _handlers_of_pytest() -> Iterator[None]:
    """A stage that runs in this process sends log lines to the stderr of the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short windows, and no complaint of a client that the machine holds up: in this process, where it is about what is done, not how exactly."""
    monkeypatch.setattr(measure, "LATE_MS", 1000.0)
    monkeypatch.setattr(measure, "UNSTEADY", 1000.0)
    monkeypatch.setattr(measure, "WINDOW_S", 0.1)
    monkeypatch.setattr(measure, "WINDOW_STEPS", 12)
    monkeypatch.setattr(profile_sweep_run, "pictures", lambda _: {})  # the whole sweep draws them


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("profile")
    write_profile_json(engine_profile(), folder / PROFILE_JSON)
    return folder


@dataclass(frozen=True)
class Whole:
    place: Place
    ended: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def whole(profile: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A sweep over one and two GPUs, of which the engine knows only one, to its end."""
    place = Place(profile, tmp_path_factory.mktemp("results"))
    command = [sys.executable, "-m", "sla_planner", *place.flags("--json", "--log-format", "json", gpus=2)]
    return Whole(place, subprocess.run(command, capture_output=True, text=True, check=False))


@pytest.fixture
def place(profile: Path, tmp_path: Path) -> Place:
    """A folder of its own."""
    return Place(profile, tmp_path / "results")


@pytest.fixture
def measured(whole: Whole, place: Place) -> Place:
    """A copy of what the whole sweep left."""
    shutil.copytree(whole.place.output, place.output)
    return place


@pytest.fixture
def one_line(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The last line on stderr of a stage that ends with `code`, where every line is the log's or that one."""

    def ended(code: int, flags: list[str]) -> str:
        assert run(flags) == code
        lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("{")]
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        return lines[0]

    return ended


# a whole sweep


def test_the_results_are_complete(whole: Whole) -> None:
    assert whole.ended.returncode == 0, whole.ended.stderr
    output = whole.place.output
    left = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file() and path.parent.name not in ("points", "logs")}
    assert left >= {
        "profile.json",
        "report.html",
        "prefill_raw_data.json",
        "decode_raw_data.json",
        "prefill_performance.png",
        "decode_performance.png",
        "selected_prefill_interpolation/raw_data.npz",
        "selected_decode_interpolation/raw_data.npz",
        "selected_prefill_interpolation/prefill_ttft_interpolation.png",
        "selected_decode_interpolation/decode_itl_interpolation.png",
    }
    profile = read_profile(output)
    assert profile.selected_prefill == profile.selected_decode == ParallelMapping()
    assert profile.picked_decode.max_kv_tokens == 16_000
    assert profile.provenance.source == "measured"
    page = (output / "report.html").read_text()
    assert "TP1" in page
    assert "the profile has no TP2" in page  # why it was left out


def test_the_result_is_one_json_object(whole: Whole) -> None:
    assert whole.ended.stdout.count("\n") == 1
    told = json.loads(whole.ended.stdout)
    assert told["feasible"] is True
    assert (told["prefill"]["mapping"], told["decode"]["mapping"], told["prefill"]["gpus"]) == ("TP1", "TP1", 1)
    assert told["prefill"]["latency_ms"] <= 60
    assert told["decode"]["latency_ms"] <= 9
    assert told["cost"]["reused"] == 0
    assert told["cost"]["measured"] == len(whole.place.points())
    assert told["cost"]["deployments"] == 2
    assert list(told["left_out"]) == ["TP2"]
    assert "the profile has no TP2 for prefill" in told["left_out"]["TP2"]
    assert told["verification"]["requests"] >= 12
    assert told["verification"]["failed"] == 0
    assert {comparison["what"] for comparison in told["verification"]["comparisons"]} >= {"TTFT of one request", "ITL of one request"}


def test_every_log_line_is_a_json_object(whole: Whole) -> None:
    lines = [json.loads(line) for line in whole.ended.stderr.splitlines()]
    assert all({"time", "level", "message"} <= set(line) for line in lines)
    assert any(line["message"].startswith("Estimate: 2 deployments, ") for line in lines)


def test_the_log_tells_how_far_it_is_as_data(whole: Whole) -> None:
    lines = whole.ended.stderr.splitlines()
    seen = [progress for line in lines if (progress := read_progress(line))]
    assert [phase for phase, _ in groupby(progress.phase for progress in seen)] == [
        "Initializing",
        "SweepingPrefill",
        "SweepingDecode",
        "SweepingPrefill",  # of the engine that does not start
        "SelectingConfig",
        "BuildingCurves",
        "Done",
    ]
    measuring = [progress for progress in seen if progress.phase.startswith("Sweeping")]
    assert {progress.mapping for progress in measuring} == {"TP:1", "prefill TP:1", "decode TP:1", "TP:2"}
    points = [progress.point for progress in measuring]
    assert points == sorted(points)
    assert seen[-1].point == seen[-1].points == len(whole.place.points())
    assert all(progress.point <= progress.points for progress in seen)
    assert any(progress.eta_s is not None for progress in measuring)
    assert read_progress("\n".join(lines)) == seen[-1]


def test_no_engine_is_left(whole: Whole) -> None:
    assert whole.place.engines() == []


# what is measured already


def test_a_promise_that_cannot_be_kept_names_the_nearest(measured: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Another promise needs other batches at most: no prompt is measured again."""
    for name in (PROFILE_JSON, "report.html"):
        (measured.output / name).unlink()
    prefills = [path.read_bytes() for path in measured.points() if "prefill" in path.name]
    assert run(measured.flags("--ttft", "1", "--itl", "1", "--no-verify", "--json")) == 3
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert (told["feasible"], told["prefill"]["kept"], told["decode"]["kept"]) == (False, False, False)
    line = err.splitlines()[-1]
    assert line.startswith("error: no mapping keeps TTFT 1 ms for 50 % of requests of 128 tokens in and 8 out: ")
    nearest = [float(value) for value in re.findall(r"the nearest is ([\d.]+) ms with TP1", line)]
    assert nearest == pytest.approx([told["prefill"]["latency_ms"], told["decode"]["latency_ms"]], rel=0.01)
    assert read_profile(measured.output).selected_prefill == ParallelMapping()
    assert (measured.output / "report.html").is_file()
    assert set(prefills) <= {path.read_bytes() for path in measured.points()}
    way_out = [word for flag in ("--ttft", "--itl") for word in re.findall(rf"set ({flag}) ([\d.]+)", line)[0]]
    assert run(measured.flags(*way_out, "--no-verify")) == 0  # the hint is true


def test_a_pick_that_cannot_be_verified_leaves_its_profile(measured: Place, capsys: pytest.CaptureFixture[str]) -> None:
    (measured.output / PROFILE_JSON).unlink()
    assert run(measured.flags("--verify-command", "sh -c 'echo no such model >&2; exit 3' {port}", "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verification"] is None
    assert told["cost"]["measured"] == told["cost"]["deployments"] == 0
    assert told["cost"]["reused"] == len(measured.points())
    (warning,) = [warning for warning in told["warnings"] if warning.startswith("the pick was not verified: ")]
    assert "exit code 3: no such model" in warning
    assert read_profile(measured.output).selected_decode == ParallelMapping()


def test_what_is_measured_already_is_measured_again_on_request(measured: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(measured.flags("--force-rerun", "--no-verify", "--json")) == 0
    cost = json.loads(capsys.readouterr().out)["cost"]
    assert cost["reused"] == 0
    assert cost["measured"] >= 7
    assert cost["deployments"] == 1


def test_a_damaged_point_is_told_and_measured_again(measured: Place, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = next(path for path in measured.points() if "prefill" in path.name)
    damaged.write_text("{")
    assert run(measured.flags("--no-verify", "--json")) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["cost"]["measured"] >= 1
    assert f"{damaged} is not JSON" in err
    assert json.loads(damaged.read_text())["point"]


# what ends a sweep


def test_whatever_ends_a_sweep_it_goes_on_from_there(place: Place, one_line: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    with place.start() as first:
        try:
            awaited(lambda: len(place.points()) >= 2)
            line = one_line(2, place.flags())
            assert line.startswith(f"error: another sweep (pid {first.pid} on {socket.gethostname()}) writes to {place.output / 'points'}; ")
        finally:
            first.send_signal(signal.SIGTERM)
        out, err = first.communicate(timeout=WAIT_S)
    assert first.returncode == 75
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("error: stopped, ")
    assert last.endswith(" of them new; the same command goes on from here")
    assert place.engines() == []
    before = {path: path.read_bytes() for path in place.points()}
    assert len(before) >= 2

    with place.start() as second:
        try:
            awaited(lambda: len(place.points()) > len(before))
        finally:
            second.kill()
        second.communicate(timeout=WAIT_S)
    awaited(lambda: place.engines() == [])  # the guard takes it away
    before = {path: path.read_bytes() for path in place.points()}

    assert run(place.flags("--no-verify", "--json")) == 0
    cost = json.loads(capsys.readouterr().out)["cost"]
    assert cost["reused"] == len(before)
    assert {path: path.read_bytes() for path in before} == before
    assert read_profile(place.output).selected_decode == ParallelMapping()
    assert place.engines() == []


# engines that run already


@pytest.fixture
def endpoint(profile: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "sla_planner", "engine-sim", "--mode", "agg", "--profile", str(profile), "--port", "0", "--model", "tiny"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as engine:
        assert engine.stdout is not None
        yield engine.stdout.readline().split(" ")[3]
        engine.kill()


def test_an_endpoint_is_measured_and_left_running(place: Place, endpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["profile-sweep", *BACKEND, "--endpoint", f"{endpoint}/v1", *SHAPE, *FEW_POINTS, *PROMISE, "--output-dir", str(place.output)]
    assert run([*flags, "--no-verify"]) == 0
    out = capsys.readouterr().out
    assert "Suggested prefill TP:1 (TTFT " in out
    assert "Suggested decode TP:1 (ITL " in out
    assert read_profile(place.output).provenance.model == "tiny"
    with urllib.request.urlopen(f"{endpoint}/health", timeout=10) as answer:
        assert answer.status == 200


def test_an_endpoint_that_does_not_answer_is_unreachable(place: Place, one_line: Callable[..., str]) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))  # bound, never listening
        url = f"http://127.0.0.1:{holder.getsockname()[1]}"
        line = one_line(4, ["profile-sweep", *BACKEND, "--endpoint", url, *SHAPE, "--output-dir", str(place.output)])
    assert line == f"error: no answer from {url}/v1/models (connection refused); check --endpoint and that the engine is up"


# before anything is started


def test_a_dry_run_writes_the_commands_and_starts_nothing(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    started = place.profile / "started"
    flags = place.flags("--dry-run", gpus=2)
    flags[flags.index("--engine-command") + 1] = f"sh -c 'touch {started}' --tp {{tp}} --port {{port}}"
    assert run(flags) == 0
    written = capsys.readouterr().out.splitlines()
    assert [Path(name).parent for name in written] == [place.output] * 2
    texts = [Path(name).read_text() for name in written]
    assert [text.count("\n") for text in texts] == [1, 1]
    assert [f"--tp {gpus} " in text for gpus, text in zip((1, 2), texts, strict=True)] == [True, True]
    assert not started.exists()
    assert not (place.output / "points").exists()


@pytest.mark.parametrize(("flags", "roles"), [((), ("engine",)), (("--separate-phases",), ("prefill", "decode"))], ids=["one engine", "one a phase"])
def test_a_dry_run_derives_manifests(place: Place, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], roles: tuple[str, ...]) -> None:
    dgd, folder = sorted(DGDS.glob("*vllm*disagg*.yaml"))[0], str(place.output)
    assert (
        run(["profile-sweep", "--backend", "vllm", "--dgd", str(dgd), "--dry-run", "--max-num-gpus", "2", "--json", "--output-dir", folder, *flags])
        == 0
    )
    written = [Path(name) for name in json.loads(capsys.readouterr().out)["written"]]
    assert {path.parent.name for path in written} == {f"{role}_{gpus}gpus_TP{gpus}" for role in roles for gpus in (1, 2)}
    for path in written:
        assert yaml.safe_load(path.read_text())["kind"] == "DynamoGraphDeployment"


def test_a_template_that_starts_the_same_engine_for_every_size_is_refused(place: Place, one_line: Callable[..., str]) -> None:
    flags = place.flags(gpus=2)
    flags[flags.index("--engine-command") + 1] = "serve --port {port}"
    line = one_line(2, flags)
    assert line == "error: --engine-command starts the same engine for TP1 and TP2; put {tp} where its GPU count goes, or give --max-num-gpus 1"


def test_an_engine_that_does_not_start_is_told_in_its_own_words(place: Place, one_line: Callable[..., str]) -> None:
    flags = place.flags()
    flags[flags.index("--engine-command") + 1] = "sh -c 'echo torch.OutOfMemoryError: CUDA out of memory >&2; exit 1' {port}"
    line = one_line(2, flags)
    assert "TP1: the engine ended while it started: exit code 1: " in line
    assert "memory" in line
    assert not (place.output / PROFILE_JSON).exists()


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_started(place: Place, one_line: Callable[..., str]) -> None:
    place.output.write_text("a file")
    assert str(place.output) in one_line(2, place.flags())
