"""A folder of the volume: copied here, or its checksums told."""

from __future__ import annotations

import json
import logging

import click

from sla_planner.config import Loaded
from sla_planner.stages.volume_access import on_volume
from sla_planner.termination import leave_word
from sla_planner.volume.client import VolumeClient
from sla_planner.volume.download import Download, Downloaded, remote_listing
from sla_planner.volume.paths import inside, shown
from sla_planner.volume.progress import size_text
from sla_planner.volume.tree import LeftOut
from sla_planner.volume_config import DownloadConfig

log = logging.getLogger(__name__)


def run(loaded: Loaded[DownloadConfig]) -> None:
    """Copy, or tell checksums, and say what was done."""
    config = loaded.config
    folder = inside(config.folder)
    with on_volume(loaded, "download-results", writes=False) as volume:
        if config.checksums:
            _tell_checksums(config, volume.do(lambda client: _checksums(client, folder, configs=not config.skip_config)))
            return
        download = Download(folder, config.output_dir, configs=not config.skip_config, force=config.force)
        done = volume.do(lambda client: download.run(client, volume.progress))
    _warn(done.left_out)
    verdict = _verdict(done, config)
    leave_word(verdict)
    click.echo(json.dumps(_document(done, config)) if config.json_output else verdict)


def _checksums(client: VolumeClient, folder: str, *, configs: bool) -> tuple[list[tuple[str, int, str]], tuple[LeftOut, ...]]:
    listing = remote_listing(client, folder, configs=configs)
    skipped = len(folder) + 1 if folder else 0
    return [(path[skipped:], size, sha256) for path, size, sha256 in client.digests([file.path for file in listing.files])], listing.left_out


def _tell_checksums(config: DownloadConfig, found: tuple[list[tuple[str, int, str]], tuple[LeftOut, ...]]) -> None:
    files, left_out = found
    _warn(left_out)
    verdict = f"{config.folder}: {_count(len(files))}, {size_text(sum(size for _, size, _ in files))}, every one read"
    leave_word(verdict)
    if config.json_output:
        told = [{"path": path, "bytes": size, "sha256": sha256} for path, size, sha256 in files]
        click.echo(json.dumps({"folder": config.folder, "files": told, "left_out": _left_out(left_out)}))
        return
    for path, _, sha256 in files:
        click.echo(f"{sha256}  {path}")
    log.info(verdict)


def _verdict(done: Downloaded, config: DownloadConfig) -> str:
    parts = {"new": len(done.new), "replaced": len(done.replaced), "already here": len(done.same)}
    told = ", ".join(f"{count:,} {words}" for words, count in parts.items() if count)
    count = sum(parts.values())
    return f"{config.output_dir}: {_count(count)}, {size_text(done.total_bytes)} from {config.folder} ({told}), every checksum right"


def _document(done: Downloaded, config: DownloadConfig) -> dict[str, object]:
    return {
        "folder": config.folder,
        "output_dir": str(config.output_dir),
        "bytes": done.total_bytes,
        "new": [shown(path) for path in done.new],
        "replaced": [shown(path) for path in done.replaced],
        "same": [shown(path) for path in done.same],
        "left_out": _left_out(done.left_out),
    }


def _left_out(left_out: tuple[LeftOut, ...]) -> list[dict[str, str]]:
    return [{"path": shown(each.path), "why": each.why} for each in left_out]


def _warn(left_out: tuple[LeftOut, ...]) -> None:
    for each in left_out:
        log.warning("Left out: %s: %s", shown(each.path), each.why)


def _count(files: int) -> str:
    return "1 file" if files == 1 else f"{files:,} files"
