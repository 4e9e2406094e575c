"""What all Dockerfiles have in common: the same base, the same way of installing, a final stage that runs nothing and is no one's root."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.images.repository import FOLDER, ROOT, images, stages_of

from sla_planner import __version__

COMMON_WITH = {"planner", "profile-sweep", "engine-sim"}
LABELS = {"title", "description", "licenses", "source", "revision", "version", "base.name"}

Instruction = tuple[str, str]


def instructions(image: str) -> list[Instruction]:
    text = (FOLDER / image / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [" ".join(line.split()) for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def stages(image: str) -> dict[str, list[Instruction]]:
    """By name, without the FROM; the last one, which has no name, as `final`."""
    found: dict[str, list[Instruction]] = {}
    for word, rest in instructions(image):
        if word == "FROM":
            name = rest.partition(" AS ")[2] or "final"
            found[name] = []
        elif found:
            found[name].append((word, rest))
    return found


def of_final(image: str, word: str) -> list[str]:
    return [rest for each, rest in stages(image)["final"] if each == word]


def labels(image: str) -> dict[str, str]:
    (text,) = of_final(image, "LABEL")
    return dict(re.findall(r'org\.opencontainers\.image\.([a-z.]+)="([^"]*)"', text))


@pytest.mark.parametrize("image", images())
class TestDockerfile:
    def test_its_folder_holds_what_every_image_has(self, image):
        assert sorted(file.name for file in (FOLDER / image).iterdir()) == ["Dockerfile", "requirements.in", "requirements.txt"]

    def test_the_base_is_an_argument_with_a_public_default(self, image):
        assert instructions(image)[0] == ("ARG", "BASE_IMAGE=docker.io/library/python:3.11-slim")
        bases = {rest.partition(" AS ")[0] for word, rest in instructions(image) if word == "FROM"}
        assert bases == {"${BASE_IMAGE}", "tools"}

    def test_it_runs_as_nobody_and_python_is_process_1(self, image):
        assert of_final(image, "USER") == ["65532:65532"]
        assert [json.loads(form) for form in of_final(image, "ENTRYPOINT")] == [["sla-planner"]]
        assert {word for word, _ in stages(image)["final"]} == {"COPY", "ENV", "WORKDIR", "USER", "ENTRYPOINT", "ARG", "LABEL"}

    def test_only_tmp_need_be_writable(self, image):
        (environment,) = of_final(image, "ENV")
        assert {"HOME=/tmp", "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1", "OPENBLAS_NUM_THREADS=1"} <= set(environment.split())
        assert of_final(image, "WORKDIR") == ["/tmp"]

    def test_its_labels_tell_what_it_is(self, image):
        assert set(labels(image)) == LABELS
        assert labels(image)["title"] == f"SLA Planner: {image}"
        assert labels(image)["licenses"] == "Apache-2.0"
        assert {argument: labels(image)[argument.lower()] for argument in ("SOURCE", "REVISION", "VERSION")} == {
            argument: f"${{{argument}}}" for argument in ("SOURCE", "REVISION", "VERSION")
        }

    def test_its_first_line_names_its_stages(self, image):
        first = (FOLDER / image / "Dockerfile").read_text().partition("\n")[0]
        assert all(re.search(rf"\b{stage}\b", first) for stage in stages_of()[image])

    def test_a_new_source_changes_only_the_end(self, image):
        words = [rest if word == "COPY" else word for word, rest in stages(image)["final"]]
        assert words[words.index("--from=package /opt/sla-planner /opt/sla-planner") + 1 :] == ["ARG", "ARG", "ARG", "ARG", "LABEL"]

    def test_whatever_is_installed_is_installed_by_hash(self, image):
        commands = [
            rest.rpartition("python3 /build/install.py ")[2] for name, stage in stages(image).items() for word, rest in stage if word == "RUN"
        ]
        runs = sum(word == "RUN" for word, _ in instructions(image))
        assert len(commands) == runs
        assert {command.split()[0] for command in commands} <= {"tools", "dependencies", "package"}

    def test_all_that_it_copies_is_in_the_build_context(self, image):
        rules = (ROOT / ".dockerignore").read_text().splitlines()
        allowed = [rule[1:] for rule in rules if rule.startswith("!")]
        assert "*" in rules
        copied = [rest.split()[:-1] for word, rest in instructions(image) if word == "COPY" and not rest.startswith("--from")]
        assert {source.partition("/")[0] for sources in copied for source in sources} <= set(allowed)

    def test_the_linter_has_nothing_to_say(self, image):
        linter = Path(sys.executable).with_name("hadolint")
        done = subprocess.run([linter, FOLDER / image / "Dockerfile"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "")


def test_stages_of_the_same_name_are_the_same():
    for name in ("tools", "package"):
        assert len({tuple(stages(image)[name]) for image in images()}) == 1
    assert {image for image in images() if "common" in stages(image)} == COMMON_WITH
    assert len({tuple(stages(image)["common"]) for image in COMMON_WITH}) == 1


def test_the_final_stages_differ_only_in_the_layers_they_copy_and_the_words_on_them():
    def alike(image: str) -> list[Instruction]:
        return [each for each in stages(image)["final"] if each[0] != "LABEL" and not re.match(r"--from=(common|own) ", each[1])]

    assert all(alike(image) == alike(images()[0]) for image in images())
    assert {image: [copy.split()[0] for copy in of_final(image, "COPY")][:-2] for image in images()} == {
        "engine-sim": ["--from=common"],
        "planner": ["--from=common", "--from=own"],
        "profile-sweep": ["--from=common", "--from=own"],
        "volume-tools": ["--from=own"],
    }


def test_jobs_use_the_image_that_carries_their_stage():
    used = {
        file.parent.name: re.findall(r'image: "?sla-planner/([a-z-]+):([^"\s]+)', file.read_text()) for file in (ROOT / "jobs").glob("*/cronjob.yaml")
    }
    assert used
    for stage, named in used.items():
        assert named
        assert all(stage in stages_of()[image] and version == __version__ for image, version in named)
