"""Every image has what its stages import, at the versions of requirements/run.txt, and no more."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.metadata import packages_distributions
from pathlib import Path

import grimp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.images.repository import FOLDER, ROOT, images, stages_of

from sla_planner.cli import STAGES

FROM_A_CHECKOUT = {"render", "demo", "simulate"}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
# The extra that no image carries: the stage says which package to install.
OPTIONAL = {canonicalize_name(Requirement(text).name) for text in EXTRAS["prophet"]}
# What is imported by a name that is only known at run time, and of it all that is loaded.
BY_NAME = {"sla_planner.engines.ai_configurator_library": "aiconfigurator-core"}
LOADED = {
    "aiconfigurator-core": [
        f"aiconfigurator_core.sdk.{name}" for name in ("engine", "memory", "perf_database", "models", "utils", "common", "errors")
    ]
}


def requirements(lock: Path) -> list[Requirement]:
    return [Requirement(line.rstrip(" \\")) for line in lock.read_text().splitlines() if re.match(r"[a-zA-Z0-9]", line)]


def distributions(lock: Path) -> set[str]:
    """What pip installs of a lock on this Python."""
    return {canonicalize_name(each.name) for each in requirements(lock) if each.marker is None or each.marker.evaluate()}


def wanted(image: str) -> set[str]:
    return distributions(FOLDER / image / "requirements.in")


@lru_cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("sla_planner", include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None)


@lru_cache
def owners() -> Mapping[str, list[str]]:
    """The packages that each top-level module comes from."""
    return packages_distributions()


def third_party(module: str) -> Iterator[str]:
    """The packages that one of our modules imports itself."""
    for imported in graph().find_modules_directly_imported_by(module):
        top = imported.partition(".")[0]
        if top != "sla_planner" and top not in sys.stdlib_module_names:
            yield canonicalize_name(owners().get(top, [top])[0])
    if module in BY_NAME:
        yield BY_NAME[module]


def modules_of(image: str) -> list[str]:
    """Our modules that an image's stages import, at once or when they need them; without the few that only an extra makes usable."""
    found = {"sla_planner.cli"}
    for stage in stages_of()[image]:
        module = f"sla_planner.stages.{stage.replace('-', '_')}"
        found |= {module, *graph().find_upstream_modules(module)}
    ours = {each for each in found if each.startswith("sla_planner")}
    return sorted(each for each in ours if OPTIONAL.isdisjoint(third_party(each)))


def test_every_stage_is_in_an_image_or_run_from_a_checkout():
    table = stages_of()
    assert sorted(table) == images()
    assert {stage for stages in table.values() for stage in stages} == set(STAGES) - FROM_A_CHECKOUT


@pytest.mark.parametrize("image", images())
class TestRequirements:
    def test_what_is_wanted_is_what_the_stages_import(self, image):
        imported = {distribution for module in modules_of(image) for distribution in third_party(module)}
        assert wanted(image) == imported

    def test_the_lock_is_part_of_what_is_tested(self, image):
        lock = "dev.txt" if LOADED.keys() & wanted(image) else "run.txt"
        tested = {f"{each.name}{each.specifier}" for each in requirements(ROOT / "requirements" / lock)}
        locked = {f"{each.name}{each.specifier}" for each in requirements(FOLDER / image / "requirements.txt")}
        assert locked <= tested
        assert wanted(image) <= distributions(FOLDER / image / "requirements.txt")

    def test_every_locked_package_has_hashes_and_no_host_is_named(self, image):
        text = (FOLDER / image / "requirements.txt").read_text()
        assert len(re.findall(r"^[a-z0-9].*==.* \\\n    --hash=sha256:", text, re.MULTILINE)) == len(
            requirements(FOLDER / image / "requirements.txt")
        )
        assert "://" not in text

    def test_the_stages_can_be_imported_with_nothing_but_the_image_in_reach(self, image, install):
        there = sorted(distributions(FOLDER / image / "requirements.txt"))
        loaded = [module for name, modules in LOADED.items() if name in there for module in modules]
        wish = {"modules": [*modules_of(image), *loaded], "distributions": there, "left_out": install.LEFT_OUT}
        done = subprocess.run([sys.executable, Path(__file__).with_name("imports.py"), json.dumps(wish)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_an_import_that_the_image_has_not_is_noticed(install):
    for modules, distributions_there, words in (
        (["numpy"], [], "No module named 'numpy' in the image"),
        (["kubernetes.client.models.v1_pod"], ["kubernetes", *distributions(FOLDER / "volume-tools" / "requirements.txt")], "is left out"),
    ):
        wish = {"modules": modules, "distributions": distributions_there, "left_out": install.LEFT_OUT}
        done = subprocess.run([sys.executable, Path(__file__).with_name("imports.py"), json.dumps(wish)], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert words in done.stderr


def test_images_do_without_the_heavy_packages_of_others():
    locked = {image: distributions(FOLDER / image / "requirements.txt") for image in images()}
    assert locked["volume-tools"].isdisjoint({"numpy", "scipy", "pandas", "statsmodels", "matplotlib"})
    assert "matplotlib" not in locked["planner"]
    assert "statsmodels" not in locked["profile-sweep"]
    assert locked["engine-sim"].isdisjoint({"kubernetes", "matplotlib", "statsmodels", "pandas"})


@pytest.mark.parametrize("image", ["planner", "profile-sweep"])
def test_the_common_layer_holds_nothing_that_an_image_has_no_use_for(image):
    assert distributions(FOLDER / "engine-sim" / "requirements.txt") <= distributions(FOLDER / image / "requirements.txt")


def test_the_package_is_built_by_the_locked_backend():
    (backend,) = requirements(FOLDER / "build.txt")
    assert str(backend) in {str(each) for each in requirements(ROOT / "requirements" / "run.txt")}
    assert backend.name == "setuptools"
