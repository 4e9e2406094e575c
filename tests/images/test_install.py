"""What install.py leaves of an environment. That images work is shown by running them; that builds install by hash, by building them."""

from __future__ import annotations

import importlib.util
import struct
import sys
from pathlib import Path

import pytest

LOCK = """\
# made by a tool
alpha==1.0 \\
    --hash=sha256:aaaa \\
    --hash=sha256:bbbb
    # via beta
beta-tools==2.0 ; python_full_version < '3.12' \\
    --hash=sha256:cccc
    # via
    #   -r requirements.in
beta-tools==2.1 ; python_full_version >= '3.12' \\
    --hash=sha256:dddd
beta==3.0 \\
    --hash=sha256:eeee
"""


def test_what_a_lock_has_beyond_another_keeps_its_hashes(install):
    assert install.lock_beyond(LOCK, "beta==3.0 \\\n    --hash=sha256:eeee\nalpha==1.0 \\\n    --hash=sha256:aaaa\n") == (
        "beta-tools==2.0 ; python_full_version < '3.12' \\\n    --hash=sha256:cccc\n"
        "beta-tools==2.1 ; python_full_version >= '3.12' \\\n    --hash=sha256:dddd\n"
    )


@pytest.fixture
def environment(tmp_path: Path, install, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virtual environment as pip leaves it."""
    target = tmp_path / "environment"
    packages = target / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    for file in (
        "numeric/__init__.py",
        "numeric/core/tests/test_core.py",
        "numeric/tests/data.csv",
        "numeric/testing.py",
        "kubernetes/client/api/core_v1_api.py",
        "kubernetes/client/api/__init__.py",
        "kubernetes/aio/client.py",
        "kubernetes/config/kube_config.py",
    ):
        (packages / file).parent.mkdir(parents=True, exist_ok=True)
        (packages / file).write_text("VALUE = 1\n")
    (target / "bin").mkdir()
    (target / "share" / "man").mkdir(parents=True)
    (target / "lib64").symlink_to("lib")
    (target / "bin" / "python3").symlink_to(sys.executable)
    for file in ("bin/python3.11", "bin/sla-planner", "bin/f2py", "bin/activate", "pyvenv.cfg"):
        (target / file).write_text("")
    monkeypatch.setattr(install, "TARGET", target)
    return target


def left(target: Path) -> set[str]:
    return {path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir() or path.is_symlink()}


class TestFinish:
    def test_the_first_layer_is_an_environment_and_later_ones_add_to_it(self, install, environment):
        install.finish(keep=install.SKELETON)
        outside = {path for path in left(environment) if not path.startswith("lib/")}
        assert outside == {"bin/python3", "bin/python3.11", "pyvenv.cfg", "lib64"}
        install.finish(keep=())
        assert {path for path in left(environment) if not path.startswith("lib/")} == set()

    def test_tests_and_generated_classes_are_left_out(self, install, environment):
        install.finish(keep=())
        sources = {path.partition("site-packages/")[2] for path in left(environment) if path.endswith((".py", ".csv"))}
        assert sources == {"numeric/__init__.py", "numeric/testing.py", "kubernetes/client/api/__init__.py", "kubernetes/config/kube_config.py"}

    def test_bytecode_is_there_and_tied_to_no_time_stamp(self, install, environment):
        install.finish(keep=())
        compiled = list(environment.rglob("*.pyc"))
        assert len(compiled) == 4
        for file in compiled:
            assert Path(importlib.util.source_from_cache(str(file))).exists()
            assert struct.unpack("<I", file.read_bytes()[4:8]) == (0b01,)  # PEP 552: a hash that is not checked

    def test_everything_is_of_one_date(self, install, environment):
        install.finish(keep=install.SKELETON)
        assert {path.lstat().st_mtime for path in [environment, *environment.rglob("*")]} == {install.FILE_DATE_S}
