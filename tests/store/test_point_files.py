"""What was saved is found again whatever happens in between, and nothing that lies in the folder stops a sweep."""

from __future__ import annotations

import fcntl
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sla_planner.errors import UsageError
from sla_planner.model.profile import ParallelMapping
from sla_planner.store.point_files import FORMAT, MOST_BYTES, PointFiles
from sla_planner.sweep.checkpoint import facts_key, point_key
from sla_planner.sweep.points import DecodeSeen, DecodeShape, EngineFacts, Point, PrefillSeen, PrefillShape
from sla_planner.sweep.port import Deployment, EngineIdentity
from sla_planner.traffic.prompt_form import PromptForm

TP1, TP4 = ParallelMapping(tp=1), ParallelMapping(tp=4)
IDENTITY = EngineIdentity("vllm", "llama", "vllm serve llama --port {port}", "image@sha256:1")
FACTS = EngineFacts("llama", 945029, "log line GPU KV cache size", None, PromptForm.CHAT, 1.25, 41.5)
PREFILL = Point(TP4, PrefillShape(3000), PrefillSeen(3001.5, (80.25, 81.0, 79.5), 0.26, 0.4), measured_at="2025-06-01T12:00:00Z", took_s=2.5)
BATCHED = Point(TP4, PrefillShape(3000, 4), PrefillSeen(3000.0, (300.0,) * 4, 0.31))
DECODE = Point(TP4, DecodeShape(3000, 48), None, DecodeSeen(48, 3100.5, (9.5,) * 48, 5000.0, 1.0), ("the client was 7 ms late",))
FAILED = Point(TP1, DecodeShape(3000, 512), defects=("HTTP 500",))


def key_of(point: Point) -> str:
    return point_key(IDENTITY, Deployment(point.mapping), point.shape)


FACTS_KEY = facts_key(IDENTITY, Deployment(TP4))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three points and an engine, saved by a sweep that is over."""
    with PointFiles(tmp_path / "points") as files:
        for point in (DECODE, FAILED, PREFILL):
            files.save_point(key_of(point), point)
        files.save_facts(FACTS_KEY, FACTS)
    return tmp_path / "points"


def file_of(folder: Path, part: str) -> Path:
    (found,) = folder.glob(f"*{part}*.json")
    return found


class TestWhatIsKept:
    @pytest.mark.parametrize("point", [PREFILL, BATCHED, DECODE, FAILED], ids=lambda point: point.shape.label)
    def test_a_point_is_found_by_the_sweep_that_saved_it_and_by_the_next(self, tmp_path: Path, point: Point) -> None:
        with PointFiles(tmp_path) as files:
            assert files.point(key_of(point)) is None
            files.save_point(key_of(point), point)
            assert files.point(key_of(point)) == point
        again = PointFiles(tmp_path)
        assert (again.point(key_of(point)), again.points(), again.warnings) == (point, (point,), [])

    def test_an_engine_likewise(self, folder: Path) -> None:
        files = PointFiles(folder)
        assert files.facts(FACTS_KEY) == FACTS
        assert files.point(FACTS_KEY) is None
        assert files.facts(key_of(DECODE)) is None

    def test_names_say_what_is_inside(self, folder: Path) -> None:
        names = {path.name for path in folder.glob("*.json")}
        assert names == {
            f"tp4-prefill-isl3000-{key_of(PREFILL)[:10]}.json",
            f"tp4-decode-isl3000-batch48-{key_of(DECODE)[:10]}.json",
            f"tp1-decode-isl3000-batch512-{key_of(FAILED)[:10]}.json",
            f"engine-{FACTS_KEY[:10]}.json",
        }
        document = json.loads(file_of(folder, "batch48").read_text())
        assert (document["format"], document["key"], document["point"]["decode"]["running"]) == (FORMAT, key_of(DECODE), 48)

    def test_points_come_in_the_order_of_a_person(self, tmp_path: Path) -> None:
        order = [
            Point(TP1, PrefillShape(500)),
            Point(TP1, PrefillShape(3000)),
            Point(TP1, PrefillShape(3000, 4)),
            Point(TP1, DecodeShape(500, 8)),
            Point(TP1, DecodeShape(500, 48)),
            Point(TP4, PrefillShape(500)),
        ]
        with PointFiles(tmp_path) as files:
            for point in reversed(order):
                files.save_point(key_of(point), point)
        assert PointFiles(tmp_path).points() == tuple(order)

    def test_one_shape_on_two_engines_is_two_files(self, tmp_path: Path) -> None:
        keys = [point_key(replace(IDENTITY, image=image), Deployment(TP4), DECODE.shape) for image in ("old", "new")]
        with PointFiles(tmp_path) as files:
            files.save_point(keys[0], DECODE)
            assert files.point(keys[1]) is None
            files.save_point(keys[1], replace(DECODE, took_s=9.0))
        again = PointFiles(tmp_path)
        assert [point.took_s for point in map(again.point, keys) if point] == [0.0, 9.0]

    def test_measured_again_replaces(self, folder: Path) -> None:
        with PointFiles(folder) as files:
            files.save_point(key_of(FAILED), replace(FAILED, defects=(), took_s=1.0))
        assert PointFiles(folder).point(key_of(FAILED)) == replace(FAILED, defects=(), took_s=1.0)

    def test_no_number_that_json_does_not_have(self, folder: Path) -> None:
        before = file_of(folder, "prefill").read_bytes()
        with PointFiles(folder) as files, pytest.raises(ValueError, match="not JSON compliant"):
            files.save_point(key_of(PREFILL), replace(PREFILL, took_s=math.nan))
        assert file_of(folder, "prefill").read_bytes() == before


CHILD = """
import sys
from pathlib import Path
from sla_planner.store.point_files import PointFiles
from sla_planner.sweep.points import Point, DecodeShape
from sla_planner.model.profile import ParallelMapping
files = PointFiles(Path(sys.argv[1]))
files.prepare()
for batch in range(1, 100_000):
    files.save_point(f"{batch:032x}"[::-1], Point(ParallelMapping(), DecodeShape(1000, batch)))
    print(batch, flush=True)
