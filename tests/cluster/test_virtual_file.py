"""What is particular to a file: bad content, crashes, the lock."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sla_planner.cluster import virtual_file
from sla_planner.cluster.target import Fleet, Outcome
from sla_planner.cluster.virtual import open_virtual_client, open_virtual_target
from sla_planner.errors import UnreachableError, UsageError
from sla_planner.plan.observation import WorkerCounts


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fleet.json"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "fleet.json is empty; repair it, or delete it"),
        ("\n", "fleet.json is empty; repair it, or delete it"),
        ('{"num_prefill_workers": 1, "num_dec', r"fleet.json is not JSON \(Unterminated string"),
        ("\udcff", r"fleet.json is not JSON \(.* can't decode byte 0xff"),
        ("[1, 2]", "fleet.json holds no JSON object; it should look like"),
        ('{"decision_id": null}', "fleet.json: decision_id is None, not an integer >= -1"),
        ('{"decision_id": true}', "fleet.json: decision_id is True, not an integer >= -1"),
        ('{"scaled_decision_id": 1.0}', "fleet.json: scaled_decision_id is 1.0, not an integer >= -1"),
        ('{"waiting_since": {}}', "fleet.json: waiting_since is {}, not an integer >= -1"),
    ],
)
def test_bad_content_is_named_and_kept(path: Path, content: str, complaint: str) -> None:
    path.write_bytes(content.encode(errors="surrogateescape"))
    target, client = open_virtual_target(f"file:{path}"), open_virtual_client(f"file:{path}")
    for act in (target.fleet, lambda: target.apply(1, 1, now_s=0.0), client.wait, client.get):
        with pytest.raises(UsageError, match=complaint):
            act()
    assert path.read_bytes() == content.encode(errors="surrogateescape")


def test_a_file_written_by_hand_needs_the_four_keys_only(path: Path) -> None:
    path.write_text('{"num_prefill_workers": 1, "num_decode_workers": 2, "decision_id": 3, "scaled_decision_id": 3, "comment": ["mine"]}')
    target = open_virtual_target(f"file:{path}")
    assert target.fleet() == Fleet(WorkerCounts(1), WorkerCounts(2))
    assert target.apply(2, 2, now_s=0.0).message.startswith("Decision 4 ")
    assert json.loads(path.read_text())["comment"] == ["mine"]


@pytest.mark.parametrize("name", ["missing/fleet.json", "folder"])
def test_a_place_that_cannot_hold_a_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=f"{name}"):
        open_virtual_target(f"file:{tmp_path / name}").apply(1, 1, now_s=0.0)


def test_a_lock_that_is_not_given_back_does_not_stop_the_planner(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual_file, "_LOCK_TIMEOUT_S", 0.02)
    target = open_virtual_target(f"file:{path}")
    with path.with_name("fleet.json.lock").open("w") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(
            UnreachableError, match=r"fleet.json has been locked by another program for .* s; see who holds it: fuser .*fleet.json.lock"
        ):
            target.apply(1, 1, now_s=0.0)
    assert target.apply(1, 1, now_s=0.0).outcome is Outcome.APPLIED


KILLED_BEFORE_THE_RENAME = """
import os, signal, sys
from pathlib import Path
from sla_planner.cluster.virtual import open_virtual_target
Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
open_virtual_target(sys.argv[1]).apply(9, 9, now_s=0.0)
"""


def test_killed_while_it_writes_and_holds_the_lock_the_old_decision_stands(path: Path) -> None:
    target, client = open_virtual_target(f"file:{path}"), open_virtual_client(f"file:{path}")
    target.apply(1, 1, now_s=0.0)
    client.complete(client.get())
    before = path.read_bytes()
    killed = subprocess.run([sys.executable, "-c", KILLED_BEFORE_THE_RENAME, f"file:{path}"], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    assert target.apply(2, 2, now_s=0.0).message.startswith("Decision 1 ")


BUSY = """
import itertools, sys
from sla_planner.cluster.virtual import open_virtual_client, open_virtual_target
target, client = open_virtual_target(sys.argv[1]), open_virtual_client(sys.argv[1])
for workers in itertools.count(1):
    target.apply(workers, workers, now_s=0.0)
    client.complete(client.get())
"""


def test_killed_at_any_moment_the_file_holds_a_whole_decision(path: Path) -> None:
    target, client = open_virtual_target(f"file:{path}"), open_virtual_client(f"file:{path}")
    for _ in range(4):
        seen = client.get().decision_id
        process = subprocess.Popen([sys.executable, "-c", BUSY, f"file:{path}"])
        try:
            while client.get().decision_id < seen + 5:
                assert process.poll() is None
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        decision = client.get()
        assert decision.num_prefill_workers == decision.num_decode_workers
        client.complete(decision)
        assert target.apply(1, 1000, now_s=0.0).outcome is Outcome.APPLIED
        client.complete(client.get())
