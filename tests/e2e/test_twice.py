"""The second try of `make e2e`, with tests that fail as tests do: always, only once, after themselves, and before pytest has read them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

TWICE = Path(__file__).with_name("twice.py")
FLAKY = """
import pathlib, pytest

def tries(name):
    file = pathlib.Path(__file__).with_name(name)
    file.write_text(file.read_text() + "." if file.exists() else ".")
    return len(file.read_text())

def test_good():
    assert tries("good") == 1

def test_stalled():
    assert tries("stalled") == 2

@pytest.fixture
def late():
    yield
    assert tries("late") == 2

def test_good_with_a_late_error(late):
    pass
"""
BAD = "def test_bad():\n    assert False\n"


def tried(folder: Path, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, str(TWICE), "run", str(folder / "out"), f"--rootdir={folder}", "-c", str(folder / "none.ini"), *arguments]
    (folder / "none.ini").write_text("[pytest]\n")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def summed(*folders: Path) -> list[str]:
    command = [sys.executable, str(TWICE), "sum", *(str(folder / "out") for folder in folders)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.fixture
def flaky(tmp_path: Path) -> Path:
    (tmp_path / "flaky").mkdir()
    (tmp_path / "flaky" / "test_flaky.py").write_text(FLAKY)
    return tmp_path / "flaky"


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "test_bad.py").write_text(BAD)
    return tmp_path / "bad"


def test_what_failed_once_is_told_and_has_passed(flaky: Path) -> None:
    code, said = tried(flaky)
    assert code == 0
    assert "e2e: FAILED, and is run once more: test_flaky::test_stalled" in said
    assert (flaky / "good").read_text() == "."  # was not run again
    *told, last = summed(flaky)
    assert told == [
        f"e2e: FAILED at the first try and passed at the second: test_flaky::{name}" for name in ("test_good_with_a_late_error", "test_stalled")
    ]
    assert re.fullmatch(r"3 passed, 2 of them at the second try in [\d.]+s", last)


def test_what_failed_twice_has_failed(flaky: Path, bad: Path) -> None:
    code, _ = tried(bad)
    assert code == 1
    assert re.fullmatch(r"1 failed in [\d.]+s", summed(bad)[-1])
    tried(flaky)
    assert re.fullmatch(r"1 failed, 3 passed, 2 of them at the second try in [\d.]+s", summed(flaky, bad)[-1])


def test_what_pytest_cannot_read_is_no_second_try(bad: Path) -> None:
    assert tried(bad, "--no-such-option")[0] not in (0, 1)
    assert re.fullmatch(r"1 error in [\d.]+s", summed(bad)[-1])
    (bad / "test_bad.py").write_text("import nothing_of_this_name\n")
    assert tried(bad)[0] == 2
    assert re.fullmatch(r"1 failed in [\d.]+s", summed(bad)[-1])


def test_all_good_is_run_once(bad: Path) -> None:
    (bad / "test_bad.py").write_text("import pytest\n\ndef test_a():\n    pass\n\ndef test_b():\n    pytest.skip('x')\n")
    assert tried(bad)[0] == 0
    assert re.fullmatch(r"1 passed, 1 skipped in [\d.]+s", summed(bad)[-1])
