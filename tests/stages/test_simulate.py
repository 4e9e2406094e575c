"""`simulate` as it is called: one document or one table on stdout, the rest on stderr, and one line for what cannot be simulated."""

from __future__ import annotations

import gzip
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from sla_planner import cli
from sla_planner.simulate.contestants import CONTESTANTS
from sla_planner.simulate_config import POLICIES
from sla_planner.stages.simulate_run import SEARCHED

MINUTES = ("--profile", "sample", "--itl", "20", "--start", "2,2", "--adjustment-interval", "60", "--log-format", "human")
NUMBERS = {
    "attainment", "gpu_hours", "gpu_hours_prefill", "gpu_hours_decode", "minutes_inside", "actions", "ratio", "requests", "ttft_attainment",
    "itl_attainment", "ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "itl_p99_ms", "launches", "most_direction_changes_per_hour", "tried",
}  # fmt: skip
WORDS = {"policy", "knows", "possible", "reached", "settings", "causes"}


@pytest.fixture(autouse=True)
def _handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Twenty minutes of a request every two seconds."""
    path = tmp_path / "even.csv"
    path.write_text("arrival_s,isl,osl\n" + "".join(f"{2 * number},1000,50\n" for number in range(600)))
    return path


def simulated(capsys: pytest.CaptureFixture[str], *flags: str | Path) -> tuple[str, str]:
    assert cli.run(["simulate", *MINUTES, *map(str, flags)]) == 0
    told = capsys.readouterr()
    return told.out, told.err


def refused(capsys: pytest.CaptureFixture[str], *flags: str | Path) -> str:
    assert cli.run(["simulate", *map(str, flags), "--log-format", "human"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()[-1]


def test_one_document_and_nothing_else_on_stdout(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = simulated(capsys, "--trace", trace, "--policy", "slaplanner,static", "--json")
    assert out.count("\n") == 1
    told = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    ours, static = told["policies"]
    assert set(ours) == set(static) == NUMBERS | WORDS
    assert all(isinstance(ours[name], int | float) for name in NUMBERS)
    assert (ours["policy"], static["policy"]) == ("slaplanner", "static")
    assert ours["ratio"] == 1.0
    assert (ours["requests"], ours["attainment"], ours["reached"]) == (300, 1.0, True)
    assert ours["gpu_hours"] == pytest.approx(ours["gpu_hours_prefill"] + ours["gpu_hours_decode"])
    assert told["promise"] == {"ttft_ms": 500.0, "itl_ms": 20.0, "attainment": 0.99}
    assert told["warnings"] == []
    assert "slaplanner (1 of 2): begins" in err


def test_the_same_command_prints_the_same_bytes(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--trace", trace, "--scale", "2.5", "--startup-spread", "lognormal", "--metrics-lost", "0.1", "--json")
    first, _ = simulated(capsys, *flags)
    assert simulated(capsys, *flags)[0] == first
    assert simulated(capsys, *flags, "--seed", "1")[0] != first


def test_the_settings_know_everybody_who_can_enter() -> None:
    assert set(POLICIES) == set(CONTESTANTS)
    assert set(CONTESTANTS) >= SEARCHED


def test_without_numba_it_says_so_and_prints_the_same(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--trace", trace, "--policy", "slaplanner", "--json")
    program = "import sys; sys.modules['numba'] = None; from sla_planner import cli; sys.exit(cli.run(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, "simulate", *MINUTES, *map(str, flags)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "WARN" in done.stderr
    assert "pip install sla-planner[fast]" in done.stderr
    assert done.stdout == simulated(capsys, *flags)[0]


def test_the_table_reads_on_a_hundred_columns(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = simulated(capsys, "--trace", trace)
    assert max(map(len, out.splitlines())) <= 100
    (row,) = [line.split() for line in out.splitlines() if line.startswith("slaplanner ")]
    assert (row[4], row[-1]) == ("100.00", "1.00")


def test_the_report_is_written_and_what_an_earlier_one_left_is_gone(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "out"
    _, err = simulated(capsys, "--trace", trace, "--out", out, "--policy", "static,fluid-bound")
    assert f"Report: {out / 'report.html'}" in err
    (out / "mine.txt").touch()
    told, _ = simulated(capsys, "--trace", trace, "--out", out, "--policy", "slaplanner", "--json")
    assert json.loads((out / "result.json").read_text()) == json.loads(told)
    assert {file.name for file in out.iterdir()} == {"mine.txt", "result.json", "report.html", "cost.png", "load.png", "slaplanner.png"}


def test_a_policy_that_misses_the_goal_is_no_failure_and_is_marked(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = simulated(capsys, "--trace", trace, "--policy", "slaplanner", "--ttft", "1")
    assert "slaplanner: 0.00 % of 300 requests" in out
    assert "slaplanner*" in out
    assert "misses the goal" in out


def test_the_planner_decides_the_same_when_it_is_restarted(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--trace", trace, "--policy", "slaplanner", "--json")
    assert simulated(capsys, *flags, "--restart-every", "5m")[0] == simulated(capsys, *flags)[0]


def test_a_planner_with_a_past_decides_otherwise(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rush = tmp_path / "rush.csv"
    rush.write_text("arrival_s,isl,osl\n" + "".join(f"{number / 20},2000,100\n" for number in range(20_000)))
    flags = ("--trace", trace, "--policy", "slaplanner", "--json")
    fresh, warned = (json.loads(simulated(capsys, *each)[0])["policies"][0] for each in (flags, (*flags, "--warmup-trace", rush)))
    assert warned["gpu_hours"] > fresh["gpu_hours"]


def test_the_limits_of_a_planner_hold_here_too(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = simulated(capsys, "--trace", trace, "--policy", "slaplanner", "--max-gpu-budget", "2", "--json")
    (ours,) = json.loads(out)["policies"]
    assert ours["gpu_hours"] < 1.5 * 2 * 1200 / 3600


@pytest.mark.parametrize(
    ("option", "value"),
    [("--slowness", "3"), ("--kv-transfer-s", "0.2"), ("--real-startup-s", "600"), ("--cluster-gpus", "2"), ("--prefix-hits", "0.9")],
)
def test_every_switch_of_the_cluster_is_felt(trace: Path, capsys: pytest.CaptureFixture[str], option: str, value: str) -> None:
    flags = ("--trace", trace, "--scale", "100", "--start", "1,1", "--policy", "slaplanner", "--json")
    plain, switched = (json.loads(simulated(capsys, *each)[0])["policies"] for each in (flags, (*flags, option, value)))
    assert switched != plain


def test_a_piece_of_the_trace(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = simulated(capsys, "--trace", trace, "--start-s", "100", "--duration-s", "10m", "--policy", "static", "--json")
    told = json.loads(out)
    assert told["policies"][0]["requests"] == 300
    assert told["traffic"] == "300 requests over 10 min (even.csv, 01:40 to 11:40)"
    assert "shorter than the 10 minutes that are not scored" in told["warnings"][0]


def test_a_single_request_is_judged_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "one.csv"
    path.write_text("arrival_s,isl,osl\n0,100,1\n")
    out, _ = simulated(capsys, "--trace", path, "--json", "--out", tmp_path / "out")
    told = json.loads(out)
    assert [(each["requests"], each["attainment"], each["itl_p50_ms"]) for each in told["policies"]] == [(1, 1.0, None), (1, 1.0, None)]
    assert told["duration_s"] == 60


def test_a_long_silence_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cut.csv.gz"
    path.write_bytes(gzip.compress(b"arrival_s,isl,osl\n0,100,10\n4000,100,10\n4600,100,10\n"))
    out, _ = simulated(capsys, "--trace", path, "--policy", "static")
    assert "warning: no request for longer than an hour: 00:00 to 1:06:40; was the recording interrupted?" in out


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("arrival_s,isl,osl\n", "holds no request"),
        ("arrival_s,isl,osl\n5,10,10\n4,10,10\n", "line 3: arrival_s is earlier than the request before: 4; sort the requests by arrival"),
        ("arrival_s,isl,osl\n-1,10,10\n", "line 2: arrival_s is negative: -1; count seconds from the start of the trace"),
    ],
)
def test_a_bad_trace_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, told: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    assert told in refused(capsys, "--trace", path, "--profile", "sample")


def test_what_cannot_be_simulated_is_said_before_anything_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = tmp_path / "absent.csv"
    told = refused(capsys, "--trace", absent, "--profile", "sample", "--policy", "slaplaner")
    assert told.startswith("error: flag --policy: unknown policy 'slaplaner'; did you mean slaplanner? known: slaplanner, static")
    assert refused(capsys, "--trace", absent, "--profile", tmp_path / "none").endswith("name it with --profile-results-dir")
    (tmp_path / "file").touch()
    assert "cannot make" in refused(capsys, "--trace", absent, "--profile", "sample", "--out", tmp_path / "file" / "out")
    assert refused(capsys).startswith("error: there is no traffic to simulate; give either --trace FILE")
    assert (
        refused(capsys, "--trace", absent, "--profile", "sample") == f"error: {absent}: No such file or directory; give a trace file that can be read"
    )
