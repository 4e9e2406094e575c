"""build.py as it is called, in a small checkout of its own, with a builder that writes down what it is asked for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.images.archives import layer, write_archive
from tests.images.repository import FOLDER, images

BUILDER = """\
#!{python}
import json, os, pathlib, shutil, sys

words = sys.argv[1:]
secrets = [dict(part.split("=") for part in word.split(",")) for word in words if word.startswith("id=")]
contents = {{each["id"]: pathlib.Path(each["src"]).read_text() for each in secrets}}
call = {{"program": pathlib.Path(sys.argv[0]).name, "words": words, "secrets": contents}}
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps(call) + "\\n")
if "fails" in os.environ.get("BUILDER_DOES", "").split() and "build" in words:
    sys.exit(7)
if "no-daemon" in os.environ.get("BUILDER_DOES", "").split() and words == ["version"] and call["program"] == "docker":
    sys.exit(1)
if "push" in words:
    shutil.copy(os.environ["ARCHIVE"], words[-1].split(":")[1])
if "save" in words:
    shutil.copy(os.environ["ARCHIVE"], words[words.index("-o") + 1])
"""


class Checkout:
    """A copy of images/ beside a package of version 1.2.3, and calls of its build.py."""

    def __init__(self, root: Path) -> None:
        self.root = root / "checkout"
        self._programs = root / "programs"
        self._calls = root / "calls"
        shutil.copytree(FOLDER, self.root / "images", ignore=shutil.ignore_patterns("__pycache__", "sizes.json"))
        package = self.root / "scripts" / "sla_planner"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text('__version__ = "1.2.3"\n')
        self._programs.mkdir()
        (self._programs / "git").symlink_to(str(shutil.which("git")))
        self.archive = root / "archive.tar"
        write_archive(self.archive, layer({"usr/bin/python3": b"p" * 100}), layer({"opt/sla-planner/lib/numeric.py": b"n" * 100_000}))

    def has(self, *builders: str) -> None:
        for name in builders:
            (self._programs / name).write_text(BUILDER.format(python=sys.executable))
            (self._programs / name).chmod(0o755)

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        settings = {"PATH": str(self._programs), "CALLS": str(self._calls), "ARCHIVE": str(self.archive), "HOME": str(self.root), **environment}
        command = [sys.executable, str(self.root / "images" / "build.py"), *arguments]
        return subprocess.run(command, env=settings, capture_output=True, text=True, check=False)

    def git(self, *arguments: str) -> None:
        identity = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}
        subprocess.run(["git", *arguments], cwd=self.root, check=True, capture_output=True, env=os.environ | identity)

    def calls(self, word: str) -> list[dict[str, Any]]:
        calls = [json.loads(line) for line in self._calls.read_text().splitlines()] if self._calls.exists() else []
        return [call for call in calls if word in call["words"]]


def following(words: list[str], flag: str) -> list[str]:
    return [words[index + 1] for index, word in enumerate(words) if word == flag]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


class TestNames:
    def test_all_images_are_named_after_the_version_of_the_package(self, checkout):
        checkout.has("buildah")
        assert checkout.run("--quick").returncode == 0
        assert [following(call["words"], "-t") for call in checkout.calls("build")] == [[f"sla-planner/{image}:1.2.3"] for image in images()]

    def test_prefix_tag_base_and_images_come_from_flags_or_the_environment(self, checkout):
        checkout.has("buildah")
        checkout.run("planner", "--prefix", "registry.example/team", "--tag", "7", "--base-image", "base:1", "--quick")
        checkout.run("--quick", IMAGES="planner", PREFIX="registry.example/team", TAG="7", BASE_IMAGE="base:1")
        first, second = (call["words"] for call in checkout.calls("build"))
        assert first == second
        assert following(first, "-t") == ["registry.example/team/planner:7"]
        assert {"VERSION=7", "BASE_IMAGE=base:1"} <= set(following(first, "--build-arg"))

    def test_an_unknown_image_is_a_usage_error_before_anything_is_built(self, checkout):
        checkout.has("buildah")
        done = checkout.run("planner", "enginesim")
        assert (done.returncode, done.stderr) == (2, "error: unknown image 'enginesim'; did you mean engine-sim?\n")
        assert checkout.calls("build") == []


class TestBuilders:
    def test_docker_is_taken_only_where_its_daemon_answers(self, checkout):
        checkout.has("docker", "podman", "buildah")
        checkout.run("planner", "--quick")
        checkout.run("planner", "--quick", BUILDER_DOES="no-daemon")
        checkout.run("planner", "--quick", BUILDER="buildah")
        assert [call["program"] for call in checkout.calls("build")] == ["docker", "podman", "buildah"]

    def test_no_builder_at_all_is_said(self, checkout):
        done = checkout.run("planner")
        assert done.returncode == 2
        assert done.stderr.startswith("error: none of docker, podman, buildah works here; install one")

    def test_options_stand_where_each_builder_takes_them(self, checkout):
        checkout.has("buildah")
        checkout.run("planner", "--quick", BUILDAH_OPTIONS="--root '/a b' --storage-driver overlay", BUILD_OPTIONS="--network host")
        (call,) = checkout.calls("build")
        assert call["words"][:5] == ["--root", "/a b", "--storage-driver", "overlay", "build"]
        assert following(call["words"], "--network") == ["host"]
        assert following(call["words"], "--timestamp") == ["315532800"]

    def test_a_failed_build_ends_the_run(self, checkout):
        checkout.has("docker")
        done = checkout.run(BUILDER_DOES="fails")
        assert (done.returncode, done.stderr) == (2, "error: docker build ended with 7; its own words are above\n")
        assert len(checkout.calls("build")) == 1


class TestLabels:
    def test_the_commit_is_named_and_a_changed_file_is_told(self, checkout):
        checkout.has("buildah")
        checkout.git("init", "-q")
        checkout.git("remote", "add", "origin", "https://user:secret@git.example/team/sla-planner.git")
        checkout.git("add", ".")
        checkout.git("commit", "-q", "-m", "all")
        checkout.run("planner", "--quick")
        (checkout.root / "images" / "README.md").write_text("changed")
        checkout.run("planner", "--quick")
        clean, dirty = (dict(each.split("=", 1) for each in following(call["words"], "--build-arg")) for call in checkout.calls("build"))
        assert len(clean["REVISION"]) == 40
        assert dirty["REVISION"] == clean["REVISION"] + "-dirty"
        assert clean["SOURCE"] == "https://git.example/team/sla-planner.git"

    @pytest.mark.parametrize("remote", ["/srv/git/sla-planner", "git@git.example:team/sla-planner.git"])
    def test_an_address_that_says_nothing_to_others_is_not_named(self, checkout, remote):
        checkout.has("buildah")
        checkout.git("init", "-q")
        checkout.git("remote", "add", "origin", remote)
        checkout.run("planner", "--quick")
        assert "SOURCE=" in following(checkout.calls("build")[0]["words"], "--build-arg")


class TestPip:
    def test_what_pip_is_told_goes_along_as_secrets_and_as_nothing_else(self, checkout, tmp_path):
        checkout.has("buildah")
        (tmp_path / "bundle.pem").write_text("certificates")
        index = {"PIP_INDEX_URL": "https://user:secret@index.example/simple", "PIP_TRUSTED_HOST": "index.example"}
        checkout.run("planner", "--quick", PIP_CERT=str(tmp_path / "bundle.pem"), **index)
        (call,) = checkout.calls("build")
        assert call["secrets"] == {
            "pip-conf": "[global]\nindex-url = https://user:secret@index.example/simple\ntrusted-host = index.example\n",
            "ca-bundle": "certificates",
        }
        assert "index.example" not in " ".join(call["words"])

    def test_pip_told_nothing_needs_no_secret(self, checkout):
        checkout.has("buildah")
        checkout.run("planner", "--quick")
        assert checkout.calls("build")[0]["secrets"] == {}

    def test_a_bundle_that_is_missing_is_a_usage_error(self, checkout):
        checkout.has("buildah")
        done = checkout.run("planner", PIP_CERT="/nowhere/bundle.pem")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert done.stderr.startswith("error: PIP_CERT is /nowhere/bundle.pem, which is no file")


class TestArchives:
    @pytest.mark.parametrize("builder", ["docker", "podman", "buildah"])
    def test_every_builder_writes_them_whole_and_over_older_ones(self, checkout, tmp_path, builder):
        checkout.has(builder)
        folder = tmp_path / "new" / "folder"
        for _ in range(2):
            assert checkout.run("planner", "volume-tools", "--archive", str(folder), "--quick").returncode == 0
        assert sorted(file.name for file in folder.iterdir()) == ["planner.tar", "volume-tools.tar"]
        assert (folder / "planner.tar").read_bytes() == checkout.archive.read_bytes()

    def test_buildah_keeps_the_name_in_it(self, checkout, tmp_path):
        checkout.has("buildah")
        checkout.run("planner", "--archive", str(tmp_path), "--quick", PREFIX="localhost/sla-planner", TAG="e2e")
        (call,) = checkout.calls("push")
        assert call["words"][-2] == "localhost/sla-planner/planner:e2e"
        assert call["words"][-1].endswith(":localhost/sla-planner/planner:e2e")

    def test_none_is_written_unless_asked_for(self, checkout):
        checkout.has("buildah")
        checkout.run("planner", "--quick")
        assert checkout.calls("push") == []


class TestSizes:
    def test_they_are_printed_recorded_and_compared_with_the_record(self, checkout):
        checkout.has("buildah")
        first = checkout.run("planner", "--record")
        assert "warning" not in first.stdout
        record = json.loads((checkout.root / "images" / "sizes.json").read_text())
        assert record == {"planner": {"unpacked_mb": 0.1, "compressed_mb": 0.0}}
        write_archive(checkout.archive, layer({"opt/sla-planner/lib/numeric.py": b"n" * 900_000}))
        second = checkout.run("planner")
        assert second.returncode == 0
        assert second.stdout.splitlines()[1].split() == ["planner", "0.9", "/", "0.0", "MB", "0.1", "/", "0.0", "MB"]
        assert second.stdout.splitlines()[2].startswith("warning: planner grew by more than 10%")
        assert json.loads((checkout.root / "images" / "sizes.json").read_text()) == record
