"""The planner's memory on disk: read, replaced, set aside; whole at every moment."""

import json
import os
import signal
import subprocess
import sys

import pytest

from sla_planner.errors import UsageError
from sla_planner.store.state_file import StateFile, state_path


class TestReading:
    def test_what_was_written_is_read(self, tmp_path):
        file = StateFile(tmp_path / "state.json")
        assert file.read() == (None, "")
        for document in ({"a": [1, None, "ä"]}, {"b": {}}):
            file.write(document)
            assert file.read() == (document, "")
        assert [each.name for each in tmp_path.iterdir()] == ["state.json"]

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (b'{"a": 1', "is not JSON (Expecting ',' delimiter: line 1 column 8 (char 7))"),
            (b"", "is not JSON (Expecting value: line 1 column 1 (char 0))"),
            (b"[" * 100_000, "is not JSON (maximum recursion depth exceeded"),
            (b"[]", "is not a JSON object"),
        ],
    )
    def test_what_cannot_be_used_is_kept_for_whoever_wants_to_look(self, tmp_path, content, why):
        path = tmp_path / "state.json"
        path.write_bytes(content)
        (tmp_path / "state.json.bad").write_text("of an earlier time")
        document, complaint = StateFile(path).read()
        assert document is None
        assert complaint.startswith(f"state {path} {why}")
        assert complaint.endswith("; kept as state.json.bad, starting afresh")
        assert not path.exists()
        assert (tmp_path / "state.json.bad").read_bytes() == content

    def test_a_state_that_cannot_be_opened_is_an_error_and_stays(self, tmp_path):
        with pytest.raises(UsageError, match=r"state .* cannot be read: Is a directory; name a file or folder that this user may read"):
            StateFile(tmp_path).read()

    def test_a_state_that_cannot_be_set_aside_is_an_error(self, tmp_path):
        (tmp_path / "state.json").write_text("{")
        (tmp_path / "state.json.bad").mkdir()
        with pytest.raises(UsageError, match=r"state .* is not JSON .*, and cannot be set aside: .*; remove it by hand"):
            StateFile(tmp_path / "state.json").read()


class TestWriting:
    def test_a_document_that_is_not_json_leaves_the_old_one(self, tmp_path):
        file = StateFile(tmp_path / "state.json")
        file.write({"a": 1})
        with pytest.raises(ValueError, match="not JSON compliant"):
            file.write({"a": float("nan")})
        assert file.read() == ({"a": 1}, "")

    def test_a_place_that_is_gone_is_an_error_with_its_name(self, tmp_path):
        with pytest.raises(UsageError, match=r"cannot write .*/absent/state.json: No such file or directory; create the directory first"):
            StateFile(tmp_path / "absent" / "state.json").write({})

    def test_killed_at_any_moment_it_leaves_a_whole_document(self, tmp_path):
        """A process does nothing but write; every document holds its number as often as it is long."""
        script = (
            "import sys; from pathlib import Path; from sla_planner.store.state_file import StateFile\n"
            "file, number = StateFile(Path(sys.argv[1])), 0\n"
            "while True: number += 1; file.write({'numbers': [number] * 20000}); print(number, flush=True)"
        )
        file = StateFile(tmp_path / "state.json")
        for _ in range(5):
            with subprocess.Popen([sys.executable, "-c", script, str(file.path)], stdout=subprocess.PIPE) as writer:
                assert writer.stdout is not None
                for _ in range(3):
                    writer.stdout.readline()
                os.kill(writer.pid, signal.SIGKILL)
            numbers = json.loads(file.path.read_text())["numbers"]
            assert len(numbers) == 20000
            assert len(set(numbers)) == 1
            assert numbers[0] >= 3


class TestPlaces:
    @pytest.mark.parametrize(
        ("given", "alone", "place"),
        [
            ("state.json", True, "state.json"),
            ("memory", True, "memory/chat.json"),
            ("memory", False, "memory/chat.json"),
            ("deep/er/memory", False, "deep/er/memory/chat.json"),
            ("deep/er/state.json", True, "deep/er/state.json"),
            ("folder.d", False, "folder.d/chat.json"),
            ("plain", True, "plain"),
        ],
    )
    def test_a_folder_holds_a_file_per_target(self, tmp_path, given, alone, place):
        (tmp_path / "folder.d").mkdir()
        (tmp_path / "plain").write_text("{}")
        path = state_path(tmp_path / given, "chat", alone=alone)
        assert path == tmp_path / place
        StateFile(path).write({"a": 1})
        assert json.loads(path.read_text()) == {"a": 1}

    @pytest.mark.parametrize("given", ["state.json", "plain"])
    def test_one_file_is_not_for_several_targets(self, tmp_path, given):
        (tmp_path / "plain").write_text("{}")
        with pytest.raises(UsageError, match=r"is one file for several targets; name a folder"):
            state_path(tmp_path / given, "chat", alone=False)

    @pytest.mark.parametrize("given", ["plain/memory", "plain/state.json"])
    def test_a_folder_that_cannot_be_made_is_an_error(self, tmp_path, given):
        (tmp_path / "plain").write_text("{}")
        with pytest.raises(UsageError, match=r"state folder .*plain.* cannot be made: .*; name a folder that this user may write"):
            state_path(tmp_path / given, "chat", alone=True)
