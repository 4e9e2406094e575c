"""Fills /opt/sla-planner inside a build stage; the last stage of a Dockerfile copies that folder, a layer from each stage.

    install.py tools                       pip and the locked build backend into /build/venv
    install.py dependencies LOCK           a virtual environment with what LOCK names
    install.py dependencies LOCK --beyond OTHER_LOCK    only what LOCK names and OTHER_LOCK does not: to be copied over that other environment
    install.py package SOURCE              the package of the source tree alone, built without a network: to be copied over the others

Nothing is installed without a hash of its lock. What comes out holds Python files and their bytecode, no pip, no tests, and is the same
for the same locks: no bytecode is tied to a time stamp, and all files have one date. Needs Python >= 3.11 with venv, and nothing else.

pip's own settings come as build secrets, so that they are in no layer: `pip-conf` (a pip.conf) and `ca-bundle` (PEM); neither is needed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

TARGET = Path("/opt/sla-planner")
TOOLS = Path("/build/venv")
BUILD_LOCK = Path("/build/build.txt")
SECRETS = {"PIP_CONFIG_FILE": Path("/run/secrets/pip-conf"), "PIP_CERT": Path("/run/secrets/ca-bundle")}
FILE_DATE_S = 315532800  # 1980-01-01, the earliest that zip files know

# What makes a folder of packages a virtual environment.
SKELETON = ("bin/python*", "pyvenv.cfg", "lib64")

# What an installed package holds and we never import, relative to site-packages. tests/images proves that the stages do without.
LEFT_OUT = (
    "*/**/tests",
    "kubernetes/aio",  # the asynchronous client: 41 MB
    "kubernetes/client/api/[!_]*.py",  # generated classes, 32 MB: we send and read plain dicts
    "kubernetes/client/models/[!_]*.py",
    "matplotlib/mpl-data/sample_data",
    "pyarrow*",  # AI Configurator wants it installed and reads its tables without it: 170 MB
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("tools")
    dependencies = commands.add_parser("dependencies")
    dependencies.add_argument("lock", type=Path)
    dependencies.add_argument("--beyond", type=Path)
    commands.add_parser("package").add_argument("source", type=Path)
    given = parser.parse_args()
    if given.command == "tools":
        install_tools()
    elif given.command == "dependencies":
        install_dependencies(given.lock, given.beyond)
    else:
        install_package(given.source)


def install_tools() -> None:
    _run(sys.executable, "-m", "venv", TOOLS)
    _pip("install", "--require-hashes", "--no-deps", "--only-binary=:all:", "-r", BUILD_LOCK)


def install_dependencies(lock: Path, beyond: Path | None) -> None:
    _new_environment()
    text = lock.read_text()
    wanted = TOOLS.parent / "wanted.txt"
    wanted.write_text(text if beyond is None else lock_beyond(text, beyond.read_text()))
    _pip("--python", TARGET, "install", "--require-hashes", "--no-deps", "--no-compile", "--only-binary=:all:", "-r", wanted)
    finish(keep=SKELETON if beyond is None else ())


def install_package(source: Path) -> None:
    _new_environment()
    wheels = TOOLS.parent / "wheels"
    _pip("wheel", "--no-index", "--no-deps", "--no-build-isolation", "-w", wheels, source)
    _pip("--python", TARGET, "install", "--no-index", "--no-deps", "--no-compile", "--find-links", wheels, "sla-planner")
    finish(keep=("bin/sla-planner",))


def lock_beyond(lock: str, other: str) -> str:
    """The requirements of a lock file, with their hashes, whose names are not in the other one."""
    there = {_name(requirement) for requirement in _requirements(other)}
    return "".join(requirement for requirement in _requirements(lock) if _name(requirement) not in there)


def _requirements(lock: str) -> list[str]:
    """Each with its lines of hashes; comments are left out."""
    return re.findall(r"^[A-Za-z0-9].*\n(?:[ \t]+--hash=.*\n)*", lock, re.MULTILINE)


def _name(requirement: str) -> str:
    return requirement.partition("==")[0]


def _new_environment() -> None:
    _run(sys.executable, "-m", "venv", "--without-pip", "--symlinks", TARGET)


def finish(keep: tuple[str, ...]) -> None:
    """Leave site-packages less LEFT_OUT, and of the rest what the globs name; compile; give all the same date."""
    kept = {path for pattern in keep for path in TARGET.glob(pattern)}
    for path in [*TARGET.iterdir(), *(TARGET / "bin").iterdir()]:
        if path not in kept and path.name not in ("lib", "bin"):
            _remove(path)
    (site_packages,) = TARGET.glob("lib/python3*/site-packages")
    for pattern in LEFT_OUT:
        for path in list(site_packages.glob(pattern)):
            _remove(path)
    _run(sys.executable, "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash", site_packages)
    for path in [*TARGET.rglob("*"), TARGET]:
        os.utime(path, (FILE_DATE_S, FILE_DATE_S), follow_symlinks=False)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _pip(*arguments: str | Path) -> None:
    _run(TOOLS / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments)


def _run(*command: str | Path) -> None:
    environment = {"PYTHONHASHSEED": "0"}  # decides the order of sets in bytecode
    environment |= {name: str(file) for name, file in SECRETS.items() if file.exists()}
    subprocess.run(command, check=True, env=os.environ | environment)


if __name__ == "__main__":
    main()
