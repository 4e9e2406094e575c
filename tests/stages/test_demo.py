"""The demo's own parts. The whole of it runs in the project's CI script, where its exit code counts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sla_planner.model.engine import engine_of
from sla_planner.model.profile import slowed
from sla_planner.store.profile_files import read_profile, sample_profile_dir

DEMO = (sys.executable, "-m", "sla_planner", "demo", "--output-dir")


def children_of(session: int) -> set[int]:
    """Processes whose parent or session is `session`, or one of theirs."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = entry.read_text().split(" (")[0], entry.read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        if rest[0] != "Z" and int(rest[1]) == session:
            found.add(int(pid))
    return found


def test_ctrl_c_leaves_nothing_running(tmp_path):
    for name in ("holiday.png", "demo.png", "report.html"):
        (tmp_path / name).write_text("from before")
    demo = subprocess.Popen([*DEMO, tmp_path], stderr=subprocess.PIPE, text=True, env={**os.environ, "TERM": "dumb"})
    assert demo.stderr is not None
    first = demo.stderr.readline()  # traffic flows: engine and planner are up
    helpers = children_of(demo.pid)
    demo.send_signal(signal.SIGINT)
    rest = demo.communicate(timeout=30)[1]
    assert "load" in first
    assert len(helpers) == 2
    assert demo.returncode == 75
    assert rest.endswith("error: interrupted; nothing is left running; no report was written\n")
    assert not [pid for pid in helpers if Path(f"/proc/{pid}").exists()]
    assert not (tmp_path / "report.html").exists()
    assert not (tmp_path / "demo.png").exists()
    assert (tmp_path / "holiday.png").read_text() == "from before"  # not ours


def test_an_output_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    ended = subprocess.run([*DEMO, tmp_path / "file" / "out"], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "Not a directory" in ended.stderr


def test_a_slowed_engine_takes_as_much_longer_as_it_says():
    profile = read_profile(sample_profile_dir())
    fast, slow = engine_of(profile), engine_of(slowed(profile, 4.0))
    assert slow.prefill.ttft_ms(3000) == pytest.approx(4 * fast.prefill.ttft_ms(3000), rel=1e-6)
    assert slow.itl_law.itl_ms(100, 3e5) == pytest.approx(4 * fast.itl_law.itl_ms(100, 3e5), rel=1e-3)
    assert slowed(profile, 4.0).provenance.source.endswith("slowed 4 times")
    assert [m.max_kv_tokens for m in slowed(profile, 4.0).decode] == [m.max_kv_tokens for m in profile.decode]
