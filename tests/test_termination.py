"""The termination message: the verdict, replaced by the error when there is one, and nothing where nobody asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from sla_planner.cli import run
from sla_planner.termination import LONGEST_BYTES, leave_word


def test_an_error_is_the_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "termination-log"
    file.touch()
    monkeypatch.setenv("TERMINATION_LOG", str(file))
    leave_word("all went well")
    assert run(["no-such-stage"]) == 2
    assert file.read_text() == capsys.readouterr().err.strip().removeprefix("error: ")
    assert "unknown stage 'no-such-stage'" in file.read_text()


def test_a_long_word_is_cut_and_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "termination-log"
    monkeypatch.setenv("TERMINATION_LOG", str(file))
    leave_word("nobody asked")
    assert not file.exists()
    file.touch()
    leave_word("x" * 10_000)
    assert file.stat().st_size == LONGEST_BYTES
