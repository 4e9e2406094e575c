"""A reader finds the old content or the new one, and whoever cannot be served is told why."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sla_planner.atomic import write_bytes, write_text
from sla_planner.errors import UsageError


def test_a_new_file_obeys_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "new.json", "grüße\n")
    finally:
        os.umask(before)
    assert (tmp_path / "new.json").read_bytes() == b"gr\xc3\xbc\xc3\x9fe\n"
    assert stat.S_IMODE((tmp_path / "new.json").stat().st_mode) == 0o640


def test_an_existing_file_keeps_its_mode_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(b"old and longer")
    path.chmod(0o606)
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o606
    assert [entry.name for entry in tmp_path.iterdir()] == ["data.bin"]


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "link").symlink_to("volume/real")
    write_text(tmp_path / "link", "1")
    write_text(tmp_path / "link", "2")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "volume" / "real").read_text() == "2"


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("missing/data.json", "create the directory first"),
        ("file/data.json", "a part of the path is a file"),
        ("folder", "name a file, not a directory"),
        ("x" * 250, "choose a shorter name"),
    ],
)
def test_an_error_names_the_path_and_the_remedy(tmp_path: Path, name: str, remedy: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    path = tmp_path / name
    with pytest.raises(UsageError) as caught:
        write_text(path, "text")
    assert f"cannot write {path}: " in caught.value.message
    assert remedy in caught.value.hint
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "folder"]


def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(UsageError, match="File too large"):
            write_bytes(path, b"n" * 8192)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["data.bin"]


KILLED_BEFORE_THE_RENAME = """
import os, signal, sys
from pathlib import Path
from sla_planner.atomic import write_text
Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
write_text(sys.argv[1], "new")
"""


def test_killed_between_write_and_rename_the_old_content_stays(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED_BEFORE_THE_RENAME, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    write_text(path, "newer")
    assert path.read_text() == "newer"
