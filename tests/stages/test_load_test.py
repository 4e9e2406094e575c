import contextlib
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from sla_planner import cli
from sla_planner.stages import load_test
from sla_planner.traffic.patterns import SCENARIOS

PROGRAM = [sys.executable, "-m", "sla_planner"]


@pytest.fixture(scope="module")
def engine():
    """The address of a simulated engine in a process of its own."""
    with subprocess.Popen([*PROGRAM, "engine-sim", "--port", "0", "--time-scale", "4"], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield next(word for word in process.stdout.readline().split() if word.startswith("http://"))
        finally:
            process.terminate()


@pytest.fixture
def closed_port():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def load(*flags):
    return subprocess.run([*PROGRAM, "load-test", *map(str, flags)], capture_output=True, text=True, timeout=60, check=False)


def refused(monkeypatch, capsys, *flags):
    """Exit code and the one line, run in this process."""
    monkeypatch.setattr(logging.root, "handlers", [])
    code = cli.run(["load-test", *map(str, flags)])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return code, err


def test_a_spike_is_measured_and_every_request_written(engine, tmp_path):
    output = tmp_path / "requests.jsonl"
    done = load("--url", engine, "--scenario", "spike", "--seed", 3, "--timeout-s", 60, "--json", "--output", output, "--log-format", "json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["model"], report["endpoint"], report["traffic"], report["seed"]) == ("simulated", "completions", "spike", 3)
    assert (report["requests"], report["completed"], report["errors"], report["offered_rps"]) == (50, 50, {}, None)
    assert 0 < report["ttft_ms"]["p50"] <= report["ttft_ms"]["p99"]
    assert report["itl_ms"]["p50"] > 0
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert {(each["isl_tokens"], each["prompt_tokens"], each["osl_tokens"], each["completion_tokens"]) for each in records} == {(8, 8, 200, 200)}
    assert len(records) == 50
    assert list(tmp_path.iterdir()) == [output]
    last = json.loads(done.stderr.splitlines()[-1])
    assert (last["sent"], last["finished"], last["failed"]) == (50, 50, 0)


def test_the_report_for_people_says_verdict_first(engine):
    done = load("--url", engine, "--endpoint", "chat", "--speed-up", 100, "--ttft", 0.001, "--itl-target", 1e6)
    assert done.returncode == 0, done.stderr
    head, verdict, _, titles, ttft, itl, *rest = done.stdout.splitlines()
    assert head.startswith(f"steady, 100 times as fast against simulated at {engine} (chat, seed ")
    assert verdict == "0.0 % of 20 requests inside TTFT 0.001 ms and ITL 1e+06 ms; promised 99 %: missed"
    assert titles.split() == ["p50", "p90", "p95", "p99", "max", "promised", "inside"]
    assert ttft.split()[-4:] == ["0.001", "ms", "0.0", "%"]
    assert itl.split()[-4:] == ["1e+06", "ms", "100", "%"]
    assert any(line.startswith("Answered        20, ") for line in rest)


def test_a_piece_of_the_shipped_trace_is_played(engine):
    done = load("--url", engine, "--trace", "sample", "--start-s", 660, "--duration-s", 4, "--scale", 0.5, "--speed-up", 10, "--seed", 1, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert report["traffic"] == "sample, seconds 660 to 664, 0.5 times the load, 10 times as fast"
    assert 5 < report["requests"] < 40  # half of some 8 requests/s for 4 s
    assert report["completed"] == report["requests"]


def test_a_model_that_is_not_served_is_refused_with_those_that_are(engine):
    done = load("--url", engine, "--model", "absent", "--scenario", "long-context", "--json")
    assert done.returncode == 2
    assert re.fullmatch(r"error: http://\S+ does not serve 'absent'; it serves \S+\n", done.stderr.splitlines(keepends=True)[-1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_the_partial_report(engine, tmp_path, number):
    trace = tmp_path / "long.csv"
    trace.write_text("arrival_s,isl,osl\n" + "".join(f"{second},8,2\n" for second in range(1000)))
    output = tmp_path / "requests.jsonl"
    flags = ["--url", engine, "--trace", str(trace), "--json", "--output", str(output)]
    with subprocess.Popen([*PROGRAM, "load-test", *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert "Sending 1,000 requests over 999 s" in process.stderr.readline()
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 75
    report = json.loads(out)
    assert (report["requests"], report["stopped"]) == (1000, True)
    assert report["sent"] == len(output.read_text().splitlines()) < 1000
    assert err.splitlines()[-1] == f"error: stopped after {report['sent']} of 1000 requests; the report covers these"


def test_on_a_terminal_progress_is_one_line_that_goes_away(engine):
    ours, theirs = os.openpty()
    flags = ["--url", engine, "--scenario", "spike"]
    with subprocess.Popen([*PROGRAM, "load-test", *flags], stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        with contextlib.suppress(OSError):  # how a pty says that the other side is closed
            while block := os.read(ours, 65536):
                seen += block
    os.close(ours)
    assert process.returncode == 0
    assert b"\r\x1b[K50 of 50 sent, " in seen
    assert seen.endswith(b"\r\x1b[K")


def test_nobody_there_is_exit_4_before_anything_is_sent(monkeypatch, capsys, closed_port):
    code, line = refused(monkeypatch, capsys, "--url", f"http://127.0.0.1:{closed_port}")
    assert code == 4
    assert line.startswith(f"error: no answer from http://127.0.0.1:{closed_port}/v1/models")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "Missing option '--url'"),
        (["--url", "localhost"], "'localhost' is not the address of a server"),
        (["--url", "http://me:secret@h:x"], "'http://me:***@h:x' is not the address of a server"),
        (["--url", "http://h", "--trace", "sample", "--scenario", "spike"], "--trace and --scenario are both given"),
        (["--url", "http://h", "--trace", "nofile"], "--trace: there is no file nofile; give one, or sample"),
        (
            ["--url", "http://h", "--trace", "absent.csv"],
            "--trace: there is no file absent.csv; give one, or sample, the trace that ships with the program",
        ),
        (["--url", "http://h", "--start-s", "60"], "no request arrives after 60 s; the trace holds 20 requests from 0 s to 57 s"),
        (["--url", "http://h", "--scale", "nan"], "nan is not a finite number"),
        (["--url", "http://h", "--ttft", "inf"], "inf is not a finite number"),
        (["--url", "http://h", "--attainment", "99"], "99"),
        (["--url", "http://h", "--output", "absent/requests.jsonl"], "cannot write absent/requests.jsonl: no directory"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(monkeypatch, capsys, tmp_path, flags, told):
    monkeypatch.chdir(tmp_path)
    code, line = refused(monkeypatch, capsys, *flags)
    assert code == 2
    assert told in line


def test_the_help_is_quick_and_names_the_exit_codes():
    script = "import sys; from sla_planner.cli import run; run(['load-test', '--help']); sys.exit(bool({'numpy', 'aiohttp'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert "exit code is 0 also when the promise is missed" in " ".join(done.stdout.split())


def test_the_scenarios_offered_are_the_ones_there_are():
    assert tuple(SCENARIOS) == load_test.SCENARIOS
