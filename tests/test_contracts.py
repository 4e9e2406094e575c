"""What holds across files: locks and declarations, rooms and contracts, data and NOTICE."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sla_planner.engines.metric_names import FAMILIES
from sla_planner.planner_config import TargetConfig

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "scripts" / "sla_planner"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = {name: (ROOT / "requirements" / f"{name}.txt").read_text() for name in ("run", "dev")}
FOLDERS = ("scripts", "tests", "jobs", "images", "manifests", "templates", "requirements", ".ci")
TEXT_FILES = [
    file
    for folder in FOLDERS
    for file in (ROOT / folder).rglob("*")
    if file.suffix in {".py", ".md", ".yaml", ".toml", ".j2", ".json"} or file.parent.name == ".ci"
] + [file for file in ROOT.iterdir() if file.is_file()]


def locked(name):
    """(package, version) pairs; a package may be locked to several versions, for different Pythons."""
    return {(canonicalize_name(package), version) for package, version in re.findall(r"^([A-Za-z0-9._-]+)==([^ ]+)", LOCKS[name], re.MULTILINE)}


class TestLocks:
    @pytest.mark.parametrize(("lock", "extras"), [("run", ["plots"]), ("dev", ["plots", "dev"])])
    def test_every_dependency_is_locked_to_versions_that_the_project_allows(self, lock, extras):
        wanted = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
        wanted += [text for extra in extras for text in PROJECT["project"]["optional-dependencies"][extra]]
        for need in map(Requirement, wanted):
            versions = [version for package, version in locked(lock) if package == canonicalize_name(need.name)]
            assert versions, f"{need.name} is not locked: run `make lock`"
            assert all(need.specifier.contains(version) for version in versions), f"{need.name}: run `make lock`"

    def test_running_and_developing_use_the_same_versions(self):
        assert locked("run") <= locked("dev")

    @pytest.mark.parametrize("lock", LOCKS)
    def test_every_package_has_hashes_and_no_host_is_named(self, lock):
        assert len(re.findall(r"^[a-z0-9].*==.* \\\n    --hash=sha256:", LOCKS[lock], re.MULTILINE)) == len(locked(lock)) > 20
        assert "://" not in LOCKS[lock]


class TestRooms:
    def test_every_room_has_its_place_in_the_layers(self):
        layers = PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
        named = {room.strip().removeprefix("sla_planner.") for layer in layers for room in layer.split("|")} - {"cli"}
        assert named == {file.parent.name for file in PACKAGE.glob("*/__init__.py")}

    def test_tests_mirror_the_package(self):
        rooms = {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
        folders = {file.relative_to(ROOT / "tests").parts[0] for file in (ROOT / "tests").glob("*/**/test_*.py")}
        assert folders <= rooms | {"e2e", "images", "manifests"}

    def test_no_module_is_long(self):
        assert [f"{file}: {lines}" for file in PACKAGE.rglob("*.py") if (lines := len(file.read_text().splitlines())) > 400] == []


def test_the_metrics_setting_offers_every_family():
    assert set(get_args(TargetConfig.model_fields["metrics"].annotation)) == set(FAMILIES)


def test_every_data_file_that_others_made_is_in_the_notice():
    named = re.findall(r"^\| ([\w./-]+/[\w./-]*) \|", (ROOT / "NOTICE").read_text(), re.MULTILINE)
    assert [path for path in named if not (ROOT / path).exists()] == []
    files = [*(PACKAGE / "sample").rglob("*"), *(ROOT / "tests" / "data").rglob("*")]
    data = [file.relative_to(ROOT).as_posix() for file in files if file.is_file()]
    assert [file for file in data if not file.startswith(tuple(named)) and not file.endswith(".md")] == []


def test_no_file_names_a_machine_path_or_leaves_work_undone():
    unwanted = re.compile(r"/(work|root|home)/\w|\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
    assert [f"{file}: {found.group()}" for file in TEXT_FILES if (found := unwanted.search(file.read_text(errors="replace")))] == []


def test_every_make_target_has_a_line_of_help():
    text = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert re.findall(r"^([a-z0-9-]+):.*## .+$", text, re.MULTILINE) == phony.split()
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(f"  make {target} " in shown for target in phony.split())


def test_the_checks_before_a_merge_can_be_run():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)
    subprocess.run([sys.executable, "-m", "pre_commit", "validate-config", ROOT / ".pre-commit-config.yaml"], check=True, capture_output=True)


@pytest.mark.parametrize("bench", sorted((ROOT / "tests" / "bench").glob("bench_*.py")), ids=lambda file: file.stem)
def test_every_benchmark_has_a_short_form(bench):
    shown = subprocess.run([sys.executable, bench, "--help"], capture_output=True, text=True, check=True).stdout
    assert "--quick" in shown
