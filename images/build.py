#!/usr/bin/env python3
"""Builds the container images with docker, podman or buildah, and says how big they are.

    images/build.py [IMAGE...] [--archive DIR] [--quick] [--record]

Needs Python >= 3.11 and a builder, nothing else. An image is the Dockerfile of its folder beside this file, with the repository as context; its
name is PREFIX/IMAGE:TAG. BUILDER, BASE_IMAGE, PREFIX, TAG and IMAGES in the environment are the defaults: `make images PREFIX=registry.example/team`.

What pip is told here by PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_TRUSTED_HOST and PIP_CERT goes along as build secrets, so that it is in no layer.
BUILDAH_OPTIONS stand before buildah's command (--root, --storage-driver ...), BUILD_OPTIONS behind the `build` of any builder (--network host ...).

Ends with 2 and one line on stderr when it cannot do what it was asked.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from sizes import Size, read_record, size_of, table, write_record

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RECORD = HERE / "sizes.json"
IMAGES = sorted(file.parent.name for file in HERE.glob("*/Dockerfile"))
BUILDERS = ("docker", "podman", "buildah")
FILE_DATE_S = "315532800"  # 1980-01-01, as in install.py: the same content gives the same layers
PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host")


class BuildError(Exception):
    """What went wrong and what to do, in one line."""


@dataclass(frozen=True)
class Builder:
    """One of BUILDERS: its own spelling of building and saving."""

    name: str

    def build(self, image: str, reference: str, options: Sequence[str]) -> None:
        own = {"docker": [], "podman": ["--timestamp", FILE_DATE_S], "buildah": ["--timestamp", FILE_DATE_S, "--layers"]}[self.name]
        extra = shlex.split(os.environ.get("BUILD_OPTIONS", ""))
        self._run("build", *own, *options, *extra, "-t", reference, "-f", str(HERE / image / "Dockerfile"), str(ROOT))

    def save(self, reference: str, file: Path) -> None:
        """Write the image as a docker archive: `docker load`, `podman load` and `ctr images import` take it, its name is kept."""
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            if self.name == "buildah":
                self._run("push", "-q", reference, f"docker-archive:{partial}:{reference}")
            else:
                formats = ["--format", "docker-archive"] if self.name == "podman" else []
                self._run("save", *formats, "-o", str(partial), reference)
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)

    def _run(self, command: str, *arguments: str) -> None:
        before = shlex.split(os.environ.get("BUILDAH_OPTIONS", "")) if self.name == "buildah" else []
        done = subprocess.run([self.name, *before, command, *arguments], check=False)
        if done.returncode:
            raise BuildError(f"{self.name} {command} ended with {done.returncode}; its own words are above")


def main() -> None:
    given = _arguments().parse_args()
    try:
        _build(given)
    except BuildError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


def _arguments() -> argparse.ArgumentParser:
    environment = os.environ.get
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    images = environment("IMAGES", "").split() or IMAGES
    parser.add_argument("images", nargs="*", metavar="IMAGE", default=images, help=f"all by default: {' '.join(IMAGES)}")
    parser.add_argument("--builder", default=environment("BUILDER"), choices=BUILDERS, help="by default the first that works")
    parser.add_argument(
        "--base-image", default=environment("BASE_IMAGE"), help="a Linux with glibc, python3 >= 3.11 and venv; by default as in the Dockerfile"
    )
    parser.add_argument("--prefix", default=environment("PREFIX", "sla-planner"), help="registry and folder; by default sla-planner")
    parser.add_argument("--tag", default=environment("TAG", _version()), help="by default the version of the package")
    parser.add_argument("--archive", type=Path, metavar="DIR", help="also write DIR/IMAGE.tar, a docker archive")
    parser.add_argument("--quick", action="store_true", help="do not measure the sizes")
    parser.add_argument("--record", action="store_true", help=f"write the sizes to {RECORD.name}")
    return parser


def _build(given: argparse.Namespace) -> None:
    for image in given.images:
        _check_image(image)
    builder = Builder(given.builder or _working_builder())
    sizes: dict[str, Size] = {}
    measured: dict[str, tuple[int, int]] = {}
    with _secrets(os.environ) as secrets, _folder(given.archive) as folder:
        options = [*secrets, *_build_arguments(given)]
        for image in given.images:
            reference = f"{given.prefix}/{image}:{given.tag}"
            archive = folder / f"{image}.tar"
            builder.build(image, reference, options)
            if given.archive or not given.quick:
                builder.save(reference, archive)
            if not given.quick:
                sizes[image] = size_of(archive, measured)
    if sizes:
        sys.stdout.write(table(sizes, read_record(RECORD)) + "\n")
    if given.record:
        write_record(RECORD, sizes)


def _check_image(image: str) -> None:
    if image not in IMAGES:
        near = difflib.get_close_matches(image, IMAGES, n=1)
        raise BuildError(f"unknown image {image!r}; " + (f"did you mean {near[0]}?" if near else f"images: {', '.join(IMAGES)}"))


def _version() -> str:
    (version,) = re.findall(r'^__version__ = "(.+)"', (ROOT / "scripts" / "sla_planner" / "__init__.py").read_text(), re.MULTILINE)
    return str(version)


def _working_builder() -> str:
    """docker only where its daemon answers; the others need none."""
    for name in BUILDERS:
        if shutil.which(name) and subprocess.run([name, "version"], capture_output=True, check=False).returncode == 0:
            return name
    raise BuildError(f"none of {', '.join(BUILDERS)} works here; install one (e.g. apt-get install buildah), or start docker's daemon")


def _build_arguments(given: argparse.Namespace) -> list[str]:
    values = {"VERSION": given.tag, "REVISION": _revision(), "SOURCE": public_url(_git("config", "--get", "remote.origin.url"))}
    if given.base_image:
        values["BASE_IMAGE"] = given.base_image
    return [part for name, value in values.items() for part in ("--build-arg", f"{name}={value}")]


def _revision() -> str:
    """The commit, with `-dirty` when tracked files differ from it; empty where git knows none."""
    commit = _git("rev-parse", "HEAD")
    return f"{commit}-dirty" if commit and _git("status", "--porcelain", "--untracked-files=no") else commit


def _git(*arguments: str) -> str:
    if not shutil.which("git"):
        return ""
    return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=False).stdout.strip()


def public_url(remote: str) -> str:
    """A remote as a label may say it: an http(s) address without user and password; else empty."""
    parts = urlsplit(remote)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if parts.scheme in ("http", "https") else ""


@contextmanager
def _secrets(environment: Mapping[str, str]) -> Iterator[list[str]]:
    """The options that hand over what pip is told on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        options: list[str] = []
        if text := pip_conf(environment):
            file = Path(folder) / "pip.conf"
            file.write_text(text)
            options += ["--secret", f"id=pip-conf,src={file}"]
        if bundle := environment.get("PIP_CERT"):
            if not Path(bundle).is_file():
                raise BuildError(f"PIP_CERT is {bundle}, which is no file; let it name a bundle of CA certificates, or unset it")
            options += ["--secret", f"id=ca-bundle,src={bundle}"]
        yield options


def pip_conf(environment: Mapping[str, str]) -> str:
    """What PIP_SETTINGS's environment variables say, as a pip.conf; empty when none is set."""
    lines = [f"{name} = {value}" for name in PIP_SETTINGS if (value := environment.get("PIP_" + name.replace("-", "_").upper()))]
    return "\n".join(["[global]", *lines, ""]) if lines else ""


@contextmanager
def _folder(archive: Path | None) -> Iterator[Path]:
    """Where archives are written: the named folder, made if need be, or one that is removed."""
    if archive:
        archive.mkdir(parents=True, exist_ok=True)
        yield archive
    else:
        with tempfile.TemporaryDirectory(prefix="sla-planner-images-") as folder:
            yield Path(folder)


if __name__ == "__main__":
    main()