"""


class TestKilled:
    def test_kill_9_loses_at_most_the_point_that_was_being_measured(self, tmp_path: Path) -> None:
        with subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:
                if line.strip() == "20":
                    break
            with pytest.raises(UsageError, match=rf"^another sweep \(pid {child.pid} on \S+\) writes to {tmp_path}; wait until it is over, or "):
                PointFiles(tmp_path).prepare()
            child.send_signal(signal.SIGKILL)
            told = 20 + len(child.stdout.readlines())
        with PointFiles(tmp_path) as files:
            batches = [point.shape.batch for point in files.points() if isinstance(point.shape, DecodeShape)]
            assert batches in (list(range(1, told + 1)), list(range(1, told + 2)))
            assert files.warnings == []

    def test_what_a_killed_write_leaves_is_removed(self, folder: Path) -> None:
        left = folder / f".{file_of(folder, 'prefill').name}.0badc0de.tmp"
        left.write_text('{"form')
        assert len(PointFiles(folder).points()) == 3
        assert left.exists()  # whoever only reads changes nothing
        with PointFiles(folder) as files:
            assert (len(files.points()), files.warnings) == (3, [])
        assert not left.exists()
        assert not list(folder.glob(".room*"))


class TestDamage:
    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (b"", "is not JSON"),
            (b'{"format": 1', "is not JSON"),
            (b"\xff\xfe", "is not JSON"),
            (bytes(4096), "is not JSON"),
            (b"[" * 100_000, "is not JSON"),
            (b"[]", "is no point of a sweep"),
            (b"{}", "is no point of a sweep"),
            (b'{"format": 1, "key": "\\ud800", "point": {}}', "is damaged"),
            (b" " * (MOST_BYTES + 1), f"is larger than {MOST_BYTES} bytes"),
        ],
    )
    def test_it_is_set_aside_and_its_point_measured_again(self, folder: Path, content: bytes, why: str) -> None:
        bad = file_of(folder, "batch48")
        bad.write_bytes(content)
        with PointFiles(folder) as files:
            (warning,) = files.warnings
            assert warning.startswith(f"{bad} {why}")
            assert warning.endswith(f"; kept as {bad.name}.bad, what it held is measured again")
            assert "\n" not in warning
            assert bad.with_name(bad.name + ".bad").read_bytes() == content
            assert files.point(key_of(DECODE)) is None
            assert files.points() == (FAILED, PREFILL)
            files.save_point(key_of(DECODE), DECODE)
        with PointFiles(folder) as files:
            assert (files.point(key_of(DECODE)), files.warnings) == (DECODE, [])

    @pytest.mark.parametrize(
        ("old", "new", "why"),
        [
            ('"format": 1', '"format": 0', "has format 0, this version reads 1"),
            ('"format": 1', '"format": 2', "has format 2, this version reads 1"),
            ('"window_s": 1.0', '"window_s": "1.0"', "is damaged (point.decode.window_s: Input should be a valid number)"),
            ('"window_s": 1.0', '"window_s": NaN', "is damaged (a number is not finite)"),
            ('"window_s": 1.0', '"window_s": 1e400', "is damaged (a number is not finite)"),
            ('"prefill": null', '"prefill": {"isl_tokens": 1.0, "ttft_ms": [], "wall_s": 1.0}', "is damaged (what was seen is not of its shape)"),
            ('"batch": 48', '"batch": 8', f"holds what belongs into tp4-decode-isl3000-batch8-{key_of(DECODE)[:10]}.json"),
        ],
    )
    def test_a_wrong_value(self, folder: Path, old: str, new: str, why: str) -> None:
        bad = file_of(folder, "batch48")
        text = bad.read_text()
        assert old in text
        bad.write_text(text.replace(old, new))
        with PointFiles(folder) as files:
            assert files.warnings == [f"{bad} {why}; kept as {bad.name}.bad, what it held is measured again"]
            assert files.point(key_of(DECODE)) is None

    def test_a_key_added_later_is_read_as_its_default(self, folder: Path) -> None:
        file = file_of(folder, "batch48")
        document = json.loads(file.read_text())
        del document["point"]["decode"]["client_lag_ms"]
        file.write_text(json.dumps(document))
        assert PointFiles(folder).point(key_of(DECODE)) == DECODE

    def test_files_of_others_stay(self, folder: Path) -> None:
        strangers = [folder / name for name in ("notes.json", "README.md", "old.json.bad")]
        for stranger in strangers:
            stranger.write_text("{}")
        copy = folder / "copy of a point.json"
        copy.write_bytes(file_of(folder, "batch48").read_bytes())
        with PointFiles(folder) as files:
            assert files.warnings == [
                f"{copy} holds what belongs into {file_of(folder, 'batch48-').name}; ignored",
                f"{folder}/notes.json is no point of a sweep; ignored",
            ]
            assert len(files.points()) == 3
        assert all(path.exists() for path in (*strangers, copy))

    def test_a_pipe_is_not_waited_for(self, folder: Path) -> None:
        os.mkfifo(folder / "tp1-pipe-0123456789.json")
        with PointFiles(folder) as files:
            assert files.warnings == [
                f"{folder}/tp1-pipe-0123456789.json is not a file; kept as tp1-pipe-0123456789.json.bad, what it held is measured again"
            ]

    def test_who_only_reads_changes_nothing(self, folder: Path) -> None:
        bad = file_of(folder, "batch48")
        bad.write_text("")
        files = PointFiles(folder)
        assert files.points() == (FAILED, PREFILL)
        assert files.warnings == [f"{bad} is not JSON; ignored, the next sweep measures again what it held"]
        assert bad.exists()

    def test_what_cannot_be_set_aside_is_still_measured_again(self, folder: Path) -> None:
        bad = file_of(folder, "batch48")
        bad.write_text("")
        (folder / (bad.name + ".bad")).mkdir()
        with PointFiles(folder) as files:
            assert files.warnings == [f"{bad} is not JSON and cannot be set aside (Is a directory); what it held is measured again"]
            files.save_point(key_of(DECODE), DECODE)
        assert PointFiles(folder).point(key_of(DECODE)) == DECODE


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4), st.floats(0, 1))
@settings(deadline=None, max_examples=60)
def test_any_damage_costs_one_point_at_most(tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[float, int]], end: float) -> None:
    """A few bytes changed, the end cut off."""
    folder = tmp_path_factory.mktemp("points")
    with PointFiles(folder) as files:
        files.save_point(key_of(PREFILL), PREFILL)
        files.save_point(key_of(FAILED), FAILED)
    file = file_of(folder, "prefill")
    whole = bytearray(file.read_bytes())
    for position, value in edits:
        whole[min(int(position * len(whole)), len(whole) - 1)] = value
    file.write_bytes(whole[: int(end * 2 * len(whole))])
    with PointFiles(folder) as files:
        assert files.point(key_of(FAILED)) == FAILED
        assert len(files.points()) + len(files.warnings) == 2
        assert not any("\n" in warning for warning in files.warnings)


class TestTheFolder:
    def test_it_is_made(self, tmp_path: Path) -> None:
        with PointFiles(tmp_path / "results" / "chat" / "points") as files:
            assert files.points() == ()
        assert (tmp_path / "results" / "chat" / "points").is_dir()

    def test_reading_makes_nothing(self, tmp_path: Path) -> None:
        assert PointFiles(tmp_path / "none").points() == ()
        assert list(tmp_path.iterdir()) == []

    def test_below_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(UsageError, match=rf"^cannot make the directory {tmp_path}/file: File exists; choose another path$"):
            PointFiles(tmp_path / "file" / "points").prepare()
        assert PointFiles(tmp_path / "file" / "points").points() == ()

    def test_in_place_of_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "points").write_text("")
        with pytest.raises(UsageError, match=rf"^cannot make the directory {tmp_path}/points: File exists; choose another path$"):
            PointFiles(tmp_path / "points").prepare()

    def test_one_that_cannot_be_written(self) -> None:
        with pytest.raises(UsageError, match=r"^cannot (write in|make the directory) /proc/\d+"):
            PointFiles(Path(f"/proc/{os.getpid()}")).prepare()

    def test_a_full_disk_is_found_before_anything_is_measured(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file size limit stands for the disk; the signal that comes with it is ignored, as Python does."""
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            with pytest.raises(UsageError, match=rf"^cannot write {tmp_path}/\.room: File too large; choose another path$"):
                PointFiles(tmp_path).prepare()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        with PointFiles(tmp_path) as files:  # and the lock was given back
            assert files.points() == ()

    def test_two_sweeps_never_write_one_folder(self, folder: Path) -> None:
        first, second = PointFiles(folder), PointFiles(folder)
        first.prepare()
        first.prepare()
        with pytest.raises(UsageError, match=rf"^another sweep \(pid {os.getpid()} on \S+\) writes to {folder}; "):
            second.save_point(key_of(FAILED), FAILED)
        assert len(second.points()) == 3
        first.close()
        second.prepare()
        second.close()

    def test_a_lock_that_nobody_signed(self, folder: Path) -> None:
        with (folder / ".lock").open("w") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            with pytest.raises(UsageError, match=r"^another sweep \(pid unknown\)"):
                PointFiles(folder).prepare()

    def test_the_lock_does_not_pass_to_the_engines_that_a_sweep_starts(self, folder: Path) -> None:
        files = PointFiles(folder)
        files.prepare()
        pipe = subprocess.PIPE
        with subprocess.Popen([sys.executable, "-c", "print(flush=True); input()"], stdin=pipe, stdout=pipe, close_fds=False) as engine:
            assert engine.stdout is not None
            engine.stdout.readline()  # the kernel closes files a moment after the spawn returns
            files.close()
            with PointFiles(folder) as again:
                assert len(again.points()) == 3
            engine.communicate(b"\n")
