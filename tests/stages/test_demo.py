"""The demo's own parts. The whole of it runs in the project's CI script, where its exit code counts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sla_planner.cli import run
from sla_planner.model.engine import engine_of
from sla_planner.model.profile import slowed
from sla_planner.stages.demo_run import ENGINES, RESULTS
from sla_planner.stages.demo_sweep import write_engines
from sla_planner.store.profile_files import read_profile, sample_profile_dir, write_profile_json

DEMO = (sys.executable, "-m", "sla_planner", "demo", "--output-dir")


def descendants_of(ancestor: int) -> set[int]:
    """Processes below `ancestor` that run."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = entry.read_text().split(" (")[0], entry.read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        if rest[0] != "Z":
            parents[int(pid)] = int(rest[1])
    found = {ancestor}
    while below := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= below
    return found - {ancestor}


def interrupted_at(line_of, folder, *flags):
    """A demo that got Ctrl-C when a line with `line_of` came; its exit code, last words, and the processes that it had started."""
    demo = subprocess.Popen([*DEMO, folder, *flags], stderr=subprocess.PIPE, text=True, env={**os.environ, "TERM": "dumb"})
    assert demo.stderr is not None
    while line_of not in (line := demo.stderr.readline()):
        assert line, f"it ended before {line_of!r}"
    helpers = descendants_of(demo.pid)
    demo.send_signal(signal.SIGINT)
    return demo.communicate(timeout=60)[1], demo.returncode, helpers


def gone(helpers):
    return not [pid for pid in helpers if Path(f"/proc/{pid}").exists()]


def test_ctrl_c_leaves_nothing_running(tmp_path):
    for name in ("holiday.png", "demo.png", "report.html"):
        (tmp_path / name).write_text("from before")
    (tmp_path / "run").mkdir()
    write_engines(tmp_path / "run" / ENGINES)
    (tmp_path / "run" / RESULTS).mkdir()
    write_profile_json(read_profile(tmp_path / "run" / ENGINES), tmp_path / "run" / RESULTS / "profile.json")
    rest, code, helpers = interrupted_at("load", tmp_path, "--no-sweep")  # traffic flows: engine and planner are up
    assert code == 75
    assert len(helpers) == 2
    assert rest.endswith("error: interrupted; nothing is left running; no report was written\n")
    assert gone(helpers)
    assert not (tmp_path / "report.html").exists()
    assert not (tmp_path / "demo.png").exists()
    assert (tmp_path / "holiday.png").read_text() == "from before"  # not ours


@pytest.mark.e2e
def test_ctrl_c_during_the_sweep_leaves_nothing_running(tmp_path):
    rest, code, helpers = interrupted_at("TP1 prefill ISL", tmp_path)
    assert code == 75
    assert len(helpers) >= 3  # the sweep, the guard of its engine, the engine
    assert rest.endswith("error: interrupted; nothing is left running; no report was written\n")
    assert gone(helpers)


def test_without_a_sweep_a_profile_of_before_is_needed(tmp_path, capsys):
    assert run(["demo", "--output-dir", str(tmp_path), "--no-sweep"]) == 2
    assert "profiling_results" in capsys.readouterr().err.splitlines()[-1]


def test_an_output_folder_that_cannot_be_made_is_told(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(["demo", "--output-dir", str(tmp_path / "file" / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Not a directory" in error


def test_a_slowed_engine_takes_as_much_longer_as_it_says():
    profile = read_profile(sample_profile_dir())
    fast, slow = engine_of(profile), engine_of(slowed(profile, 4.0))
    assert slow.prefill.ttft_ms(3000) == pytest.approx(4 * fast.prefill.ttft_ms(3000), rel=1e-6)
    assert slow.itl_law.itl_ms(100, 3e5) == pytest.approx(4 * fast.itl_law.itl_ms(100, 3e5), rel=1e-3)
    assert slowed(profile, 4.0).provenance.source.endswith("slowed 4 times")
    assert [m.max_kv_tokens for m in slowed(profile, 4.0).decode] == [m.max_kv_tokens for m in profile.decode]
