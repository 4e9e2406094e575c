"""The way to the volume that both volume stages take: mounted here, or through an access pod; with signals, progress and second attempts.

SIGTERM, SIGHUP and Ctrl-C end it with exit code 75 and the access pod removed; what was copied stays, and the same command goes on from there.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TypeVar

from sla_planner.config import Loaded
from sla_planner.errors import InterruptedRun, UsageError
from sla_planner.logs import setup
from sla_planner.volume.agent import open_local
from sla_planner.volume.client import VolumeClient
from sla_planner.volume.frames import Wire
from sla_planner.volume.paths import ROOT
from sla_planner.volume.progress import TransferProgress
from sla_planner.volume.session import over_connections
from sla_planner.volume_config import DownloadConfig, InjectConfig, VolumeConfig, toleration_of

T = TypeVar("T")

KEEPER_NAME = "sla-planner-volume"
ALONE_S = 90  # longer than all the pauses between attempts
AGENT = ("python", "-m", "sla_planner.volume.agent", ROOT, KEEPER_NAME)
KEEPER = ("python", "-m", "sla_planner.volume.keeper", KEEPER_NAME, str(ALONE_S))
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_GROUP_WRITES = 0o002  # as the agent of an access pod: pods share a group on the volume, not always a user

log = logging.getLogger(__name__)


class Volume:
    """A volume that can be reached. `progress` is told of what is done with it."""

    def __init__(self, connect: Callable[[], Wire], progress: TransferProgress, tell: Callable[[str], None]) -> None:
        self._connect, self.progress, self._tell = connect, progress, tell

    def do(self, work: Callable[[VolumeClient], T]) -> T:
        """What `work` returns, over as many connections as it takes."""
        return over_connections(self._connect, work, self.progress, self._tell)


@contextmanager
def on_volume(loaded: Loaded[InjectConfig] | Loaded[DownloadConfig], stage: str, *, writes: bool) -> Iterator[Volume]:
    """Reach the volume that the settings name, for as long as the block lasts."""
    config = loaded.config
    setup(config.log_format)
    for line in loaded.describe(defaults=False):
        log.info(line)
    progress = TransferProgress(log.info, sys.stderr if sys.stderr.isatty() else None)

    def tell(text: str) -> None:
        progress.clear()
        log.warning(text[:1].upper() + text[1:])

    with _stoppable(), _connections(config, stage, writes) as connect:
        try:
            yield Volume(connect, progress, tell)
        finally:
            progress.clear()


@contextmanager
def _connections(config: VolumeConfig, stage: str, writes: bool) -> Iterator[Callable[[], Wire]]:
    if (mounted := _mounted_at(config)) is not None:
        log.info("The volume is mounted at %s", mounted)
        if writes:
            os.umask(_GROUP_WRITES)
        yield lambda: open_local(mounted)
        return
    from sla_planner.cluster.access_pod import access_pod
    from sla_planner.cluster.access_pod_manifest import AccessOptions
    from sla_planner.cluster.api import connect

    options = AccessOptions(
        stage=stage,
        claim=config.pvc,
        image=config.access_image,
        mount=ROOT,
        keeper=KEEPER,
        writes=writes,
        pull_secret=config.image_pull_secret or "",
        tolerations=tuple(toleration_of(text) for text in config.toleration),
        start_limit_s=config.start_limit_s,
    )
    api = connect(namespace=config.namespace, context=config.context)
    with access_pod(api, options) as pod:
        yield lambda: pod.start(AGENT)


def _mounted_at(config: VolumeConfig) -> Path | None:
    """Where the volume is, when it is here. A machine's own /data is not taken for it: that there is one means something in a pod only."""
    if config.volume_path is None:
        return Path(ROOT) if "KUBERNETES_SERVICE_HOST" in os.environ and Path(ROOT).is_mount() else None
    if not config.volume_path.is_dir():
        raise UsageError(
            f"--volume-path {config.volume_path}: no such folder", hint="mount the volume there, or leave the flag out for an access pod"
        )
    return config.volume_path


@contextmanager
def _stoppable() -> Iterator[None]:
    """A signal, Ctrl-C among them, ends what is under way once, so that whatever is open is closed and removed; in the end an `InterruptedRun`."""
    by = ""

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal by
        by = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)  # it is ending already
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedRun(f"interrupted by {by}", hint="the same command goes on from here") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
