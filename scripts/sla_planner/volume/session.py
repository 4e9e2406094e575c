"""Work on a volume that outlives a broken connection: the same work is tried again over a new one, as long as attempts still move something.

Uploads and downloads go on where they stopped, so trying again is what a person would do. A refusal is not tried again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TypeVar

from sla_planner.errors import UnreachableError
from sla_planner.volume.client import VolumeClient
from sla_planner.volume.frames import Gone, Wire
from sla_planner.volume.progress import TransferProgress, size_text

T = TypeVar("T")

FIRST_ATTEMPTS = 2  # to come back from when no connection was ever there
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0)  # between attempts that move nothing; together well below the keeper's patience


def over_connections(
    connect: Callable[[], Wire],
    work: Callable[[VolumeClient], T],
    progress: TransferProgress,
    tell: Callable[[str], None],
    pauses_s: tuple[float, ...] = PAUSES_S,
) -> T:
    """What `work` returns. Raises `UnreachableError` when connections go on breaking and nothing moves any more."""
    failed, connected, moved = 0, False, 0
    while True:
        progress.expect(0, 0)
        try:
            client = VolumeClient(connect(), progress)
        except UnreachableError as error:
            trouble = error
        else:
            connected = True
            try:
                with contextlib.closing(client):
                    return work(client)
            except Gone as error:
                trouble = error
        failed = 1 if progress.moved_bytes > moved else failed + 1
        moved = progress.moved_bytes
        progress.clear()
        if failed > (len(pauses_s) if connected else FIRST_ATTEMPTS):
            what = "the connection to the volume is lost" if connected else "no connection to the volume"
            raise UnreachableError(f"{what}: {trouble.message}", hint="the same command goes on from here")
        if connected:
            tell(f"the connection to the volume is lost ({trouble.message}), {size_text(moved)} are through; trying again")
        time.sleep(pauses_s[failed - 1])
