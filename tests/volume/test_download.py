"""A folder of the volume, copied here: what arrives, what is refused, what a broken connection leaves, what the next run makes of it."""

from __future__ import annotations

import contextlib
import os

import pytest

from sla_planner.errors import UnreachableError, UsageError
from sla_planner.volume.agent import open_local
from sla_planner.volume.client import VolumeClient
from sla_planner.volume.download import Download
from sla_planner.volume.frames import Gone
from sla_planner.volume.progress import TransferProgress
from sla_planner.volume.tree import Full, LeftOut, Tree

from .conftest import CutWire

RESULTS = {
    "profile.json": b"{}",
    "points/a.json": b"1",
    "points/b.json": b"2",
    "report.html": os.urandom(2_000_000),
    "engines/config.yaml": b"a: 1",
}


@pytest.fixture
def results(volume):
    for path, content in RESULTS.items():
        place = volume / "profiling_results" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return volume / "profiling_results"


@pytest.fixture
def here(tmp_path):
    return tmp_path / "results"


def files(folder):
    return {each.relative_to(folder).as_posix(): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def paths(*names):
    return tuple(f"profiling_results/{name}" for name in names)


def refused(download, client, progress):
    with pytest.raises(UsageError) as caught:
        download.run(client, progress)
    return str(caught.value)


class TestWhole:
    def test_all_of_it(self, client, progress, results, here):
        os.utime(results / "profile.json", (1, 1000))
        done = Download("profiling_results", here).run(client, progress)
        assert files(here) == RESULTS
        assert (here / "profile.json").stat().st_mtime == 1000
        assert (sorted(done.new), done.same, done.replaced, done.left_out) == (sorted(paths(*RESULTS)), (), (), ())
        assert done.total_bytes == sum(map(len, RESULTS.values()))

    def test_without_configs(self, client, progress, results, here):
        Download("profiling_results", here, configs=False).run(client, progress)
        assert files(here).keys() == RESULTS.keys() - {"engines/config.yaml"}

    def test_the_whole_volume(self, client, progress, results, here):
        Download("", here).run(client, progress)
        assert files(here) == {f"profiling_results/{path}": content for path, content in RESULTS.items()}

    def test_a_second_time_nothing_is_sent(self, client, progress, results, here):
        Download("profiling_results", here).run(client, progress)
        before, moved = {path: (here / path).stat().st_mtime_ns for path in RESULTS}, progress.moved_bytes
        done = Download("profiling_results", here).run(client, progress)
        assert (done.new, sorted(done.same)) == ((), sorted(paths(*RESULTS)))
        assert progress.moved_bytes == moved == sum(map(len, RESULTS.values()))
        assert {path: (here / path).stat().st_mtime_ns for path in RESULTS} == before

    def test_links_that_lead_out_are_left_out(self, client, progress, results, here):
        (results / "secret").symlink_to("/etc/passwd")
        done = Download("profiling_results", here).run(client, progress)
        assert done.left_out == (LeftOut("profiling_results/secret", "a link that leads out of /data"),)
        assert files(here) == RESULTS


class TestOthersOfThatName:
    def test_are_kept_and_nothing_comes(self, client, progress, results, here):
        here.mkdir()
        (here / "profile.json").write_text("mine")
        (here / "report.html").write_text("mine too")
        said = refused(Download("profiling_results", here), client, progress)
        assert said == (
            f"{here}/profile.json, {here}/report.html differ from what is on the volume, nothing was downloaded; "
            "take another --output-dir, or add --force to replace"
        )
        assert files(here) == {"profile.json": b"mine", "report.html": b"mine too"}

    def test_are_replaced_when_forced(self, client, progress, results, here):
        here.mkdir()
        (here / "profile.json").write_text("mine")
        (here / "notes.txt").write_text("mine")
        done = Download("profiling_results", here, force=True).run(client, progress)
        assert done.replaced == paths("profile.json")
        assert files(here) == RESULTS | {"notes.txt": b"mine"}

    def test_a_folder_is_in_the_way(self, client, progress, results, here):
        (here / "profile.json").mkdir(parents=True)
        said = refused(Download("profiling_results", here, force=True), client, progress)
        assert said == f"{here}/profile.json is a folder, on the volume it is a file; take another --output-dir"

    def test_a_link_here_that_leads_out_is_not_written_through(self, client, progress, results, here, tmp_path):
        here.mkdir()
        (tmp_path / "elsewhere").mkdir()
        (here / "points").symlink_to(tmp_path / "elsewhere")
        said = refused(Download("profiling_results", here, force=True), client, progress)
        assert f"{here}/points/a.json leads out of {here}" in said
        assert files(tmp_path / "elsewhere") == {}

    def test_the_output_folder_may_be_a_link(self, client, progress, results, here, tmp_path):
        (tmp_path / "real").mkdir()
        here.symlink_to(tmp_path / "real")
        Download("profiling_results", here).run(client, progress)
        assert files(tmp_path / "real") == RESULTS


class TestNotPossible:
    def test_an_empty_folder(self, client, progress, volume, here):
        (volume / "profiling_results").mkdir()
        said = refused(Download("profiling_results", here), client, progress)
        assert said == "/data/profiling_results holds no files; has the sweep finished? see kubectl get jobs"
        assert not here.exists()

    def test_a_folder_of_configs_alone(self, client, progress, volume, here):
        (volume / "configs").mkdir()
        (volume / "configs" / "disagg.yaml").touch()
        assert "/data/configs holds no files but YAML ones" in refused(Download("configs", here, configs=False), client, progress)

    def test_an_output_folder_that_cannot_be(self, client, progress, results, tmp_path):
        (tmp_path / "file").touch()
        said = refused(Download("profiling_results", tmp_path / "file" / "x"), client, progress)
        assert said == f"folder {tmp_path}/file/x cannot be made: Not a directory; name a folder that this user may write"

    def test_no_room_here(self, client, progress, results, here, monkeypatch):
        monkeypatch.setattr(Tree, "free_bytes", lambda _: 1000)
        with pytest.raises(Full) as caught:
            Download("profiling_results", here).run(client, progress)
        assert str(caught.value) == f"2,000,008 bytes are to come, {here} has room for 1,000; free some, or take another --output-dir"
        assert files(here) == {}

    def test_a_file_that_cannot_be_read(self, client, progress, results, here, monkeypatch):
        """Its agent says so; all others come."""
        trouble = UsageError("cannot read /data/profiling_results/points/a.json: Input/output error")
        reading = Tree.reading

        def broken(self, relative):
            if relative.endswith("points/a.json"):
                raise trouble
            return reading(self, relative)

        monkeypatch.setattr(Tree, "reading", broken)
        said = refused(Download("profiling_results", here), client, progress)
        assert said == (
            "1 of the files did not arrive: cannot read /data/profiling_results/points/a.json: Input/output error; "
            "all others did; the same command goes on from there"
        )
        assert files(here).keys() == RESULTS.keys() - {"points/a.json"}

    def test_a_file_that_is_being_written(self, progress, volume, here):
        """Half of it and half of something else would be neither."""
        big = volume / "log"
        with big.open("wb") as file:
            file.truncate(60_000_000)  # more than can be on its way at once

        class Growing(TransferProgress):
            def moved(self, count):
                if not self.moved_bytes:
                    with big.open("ab") as file:
                        file.write(b"more")
                super().moved(count)

        growing = Growing(lambda _: None)
        with contextlib.closing(VolumeClient(open_local(volume), growing)) as client, pytest.raises(UnreachableError) as caught:
            Download("", here).run(client, growing)
        assert str(caught.value).startswith("1 of the files did not arrive: /data/log was written while it was sent; ")
        assert files(here) == {}


class TestBrokenConnection:
    @pytest.fixture
    def cut(self, progress, volume, results, here):
        """Runs a download whose connection breaks after so many bytes."""

        def run(after_bytes, download):
            with pytest.raises(Gone), contextlib.closing(VolumeClient(CutWire(open_local(volume), after_bytes), progress)) as client:
                download.run(client, progress)

        return run

    def test_the_next_run_goes_on_where_it_stopped(self, cut, client, progress, results, here):
        cut(1_500_000, Download("profiling_results", here))
        assert files(here).keys() == {"engines/config.yaml", "points/a.json", "points/b.json", "profile.json", ".report.html.part"}
        had = (here / ".report.html.part").stat().st_size
        assert 0 < had < 2_000_000
        moved = progress.moved_bytes

        done = Download("profiling_results", here).run(client, progress)

        assert files(here) == RESULTS
        assert progress.moved_bytes - moved == 2_000_000 - had
        assert (done.new, sorted(done.same)) == (paths("report.html"), sorted(paths(*(RESULTS.keys() - {"report.html"}))))

    def test_the_same_download_remembers_what_is_done(self, cut, client, progress, results, here):
        download = Download("profiling_results", here)
        cut(1_500_000, download)
        done = download.run(client, progress)
        assert (sorted(done.new), done.same) == (sorted(paths(*RESULTS)), ())

    def test_a_part_of_what_has_changed_since_is_not_used(self, cut, client, progress, results, here):
        cut(1_500_000, Download("profiling_results", here))
        (results / "report.html").write_bytes(b"x" * 3_000_000)
        Download("profiling_results", here).run(client, progress)
        assert (here / "report.html").read_bytes() == b"x" * 3_000_000

    def test_a_part_that_is_longer_than_the_file_is_not_used(self, cut, client, progress, results, here):
        cut(1_500_000, Download("profiling_results", here))
        (results / "report.html").write_bytes(b"short")
        Download("profiling_results", here).run(client, progress)
        assert files(here) == RESULTS | {"report.html": b"short"}
