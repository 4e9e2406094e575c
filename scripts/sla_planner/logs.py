"""Log lines on stderr: text for people on a terminal, one JSON object per line for machines.

    human   2026-01-31T12:00:00Z INFO  Scaling prefill workers: 1 -> 2 (load 0.9 -> 1.4)
    json    {"time": "2026-01-31T12:00:00.123Z", "level": "INFO", "message": "...", <the fields given as `extra`>}

JSON lines are always valid JSON: a NaN or infinity becomes null, anything without a JSON form becomes its text.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _HumanFormatter(logging.Formatter):
    converter = staticmethod(time.gmtime)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD and name not in line}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        strict = json.loads(json.dumps(line, default=str), parse_constant=lambda _: None)
        return json.dumps(strict)


def setup(log_format: Literal["auto", "human", "json"], stream: TextIO | None = None) -> None:
    """Send all log lines from INFO up to `stream` (stderr). `auto` is human on a terminal, else json. A second call replaces the first."""
    stream = stream or sys.stderr
    human = log_format == "human" or (log_format == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_HumanFormatter("%(asctime)s %(levelname)-5s %(message)s", "%Y-%m-%dT%H:%M:%SZ") if human else _JsonFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)  # a library's warning is a log line too
    for chatty in ("cmdstanpy", "prophet"):  # a line per fit, every interval
        logging.getLogger(chatty).setLevel(logging.WARNING)
