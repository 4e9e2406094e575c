"""`profile show` as it is called: what it prints, and the one line when there is nothing to print."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sla_planner import cli
from sla_planner.report.profile_table import profile_text
from sla_planner.store.profile_files import PROFILE_JSON, read_profile, sample_profile_dir, write_profile_json


@pytest.fixture(autouse=True)
def stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.STAGES, "profile", "look at a profile")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line on stderr."""
    assert cli.run(["profile", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err.strip()


def test_the_folder_and_the_file_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_profile_json(read_profile(sample_profile_dir()), tmp_path / PROFILE_JSON)
    for place in (tmp_path, tmp_path / PROFILE_JSON):
        assert cli.run(["profile", "show", str(place)]) == 0
        assert capsys.readouterr().out == profile_text(read_profile(tmp_path), str(place)) + "\n"


def test_json_is_one_object_on_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(sample_profile_dir(), tmp_path / "dynamo")
    assert cli.run(["profile", "show", "--json", str(tmp_path / "dynamo")]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    told = json.loads(out)
    assert (told["place"], told["points"], told["flagged_points"]) == (str(tmp_path / "dynamo"), 58, 5)


def test_the_shipped_one_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless there is a folder of that name."""
    monkeypatch.chdir(tmp_path)
    assert cli.run(["profile", "show", "sample"]) == 0
    assert capsys.readouterr().out.startswith("Profile sample\n")
    (tmp_path / "sample").mkdir()
    assert refused(capsys, "show", "sample").startswith("error: sample: no complete profile here")


def test_what_cannot_be_shown_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = tmp_path / "absent"
    assert refused(capsys, "show", absent) == f"error: {absent}: no such file or directory; name a results directory or a profile.json"
    assert refused(capsys, "show", tmp_path).startswith(f"error: {tmp_path}: no complete profile here, not found: profile.json, ")
    (tmp_path / PROFILE_JSON).write_text("{")
    assert refused(capsys, "show", tmp_path).startswith(f"error: {tmp_path}/profile.json: not readable as JSON (")


def test_a_wrong_call_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys) == "error: Missing command; see sla-planner profile --help"
    assert refused(capsys, "show") == "error: Missing argument 'DIR'; see sla-planner profile show --help"
    assert refused(capsys, "shwo").startswith("error: No such command 'shwo'")
