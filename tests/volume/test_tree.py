"""A folder that is read and written with nothing half-written, and nothing outside of it touched."""

from __future__ import annotations

import errno
import hashlib
import os
import stat

import pytest

from sla_planner.errors import UsageError
from sla_planner.volume.tree import Found, Full, LeftOut, Tree


@pytest.fixture
def tree(volume):
    return Tree(volume, "/data")


def ignore(_read_bytes):
    pass


def names(folder):
    return sorted(each.name for each in folder.iterdir())


def sha(data):
    return hashlib.sha256(data).hexdigest()


def written(tree, path, data, **finish):
    with tree.replacing(path) as new:
        new.write(data)
        return new.finish(sha(data), **finish)


class TestReading:
    def test_files_in_the_order_of_their_names(self, tree, volume):
        for path in ("b/z", "b/a/1", "a", "c"):
            (volume / path).parent.mkdir(parents=True, exist_ok=True)
            (volume / path).write_text(path)
        assert [each.path for each in tree.walk("", configs=True)] == ["a", "b/a/1", "b/z", "c"]
        assert [each.path for each in tree.walk("b", configs=True)] == ["b/a/1", "b/z"]

    def test_a_file_is_told_with_size_and_time(self, tree, volume):
        (volume / "a").write_bytes(b"12345")
        os.utime(volume / "a", (5, 1000.5))
        assert list(tree.walk("", configs=True)) == [Found("a", 5, 1000.5)]

    def test_configs_and_unfinished_files_may_stay_out(self, tree, volume):
        for name in ("c.yaml", "d.YML", "profile.json", "yaml", ".x.part", ".x.0123abcd.tmp", ".hidden"):
            (volume / name).touch()
        assert [each.path for each in tree.walk("", configs=False)] == [".hidden", "profile.json", "yaml"]
        assert {each.path for each in tree.walk("", configs=True)} == {".hidden", "profile.json", "yaml", "c.yaml", "d.YML"}

    def test_links_are_followed_inside_only(self, tree, volume, tmp_path):
        (tmp_path / "secret").write_text("secret")
        (volume / "runs").mkdir()
        (volume / "runs" / "real").write_text("x")
        (volume / "latest").symlink_to("runs/real")
        (volume / "out").symlink_to("../secret")
        (volume / "away").symlink_to("/etc")
        (volume / "folder").symlink_to("runs")
        (volume / "gone").symlink_to("nothing")
        (volume / "round").symlink_to("round")

        found = {each.path: each for each in tree.walk("", configs=True)}

        assert [path for path, each in found.items() if isinstance(each, Found)] == ["latest", "runs/real"]
        assert {path: each.why for path, each in found.items() if isinstance(each, LeftOut)} == {
            "away": "a link that leads out of /data",
            "folder": "a link to a folder",
            "gone": "cannot be read: No such file or directory",
            "out": "a link that leads out of /data",
            "round": "cannot be read: Too many levels of symbolic links",
        }

    def test_what_is_no_file_is_left_out(self, tree, volume):
        os.mkfifo(volume / "fifo")
        assert list(tree.walk("", configs=True)) == [LeftOut("fifo", "no regular file")]
        with pytest.raises(UsageError, match="/data/fifo is no regular file"), tree.reading("fifo"):
            pass

    @pytest.mark.parametrize("path", ["out/passwd", "out"])
    def test_nothing_outside_is_opened(self, tree, volume, path):
        (volume / "out").symlink_to("/etc")
        with pytest.raises(UsageError, match=f"/data/{path} leads out of /data"), tree.reading(path):
            pass
        with pytest.raises(UsageError, match="leads out"):
            tree.replacing(path)

    def test_what_is_not_there(self, tree):
        with pytest.raises(UsageError, match="/data/nope is not there"), tree.reading("nope"):
            pass


class TestWriting:
    def test_folders_are_made_and_no_part_is_left(self, tree, volume):
        assert written(tree, "a/b/c.txt", b"content", mtime_s=1000.0)
        assert (volume / "a/b/c.txt").read_bytes() == b"content"
        assert (volume / "a/b/c.txt").stat().st_mtime == 1000.0
        assert names(volume / "a/b") == ["c.txt"]

    def test_the_old_file_stays_until_the_new_one_is_whole(self, tree, volume):
        (volume / "a").write_bytes(b"old")
        (volume / "a").chmod(0o640)
        with tree.replacing("a") as new:
            new.write(b"half of the ne")
        assert (volume / "a").read_bytes() == b"old"
        assert written(tree, "b", b"x")
        with tree.replacing("a") as new:
            new.begin_anew()
            new.write(b"new")
            assert new.finish(sha(b"new"))
        assert (volume / "a").read_bytes() == b"new"
        assert stat.S_IMODE((volume / "a").stat().st_mode) == 0o640

    def test_what_was_kept_is_gone_on_with(self, tree, volume):
        with tree.replacing("a") as new:
            assert new.kept == 0
            new.write(b"abc")
        assert tree.is_begun("a")
        with tree.replacing("a") as new:
            assert (new.kept, new.kept_digest(ignore)) == (3, sha(b"abc"))
            new.write(b"def")
            assert new.finish(sha(b"abcdef"))
        assert (volume / "a").read_bytes() == b"abcdef"
        assert not tree.is_begun("a")

    def test_what_is_not_as_it_should_be_is_thrown_away(self, tree, volume):
        with tree.replacing("a") as new:
            new.write(b"abc")
            assert not new.finish(sha(b"abd"))
        assert names(volume) == []

    def test_two_writers_of_one_file(self, tree):
        with tree.replacing("a"), pytest.raises(UsageError, match="/data/a is being written by another run; wait"):
            tree.replacing("a")
        with tree.replacing("a"):
            pass

    def test_a_link_inside_stays_and_its_file_is_replaced(self, tree, volume):
        (volume / "real").write_text("old")
        (volume / "link").symlink_to("real")
        assert written(tree, "link", b"new")
        assert (volume / "link").is_symlink()
        assert (volume / "real").read_text() == "new"

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
    def test_a_full_disk_leaves_nothing(self, tree, volume, number):
        class FullFile:
            def write(self, _data):
                raise OSError(number, os.strerror(number))

            def close(self):
                raise OSError(number, os.strerror(number))

        with tree.replacing("a") as new:
            new._file.close()
            new._file = FullFile()
            with pytest.raises(Full) as caught:
                new.write(b"abc")
        assert str(caught.value) == "cannot write /data/a: no space is left on /data; free some; nothing half-written is left"
        assert names(volume) == []

    @pytest.mark.parametrize(
        ("path", "said"),
        [
            ("file/x", "cannot write /data/file/x: File exists; a part of the path is a file"),
            ("x" * 300, f"cannot write /data/{'x' * 300}: File name too long; choose a shorter name"),
        ],
    )
    def test_where_nothing_can_be_written(self, tree, volume, path, said):
        (volume / "file").touch()
        with pytest.raises(UsageError) as caught:
            tree.replacing(path)
        assert str(caught.value) == said
