"""The log file of one engine: where it goes, what it says last.

DIRECTORY/engine-tp4.log, engine-tp4-2.log ...     never over one that is there
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sla_planner.config_words import shown
from sla_planner.errors import UsageError
from sla_planner.sweep.port import Deployment

HEAD_BYTES = TAIL_BYTES = 8 * 2**20  # an engine tells its capacity at the start, and why it died at the end

_LAST_LINES = 60
_LINE_CHARACTERS = 300
_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_COMPLAINT = re.compile(r"(?:Error|Exception)\b|\b(?:error|fatal|panic|out of memory)\b", re.IGNORECASE)


def file_stem(deployment: Deployment) -> str:
    """`engine-tp4`, `engine-tp4-pp2-prefill`."""
    return "engine-" + deployment.label.lower().replace(" ", "-")


@dataclass(frozen=True, slots=True)
class EngineLog:
    """A file that exists. `temporary`: nobody asked for it, so it goes when its engine did nothing worth reading."""

    path: Path
    temporary: bool

    @property
    def size_bytes(self) -> int:
        return self.path.stat().st_size

    def text(self) -> str:
        """Without colours, a line for each state of a progress bar; of a huge log its first and last bytes."""
        with self.path.open("rb") as file:
            size_bytes = file.seek(0, 2)
            file.seek(0)
            content = file.read(HEAD_BYTES)
            if size_bytes > HEAD_BYTES:
                file.seek(max(HEAD_BYTES, size_bytes - TAIL_BYTES))
                content += file.read()
        return _COLOUR.sub("", content.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n"))

    def discard(self) -> None:
        if self.temporary:
            self.path.unlink(missing_ok=True)


def new_log(directory: Path | None, deployment: Deployment) -> EngineLog:
    """A new, empty file in `directory`, else a temporary one. Raises `UsageError` when it cannot be made."""
    stem = file_stem(deployment)
    if directory is None:
        with tempfile.NamedTemporaryFile(prefix=f"sla-planner-{stem}-", suffix=".log", delete=False) as file:
            return EngineLog(Path(file.name), temporary=True)
    number = 1
    while True:
        path = directory / (f"{stem}.log" if number == 1 else f"{stem}-{number}.log")
        try:
            directory.mkdir(parents=True, exist_ok=True)
            path.open("xb").close()
        except FileExistsError:
            if directory.is_dir():
                number += 1
                continue
            raise UsageError(f"cannot write logs into {directory}: it is a file", hint="choose another directory") from None
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}", hint="choose another directory") from error
        return EngineLog(path, temporary=False)


def last_words(log: str) -> str:
    """The last line that complains, else the last that says anything, in one printable line; '' for an empty log.

    A crash is often followed by lines about leaked semaphores and processes that were told to end: the complaint is what matters.
    """
    lines = [line for line in log.splitlines() if re.search(r"\w", line)][-_LAST_LINES:]
    complaints = [line for line in lines if _COMPLAINT.search(line)]
    line = (complaints or lines or [""])[-1]
    return shown(" ".join(line.split())[:_LINE_CHARACTERS])
