"""How far a sweep is, out of its log. `profile-sweep --log-format json` writes one JSON object per line; a line that tells progress has it as

    {"time": ..., "message": ..., "progress": {"phase": "SweepingDecode", "mapping": "TP:2", "point": 7, "points": 20, "eta_s": 83.0}}

Lines of others, cut lines and fields of a later version are passed over: the last line that tells is what holds.
"""

from __future__ import annotations

import json
from typing import Any

from sla_planner.request.seen import Progress
from sla_planner.request.status import SUB_PHASES

FIELD = "progress"


def read_progress(log_tail: str) -> Progress | None:
    """The last progress that is told in `log_tail`, which may begin in the middle of a line; None when there is none."""
    for line in reversed(log_tail.splitlines()):
        if FIELD in line and (progress := _of(line)):
            return progress
    return None


def _of(line: str) -> Progress | None:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return None
    told = document.get(FIELD) if isinstance(document, dict) else None
    if not isinstance(told, dict) or told.get("phase") not in SUB_PHASES:
        return None
    mapping, eta_s = told.get("mapping"), told.get("eta_s")
    eta_s = float(eta_s) if isinstance(eta_s, int | float) and not isinstance(eta_s, bool) and 0 <= eta_s < float("inf") else None
    return Progress(told["phase"], mapping if isinstance(mapping, str) else "", _count(told.get("point")), _count(told.get("points")), eta_s)


def _count(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0
