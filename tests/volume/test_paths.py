"""Which paths name a place on the volume."""

from __future__ import annotations

import pytest

from sla_planner.errors import UsageError
from sla_planner.volume.paths import checked, inside, shown


@pytest.mark.parametrize(
    ("written", "meant"),
    [("/data/configs/disagg.yaml", "configs/disagg.yaml"), ("/data", ""), ("/data/", ""), ("/data//a/./b/", "a/b"), ("/data/..x", "..x")],
)
def test_a_place_on_the_volume(written, meant):
    assert inside(written) == meant


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("/etc/passwd", "'/etc/passwd' is not on the volume; all paths there start with /data/"),
        ("data/x", "'data/x' is not on the volume; all paths there start with /data/"),
        ("/database/x", "'/database/x' is not on the volume; all paths there start with /data/"),
        ("/data/../etc/passwd", "'/data/../etc/passwd' has .. in it; write the path without"),
        ("/data/a/..", "'/data/a/..' has .. in it; write the path without"),
        ("/data/a\nb", "'/data/a\\nb' is no path; use printable characters, fewer than 4,096"),
        ("", "'' is not on the volume; all paths there start with /data/"),
    ],
)
def test_a_place_elsewhere_is_refused(written, said):
    with pytest.raises(UsageError) as caught:
        inside(written)
    assert str(caught.value) == said


@pytest.mark.parametrize("named", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a\0b", None, 3, "a/" * 3000 + "b"])
def test_what_the_other_side_may_not_name(named):
    with pytest.raises(UsageError, match="the other side names a file"):
        checked(named)


def test_what_it_may():
    assert checked("a b/..c/d\n") == "a b/..c/d\n"


def test_a_path_is_shown_on_one_line():
    assert shown("a\nb\x1b[2J") == "/data/a\\nb\\x1b[2J"
    assert shown("") == "/data"
