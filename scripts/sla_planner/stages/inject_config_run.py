"""One file onto the volume: read and checked, then sent."""

from __future__ import annotations

import json
import sys
from importlib import resources
from pathlib import Path

import click

from sla_planner.config import Loaded
from sla_planner.engines.dgd import read_dgd
from sla_planner.errors import UsageError
from sla_planner.stages.volume_access import on_volume
from sla_planner.termination import leave_word
from sla_planner.volume.paths import inside
from sla_planner.volume.upload import Source, upload
from sla_planner.volume_config import InjectConfig

GRAPHS = "graphs"  # package data: one folder per backend
BASE = "disagg.yaml"
_LONGEST_MANIFEST = 10_000_000  # bytes; a mistaken --src is noticed before it fills the memory
_BECAME = {"new": "written", "replaced": "replaced", "same": "already there, nothing to do"}


def run(loaded: Loaded[InjectConfig]) -> None:
    """Check, send, and say what became of it."""
    config = loaded.config
    source, what = _source(config)
    with on_volume(loaded, "inject-config", writes=True) as volume:
        done = volume.do(lambda client: upload(client, source, inside(config.dest), force=config.force, progress=volume.progress))
    verdict = f"{config.dest}: {_BECAME[done.became]} ({what}, {done.size:,} bytes, sha256 {done.sha256})"
    leave_word(verdict)
    result = {"path": config.dest, "became": done.became, "bytes": done.size, "sha256": done.sha256}
    click.echo(json.dumps(result) if config.json_output else verdict)


def _source(config: InjectConfig) -> tuple[Source, str]:
    """What is sent, and what it is in words."""
    if config.any_file and config.src != "-":
        return Source(Path(str(config.src))), f"file {config.src}"
    content, name = _read(config)
    if config.any_file:
        return Source(content), name
    try:
        document = read_dgd(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: byte {error.start} is not UTF-8", hint="save the file as UTF-8") from None
    except UsageError as error:
        hint = error.hint or "correct it"
        raise UsageError(f"{name}: {error.message}", hint=f"{hint}, or send the file as it is with --any-file") from None
    return Source(content), f"DynamoGraphDeployment {(document.get('metadata') or {}).get('name', 'without a name')}"


def _read(config: InjectConfig) -> tuple[bytes, str]:
    if config.src is None:
        base = resources.files("sla_planner") / GRAPHS / config.backend / BASE
        if not base.is_file():
            raise UsageError(f"no base manifest of {config.backend} comes with this version", hint="give --src FILE")
        return base.read_bytes(), f"base manifest of {config.backend}"
    if config.src == "-":
        if sys.stdin.isatty():
            raise UsageError("--src - reads standard input, and that is a terminal", hint="pipe a manifest into it, or name a file")
        return _limited(sys.stdin.buffer.read(_LONGEST_MANIFEST + 1), "standard input"), "standard input"
    try:
        with Path(config.src).open("rb") as file:
            return _limited(file.read(_LONGEST_MANIFEST + 1), f"file {config.src}"), f"file {config.src}"
    except OSError as error:
        raise UsageError(f"file {config.src}: {error.strerror}", hint="check the path and its permissions") from None


def _limited(content: bytes, name: str) -> bytes:
    if len(content) > _LONGEST_MANIFEST:
        raise UsageError(
            f"{name} is larger than {_LONGEST_MANIFEST:,} bytes, which no manifest is", hint="send a large file with --src FILE --any-file"
        )
    return content
